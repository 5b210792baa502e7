//! What a run is, and an attempt at it. Changed by [`crate::evolve`] only.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use morph_spec::{Digest, Experiment, Fence, RunId, SweepId, Timestamp, WorkerId};
use serde::{Deserialize, Serialize};

use crate::{
    Target,
    sabotage::{Mechanism, is_broken},
};

/// One training of an experiment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Identity.
    pub id: RunId,
    /// How many were submitted before it.
    pub seq: u64,
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
    /// What must have succeeded before.
    pub after: Vec<Target>,
    /// Where it stands.
    pub state: RunState,
    /// Attempts so far; the newest has this number.
    pub attempts: u32,
    /// Attempts are numbered beyond it: up to it a history may have come that is lost since the database was restored from a
    /// backup. Its attempts' ranks, reports and checkpoints must not be taken for those of new ones.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub floor: u32,
    /// Attempts that have ended, oldest first.
    pub past: Vec<Past>,
    /// Recorded checkpoints, oldest first. At most one is `best`.
    pub checkpoints: Vec<Checkpoint>,
    /// Failures since the last progress.
    pub failures: u32,
    /// Workers lost since the last progress.
    pub losses: u32,
    /// The newest checkpoint's step at the last failure.
    pub failure_step: u64,
    /// Where ranks of it crashed since it got further; not all where there were many.
    pub crashes: Vec<Crash>,
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RunState {
    /// Waits for slots, and at least until a time.
    Queued {
        /// Not placed before.
        not_before: Timestamp,
        /// Since when it waits.
        since: Timestamp,
    },
    /// Held back until somebody resumes it.
    Paused {
        /// Since when.
        since: Timestamp,
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Whether it fills a gap in front of a run that waits for more: it gives way when that one can start.
    pub backfill: bool,
    /// By how much waiting had raised the run's priority when it was placed: it keeps that as long as it runs, or whoever it
    /// went before would take its slots at once.
    pub raised: u64,
    /// Version of the program at rank 0.
    pub version: String,
}

/// A rank of a live attempt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rank {
    /// Where it is placed.
    pub worker: WorkerId,
    /// Which of the worker's slots, from 0.
    pub device: u32,
    /// What is known of it.
    pub state: RankState,
}

/// What is known of a rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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

/// How a rank ended. Of several the last in this order says what becomes of the attempt.
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
    /// Storage, disk or network failed it: try again.
    Infra,
    /// Killed, out of memory, or its device failed: try again, but not for ever.
    Crashed,
    /// Bad configuration or data: trying again is no use.
    User,
    /// The checkpoint that it was to go on from is not there, or damaged: the run goes on from the one before. Whatever else was wrong,
    /// that shows there again.
    NoCheckpoint,
}

impl Exit {
    /// Whether the attempt cannot go on after it.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::PeerLost | Self::Lost | Self::Infra | Self::Crashed | Self::User | Self::NoCheckpoint)
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
    /// Somebody paused the run.
    Pause,
    /// A run that goes first takes its slots.
    Preempt,
    /// It took longer than it may.
    TimeLimit,
}

/// Where a rank crashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crash {
    /// On which worker.
    pub worker: WorkerId,
    /// On which of its slots.
    pub device: u32,
    /// One line.
    pub error: String,
}

/// An attempt that has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Past {
    /// Which.
    pub number: u32,
    /// When it was placed.
    pub placed_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Workers by rank.
    pub ranks: Vec<WorkerId>,
    /// Version of the program at rank 0.
    pub version: String,
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

    /// The fence of the attempt that comes next.
    pub fn next(&self) -> Fence {
        Fence { run: self.id, attempt: self.attempts.max(self.floor) + 1 }
    }

    /// Whether it has succeeded: nothing of it will change.
    pub fn is_done(&self) -> bool {
        matches!(self.state, RunState::Succeeded { .. })
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

    /// Where its attempt `number` starts. What that attempt itself has saved since is not among it, however often the order to
    /// start is repeated.
    pub fn start_of(&self, number: u32) -> Option<&Checkpoint> {
        let earlier = self.earlier(number);
        if is_broken(Mechanism::NewestCheckpoint) {
            return earlier.min_by_key(|c| c.step);
        }
        earlier.max_by_key(|c| c.step)
    }

    /// Checkpoints of attempts before `number`, oldest first.
    pub fn earlier(&self, number: u32) -> impl Iterator<Item = &Checkpoint> {
        self.checkpoints.iter().filter(move |c| c.attempt < number)
    }

    /// Checkpoints of attempts before `number` that its ranks' retention may have removed, by URL. That leaves the best and as many of the
    /// newest as it is told to, and the one before those as long as nothing newer is recorded.
    pub(crate) fn expired(&self, number: u32) -> BTreeSet<String> {
        let mut all: Vec<&Checkpoint> = self.earlier(number).collect();
        all.sort_by_key(|c| std::cmp::Reverse(c.step));
        let left = self.experiment.trainer.checkpoint.keep_last.max(1) as usize + 1;
        all.into_iter().skip(left).filter(|c| !c.best).map(|c| c.url.clone()).collect()
    }

    /// Number of ranks of its gang, when there is room.
    pub fn width(&self) -> u32 {
        self.experiment.trainer.world_size
    }

    /// Fewest ranks that it starts with.
    pub fn least_width(&self) -> u32 {
        match self.experiment.scheduling.min_world_size {
            0 => self.width(),
            least => least.min(self.width()).max(1),
        }
    }

    /// Part of a slot that each rank takes, in thousandths.
    pub fn share(&self) -> u32 {
        // At least a little, so that nothing is free of charge.
        ((self.experiment.scheduling.slot_share * 1000.0).round() as u32).clamp(1, WHOLE)
    }

    /// How long its attempts took, up to `now`.
    pub fn spent(&self, now: Timestamp) -> Duration {
        let past: Duration = self.past.iter().map(|p| p.ended_at.since(p.placed_at)).sum();
        past + self.attempt().map_or(Duration::ZERO, |a| now.since(a.placed_at))
    }

    /// When it will have taken longer than it may.
    pub(crate) fn overdue_at(&self) -> Option<Timestamp> {
        let limit = self.experiment.scheduling.time_limit.0;
        let attempt = self.attempt().filter(|_| !limit.is_zero())?;
        Some(attempt.placed_at.after(limit.saturating_sub(self.spent(attempt.placed_at))))
    }
}

/// A whole slot, in thousandths.
pub const WHOLE: u32 = 1000;

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over references")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}
