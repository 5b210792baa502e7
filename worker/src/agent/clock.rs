//! The time that the protocol is told.

use std::time::{Duration, Instant};

use morph_control::Clock;
use morph_spec::Timestamp;

/// Goes on steadily when the machine's clock is set, or ranks would be taken for hung; see [`Clock`].
#[derive(Debug)]
pub struct Steady {
    clock: Clock,
    begun: Instant,
}

impl Default for Steady {
    fn default() -> Self {
        Self { clock: Clock::new(Duration::ZERO, crate::now(), Timestamp(0)), begun: Instant::now() }
    }
}

impl Steady {
    /// Microseconds since the Unix epoch, never less than before.
    pub fn now(&mut self) -> u64 {
        let (now, set) = self.clock.tick(self.begun.elapsed(), crate::now());
        if let Some(set) = set {
            tracing::warn!("{set}");
        }
        now.0
    }
}
