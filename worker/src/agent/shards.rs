//! Datasets that this agent helps to prepare: one child process for one dataset at a time, which makes one shard after the other.
//!
//! None of it is kept on disk, and no report of it is acknowledged: what is made lies in object storage, and the coordinator gives what
//! it hears nothing of to others. So a child whose agent has lost its coordinator for long is of no use to anybody, and is killed.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use morph_control::agent::Status;
use morph_proto::v1::{MakeShard, ShardMade, ShardReport, StopShards, shard_report::Said};
use tokio::sync::mpsc;

use super::process::{self, Processes};
use crate::prepare::{Begin, Event, Order};

/// How long a child may go on without a coordinator, or without anything to do.
const ALONE: Duration = Duration::from_secs(60);
/// Lines for people that wait for a report.
const NOTES: usize = 1000;

/// What happens to a child, by its number.
pub type Heard = process::Heard<u64, Event>;

/// The child, and what it has yet to tell.
#[derive(Debug, Default)]
pub struct Shards {
    processes: Processes<u64, Order>,
    /// Children that were started.
    started: u64,
    child: Option<Child>,
    reports: VecDeque<ShardReport>,
}

#[derive(Debug)]
struct Child {
    number: u64,
    key: String,
    /// Shards that it was told to make; the first is in work.
    todo: VecDeque<String>,
    /// Images of that one that are done.
    images: u64,
    notes: Vec<String>,
    /// Since when it has been of use: it had something to do, and there was a coordinator.
    useful: Instant,
}

impl Shards {
    /// Has a shard made: by the child that is there, or by a new one.
    pub fn make(&mut self, make: MakeShard, log_format: morph_telemetry::Format, to: &mpsc::Sender<Heard>) {
        if self.child.as_ref().is_none_or(|child| child.key != make.key) {
            self.end("another dataset is to be prepared");
            self.started += 1;
            let number = self.started;
            tracing::info!(key = make.key, "prepare shards of a dataset");
            let command = process::command("prepare", make.jobs.max(1), log_format);
            self.processes.start(number, command, Order::Begin(Begin::from(&make)), to);
            self.child = Some(Child {
                number,
                key: make.key,
                todo: VecDeque::new(),
                images: 0,
                notes: Vec::new(),
                useful: Instant::now(),
            });
        }
        let Some(child) = &mut self.child else { return };
        if !child.todo.contains(&make.shard) {
            self.processes.tell(&child.number, Order::Make { shard: make.shard.clone() });
            child.todo.push_back(make.shard);
        }
    }

    /// Ends what runs of a preparation.
    pub fn stop(&mut self, stop: &StopShards) {
        if self.child.as_ref().is_some_and(|child| child.key == stop.key) {
            self.end(&stop.reason);
        }
    }

    /// Ends the child, if there is one. A shard that it has half made is no shard.
    pub fn end(&mut self, why: &str) {
        if let Some(child) = self.child.take() {
            tracing::info!(key = child.key, "preparing shards ends: {why}");
            self.processes.kill(&child.number);
        }
    }

    /// Something has happened to a child.
    pub fn hear(&mut self, heard: Heard) {
        let (number, event) = match heard {
            Heard::Event(number, event) => (number, event),
            Heard::Line(_, _, line) => return tracing::info!("preparing shards: {line}"),
            Heard::Exited(number, status) => {
                self.processes.forget(&number);
                return self.ended(number, Said::Failed, &how(status));
            }
            Heard::Failed(number, why) => return self.ended(number, Said::Failed, &why),
        };
        let Some(child) = self.child.as_mut().filter(|child| child.number == number) else { return };
        match event {
            Event::Working { shard, images } if child.todo.front() == Some(&shard) => {
                child.images = images;
                self.tell();
            }
            Event::Working { .. } => {}
            Event::Note { line } => {
                if child.notes.len() < NOTES {
                    child.notes.push(line);
                }
            }
            Event::Made { shard } => self.over(&shard, Said::Made(ShardMade {})),
            Event::Failed { shard, why } => self.over(&shard, Said::Failed(why)),
            Event::Refused { why } => self.ended(number, Said::Refused, &why),
        }
    }

    /// A shard is done with.
    fn over(&mut self, shard: &str, said: Said) {
        let Some(child) = &mut self.child else { return };
        child.todo.retain(|todo| todo != shard);
        child.images = 0;
        let (key, notes) = (child.key.clone(), std::mem::take(&mut child.notes));
        self.reports.retain(|report| report.shard != shard || !matches!(report.said, Some(Said::Working(_))));
        self.reports.push_back(ShardReport { key, shard: shard.to_owned(), notes, said: Some(said) });
    }

    /// The child will make no more.
    fn ended(&mut self, number: u64, said: impl Fn(String) -> Said, why: &str) {
        let Some(child) = self.child.take_if(|child| child.number == number) else { return };
        tracing::warn!(key = child.key, "preparing shards has failed: {why}");
        self.processes.kill(&number);
        let mut notes = child.notes;
        for shard in child.todo {
            let (key, notes) = (child.key.clone(), std::mem::take(&mut notes));
            self.reports.push_back(ShardReport { key, shard, notes, said: Some(said(why.to_owned())) });
        }
    }

    /// Says how far the shard in work is; only the newest word of it counts.
    fn tell(&mut self) {
        let Some(child) = &mut self.child else { return };
        let Some(shard) = child.todo.front().cloned() else { return };
        let said = Some(Said::Working(child.images));
        let waiting = self.reports.iter_mut().find(|r| r.shard == shard && matches!(r.said, Some(Said::Working(_))));
        match waiting {
            Some(report) => report.said = said,
            None => {
                let (key, notes) = (child.key.clone(), std::mem::take(&mut child.notes));
                self.reports.push_back(ShardReport { key, shard, notes, said });
            }
        }
    }

    /// Time has passed, with a coordinator or without one.
    pub fn beat(&mut self, connected: bool) {
        let Some(child) = &mut self.child else { return };
        if connected && !child.todo.is_empty() {
            child.useful = Instant::now();
            return self.tell();
        }
        if child.useful.elapsed() >= ALONE {
            self.end("nobody has asked for more for a while");
        }
    }

    /// The next report, if there is one.
    pub fn next_report(&mut self) -> Option<ShardReport> {
        self.reports.pop_front()
    }

    /// Whether there is a report.
    pub fn has_report(&self) -> bool {
        !self.reports.is_empty()
    }
}

/// How a process ended that should not have.
fn how(status: Status) -> String {
    match (status.signal, status.code) {
        (Some(9), _) => "its process was killed by signal 9; often the kernel's answer to too little memory".to_owned(),
        (Some(signal), _) => format!("its process was killed by signal {signal}"),
        (None, Some(code)) => format!("its process ended with code {code}; the agent's log says more"),
        (None, None) => "its process ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(shards: &mut Shards, todo: &[&str]) {
        shards.child = Some(Child {
            number: 1,
            key: "k".into(),
            todo: todo.iter().map(|s| (*s).to_owned()).collect(),
            images: 0,
            notes: Vec::new(),
            useful: Instant::now(),
        });
    }

    fn said(shards: &mut Shards) -> Vec<(String, Said)> {
        std::iter::from_fn(|| shards.next_report()).map(|r| (r.shard, r.said.unwrap())).collect()
    }

    #[test]
    fn only_the_newest_word_of_a_shard_waits_and_the_last_one_has_the_notes() {
        let mut shards = Shards::default();
        child(&mut shards, &["a", "b"]);
        let working = |n| Heard::Event(1, Event::Working { shard: "a".into(), images: n });
        shards.hear(working(1));
        shards.hear(working(2));
        shards.hear(Heard::Event(1, Event::Working { shard: "b".into(), images: 9 }));
        assert_eq!(said(&mut shards), [("a".to_owned(), Said::Working(2))], "b is not in work yet");
        shards.hear(working(3));
        shards.hear(Heard::Event(1, Event::Note { line: "skipped x".into() }));
        shards.hear(Heard::Event(1, Event::Made { shard: "a".into() }));
        let report = shards.next_report().unwrap();
        assert_eq!((report.said, report.notes), (Some(Said::Made(ShardMade {})), vec!["skipped x".to_owned()]));
        assert!(!shards.has_report(), "what is made is not in work any more");
    }

    #[test]
    fn what_a_child_leaves_undone_is_told_and_what_an_old_one_says_is_not_heard() {
        let mut shards = Shards::default();
        child(&mut shards, &["a", "b"]);
        shards.hear(Heard::Exited(0, Status { code: None, signal: Some(9) }));
        assert!(!shards.has_report(), "that was another one");
        shards.hear(Heard::Exited(1, Status { code: None, signal: Some(9) }));
        let all = said(&mut shards);
        assert!(
            matches!(&all[..], [(a, Said::Failed(why)), (b, _)] if a == "a" && b == "b" && why.contains("signal 9"))
        );
        child(&mut shards, &["c"]);
        shards.hear(Heard::Event(1, Event::Refused { why: "no such folder".into() }));
        assert_eq!(said(&mut shards), [("c".to_owned(), Said::Refused("no such folder".into()))]);
        shards.hear(Heard::Exited(1, Status { code: Some(1), signal: None }));
        assert!(!shards.has_report(), "it has said so itself");
    }

    #[test]
    fn a_child_that_is_of_no_use_ends() {
        let mut shards = Shards::default();
        child(&mut shards, &["a"]);
        let long_ago = Instant::now().checked_sub(ALONE).unwrap();
        shards.child.as_mut().unwrap().useful = long_ago;
        shards.beat(true);
        assert_eq!(said(&mut shards), [("a".to_owned(), Said::Working(0))], "it is at work: that is said");
        shards.beat(false);
        assert!(shards.child.is_some(), "only for a moment");
        shards.child.as_mut().unwrap().useful = long_ago;
        shards.beat(false);
        assert!(shards.child.is_none());
    }
}
