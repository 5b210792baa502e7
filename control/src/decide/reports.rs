//! What agents tell of ranks. Under any fence but the newest, from any worker but the rank's, or said twice: nothing.

use morph_spec::{Fence, Rng, Timestamp, WorkerId};

use super::attempts::Ends;
use crate::{Cluster, Exit, RankState, Report, What};

pub(super) fn report(
    cluster: &Cluster,
    now: Timestamp,
    rng: &mut Rng,
    worker: WorkerId,
    fence: Fence,
    report: Report,
) -> Vec<What> {
    let Some(attempt) = cluster.attempt(fence) else { return Vec::new() };
    let Some(run) = cluster.runs.get(&fence.run) else { return Vec::new() };
    let live = |rank: u32| attempt.ranks.get(rank as usize).filter(|r| r.worker == worker && r.is_live());
    // What only rank 0 says counts as long as rank 0 runs.
    let first = live(0).is_some();
    match report {
        Report::StoreReady { address } if first && attempt.store.as_ref() != Some(&address) => {
            vec![What::StoreReady { fence, address }]
        }
        Report::RankReady { rank, step, total_steps, mut cached }
            if live(rank).is_some_and(|r| matches!(r.state, RankState::Placed)) =>
        {
            // Said with each rank, and mostly known: then it is not recorded again.
            if cluster.workers.get(&worker).is_some_and(|w| w.cached == cached) {
                cached.clear();
            }
            vec![What::RankReady { fence, rank, step, total_steps, cached }]
        }
        Report::Checkpoint(mut checkpoint) if first && run.checkpoints.iter().all(|c| c.url != checkpoint.url) => {
            checkpoint.attempt = fence.attempt;
            vec![What::CheckpointCommitted { fence, checkpoint }]
        }
        Report::Evaluated { summary, summary_json, artifacts } if first && !attempt.evaluated => {
            vec![What::Evaluated { fence, summary, summary_json, artifacts }]
        }
        Report::NotHere => {
            let mut ends = Ends::new(run, fence);
            for (rank, _) in attempt.ranks.iter().enumerate().filter(|(_, r)| r.worker == worker) {
                ends.rank(rank as u32, Exit::Stopped, "it was never started".into());
            }
            ends.finish(&cluster.policy, now, rng)
        }
        Report::RankExited { rank, exit, error } if live(rank).is_some() => {
            let mut ends = Ends::new(run, fence);
            ends.rank(rank, exit, error);
            ends.finish(&cluster.policy, now, rng)
        }
        _ => Vec::new(),
    }
}
