//! What time it is for a process whose machine's clock may be set while it runs: by hand, by NTP, by a hypervisor. Deadlines
//! must not come all at once because of that, nor stay away for as long as the clock was set back.

use std::{fmt, time::Duration};

use morph_spec::Timestamp;

/// A machine's clock that was set by more than so many microseconds is mentioned; two clocks are never quite the same.
const MENTION: u64 = 1_000_000;

/// The time goes with the machine's clock while that goes on steadily. When the machine's clock was set, it follows slowly: of
/// any stretch of real time it passes between seven and nine eighths. It never goes back.
///
/// `running` is always the time since whenever, by a clock that nobody sets; `wall` is what the machine's clock says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    now: Timestamp,
    running: Duration,
    wall: Timestamp,
}

/// A machine's clock was set, by so many microseconds: forward, or back (negative). Printed, it is a whole message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WasSet(pub i64);

impl fmt::Display for WasSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (how, seconds) = (if self.0 > 0 { "forward" } else { "back" }, self.0.unsigned_abs() / 1_000_000);
        write!(f, "this machine's clock was set {how} by {seconds} s: deadlines stay where they are")
    }
}

impl Clock {
    /// Begins with what the machine's clock says, but not before `earliest`: what has happened has happened.
    pub fn new(running: Duration, wall: Timestamp, earliest: Timestamp) -> Self {
        Self { now: wall.max(earliest), running, wall }
    }

    /// The time, and whether the machine's clock was set since the last call (by more than a second).
    pub fn tick(&mut self, running: Duration, wall: Timestamp) -> (Timestamp, Option<WasSet>) {
        let passed = running.saturating_sub(self.running);
        let slowest = self.now.after(passed - passed / 8);
        let fastest = self.now.after(passed + passed / 8);
        let set = WasSet(wall.0 as i64 - self.wall.after(passed).0 as i64);
        *self = Self { now: wall.clamp(slowest, fastest), running, wall };
        (self.now, (set.0.unsigned_abs() > MENTION).then_some(set))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;
    const HOUR: u64 = 3600 * SECOND;

    fn at(seconds: u64) -> Timestamp {
        Timestamp(HOUR * 1000 + seconds * SECOND)
    }

    /// It is `seconds` after the beginning; `ahead`: what the machine's clock is ahead of real time.
    fn after(clock: &mut Clock, seconds: u64, ahead: i64) -> (Timestamp, Option<WasSet>) {
        clock.tick(Duration::from_secs(seconds), Timestamp(at(seconds).0.wrapping_add_signed(ahead)))
    }

    fn clock(wall: Timestamp, earliest: Timestamp) -> Clock {
        Clock::new(Duration::ZERO, wall, earliest)
    }

    #[test]
    fn it_is_the_machines_while_nobody_sets_that() {
        let mut clock = clock(at(0), Timestamp(5));
        for seconds in 1..100 {
            assert_eq!(after(&mut clock, seconds, 0), (at(seconds), None));
        }
        // Two clocks are never quite the same.
        assert_eq!(after(&mut clock, 100, 3), (Timestamp(at(100).0 + 3), None));
    }

    #[test]
    fn set_by_an_hour_it_follows_slowly_and_arrives() {
        for set in [HOUR as i64, -(HOUR as i64)] {
            let mut clock = clock(at(0), at(0));
            let (mut before, said) = after(&mut clock, 1, set);
            assert_eq!(said, Some(WasSet(set)), "it is said once");
            let mut arrived = None;
            for seconds in 2..10 * 3600 {
                let (now, said) = after(&mut clock, seconds, set);
                let passed = now.since(before);
                assert!(passed >= Duration::from_millis(875) && passed <= Duration::from_millis(1125), "{passed:?}");
                before = now;
                assert_eq!(said, None);
                let there = now == Timestamp(at(seconds).0.wrapping_add_signed(set));
                arrived = arrived.or(there.then_some(seconds));
                assert!(there || arrived.is_none(), "it stays there");
            }
            assert_eq!(arrived, Some(8 * 3600), "eight times as long as it was set by");
        }
    }

    #[test]
    fn it_is_said_how() {
        let said = "this machine's clock was set back by 7200 s: deadlines stay where they are";
        assert_eq!(WasSet(-2 * HOUR as i64).to_string(), said);
        assert!(WasSet(HOUR as i64).to_string().contains("forward by 3600 s"));
    }

    #[test]
    fn it_begins_after_what_has_happened() {
        // Set back while nobody was there.
        let mut behind = clock(at(0), at(60));
        let mut before = at(60);
        for seconds in 1..=480 {
            let (now, _) = after(&mut behind, seconds, 0);
            assert!(now > before);
            before = now;
        }
        assert_eq!(before, at(480));
        // Set forward meanwhile: whoever was away that long knows no better.
        assert_eq!(after(&mut clock(at(7200), at(0)), 0, 7200 * SECOND as i64).0, at(7200));
    }
}
