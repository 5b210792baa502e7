//! The time that the core is told.

use std::{
    sync::LazyLock,
    time::{Duration, Instant, SystemTime},
};

use morph_control::Clock;
use morph_spec::Timestamp;

/// A machine's clock that was set by more than so many microseconds is mentioned.
const MENTION: u64 = 1_000_000;

/// Where the time comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source {
    /// Time since whenever, by a clock that nobody sets.
    pub running: fn() -> Duration,
    /// What the machine's clock says.
    pub wall: fn() -> Timestamp,
}

impl Default for Source {
    /// This machine.
    fn default() -> Self {
        Self { running, wall }
    }
}

/// Goes on steadily when the machine's clock is set; see [`Clock`].
#[derive(Debug)]
pub(crate) struct Steady {
    clock: Clock,
    source: Source,
    asked: Duration,
}

impl Steady {
    /// Begins now, but not before `earliest`.
    pub(crate) fn after(earliest: Timestamp, source: Source) -> Self {
        Self { clock: Clock::new((source.wall)(), earliest), source, asked: (source.running)() }
    }

    /// The time, which never runs backwards.
    pub(crate) fn now(&mut self) -> Timestamp {
        let asked = (self.source.running)();
        let set = self.clock.tick(asked.saturating_sub(self.asked), (self.source.wall)());
        self.asked = asked;
        if set.unsigned_abs() > MENTION {
            let (how, seconds) = (if set > 0 { "forward" } else { "back" }, set.unsigned_abs() / 1_000_000);
            tracing::warn!("this machine's clock was set {how} by {seconds} s: deadlines stay where they are");
        }
        self.clock.now()
    }
}

fn running() -> Duration {
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    BEGUN.elapsed()
}

fn wall() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
