//! Makes what happened so. Total: whatever the event says, this cannot fail; what names nothing known changes nothing.

use std::{collections::BTreeSet, mem};

use morph_spec::Fence;

use crate::{
    Attempt, Cluster, Event, Exit, Next, Past, Rank, RankState, Run, RunState, Submission, Sweep, What, Worker,
    WorkerState,
};

/// Applies `event` to `cluster`.
pub fn evolve(cluster: &mut Cluster, event: &Event) {
    let at = event.at;
    match &event.what {
        What::CoordinatorStarted {} => {
            cluster.draining = None;
            for worker in cluster.workers.values_mut() {
                if matches!(worker.state, WorkerState::Ready | WorkerState::Away { .. }) {
                    worker.state = WorkerState::Away { since: at };
                }
            }
        }
        What::DrainBegan { reason } => cluster.draining = Some(reason.clone()),
        What::DatasetRegistered { dataset } => {
            cluster.urls.insert(dataset.url.clone(), dataset.digest);
            cluster.datasets.insert(dataset.digest, dataset.clone());
        }
        What::SweepSubmitted { sweep, key, name, spec } => {
            cluster.keys.insert(key.clone(), Submission::Sweep(*sweep));
            cluster.sweeps.insert(
                *sweep,
                Sweep {
                    id: *sweep,
                    name: name.clone(),
                    spec: spec.clone(),
                    runs: Vec::new(),
                    cancelled: false,
                    end: None,
                    created_at: at,
                    ended_at: None,
                },
            );
        }
        What::RunSubmitted { run, key, name, sweep, params, experiment, dataset, max_retries } => {
            if let Some(key) = key {
                cluster.keys.insert(key.clone(), Submission::Run(*run));
            }
            if let Some(sweep) = sweep.and_then(|s| cluster.sweeps.get_mut(&s)) {
                sweep.runs.push(*run);
            }
            cluster.order.push(*run);
            cluster.runs.insert(
                *run,
                Run {
                    id: *run,
                    name: name.clone(),
                    sweep: *sweep,
                    experiment: experiment.clone(),
                    params: params.clone(),
                    dataset: *dataset,
                    max_retries: *max_retries,
                    state: RunState::Queued { not_before: at },
                    attempts: 0,
                    past: Vec::new(),
                    checkpoints: Vec::new(),
                    failures: 0,
                    failure_step: 0,
                    last_error: None,
                    total_steps: 0,
                    start_step: 0,
                    summary: Default::default(),
                    summary_json: String::new(),
                    artifacts: Vec::new(),
                    created_at: at,
                    started_at: None,
                },
            );
        }
        What::RunCancelled { run } => {
            if let Some(run) = cluster.runs.get_mut(run).filter(|r| r.attempt().is_none() && !r.is_over()) {
                run.state = RunState::Cancelled { at };
            }
        }
        What::SweepCancelled { sweep } => {
            if let Some(sweep) = cluster.sweeps.get_mut(sweep) {
                sweep.cancelled = true;
            }
        }
        What::SweepEnded { sweep, end, .. } => {
            if let Some(sweep) = cluster.sweeps.get_mut(sweep) {
                sweep.end = Some(*end);
                sweep.ended_at = Some(at);
            }
        }
        What::WorkerAway { worker } => set_worker(cluster, *worker, WorkerState::Away { since: at }),
        What::WorkerLost { worker } => set_worker(cluster, *worker, WorkerState::Lost),
        What::WorkerLeft { worker } => set_worker(cluster, *worker, WorkerState::Left),
        What::WorkerJoined { .. } => joined(cluster, event),
        What::RunPlaced { fence, ranks, .. } => {
            if let Some(run) = cluster.runs.get_mut(&fence.run) {
                run.attempts = fence.attempt;
                let ranks = ranks.iter().map(|&worker| Rank { worker, state: RankState::Placed }).collect();
                let attempt = Attempt { number: fence.attempt, placed_at: at, ranks, store: None, evaluated: false };
                run.state = RunState::Starting { attempt };
            }
        }
        What::RankReady { fence, rank, step, total_steps } => ready(cluster, event, *fence, *rank, *step, *total_steps),
        What::StoreReady { fence, .. }
        | What::CheckpointCommitted { fence, .. }
        | What::Evaluated { fence, .. }
        | What::RankExited { fence, .. }
        | What::StopRequested { fence, .. }
        | What::StopEscalated { fence }
        | What::AttemptEnded { fence, .. } => {
            let current = |r: &&mut Run| r.attempt().is_some_and(|a| a.number == fence.attempt);
            if let Some(run) = cluster.runs.get_mut(&fence.run).filter(current) {
                of_attempt(run, event);
            }
        }
    }
}

fn set_worker(cluster: &mut Cluster, worker: morph_spec::WorkerId, state: WorkerState) {
    if let Some(worker) = cluster.workers.get_mut(&worker) {
        worker.state = state;
    }
}

fn joined(cluster: &mut Cluster, event: &Event) {
    let What::WorkerJoined { worker: id, incarnation, host, slots, version, live, cached } = &event.what else {
        return;
    };
    let known = cluster.workers.get(id);
    let mut lies: BTreeSet<_> = known.map(|w| w.cached.clone()).unwrap_or_default();
    lies.extend(cached);
    let worker = Worker {
        id: *id,
        incarnation: incarnation.clone(),
        host: host.clone(),
        slots: *slots,
        version: version.clone(),
        state: WorkerState::Ready,
        cached: lies,
        joined_at: known.map_or(event.at, |w| w.joined_at),
    };
    cluster.workers.insert(*id, worker);
    for run in cluster.runs.values_mut() {
        let fence = run.fence();
        let RunState::Stopping { attempt, .. } = &mut run.state else { continue };
        for rank in attempt.ranks.iter_mut().filter(|r| r.worker == *id && r.is_live()) {
            match rank.state {
                RankState::Missing { .. } if live.contains(&fence) => rank.state = RankState::Ready,
                RankState::Placed | RankState::Ready if !live.contains(&fence) => {
                    rank.state = RankState::Missing { since: event.at };
                }
                _ => {}
            }
        }
    }
}

fn ready(cluster: &mut Cluster, event: &Event, fence: Fence, rank: u32, step: u64, total_steps: u64) {
    let Some(run) = cluster.runs.get_mut(&fence.run) else { return };
    let dataset = run.dataset;
    let Some(attempt) = run.attempt_mut().filter(|a| a.number == fence.attempt) else { return };
    let Some(found) = attempt.ranks.get_mut(rank as usize).filter(|r| r.is_live()) else { return };
    found.state = RankState::Ready;
    let worker = found.worker;
    let all = attempt.ranks.iter().all(|r| matches!(r.state, RankState::Ready));
    run.total_steps = total_steps;
    run.start_step = step;
    // A rank opens its dataset before it joins, so now it lies in that node's cache.
    if let Some(worker) = cluster.workers.get_mut(&worker) {
        worker.cached.insert(dataset);
    }
    if let (true, RunState::Starting { attempt }) = (all, &mut run.state) {
        let attempt = mem::replace(attempt, empty());
        run.state = RunState::Running { attempt };
        run.started_at = run.started_at.or(Some(event.at));
    }
}

/// What stands in for an attempt for the moment in which it moves from one state to the next.
fn empty() -> Attempt {
    Attempt { number: 0, placed_at: Default::default(), ranks: Vec::new(), store: None, evaluated: false }
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
        }
        What::Evaluated { summary, summary_json, artifacts, .. } => {
            run.summary.clone_from(summary);
            run.summary_json.clone_from(summary_json);
            run.artifacts.clone_from(artifacts);
            if let Some(attempt) = run.attempt_mut() {
                attempt.evaluated = true;
            }
        }
        What::RankExited { rank, exit, error, .. } => {
            let rank = run.attempt_mut().and_then(|a| a.ranks.get_mut(*rank as usize)).filter(|r| r.is_live());
            if let Some(rank) = rank {
                rank.state = RankState::Exited { exit: *exit, error: error.clone() };
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
        What::AttemptEnded { outcome, error, next, .. } => {
            let Some(attempt) = run.attempt_mut() else { return };
            let attempt = mem::replace(attempt, empty());
            run.past.push(Past {
                number: attempt.number,
                placed_at: attempt.placed_at,
                ended_at: event.at,
                ranks: attempt.ranks.iter().map(|r| r.worker).collect(),
                outcome: *outcome,
                error: error.clone(),
            });
            run.state = match next {
                Next::Queue { not_before, failures } => {
                    if *failures > 0 {
                        run.failures = *failures;
                        run.failure_step = run.newest_checkpoint().map_or(0, |c| c.step);
                        run.last_error = Some(error.clone());
                    }
                    RunState::Queued { not_before: *not_before }
                }
                Next::Succeed => RunState::Succeeded { at: event.at },
                Next::Fail { error } => RunState::Failed { at: event.at, error: error.clone() },
                Next::Cancel => RunState::Cancelled { at: event.at },
            };
        }
        _ => {}
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
