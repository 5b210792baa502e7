//! What a checkpoint is, without libtorch: named tensors as (dtype, shape, bytes), the state of training beside them, and
//! how both lie in object storage.
//!
//! Contract:
//! 1. A checkpoint is there when its manifest is; the manifest is written last and never changed.
//! 2. What is loaded has the BLAKE3 that was saved, or loading fails and names the file.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod error;
pub mod file;
pub mod onnx;
mod pickle;
pub mod pt;
pub mod retention;
mod store;
mod tensor;
mod torch;
pub mod weights;

use std::collections::BTreeMap;

use morph_spec::Digest;
use serde::{Deserialize, Serialize};

pub use error::Error;
pub use store::{FileEntry, MANIFEST, Manifest, Saved, inspect, load, manifest_url, remove, save};
pub use tensor::{Dtype, TensorData};

/// Tensors by name.
pub type Tensors = BTreeMap<String, TensorData>;

/// Everything needed to go on exactly.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// `model/<state-dict name>`, `optimizer/<optimizer>/<parameter>/<moment>`, `rng/cpu`.
    pub tensors: Tensors,
    /// Where training stands.
    pub state: State,
}

/// Where training stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Optimizer steps taken.
    pub step: u64,
    /// Epochs finished.
    pub epoch: u32,
    /// Batches finished of the running epoch.
    pub batch: u64,
    /// Number of ranks that trained so far.
    pub world_size: u32,
    /// Early stopping.
    pub early_stopping: EarlyStopping,
    /// Per optimizer and parameter (`optimizer/encoder.…`): how many steps it has taken. A parameter without gradient takes
    /// none.
    pub optimizer_steps: BTreeMap<String, u64>,
    /// Sums of the running epoch's losses over its batches, by term.
    pub sums: BTreeMap<String, f64>,
    /// The best checkpoint so far.
    pub best: Option<Best>,
    /// State of learning-rate schedulers.
    pub schedulers: serde_json::Value,
    /// The experiment, as its canonical JSON.
    pub experiment: serde_json::Value,
    /// BLAKE3 of the dataset's manifest.
    pub dataset: Digest,
    /// BLAKE3 of the file of weights that training began with, where the experiment names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<Digest>,
}

/// State of early stopping.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct EarlyStopping {
    /// Lowest validation score so far.
    pub best: Option<f64>,
    /// Epochs since the last improvement.
    pub epochs_since: u32,
    /// Whether training was to end.
    pub stopped: bool,
}

/// The best checkpoint so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// URL of its manifest.
    pub url: String,
    /// Its step.
    pub step: u64,
    /// Its validation score; lower is better.
    pub score: f64,
}
