//! What happens by itself.

use morph_spec::{Rng, Timestamp, WorkerId};

use super::{attempts, placements, workers};
use crate::{
    Attempt, Cause, Cluster, Exit, RankState, Run, RunState, Sweep, SweepEnd, What, Worker, WorkerState,
    sabotage::{Mechanism, is_broken},
};

/// Lost workers first, then overdue stops, then runs that took too long or wait in vain, then ended sweeps, then the
/// circuit breakers, then who has long left, then placements; the caller asks again until there is nothing.
pub(super) fn tick(cluster: &Cluster, now: Timestamp, rng: &mut Rng) -> Vec<What> {
    let Cluster { policy, index, .. } = cluster;
    for worker in index.away.iter().filter_map(|id| cluster.workers.get(id)) {
        if matches!(worker.state, WorkerState::Away { since } if since.after(policy.grace) <= now) {
            return workers::lose(cluster, now, rng, worker.id);
        }
    }
    for run in index.stopping.iter().filter_map(|id| cluster.runs.get(id)) {
        let RunState::Stopping { attempt, stop } = &run.state else { continue };
        let fence = run.fence();
        if !stop.killed && stop.kill_at <= now && !is_broken(Mechanism::StopEscalation) {
            return vec![What::StopEscalated { fence }];
        }
        if let Some((rank, _)) = missing(attempt).find(|(_, since)| since.after(policy.grace) <= now) {
            let mut ends = attempts::Ends::new(run, fence);
            ends.rank(rank, Exit::Stopped, "its agent does not have it; it was never started".into());
            return ends.finish(policy, now, rng);
        }
    }
    for run in index.limited.iter().filter_map(|id| cluster.runs.get(id)) {
        let open = !matches!(run.state, RunState::Stopping { .. });
        if open && run.overdue_at().is_some_and(|at| at <= now) {
            let reason = format!("its time limit of {} is over", run.experiment.scheduling.time_limit);
            return attempts::stop(run, Cause::TimeLimit, policy, now, &reason).into_iter().collect();
        }
    }
    let in_vain: Vec<What> = index.dependent.iter().filter_map(|id| in_vain(cluster, cluster.runs.get(id)?)).collect();
    if !in_vain.is_empty() {
        return in_vain;
    }
    let done = || index.done.iter().filter_map(|id| cluster.sweeps.get(id));
    let ended: Vec<What> = done().filter_map(|sweep| end(cluster, sweep)).collect();
    if !ended.is_empty() {
        return ended;
    }
    let halted: Vec<What> =
        index.open.keys().filter_map(|id| cluster.sweeps.get(id)).flat_map(|s| halt(cluster, now, s)).collect();
    if !halted.is_empty() {
        return halted;
    }
    let tripped = breaker(cluster);
    if !tripped.is_empty() {
        return tripped;
    }
    let forgotten = forgotten(cluster);
    if !forgotten.is_empty() {
        return forgotten;
    }
    placements(cluster, now)
}

/// A run that waits for one that will not succeed is given up.
fn in_vain(cluster: &Cluster, run: &Run) -> Option<What> {
    let target = run.after.iter().find(|target| cluster.succeeded(**target) == Some(false))?;
    let error = format!("it was to run after {}, which did not succeed", cluster.name_of(*target));
    Some(What::RunGivenUp { run: run.id, error })
}

/// A sweep of which all runs fail for the same cause is stopped: the rest would only fail, too.
fn halt(cluster: &Cluster, now: Timestamp, sweep: &Sweep) -> Vec<What> {
    let k = cluster.policy.sweep_breaker;
    let Some(outcomes) = cluster.index.outcomes.get(&sweep.id) else { return Vec::new() };
    let (Some((Some(_), n)), 1) = (outcomes.first_key_value(), outcomes.len()) else { return Vec::new() };
    if k == 0 || *n < k || sweep.halted.is_some() || sweep.cancelled {
        return Vec::new();
    }
    let runs = || sweep.runs.iter().filter_map(|id| cluster.runs.get(id));
    let error = runs().rev().find_map(|r| match &r.state {
        RunState::Failed { error, .. } => Some(error.as_str()),
        _ => None,
    });
    let reason = format!("{n} runs failed for the same cause and none succeeded: {}", error.unwrap_or_default());
    let rest = runs().filter_map(|run| match &run.state {
        RunState::Queued { .. } | RunState::Paused { .. } => Some(What::RunCancelled { run: run.id }),
        RunState::Stopping { stop, .. } if stop.cause == Cause::Cancel => None,
        _ => attempts::stop(run, Cause::Cancel, &cluster.policy, now, "its sweep was stopped"),
    });
    std::iter::once(What::SweepHalted { sweep: sweep.id, reason }).chain(rest).collect()
}

/// Workers on which one run after the other fails get no more work, as long as another worker is left; so do those with a slot on which
/// runs crash that get further elsewhere.
fn breaker(cluster: &Cluster) -> Vec<What> {
    let k = cluster.policy.worker_breaker as usize;
    let serving = |w: &&Worker| w.serves();
    let struck: Vec<&Worker> =
        cluster.index.struck.iter().filter_map(|id| cluster.workers.get(id)).filter(serving).collect();
    if k == 0 || struck.is_empty() {
        return Vec::new();
    }
    let all = cluster.workers.values().filter(serving).count();
    let tripped = struck.iter().find_map(|worker| {
        let slot = worker.bad_slots.iter().find(|(_, runs)| runs.len() >= k);
        let (runs, whereabouts, alike) = match slot {
            Some((slot, runs)) => (runs, format!("on its slot {slot} and got further elsewhere"), 1),
            None if worker.strikes.len() < k => return None,
            // Where most have failures it is what all of them use that fails, as storage.
            None => {
                let alike = struck.iter().filter(|w| !w.strikes.is_empty()).count();
                (&worker.strikes, "here in a row".to_owned(), alike)
            }
        };
        // Somebody must be left.
        if 2 * alike > all {
            return None;
        }
        let names: Vec<&str> = runs.iter().filter_map(|(run, _)| Some(cluster.runs.get(run)?.name.as_str())).collect();
        let last = runs.last().map_or("", |(_, error)| error.as_str());
        let reason = format!("{} runs failed {whereabouts} ({}); the last: {last}", names.len(), names.join(", "));
        Some(What::WorkerCordoned { worker: worker.id, reason, automatic: true })
    });
    tripped.into_iter().collect()
}

/// Of workers that have left the oldest, when there are too many. What somebody has said of one is kept, and who it replaced: they are
/// still turned away. Who is lost may come back, and must then be told from its successor.
fn forgotten(cluster: &Cluster) -> Vec<What> {
    let Cluster { index, policy, workers, .. } = cluster;
    let too_many = index.left.len().saturating_sub(policy.left);
    let is_plain = |w: &Worker| w.cordoned.is_none() && w.replaced.is_empty() && w.processes.is_empty();
    let plain = |id: &&WorkerId| workers.get(id).is_some_and(is_plain) && cluster.used(**id) == 0;
    let oldest = index.left.iter().filter(plain).take(too_many);
    oldest.map(|worker| What::WorkerForgotten { worker: *worker }).collect()
}

/// Ranks whose agents do not know them, and since when.
pub(super) fn missing(attempt: &Attempt) -> impl Iterator<Item = (u32, Timestamp)> {
    attempt.ranks.iter().enumerate().filter_map(|(rank, r)| match r.state {
        RankState::Missing { since } => Some((rank as u32, since)),
        _ => None,
    })
}

fn end(cluster: &Cluster, sweep: &Sweep) -> Option<What> {
    let runs: Vec<_> = sweep.runs.iter().filter_map(|id| cluster.runs.get(id)).collect();
    if sweep.end.is_some() || runs.iter().any(|r| !r.is_over()) {
        return None;
    }
    let failed = runs.iter().any(|r| matches!(r.state, RunState::Failed { .. }));
    let end = match (sweep.cancelled, failed) {
        (true, _) => SweepEnd::Cancelled,
        (false, true) => SweepEnd::Failed,
        (false, false) => SweepEnd::Succeeded,
    };
    let best = sweep.best(cluster);
    Some(What::SweepEnded {
        sweep: sweep.id,
        end,
        best_run: best.map(|(run, _)| run),
        best_value: best.map(|(_, value)| value),
    })
}
