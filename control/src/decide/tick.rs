//! What happens by itself.

use morph_spec::{Rng, Timestamp};

use super::{attempts, placements, workers};
use crate::{Attempt, Cluster, Exit, RankState, RunState, Sweep, SweepEnd, What, WorkerState};

/// Lost workers first, then overdue stops, then ended sweeps, then placements; the caller asks again until there is nothing.
pub(super) fn tick(cluster: &Cluster, now: Timestamp, rng: &mut Rng) -> Vec<What> {
    let grace = cluster.policy.grace;
    for worker in cluster.workers.values() {
        if matches!(worker.state, WorkerState::Away { since } if since.after(grace) <= now) {
            return workers::lose(cluster, now, rng, worker.id);
        }
    }
    for run in cluster.runs.values() {
        let RunState::Stopping { attempt, stop } = &run.state else { continue };
        let fence = run.fence();
        if !stop.killed && stop.kill_at <= now {
            return vec![What::StopEscalated { fence }];
        }
        if let Some((rank, _)) = missing(attempt).find(|(_, since)| since.after(grace) <= now) {
            let mut ends = attempts::Ends::new(run, fence);
            ends.rank(rank, Exit::Stopped, "its agent does not have it; it was never started".into());
            return ends.finish(&cluster.policy, now, rng);
        }
    }
    let ended: Vec<What> = cluster.sweeps.values().filter_map(|sweep| end(cluster, sweep)).collect();
    if !ended.is_empty() {
        return ended;
    }
    placements(cluster, now).collect()
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
