//! Limits and rules.

use std::{collections::BTreeMap, time::Duration};

/// Limits of the core. Not part of the history: what they led to is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How long a worker may be away before its ranks count as lost.
    pub grace: Duration,
    /// How long ranks may take to save and stop before they are killed.
    pub stop_timeout: Duration,
    /// After a rank has lost a peer: how long the others may take to say whose fault it is before they are killed.
    pub peer_grace: Duration,
    /// Pause before the first new attempt after a failure; doubles with each failure that follows without progress.
    pub backoff: Duration,
    /// Longest pause before a new attempt.
    pub backoff_max: Duration,
    /// Losses of workers, and failures of storage and network, in a row without progress that a run survives; they do not count as its
    /// own failures.
    pub losses: u32,
    /// Waiting this long raises a run's place in the queue by one priority, so that nothing starves; zero: never.
    pub aging: Duration,
    /// Whether runs may take the slots of runs of lower priority.
    pub preemption: bool,
    /// Runs behind the first in line that are tried for gaps.
    pub backfill: usize,
    /// Different runs that must fail on a worker, with none getting further there in between, before it gets no more work.
    pub worker_breaker: u32,
    /// Runs of a sweep that must fail for the same cause, before any has succeeded, to stop the sweep.
    pub sweep_breaker: u32,
    /// Workers that have left and are still remembered; of more the oldest are forgotten, of those that were started once. In a
    /// cluster whose agents have homes that do not outlive them each start is a new worker.
    pub left: usize,
    /// Weights and quotas by name. Empty: any project is welcome, and all are alike.
    pub projects: BTreeMap<String, Project>,
}

/// What a project may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Project {
    /// Its part of the cluster, relative to the others'; above 0.
    pub weight: u32,
    /// Most slots at a time, in thousandths; `None`: no limit.
    pub slots: Option<u64>,
    /// Most runs at a time; `None`: no limit.
    pub runs: Option<u32>,
    /// Highest priority that counts for its runs.
    pub max_priority: i32,
}

impl Default for Project {
    fn default() -> Self {
        Self { weight: 1, slots: None, runs: None, max_priority: i32::MAX }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(15),
            stop_timeout: Duration::from_secs(120),
            peer_grace: Duration::from_secs(3),
            backoff: Duration::from_millis(500),
            backoff_max: Duration::from_secs(60),
            losses: 20,
            aging: Duration::from_secs(600),
            preemption: true,
            backfill: 256,
            worker_breaker: 3,
            sweep_breaker: 3,
            left: 100,
            projects: BTreeMap::new(),
        }
    }
}
