//! What a score is worth to somebody with one image before him: predictive values at prevalences that are no test set's, and
//! probabilities, where labelled images beside the test sets are given.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Design, Operating, Pair};
use crate::{
    Error, Estimate, Isotonic, Platt, ReliabilityBin, brier,
    cases::{Case, Cases},
    expected_calibration_error, reliability,
};

const WHAT: &str = "calibration";
/// Bins of reliability diagrams.
const BINS: usize = 10;

/// What being called sick, or being left alone, says of an image where `prevalence` of the images are sick.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Predictive {
    /// The share of sick images.
    pub prevalence: f64,
    /// The chance that an image that is called sick is; `None` where none is called sick.
    pub ppv: Option<Estimate>,
    /// The chance that an image that is left alone is healthy; `None` where none is left alone.
    pub npv: Option<Estimate>,
}

impl Predictive {
    /// Of the threshold from healthy validation images, by Bayes' rule from the sensitivity and specificity that it has on the test set.
    ///
    /// # Errors
    /// When a prevalence is no share.
    pub(super) fn of(operating: Option<&Operating>, prevalences: &[f64]) -> Result<Vec<Self>, Error> {
        let Some(operating) = operating else { return Ok(Vec::new()) };
        let at = |prevalence: &f64| {
            let (ppv, npv) = (operating.confusion.ppv_at(*prevalence)?, operating.confusion.npv_at(*prevalence)?);
            Ok(Self { prevalence: *prevalence, ppv, npv })
        };
        prevalences.iter().map(at).collect()
    }
}

/// The primary score as a probability of being sick. Probabilities are those of the calibration set's prevalence; a test set of another one
/// is judged by them as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Healthy images that the probabilities were fitted to.
    pub healthy_cases: usize,
    /// Sick images that they were fitted to.
    pub pathology_cases: usize,
    /// Brier score on the test set of who always says the share of sick images in the calibration set: what is to be beaten.
    pub constant_brier: f64,
    /// By Platt's sigmoid.
    pub platt: Judged,
    /// By isotonic regression.
    pub isotonic: Judged,
}

/// Probabilities held against the test set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judged {
    /// Mean squared difference of probability and truth.
    pub brier: f64,
    /// Mean difference of probability and share of sick images, over the bins of `reliability`.
    pub expected_calibration_error: f64,
    /// The reliability diagram, bins of a tenth; empty ones are left out.
    pub reliability: Vec<ReliabilityBin>,
}

/// What was fitted to the calibration set.
pub(super) struct Fitted {
    platt: Platt,
    isotonic: Isotonic,
    cases: [usize; 2],
}

impl Fitted {
    /// To the sets that the design names, if it names any.
    ///
    /// # Errors
    /// When one of their cases, or its person, is in a test set, or has no score.
    pub(super) fn of(cases: &Cases, design: &Design) -> Result<Option<Self>, Error> {
        let Some(pair) = &design.calibration else { return Ok(None) };
        design.comparisons.values().try_for_each(|test| apart(cases, pair, test))?;
        let (healthy, sick) =
            (cases.values(&pair.healthy, &design.score)?, cases.values(&pair.pathology, &design.score)?);
        Ok(Some(Self {
            platt: Platt::fit(&healthy, &sick)?,
            isotonic: Isotonic::fit(&healthy, &sick)?,
            cases: [healthy.len(), sick.len()],
        }))
    }

    /// The probabilities of these scores against the truth.
    ///
    /// # Errors
    /// When a set is empty, or a score is not finite.
    pub(super) fn judge(&self, healthy: &[f64], pathology: &[f64]) -> Result<Calibration, Error> {
        let truth = [vec![false; healthy.len()], vec![true; pathology.len()]].concat();
        let judge = |probability: &dyn Fn(f64) -> Result<f64, Error>| {
            let all = healthy.iter().chain(pathology).map(|score| probability(*score));
            let all = all.collect::<Result<Vec<f64>, Error>>()?;
            Ok::<_, Error>(Judged {
                brier: brier(&all, &truth)?,
                expected_calibration_error: expected_calibration_error(&all, &truth, BINS)?,
                reliability: reliability(&all, &truth, BINS)?,
            })
        };
        let [n, p] = self.cases;
        let share = p as f64 / (n + p) as f64;
        Ok(Calibration {
            healthy_cases: n,
            pathology_cases: p,
            constant_brier: brier(&vec![share; truth.len()], &truth)?,
            platt: judge(&|score| self.platt.probability(score))?,
            isotonic: judge(&|score| self.isotonic.probability(score))?,
        })
    }
}

/// Refuses calibration images that are test images, or of a test image's person.
fn apart(cases: &Cases, calibration: &Pair, test: &Pair) -> Result<(), Error> {
    let person = |c: &Case| c.patient.as_ref().map(|p| (c.dataset.clone(), p.clone()));
    let (mut images, mut persons) = (BTreeSet::new(), BTreeSet::new());
    for set in [&calibration.healthy, &calibration.pathology] {
        for case in cases.set(set) {
            images.insert((case.dataset.clone(), case.id.clone()));
            persons.extend(person(case));
        }
    }
    for set in [&test.healthy, &test.pathology] {
        for case in cases.set(set) {
            let image = (case.dataset.clone(), case.id.clone());
            if images.contains(&image) || person(case).is_some_and(|p| persons.contains(&p)) {
                let why = format!(
                    "case {} of set {set:?}, or its person, is in the calibration set, too: probabilities must be fitted to images \
                     beside the test sets",
                    case.id
                );
                return Err(Error::Shape { what: WHAT, why });
            }
        }
    }
    Ok(())
}
