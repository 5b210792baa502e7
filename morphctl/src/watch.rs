//! How far a run or sweep is, live: bars on a terminal, else a line per change.

use std::{
    collections::HashMap,
    io::IsTerminal,
    time::{Duration, Instant},
};

use morph_proto::v1::{self, RunState};

use self::board::Board;
use crate::{cli::Global, json, text};

mod board;

/// How often a running run is mentioned when there is no terminal.
const PACE: Duration = Duration::from_secs(10);

/// Shows snapshots as they come.
pub struct Screen {
    shown: Shown,
    speeds: HashMap<String, Speed>,
}

enum Shown {
    Nothing,
    Bars(Board),
    Lines { said: HashMap<String, Said> },
}

/// What was last said of a run.
struct Said {
    what: String,
    at: Instant,
}

/// Steps of an attempt over time, for the time that is left.
struct Speed {
    attempt: u32,
    first: u64,
    since: Instant,
}

impl Screen {
    /// Bars if stderr is a terminal.
    pub fn new(global: &Global) -> Self {
        let shown = if global.quiet {
            Shown::Nothing
        } else if std::io::stderr().is_terminal() {
            Shown::Bars(Board::default())
        } else {
            Shown::Lines { said: HashMap::new() }
        };
        Self { shown, speeds: HashMap::new() }
    }

    /// Says a line without tearing the bars.
    pub fn say(&self, line: &str) {
        match &self.shown {
            Shown::Nothing => {}
            Shown::Bars(board) => board.say(line),
            Shown::Lines { .. } => say!("{line}"),
        }
    }

    /// Shows where things stand.
    pub fn show(&mut self, snapshot: &v1::WatchResponse) {
        let left: Vec<Option<Duration>> = snapshot.runs.iter().map(|r| self.left(r)).collect();
        match &mut self.shown {
            Shown::Nothing => {}
            Shown::Bars(board) => board.show(snapshot, &left),
            Shown::Lines { said } => lines(said, snapshot, &left),
        }
    }

    /// Takes the bars away.
    pub fn finish(&mut self) {
        if let Shown::Bars(board) = &self.shown {
            board.clear();
        }
    }

    /// The time that a running run still needs, once it can be told.
    fn left(&mut self, run: &v1::Run) -> Option<Duration> {
        if run.state() != RunState::Running {
            return None;
        }
        let fresh = || Speed { attempt: run.attempt, first: run.step, since: Instant::now() };
        let speed = self.speeds.entry(run.id.clone()).or_insert_with(fresh);
        if speed.attempt != run.attempt {
            *speed = fresh();
        }
        let done = run.step.saturating_sub(speed.first);
        let todo = run.total_steps.saturating_sub(run.step);
        (done > 0).then(|| speed.since.elapsed().mul_f64(todo as f64 / done as f64))
    }
}

fn is_over(run: &v1::Run) -> bool {
    matches!(run.state(), RunState::Succeeded | RunState::Failed | RunState::Cancelled)
}

/// Losses, speed and time left of a running run; scores of one that has any, its sweep's `metric` among them; why it does not run.
fn status(run: &v1::Run, left: Option<Duration>, metric: &str) -> String {
    if run.state() != RunState::Running {
        let scores: Vec<String> = run
            .summary
            .iter()
            .filter(|(name, _)| name.ends_with("/auroc") || *name == metric)
            .map(|(name, v)| format!("{name} {}", text::number(*v)))
            .collect();
        let reason = if run.state() == RunState::Failed { run.error.clone() } else { run.reason.clone() };
        return [scores.join(" "), reason].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join(" ");
    }
    let mut parts = Vec::new();
    for (name, metric) in [("loss", "train/loss"), ("val", "val/score")] {
        if let Some(value) = run.latest.get(metric) {
            parts.push(format!("{name} {}", text::number(*value)));
        }
    }
    if run.images_per_second > 0.0 {
        parts.push(format!("{:.0} images/s", run.images_per_second));
    }
    if run.total_steps > 0 && run.step >= run.total_steps {
        parts.push("scoring".into());
    } else if let Some(left) = left {
        parts.push(format!("{} left", text::duration(left)));
    }
    parts.join("  ")
}

/// What there is to say of a run now: where it stands, and [`status`].
fn mention(run: &v1::Run, left: Option<Duration>, metric: &str) -> String {
    let progress = if run.total_steps > 0 { format!(" {}/{}", run.step, run.total_steps) } else { String::new() };
    format!("{}: {}{progress}  {}", run.name, json::run_state(run), status(run, left, metric))
}

/// What the runs are compared by; empty for a run alone.
fn metric(snapshot: &v1::WatchResponse) -> &str {
    snapshot.sweep.as_ref().map_or("", |s| &s.metric)
}

fn lines(said: &mut HashMap<String, Said>, snapshot: &v1::WatchResponse, left: &[Option<Duration>]) {
    for (run, left) in snapshot.runs.iter().zip(left) {
        // Seconds that count down in a reason are no news.
        let what = format!(
            "{} {} {}",
            json::run_state(run),
            run.attempt,
            if run.state() == RunState::Queued { waits(&run.reason) } else { "" }
        );
        let known = said.get(&run.id);
        let news = known.is_none_or(|s| s.what != what);
        let due = run.state() == RunState::Running && known.is_some_and(|s| s.at.elapsed() >= PACE);
        if !news && !due {
            continue;
        }
        say!("{}", mention(run, *left, metric(snapshot)));
        said.insert(run.id.clone(), Said { what, at: Instant::now() });
    }
    if let Some(s) = &snapshot.sweep {
        let what = counts(s);
        if said.get(&s.id).is_none_or(|known| known.what != what) {
            say!("{}: {what}", s.name);
            said.insert(s.id.clone(), Said { what, at: Instant::now() });
        }
    }
}

/// The kind of a reason, without its numbers.
fn waits(reason: &str) -> &str {
    reason.split(|c: char| c.is_ascii_digit()).next().unwrap_or_default()
}

/// How many runs stand where: `2 ok, 1 running, 1 queued`.
pub fn counts(s: &v1::Sweep) -> String {
    let all = [
        (s.succeeded, "ok"),
        (s.running, "running"),
        (s.queued, "queued"),
        (s.paused, "paused"),
        (s.failed, "failed"),
        (s.cancelled, "cancelled"),
    ];
    let some: Vec<String> = all.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    if some.is_empty() { "no runs".into() } else { some.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_leave_out_what_is_not() {
        let sweep = v1::Sweep { succeeded: 2, failed: 1, ..v1::Sweep::default() };
        assert_eq!(counts(&sweep), "2 ok, 1 failed");
    }

    #[test]
    fn a_countdown_is_no_news() {
        assert_eq!(waits("goes on in 3 s, try 1"), waits("goes on in 2 s, try 1"));
        assert_ne!(waits("waits for 2 slots"), waits("no worker has joined yet"));
    }
}
