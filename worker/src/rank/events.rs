//! What a rank tells its agent: one JSON object a line, metrics bundled.

use std::{
    io::Write,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::wire::{Event, Point};

/// Metrics wait at most this long to be bundled.
const BUNDLE: Duration = Duration::from_millis(200);
/// And at most this many.
const POINTS: usize = 256;

/// The rank's voice. Shared by threads.
pub struct Events {
    state: Mutex<State>,
}

struct State {
    sink: Box<dyn Write + Send>,
    points: Vec<Point>,
    flushed: Instant,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}

impl Events {
    /// Writes to `sink`.
    pub fn new(sink: Box<dyn Write + Send>) -> Self {
        Self { state: Mutex::new(State { sink, points: Vec::new(), flushed: Instant::now() }) }
    }

    /// Says nothing to anybody: all ranks but 0 report few things, and tests none.
    pub fn silent() -> Self {
        Self::new(Box::new(std::io::sink()))
    }

    /// Says `event` now, after all metrics that wait.
    pub fn say(&self, event: &Event) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.flush();
        state.write(event);
    }

    /// Adds values of metrics; they are said soon, and before anything else.
    pub fn metrics(&self, step: u64, values: impl IntoIterator<Item = (String, f64)>) {
        let at = crate::now().0;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.points.extend(values.into_iter().map(|(name, value)| Point { step, at, name, value }));
        if state.points.len() >= POINTS || state.flushed.elapsed() >= BUNDLE {
            state.flush();
        }
    }
}

impl State {
    fn flush(&mut self) {
        self.flushed = Instant::now();
        if !self.points.is_empty() {
            let points = std::mem::take(&mut self.points);
            self.write(&Event::Metrics { points });
        }
    }

    fn write(&mut self, event: &Event) {
        let mut line = serde_json::to_vec(event).expect("invariant: events are plain data");
        line.push(b'\n');
        if self.sink.write_all(&line).and_then(|()| self.sink.flush()).is_err() {
            // Nobody listens: the agent is gone, and the kernel or the closed stdin is about to end this process.
            tracing::debug!("the agent does not listen any more");
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use super::*;

    /// A sink that tests can look into.
    #[derive(Clone, Default)]
    pub(crate) struct Heard(Arc<Mutex<Vec<u8>>>);

    impl Heard {
        pub(crate) fn events(&self) -> Vec<Event> {
            let bytes = self.0.lock().unwrap();
            bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|l| serde_json::from_slice(l).unwrap()).collect()
        }
    }

    impl Write for Heard {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn metrics_come_before_what_follows_them() {
        let heard = Heard::default();
        let events = Events::new(Box::new(heard.clone()));
        events.metrics(1, [("train/loss".to_owned(), 0.5)]);
        events.metrics(2, [("train/loss".to_owned(), 0.25)]);
        events.say(&Event::StoreReady { address: "h:1".into() });
        let events = heard.events();
        assert!(matches!(&events[0], Event::Metrics { points } if points.len() == 2 && points[1].step == 2));
        assert!(matches!(&events[1], Event::StoreReady { .. }));
    }
}
