use morph_spec::{Rng, RunId, Timestamp};

use super::*;

/// What the tests report.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Mail {
    Ended(Ended),
    Lines(Vec<Line>),
    Steps(Vec<u64>),
    Ready(u32),
    NotHere(Fence),
    Leaving,
}

impl Letter for Mail {
    fn ended(ended: Ended) -> Self {
        Self::Ended(ended)
    }

    fn leaving() -> Self {
        Self::Leaving
    }

    fn not_here(fence: Fence) -> Self {
        Self::NotHere(fence)
    }

    fn line(line: Line) -> Self {
        Self::Lines(vec![line])
    }

    fn size(&self) -> usize {
        match self {
            Self::Lines(lines) => lines.iter().map(|l| l.text.len()).sum(),
            _ => 8,
        }
    }

    fn merge(&mut self, newer: &Self) -> Option<usize> {
        match (self, newer) {
            (Self::Lines(a), Self::Lines(b)) => a.extend(b.iter().cloned()),
            (Self::Steps(a), Self::Steps(b)) => a.extend(b),
            _ => return None,
        }
        Some(newer.size())
    }
}

type Agent = super::Agent<Mail>;

fn fence(attempt: u32) -> Fence {
    Fence { run: RunId::new(Timestamp(0), &mut Rng::keyed(1, "run", 0)), attempt }
}

pub(super) fn key(attempt: u32, rank: u32) -> Key {
    Key { fence: fence(attempt), rank }
}

fn start(attempt: u32, rank: u32) -> Heard<()> {
    Heard::Start { key: key(attempt, rank), world_size: 2, patience: 100, start: () }
}

fn stop(attempt: u32, now: bool) -> Heard<()> {
    Heard::Stop { fence: fence(attempt), checkpoint: true, now, reason: "cancelled".to_owned() }
}

fn welcome(acked: u64) -> Heard<()> {
    Heard::Welcome { acked }
}

fn exits(agent: &mut Agent) -> Vec<Ended> {
    std::iter::from_fn(|| agent.next_report())
        .filter_map(|(_, r)| match r {
            Mail::Ended(e) => Some(e),
            _ => None,
        })
        .collect()
}

#[test]
fn a_repeated_start_starts_once_and_never_after_the_end() {
    let mut agent = Agent::default();
    assert!(matches!(agent.hear(start(1, 0), 0)[..], [Action::Start(..)]));
    assert_eq!(agent.hear(start(1, 0), 0), []);
    assert_eq!(agent.live(), [fence(1)]);
    agent.exited(key(1, 0), Status { code: None, signal: Some(9) }, None, 0);
    assert_eq!(agent.hear(start(1, 0), 0), []);
    assert!(agent.live().is_empty());
}

#[test]
fn ranks_of_one_attempt_live_side_by_side_and_older_attempts_die() {
    let mut agent = Agent::default();
    agent.hear(start(1, 0), 0);
    assert!(matches!(agent.hear(start(1, 1), 0)[..], [Action::Start(..)]));
    let actions = agent.hear(start(2, 0), 0);
    assert_eq!(
        actions.iter().filter(|a| matches!(a, Action::Kill(k) if k.fence.attempt == 1)).count(),
        2,
        "{actions:?}"
    );
    assert!(matches!(agent.hear(start(2, 1), 0).last(), Some(Action::Start(..))));
}

#[test]
fn a_rank_killed_by_a_signal_is_the_machines_fault() {
    let mut agent = Agent::default();
    agent.hear(start(1, 1), 0);
    agent.exited(key(1, 1), Status { code: None, signal: Some(9) }, None, 0);
    assert!(!agent.has_report(), "nothing is sent before the welcome");
    agent.hear(welcome(0), 0);
    let exits = exits(&mut agent);
    assert_eq!(exits.len(), 1);
    assert_eq!((exits[0].exit, exits[0].status.signal, exits[0].key.rank), (Exit::Crashed, Some(9), 1));
}

#[test]
fn a_ranks_own_word_counts() {
    let mut agent = Agent::default();
    agent.hear(welcome(0), 0);
    agent.hear(start(1, 0), 0);
    agent.event(&key(1, 0), Said::Exiting { exit: Exit::User, error: "train/loss is NaN at step 3".into() }, 0);
    agent.exited(key(1, 0), Status { code: None, signal: Some(11) }, None, 0);
    let exits = exits(&mut agent);
    assert_eq!((exits[0].exit, exits[0].error.as_str()), (Exit::User, "train/loss is NaN at step 3"));
}

#[test]
fn a_newer_attempt_ends_the_older_one() {
    let mut agent = Agent::default();
    agent.hear(start(1, 0), 0);
    agent.hear(start(1, 1), 0);
    let actions = agent.hear(start(2, 0), 0);
    assert!(matches!(&actions[..], [Action::Kill(a), Action::Kill(b), Action::Start(c, _)]
        if *a == key(1, 0) && *b == key(1, 1) && *c == key(2, 0)));
    assert_eq!(agent.hear(start(1, 2), 0), [], "a late order of the older attempt starts nothing");
}

#[test]
fn stopping_is_first_gentle_then_hard_and_each_only_once() {
    let mut agent = Agent::default();
    agent.hear(start(1, 0), 0);
    assert!(matches!(agent.hear(stop(1, false), 0)[..], [Action::Tell(_, Tell::Stop { .. })]));
    assert_eq!(agent.hear(stop(1, false), 0), []);
    assert!(matches!(agent.hear(stop(1, true), 0)[..], [Action::Kill(_)]));
    assert_eq!(agent.hear(stop(1, true), 0), []);
    agent.exited(key(1, 0), Status { code: None, signal: Some(9) }, None, 0);
    agent.hear(welcome(0), 0);
    assert_eq!(exits(&mut agent)[0].exit, Exit::Stopped);
}

#[test]
fn a_stop_that_comes_before_its_start_wins() {
    let mut agent = Agent::default();
    assert_eq!(agent.hear(stop(3, true), 0), []);
    assert_eq!(agent.hear(start(3, 0), 0), []);
    agent.hear(welcome(0), 0);
    assert_eq!(agent.next_report(), Some((1, Mail::NotHere(fence(3)))), "or nobody would ever say that it is over");
}

#[test]
fn leaving_stops_all_and_is_done_when_all_is_known() {
    let mut agent = Agent::default();
    agent.hear(welcome(0), 0);
    agent.hear(start(1, 0), 0);
    assert!(matches!(agent.leave::<()>("SIGTERM", 0)[..], [Action::Tell(_, Tell::Stop { .. })]));
    assert_eq!(agent.hear(start(2, 0), 0), [], "nothing new is started");
    assert!(!agent.done(false));
    agent.event(&key(1, 0), Said::Exiting { exit: Exit::Stopped, error: String::new() }, 0);
    agent.exited(key(1, 0), Status { code: Some(0), signal: None }, None, 0);
    assert!(agent.done(false) && !agent.done(true));
    let last = std::iter::from_fn(|| agent.next_report()).last().unwrap().0;
    agent.hear(Heard::<()>::Ack { seq: last }, 0);
    assert!(agent.done(true));
}

#[test]
fn orders_reach_the_ranks_of_their_attempt_only() {
    let mut agent = Agent::default();
    agent.hear(start(1, 0), 0);
    agent.hear(start(1, 1), 0);
    let told = agent.hear(Heard::<()>::Rendezvous { fence: fence(1), address: "h:1".into() }, 0);
    assert_eq!(told.len(), 2);
    let other = Heard::<()>::CheckpointAck { fence: fence(2), step: 4 };
    assert_eq!(agent.hear(other, 0), []);
}

#[test]
fn log_lines_are_numbered_per_rank() {
    let mut agent = Agent::default();
    agent.hear(welcome(0), 0);
    agent.hear(start(1, 0), 0);
    agent.hear(start(1, 1), 0);
    agent.log(key(1, 0), "stderr", "one".into(), 5);
    agent.log(key(1, 1), "stderr", "other".into(), 6);
    let lines: Vec<(u32, u64)> = std::iter::from_fn(|| agent.next_report())
        .flat_map(|(_, r)| match r {
            Mail::Lines(lines) => lines,
            _ => Vec::new(),
        })
        .map(|l| (l.key.rank, l.seq))
        .collect();
    assert_eq!(lines, [(0, 0), (1, 0), (0, 1), (1, 1)]);
}

#[test]
fn a_silent_rank_zero_is_killed_and_the_machine_is_to_blame() {
    let mut agent = Agent::default();
    agent.hear(welcome(0), 0);
    agent.hear(start(1, 0), 0);
    agent.hear(start(1, 1), 0);
    assert_eq!(agent.tick::<()>(100), []);
    agent.event(&key(1, 0), Said::Report(Mail::Steps(vec![1])), 100);
    assert_eq!(agent.tick::<()>(200), []);
    assert_eq!(agent.tick::<()>(201), [Action::Kill(key(1, 0))], "the other rank says nothing while all is well");
    assert_eq!(agent.tick::<()>(202), [], "once is enough");
    agent.exited(key(1, 0), Status { code: None, signal: Some(9) }, None, 300);
    let exits = exits(&mut agent);
    assert!(exits[0].exit == Exit::Crashed && exits[0].error.contains("stall_timeout_s"), "{exits:?}");
}
