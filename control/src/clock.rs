//! What time it is for a process whose machine's clock may be set while it runs: by hand, by NTP, by a hypervisor. Deadlines
//! must not come all at once because of that, nor stay away for as long as the clock was set back.

use std::time::Duration;

use morph_spec::Timestamp;

/// The time goes with the machine's clock while that goes on steadily. When the machine's clock was set, it follows slowly: of
/// any stretch of real time it passes between seven and nine eighths. It never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    now: Timestamp,
    wall: Timestamp,
}

impl Clock {
    /// Begins with what the machine's clock says, `wall`, but not before `earliest`: what has happened has happened.
    pub fn new(wall: Timestamp, earliest: Timestamp) -> Self {
        Self { now: wall.max(earliest), wall }
    }

    /// The time when it was last asked for.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// The time, now that `passed` has passed by a clock that nobody sets, and the machine's says `wall`. How far that was set
    /// since the last call, in microseconds: 0 is what it should be, but for what it takes to read two clocks.
    pub fn tick(&mut self, passed: Duration, wall: Timestamp) -> i64 {
        let slowest = self.now.after(passed - passed / 8);
        let fastest = self.now.after(passed + passed / 8);
        let set = wall.0 as i64 - self.wall.after(passed).0 as i64;
        (self.now, self.wall) = (wall.clamp(slowest, fastest), wall);
        set
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

    /// A second passes; `ahead`: what the machine's clock is ahead of real time after `seconds`.
    fn second(clock: &mut Clock, seconds: u64, ahead: i64) -> i64 {
        clock.tick(Duration::from_secs(1), Timestamp(at(seconds).0.wrapping_add_signed(ahead)))
    }

    #[test]
    fn it_is_the_machines_while_nobody_sets_that() {
        let mut clock = Clock::new(at(0), Timestamp(5));
        for seconds in 1..100 {
            assert_eq!(second(&mut clock, seconds, 0), 0);
            assert_eq!(clock.now(), at(seconds));
        }
        // Two clocks are never quite the same.
        assert_eq!(second(&mut clock, 100, 3), 3);
        assert_eq!(clock.now(), Timestamp(at(100).0 + 3));
    }

    #[test]
    fn set_by_an_hour_it_follows_slowly_and_arrives() {
        for set in [HOUR as i64, -(HOUR as i64)] {
            let mut clock = Clock::new(at(0), at(0));
            let mut before = clock.now();
            assert_eq!(second(&mut clock, 1, set), set, "it is said once");
            let mut arrived = None;
            for seconds in 2..10 * 3600 {
                let passed = clock.now().since(before);
                assert!(passed >= Duration::from_millis(875) && passed <= Duration::from_millis(1125), "{passed:?}");
                before = clock.now();
                assert_eq!(second(&mut clock, seconds, set), 0);
                let there = clock.now() == Timestamp(at(seconds).0.wrapping_add_signed(set));
                arrived = arrived.or(there.then_some(seconds));
                assert!(there || arrived.is_none(), "it stays there");
            }
            assert_eq!(arrived, Some(8 * 3600), "eight times as long as it was set by");
        }
    }

    #[test]
    fn it_begins_after_what_has_happened() {
        // Set back while nobody was there.
        let mut clock = Clock::new(at(0), at(60));
        assert_eq!(clock.now(), at(60));
        let mut before = clock.now();
        for seconds in 1..=480 {
            second(&mut clock, seconds, 0);
            assert!(clock.now() > before);
            before = clock.now();
        }
        assert_eq!(clock.now(), at(480));
        // Set forward meanwhile: whoever was away that long knows no better.
        assert_eq!(Clock::new(at(7200), at(0)).now(), at(7200));
    }
}
