//! How much memory is in use at a time: who needs some waits until it is there.

use std::sync::{Condvar, Mutex, PoisonError};

/// Bytes that are handed out up to a limit. One that alone is above it waits until it is alone.
#[derive(Debug)]
pub(super) struct Gate {
    most: u64,
    used: Mutex<u64>,
    freed: Condvar,
}

/// What was handed out; comes back when dropped.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    bytes: u64,
}

impl Gate {
    pub(super) fn new(most: u64) -> Self {
        Self { most, used: Mutex::new(0), freed: Condvar::new() }
    }

    pub(super) fn enter(&self, bytes: u64) -> Pass<'_> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while *used > 0 && used.saturating_add(bytes) > self.most {
            used = self.freed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        *used = used.saturating_add(bytes);
        Pass { gate: self, bytes }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut used = self.gate.used.lock().unwrap_or_else(PoisonError::into_inner);
        *used = used.saturating_sub(self.bytes);
        self.gate.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn never_more_than_the_limit_at_a_time_and_everybody_gets_in() {
        let (gate, now, peak, done) = (Gate::new(100), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for i in 0..8u64 {
                let (gate, now, peak, done) = (&gate, &now, &peak, &done);
                scope.spawn(move || {
                    for k in 0..200 {
                        let bytes = (i * 31 + k * 17) % 60;
                        let _pass = gate.enter(bytes);
                        peak.fetch_max(now.fetch_add(bytes, Ordering::SeqCst) + bytes, Ordering::SeqCst);
                        now.fetch_sub(bytes, Ordering::SeqCst);
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(peak.load(Ordering::SeqCst) <= 100, "{peak:?}");
        assert_eq!(done.load(Ordering::SeqCst), 1600);
        drop(gate.enter(5000));
    }
}
