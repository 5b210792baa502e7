//! How far a job is that reads or writes images.

use std::{
    io::IsTerminal,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use morph_data::Progress;

use crate::cli::Global;

/// Progress on the terminal: a bar, or a line now and then.
pub struct Bars {
    shown: Shown,
}

enum Shown {
    Nothing,
    Bar(ProgressBar),
    Lines { state: Mutex<Stage>, total: AtomicU64, done: AtomicU64 },
}

/// What is done at the moment.
struct Stage {
    name: String,
    began: Instant,
    said: Instant,
}

impl Stage {
    fn new(name: &str) -> Self {
        let now = Instant::now();
        Self { name: name.to_owned(), began: now, said: now }
    }
}

/// How often a line is said when there is no terminal.
const PACE: Duration = Duration::from_secs(10);

impl Bars {
    /// A bar if stderr is a terminal.
    pub fn new(global: &Global) -> Self {
        let shown = if global.quiet {
            Shown::Nothing
        } else if std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template("{msg:18} {bar:32} {pos}/{len} {per_sec} {eta} left");
            Shown::Bar(ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
        } else {
            Shown::Lines { state: Mutex::new(Stage::new("")), total: AtomicU64::new(0), done: AtomicU64::new(0) }
        };
        Self { shown }
    }

    /// Takes the bar away.
    pub fn done(&self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Bars {
    fn stage(&self, name: &str, total: u64) {
        match &self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => {
                bar.reset();
                bar.set_length(total);
                bar.set_message(name.to_owned());
            }
            Shown::Lines { state, total: all, done } => {
                all.store(total, Ordering::Relaxed);
                done.store(0, Ordering::Relaxed);
                *state.lock().unwrap_or_else(PoisonError::into_inner) = Stage::new(name);
            }
        }
    }

    fn advance(&self, n: u64) {
        match &self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => bar.inc(n),
            Shown::Lines { state, total, done } => {
                let now = done.fetch_add(n, Ordering::Relaxed) + n;
                let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
                if state.said.elapsed() >= PACE {
                    state.said = Instant::now();
                    let (total, rate) =
                        (total.load(Ordering::Relaxed), now as f64 / state.began.elapsed().as_secs_f64());
                    let left = Duration::from_secs((total.saturating_sub(now) as f64 / rate.max(f64::EPSILON)) as u64);
                    say!(
                        "{}: {now} of {total}, {rate:.1} a second, {} left",
                        state.name,
                        indicatif::HumanDuration(left)
                    );
                }
            }
        }
    }

    fn warn(&self, line: &str) {
        match &self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => bar.suspend(|| say!("{line}")),
            Shown::Lines { .. } => say!("{line}"),
        }
    }
}
