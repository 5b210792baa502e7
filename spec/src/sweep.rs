//! `kind: sweep`: a search over hyper-parameters, in the words of W&B's sweep schema.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{
        Error, MapAccess, SeqAccess, Visitor,
        value::{MapAccessDeserializer, MapDeserializer},
    },
};

use crate::Experiment;

/// The name under which a run of a sweep of several experiments has the one that it was made of, among its parameters.
pub const EXPERIMENT: &str = "experiment";

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
    /// The experiment that is varied, or a list of several, all varied alike: they take turns, so that each meets every point of
    /// the search. In a file each is a path relative to that file, or the experiment itself.
    pub experiment: Experiments,
    /// How points are chosen.
    pub method: Method,
    /// What is compared.
    pub metric: Metric,
    /// Dotted field of the experiment (`trainer.optimizer.lr`) → its values. In a file W&B's nesting
    /// (`parameters: {trainer: {parameters: …}}`) is accepted and flattened. May be empty where there are several experiments.
    #[serde(default)]
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

/// The experiments of a sweep, at least one. Written as the experiment itself if it is one, else as a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Experiments(Vec<Experiment>);

impl Experiments {
    /// The first, which is the only one in most sweeps.
    pub fn first(&self) -> &Experiment {
        &self.0[0]
    }

    /// All, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Experiment> {
        self.0.iter()
    }

    /// All, in order, to be changed.
    pub fn iter_mut(&mut self) -> std::slice::IterMut<'_, Experiment> {
        self.0.iter_mut()
    }

    /// How many, at least 1.
    pub fn count(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// The field of the `index`-th: `experiment`, or `experiment.1` where there are several.
    pub(crate) fn field(&self, index: usize) -> String {
        if self.0.len() == 1 { EXPERIMENT.to_owned() } else { format!("{EXPERIMENT}.{index}") }
    }
}

impl Serialize for Experiments {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            several => several.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Experiments {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrSeveral)
    }
}

struct OneOrSeveral;

impl<'de> Visitor<'de> for OneOrSeveral {
    type Value = Experiments;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an experiment, or a list of at least one")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Experiments, A::Error> {
        Ok(Experiments(vec![Experiment::deserialize(MapAccessDeserializer::new(map))?]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Experiments, A::Error> {
        let mut all = Vec::new();
        while let Some(experiment) = seq.next_element()? {
            all.push(experiment);
        }
        if all.is_empty() { Err(A::Error::invalid_length(0, &self)) } else { Ok(Experiments(all)) }
    }

    /// What stands where there is nothing: an experiment that lacks everything, so that all of it is asked for at once.
    fn visit_unit<E: Error>(self) -> Result<Experiments, E> {
        let nothing = std::iter::empty::<(String, String)>();
        Ok(Experiments(vec![Experiment::deserialize(MapDeserializer::new(nothing))?]))
    }
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
