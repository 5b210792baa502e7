//! Where a run's time went: folded from its events, and split further by what its rank 0 reported.
//!
//! The classes sum to the time from the run's submission to its end (the time between its end and a retry does not count). Time whose
//! steps have to be done again counts as lost when the attempt fails, once: what is redone counts as work.

use std::time::Duration;

use morph_spec::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Event, Next, Outcome, What};

/// Seconds that rank 0 reported, summed over its attempts.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Reported {
    /// Getting batches ready.
    pub data: f64,
    /// Waiting for checkpoints to be taken and written.
    pub checkpointing: f64,
    /// Validating, and scoring in the end.
    pub evaluating: f64,
}

/// Where time went, by class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Goodput {
    /// Waiting for slots, back-off included.
    pub queued: Duration,
    /// Held back by somebody.
    pub paused: Duration,
    /// From placement until all ranks are in the process group.
    pub starting: Duration,
    /// Taking steps that counted.
    pub training: Duration,
    /// Waiting for data.
    pub data: Duration,
    /// Waiting for checkpoints.
    pub checkpointing: Duration,
    /// Validating and scoring.
    pub evaluating: Duration,
    /// From the order to stop until all ranks were over.
    pub stopping: Duration,
    /// Steps that had to be done again.
    pub lost: Duration,
}

impl Goodput {
    /// All classes by name.
    pub fn classes(&self) -> [(&'static str, Duration); 9] {
        [
            ("queued", self.queued),
            ("paused", self.paused),
            ("starting", self.starting),
            ("training", self.training),
            ("data", self.data),
            ("checkpointing", self.checkpointing),
            ("evaluating", self.evaluating),
            ("stopping", self.stopping),
            ("lost", self.lost),
        ]
    }

    /// The sum of all classes: the run's wall time.
    pub fn total(&self) -> Duration {
        self.classes().iter().map(|(_, d)| *d).sum()
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.queued += other.queued;
        self.paused += other.paused;
        self.starting += other.starting;
        self.training += other.training;
        self.data += other.data;
        self.checkpointing += other.checkpointing;
        self.evaluating += other.evaluating;
        self.stopping += other.stopping;
        self.lost += other.lost;
    }
}

/// What a run does.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
enum Phase {
    /// Not there, or over.
    #[default]
    Over,
    Queued,
    Paused,
    /// Bits of ranks that are ready, of so many.
    Starting(u32, u32),
    /// When the newest checkpoint was recorded, or the first step begun.
    Running(Timestamp),
    /// Since the last checkpoint so much was done.
    Stopping(Duration),
}

/// The account of one run.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Ledger {
    phase: Phase,
    since: Timestamp,
    queued: Duration,
    paused: Duration,
    starting: Duration,
    running: Duration,
    stopping: Duration,
    lost: Duration,
}

impl Ledger {
    /// Takes the run's next event.
    pub fn take(&mut self, event: &Event) {
        let at = event.at;
        match (&event.what, self.phase) {
            (What::RunSubmitted { .. } | What::RunRetried { .. }, Phase::Over) | (What::RunResumed { .. }, _) => {
                self.enter(Phase::Queued, at);
            }
            (What::RunPlaced { ranks, .. }, _) => self.enter(Phase::Starting(0, ranks.len() as u32), at),
            (What::RankReady { rank, .. }, Phase::Starting(ready, of)) => {
                let ready = ready | 1u32.checked_shl(*rank).unwrap_or(0);
                if ready.count_ones() >= of.min(32) {
                    self.enter(Phase::Running(at), at);
                } else {
                    self.phase = Phase::Starting(ready, of);
                }
            }
            (What::CheckpointCommitted { .. }, Phase::Running(_)) => self.phase = Phase::Running(at),
            (What::CheckpointCommitted { .. }, Phase::Stopping(_)) => self.phase = Phase::Stopping(Duration::ZERO),
            (What::StopRequested { .. }, Phase::Running(saved)) => self.enter(Phase::Stopping(at.since(saved)), at),
            (What::StopRequested { .. }, Phase::Starting(..)) => self.enter(Phase::Stopping(Duration::ZERO), at),
            (What::AttemptEnded { outcome, next, .. }, phase) => {
                let undone = match phase {
                    Phase::Running(saved) => at.since(saved),
                    Phase::Stopping(undone) => undone,
                    _ => Duration::ZERO,
                };
                self.enter(
                    match next {
                        Next::Queue { .. } => Phase::Queued,
                        Next::Pause => Phase::Paused,
                        Next::Succeed | Next::Fail { .. } | Next::Cancel => Phase::Over,
                    },
                    at,
                );
                if *outcome != Outcome::Succeeded {
                    let undone = undone.min(self.running);
                    self.running -= undone;
                    self.lost += undone;
                }
            }
            (What::RunPaused { .. }, _) => self.enter(Phase::Paused, at),
            (What::RunCancelled { .. } | What::RunGivenUp { .. }, _) => self.enter(Phase::Over, at),
            _ => {}
        }
    }

    fn enter(&mut self, next: Phase, at: Timestamp) {
        let spent = at.since(self.since);
        match self.phase {
            Phase::Over => {}
            Phase::Queued => self.queued += spent,
            Phase::Paused => self.paused += spent,
            Phase::Starting(..) => self.starting += spent,
            Phase::Running(_) => self.running += spent,
            Phase::Stopping(_) => self.stopping += spent,
        }
        (self.phase, self.since) = (next, at);
    }

    /// Where time went up to `now`. What rank 0 reported can be no more than the time that its steps took; what is left is
    /// training.
    pub fn at(&self, now: Timestamp, reported: Reported) -> Goodput {
        let mut ledger = *self;
        ledger.enter(ledger.phase, now.max(ledger.since));
        let mut left = ledger.running;
        let mut take = |seconds: f64| {
            let part = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default().min(left);
            left -= part;
            part
        };
        let (evaluating, checkpointing, data) =
            (take(reported.evaluating), take(reported.checkpointing), take(reported.data));
        Goodput {
            queued: ledger.queued,
            paused: ledger.paused,
            starting: ledger.starting,
            training: left,
            data,
            checkpointing,
            evaluating,
            stopping: ledger.stopping,
            lost: ledger.lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use morph_spec::{Fence, RunId};

    use super::*;
    use crate::{Cause, Stop};

    fn fence(attempt: u32) -> Fence {
        Fence { run: RunId::from_str("01J00000000000000000000000").unwrap(), attempt }
    }

    fn ledger(story: &[(u64, What)]) -> Ledger {
        // As if submitted at 0.
        let mut ledger = Ledger { phase: Phase::Queued, ..Ledger::default() };
        for (second, what) in story {
            ledger.take(&Event::new(Timestamp(second * 1_000_000), what.clone()));
        }
        ledger
    }

    fn placed(attempt: u32) -> What {
        let worker = morph_spec::WorkerId::from_str("01J00000000000000000000001").unwrap();
        let (fence, ranks, devices) = (fence(attempt), vec![worker, worker], Vec::new());
        What::RunPlaced { fence, ranks, resume: None, devices, backfill: false, raised: 0 }
    }

    fn ready(attempt: u32, rank: u32) -> What {
        What::RankReady { fence: fence(attempt), rank, step: 0, total_steps: 9, cached: Default::default() }
    }

    fn saved(attempt: u32) -> What {
        let checkpoint = crate::Checkpoint {
            url: "memory:///c".into(),
            digest: morph_spec::Digest::of(b"c"),
            step: 1,
            epoch: 0,
            attempt,
            bytes: 1,
            score: None,
            best: false,
            at: Timestamp(0),
        };
        What::CheckpointCommitted { fence: fence(attempt), checkpoint }
    }

    fn ended(attempt: u32, outcome: Outcome, next: Next) -> What {
        What::AttemptEnded { fence: fence(attempt), outcome, error: String::new(), next }
    }

    fn stop(attempt: u32) -> What {
        let (cause, reason) = (Cause::Pause, String::new());
        let stop = Stop { cause, checkpoint: true, killed: false, kill_at: Timestamp(0), reason };
        What::StopRequested { fence: fence(attempt), stop }
    }

    fn seconds(goodput: &Goodput) -> Vec<(&'static str, u64)> {
        goodput.classes().iter().filter(|(_, d)| !d.is_zero()).map(|(n, d)| (*n, d.as_secs())).collect()
    }

    #[test]
    fn a_failure_loses_what_was_not_saved_and_a_stop_that_saves_loses_nothing() {
        let again = || Next::Queue { not_before: Timestamp(0), failures: 1 };
        let ledger = ledger(&[
            (2, placed(1)),
            (3, ready(1, 0)),
            (5, ready(1, 1)),
            (15, saved(1)),
            (18, ended(1, Outcome::Failed, again())),
            (20, placed(2)),
            (21, ready(2, 0)),
            (21, ready(2, 1)),
            (30, stop(2)),
            (31, saved(2)),
            (32, ended(2, Outcome::Stopped, Next::Pause)),
        ]);
        let goodput = ledger.at(Timestamp(40_000_000), Reported::default());
        let expected = [("queued", 4), ("paused", 8), ("starting", 4), ("training", 19), ("stopping", 2), ("lost", 3)];
        assert_eq!(seconds(&goodput), expected);
        assert_eq!(goodput.total().as_secs(), 40);
    }

    #[test]
    fn reports_split_the_time_of_steps_and_no_other() {
        let ledger = ledger(&[(1, placed(1)), (2, ready(1, 0)), (2, ready(1, 1))]);
        let at = |reported| ledger.at(Timestamp(12_000_000), reported);
        let some = Reported { data: 2.0, checkpointing: 1.0, evaluating: 3.0 };
        let expected =
            [("queued", 1), ("starting", 1), ("training", 4), ("data", 2), ("checkpointing", 1), ("evaluating", 3)];
        assert_eq!(seconds(&at(some)), expected);
        for odd in [1e9, f64::NAN, f64::INFINITY, -1.0] {
            let odd = at(Reported { data: odd, checkpointing: odd, evaluating: odd });
            assert_eq!(odd.total().as_secs(), 12, "{odd:?}");
        }
    }
}
