//! What a prepared dataset says of itself: `manifest.json`, written last, after every shard.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, dataset::Preprocess};

/// The name of the manifest inside a dataset's folder.
pub const FILE: &str = "manifest.json";
/// Bytes of a manifest at most: one of a hundred thousand shards is far below it.
pub const LARGEST: u64 = 256 << 20;
/// The version that this build writes; [`Manifest::version`] above it is refused.
pub const VERSION: u32 = 1;

/// A prepared dataset: shards and what is in them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// The dataset's name, from its YAML.
    pub name: String,
    /// How the images were made from the source.
    pub preprocess: Preprocess,
    /// Digest of everything that decides the images' bytes (preprocessing, its version, the split rule): two datasets
    /// with the same fingerprint and sources are equal bit for bit.
    pub fingerprint: Digest,
    /// Height and width in pixels; images are one channel of u8.
    pub image_size: [u32; 2],
    /// All shards, in order. A shard holds samples of one split only.
    pub shards: Vec<Shard>,
    /// Samples per split, per label.
    pub counts: BTreeMap<String, BTreeMap<String, u64>>,
    /// Whether `patient` is known to identify a person, or merely an image (RSNA without a patient map).
    pub patient_ids: PatientIds,
    /// The images are phantoms: scores on them say nothing about patients.
    #[serde(default)]
    pub synthetic: bool,
    /// How many source files were skipped, per reason; the files themselves are listed in `skipped.csv` beside this.
    pub skipped: BTreeMap<String, u64>,
}

/// What a patient id stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PatientIds {
    /// A person.
    Person,
    /// One image: persons are unknown, so splits may share them.
    Image,
}

/// One Arrow IPC file of samples.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shard {
    /// File name relative to the manifest's folder.
    pub file: String,
    /// `train`, `val` or `test`.
    pub split: String,
    /// Samples in it.
    pub samples: u64,
    /// File size in bytes.
    pub bytes: u64,
    /// BLAKE3 of the file.
    pub blake3: Digest,
    /// Samples per label.
    pub labels: BTreeMap<String, u64>,
}

impl Manifest {
    /// The shards of `split`, in order.
    pub fn split<'a>(&'a self, split: &'a str) -> impl Iterator<Item = &'a Shard> + 'a {
        self.shards.iter().filter(move |s| s.split == split)
    }

    /// All samples in all splits; saturates.
    pub fn samples(&self) -> u64 {
        self.shards.iter().fold(0, |sum, s| sum.saturating_add(s.samples))
    }

    /// The bytes of all shards; saturates.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().fold(0, |sum, s| sum.saturating_add(s.bytes))
    }
}
