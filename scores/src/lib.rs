//! Statistics of detection, of localisation and of image fidelity: pure functions of `f64`, as scikit-learn, scikit-image and
//! scipy compute them. docs/scores.md has the table of what is where.
//!
//! A *score* is larger for images that look sicker. Two samples are compared: `healthy` (negative) and `pathology` (positive).
//! A case is called sick when its score is at least the threshold. Images and maps are given row by row, with height and width.
//! Nothing here knows of images' files, networks or clocks; what is random is seeded.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod anomaly;
mod bootstrap;
mod box_bootstrap;
mod boxes;
mod calibration;
pub mod cases;
pub mod columns;
mod components;
mod curves;
mod deformation;
mod delong;
mod detection;
pub mod evaluation;
mod frechet;
mod image;
mod localisation;
mod multiple;
mod normal;
mod operating;
mod overall;
mod platt;
mod quantile;
mod ranked;
mod restoration;
mod subgroup;

pub use anomaly::AnomalyScore;
pub use bootstrap::{
    Cases, Detection, Difference, Estimate, Plan, bootstrap_ci, bootstrap_detection, bootstrap_difference,
    bootstrap_mean, bootstrap_repeats,
};
pub use box_bootstrap::bootstrap_boxes;
pub use boxes::{Rect, box_mask, gaussian_smooth, iou};
pub use calibration::{Drift, Isotonic, Reference, ReliabilityBin, brier, expected_calibration_error, reliability};
pub use components::{
    CHALLENGE_IOUS, FROC_RATES, Found, FrocPoint, HEAT_MAP_IOUS, Region, box_average_precision, box_average_precisions,
    challenge_score, froc, froc_at, regions, top_detection_hits,
};
pub use deformation::{Deformation, deformation};
pub use delong::{Comparison, DelongTest, delong_ci, delong_comparisons, delong_repeats, delong_test, delong_variance};
pub use detection::{auroc, average_precision, fpr_at_tpr, pr_curve, roc_curve};
pub use frechet::{Gaussian, Moments, frechet_distance, frechet_distance_while};
pub use image::{l1, mse, psnr, smooth, ssim, ssim_map, top_mean, top_score};
pub use localisation::{BestOverlap, PixelHistogram, Pointing, pointing};
pub use multiple::{Better, best, format_interval, format_p, format_plus_minus, holm, mean_and_deviation};
pub use operating::{Confusion, threshold_at_specificity, wilson};
pub use overall::{Part, Resampled, Values, bootstrap_mean_over, resample_over};
pub use platt::Platt;
pub use quantile::quantile_of;
pub use ranked::{Point, PrPoint, Ranked};
pub use restoration::{Fidelity, InsideOutside, TwinScore, fidelity, inside_outside, twin_score};
pub use subgroup::{
    Case, MIN_CASES, Subgroup, age_band, bootstrap_matched_auroc, matched_auroc, subgroups, view_score,
};

/// Why there is no number.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing to compute from.
    #[error("{what}: there are no values in the {set}")]
    Empty {
        /// What was to be computed.
        what: &'static str,
        /// Which set is empty.
        set: &'static str,
    },
    /// A value that is not a number, or infinite.
    #[error("{what}: value {index} of the {set} is {value}, not a finite number")]
    NotFinite {
        /// What was to be computed.
        what: &'static str,
        /// Which set it is in.
        set: &'static str,
        /// Where.
        index: usize,
        /// What it is.
        value: f64,
    },
    /// The same, the case being known by name.
    #[error("{what}: the score of {case} is {value}, not a finite number")]
    NotFiniteCase {
        /// What was to be computed.
        what: &'static str,
        /// Whose score it is.
        case: String,
        /// What it is.
        value: f64,
    },
    /// The same, in a table of cases.
    #[error("{column} of case {case} in set {set:?} is {value}, not a finite number")]
    NotFiniteColumn {
        /// Which of its numbers.
        column: String,
        /// Whose it is.
        case: String,
        /// Which set it is in.
        set: String,
        /// What it is.
        value: f64,
    },
    /// Sizes that do not fit.
    #[error("{what}: {why}")]
    Shape {
        /// What was to be computed.
        what: &'static str,
        /// What does not fit.
        why: String,
    },
}

impl Error {
    /// This error, naming the case that has no finite score by its name in `healthy` or `pathology` (in the order of the
    /// scores). Every other error stays as it is.
    #[must_use]
    pub fn naming(self, healthy: &[&str], pathology: &[&str]) -> Self {
        let Self::NotFinite { what, set, index, value } = self else { return self };
        let names = match set {
            HEALTHY => healthy,
            PATHOLOGY => pathology,
            _ => return self,
        };
        names.get(index).map_or(self, |case| Self::NotFiniteCase { what, case: (*case).to_owned(), value })
    }
}

/// What errors call the negative cases.
pub(crate) const HEALTHY: &str = "healthy set";
/// What errors call the positive cases.
pub(crate) const PATHOLOGY: &str = "pathology set";

/// `values`, if there are some and all are finite.
fn checked<'a>(what: &'static str, set: &'static str, values: &'a [f64]) -> Result<&'a [f64], Error> {
    if values.is_empty() {
        return Err(Error::Empty { what, set });
    }
    match values.iter().position(|v| !v.is_finite()) {
        Some(index) => Err(Error::NotFinite { what, set, index, value: values[index] }),
        None => Ok(values),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_case_without_a_score_is_named() {
        let names = (["h1", "h2"], ["p1", "p2"]);
        let said =
            |healthy: &[f64], sick: &[f64]| auroc(healthy, sick).unwrap_err().naming(&names.0, &names.1).to_string();
        assert_eq!(said(&[0.0, 1.0], &[1.0, f64::NAN]), "AUROC: the score of p2 is NaN, not a finite number");
        assert_eq!(said(&[f64::INFINITY, 1.0], &[1.0, 2.0]), "AUROC: the score of h1 is inf, not a finite number");
        assert!(said(&[], &[1.0]).contains("no values in the healthy set"));
        assert!(said(&[1.0, 1.0, f64::NAN], &[1.0]).contains("value 2"), "a case without a name keeps its number");
    }
}
