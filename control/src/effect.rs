//! What is to be done. Orders are states, not commands: all that hold can be repeated at any time.

use morph_spec::{Fence, WorkerId};

use crate::{Attempt, Cluster, Event, Rank, Run, RunState, What};

/// An order to an agent, under the fence of the attempt that it is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Have this rank running.
    StartRank {
        /// The attempt.
        fence: Fence,
        /// Where.
        worker: WorkerId,
        /// Which rank.
        rank: u32,
        /// Which of the attempt's ranks on that worker, from 0.
        local_rank: u32,
        /// Which of the worker's slots, from 0.
        device: u32,
    },
    /// Know where the ranks meet.
    Rendezvous {
        /// The attempt.
        fence: Fence,
        /// To whom.
        worker: WorkerId,
        /// `host:port`.
        address: String,
    },
    /// Have no rank of this attempt running.
    Stop {
        /// The attempt.
        fence: Fence,
        /// To whom.
        worker: WorkerId,
        /// Save first.
        checkpoint: bool,
        /// Kill.
        now: bool,
        /// For the log.
        reason: String,
    },
    /// Know that the checkpoint of this step is recorded.
    CheckpointAck {
        /// The attempt.
        fence: Fence,
        /// To whom.
        worker: WorkerId,
        /// Its step.
        step: u64,
    },
}

impl Effect {
    /// The attempt that it is about.
    pub fn fence(&self) -> Fence {
        match self {
            Self::StartRank { fence, .. }
            | Self::Rendezvous { fence, .. }
            | Self::Stop { fence, .. }
            | Self::CheckpointAck { fence, .. } => *fence,
        }
    }

    /// The agent that it is for.
    pub fn worker(&self) -> WorkerId {
        match self {
            Self::StartRank { worker, .. }
            | Self::Rendezvous { worker, .. }
            | Self::Stop { worker, .. }
            | Self::CheckpointAck { worker, .. } => *worker,
        }
    }
}

/// What to do about `event`, now that `cluster` has evolved with it.
pub fn react(cluster: &Cluster, event: &Event, out: &mut Vec<Effect>) {
    match &event.what {
        What::RunPlaced { fence, .. }
        | What::StoreReady { fence, .. }
        | What::StopRequested { fence, .. }
        | What::StopEscalated { fence } => {
            let Some(attempt) = cluster.attempt(*fence) else { return };
            let Some(run) = cluster.runs.get(&fence.run) else { return };
            let all = of_run(run, attempt);
            let wanted = |e: &Effect| {
                matches!(
                    (&event.what, e),
                    (What::RunPlaced { .. }, Effect::StartRank { .. })
                        | (What::StoreReady { .. }, Effect::Rendezvous { .. })
                        | (What::StopRequested { .. } | What::StopEscalated { .. }, Effect::Stop { .. })
                )
            };
            out.extend(all.into_iter().filter(wanted));
        }
        What::CheckpointCommitted { fence, checkpoint } => {
            if let Some(first) = cluster.attempt(*fence).and_then(|a| a.ranks.first()) {
                out.push(Effect::CheckpointAck { fence: *fence, worker: first.worker, step: checkpoint.step });
            }
        }
        What::WorkerJoined { worker, live, .. } => {
            for &fence in live {
                let here = |a: &Attempt| a.ranks.iter().any(|r| r.worker == *worker && r.is_live());
                if !cluster.attempt(fence).is_some_and(here) {
                    let reason = "the attempt is over".to_owned();
                    out.push(Effect::Stop { fence, worker: *worker, checkpoint: false, now: true, reason });
                }
            }
            out.extend(orders(cluster, *worker));
        }
        _ => {}
    }
}

/// All orders that hold for `worker`.
pub fn orders(cluster: &Cluster, worker: WorkerId) -> Vec<Effect> {
    let live = cluster.runs_on(worker).filter_map(|run| Some((run, run.attempt()?)));
    live.flat_map(|(run, attempt)| of_run(run, attempt)).filter(|e| e.worker() == worker).collect()
}

fn of_run(run: &Run, attempt: &Attempt) -> Vec<Effect> {
    let fence = run.fence();
    let mut workers: Vec<WorkerId> = attempt.ranks.iter().filter(|r| r.is_live()).map(|r| r.worker).collect();
    workers.sort_unstable();
    workers.dedup();
    if let RunState::Stopping { stop, .. } = &run.state {
        if !stop.checkpoint && !stop.killed {
            return Vec::new();
        }
        let order = |worker| Effect::Stop {
            fence,
            worker,
            checkpoint: stop.checkpoint && !stop.killed,
            now: stop.killed,
            reason: stop.reason.clone(),
        };
        return workers.into_iter().map(order).collect();
    }
    let mut out = Vec::new();
    for (rank, placed) in attempt.ranks.iter().enumerate().filter(|(_, r)| r.is_live()) {
        let local_rank = attempt.ranks[..rank].iter().filter(|r| r.worker == placed.worker).count() as u32;
        let Rank { worker, device, .. } = *placed;
        out.push(Effect::StartRank { fence, worker, rank: rank as u32, local_rank, device });
    }
    if let Some(address) = &attempt.store {
        out.extend(workers.iter().map(|&worker| Effect::Rendezvous { fence, worker, address: address.clone() }));
    }
    let mine = run.checkpoints.iter().rev().find(|c| c.attempt == attempt.number);
    if let (Some(checkpoint), Some(first)) = (mine, attempt.ranks.first()) {
        out.push(Effect::CheckpointAck { fence, worker: first.worker, step: checkpoint.step });
    }
    out
}
