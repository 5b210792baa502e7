//! How attempts stop and end, and what becomes of their runs.

use morph_spec::{Fence, Rng, Timestamp};

use crate::{
    Attempt, Cause, Cluster, Exit, Next, Outcome, Policy, RankState, Refusal, Run, RunState, Stop, Target, What,
};

/// Stops a run, or all of a sweep, for good.
pub(super) fn cancel(cluster: &Cluster, now: Timestamp, target: Target) -> Result<Vec<What>, Refusal> {
    let one = |run: &Run| -> Option<What> {
        match &run.state {
            RunState::Queued { .. } => Some(What::RunCancelled { run: run.id }),
            RunState::Stopping { stop, .. } if stop.cause == Cause::Cancel => None,
            _ => stop(run, Cause::Cancel, &cluster.policy, now, "cancelled"),
        }
    };
    match target {
        Target::Run(id) => {
            let run = cluster.runs.get(&id).ok_or_else(|| Refusal::NotFound(format!("there is no run {id}")))?;
            Ok(one(run).into_iter().collect())
        }
        Target::Sweep(id) => {
            let sweep = cluster.sweeps.get(&id).ok_or_else(|| Refusal::NotFound(format!("there is no sweep {id}")))?;
            let runs = sweep.runs.iter().filter_map(|id| cluster.runs.get(id)).filter_map(one);
            let first = (!sweep.cancelled && sweep.end.is_none()).then_some(What::SweepCancelled { sweep: id });
            Ok(first.into_iter().chain(runs).collect())
        }
    }
}

/// Stops all attempts with a checkpoint; their runs are queued again.
pub(super) fn drain(cluster: &Cluster, now: Timestamp, reason: String) -> Vec<What> {
    let open = cluster.runs.values().filter(|r| !matches!(r.state, RunState::Stopping { .. }));
    let stops: Vec<What> = open.filter_map(|r| stop(r, Cause::Drain, &cluster.policy, now, &reason)).collect();
    let first = (cluster.draining.as_ref() != Some(&reason)).then_some(What::DrainBegan { reason });
    first.into_iter().chain(stops).collect()
}

/// The order to stop a run's live attempt on purpose.
fn stop(run: &Run, cause: Cause, policy: &Policy, now: Timestamp, reason: &str) -> Option<What> {
    run.attempt()?;
    let (checkpoint, killed, kill_at) = match &run.state {
        // Nothing was trained yet: nothing to save, and ranks may be deep in waiting for each other.
        RunState::Starting { .. } => (false, true, now),
        // A stop that is under way keeps its pace.
        RunState::Stopping { stop, .. } => (stop.checkpoint, stop.killed, stop.kill_at),
        _ => (true, false, now.after(policy.stop_timeout)),
    };
    let stop = Stop { cause, checkpoint, killed, kill_at, reason: reason.to_owned() };
    Some(What::StopRequested { fence: run.fence(), stop })
}

/// Ranks of one attempt that end now.
pub(super) struct Ends<'a> {
    run: &'a Run,
    fence: Fence,
    attempt: Attempt,
    events: Vec<What>,
}

impl<'a> Ends<'a> {
    /// None yet.
    ///
    /// # Panics
    /// Never: callers have checked that the run has a live attempt.
    pub(super) fn new(run: &'a Run, fence: Fence) -> Self {
        let attempt = run.attempt().cloned().expect("invariant: only live attempts have ranks that end");
        Self { run, fence, attempt, events: Vec::new() }
    }

    /// Rank `rank` has ended. Saying so twice changes nothing.
    pub(super) fn rank(&mut self, rank: u32, exit: Exit, error: String) {
        let Some(found) = self.attempt.ranks.get_mut(rank as usize).filter(|r| r.is_live()) else { return };
        found.state = RankState::Exited { exit, error: error.clone() };
        self.events.push(What::RankExited { fence: self.fence, rank, exit, error });
    }

    /// All events: of the ranks, and of the attempt if it stops or ends by that.
    pub(super) fn finish(mut self, policy: &Policy, now: Timestamp, rng: &mut Rng) -> Vec<What> {
        if self.events.is_empty() {
            return self.events;
        }
        if self.attempt.ranks.iter().all(|r| !r.is_live()) {
            let ended = self.verdict(policy, now, rng);
            self.events.push(ended);
        } else if let Some(stop) = self.stop(policy, now) {
            self.events.push(What::StopRequested { fence: self.fence, stop });
        }
        self.events
    }

    /// Whether the ranks that are left must stop, now that some have ended.
    fn stop(&self, policy: &Policy, now: Timestamp) -> Option<Stop> {
        let (rank, exit, error) = self.attempt.worst()?;
        let why = if error.is_empty() { format!("rank {rank} ended") } else { format!("rank {rank}: {error}") };
        let under_way = match &self.run.state {
            RunState::Stopping { stop, .. } => Some(stop),
            _ => None,
        };
        match exit {
            Exit::Succeeded => None,
            // An agent is leaving: it asked its rank to stop, and the ranks agree on the step.
            Exit::Stopped => under_way.is_none().then(|| Stop {
                cause: Cause::Drain,
                checkpoint: true,
                killed: false,
                kill_at: now.after(policy.stop_timeout),
                reason: "another rank was asked to stop".into(),
            }),
            // The one to blame has yet to say why; give it a moment.
            Exit::PeerLost => {
                let kill_at = now.after(policy.peer_grace);
                match under_way {
                    Some(stop) if stop.killed || stop.kill_at <= kill_at => None,
                    Some(stop) => Some(Stop { kill_at, ..stop.clone() }),
                    None => {
                        Some(Stop { cause: Cause::Failure, checkpoint: false, killed: false, kill_at, reason: why })
                    }
                }
            }
            // What is left cannot go on without it.
            Exit::Lost | Exit::Infra | Exit::User => match under_way {
                Some(stop) if stop.killed => None,
                Some(stop) => Some(Stop { killed: true, kill_at: now, ..stop.clone() }),
                None => {
                    Some(Stop { cause: Cause::Failure, checkpoint: false, killed: true, kill_at: now, reason: why })
                }
            },
        }
    }

    fn verdict(&self, policy: &Policy, now: Timestamp, rng: &mut Rng) -> What {
        let cause = match &self.run.state {
            RunState::Stopping { stop, .. } => Some(stop.cause),
            _ => None,
        };
        let (rank, worst, error) = self.attempt.worst().unwrap_or((0, Exit::Lost, ""));
        let first = matches!(
            self.attempt.ranks.first().map(|r| &r.state),
            Some(RankState::Exited { exit: Exit::Succeeded, .. })
        );
        // Rank 0 has the scores: what the others did on their way out does not matter any more.
        let done = worst == Exit::Succeeded || (first && self.attempt.evaluated);
        let error = match worst {
            _ if done => String::new(),
            Exit::Succeeded | Exit::Stopped => String::new(),
            _ => format!("rank {rank}: {}", if error.is_empty() { "ended without a word" } else { error }),
        };
        let (outcome, next) = match (cause, worst) {
            _ if done => (Outcome::Succeeded, Next::Succeed),
            (Some(Cause::Cancel), _) => (Outcome::Stopped, Next::Cancel),
            (_, Exit::User) => (Outcome::Failed, Next::Fail { error: error.clone() }),
            // An agent that leaves needs a moment to be gone, or the run would be placed on it again.
            (Some(Cause::Drain), _) | (None, Exit::Stopped) => {
                (Outcome::Stopped, Next::Queue { not_before: now.after(policy.backoff), failures: 0 })
            }
            (_, worst) => {
                let outcome = if worst == Exit::Lost { Outcome::Lost } else { Outcome::Failed };
                (outcome, self.again(&error, policy, now, rng))
            }
        };
        What::AttemptEnded { fence: self.fence, outcome, error, next }
    }

    /// After a failure that was not the run's own: once more, unless there was no progress for too long.
    fn again(&self, error: &str, policy: &Policy, now: Timestamp, rng: &mut Rng) -> Next {
        let run = self.run;
        let progress = run.newest_checkpoint().map_or(0, |c| c.step) > run.failure_step;
        let failures = if progress { 1 } else { run.failures + 1 };
        if failures > run.max_retries {
            let error = format!("gave up after {failures} failures without progress in between; the last: {error}");
            return Next::Fail { error };
        }
        let pause = policy.backoff.saturating_mul(1 << (failures - 1).min(16)).min(policy.backoff_max);
        // Jitter, so that runs that failed together do not come back together.
        Next::Queue { not_before: now.after(pause.mul_f64(0.75 + 0.5 * rng.uniform())), failures }
    }
}
