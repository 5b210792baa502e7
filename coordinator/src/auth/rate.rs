//! A token bucket, pure: time is told.

use std::time::{Duration, Instant};

/// How much a principal may ask for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    /// Requests a second, in the long run.
    pub per_second: f64,
    /// Requests at once after a rest.
    pub burst: f64,
}

/// What is left.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(rate: Rate, now: Instant) -> Self {
        Self { left: rate.burst, at: now }
    }

    /// Takes one, or says how long to wait for it.
    pub(super) fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * rate.per_second).min(rate.burst);
        self.at = self.at.max(now);
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.left) / rate.per_second))
    }

    /// Whether forgetting it changes nothing.
    pub(super) fn is_full(&self, rate: Rate, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left + passed * rate.per_second >= rate.burst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { per_second: 10.0, burst: 5.0 };

    #[test]
    fn a_burst_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(RATE, start);
        assert_eq!((0..20).filter(|_| bucket.take(RATE, start).is_ok()).count(), 5);
        let wait = bucket.take(RATE, start).unwrap_err();
        assert!(wait <= Duration::from_millis(101), "{wait:?}");
        assert!(bucket.take(RATE, start + Duration::from_millis(101)).is_ok(), "after the wait that was asked for");
        let mut taken = 0;
        for ms in 101..10_101 {
            taken += u32::from(bucket.take(RATE, start + Duration::from_millis(ms)).is_ok());
        }
        assert!((99..=101).contains(&taken), "{taken} in ten seconds");
    }

    #[test]
    fn a_rest_fills_it_and_no_more() {
        let start = Instant::now();
        let mut bucket = Bucket::new(RATE, start);
        assert!(bucket.is_full(RATE, start));
        while bucket.take(RATE, start).is_ok() {}
        assert!(!bucket.is_full(RATE, start));
        let later = start + Duration::from_secs(3600);
        assert!(bucket.is_full(RATE, later));
        assert_eq!((0..20).filter(|_| bucket.take(RATE, later).is_ok()).count(), 5);
        assert!(bucket.take(RATE, start).is_err(), "a clock that goes back gives nothing");
    }
}
