//! `kind: cluster`: how a coordinator shares out its workers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::scheduling::Span;

/// A cluster YAML.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Must be `cluster`.
    pub kind: Kind,
    /// Name of the cluster.
    pub name: String,
    /// A sentence for people.
    #[serde(default)]
    pub description: String,
    /// Who may use it. None: any project is welcome, and all are alike.
    #[serde(default)]
    pub projects: BTreeMap<String, Project>,
    /// How runs are scheduled.
    #[serde(default)]
    pub policy: Policy,
}

/// The word in `kind:`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `cluster`
    Cluster,
}

/// What a project may have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Project {
    /// Its part of the cluster, relative to the others'.
    pub weight: u32,
    /// Most slots at a time; absent: no limit.
    pub slots: Option<f64>,
    /// Most runs at a time; absent: no limit.
    pub runs: Option<u32>,
    /// Highest priority that counts for its runs.
    pub max_priority: i32,
}

impl Default for Project {
    fn default() -> Self {
        Self { weight: 1, slots: None, runs: None, max_priority: crate::scheduling::HIGHEST_PRIORITY }
    }
}

/// How runs are scheduled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Waiting this long raises a run's place in the queue by one priority, so that nothing starves; 0: never.
    pub aging: Span,
    /// Whether runs may take the slots of preemptible runs of lower priority.
    pub preemption: bool,
    /// Runs behind the first in line that are tried for gaps.
    pub backfill: u32,
    /// Pause before the first new attempt after a failure; doubles with each failure without progress.
    pub backoff: Span,
    /// Longest pause before a new attempt.
    pub backoff_max: Span,
    /// Lost workers, and failures of storage and network, in a row without progress that a run survives.
    pub losses: u32,
    /// Different runs that must fail in a row on a worker before it gets no more work; 0: never.
    pub worker_breaker: u32,
    /// Runs of a sweep that must fail for the same cause, before any has succeeded, to stop the sweep; 0: never.
    pub sweep_breaker: u32,
}

impl Default for Policy {
    fn default() -> Self {
        let seconds = |n| Span(std::time::Duration::from_secs(n));
        Self {
            aging: seconds(600),
            preemption: true,
            backfill: 256,
            backoff: seconds(1),
            backoff_max: seconds(60),
            losses: 20,
            worker_breaker: 3,
            sweep_breaker: 3,
        }
    }
}
