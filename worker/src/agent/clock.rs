//! The time that the protocol is told.

use std::time::Instant;

use morph_control::Clock;
use morph_spec::Timestamp;

/// A machine's clock that was set by more than so many microseconds is mentioned.
const MENTION: u64 = 1_000_000;

/// Goes on steadily when the machine's clock is set, or ranks would be taken for hung; see [`Clock`].
#[derive(Debug)]
pub struct Steady {
    clock: Clock,
    asked: Instant,
}

impl Default for Steady {
    fn default() -> Self {
        Self { clock: Clock::new(crate::now(), Timestamp(0)), asked: Instant::now() }
    }
}

impl Steady {
    /// Microseconds since the Unix epoch, never less than before.
    pub fn now(&mut self) -> u64 {
        let asked = Instant::now();
        let set = self.clock.tick(asked - self.asked, crate::now());
        self.asked = asked;
        if set.unsigned_abs() > MENTION {
            let (how, seconds) = (if set > 0 { "forward" } else { "back" }, set.unsigned_abs() / 1_000_000);
            tracing::warn!("this machine's clock was set {how} by {seconds} s: deadlines stay where they are");
        }
        self.clock.now().0
    }
}
