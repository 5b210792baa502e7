//! `morph-sim`: lives of a small cluster, one a seed, until something is broken or all have been lived.

use std::{
    io::Write,
    panic::catch_unwind,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use clap::Parser;
use morph_sim::{Life, Options, history, live};

/// A line on stdout; a reader that has gone away (`| head`) is no error.
macro_rules! say {
    ($($text:tt)*) => { writeln!(std::io::stdout().lock(), $($text)*).ok() };
}

/// Lives through faults, many times, and looks whether anything that must hold is broken.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:
  cargo run --release -p morph-sim -- --seeds 100000
  cargo run --release -p morph-sim -- --from 4711 --seeds 1 --trace      # what happened in one life
  cargo run --release -p morph-sim -- --seeds 1500 --record sim/tests/golden/0.2.0      # a release's histories

The last line is the sum of all. Exit code 1: something is broken, and how to see it again is said."
)]
struct Cli {
    /// How many lives.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Print all that happens, with the time.
    #[arg(long)]
    trace: bool,
    /// Write a few of the lives into this folder that together come by every kind of event: their events, and the state that
    /// these fold to.
    #[arg(long, value_name = "DIR", conflicts_with = "trace")]
    record: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(folder) = &cli.record {
        return match record(folder, cli.from..cli.from.saturating_add(cli.seeds)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                say!("record in {}: {e}", folder.display());
                ExitCode::FAILURE
            }
        };
    }
    let next = AtomicU64::new(cli.from);
    let end = cli.from.saturating_add(cli.seeds);
    let workers = if cli.trace { 1 } else { thread::available_parallelism().map_or(1, usize::from) };
    let work = || {
        let mut sum = Sum::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return sum;
            }
            // A life that ends in a panic is one that is broken: its seed is said, and the others are lived.
            match catch_unwind(|| live(Options { seed, trace: cli.trace })) {
                Ok(life) => sum.add(&life),
                Err(_) => sum.broken(seed, "it panicked"),
            }
        }
    };
    let sum = thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let mut all = Sum::default();
        for thread in threads {
            match thread.join() {
                Ok(sum) => all.join(&sum),
                Err(_) => all.violations += 1,
            }
        }
        all
    });
    say!(
        "{} lives, {} faults, {} runs, {} succeeded, {} violations",
        sum.lives,
        sum.faults,
        sum.runs,
        sum.succeeded,
        sum.violations
    );
    ExitCode::from(u8::from(sum.violations > 0))
}

/// Records histories of some of the lives of `seeds` in `folder`.
fn record(folder: &Path, seeds: std::ops::Range<u64>) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for life in history::chosen(seeds.map(|seed| live(Options { seed, trace: false })).collect()) {
        let state: String = history::state(&life.events).iter().map(|piece| format!("{piece}\n")).collect();
        std::fs::write(folder.join(format!("{}.events.jsonl", life.seed)), history::lines(&life.events))?;
        std::fs::write(folder.join(format!("{}.state.jsonl", life.seed)), state)?;
        say!("seed {}: {} events, {} runs", life.seed, life.events.len(), life.runs);
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Sum {
    lives: u64,
    faults: u64,
    runs: usize,
    succeeded: usize,
    violations: u64,
}

impl Sum {
    fn add(&mut self, life: &Life) {
        for line in &life.trace {
            say!("{line}");
        }
        if let Some(what) = &life.violation {
            self.broken(life.seed, what);
        }
        self.lives += 1;
        self.faults += life.faults;
        self.runs += life.runs;
        self.succeeded += life.succeeded;
    }

    fn broken(&mut self, seed: u64, what: &str) {
        say!("seed {seed}: {what}\n  see it: cargo run --release -p morph-sim -- --from {seed} --seeds 1 --trace");
        self.violations += 1;
    }

    fn join(&mut self, other: &Self) {
        self.lives += other.lives;
        self.faults += other.faults;
        self.runs += other.runs;
        self.succeeded += other.succeeded;
        self.violations += other.violations;
    }
}
