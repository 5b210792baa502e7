//! The time that the core is told.

use std::{
    sync::LazyLock,
    time::{Duration, Instant, SystemTime},
};

use morph_control::Clock;
use morph_spec::Timestamp;

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
}

impl Steady {
    /// Begins now, but not before `earliest`.
    pub(crate) fn after(earliest: Timestamp, source: Source) -> Self {
        Self { clock: Clock::new((source.running)(), (source.wall)(), earliest), source }
    }

    /// The time, which never runs backwards.
    pub(crate) fn now(&mut self) -> Timestamp {
        let (now, set) = self.clock.tick((self.source.running)(), (self.source.wall)());
        if let Some(set) = set {
            tracing::warn!("{set}");
        }
        now
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
