//! `kind: dataset`: where raw images lie, in which layout, and how they become shards.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A dataset YAML.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// Must be `dataset`.
    pub kind: Kind,
    /// Name of the dataset; becomes the manifest's name.
    pub name: String,
    /// Where the raw files are.
    pub source: Source,
    /// Where shards and manifest go: a URL (`file:///…`, `s3://bucket/prefix`) or a path, relative to the working
    /// folder. `${VAR}` is replaced from the environment.
    pub output: String,
    /// How an image is made ready.
    #[serde(default)]
    pub preprocess: Preprocess,
    /// Which sample goes to which split.
    #[serde(default)]
    pub split: Split,
    /// Labels as the source names them → labels as this dataset calls them. Labels that are not listed keep their name.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Only samples with these labels (after renaming); empty: all.
    #[serde(default)]
    pub only_labels: Vec<String>,
    /// A shard is closed when it holds this many samples.
    #[serde(default = "default_shard_samples")]
    pub shard_samples: u32,
}

fn default_shard_samples() -> u32 {
    1024
}

/// The word in `kind:`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `dataset`
    Dataset,
}

/// Raw images and their layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// How files and labels lie.
    pub layout: Layout,
    /// The folder (path; `${VAR}` is replaced from the environment).
    pub root: String,
    /// RSNA only: a CSV `patientId,person` that maps images to persons. Without it splits are by image, and said so.
    #[serde(default)]
    pub patient_map: Option<String>,
}

/// Known layouts of raw datasets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// RSNA Pneumonia Detection Challenge 2018, stage 2: DICOM + two CSVs.
    Rsna,
    /// Class folders of PNG files: `<root>/<label>/*.png` (COVID-19 Radiography's `<label>/images/*.png` too).
    Folders,
}

/// From a decoded image to u8 pixels of the training size. The order is fixed: photometric inversion, modality
/// rescale, scale to 8 bit, resize.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Preprocess {
    /// Side in pixels; images become square.
    pub size: u32,
    /// The resampling.
    pub resize: Resize,
}

impl Default for Preprocess {
    fn default() -> Self {
        Self { size: 128, resize: Resize::PillowBilinear }
    }
}

/// Resampling filters, named after whose bits they reproduce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resize {
    /// Pillow's antialiased bilinear on 8-bit pixels, bit for bit (the reference's evaluation transform).
    PillowBilinear,
}

/// Splitting by a hash of the patient: stable when images are added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Split {
    /// Seed of the hash.
    pub seed: u64,
    /// Share of healthy patients for validation.
    pub val: f64,
    /// Share of healthy patients for the test set.
    pub test: f64,
    /// Labels that are healthy: only these are split into train, val and test.
    pub healthy: Vec<String>,
    /// Where everything else goes. `test` as in the paper: nothing sick is seen in training.
    pub others: Others,
}

impl Default for Split {
    fn default() -> Self {
        Self { seed: 2109, val: 0.1, test: 0.1, healthy: vec!["Normal".into()], others: Others::Test }
    }
}

/// What happens to samples that are not healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Others {
    /// All go to `test`.
    Test,
    /// They are split as the healthy ones are.
    Split,
    /// They are left out.
    Drop,
}
