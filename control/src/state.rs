//! What is. Changed by [`crate::evolve`] only.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use morph_spec::{Digest, Fence, Manifest, RunId, SweepId, Timestamp, WorkerId};
use serde::{Deserialize, Serialize};

use crate::{
    Attempt, Hello, Policy, Project, Run, RunState, Target,
    index::{Index, Load},
    sabotage::{Mechanism, is_broken},
    test_use::Tested,
};

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
    /// All workers that joined, but those that left long ago.
    pub workers: BTreeMap<WorkerId, Worker>,
    /// Submission keys → what they made.
    pub keys: BTreeMap<String, Submission>,
    /// How often checkpoints were scored by hand on what.
    pub rescored: BTreeMap<Tested, u32>,
    /// Why nothing is started any more, while the coordinator is being stopped.
    pub draining: Option<String>,
    /// What is looked up often; follows from the rest.
    pub(crate) index: Index,
    /// Up to when overdue things were seen to; not part of the history.
    pub(crate) ticked: Soft<Timestamp>,
}

/// A value that is no part of what two states are compared by.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Soft<T>(pub T);

impl<T> PartialEq for Soft<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// What a request with a key made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Submission {
    /// A run.
    Run(RunId),
    /// A sweep.
    Sweep(SweepId),
    /// A note in the ledger of test sets.
    Evaluation,
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

/// A search over hyper-parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Whether somebody paused it.
    pub paused: bool,
    /// Why it was stopped: all its runs failed for the same cause.
    pub halted: Option<String>,
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Worker {
    /// Identity.
    pub id: WorkerId,
    /// Which start of the agent process.
    pub incarnation: String,
    /// Earlier ones, newest last; not all that there ever were.
    pub replaced: Vec<String>,
    /// The process that speaks as this incarnation.
    pub process: String,
    /// Those that did before it, newest last; not all that there ever were.
    pub processes: Vec<String>,
    /// The name in the certificate that it last had; empty: it never had one. Others may not join in its place.
    pub certificate: String,
    /// Where its ranks can be reached.
    pub host: String,
    /// Ranks that fit on it.
    pub slots: u32,
    /// Version of its program.
    pub version: String,
    /// Whether it is here.
    pub state: WorkerState,
    /// What it is: `scheduling.nodes` asks for these.
    pub labels: BTreeMap<String, String>,
    /// Main memory in bytes for all its ranks; 0: not counted.
    pub memory: u64,
    /// Whether it is about to leave: then it gets no new work either.
    pub leaving: bool,
    /// Why it gets no new work.
    pub cordoned: Option<Cordon>,
    /// Runs that failed there since one got further there, each once.
    pub strikes: Vec<(RunId, String)>,
    /// Runs that crashed on a slot and got further elsewhere, each once, since one got further on that slot: a bad GPU beside
    /// good ones.
    pub bad_slots: BTreeMap<u32, Vec<(RunId, String)>>,
    /// Datasets that lie in its cache.
    pub cached: BTreeSet<Digest>,
    /// When it joined first.
    pub joined_at: Timestamp,
}

/// Why a worker gets no new work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cordon {
    /// For people.
    pub reason: String,
    /// Whether the circuit breaker did it, and nobody.
    pub automatic: bool,
    /// Since when.
    pub at: Timestamp,
}

/// Whether a worker is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
        let newest = self.runs.get(&fence.run)?.attempt();
        newest.filter(|a| a.number == fence.attempt || is_broken(Mechanism::Fence))
    }

    /// Whether what is said under `fence` counts.
    pub fn is_current(&self, fence: Fence) -> bool {
        self.attempt(fence).is_some()
    }

    /// Whether what its worker's incarnation was acknowledged is of the process that says `hello`, or in the journal that this goes
    /// on with. It is not where a copy of its home spoke meanwhile: from the copy on, the two number different reports alike.
    /// Ask before the hello is decided on.
    pub fn acknowledges(&self, hello: &Hello) -> bool {
        // What was acknowledged to one that was forgotten since, nobody knows whose it was.
        let Some(last) = self.workers.get(&hello.worker) else { return false };
        if last.incarnation != hello.incarnation {
            return true;
        }
        // Agents of 0.1.0 do not say.
        let unknown = last.process.is_empty() || hello.process.is_empty();
        unknown
            || last.process == hello.process
            || hello.before.contains(&last.process)
            || is_broken(Mechanism::Lineage)
    }

    /// All runs, oldest first.
    pub fn in_order(&self) -> impl DoubleEndedIterator<Item = &Run> {
        self.order.iter().filter_map(|id| self.runs.get(id))
    }

    /// Ranks that hold slots of `worker`.
    pub fn used(&self, worker: WorkerId) -> u32 {
        self.index.load(worker).map_or(0, |l| l.ranks)
    }

    /// Slots of `worker` that no rank has any part of.
    pub fn idle(&self, worker: WorkerId) -> u32 {
        let slots = self.workers.get(&worker).map_or(0, |w| w.slots);
        slots.saturating_sub(self.index.load(worker).map_or(0, Load::devices))
    }

    /// Runs with live ranks on `worker`, oldest first.
    pub fn runs_on(&self, worker: WorkerId) -> impl Iterator<Item = &Run> {
        let ids = self.index.load(worker).into_iter().flat_map(|l| l.runs.keys());
        ids.filter_map(|id| self.runs.get(id))
    }

    /// Attempts with live ranks.
    pub fn live(&self) -> impl Iterator<Item = (Fence, &Attempt)> {
        self.live_runs().filter_map(|r| Some((r.fence(), r.attempt()?)))
    }

    /// Runs with a live attempt.
    pub fn live_runs(&self) -> impl Iterator<Item = &Run> {
        self.index.live.iter().filter_map(|id| self.runs.get(id))
    }

    /// Whether `target` has succeeded; `None` while that is open.
    pub fn succeeded(&self, target: Target) -> Option<bool> {
        match target {
            Target::Run(id) => match &self.runs.get(&id)?.state {
                RunState::Succeeded { .. } => Some(true),
                RunState::Failed { .. } | RunState::Cancelled { .. } => Some(false),
                _ => None,
            },
            Target::Sweep(id) => self.sweeps.get(&id)?.end.map(|end| end == SweepEnd::Succeeded),
        }
    }

    /// The name of `target`.
    pub fn name_of(&self, target: Target) -> &str {
        match target {
            Target::Run(id) => self.runs.get(&id).map_or("?", |r| r.name.as_str()),
            Target::Sweep(id) => self.sweeps.get(&id).map_or("?", |s| s.name.as_str()),
        }
    }

    /// What the project `name` may have; `None` when projects are listed and it is not among them.
    pub fn project(&self, name: &str) -> Option<Project> {
        let projects = &self.policy.projects;
        if projects.is_empty() { Some(Project::default()) } else { projects.get(name).copied() }
    }

    /// The priority that counts for `run`.
    pub fn priority(&self, run: &Run) -> i32 {
        let scheduling = &run.experiment.scheduling;
        let most = self.project(&scheduling.project).unwrap_or_default().max_priority;
        scheduling.priority.min(most)
    }
}

impl Worker {
    /// Whether it takes new work.
    pub fn serves(&self) -> bool {
        self.state == WorkerState::Ready && self.cordoned.is_none() && !self.leaving
    }

    /// Whether anything is held against it.
    pub(crate) fn is_struck(&self) -> bool {
        !self.strikes.is_empty() || !self.bad_slots.is_empty()
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
