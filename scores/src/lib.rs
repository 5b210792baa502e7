//! Statistics of detection and of image fidelity: pure functions of `f64`, as scikit-learn and scikit-image compute them.
//!
//! A *score* is larger for images that look sicker. Two samples are compared: `healthy` (negative) and `pathology` (positive).
//! Nothing here knows of images' files, networks or clocks; what is random is seeded.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod anomaly;
mod bootstrap;
mod boxes;
mod calibration;
mod components;
mod curves;
mod delong;
mod detection;
mod frechet;
mod image;
mod localisation;
mod multiple;
mod normal;
mod operating;
mod quantile;
mod ranked;
mod restoration;
mod subgroup;

pub use anomaly::AnomalyScore;
pub use bootstrap::{
    Cases, Detection, Difference, Estimate, Plan, bootstrap_ci, bootstrap_detection, bootstrap_difference,
    bootstrap_mean,
};
pub use boxes::{Rect, box_mask, gaussian_smooth, iou};
pub use calibration::{Drift, Isotonic, Reference, ReliabilityBin, brier, expected_calibration_error, reliability};
pub use components::{
    Found, FrocPoint, Region, box_average_precision, box_average_precisions, froc, regions, top_detection_hits,
};
pub use delong::{Comparison, DelongTest, delong_ci, delong_comparisons, delong_test, delong_variance};
pub use detection::{auroc, average_precision, fpr_at_tpr, pr_curve, roc_curve};
pub use frechet::{Gaussian, frechet_distance};
pub use image::{l1, mse, psnr, smooth, ssim, ssim_map, top_mean, top_score};
pub use localisation::{BestOverlap, PixelHistogram, Pointing, pointing};
pub use multiple::{Better, best, format_interval, format_p, format_plus_minus, holm, mean_and_deviation};
pub use operating::{Confusion, threshold_at_specificity, wilson};
pub use quantile::quantile_of;
pub use ranked::{Point, PrPoint, Ranked};
pub use restoration::{Fidelity, InsideOutside, TwinScore, fidelity, inside_outside, twin_score};
pub use subgroup::{Case, MIN_CASES, Subgroup, age_band, subgroups, view_score};

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
    /// Sizes that do not fit.
    #[error("{what}: {why}")]
    Shape {
        /// What was to be computed.
        what: &'static str,
        /// What does not fit.
        why: String,
    },
}

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
