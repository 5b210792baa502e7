//! The time that the core is told.

use std::time::{Instant, SystemTime};

use morph_control::Clock;
use morph_spec::Timestamp;

/// A machine's clock that was set by more than so many microseconds is mentioned.
const MENTION: u64 = 1_000_000;

/// Goes on steadily when the machine's clock is set; see [`Clock`].
#[derive(Debug)]
pub(crate) struct Steady {
    clock: Clock,
    asked: Instant,
}

impl Steady {
    /// Begins now, but not before `earliest`.
    pub(crate) fn after(earliest: Timestamp) -> Self {
        Self { clock: Clock::new(wall(), earliest), asked: Instant::now() }
    }

    /// The time, which never runs backwards.
    pub(crate) fn now(&mut self) -> Timestamp {
        let asked = Instant::now();
        let set = self.clock.tick(asked - self.asked, wall());
        self.asked = asked;
        if set.unsigned_abs() > MENTION {
            let (how, seconds) = (if set > 0 { "forward" } else { "back" }, set.unsigned_abs() / 1_000_000);
            tracing::warn!("this machine's clock was set {how} by {seconds} s: deadlines stay where they are");
        }
        self.clock.now()
    }
}

fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
