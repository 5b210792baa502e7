//! Both samples sorted into one list of thresholds: what every number of detection is computed from.

use crate::{Error, HEALTHY, PATHOLOGY, checked, curves};

/// How many of each sample lie at or above a threshold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Step {
    pub threshold: f64,
    pub healthy: u64,
    pub pathology: u64,
}

/// A point of the ROC curve: everything with a score of at least `threshold` is called sick.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Share of the healthy that is called sick.
    pub fpr: f64,
    /// Share of the sick that is called sick.
    pub tpr: f64,
    /// The threshold; infinite at the first point, where nothing is called sick.
    pub threshold: f64,
}

/// A point of the precision–recall curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrPoint {
    /// Share of the sick that is called sick.
    pub recall: f64,
    /// Share of those called sick that are.
    pub precision: f64,
    /// The threshold; infinite at the last point, where nothing is called sick and precision is 1 by convention.
    pub threshold: f64,
}

/// Two samples of scores, counted at each distinct score. Building one costs a sort; each number afterwards one pass.
///
/// It holds whole numbers only, so that what is counted in parts (pixels of many images, ranks) sums to the same in any
/// order.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranked {
    /// Highest threshold first; no two steps have the same counts.
    steps: Vec<Step>,
}

impl Ranked {
    /// Counts `healthy` (negative) and `pathology` (positive).
    ///
    /// # Errors
    /// When a set is empty (one class has no ROC curve) or a score is not finite.
    pub fn new(healthy: &[f64], pathology: &[f64]) -> Result<Self, Error> {
        Self::named("detection", healthy, pathology)
    }

    pub(crate) fn named(what: &'static str, healthy: &[f64], pathology: &[f64]) -> Result<Self, Error> {
        let healthy = checked(what, HEALTHY, healthy)?.iter().map(|v| (*v, false));
        let pathology = checked(what, PATHOLOGY, pathology)?.iter().map(|v| (*v, true));
        let mut all: Vec<(f64, bool)> = healthy.chain(pathology).collect();
        all.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
        Self::counted(what, all.into_iter().map(|(score, sick)| (score, u64::from(!sick), u64::from(sick))))
    }

    /// From `(score, healthy, pathology)` counts in falling order of the score, such as a histogram's bins.
    ///
    /// # Errors
    /// When scores rise or are not finite, or one class has no member.
    pub fn from_counts(counts: impl IntoIterator<Item = (f64, u64, u64)>) -> Result<Self, Error> {
        Self::counted("detection", counts)
    }

    fn counted(what: &'static str, counts: impl IntoIterator<Item = (f64, u64, u64)>) -> Result<Self, Error> {
        let mut steps: Vec<Step> = Vec::new();
        let mut sum = (0, 0);
        for (index, (threshold, healthy, pathology)) in counts.into_iter().enumerate() {
            if !threshold.is_finite() {
                return Err(Error::NotFinite { what, set: "thresholds", index, value: threshold });
            }
            if healthy == 0 && pathology == 0 {
                continue;
            }
            sum = (sum.0 + healthy, sum.1 + pathology);
            let step = Step { threshold, healthy: sum.0, pathology: sum.1 };
            match steps.last_mut() {
                // Compared by value, not by bits: 0 and −0 are one threshold.
                Some(last) if last.threshold == threshold => *last = Step { threshold: last.threshold, ..step },
                Some(last) if last.threshold < threshold => {
                    return Err(Error::Shape { what, why: format!("score {index} is higher than the one before") });
                }
                _ => steps.push(step),
            }
        }
        let empty = |set| Error::Empty { what, set };
        match sum {
            (0, _) => Err(empty(HEALTHY)),
            (_, 0) => Err(empty(PATHOLOGY)),
            _ => Ok(Self { steps }),
        }
    }

    pub(crate) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Number of healthy and of pathological cases.
    pub fn counts(&self) -> (u64, u64) {
        curves::totals(&self.steps)
    }

    /// Share of pathological cases: the chance level of [`average_precision`](Self::average_precision), to be printed
    /// beside it.
    pub fn prevalence(&self) -> f64 {
        let (healthy, pathology) = self.counts();
        pathology as f64 / (healthy + pathology) as f64
    }

    /// Area under the ROC curve: the chance that a sick case scores higher than a healthy one, ties counting half.
    pub fn auroc(&self) -> f64 {
        curves::auroc(&self.steps)
    }

    /// Average precision: precision summed over the steps of recall, without interpolation (`average_precision_score`).
    pub fn average_precision(&self) -> f64 {
        curves::average_precision(&self.steps)
    }

    /// The ROC curve from (0, 0) to (1, 1). With `drop_intermediate`, points on a straight line between equally far
    /// neighbours are left out, as `roc_curve` does by default.
    pub fn roc(&self, drop_intermediate: bool) -> Vec<Point> {
        let first = Point { fpr: 0.0, tpr: 0.0, threshold: f64::INFINITY };
        std::iter::once(first).chain(curves::roc(&self.steps, drop_intermediate)).collect()
    }

    /// The precision–recall curve in `precision_recall_curve`'s order: thresholds rise, recall falls to 0. With
    /// `drop_intermediate`, only the first and the last point of each recall are kept.
    pub fn precision_recall(&self, drop_intermediate: bool) -> Vec<PrPoint> {
        curves::precision_recall(&self.steps, drop_intermediate)
    }

    /// The first point of the ROC curve whose true positive rate is at least `tpr`: its `fpr` is FPR@TPR. As the reference
    /// does, it is taken from the curve without intermediate points; on the whole curve it can be lower where runs of
    /// ties make a diagonal.
    ///
    /// # Errors
    /// When `tpr` is not in 0..=1.
    pub fn at_tpr(&self, tpr: f64) -> Result<Point, Error> {
        curves::share("FPR at TPR", "true positive rate", tpr)?;
        Ok(curves::at_tpr(&self.steps, tpr))
    }

    /// The point of highest sensitivity whose specificity is at least `specificity`. The threshold is found on these
    /// very cases: it describes the curve, and is no threshold to use (see
    /// [`threshold_at_specificity`](crate::threshold_at_specificity)).
    ///
    /// # Errors
    /// When `specificity` is not in 0..=1.
    pub fn at_specificity(&self, specificity: f64) -> Result<Point, Error> {
        curves::share("sensitivity at specificity", "specificity", specificity)?;
        Ok(curves::at_specificity(&self.steps, specificity))
    }
}
