//! What happened. Events are kept for ever: their JSON is `{"v":1,"at":…,"kind":"…","data":{…}}`, kinds are never renamed,
//! fields only added with a default. `tests/golden/events.jsonl` holds one of each kind.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use morph_spec::{Digest, Experiment, Fence, RunId, SweepId, Timestamp, WorkerId};
use serde::{Deserialize, Serialize};

use crate::{Checkpoint, Dataset, Exit, Outcome, Stop, SweepEnd, Target, test_use::Tested};

/// Version of the events' JSON that this build writes.
pub const VERSION: u32 = 1;

/// Something that happened, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// [`VERSION`] of the writer.
    pub v: u32,
    /// When.
    pub at: Timestamp,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// The kinds of events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "data", rename_all = "snake_case")]
pub enum What {
    /// The coordinator process began; all workers are away until they say hello.
    CoordinatorStarted {},
    /// The history goes on from a backup: what happened after it is not known. All workers are away, and runs' next
    /// attempts have numbers that none of theirs can have had since (see [`crate::Run::floor`]).
    HistoryRestored {
        /// Checkpoints that runs would have gone on from, and that are no longer there, by URL.
        gone: BTreeSet<String>,
        /// No attempt had a higher number in the history that is lost: the next ones go on from it.
        floor: u32,
    },
    /// Nothing is started any more, until the next start.
    DrainBegan {
        /// For people.
        reason: String,
    },
    /// A dataset is known.
    DatasetRegistered {
        /// All of it.
        dataset: Arc<Dataset>,
    },
    /// A search was accepted; its runs follow.
    SweepSubmitted {
        /// Identity.
        sweep: SweepId,
        /// Of the submission.
        key: String,
        /// Unique.
        name: String,
        /// What was asked for.
        spec: Arc<morph_spec::Sweep>,
    },
    /// A run was accepted.
    RunSubmitted {
        /// Identity.
        run: RunId,
        /// Of the submission; absent for a sweep's runs.
        key: Option<String>,
        /// Unique.
        name: String,
        /// The sweep that made it.
        sweep: Option<SweepId>,
        /// The sweep's choices.
        params: BTreeMap<String, serde_json::Value>,
        /// With the choices filled in.
        experiment: Arc<Experiment>,
        /// The dataset.
        dataset: Digest,
        /// Failures in a row that are forgiven.
        max_retries: u32,
        /// What must have succeeded before.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        after: Vec<Target>,
    },
    /// A gang was placed: a new attempt.
    RunPlaced {
        /// The attempt.
        fence: Fence,
        /// Workers by rank.
        ranks: Vec<WorkerId>,
        /// Step of the checkpoint that it starts from.
        resume: Option<u64>,
        /// Slots of the workers, by rank; empty: a worker's first, second, ….
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        devices: Vec<u32>,
        /// Whether it fills a gap in front of a run that waits for more.
        #[serde(default, skip_serializing_if = "is_false")]
        backfill: bool,
        /// By how much waiting had raised its priority.
        #[serde(default, skip_serializing_if = "is_zero")]
        raised: u64,
    },
    /// Rank 0 serves the store.
    StoreReady {
        /// The attempt.
        fence: Fence,
        /// `host:port`.
        address: String,
    },
    /// A rank joined its group.
    RankReady {
        /// The attempt.
        fence: Fence,
        /// Which.
        rank: u32,
        /// Where it (re)starts.
        step: u64,
        /// Steps of the whole training.
        total_steps: u64,
        /// Datasets in its node's cache; empty: the run's own, beside those that are known to be there.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        cached: BTreeSet<Digest>,
    },
    /// A checkpoint is recorded.
    CheckpointCommitted {
        /// The attempt.
        fence: Fence,
        /// All of it.
        checkpoint: Checkpoint,
    },
    /// A recorded checkpoint cannot be gone on from any more: it is struck from the record.
    CheckpointLost {
        /// The attempt that was to.
        fence: Fence,
        /// URL of its manifest.
        url: String,
        /// Its step.
        step: u64,
        /// What a rank found, one line.
        why: String,
        /// Older ones that retention had removed, or was about to, by URL: struck with it, or attempt after attempt would look for one
        /// after the other.
        #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
        expired: BTreeSet<String>,
    },
    /// The scores are known.
    Evaluated {
        /// The attempt.
        fence: Fence,
        /// Scores by name.
        summary: BTreeMap<String, f64>,
        /// The whole report.
        summary_json: String,
        /// URLs.
        artifacts: Vec<String>,
    },
    /// A checkpoint was scored once more, by hand: its test sets were looked at again.
    Rescored {
        /// The same again is said once; what was recorded by 0.1.0 has none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        /// The run that it is of, where that is known.
        run: Option<RunId>,
        /// URL of the checkpoint's manifest.
        checkpoint: String,
        /// What it was scored on, each split once.
        tests: Vec<Tested>,
    },
    /// A rank is over.
    RankExited {
        /// The attempt.
        fence: Fence,
        /// Which.
        rank: u32,
        /// How.
        exit: Exit,
        /// One line.
        error: String,
    },
    /// An attempt is to stop.
    StopRequested {
        /// The attempt.
        fence: Fence,
        /// Why and how.
        stop: Stop,
    },
    /// Ranks that did not stop in time are to be killed.
    StopEscalated {
        /// The attempt.
        fence: Fence,
    },
    /// All ranks of an attempt are over.
    AttemptEnded {
        /// The attempt.
        fence: Fence,
        /// How.
        outcome: Outcome,
        /// One line; may be empty.
        error: String,
        /// What becomes of the run.
        next: Next,
    },
    /// A run that waited is held back.
    RunPaused {
        /// Which.
        run: RunId,
    },
    /// A paused run waits for slots again.
    RunResumed {
        /// Which.
        run: RunId,
    },
    /// A run that had failed or was cancelled is tried again, from its newest checkpoint.
    RunRetried {
        /// Which.
        run: RunId,
    },
    /// A run is given up without another attempt.
    RunGivenUp {
        /// Which.
        run: RunId,
        /// Why, one line.
        error: String,
    },
    /// A run was cancelled while it waited.
    RunCancelled {
        /// Which.
        run: RunId,
    },
    /// A sweep was cancelled; so are its runs, each with its own event.
    SweepCancelled {
        /// Which.
        sweep: SweepId,
    },
    /// A sweep is held back; so are its runs, each with its own event.
    SweepPaused {
        /// Which.
        sweep: SweepId,
    },
    /// A paused sweep goes on.
    SweepResumed {
        /// Which.
        sweep: SweepId,
    },
    /// Those of a sweep's runs that had failed or were cancelled are tried again, each with its own event.
    SweepRetried {
        /// Which.
        sweep: SweepId,
    },
    /// A sweep is stopped, since all its runs fail for the same cause.
    SweepHalted {
        /// Which.
        sweep: SweepId,
        /// Why, one line.
        reason: String,
    },
    /// All runs of a sweep are over.
    SweepEnded {
        /// Which.
        sweep: SweepId,
        /// How.
        end: SweepEnd,
        /// The best run.
        best_run: Option<RunId>,
        /// Its value.
        best_value: Option<f64>,
    },
    /// An agent is here (again).
    WorkerJoined {
        /// Who.
        worker: WorkerId,
        /// Which start of it.
        incarnation: String,
        /// Where its ranks can be reached.
        host: String,
        /// Ranks that fit.
        slots: u32,
        /// Version of its program.
        version: String,
        /// Attempts that run there.
        live: Vec<Fence>,
        /// Datasets in its cache.
        cached: BTreeSet<Digest>,
        /// Whether these are all of them; else they are beside those that are known to be there.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        cached_is_all: bool,
        /// What it is.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        labels: BTreeMap<String, String>,
        /// Main memory in bytes; 0: not counted.
        #[serde(default, skip_serializing_if = "is_zero")]
        memory: u64,
        /// The process that speaks for it.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        process: String,
        /// The name in its certificate; empty: it had none.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        certificate: String,
    },
    /// A worker gets no new work.
    WorkerCordoned {
        /// Who.
        worker: WorkerId,
        /// For people.
        reason: String,
        /// Whether the circuit breaker did it.
        automatic: bool,
    },
    /// A worker gets work again.
    WorkerUncordoned {
        /// Who.
        worker: WorkerId,
    },
    /// An agent is about to leave and takes no new work.
    WorkerLeaving {
        /// Who.
        worker: WorkerId,
    },
    /// An agent's session ended; its ranks may train on.
    WorkerAway {
        /// Who.
        worker: WorkerId,
    },
    /// An agent was away for too long.
    WorkerLost {
        /// Who.
        worker: WorkerId,
    },
    /// An agent left on purpose.
    WorkerLeft {
        /// Who.
        worker: WorkerId,
    },
    /// A worker that left long ago is not remembered any more. Should it come back, it is new.
    WorkerForgotten {
        /// Who.
        worker: WorkerId,
    },
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_false(b: &bool) -> bool {
    !b
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What becomes of a run whose attempt has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Next {
    /// It is queued again.
    Queue {
        /// Not placed before.
        not_before: Timestamp,
        /// Failures since the last progress; 0 after a stop on purpose.
        failures: u32,
    },
    /// It is done.
    Succeed,
    /// It is given up.
    Fail {
        /// One line.
        error: String,
    },
    /// It is cancelled.
    Cancel,
    /// It is held back.
    Pause,
}

impl Event {
    /// The event in `json`. As serde would read it, but that it reads the text twice and copies nothing of it in between.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_json(json: &str) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        struct Stamp {
            v: u32,
            at: Timestamp,
        }
        let Stamp { v, at } = serde_json::from_str(json)?;
        Ok(Self { v, at, what: serde_json::from_str(json)? })
    }

    /// `what`, now.
    pub fn new(at: Timestamp, what: What) -> Self {
        Self { v: VERSION, at, what }
    }

    /// The stable name of its kind.
    pub fn kind(&self) -> &'static str {
        match &self.what {
            What::CoordinatorStarted {} => "coordinator_started",
            What::HistoryRestored { .. } => "history_restored",
            What::DrainBegan { .. } => "drain_began",
            What::DatasetRegistered { .. } => "dataset_registered",
            What::SweepSubmitted { .. } => "sweep_submitted",
            What::RunSubmitted { .. } => "run_submitted",
            What::RunPlaced { .. } => "run_placed",
            What::StoreReady { .. } => "store_ready",
            What::RankReady { .. } => "rank_ready",
            What::CheckpointCommitted { .. } => "checkpoint_committed",
            What::CheckpointLost { .. } => "checkpoint_lost",
            What::Evaluated { .. } => "evaluated",
            What::Rescored { .. } => "rescored",
            What::RankExited { .. } => "rank_exited",
            What::StopRequested { .. } => "stop_requested",
            What::StopEscalated { .. } => "stop_escalated",
            What::AttemptEnded { .. } => "attempt_ended",
            What::RunPaused { .. } => "run_paused",
            What::RunResumed { .. } => "run_resumed",
            What::RunRetried { .. } => "run_retried",
            What::RunGivenUp { .. } => "run_given_up",
            What::RunCancelled { .. } => "run_cancelled",
            What::SweepPaused { .. } => "sweep_paused",
            What::SweepResumed { .. } => "sweep_resumed",
            What::SweepRetried { .. } => "sweep_retried",
            What::SweepHalted { .. } => "sweep_halted",
            What::SweepCancelled { .. } => "sweep_cancelled",
            What::SweepEnded { .. } => "sweep_ended",
            What::WorkerJoined { .. } => "worker_joined",
            What::WorkerCordoned { .. } => "worker_cordoned",
            What::WorkerUncordoned { .. } => "worker_uncordoned",
            What::WorkerLeaving { .. } => "worker_leaving",
            What::WorkerAway { .. } => "worker_away",
            What::WorkerLost { .. } => "worker_lost",
            What::WorkerLeft { .. } => "worker_left",
            What::WorkerForgotten { .. } => "worker_forgotten",
        }
    }

    /// The run that it is about.
    pub fn run(&self) -> Option<RunId> {
        match &self.what {
            What::RunSubmitted { run, .. }
            | What::RunPaused { run }
            | What::RunResumed { run }
            | What::RunRetried { run }
            | What::RunGivenUp { run, .. }
            | What::RunCancelled { run } => Some(*run),
            What::Rescored { run, .. } => *run,
            What::RunPlaced { fence, .. }
            | What::StoreReady { fence, .. }
            | What::RankReady { fence, .. }
            | What::CheckpointCommitted { fence, .. }
            | What::CheckpointLost { fence, .. }
            | What::Evaluated { fence, .. }
            | What::RankExited { fence, .. }
            | What::StopRequested { fence, .. }
            | What::StopEscalated { fence }
            | What::AttemptEnded { fence, .. } => Some(fence.run),
            _ => None,
        }
    }

    /// The sweep that it is about (not: the sweep of its run).
    pub fn sweep(&self) -> Option<SweepId> {
        match &self.what {
            What::SweepSubmitted { sweep, .. }
            | What::SweepPaused { sweep }
            | What::SweepResumed { sweep }
            | What::SweepRetried { sweep }
            | What::SweepHalted { sweep, .. }
            | What::SweepCancelled { sweep }
            | What::SweepEnded { sweep, .. } => Some(*sweep),
            _ => None,
        }
    }

    /// One line for people.
    pub fn text(&self) -> String {
        let because = |error: &str| if error.is_empty() { String::new() } else { format!(": {error}") };
        match &self.what {
            What::CoordinatorStarted {} => "the coordinator started".into(),
            What::HistoryRestored { gone, .. } if gone.is_empty() => "the database was restored from a backup".into(),
            What::HistoryRestored { gone, .. } => {
                format!("the database was restored from a backup; {} checkpoints are no longer there", gone.len())
            }
            What::DrainBegan { reason } => format!("drain: {reason}"),
            What::DatasetRegistered { dataset } => {
                format!("dataset {} registered, {} samples, {}", dataset.name, dataset.manifest.samples(), dataset.url)
            }
            What::SweepSubmitted { name, .. } => format!("sweep {name} submitted"),
            What::RunSubmitted { name, .. } => format!("run {name} submitted"),
            What::RunPlaced { fence, ranks, resume, backfill, .. } => {
                let from = resume.map(|step| format!(", goes on from step {step}")).unwrap_or_default();
                let gap = if *backfill { ", in a gap" } else { "" };
                format!("attempt {}: {} ranks placed{gap}{from}", fence.attempt, ranks.len())
            }
            What::StoreReady { fence, address } => format!("attempt {}: ranks meet at {address}", fence.attempt),
            What::RankReady { fence, rank, step, .. } => {
                format!("attempt {}: rank {rank} ready at step {step}", fence.attempt)
            }
            What::CheckpointCommitted { fence, checkpoint: c } => {
                let best = if c.best { ", the best so far" } else { "" };
                format!("attempt {}: checkpoint at step {}, epoch {}{best}", fence.attempt, c.step, c.epoch)
            }
            What::CheckpointLost { fence, step, why, .. } => {
                format!(
                    "attempt {}: the checkpoint at step {step} is lost, and struck from the record: {why}",
                    fence.attempt
                )
            }
            What::Evaluated { fence, summary, .. } => {
                format!("attempt {}: evaluated, {} scores", fence.attempt, summary.len())
            }
            What::Rescored { checkpoint, tests, .. } => {
                let splits: Vec<String> = tests.iter().map(|t| format!("{} of {}", t.split, t.url)).collect();
                format!("{checkpoint} was scored again by hand, on {}", splits.join(", "))
            }
            What::RankExited { fence, rank, exit, error } => {
                let how = match exit {
                    Exit::Succeeded => "succeeded",
                    Exit::Stopped => "stopped",
                    Exit::PeerLost => "lost a peer",
                    Exit::Lost => "was lost with its worker",
                    Exit::Infra => "failed",
                    Exit::Crashed => "crashed",
                    Exit::User => "cannot go on",
                    Exit::NoCheckpoint => "cannot go on from its checkpoint",
                };
                format!("attempt {}: rank {rank} {how}{}", fence.attempt, because(error))
            }
            What::StopRequested { fence, stop } => {
                let how = if stop.checkpoint { "save and stop" } else { "stop" };
                format!("attempt {}: {how}: {}", fence.attempt, stop.reason)
            }
            What::StopEscalated { fence } => format!("attempt {}: did not stop in time, killed", fence.attempt),
            What::AttemptEnded { fence, outcome, error, next } => {
                let then = match next {
                    Next::Pause => "; the run is paused".into(),
                    Next::Queue { failures: 0, .. } => "; the run is queued again".into(),
                    Next::Queue { failures, .. } => format!("; the run is queued again after {failures} failures"),
                    Next::Succeed => "; the run succeeded".into(),
                    Next::Fail { .. } => "; the run is given up".into(),
                    Next::Cancel => "; the run is cancelled".into(),
                };
                format!("attempt {} {}{}{then}", fence.attempt, outcome.word(), because(error))
            }
            What::RunPaused { .. } => "paused while it waited".into(),
            What::RunResumed { .. } => "resumed".into(),
            What::RunRetried { .. } => "tried again".into(),
            What::RunGivenUp { error, .. } => format!("given up: {error}"),
            What::RunCancelled { .. } => "cancelled while it waited".into(),
            What::SweepPaused { .. } => "sweep paused".into(),
            What::SweepResumed { .. } => "sweep resumed".into(),
            What::SweepRetried { .. } => "sweep tried again".into(),
            What::SweepHalted { reason, .. } => format!("sweep stopped: {reason}"),
            What::SweepCancelled { .. } => "sweep cancelled".into(),
            What::SweepEnded { end, .. } => format!("sweep ended: {end:?}").to_lowercase(),
            What::WorkerJoined { worker, host, slots, .. } => {
                format!("worker {worker} at {host} joined with {slots} slots")
            }
            What::WorkerCordoned { worker, reason, automatic } => {
                let how = if *automatic { " by the circuit breaker" } else { "" };
                format!("worker {worker} is cordoned{how}: {reason}")
            }
            What::WorkerUncordoned { worker } => format!("worker {worker} is uncordoned"),
            What::WorkerLeaving { worker } => format!("worker {worker} is leaving"),
            What::WorkerAway { worker } => format!("worker {worker} is away"),
            What::WorkerLost { worker } => format!("worker {worker} is lost"),
            What::WorkerLeft { worker } => format!("worker {worker} left"),
            What::WorkerForgotten { worker } => format!("worker {worker}, which left long ago, is forgotten"),
        }
    }
}
