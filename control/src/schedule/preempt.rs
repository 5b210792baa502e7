//! Who makes room for the first in line.

use std::cmp::Reverse;

use morph_spec::RunId;

use super::room::{Demand, Rooms};
use crate::{Cluster, Run, RunState};

/// Runs that are tried as victims.
const MOST: usize = 512;

/// The runs that must stop so that `first` can start, fewest and cheapest first; none when those that are stopping anyway
/// leave room enough. `None` when no such runs would do.
pub(super) fn victims(
    cluster: &Cluster,
    rooms: &Rooms<'_>,
    first: &Run,
    demand: &Demand<'_>,
    goes_before: impl Fn(&Run) -> bool,
) -> Option<Vec<RunId>> {
    let least = first.least_width();
    let mut rooms = rooms.clone();
    let mut ending = false;
    for run in cluster.index.stopping.iter().filter_map(|id| cluster.runs.get(id)) {
        ending |= rooms.free(run, true);
    }
    if ending && rooms.fit(demand) >= least {
        return Some(Vec::new());
    }
    let gives_way = |run: &&Run| gives_way(cluster, run, first, goes_before(run));
    let mut candidates: Vec<&Run> = cluster.live_runs().filter(gives_way).collect();
    candidates.sort_by_key(|run| {
        let attempt = run.attempt();
        let placed_at = attempt.map(|a| a.placed_at).unwrap_or_default();
        (!attempt.is_some_and(|a| a.backfill), standing(cluster, run), Reverse(placed_at), Reverse(run.seq))
    });
    let mut chosen = Vec::new();
    for run in candidates.into_iter().take(MOST) {
        if !rooms.free(run, true) {
            continue;
        }
        chosen.push(run);
        if rooms.fit(demand) >= least {
            // The first ones chosen may not have been needed after all.
            chosen.retain(|run| {
                rooms.free(run, false);
                let needed = rooms.fit(demand) < least;
                if needed {
                    rooms.free(run, true);
                }
                needed
            });
            return Some(chosen.into_iter().map(|run| run.id).collect());
        }
    }
    None
}

/// The priority that a live run defends: its own, and what waiting had added when it was placed.
fn standing(cluster: &Cluster, run: &Run) -> i64 {
    i64::from(cluster.priority(run)).saturating_add_unsigned(run.attempt().map_or(0, |a| a.raised))
}

/// Whether `run` may be stopped for `first`: only for a higher priority as submitted, not as raised by waiting, or two runs
/// could take turns for ever; or when it was let in front of `first` on that condition, before which it does not go by itself
/// (`is_behind`).
fn gives_way(cluster: &Cluster, run: &Run, first: &Run, is_behind: bool) -> bool {
    let live = matches!(run.state, RunState::Starting { .. } | RunState::Running { .. });
    if !live || !run.experiment.scheduling.preemptible {
        return false;
    }
    let wanted = i64::from(cluster.priority(first));
    let lower = standing(cluster, run) < wanted;
    let let_in = is_behind && run.attempt().is_some_and(|a| a.backfill) && run.seq > first.seq;
    let_in && i64::from(cluster.priority(run)) <= wanted || cluster.policy.preemption && lower
}
