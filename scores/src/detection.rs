//! ROC and precision–recall (scikit-learn's definitions).

use crate::{Error, checked};

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

/// How many of each are at or above a threshold, for each distinct score, highest first.
struct Step {
    threshold: f64,
    healthy: u64,
    pathology: u64,
}

fn steps(what: &'static str, healthy: &[f64], pathology: &[f64]) -> Result<Vec<Step>, Error> {
    let healthy = checked(what, "healthy set", healthy)?.iter().map(|v| (*v, false));
    let pathology = checked(what, "pathology set", pathology)?.iter().map(|v| (*v, true));
    let mut all: Vec<(f64, bool)> = healthy.chain(pathology).collect();
    all.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
    let mut steps: Vec<Step> = Vec::new();
    let (mut healthy, mut pathology) = (0, 0);
    for (value, sick) in all {
        healthy += u64::from(!sick);
        pathology += u64::from(sick);
        match steps.last_mut() {
            // Compared by value, not by bits: 0 and −0 are one threshold.
            Some(last) if last.threshold == value => (last.healthy, last.pathology) = (healthy, pathology),
            _ => steps.push(Step { threshold: value, healthy, pathology }),
        }
    }
    Ok(steps)
}

/// Area under the ROC curve: the chance that a sick image scores higher than a healthy one, ties counting half.
///
/// # Errors
/// When a set is empty or a score is not finite.
pub fn auroc(healthy: &[f64], pathology: &[f64]) -> Result<f64, Error> {
    let (mut area, mut last) = (0.0, (0, 0));
    for step in steps("AUROC", healthy, pathology)? {
        // Twice the trapezoid, in whole numbers: exact up to 2⁵³.
        area += ((step.healthy - last.0) * (step.pathology + last.1)) as f64;
        last = (step.healthy, step.pathology);
    }
    Ok(area / 2.0 / (healthy.len() as f64 * pathology.len() as f64))
}

/// Average precision: the mean of the precision over recalls, without interpolation (`average_precision_score`). Chance level
/// is the share of sick images.
///
/// # Errors
/// When a set is empty or a score is not finite.
pub fn average_precision(healthy: &[f64], pathology: &[f64]) -> Result<f64, Error> {
    let (mut sum, mut last) = (0.0, 0);
    for step in steps("average precision", healthy, pathology)? {
        let precision = step.pathology as f64 / (step.pathology + step.healthy) as f64;
        sum += (step.pathology - last) as f64 * precision;
        last = step.pathology;
    }
    Ok(sum / pathology.len() as f64)
}

/// The ROC curve from (0, 0) on. With `drop_intermediate`, points on a straight line between others are left out, as
/// `roc_curve` does by default.
///
/// # Errors
/// When a set is empty or a score is not finite.
pub fn roc_curve(healthy: &[f64], pathology: &[f64], drop_intermediate: bool) -> Result<Vec<Point>, Error> {
    let steps = steps("ROC curve", healthy, pathology)?;
    let turns = |i: usize| {
        let Some(([before], [here, after, ..])) = i.checked_sub(1).map(|b| (&steps[b..i], &steps[i..])) else {
            return true;
        };
        let bends = |f: fn(&Step) -> u64| f(after) + f(before) != 2 * f(here);
        bends(|s| s.healthy) || bends(|s| s.pathology)
    };
    let point = |step: &Step| Point {
        fpr: step.healthy as f64 / healthy.len() as f64,
        tpr: step.pathology as f64 / pathology.len() as f64,
        threshold: step.threshold,
    };
    let kept = (0..steps.len()).filter(|i| !drop_intermediate || turns(*i)).map(|i| point(&steps[i]));
    Ok(std::iter::once(Point { fpr: 0.0, tpr: 0.0, threshold: f64::INFINITY }).chain(kept).collect())
}

/// The false positive rate at the first point of the ROC curve whose true positive rate is at least `tpr`; as the reference,
/// on the curve without intermediate points.
///
/// # Errors
/// When a set is empty, a score is not finite, or `tpr` is not in 0..=1.
pub fn fpr_at_tpr(healthy: &[f64], pathology: &[f64], tpr: f64) -> Result<f64, Error> {
    let curve = roc_curve(healthy, pathology, true)?;
    curve.iter().find(|p| p.tpr >= tpr).map(|p| p.fpr).ok_or_else(|| Error::Shape {
        what: "FPR at TPR",
        why: format!("a true positive rate of {tpr} cannot be reached; it lies in 0..=1"),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scores() -> impl Strategy<Value = (Vec<f64>, Vec<f64>)> {
        let few = || prop::collection::vec((0..12i32).prop_map(f64::from), 1..40);
        (few(), few())
    }

    proptest! {
        #[test]
        fn auroc_counts_pairs((healthy, sick) in scores()) {
            let wins: f64 = healthy.iter().flat_map(|h| sick.iter().map(move |s| {
                if s > h { 1.0 } else if s == h { 0.5 } else { 0.0 }
            })).sum();
            let counted = wins / (healthy.len() * sick.len()) as f64;
            let computed = auroc(&healthy, &sick).unwrap();
            prop_assert!((computed - counted).abs() < 1e-12);
            let swapped = auroc(&sick, &healthy).unwrap();
            prop_assert!((computed + swapped - 1.0).abs() < 1e-12);
        }

        #[test]
        fn the_curve_rises_from_corner_to_corner((healthy, sick) in scores()) {
            for drop in [false, true] {
                let curve = roc_curve(&healthy, &sick, drop).unwrap();
                prop_assert_eq!((curve[0].fpr, curve[0].tpr), (0.0, 0.0));
                let last = curve[curve.len() - 1];
                prop_assert_eq!((last.fpr, last.tpr), (1.0, 1.0));
                prop_assert!(curve.windows(2).all(|w| w[0].fpr <= w[1].fpr && w[0].tpr <= w[1].tpr));
            }
        }

        #[test]
        fn precision_lies_between_its_bounds((healthy, sick) in scores()) {
            let ap = average_precision(&healthy, &sick).unwrap();
            prop_assert!(ap > 0.0 && ap <= 1.0);
            let fpr = fpr_at_tpr(&healthy, &sick, 0.95).unwrap();
            prop_assert!((0.0..=1.0).contains(&fpr));
        }
    }

    #[test]
    fn nothing_and_nan_are_errors() {
        assert_eq!(auroc(&[], &[1.0]), Err(Error::Empty { what: "AUROC", set: "healthy set" }));
        let said = auroc(&[0.0], &[1.0, f64::NAN]).unwrap_err().to_string();
        assert!(said.contains("value 1 of the pathology set is NaN"), "{said}");
        assert!(fpr_at_tpr(&[0.0], &[1.0], 1.5).is_err());
    }
}
