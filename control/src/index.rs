//! What is looked up with every decision, so that none has to look through everything: kept by [`crate::evolve`], and the
//! same whenever the state is the same.

use std::collections::{BTreeMap, BTreeSet};

use morph_spec::{RunId, SweepId, Timestamp, WorkerId};

use crate::{Policy, Run, RunState, SweepEnd, WorkerState};

/// A line of runs that wait: alike but for their age.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Line {
    pub project: String,
    pub priority: i32,
    pub sweep: Option<SweepId>,
}

/// What a worker carries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Load {
    /// Live ranks.
    pub ranks: u32,
    /// By device: thousandths of the slot that are taken. As long as the last one that is.
    pub shares: Vec<u32>,
    /// Bytes that are taken.
    pub memory: u64,
    /// Live ranks by run.
    pub runs: BTreeMap<RunId, u32>,
}

impl Load {
    /// Devices of which a part is taken.
    pub fn devices(&self) -> u32 {
        self.shares.iter().filter(|s| **s > 0).count() as u32
    }
}

/// What a project, or a sweep, has at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Usage {
    /// Thousandths of slots.
    pub slots: u64,
    /// Runs with a live attempt.
    pub runs: u32,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Index {
    /// Queued runs by line, in the order of their submission.
    pub queued: BTreeMap<Line, BTreeSet<(u64, RunId)>>,
    /// Queued runs that wait for others.
    pub dependent: BTreeSet<RunId>,
    /// Runs with a live attempt.
    pub live: BTreeSet<RunId>,
    /// Those that fill gaps.
    pub fillers: BTreeSet<RunId>,
    /// Runs whose ranks are ending.
    pub stopping: BTreeSet<RunId>,
    /// Runs with a time limit and a live attempt.
    pub limited: BTreeSet<RunId>,
    /// By worker; absent when it carries nothing.
    pub loads: BTreeMap<WorkerId, Load>,
    /// By project; absent when it has nothing.
    pub projects: BTreeMap<String, Usage>,
    /// By sweep; absent when nothing of it is live.
    pub sweeps: BTreeMap<SweepId, Usage>,
    /// Runs that are not over, by sweep.
    pub open: BTreeMap<SweepId, u32>,
    /// Runs of a sweep that have failed, by cause; those that succeeded under no cause.
    pub outcomes: BTreeMap<SweepId, BTreeMap<Option<String>, u32>>,
    /// Sweeps that are not over though all their runs are.
    pub done: BTreeSet<SweepId>,
    /// When queued runs may be placed that may not yet.
    pub wakes: BTreeSet<(Timestamp, RunId)>,
    /// Workers that are away.
    pub away: BTreeSet<WorkerId>,
    /// Workers that have left; the oldest come first.
    pub left: BTreeSet<WorkerId>,
    /// Workers with strikes, or slots that may be bad.
    pub struck: BTreeSet<WorkerId>,
    /// Runs by name.
    pub run_names: BTreeMap<String, RunId>,
    /// Sweeps by name.
    pub sweep_names: BTreeMap<String, SweepId>,
    /// For names like `demo-7`: the highest number so far of `demo`.
    pub numbers: BTreeMap<String, u64>,
}

impl Index {
    pub fn load(&self, worker: WorkerId) -> Option<&Load> {
        self.loads.get(&worker)
    }

    /// Takes note of where a worker is.
    pub fn place(&mut self, worker: WorkerId, state: WorkerState) {
        self.away.remove(&worker);
        self.left.remove(&worker);
        match state {
            WorkerState::Ready | WorkerState::Lost => false,
            WorkerState::Away { .. } => self.away.insert(worker),
            WorkerState::Left => self.left.insert(worker),
        };
    }

    /// Takes note of a new name.
    pub fn name_run(&mut self, name: &str, run: RunId) {
        self.run_names.insert(name.to_owned(), run);
        if let Some((base, n)) = name.rsplit_once('-').and_then(|(base, n)| Some((base, n.parse::<u32>().ok()?))) {
            let highest = self.numbers.entry(base.to_owned()).or_default();
            *highest = u64::from(n).max(*highest);
        }
    }

    /// Puts `run` in everywhere, as it is now.
    pub fn add(&mut self, policy: &Policy, run: &Run) {
        match &run.state {
            RunState::Queued { not_before, since } => {
                self.queued.entry(line(policy, run)).or_default().insert((run.seq, run.id));
                if !run.after.is_empty() {
                    self.dependent.insert(run.id);
                }
                if not_before > since {
                    self.wakes.insert((*not_before, run.id));
                }
            }
            RunState::Stopping { .. } => {
                self.stopping.insert(run.id);
            }
            _ => {}
        }
        if let (Some(sweep), false) = (run.sweep, run.is_over()) {
            *self.open.entry(sweep).or_default() += 1;
            self.done.remove(&sweep);
        }
        if let (Some(sweep), Some(outcome)) = (run.sweep, outcome(run)) {
            *self.outcomes.entry(sweep).or_default().entry(outcome).or_default() += 1;
        }
        let Some(attempt) = run.attempt() else { return };
        self.live.insert(run.id);
        if attempt.backfill {
            self.fillers.insert(run.id);
        }
        if !run.experiment.scheduling.time_limit.0.is_zero() {
            self.limited.insert(run.id);
        }
        let (share, memory) = (run.share(), run.experiment.scheduling.memory.0);
        let mut slots = 0;
        for rank in attempt.ranks.iter().filter(|r| r.is_live()) {
            slots += u64::from(share);
            let load = self.loads.entry(rank.worker).or_default();
            load.ranks += 1;
            load.memory += memory;
            *load.runs.entry(run.id).or_default() += 1;
            let device = rank.device as usize;
            if load.shares.len() <= device {
                load.shares.resize(device + 1, 0);
            }
            load.shares[device] += share;
        }
        let project = self.projects.entry(run.experiment.scheduling.project.clone()).or_default();
        (project.slots, project.runs) = (project.slots + slots, project.runs + 1);
        if let Some(sweep) = run.sweep {
            let usage = self.sweeps.entry(sweep).or_default();
            (usage.slots, usage.runs) = (usage.slots + slots, usage.runs + 1);
        }
    }

    /// Takes `run` out everywhere; it must be as it was when it was put in.
    pub fn remove(&mut self, policy: &Policy, run: &Run) {
        match &run.state {
            RunState::Queued { not_before, .. } => {
                let line = line(policy, run);
                if let Some(waiting) = self.queued.get_mut(&line) {
                    waiting.remove(&(run.seq, run.id));
                    if waiting.is_empty() {
                        self.queued.remove(&line);
                    }
                }
                self.dependent.remove(&run.id);
                self.wakes.remove(&(*not_before, run.id));
            }
            RunState::Stopping { .. } => {
                self.stopping.remove(&run.id);
            }
            _ => {}
        }
        if let (Some(sweep), false) = (run.sweep, run.is_over()) {
            let open = self.open.entry(sweep).or_default();
            *open -= 1;
            if *open == 0 {
                self.open.remove(&sweep);
                self.done.insert(sweep);
            }
        }
        if let (Some(sweep), Some(outcome)) = (run.sweep, outcome(run))
            && let Some(outcomes) = self.outcomes.get_mut(&sweep)
            && let Some(n) = outcomes.get_mut(&outcome)
        {
            *n -= 1;
            if *n == 0 {
                outcomes.remove(&outcome);
            }
            if outcomes.is_empty() {
                self.outcomes.remove(&sweep);
            }
        }
        let Some(attempt) = run.attempt() else { return };
        self.live.remove(&run.id);
        self.fillers.remove(&run.id);
        self.limited.remove(&run.id);
        let (share, memory) = (run.share(), run.experiment.scheduling.memory.0);
        let mut slots = 0;
        for rank in attempt.ranks.iter().filter(|r| r.is_live()) {
            slots += u64::from(share);
            let Some(load) = self.loads.get_mut(&rank.worker) else { continue };
            load.ranks -= 1;
            load.memory -= memory;
            if let Some(n) = load.runs.get_mut(&run.id) {
                *n -= 1;
                if *n == 0 {
                    load.runs.remove(&run.id);
                }
            }
            load.shares[rank.device as usize] -= share;
            while load.shares.last() == Some(&0) {
                load.shares.pop();
            }
            if load.ranks == 0 {
                self.loads.remove(&rank.worker);
            }
        }
        lessen(&mut self.projects, &run.experiment.scheduling.project, slots);
        if let Some(sweep) = run.sweep {
            lessen(&mut self.sweeps, &sweep, slots);
        }
    }

    /// A sweep has ended, or begins again.
    pub fn sweep_ended(&mut self, sweep: SweepId, end: Option<SweepEnd>) {
        let open = self.open.get(&sweep).is_some_and(|n| *n > 0);
        if end.is_none() && !open {
            self.done.insert(sweep);
        } else {
            self.done.remove(&sweep);
        }
    }
}

/// The line in which `run` waits.
pub(crate) fn line(policy: &Policy, run: &Run) -> Line {
    let scheduling = &run.experiment.scheduling;
    let most = policy.projects.get(&scheduling.project).map_or(i32::MAX, |p| p.max_priority);
    Line { project: scheduling.project.clone(), priority: scheduling.priority.min(most), sweep: run.sweep }
}

/// Why a run has failed, without what differs from run to run; `None` inside when it has succeeded.
fn outcome(run: &Run) -> Option<Option<String>> {
    match &run.state {
        RunState::Succeeded { .. } => Some(None),
        RunState::Failed { error, .. } => {
            let letters = |c: char| if c.is_ascii_digit() { '#' } else { c };
            let mut cause: String = error.chars().take(200).map(letters).collect();
            while cause.contains("##") {
                cause = cause.replace("##", "#");
            }
            Some(Some(cause))
        }
        _ => None,
    }
}

fn lessen<K: Ord + Clone>(of: &mut BTreeMap<K, Usage>, key: &K, slots: u64) {
    if let Some(usage) = of.get_mut(key) {
        usage.slots -= slots;
        usage.runs -= 1;
        if usage.runs == 0 {
            of.remove(key);
        }
    }
}
