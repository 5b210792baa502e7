//! What an evaluation found, as it is written beside a run (`evaluation.json`): every number with its interval, from the table of
//! cases alone. Whoever has the table ([`Cases`](crate::cases::Cases)) computes the same numbers.

mod compute;
mod locate;
mod probability;
mod summary;
mod text;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::{
    compute::{evaluate, p_values},
    locate::Evidence,
    probability::{Calibration, Judged, Predictive},
    summary::{HEALTHY_SET, VALIDATION_SET},
    text::legend,
};
use crate::{BestOverlap, Confusion, Detection, Drift, Estimate, FrocPoint, Plan, Subgroup};

/// [`Evaluation::schema`] that this build writes; higher ones are refused.
pub const SCHEMA: u32 = 1;

/// Everything that an evaluation found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// What was scored. Empty when it was computed from a table alone.
    #[serde(default)]
    pub model: Scored,
    /// What was asked.
    pub design: Design,
    /// The datasets that the cases are of.
    #[serde(default)]
    pub datasets: Vec<Dataset>,
    /// What else it was made of: files of weights, what is known of images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Input>,
    /// Each set of cases.
    pub sets: BTreeMap<String, Set>,
    /// Each comparison of healthy with a pathology.
    pub comparisons: BTreeMap<String, Comparison>,
    /// The one scale of all heat maps: 99.5 % of the healthy validation residuals' pixels are below it.
    #[serde(default)]
    pub residual_scale: Option<f64>,
    /// Whether test images had a part in training; `None` when nobody looked.
    #[serde(default)]
    pub leakage: Option<Leakage>,
    /// What a reader must know: unknown persons, phantoms, classes from different sources, …
    #[serde(default)]
    pub notes: Vec<String>,
}

/// The network that was scored.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Scored {
    /// Name of its experiment.
    pub experiment: String,
    /// Its method: `morphaeus`, `vae`, …
    pub method: String,
    /// URL of its checkpoint, where it was scored from one.
    pub checkpoint: Option<String>,
    /// Optimizer steps that it was trained for.
    pub step: u64,
    /// Its validation score, by which it was chosen (lower is better).
    pub validation_score: Option<f64>,
    /// Seed of its training.
    pub seed: u64,
}

/// What is compared with what, by which score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Design {
    /// The score by which everything is judged that takes one score: the column's name.
    pub score: String,
    /// The specificity that thresholds are to have on healthy validation images.
    pub specificity: f64,
    /// How intervals are found.
    pub bootstrap: Plan,
    /// The comparisons: by name, the healthy set and the pathology's.
    pub comparisons: BTreeMap<String, Pair>,
    /// Shares of sick images at which predictive values are told.
    #[serde(default)]
    pub prevalences: Vec<f64>,
    /// The labelled sets beside the test sets by which the score becomes a probability.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Pair>,
}

/// Two sets that are compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// Name of the negative set.
    pub healthy: String,
    /// Name of the positive set.
    pub pathology: String,
}

/// A dataset that cases are of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dataset {
    /// Its name.
    pub name: String,
    /// Where it lies.
    pub url: String,
    /// BLAKE3 of its manifest.
    pub digest: String,
    /// Whether its patients are persons; else images of one person can be in several splits, and intervals are too narrow.
    pub persons_known: bool,
    /// Its images are phantoms: no number says anything about patients.
    pub synthetic: bool,
    /// In what its images were prepared otherwise than those of the first dataset, in words; empty: in nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prepared_otherwise: String,
}

/// Files that the numbers depend on beside datasets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The field of the experiment that names them.
    pub field: String,
    /// Where they lie.
    pub url: String,
    /// How many were read.
    pub files: u64,
    /// BLAKE3 of the file; of several files, of all of them with their names.
    pub blake3: String,
}

impl Input {
    /// What `now` has of other contents than `then` under the same field and place, a sentence each.
    pub fn changed(then: &[Self], now: &[Self]) -> Vec<String> {
        let short =
            |input: &Self| format!("{} file(s), BLAKE3 {}", input.files, &input.blake3[..input.blake3.len().min(16)]);
        let same_place = |old: &&Self, new: &Self| old.field == new.field && old.url == new.url;
        let sentence = |new: &Self| {
            let old = then.iter().find(|old| same_place(old, new)).filter(|old| *old != new)?;
            Some(format!("{} ({}) was {} and is {}", new.field, new.url, short(old), short(new)))
        };
        now.iter().filter_map(sentence).collect()
    }
}

impl Dataset {
    /// The remark on a dataset whose images a network does not know of this kind.
    pub fn remark(&self, first: &Self) -> Option<String> {
        let how = &self.prepared_otherwise;
        let said = || {
            format!(
                "{} was prepared otherwise than {} ({how}): what a network makes of its images may be owed to that",
                self.name, first.name
            )
        };
        (!how.is_empty()).then(said)
    }
}

/// A set of cases in numbers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Set {
    /// What it stands for.
    pub role: crate::cases::Role,
    /// Names of the datasets that its cases are of.
    pub datasets: Vec<String>,
    /// How many cases it has.
    pub cases: usize,
    /// How many persons they are; `None` where a person is unknown.
    pub persons: Option<usize>,
    /// Cases per label.
    pub labels: BTreeMap<String, usize>,
    /// The mean of each column over the cases that have it: SSIM, hits of the pointing game, what of a lesion was removed, …
    pub means: BTreeMap<String, Mean>,
    /// Reconstructions against the very images that they are of; `None` where no network was given, or there is only one image.
    #[serde(default)]
    pub fid: Option<Fid>,
}

/// A Fréchet Inception distance (Heusel et al. 2017): 0 where two sets of images look alike. It is of whole sets, so no case has one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Fid {
    /// The distance.
    pub value: f64,
    /// Images of the one set.
    pub images: usize,
    /// Images of the other.
    pub against: usize,
    /// Whose Inception it is by; distances by different ones are not of one kind.
    pub network: String,
}

/// A mean over cases.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// The mean and its interval; persons are drawn whole where they are known.
    #[serde(flatten)]
    pub estimate: Estimate,
    /// Cases that have the number.
    pub cases: usize,
}

/// One pathology against healthy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The sets.
    #[serde(flatten)]
    pub sets: Pair,
    /// Healthy cases (n−).
    pub healthy_cases: usize,
    /// Pathological cases (n+).
    pub pathology_cases: usize,
    /// n+ / (n− + n+): the chance level of every AUPRC of this comparison.
    pub prevalence: f64,
    /// Whether intervals draw persons whole; else each image counts as a person.
    pub by_person: bool,
    /// By each anomaly score that all cases have.
    pub scores: BTreeMap<String, Separation>,
    /// By what knows no network: `view_score` (AP against PA), `intensity`. A method must beat them.
    pub baselines: BTreeMap<String, Separation>,
    /// The primary score in parts of the test set: by `view`, `sex`, `age`, `dataset`.
    pub subgroups: BTreeMap<String, Vec<Subgroup>>,
    /// AUROC of the primary score over pairs of one view; `None` where no view has both classes.
    pub view_matched_auroc: Option<Estimate>,
    /// What the threshold of the primary score says of an image, at each of [`Design::prevalences`].
    #[serde(default)]
    pub predictive: Vec<Predictive>,
    /// The primary score as a probability, where there is a calibration set.
    #[serde(default)]
    pub calibration: Option<Calibration>,
    /// Where the findings are, if the pathology has boxes.
    #[serde(default)]
    pub localisation: Option<Localisation>,
    /// Reconstructions of the sick images against the healthy images: how healthy they look.
    #[serde(default)]
    pub healthy_fid: Option<Fid>,
    /// The sick images themselves against the healthy ones: what `healthy_fid` is where nothing is restored.
    #[serde(default)]
    pub untouched_fid: Option<Fid>,
}

/// How well one score separates two sets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Separation {
    /// The numbers, with intervals.
    #[serde(flatten)]
    pub detection: Detection<Estimate>,
    /// Where on the ROC curve the last four were read.
    pub thresholds: Thresholds,
    /// A threshold from healthy validation images alone, and what it does here; `None` without a validation set.
    pub operating: Option<Operating>,
    /// Whether the healthy cases score as the healthy validation images do; `None` without a validation set.
    pub drift: Option<Drift>,
}

/// Thresholds that were found on the test set itself: they describe its curve, and are none to use.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    /// Of `fpr_at_95_tpr`.
    pub fpr_at_95_tpr: f64,
    /// Of `fpr_at_99_tpr`.
    pub fpr_at_99_tpr: f64,
    /// Of `sensitivity_at_90_specificity`; `None` when nothing is found there.
    pub sensitivity_at_90_specificity: Option<f64>,
    /// Of `sensitivity_at_95_specificity`.
    pub sensitivity_at_95_specificity: Option<f64>,
}

/// A threshold to use, and what it does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Operating {
    /// A score of at least this is called sick: the lowest that spares the share of validation images that was asked.
    pub threshold: f64,
    /// Healthy validation images that it was chosen on.
    pub validation_cases: usize,
    /// Share of them that it spares; at least what was asked.
    pub validation_specificity: f64,
    /// What it does on the test set.
    #[serde(flatten)]
    pub confusion: Confusion,
    /// Share of the sick that it finds (Wilson's interval).
    pub sensitivity: Estimate,
    /// Share of the healthy that it spares; where this is not what was asked, specificity has drifted.
    pub specificity: Estimate,
    /// Positive predictive value at this test set's prevalence, which is its makers' choice; `None` when nothing is called
    /// sick.
    pub ppv: Option<Estimate>,
    /// Negative predictive value at this test set's prevalence.
    pub npv: Option<Estimate>,
}

/// How well the smoothed residual says where findings are. The hits of the pointing game and the energy in boxes are means of
/// the pathology's set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Localisation {
    /// Images with boxes.
    pub images: usize,
    /// Their boxes.
    pub boxes: usize,
    /// σ of the Gaussian that smooths the residual, as a share of the image's width.
    pub sigma: f64,
    /// AUROC of all pixels together, boxes against the rest.
    pub pixel_auroc: f64,
    /// Average precision of the same.
    pub pixel_auprc: f64,
    /// The boxes' share of the area: chance level of `pixel_auprc`.
    pub pixel_prevalence: f64,
    /// The best that any one threshold reaches. It is chosen on the test set ("oracle"): an upper bound, no result.
    pub oracle: BestOverlap,
    /// Pixels of at least this form regions: the 97.5 % quantile of the smoothed healthy validation residuals.
    pub region_threshold: f64,
    /// Average precision of the regions' boxes at each IoU, with an interval.
    pub box_ap: Vec<BoxAp>,
    /// Mean of `box_ap`.
    pub mean_box_ap: Estimate,
    /// The score of RSNA's challenge, IoU 0.4 to 0.75; healthy images take part.
    pub challenge: f64,
    /// Boxes hit at an IoU of 0.1 by as many false regions per image ([`FROC_RATES`](crate::FROC_RATES)); healthy images take
    /// part.
    pub froc: Vec<FrocPoint>,
    /// Mean sensitivity of `froc`.
    pub mean_froc: f64,
}

/// Average precision of boxes at an IoU.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BoxAp {
    /// From which overlap on a region has hit a box.
    pub iou: f64,
    /// Average precision.
    #[serde(flatten)]
    pub ap: Estimate,
}

/// What test images have in common with training images.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Leakage {
    /// Why nobody could look; empty when somebody did.
    pub unchecked: String,
    /// Whether persons could be compared; where they are unknown only images are.
    pub persons_known: bool,
    /// Test images whose person was trained on, or validated on.
    pub persons: usize,
    /// Test images that are a training image, or nearly so.
    pub images: usize,
    /// Test images of datasets of other names whose patient's id is that of somebody in training, but too short to be the same
    /// person by that: `12` may be somebody else there. They are none of [`Self::persons`].
    pub namesakes: usize,
    /// Healthy validation images whose person was trained on, or that are a training image, or nearly so: thresholds and scales from them
    /// are too low. They are none of the above.
    #[serde(skip_serializing_if = "is_none")]
    pub validation: usize,
    /// Some test images of both.
    pub examples: Vec<Shared>,
    /// Whether the evaluation went on nevertheless, because it was told to.
    pub allowed: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
fn is_none(count: &usize) -> bool {
    *count == 0
}

/// A test case and what it shares with training.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    /// The test set.
    pub set: String,
    /// The test case.
    pub case: String,
    /// `train` or `val`: where the other is.
    pub split: String,
    /// The other case.
    pub other: String,
    /// What is the same: the person's id, or how near the images are.
    pub how: String,
}

impl Evaluation {
    /// The evaluation in the bytes of an `evaluation.json`.
    ///
    /// # Errors
    /// When it is no evaluation, or a newer build's.
    pub fn from_json(file: &str, bytes: &[u8]) -> Result<Self, String> {
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| format!("{file}: {e}"))?;
        match value.get("schema").and_then(serde_json::Value::as_u64) {
            Some(schema) if schema > u64::from(SCHEMA) => {
                Err(format!("{file}: its schema is {schema}, this build knows up to {SCHEMA}; use a newer morph"))
            }
            Some(_) => serde_json::from_value(value).map_err(|e| format!("{file}: {e}")),
            None => Err(format!("{file}: it has no schema, so it is no evaluation; evaluate the run again")),
        }
    }

    /// As `evaluation.json` has it.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("invariant: text keys and finite numbers only")
    }
}
