//! `kind: sweep`: a search over hyper-parameters, in the words of W&B's sweep schema.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Experiment;

/// More runs than this in one sweep are a mistake in the file.
pub const MOST_RUNS: u64 = 10_000;

/// A sweep YAML, with its experiment read into it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sweep {
    /// Must be `sweep`.
    pub kind: Kind,
    /// Name of the sweep; runs are named after it.
    pub name: String,
    /// A sentence for people.
    #[serde(default)]
    pub description: String,
    /// The experiment that is varied. In a file: a path relative to that file, or the experiment itself.
    pub experiment: Experiment,
    /// How points are chosen.
    pub method: Method,
    /// What is compared.
    pub metric: Metric,
    /// Dotted field of the experiment (`trainer.optimizer.lr`) → its values. In a file W&B's nesting
    /// (`parameters: {trainer: {parameters: …}}`) is accepted and flattened.
    pub parameters: BTreeMap<String, Parameter>,
    /// At most this many runs. `random` needs it; `grid` ends by itself.
    #[serde(default)]
    pub run_cap: Option<u32>,
    /// At most this many runs at a time; 0: as many as fit.
    #[serde(default)]
    pub max_parallel: u32,
    /// Seed of the search.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// How often a run is tried again after a failure that was not its own fault.
    #[serde(default = "default_retries")]
    pub max_retries: u32,
}

fn default_seed() -> u64 {
    2109
}
fn default_retries() -> u32 {
    3
}

/// The word in `kind:`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `sweep`
    Sweep,
}

/// Search methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Every combination, in order.
    Grid,
    /// Independent draws.
    Random,
}

/// What a sweep compares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metric {
    /// Name in the run's summary: `opacity/auroc`, `val/score`, …
    pub name: String,
    /// Direction. W&B's default is `minimize`, which is wrong for AUROC: so it must be said.
    pub goal: Goal,
}

/// Direction of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Larger is better.
    Maximize,
    /// Smaller is better.
    Minimize,
}

/// One dimension of the search space, as in W&B.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Parameter {
    /// One fixed value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<serde_json::Value>,
    /// Discrete values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<serde_json::Value>>,
    /// Lower bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<serde_json::Number>,
    /// Upper bound, included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<serde_json::Number>,
    /// How `min..max` is drawn; integers default to `int_uniform`, others to `uniform`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distribution: Option<Distribution>,
}

/// W&B's names of distributions (those that are implemented).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    /// One value.
    Constant,
    /// One of `values`.
    Categorical,
    /// Integer, ends included.
    IntUniform,
    /// Real.
    Uniform,
    /// exp of uniform: `min` and `max` are EXPONENTS of e, as in W&B.
    LogUniform,
    /// exp of uniform: `min` and `max` are the values themselves, both > 0.
    LogUniformValues,
}
