//! What is. Changed by [`crate::evolve`] only.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use morph_spec::{Digest, Experiment, Fence, Manifest, RunId, SweepId, Timestamp, WorkerId};
use serde::{Deserialize, Serialize};

/// Time limits of the core.
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
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(15),
            stop_timeout: Duration::from_secs(120),
            peer_grace: Duration::from_secs(3),
            backoff: Duration::from_millis(500),
            backoff_max: Duration::from_secs(60),
        }
    }
}

/// Everything the coordinator knows that is not a metric or a log line.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cluster {
    /// Limits; not part of the history.
    pub policy: Policy,
    /// Every dataset ever registered, by the digest of its manifest.
    pub datasets: BTreeMap<Digest, Arc<Dataset>>,
    /// Folder URL → the newest dataset there.
    pub urls: BTreeMap<String, Digest>,
    /// All runs.
    pub runs: BTreeMap<RunId, Run>,
    /// All runs, oldest first.
    pub order: Vec<RunId>,
    /// All sweeps.
    pub sweeps: BTreeMap<SweepId, Sweep>,
    /// All workers that ever joined.
    pub workers: BTreeMap<WorkerId, Worker>,
    /// Submission keys → what they made.
    pub keys: BTreeMap<String, Submission>,
    /// Why nothing is started any more, while the coordinator is being stopped.
    pub draining: Option<String>,
}

/// What a submission made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submission {
    /// A run.
    Run(RunId),
    /// A sweep.
    Sweep(SweepId),
}

/// A prepared dataset, as its manifest was when it was registered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dataset {
    /// The manifest's name.
    pub name: String,
    /// The folder.
    pub url: String,
    /// BLAKE3 of `manifest.json`.
    pub digest: Digest,
    /// What the manifest says.
    pub manifest: Manifest,
    /// When it was registered.
    pub at: Timestamp,
}

/// One training of an experiment.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// Identity.
    pub id: RunId,
    /// Unique among runs.
    pub name: String,
    /// The sweep that made it.
    pub sweep: Option<SweepId>,
    /// What is trained, with the sweep's choices filled in.
    pub experiment: Arc<Experiment>,
    /// The sweep's choices.
    pub params: BTreeMap<String, serde_json::Value>,
    /// The dataset, by digest.
    pub dataset: Digest,
    /// Failures in a row without progress that are forgiven.
    pub max_retries: u32,
    /// Where it stands.
    pub state: RunState,
    /// Attempts so far; the newest has this number.
    pub attempts: u32,
    /// Attempts that have ended, oldest first.
    pub past: Vec<Past>,
    /// Recorded checkpoints, oldest first. At most one is `best`.
    pub checkpoints: Vec<Checkpoint>,
    /// Failures since the last progress.
    pub failures: u32,
    /// The newest checkpoint's step at the last failure.
    pub failure_step: u64,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
    /// Steps of the whole training; 0 until known.
    pub total_steps: u64,
    /// Where the newest attempt (re)started.
    pub start_step: u64,
    /// Final scores.
    pub summary: BTreeMap<String, f64>,
    /// The evaluation report, JSON.
    pub summary_json: String,
    /// URLs of what the evaluation wrote.
    pub artifacts: Vec<String>,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When its first attempt ran.
    pub started_at: Option<Timestamp>,
}

/// Where a run stands; what belongs to a state lives in it.
#[derive(Debug, Clone, PartialEq)]
pub enum RunState {
    /// Waits for slots, and at least until a time.
    Queued {
        /// Not placed before.
        not_before: Timestamp,
    },
    /// Placed; not all ranks are in the process group.
    Starting {
        /// The attempt.
        attempt: Attempt,
    },
    /// All ranks train.
    Running {
        /// The attempt.
        attempt: Attempt,
    },
    /// Ranks are ending.
    Stopping {
        /// The attempt.
        attempt: Attempt,
        /// Why and how.
        stop: Stop,
    },
    /// Trained and evaluated.
    Succeeded {
        /// When.
        at: Timestamp,
    },
    /// Given up.
    Failed {
        /// When.
        at: Timestamp,
        /// Why, one line.
        error: String,
    },
    /// Cancelled.
    Cancelled {
        /// When.
        at: Timestamp,
    },
}

/// A live placement of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// Which, from 1.
    pub number: u32,
    /// When it was placed.
    pub placed_at: Timestamp,
    /// One per rank, in order.
    pub ranks: Vec<Rank>,
    /// Where rank 0 serves the process group's store.
    pub store: Option<String>,
    /// Whether rank 0 has reported the scores.
    pub evaluated: bool,
}

/// A rank of a live attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Rank {
    /// Where it is placed.
    pub worker: WorkerId,
    /// What is known of it.
    pub state: RankState,
}

/// What is known of a rank.
#[derive(Debug, Clone, PartialEq)]
pub enum RankState {
    /// Ordered, not heard of.
    Placed,
    /// In the process group.
    Ready,
    /// It should be stopping, but its agent, back from an absence, has no such rank: either its end is yet to be
    /// reported or it was never started.
    Missing {
        /// Since when.
        since: Timestamp,
    },
    /// Over.
    Exited {
        /// How.
        exit: Exit,
        /// One line; may be empty.
        error: String,
    },
}

/// How a rank ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// Trained to its end.
    Succeeded,
    /// Stopped as ordered.
    Stopped,
    /// Another rank is to blame.
    PeerLost,
    /// Its agent was lost.
    Lost,
    /// Killed, out of memory, I/O: try again.
    Infra,
    /// Bad configuration or data: trying again is no use.
    User,
}

impl Exit {
    /// Whether the attempt cannot go on after it.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::PeerLost | Self::Lost | Self::Infra | Self::User)
    }
}

/// A stop that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Why.
    pub cause: Cause,
    /// Whether ranks are asked to save a checkpoint first.
    pub checkpoint: bool,
    /// Whether ranks are to be killed.
    pub killed: bool,
    /// When they will be.
    pub kill_at: Timestamp,
    /// One line for people.
    pub reason: String,
}

/// Why an attempt is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Somebody cancelled the run.
    Cancel,
    /// The coordinator or an agent goes away on purpose.
    Drain,
    /// A rank failed.
    Failure,
}

/// An attempt that has ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Past {
    /// Which.
    pub number: u32,
    /// When it was placed.
    pub placed_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Workers by rank.
    pub ranks: Vec<WorkerId>,
    /// How.
    pub outcome: Outcome,
    /// One line; may be empty.
    pub error: String,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Trained to the end.
    Succeeded,
    /// A rank failed.
    Failed,
    /// A worker was lost.
    Lost,
    /// Stopped on purpose.
    Stopped,
}

impl Outcome {
    /// The word for people and for the wire.
    pub fn word(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Lost => "lost",
            Self::Stopped => "stopped",
        }
    }
}

/// A complete checkpoint in the object store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// URL of its manifest.
    pub url: String,
    /// BLAKE3 of its manifest.
    pub digest: Digest,
    /// Optimizer steps taken.
    pub step: u64,
    /// Epochs finished.
    pub epoch: u32,
    /// The attempt that wrote it.
    pub attempt: u32,
    /// Size of all its files.
    pub bytes: u64,
    /// Validation score; finite.
    pub score: Option<f64>,
    /// Whether it is the run's best.
    pub best: bool,
    /// When it was complete.
    pub at: Timestamp,
}

/// A search over hyper-parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    /// Identity.
    pub id: SweepId,
    /// Unique among sweeps.
    pub name: String,
    /// What was asked for.
    pub spec: Arc<morph_spec::Sweep>,
    /// Its runs, in order.
    pub runs: Vec<RunId>,
    /// Whether somebody cancelled it.
    pub cancelled: bool,
    /// How it ended.
    pub end: Option<SweepEnd>,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// How a sweep ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SweepEnd {
    /// No run failed.
    Succeeded,
    /// A run failed.
    Failed,
    /// Cancelled.
    Cancelled,
}

/// An agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Worker {
    /// Identity.
    pub id: WorkerId,
    /// Which start of the agent process.
    pub incarnation: String,
    /// Where its ranks can be reached.
    pub host: String,
    /// Ranks that fit on it.
    pub slots: u32,
    /// Version of its program.
    pub version: String,
    /// Whether it is here.
    pub state: WorkerState,
    /// Datasets that lie in its cache.
    pub cached: BTreeSet<Digest>,
    /// When it joined first.
    pub joined_at: Timestamp,
}

/// Whether a worker is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerState {
    /// Connected.
    Ready,
    /// Not connected; its ranks may well train on.
    Away {
        /// Since when.
        since: Timestamp,
    },
    /// Away for too long.
    Lost,
    /// Left on purpose.
    Left,
}

impl Cluster {
    /// An empty cluster.
    pub fn new(policy: Policy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// The live attempt that `fence` names, if it is the newest of its run.
    pub fn attempt(&self, fence: Fence) -> Option<&Attempt> {
        self.runs.get(&fence.run)?.attempt().filter(|a| a.number == fence.attempt)
    }

    /// Whether what is said under `fence` counts.
    pub fn is_current(&self, fence: Fence) -> bool {
        self.attempt(fence).is_some()
    }

    /// All runs, oldest first.
    pub fn in_order(&self) -> impl DoubleEndedIterator<Item = &Run> {
        self.order.iter().filter_map(|id| self.runs.get(id))
    }

    /// Ranks that hold slots of `worker`.
    pub fn used(&self, worker: WorkerId) -> u32 {
        let ranks = self.runs.values().filter_map(Run::attempt).flat_map(|a| &a.ranks);
        ranks.filter(|r| r.worker == worker && r.is_live()).count() as u32
    }

    /// Attempts with live ranks.
    pub fn live(&self) -> impl Iterator<Item = (Fence, &Attempt)> {
        self.runs.values().filter_map(|r| Some((r.fence(), r.attempt()?)))
    }
}

impl Rank {
    /// Whether it holds its slot.
    pub fn is_live(&self) -> bool {
        !matches!(self.state, RankState::Exited { .. })
    }
}

impl Run {
    /// The live attempt.
    pub fn attempt(&self) -> Option<&Attempt> {
        match &self.state {
            RunState::Starting { attempt } | RunState::Running { attempt } | RunState::Stopping { attempt, .. } => {
                Some(attempt)
            }
            _ => None,
        }
    }

    pub(crate) fn attempt_mut(&mut self) -> Option<&mut Attempt> {
        match &mut self.state {
            RunState::Starting { attempt } | RunState::Running { attempt } | RunState::Stopping { attempt, .. } => {
                Some(attempt)
            }
            _ => None,
        }
    }

    /// The fence of the newest attempt.
    pub fn fence(&self) -> Fence {
        Fence { run: self.id, attempt: self.attempts }
    }

    /// Whether it has ended for good.
    pub fn is_over(&self) -> bool {
        self.ended_at().is_some()
    }

    /// When it ended.
    pub fn ended_at(&self) -> Option<Timestamp> {
        match &self.state {
            RunState::Succeeded { at } | RunState::Failed { at, .. } | RunState::Cancelled { at } => Some(*at),
            _ => None,
        }
    }

    /// The checkpoint to go on from.
    pub fn newest_checkpoint(&self) -> Option<&Checkpoint> {
        // Of two of the same step the later one: max_by_key returns the last of equals.
        self.checkpoints.iter().max_by_key(|c| c.step)
    }

    /// Number of ranks of its gang.
    pub fn width(&self) -> u32 {
        self.experiment.trainer.world_size
    }
}

impl Sweep {
    /// The best run so far by the sweep's metric, and its value; of equals the older one.
    pub fn best(&self, cluster: &Cluster) -> Option<(RunId, f64)> {
        let metric = &self.spec.metric;
        let values = self.runs.iter().filter_map(|id| Some((*id, *cluster.runs.get(id)?.summary.get(&metric.name)?)));
        values.filter(|(_, v)| v.is_finite()).reduce(|best, next| {
            let better = match metric.goal {
                morph_spec::sweep::Goal::Maximize => next.1 > best.1,
                morph_spec::sweep::Goal::Minimize => next.1 < best.1,
            };
            if better { next } else { best }
        })
    }
}
