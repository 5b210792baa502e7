//! How attempts stop and end, and what becomes of their runs.
//!
//! What people ask for is in `wishes`.

use std::{collections::BTreeSet, time::Duration};

use morph_spec::{Fence, Rng, Timestamp};

use crate::{
    Attempt, Cause, Cluster, Exit, Next, Outcome, Policy, RankState, Run, RunState, Stop, What,
    sabotage::{Mechanism, is_broken},
};

/// Stops all attempts with a checkpoint; their runs are queued again.
pub(super) fn drain(cluster: &Cluster, now: Timestamp, reason: String) -> Vec<What> {
    let open = cluster.live_runs().filter(|r| !matches!(r.state, RunState::Stopping { .. }));
    let stops: Vec<What> = open.filter_map(|r| stop(r, Cause::Drain, &cluster.policy, now, &reason)).collect();
    let first = (cluster.draining.as_ref() != Some(&reason)).then_some(What::DrainBegan { reason });
    first.into_iter().chain(stops).collect()
}

/// Ends all attempts: what has become of their ranks was told to a history that is lost.
///
/// The next ones are numbered from the seconds since 1970. A run is placed less than once a second, so that counting attempts comes to
/// less, also after a history that had itself been gone on from; and later histories have higher numbers: of two attempts an agent
/// heeds the higher one.
pub(super) fn restore(
    cluster: &Cluster,
    now: Timestamp,
    rng: &mut Rng,
    gone: BTreeSet<String>,
    wall: Timestamp,
) -> Vec<What> {
    let mut events = Vec::new();
    for run in cluster.live_runs() {
        let mut ends = Ends::new(run, run.fence());
        for rank in 0..ends.attempt.ranks.len() as u32 {
            ends.rank(rank, Exit::Lost, "the coordinator's database was restored from a backup".to_owned());
        }
        events.extend(ends.finish(&cluster.policy, now, rng));
    }
    let floor = u32::try_from(wall.millis() / 1000).unwrap_or(u32::MAX - 1);
    events.push(What::HistoryRestored { gone, floor });
    events
}

/// The order to stop a run's live attempt on purpose.
pub(super) fn stop(run: &Run, cause: Cause, policy: &Policy, now: Timestamp, reason: &str) -> Option<What> {
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
        // With none to strike nothing would be different the next time, and the time after that.
        let none = self.run.start_of(self.attempt.number).is_none() || is_broken(Mechanism::LostCheckpoints);
        let exit = if exit == Exit::NoCheckpoint && none { Exit::Infra } else { exit };
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
            self.events.extend(self.lost_checkpoint());
            let ended = self.verdict(policy, now, rng);
            self.events.push(ended);
        } else if let Some(stop) = self.stop(policy, now) {
            self.events.push(What::StopRequested { fence: self.fence, stop });
        }
        self.events
    }

    /// The checkpoint that the attempt was to go on from, if a rank could not. Said when all ranks are over, and so once, however many of
    /// them found that: with the next one in its place, what the others say would be said of that one.
    fn lost_checkpoint(&self) -> Option<What> {
        let why = self.attempt.ranks.iter().find_map(|rank| match &rank.state {
            RankState::Exited { exit: Exit::NoCheckpoint, error } => Some(error.clone()),
            _ => None,
        })?;
        let lost = self.run.start_of(self.attempt.number)?;
        let expired = self.run.expired(self.attempt.number);
        Some(What::CheckpointLost { fence: self.fence, url: lost.url.clone(), step: lost.step, why, expired })
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
            // An agent is leaving: it asked its rank to stop, and the ranks agree on the step. Those that have not met yet
            // have nothing to save, and would wait for each other.
            Exit::Stopped => under_way.is_none().then(|| {
                let reason = "another rank was asked to stop".to_owned();
                let begun = matches!(self.run.state, RunState::Running { .. });
                let kill_at = if begun { now.after(policy.stop_timeout) } else { now };
                Stop { cause: Cause::Drain, checkpoint: begun, killed: !begun, kill_at, reason }
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
            Exit::Lost | Exit::Infra | Exit::Crashed | Exit::User | Exit::NoCheckpoint => match under_way {
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
            (Some(Cause::Pause), Exit::Stopped) => (Outcome::Stopped, Next::Pause),
            (_, Exit::User) => (Outcome::Failed, Next::Fail { error: error.clone() }),
            (Some(Cause::Pause), _) => (Outcome::Failed, Next::Pause),
            (Some(Cause::TimeLimit), _) => {
                let limit = self.run.experiment.scheduling.time_limit;
                let step = self.run.newest_checkpoint().map_or(0, |c| c.step);
                let error = format!("its time limit of {limit} is over at step {step}; raise scheduling.time_limit");
                (Outcome::Stopped, Next::Fail { error })
            }
            (Some(Cause::Preempt), Exit::Stopped) => (Outcome::Stopped, Next::Queue { not_before: now, failures: 0 }),
            // An agent that leaves needs a moment to be gone, or the run would be placed on it again.
            (Some(Cause::Drain), _) | (None, Exit::Stopped) => {
                (Outcome::Stopped, Next::Queue { not_before: now.after(policy.backoff), failures: 0 })
            }
            // There are only so many checkpoints to be struck, so that it need not count to come to an end.
            (_, Exit::NoCheckpoint) => {
                let not_before = now.after(Self::pause(policy, 1, rng));
                (Outcome::Failed, Next::Queue { not_before, failures: 0 })
            }
            (_, worst) => {
                let outcome = if worst == Exit::Lost { Outcome::Lost } else { Outcome::Failed };
                (outcome, self.again(&error, worst, policy, now, rng))
            }
        };
        What::AttemptEnded { fence: self.fence, outcome, error, next }
    }

    /// After a failure that was not the configuration's: once more, unless there was no progress for too long.
    fn again(&self, error: &str, worst: Exit, policy: &Policy, now: Timestamp, rng: &mut Rng) -> Next {
        let run = self.run;
        let progress = run.progressed();
        if worst != Exit::Crashed {
            // Workers, storage and network are not the run's fault, and so not counted as one; but a run that takes every worker down
            // must end, too.
            let losses = if progress { 1 } else { run.losses + 1 };
            if losses > policy.losses {
                let error = format!(
                    "gave up: worker, storage or network failed it {losses} times without progress in between; the last: {error}"
                );
                return Next::Fail { error };
            }
            let failures = if progress { 0 } else { run.failures };
            return Next::Queue { not_before: now.after(Self::pause(policy, losses, rng)), failures };
        }
        let failures = if progress { 1 } else { run.failures + 1 };
        if failures > run.max_retries {
            let error = format!("gave up after {failures} failures without progress in between; the last: {error}");
            return Next::Fail { error };
        }
        Next::Queue { not_before: now.after(Self::pause(policy, failures, rng)), failures }
    }

    /// The pause before the next attempt after the `n`-th failure; with jitter, so that runs that failed together do not
    /// come back together.
    fn pause(policy: &Policy, n: u32, rng: &mut Rng) -> Duration {
        let pause = policy.backoff.saturating_mul(1 << n.saturating_sub(1).min(16)).min(policy.backoff_max);
        pause.mul_f64(0.75 + 0.5 * rng.uniform())
    }
}
