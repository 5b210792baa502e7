//! Makes what happened so. Total: whatever the event says, this cannot fail; what names nothing known changes nothing.

use std::{collections::BTreeSet, mem};

use morph_spec::{Fence, RunId, Timestamp, WorkerId};

use crate::{
    Attempt, Cluster, Cordon, Crash, Event, Exit, Next, Outcome, Past, Rank, RankState, Run, RunState, Submission,
    Sweep, What, Worker, WorkerState,
};

/// Applies `event` to `cluster`.
pub fn evolve(cluster: &mut Cluster, event: &Event) {
    let at = event.at;
    match &event.what {
        What::CoordinatorStarted {} => begun(cluster, at),
        What::HistoryRestored { gone, floor } => {
            begun(cluster, at);
            for run in cluster.runs.values_mut() {
                run.checkpoints.retain(|c| !gone.contains(&c.url));
                if !run.is_done() {
                    run.floor = run.attempts.max(run.floor).max(*floor);
                }
            }
        }
        What::DrainBegan { reason } => cluster.draining = Some(reason.clone()),
        What::DatasetRegistered { dataset } => {
            cluster.urls.insert(dataset.url.clone(), dataset.digest);
            cluster.datasets.insert(dataset.digest, dataset.clone());
        }
        What::Rescored { key, tests, .. } => {
            if let Some(key) = key {
                cluster.keys.insert(key.clone(), Submission::Evaluation);
            }
            for test in tests {
                *cluster.rescored.entry(test.clone()).or_default() += 1;
            }
        }
        What::SweepSubmitted { .. }
        | What::SweepCancelled { .. }
        | What::SweepPaused { .. }
        | What::SweepResumed { .. }
        | What::SweepRetried { .. }
        | What::SweepHalted { .. }
        | What::SweepEnded { .. } => of_sweep(cluster, event),
        What::RunSubmitted { .. } => submitted(cluster, event),
        What::RunCancelled { run } => idle(cluster, *run, |run| run.state = RunState::Cancelled { at }),
        What::RunGivenUp { run, error } => {
            idle(cluster, *run, |run| run.state = RunState::Failed { at, error: error.clone() });
        }
        What::RunPaused { run } => idle(cluster, *run, |run| run.state = RunState::Paused { since: at }),
        What::RunResumed { run } => idle(cluster, *run, |run| {
            if matches!(run.state, RunState::Paused { .. }) {
                run.state = RunState::Queued { not_before: at, since: at };
            }
        }),
        What::RunRetried { run } => change(cluster, *run, |run| {
            if matches!(run.state, RunState::Failed { .. } | RunState::Cancelled { .. }) {
                (run.failures, run.losses, run.last_error) = (0, 0, None);
                run.state = RunState::Queued { not_before: at, since: at };
            }
        }),
        What::WorkerLeaving { worker } => {
            if let Some(worker) = cluster.workers.get_mut(worker) {
                worker.leaving = true;
            }
        }
        What::WorkerAway { worker } => set_worker(cluster, *worker, WorkerState::Away { since: at }),
        What::WorkerLost { worker } => set_worker(cluster, *worker, WorkerState::Lost),
        What::WorkerLeft { worker } => set_worker(cluster, *worker, WorkerState::Left),
        What::WorkerForgotten { worker } => {
            cluster.workers.remove(worker);
            for set in [&mut cluster.index.away, &mut cluster.index.left, &mut cluster.index.struck] {
                set.remove(worker);
            }
        }
        What::WorkerCordoned { worker, reason, automatic } => {
            if let Some(worker) = cluster.workers.get_mut(worker) {
                worker.cordoned = Some(Cordon { reason: reason.clone(), automatic: *automatic, at });
            }
        }
        What::WorkerUncordoned { worker } => {
            if let Some(worker) = cluster.workers.get_mut(worker) {
                worker.cordoned = None;
                worker.strikes.clear();
                worker.bad_slots.clear();
                cluster.index.struck.remove(&worker.id);
            }
        }
        What::WorkerJoined { .. } => joined(cluster, event),
        What::RunPlaced { fence, ranks, devices, backfill, raised, .. } => {
            let at_rank_0 = ranks.first().and_then(|worker| cluster.workers.get(worker));
            let version = at_rank_0.map(|w| w.version.clone()).unwrap_or_default();
            change(cluster, fence.run, |run| {
                run.attempts = fence.attempt;
                let device = |rank: usize| {
                    let earlier = || ranks[..rank].iter().filter(|w| **w == ranks[rank]).count() as u32;
                    devices.get(rank).copied().unwrap_or_else(earlier)
                };
                let placed = ranks.iter().enumerate();
                let ranks =
                    placed.map(|(i, &worker)| Rank { worker, device: device(i), state: RankState::Placed }).collect();
                let (number, backfill, raised) = (fence.attempt, *backfill, *raised);
                let attempt =
                    Attempt { number, placed_at: at, ranks, store: None, evaluated: false, backfill, raised, version };
                run.state = RunState::Starting { attempt };
            });
        }
        What::RankReady { .. } => ready(cluster, event),
        What::StoreReady { fence, .. }
        | What::CheckpointCommitted { fence, .. }
        | What::CheckpointLost { fence, .. }
        | What::Evaluated { fence, .. }
        | What::RankExited { fence, .. }
        | What::StopRequested { fence, .. }
        | What::StopEscalated { fence }
        | What::AttemptEnded { fence, .. } => {
            if cluster.is_current(*fence) {
                strikes(cluster, event);
                change(cluster, fence.run, |run| of_attempt(run, event));
            }
        }
    }
}

/// A coordinator begins: who is here, agents tell.
fn begun(cluster: &mut Cluster, at: Timestamp) {
    cluster.draining = None;
    let here = |w: &&Worker| matches!(w.state, WorkerState::Ready | WorkerState::Away { .. });
    let here: Vec<_> = cluster.workers.values().filter(here).map(|w| w.id).collect();
    here.into_iter().for_each(|worker| set_worker(cluster, worker, WorkerState::Away { since: at }));
}

/// Changes a run, and what is indexed of it.
fn change(cluster: &mut Cluster, run: RunId, f: impl FnOnce(&mut Run)) {
    let Some(run) = cluster.runs.get_mut(&run) else { return };
    cluster.index.remove(&cluster.policy, run);
    f(run);
    cluster.index.add(&cluster.policy, run);
}

/// [`change`] of a run that waits.
fn idle(cluster: &mut Cluster, run: RunId, f: impl FnOnce(&mut Run)) {
    if cluster.runs.get(&run).is_some_and(|r| r.attempt().is_none() && !r.is_over()) {
        change(cluster, run, f);
    }
}

fn of_sweep(cluster: &mut Cluster, event: &Event) {
    let at = event.at;
    if let What::SweepSubmitted { sweep, key, name, spec } = &event.what {
        cluster.keys.insert(key.clone(), Submission::Sweep(*sweep));
        cluster.index.sweep_names.insert(name.clone(), *sweep);
        let new = Sweep {
            id: *sweep,
            name: name.clone(),
            spec: spec.clone(),
            runs: Vec::new(),
            cancelled: false,
            paused: false,
            halted: None,
            end: None,
            created_at: at,
            ended_at: None,
        };
        cluster.sweeps.insert(*sweep, new);
        return;
    }
    let Some(sweep) = event.sweep().and_then(|id| cluster.sweeps.get_mut(&id)) else { return };
    match &event.what {
        What::SweepCancelled { .. } => (sweep.cancelled, sweep.paused) = (true, false),
        What::SweepPaused { .. } => sweep.paused = true,
        What::SweepResumed { .. } => sweep.paused = false,
        What::SweepHalted { reason, .. } => sweep.halted = Some(reason.clone()),
        What::SweepRetried { .. } => {
            (sweep.cancelled, sweep.halted, sweep.end, sweep.ended_at) = (false, None, None, None);
        }
        What::SweepEnded { end, .. } => {
            sweep.end = Some(*end);
            sweep.ended_at = Some(at);
        }
        _ => {}
    }
    cluster.index.sweep_ended(sweep.id, sweep.end);
}

fn submitted(cluster: &mut Cluster, event: &Event) {
    let What::RunSubmitted { run: id, key, name, sweep, params, experiment, dataset, max_retries, after } = &event.what
    else {
        return;
    };
    if let Some(key) = key {
        cluster.keys.insert(key.clone(), Submission::Run(*id));
    }
    if let Some(sweep) = sweep.and_then(|s| cluster.sweeps.get_mut(&s)) {
        sweep.runs.push(*id);
    }
    let run = Run {
        id: *id,
        seq: cluster.order.len() as u64,
        name: name.clone(),
        sweep: *sweep,
        experiment: experiment.clone(),
        params: params.clone(),
        dataset: *dataset,
        max_retries: *max_retries,
        after: after.clone(),
        state: RunState::Queued { not_before: event.at, since: event.at },
        attempts: 0,
        floor: 0,
        past: Vec::new(),
        checkpoints: Vec::new(),
        failures: 0,
        losses: 0,
        failure_step: 0,
        crashes: Vec::new(),
        last_error: None,
        total_steps: 0,
        start_step: 0,
        summary: Default::default(),
        summary_json: String::new(),
        artifacts: Vec::new(),
        created_at: event.at,
        started_at: None,
    };
    cluster.order.push(*id);
    cluster.index.name_run(name, *id);
    cluster.index.add(&cluster.policy, &run);
    cluster.runs.insert(*id, run);
}

fn set_worker(cluster: &mut Cluster, id: WorkerId, state: WorkerState) {
    let Some(worker) = cluster.workers.get_mut(&id) else { return };
    worker.state = state;
    cluster.index.place(id, state);
}

/// Crashes of a run that are remembered, at most.
const CRASHES: usize = 32;

/// Earlier incarnations of a worker that are remembered, and processes of one: who was replaced comes back within seconds,
/// or never.
const REPLACED: usize = 32;

fn joined(cluster: &mut Cluster, event: &Event) {
    let What::WorkerJoined {
        worker: id,
        incarnation,
        host,
        slots,
        version,
        live,
        cached,
        cached_is_all,
        labels,
        memory,
        process,
        certificate,
    } = &event.what
    else {
        return;
    };
    let known = cluster.workers.get(id);
    let mut lies = cached.clone();
    if !cached_is_all {
        lies.extend(known.iter().flat_map(|w| &w.cached));
    }
    let (mut replaced, mut processes) = known.map(|w| (w.replaced.clone(), w.processes.clone())).unwrap_or_default();
    match known {
        Some(earlier) if earlier.incarnation != *incarnation => {
            replaced.push(earlier.incarnation.clone());
            processes.clear();
        }
        Some(same) if same.process != *process => processes.push(same.process.clone()),
        _ => {}
    }
    for earlier in [&mut replaced, &mut processes] {
        earlier.drain(..earlier.len().saturating_sub(REPLACED));
    }
    let worker = Worker {
        id: *id,
        incarnation: incarnation.clone(),
        replaced,
        process: process.clone(),
        processes,
        certificate: match known {
            Some(known) if certificate.is_empty() => known.certificate.clone(),
            _ => certificate.clone(),
        },
        host: host.clone(),
        slots: *slots,
        version: version.clone(),
        state: WorkerState::Ready,
        labels: labels.clone(),
        memory: *memory,
        // The same agent, back from a broken connection, is still about to leave.
        leaving: known.is_some_and(|w| w.leaving && w.incarnation == *incarnation),
        cordoned: known.and_then(|w| w.cordoned.clone()),
        strikes: known.map(|w| w.strikes.clone()).unwrap_or_default(),
        bad_slots: known.map(|w| w.bad_slots.clone()).unwrap_or_default(),
        cached: lies,
        joined_at: known.map_or(event.at, |w| w.joined_at),
    };
    cluster.workers.insert(*id, worker);
    cluster.index.place(*id, WorkerState::Ready);
    let stopping: Vec<RunId> = cluster.index.stopping.iter().copied().collect();
    for run in stopping {
        change(cluster, run, |run| {
            let fence = run.fence();
            let RunState::Stopping { attempt, .. } = &mut run.state else { return };
            for rank in attempt.ranks.iter_mut().filter(|r| r.worker == *id && r.is_live()) {
                match rank.state {
                    RankState::Missing { .. } if live.contains(&fence) => rank.state = RankState::Ready,
                    RankState::Placed | RankState::Ready if !live.contains(&fence) => {
                        rank.state = RankState::Missing { since: event.at };
                    }
                    _ => {}
                }
            }
        });
    }
}

fn ready(cluster: &mut Cluster, event: &Event) {
    let What::RankReady { fence, rank, step, total_steps, cached } = &event.what else { return };
    let (fence, rank, step, total_steps) = (*fence, *rank, *step, *total_steps);
    let Some(run) = cluster.runs.get(&fence.run) else { return };
    let dataset = run.dataset;
    let attempt = run.attempt().filter(|a| a.number == fence.attempt);
    let Some(found) = attempt.and_then(|a| a.ranks.get(rank as usize)).filter(|r| r.is_live()) else { return };
    let worker = found.worker;
    change(cluster, fence.run, |run| {
        run.total_steps = total_steps;
        run.start_step = step;
        let Some(attempt) = run.attempt_mut() else { return };
        attempt.ranks[rank as usize].state = RankState::Ready;
        let all = attempt.ranks.iter().all(|r| matches!(r.state, RankState::Ready));
        if let (true, RunState::Starting { attempt }) = (all, &mut run.state) {
            let attempt = mem::replace(attempt, empty());
            run.state = RunState::Running { attempt };
            run.started_at = run.started_at.or(Some(event.at));
        }
    });
    // A rank opens its dataset before it joins, so now it lies in that node's cache.
    if let Some(worker) = cluster.workers.get_mut(&worker) {
        if !cached.is_empty() {
            worker.cached.clone_from(cached);
        }
        worker.cached.insert(dataset);
    }
}

/// What stands in for an attempt for the moment in which it moves from one state to the next.
fn empty() -> Attempt {
    Attempt {
        number: 0,
        placed_at: Default::default(),
        ranks: Vec::new(),
        store: None,
        evaluated: false,
        backfill: false,
        raised: 0,
        version: String::new(),
    }
}

/// What the circuit breaker goes by: failures on a worker, and that runs get further there.
fn strikes(cluster: &mut Cluster, event: &Event) {
    let of_rank = |fence: &Fence, rank: usize| Some(cluster.attempt(*fence)?.ranks.get(rank)?.worker);
    match &event.what {
        What::RankExited { fence, rank, exit: Exit::Infra | Exit::Crashed, error } => {
            let Some(worker) = of_rank(fence, *rank as usize).and_then(|w| cluster.workers.get_mut(&w)) else { return };
            if worker.strikes.iter().all(|(run, _)| *run != fence.run) {
                worker.strikes.push((fence.run, error.clone()));
                cluster.index.struck.insert(worker.id);
            }
        }
        What::CheckpointCommitted { fence, .. } | What::Evaluated { fence, .. } => got_further(cluster, *fence),
        _ => {}
    }
}

/// A run gets further where it is now: these workers and slots are good. Those on which it crashed before may not be.
fn got_further(cluster: &mut Cluster, fence: Fence) {
    let Cluster { runs, workers, index, .. } = cluster;
    let Some(run) = runs.get(&fence.run) else { return };
    let good = || run.attempt().into_iter().flat_map(|a| &a.ranks).map(|r| (r.worker, r.device));
    let mut touched = BTreeSet::new();
    for (worker, device) in good() {
        if let Some(worker) = workers.get_mut(&worker) {
            worker.strikes.clear();
            worker.bad_slots.remove(&device);
            touched.insert(worker.id);
        }
    }
    for crash in run.crashes.iter().filter(|crash| good().all(|here| here != (crash.worker, crash.device))) {
        let Some(worker) = workers.get_mut(&crash.worker) else { continue };
        let crashed = worker.bad_slots.entry(crash.device).or_default();
        if crashed.iter().all(|(other, _)| *other != run.id) {
            crashed.push((run.id, crash.error.clone()));
        }
        touched.insert(worker.id);
    }
    for worker in touched {
        match workers.get(&worker) {
            Some(known) if known.is_struck() => index.struck.insert(worker),
            _ => index.struck.remove(&worker),
        };
    }
}

fn of_attempt(run: &mut Run, event: &Event) {
    match &event.what {
        What::StoreReady { address, .. } => {
            if let Some(attempt) = run.attempt_mut() {
                attempt.store = Some(address.clone());
            }
        }
        What::CheckpointCommitted { checkpoint, .. } => {
            if checkpoint.best {
                for older in &mut run.checkpoints {
                    older.best = false;
                }
            }
            run.checkpoints.push(checkpoint.clone());
            run.crashes.clear();
        }
        What::CheckpointLost { url, expired, .. } => {
            run.checkpoints.retain(|c| c.url != *url && !expired.contains(&c.url));
        }
        What::Evaluated { summary, summary_json, artifacts, .. } => {
            run.summary.clone_from(summary);
            run.summary_json.clone_from(summary_json);
            run.artifacts.clone_from(artifacts);
            run.crashes.clear();
            if let Some(attempt) = run.attempt_mut() {
                attempt.evaluated = true;
            }
        }
        What::RankExited { rank, exit, error, .. } => {
            let rank = run.attempt_mut().and_then(|a| a.ranks.get_mut(*rank as usize)).filter(|r| r.is_live());
            let Some(rank) = rank else { return };
            rank.state = RankState::Exited { exit: *exit, error: error.clone() };
            if *exit == Exit::Crashed {
                let crash = Crash { worker: rank.worker, device: rank.device, error: error.clone() };
                run.crashes.push(crash);
                run.crashes.drain(..run.crashes.len().saturating_sub(CRASHES));
            }
        }
        What::StopRequested { stop, .. } => {
            if let Some(attempt) = run.attempt_mut() {
                let attempt = mem::replace(attempt, empty());
                run.state = RunState::Stopping { attempt, stop: stop.clone() };
            }
        }
        What::StopEscalated { .. } => {
            if let RunState::Stopping { stop, .. } = &mut run.state {
                stop.killed = true;
            }
        }
        What::AttemptEnded { outcome, error, next, .. } => ended(run, event, *outcome, error, next),
        _ => {}
    }
}

fn ended(run: &mut Run, event: &Event, outcome: Outcome, error: &str, next: &Next) {
    let at = event.at;
    let Some(attempt) = run.attempt_mut() else { return };
    let attempt = mem::replace(attempt, empty());
    let no_checkpoint = attempt.worst().is_some_and(|(_, exit, _)| exit == Exit::NoCheckpoint);
    run.past.push(Past {
        number: attempt.number,
        placed_at: attempt.placed_at,
        ended_at: at,
        ranks: attempt.ranks.iter().map(|r| r.worker).collect(),
        version: attempt.version,
        outcome,
        error: error.to_owned(),
    });
    run.state = match next {
        // The checkpoint was struck: that counts as nobody's failure, and as no stop on purpose either.
        Next::Queue { not_before, .. } if no_checkpoint => {
            run.last_error = Some(error.to_owned());
            RunState::Queued { not_before: *not_before, since: at }
        }
        Next::Queue { not_before, failures } => {
            // A failure that is none of the run's own is seen by what it did not count.
            let before = if run.progressed() { 0 } else { run.failures };
            let lost = outcome == Outcome::Lost || (outcome == Outcome::Failed && *failures == before);
            if *failures > 0 || lost {
                run.losses = match (run.progressed(), lost) {
                    (true, lost) => u32::from(lost),
                    (false, lost) => run.losses + u32::from(lost),
                };
                run.failures = *failures;
                run.failure_step = run.newest_checkpoint().map_or(0, |c| c.step);
                run.last_error = Some(error.to_owned());
            }
            RunState::Queued { not_before: *not_before, since: at }
        }
        Next::Succeed => RunState::Succeeded { at },
        Next::Fail { error } => RunState::Failed { at, error: error.clone() },
        Next::Cancel => RunState::Cancelled { at },
        Next::Pause => RunState::Paused { since: at },
    };
}

impl Run {
    /// Whether it has got further since the last failure.
    pub(crate) fn progressed(&self) -> bool {
        self.newest_checkpoint().map_or(0, |c| c.step) > self.failure_step
    }
}

impl Attempt {
    /// The worst that a rank has come to, with its words.
    pub(crate) fn worst(&self) -> Option<(usize, Exit, &str)> {
        let ended = self.ranks.iter().enumerate().filter_map(|(i, r)| match &r.state {
            RankState::Exited { exit, error } => Some((i, *exit, error.as_str())),
            _ => None,
        });
        // Of equals the first rank: max_by_key returns the last.
        ended.rev().max_by_key(|(_, exit, _)| *exit)
    }
}
