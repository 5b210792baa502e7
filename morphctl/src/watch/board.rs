//! Runs as bars on a terminal: those at work, then the next in line. Of a sweep, each run that ends leaves a line above.

use std::{collections::HashSet, io::stderr, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use morph_proto::v1::{self, RunState};
use terminal_size::{Height, terminal_size_of};

use super::{counts, is_over, mention, metric, status};
use crate::{json, text};

/// How many of those that wait are shown, beside those at work: what they wait for is the same for most of them.
const NEXT: usize = 4;

/// What stands on the terminal.
#[derive(Default)]
pub struct Board {
    all: MultiProgress,
    sweep: Option<ProgressBar>,
    rows: Vec<Row>,
    /// The runs that were not over yet.
    open: HashSet<String>,
}

struct Row {
    run: String,
    waits: bool,
    bar: ProgressBar,
}

impl Board {
    /// Says a line above the bars.
    pub fn say(&self, line: &str) {
        // A terminal that has gone away needs no words.
        drop(self.all.println(line));
    }

    /// Takes the bars away.
    pub fn clear(&self) {
        // What cannot be cleared was not drawn.
        drop(self.all.clear());
    }

    /// Shows `snapshot`; `left` is the time that each of its runs still needs.
    pub fn show(&mut self, snapshot: &v1::WatchResponse, left: &[Option<Duration>]) {
        if let Some(sweep) = &snapshot.sweep {
            for run in snapshot.runs.iter().filter(|r| is_over(r) && self.open.contains(&r.id)) {
                self.say(&mention(run, None, metric(snapshot)));
            }
            self.sweep(sweep, snapshot);
        }
        self.open = snapshot.runs.iter().filter(|r| !is_over(r)).map(|r| r.id.clone()).collect();
        // The sweep's line, and one for the cursor.
        let room =
            terminal_size_of(stderr()).map_or(24, |(_, Height(rows))| usize::from(rows)).saturating_sub(2).max(1);
        let wanted = rows(&snapshot.runs, room);
        self.rows.retain(|row| {
            let stays = wanted.iter().any(|&i| snapshot.runs[i].id == row.run && waits(&snapshot.runs[i]) == row.waits);
            if !stays {
                self.all.remove(&row.bar);
            }
            stays
        });
        for (place, &i) in wanted.iter().enumerate() {
            let run = &snapshot.runs[i];
            if self.rows.get(place).is_none_or(|row| row.run != run.id) {
                self.rows.insert(place, self.row(place, run));
            }
            update(&self.rows[place].bar, run, &status(run, left[i], metric(snapshot)));
        }
    }

    fn sweep(&mut self, sweep: &v1::Sweep, snapshot: &v1::WatchResponse) {
        let bar = self.sweep.get_or_insert_with(|| {
            let bar = ProgressBar::new(0).with_style(style("{prefix:16} {bar:24} {msg}"));
            self.all.add(bar.with_prefix(sweep.name.clone()))
        });
        let (done, total) = steps(&snapshot.runs);
        bar.set_length(total);
        bar.set_position(done);
        let left = if done > 0 && done < total {
            format!("  {} left", text::duration(bar.elapsed().mul_f64((total - done) as f64 / done as f64)))
        } else {
            String::new()
        };
        bar.set_message(format!("{}  {} slots free{left}", counts(sweep), snapshot.slots_free));
    }

    fn row(&self, place: usize, run: &v1::Run) -> Row {
        let waits = waits(run);
        let style = style(if waits { "  {prefix:14} {msg}" } else { "  {prefix:14} {bar:24} {pos:>5}/{len:<5} {msg}" });
        let bar = ProgressBar::new(0).with_style(style).with_prefix(run.name.clone());
        let bar = self.all.insert(usize::from(self.sweep.is_some()) + place, bar);
        Row { run: run.id.clone(), waits, bar }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn update(bar: &ProgressBar, run: &v1::Run, status: &str) {
    // A bar without length is drawn as a full one.
    bar.set_length(run.total_steps.max(1));
    bar.set_position(if run.state() == RunState::Succeeded { run.total_steps } else { run.step });
    let state = if run.state() == RunState::Running { String::new() } else { format!("{}  ", json::run_state(run)) };
    bar.set_message(format!("{state}{status}"));
}

/// Whether it has no ranks and is not over.
fn waits(run: &v1::Run) -> bool {
    matches!(run.state(), RunState::Queued | RunState::Paused)
}

/// Which of `runs` are shown, in which order, where there is room for so many: those at work, then some of those that wait. One run
/// alone is shown whatever its state.
fn rows(runs: &[v1::Run], room: usize) -> Vec<usize> {
    if runs.len() == 1 {
        return vec![0];
    }
    let all = || runs.iter().enumerate();
    let working = all().filter(|(_, r)| !is_over(r) && !waits(r));
    let next = all().filter(|(_, r)| waits(r)).take(NEXT);
    working.chain(next).map(|(i, _)| i).take(room).collect()
}

/// Steps of all runs, done and to do. A run that has not begun counts as the others do.
fn steps(runs: &[v1::Run]) -> (u64, u64) {
    let usual = runs.iter().map(|r| r.total_steps).max().unwrap_or(0);
    let total = |r: &v1::Run| if r.total_steps == 0 { usual } else { r.total_steps };
    let done = |r: &v1::Run| if is_over(r) { total(r) } else { r.step };
    (runs.iter().map(done).sum(), runs.iter().map(total).sum())
}

#[cfg(test)]
mod tests {
    use indicatif::{InMemoryTerm, ProgressDrawTarget};

    use super::*;

    fn run(name: &str, state: RunState, step: u64, total_steps: u64) -> v1::Run {
        v1::Run {
            id: name.into(),
            name: name.into(),
            state: state.into(),
            step,
            total_steps,
            reason: if state == RunState::Queued { "waits for 1 slot".into() } else { String::new() },
            ..v1::Run::default()
        }
    }

    #[test]
    fn a_sweep_counts_runs_that_have_not_begun() {
        let runs = [
            run("a", RunState::Succeeded, 90, 100),
            run("b", RunState::Running, 40, 100),
            run("c", RunState::Queued, 0, 0),
        ];
        assert_eq!(steps(&runs), (140, 300));
    }

    #[test]
    fn those_at_work_are_shown_before_all_others() {
        use RunState::{Failed, Paused, Queued, Running, Starting, Stopping, Succeeded};
        let states = [Succeeded, Queued, Running, Failed, Starting, Queued, Queued, Stopping, Paused, Queued, Queued];
        let runs: Vec<v1::Run> = states.iter().map(|s| run("x", *s, 0, 0)).collect();
        assert_eq!(rows(&runs, 22), [2, 4, 7, 1, 5, 6, 8]);
        assert_eq!(rows(&runs, 4), [2, 4, 7, 1]);
        assert_eq!(rows(&runs, 2), [2, 4]);
        for state in states {
            assert_eq!(rows(&[run("x", state, 0, 0)], 22), [0]);
        }
    }

    #[test]
    fn what_ends_leaves_a_line_and_what_waits_has_no_bar() {
        let term = InMemoryTerm::new(12, 100);
        let target = ProgressDrawTarget::term_like(Box::new(term.clone()));
        let mut board = Board { all: MultiProgress::with_draw_target(target), ..Board::default() };
        let mut show = |runs: Vec<v1::Run>| {
            let sweep = Some(v1::Sweep { name: "lr".into(), running: 1, ..v1::Sweep::default() });
            board.show(&v1::WatchResponse { sweep, runs, ..v1::WatchResponse::default() }, &[None; 4]);
            // What is drawn too often is drawn later.
            std::thread::sleep(Duration::from_millis(120));
            board.rows.iter().for_each(|row| row.bar.tick());
            term.contents()
                .lines()
                .map(|l| l.split_whitespace().next().unwrap_or_default().to_owned())
                .collect::<Vec<_>>()
        };
        use RunState::{Queued, Running, Succeeded};
        let all = |a, b, c| vec![run("a", a, 5, 10), run("b", b, 0, 10), run("c", c, 0, 0), run("d", Succeeded, 9, 9)];
        assert_eq!(show(all(Running, Queued, Queued)), ["lr", "a", "b", "c"], "d was over before");
        assert_eq!(show(all(Succeeded, Queued, Running)), ["a:", "lr", "c", "b"]);
        let shown = show(all(Succeeded, Running, Succeeded));
        assert_eq!(shown, ["a:", "c:", "lr", "b"]);
        let queued = term.contents();
        assert!(!queued.contains("waits"), "{queued}");
    }
}
