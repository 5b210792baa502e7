//! What someone wants, or says.

use std::collections::{BTreeMap, BTreeSet};

use morph_spec::{Digest, Experiment, Fence, Manifest, RunId, SweepId, Timestamp, WorkerId};
use serde::{Deserialize, Serialize};

use crate::{Checkpoint, Exit, test_use::Tested};

/// A wish or a piece of news; [`crate::decide`] says what it makes happen.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// The coordinator has just started: nobody is connected.
    Start,
    /// The history goes on from a backup. Nobody is connected, and nobody knows what has happened since.
    Restore {
        /// Checkpoints that runs would go on from, and that are no longer there, by URL.
        gone: BTreeSet<String>,
        /// What the machine's clock says.
        wall: Timestamp,
    },
    /// Time has passed.
    Tick,
    /// A dataset's manifest was read.
    RegisterDataset {
        /// The folder.
        url: String,
        /// BLAKE3 of the manifest's bytes.
        digest: Digest,
        /// The manifest.
        manifest: Box<Manifest>,
    },
    /// Train an experiment.
    SubmitRun {
        /// The same key again gives the same run.
        key: String,
        /// Name of the run; empty: the experiment's and a number.
        name: String,
        /// What to train.
        experiment: Box<Experiment>,
        /// The registered dataset.
        dataset: Digest,
    },
    /// Search.
    SubmitSweep {
        /// The same key again gives the same sweep.
        key: String,
        /// What to search.
        sweep: Box<morph_spec::Sweep>,
        /// `dataset.url` of each point → the registered dataset.
        datasets: BTreeMap<String, Digest>,
    },
    /// A checkpoint was scored once more, by hand.
    Rescored {
        /// The same key again changes nothing.
        key: Option<String>,
        /// The run that it is of, where that is known.
        run: Option<RunId>,
        /// URL of the checkpoint's manifest.
        checkpoint: String,
        /// What it was scored on, each split once.
        tests: Vec<Tested>,
    },
    /// Stop a run or all of a sweep for good.
    Cancel(Target),
    /// Hold a run or all of a sweep back; running ones save a checkpoint first.
    Pause(Target),
    /// Let what was paused go on.
    Resume(Target),
    /// Try a run that failed or was cancelled again, or all such runs of a sweep.
    Retry(Target),
    /// Give a worker no new work.
    Cordon {
        /// Which.
        worker: WorkerId,
        /// For people.
        reason: String,
        /// Also have its ranks save, stop, and go on elsewhere.
        drain: bool,
    },
    /// Give a worker work again.
    Uncordon(WorkerId),
    /// Stop all attempts with a checkpoint and start none.
    Drain {
        /// One line for people.
        reason: String,
    },
    /// An agent says hello.
    Hello(Box<Hello>),
    /// An agent's session has ended.
    WorkerAway {
        /// Who.
        worker: WorkerId,
        /// Which start of it.
        incarnation: String,
        /// Whether it closed the session itself and in order.
        clean: bool,
    },
    /// An agent was asked to end: it stops its ranks with a checkpoint, and starts nothing.
    WorkerLeaving {
        /// Who.
        worker: WorkerId,
        /// Which start of it.
        incarnation: String,
    },
    /// An agent was silent for too long.
    WorkerLost {
        /// Who.
        worker: WorkerId,
        /// Which start of it.
        incarnation: String,
    },
    /// An agent tells of a rank.
    Report {
        /// Which agent.
        worker: WorkerId,
        /// The attempt that it speaks of.
        fence: Fence,
        /// What it says.
        report: Report,
    },
}

/// A run or a sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A run.
    Run(RunId),
    /// A sweep.
    Sweep(SweepId),
}

/// How an agent introduces itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Identity.
    pub worker: WorkerId,
    /// Whose reports it sends: of this start of the agent, or of an earlier one that left a journal.
    pub incarnation: String,
    /// Which start of the agent it is; empty: it does not say (0.1.0).
    pub process: String,
    /// Processes that spoke as this incarnation before, and left the journal that it goes on with.
    pub before: Vec<String>,
    /// Where its ranks can be reached.
    pub host: String,
    /// Ranks that fit on it.
    pub slots: u32,
    /// Version of its program.
    pub version: String,
    /// Attempts whose ranks run there.
    pub live: Vec<Fence>,
    /// Datasets in its cache.
    pub cached: BTreeSet<Digest>,
    /// What it is.
    pub labels: BTreeMap<String, String>,
    /// Main memory in bytes for all its ranks; 0: not counted.
    pub memory: u64,
    /// The name in the certificate with which it proved who it is; empty: it had none.
    pub certificate: String,
}

/// News of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// Rank 0 serves the process group's store.
    StoreReady {
        /// `host:port`.
        address: String,
    },
    /// A rank joined the process group.
    RankReady {
        /// Which.
        rank: u32,
        /// Where it (re)starts.
        step: u64,
        /// Steps of the whole training.
        total_steps: u64,
        /// Datasets in its node's cache.
        cached: BTreeSet<Digest>,
    },
    /// A checkpoint is complete.
    Checkpoint(Checkpoint),
    /// The scores.
    Evaluated {
        /// Finite values by name.
        summary: BTreeMap<String, f64>,
        /// The whole report as JSON.
        summary_json: String,
        /// URLs of what was written.
        artifacts: Vec<String>,
    },
    /// The agent was told to stop the attempt, and has no rank of it: what was placed there was never started.
    NotHere,
    /// A rank is over.
    RankExited {
        /// Which.
        rank: u32,
        /// How.
        exit: Exit,
        /// One line.
        error: String,
    },
}

/// Why a command was refused: a message for people, classed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// The name is taken.
    #[error("{0}")]
    Exists(String),
    /// The request makes no sense, whatever the state.
    #[error("{0}")]
    Invalid(String),
    /// Not now, or not in this state.
    #[error("{0}")]
    Precondition(String),
    /// Somebody else has taken the place of whoever asks.
    #[error("{0}")]
    Replaced(String),
    /// Whoever asks is not who it says.
    #[error("{0}")]
    Forbidden(String),
}
