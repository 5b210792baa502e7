//! The agent's side of the protocol, pure: what the coordinator orders and what ranks do goes in, what to do about it
//! and what to report comes out. No clock, no process, no socket.
//!
//! What a start order holds (`S`) is passed on unread, and so is what is reported (`L`, a [`Letter`]): the wire's messages in
//! an agent, plain values in the simulator, which so runs this very code.

mod journal;
mod outbox;

use std::collections::{BTreeMap, BTreeSet};

use morph_spec::Fence;

use crate::{
    Exit,
    sabotage::{Mechanism, is_broken},
};
pub use journal::Entry;
use outbox::Outbox;

/// How many ended ranks are remembered, so that an order that was under way when one ended does not start it again.
const REMEMBERED: usize = 4096;

/// One rank of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The attempt.
    pub fence: Fence,
    /// The rank.
    pub rank: u32,
}

impl Key {
    /// Run, attempt and rank, as logs name them.
    pub fn parts(&self) -> (morph_spec::RunId, u32, u32) {
        (self.fence.run, self.fence.attempt, self.rank)
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rank {}", self.fence, self.rank)
    }
}

/// Something the coordinator said.
#[derive(Debug, Clone, PartialEq)]
pub enum Heard<S> {
    /// The session is open.
    Welcome {
        /// Highest report of this incarnation that is durable.
        acked: u64,
    },
    /// Everything up to this report is durable.
    Ack {
        /// Its number.
        seq: u64,
    },
    /// Have this rank running.
    Start {
        /// Which.
        key: Key,
        /// Ranks of its gang.
        world_size: u32,
        /// How long rank 0 may say nothing before it counts as hung, microseconds; 0: for ever.
        patience: u64,
        /// What to train.
        start: S,
    },
    /// Know where the ranks meet.
    Rendezvous {
        /// The attempt.
        fence: Fence,
        /// `host:port`.
        address: String,
    },
    /// Know that the checkpoint of this step is recorded.
    CheckpointAck {
        /// The attempt.
        fence: Fence,
        /// Its step.
        step: u64,
    },
    /// Have no rank of this attempt running.
    Stop {
        /// The attempt.
        fence: Fence,
        /// Save first.
        checkpoint: bool,
        /// Kill.
        now: bool,
        /// For the log.
        reason: String,
    },
    /// Start nothing more.
    Drain,
    /// Start nothing more, stop all ranks with a checkpoint, and end.
    Leave {
        /// For the log.
        reason: String,
    },
}

/// What a rank is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tell {
    /// Where the ranks meet.
    Rendezvous {
        /// `host:port`.
        address: String,
    },
    /// The checkpoint of this step is recorded.
    CheckpointAck {
        /// Its step.
        step: u64,
    },
    /// Save and stop.
    Stop {
        /// For the log.
        reason: String,
    },
}

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action<S> {
    /// Start a process and give it its start order.
    Start(Key, S),
    /// Pass an order on.
    Tell(Key, Tell),
    /// kill -9, the whole process group.
    Kill(Key),
}

/// Something a rank said.
#[derive(Debug, Clone, PartialEq)]
pub enum Said<L> {
    /// How it is about to end.
    Exiting {
        /// The verdict.
        exit: Exit,
        /// One line.
        error: String,
    },
    /// For the coordinator.
    Report(L),
}

/// A line that a rank wrote, or that the agent wrote about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The rank.
    pub key: Key,
    /// Position among the rank's lines.
    pub seq: u64,
    /// Microseconds since the Unix epoch.
    pub at: u64,
    /// `stdout`, `stderr` or `agent`.
    pub stream: &'static str,
    /// The line.
    pub text: String,
}

/// A rank that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Which.
    pub key: Key,
    /// How.
    pub exit: Exit,
    /// As the kernel says.
    pub status: Status,
    /// One line.
    pub error: String,
}

/// What can be reported.
pub trait Letter: Clone {
    /// That a rank is over.
    fn ended(ended: Ended) -> Self;
    /// That the agent is about to end, and starts nothing more.
    fn leaving() -> Self;
    /// That no rank of an attempt that is to stop is here, or ever was since this agent began.
    fn not_here(fence: Fence) -> Self;
    /// A log line.
    fn line(line: Line) -> Self;
    /// Size in bytes, about.
    fn size(&self) -> usize;
    /// Takes `newer` in, if it is of the same kind; the bytes that were added.
    fn merge(&mut self, newer: &Self) -> Option<usize>;
}

/// How a process ended, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// Exit code.
    pub code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
}

#[derive(Debug, Default)]
struct Rank {
    /// Orders to stop: by which reason; killed or asked.
    stopping: Option<String>,
    killed: bool,
    /// How long it may say nothing, and when it said something last.
    patience: u64,
    heard: u64,
    /// What the rank said of its own end.
    said: Option<(Exit, String)>,
}

/// What the agent is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Serving,
    /// Starts nothing more.
    Draining,
    /// Starts nothing more, and ends when its ranks have.
    Leaving,
}

/// State of the protocol.
#[derive(Debug)]
pub struct Agent<L> {
    ranks: BTreeMap<Key, Rank>,
    ended: BTreeSet<Key>,
    /// Attempts that were ordered to stop; they are not started by an order that comes late.
    stopped: BTreeSet<Fence>,
    /// Next number of a log line.
    lines: BTreeMap<Key, u64>,
    outbox: Outbox<L>,
    mode: Mode,
    welcomed: bool,
}

impl<L> Default for Agent<L> {
    fn default() -> Self {
        Self {
            ranks: BTreeMap::new(),
            ended: BTreeSet::new(),
            stopped: BTreeSet::new(),
            lines: BTreeMap::new(),
            outbox: Outbox::default(),
            mode: Mode::Serving,
            welcomed: false,
        }
    }
}

impl<L: Letter> Agent<L> {
    /// Attempts with ranks that run here.
    pub fn live(&self) -> Vec<Fence> {
        let mut fences: Vec<Fence> = self.ranks.keys().map(|k| k.fence).collect();
        fences.dedup();
        fences
    }

    /// The connection is gone: what was not acknowledged is sent again on the next one, after its welcome.
    pub fn disconnected(&mut self) {
        self.welcomed = false;
    }

    /// Something the coordinator said at `now` (microseconds since the Unix epoch).
    pub fn hear<S>(&mut self, heard: Heard<S>, now: u64) -> Vec<Action<S>> {
        match heard {
            Heard::Welcome { acked } => {
                self.welcomed = true;
                self.outbox.acknowledge(acked);
                self.outbox.rewind();
                Vec::new()
            }
            Heard::Ack { seq } => {
                self.outbox.acknowledge(seq);
                Vec::new()
            }
            Heard::Start { key, world_size, patience, start } => self.start(key, world_size, patience, start, now),
            Heard::Rendezvous { fence, address } => self.tell(fence, |_| Tell::Rendezvous { address: address.clone() }),
            Heard::CheckpointAck { fence, step } => self.tell(fence, |_| Tell::CheckpointAck { step }),
            Heard::Stop { fence, checkpoint, now: at_once, reason } => {
                self.stop(fence, checkpoint && !at_once, &reason, now)
            }
            Heard::Drain => {
                self.mode = self.mode.max_with(Mode::Draining);
                Vec::new()
            }
            Heard::Leave { reason } => self.leave(&reason, now),
        }
    }

    fn start<S>(&mut self, key: Key, world_size: u32, patience: u64, start: S, now: u64) -> Vec<Action<S>> {
        let Fence { run, attempt } = key.fence;
        let superseded = self.ranks.keys().any(|k| k.fence.run == run && k.fence.attempt > attempt);
        let stopped = self.stopped.contains(&key.fence);
        let ended = self.ended.contains(&key) && !is_broken(Mechanism::EndedRanks);
        if self.ranks.contains_key(&key) || ended || stopped || superseded {
            return Vec::new();
        }
        if self.mode != Mode::Serving {
            self.ended(key, Exit::Stopped, Status::default(), "the agent is leaving and starts nothing".into());
            return Vec::new();
        }
        // Only the newest attempt of a run is heard: what is left of older ones only costs time.
        let mut actions = Vec::new();
        let older = |k: &Key| k.fence.run == run && k.fence.attempt < attempt;
        for (old, rank) in self.ranks.iter_mut().filter(|(k, _)| older(k)) {
            rank.killed = true;
            actions.push(Action::Kill(*old));
        }
        // The others say nothing while all is well, and do not get far without rank 0.
        let patience = if key.rank == 0 { patience } else { 0 };
        self.ranks.insert(key, Rank { patience, heard: now, ..Rank::default() });
        self.outbox.note(Entry::Started(key));
        self.say(key, format!("starting rank {} of {world_size}, attempt {attempt}", key.rank), now);
        actions.push(Action::Start(key, start));
        actions
    }

    fn tell<S>(&self, fence: Fence, order: impl Fn(&Key) -> Tell) -> Vec<Action<S>> {
        self.ranks.keys().filter(|k| k.fence == fence).map(|k| Action::Tell(*k, order(k))).collect()
    }

    fn stop<S>(&mut self, fence: Fence, gently: bool, reason: &str, now: u64) -> Vec<Action<S>> {
        self.stopped.insert(fence);
        self.outbox.note(Entry::Stopped(fence));
        while self.stopped.len() > REMEMBERED {
            self.stopped.pop_first();
        }
        let keys: Vec<Key> = self.ranks.keys().filter(|k| k.fence == fence).copied().collect();
        let unknown = keys.is_empty() && !self.ended.iter().any(|k| k.fence == fence);
        if unknown {
            // The stop has overtaken its start, which will do nothing any more: or nobody would ever say that it is over.
            self.outbox.push(L::not_here(fence));
        }
        keys.into_iter().filter_map(|key| self.end(key, gently, reason, now)).collect()
    }

    /// Stops one rank: once gently, once hard.
    fn end<S>(&mut self, key: Key, gently: bool, reason: &str, now: u64) -> Option<Action<S>> {
        let rank = self.ranks.get_mut(&key)?;
        if rank.killed || (gently && rank.stopping.is_some()) {
            return None;
        }
        rank.stopping = Some(reason.to_owned());
        rank.killed = !gently;
        let how = if gently { "asked to save a checkpoint and stop" } else { "killed" };
        self.say(key, format!("{how}: {reason}"), now);
        Some(if gently { Action::Tell(key, Tell::Stop { reason: reason.to_owned() }) } else { Action::Kill(key) })
    }

    /// Starts nothing more, stops all ranks with a checkpoint, and is [`Self::done`] when they have ended.
    pub fn leave<S>(&mut self, reason: &str, now: u64) -> Vec<Action<S>> {
        if self.mode != Mode::Leaving {
            self.outbox.push(L::leaving());
        }
        self.mode = Mode::Leaving;
        let keys: Vec<Key> = self.ranks.keys().copied().collect();
        keys.into_iter().filter_map(|key| self.end(key, true, reason, now)).collect()
    }

    /// Kills what still runs.
    pub fn kill_all<S>(&mut self, reason: &str, now: u64) -> Vec<Action<S>> {
        self.mode = Mode::Leaving;
        let keys: Vec<Key> = self.ranks.keys().copied().collect();
        keys.into_iter().filter_map(|key| self.end(key, false, reason, now)).collect()
    }

    /// Something a rank said.
    pub fn event(&mut self, key: &Key, said: Said<L>, now: u64) {
        let Some(rank) = self.ranks.get_mut(key) else { return };
        rank.heard = now;
        match said {
            Said::Exiting { exit, error } => rank.said = Some((exit, error)),
            Said::Report(report) => self.outbox.push(report),
        }
    }

    /// Time has passed: kills what hangs. Peers of a rank that hangs give up by themselves, but a gang of one has none.
    pub fn tick<S>(&mut self, now: u64) -> Vec<Action<S>> {
        if is_broken(Mechanism::Watchdog) {
            return Vec::new();
        }
        let hangs = |r: &Rank| r.patience > 0 && !r.killed && now.saturating_sub(r.heard) > r.patience;
        let hung: Vec<Key> = self.ranks.iter().filter(|(_, r)| hangs(r)).map(|(k, _)| *k).collect();
        let condemned = hung.into_iter().filter_map(|key| {
            let seconds = self.ranks.get(&key)?.patience / 1_000_000;
            let why = format!("it has said nothing for {seconds} s (trainer.stall_timeout_s): taken for hung, killed");
            self.condemn(key, Exit::Crashed, why, now)
        });
        condemned.collect()
    }

    /// The rank takes more than its run had asked for (`why`), and is killed: trying again would end the same way.
    pub fn exceeds<S>(&mut self, key: Key, why: String, now: u64) -> Option<Action<S>> {
        self.condemn(key, Exit::User, why, now)
    }

    /// Kills a rank, and says in its place what it died of.
    fn condemn<S>(&mut self, key: Key, exit: Exit, why: String, now: u64) -> Option<Action<S>> {
        let rank = self.ranks.get_mut(&key).filter(|rank| !rank.killed)?;
        rank.said = Some((exit, why.clone()));
        rank.killed = true;
        self.say(key, why, now);
        Some(Action::Kill(key))
    }

    /// A line that a rank wrote, or that the agent writes about it (`stream` "agent"), at `now`.
    pub fn log(&mut self, key: Key, stream: &'static str, text: String, now: u64) {
        let seq = self.lines.entry(key).or_insert(0);
        let line = Line { key, seq: *seq, at: now, stream, text };
        *seq += 1;
        self.outbox.push_log(line);
    }

    fn say(&mut self, key: Key, text: String, now: u64) {
        self.log(key, "agent", text, now);
    }

    /// The process of `key` has ended, or could not be started (`why`).
    pub fn exited(&mut self, key: Key, status: Status, why: Option<String>, now: u64) {
        let Some(rank) = self.ranks.remove(&key) else { return };
        let (exit, error) = verdict(&rank, status, why);
        let text =
            if error.is_empty() { format!("rank ended: {exit:?}") } else { format!("rank ended: {exit:?}: {error}") };
        self.say(key, text, now);
        self.lines.remove(&key);
        self.ended(key, exit, status, error);
    }

    fn ended(&mut self, key: Key, exit: Exit, status: Status, error: String) {
        self.ended.insert(key);
        self.outbox.note(Entry::Ended(key));
        while self.ended.len() > REMEMBERED {
            // Run ids sort by age: the oldest goes.
            self.ended.pop_first();
        }
        self.outbox.push(L::ended(Ended { key, exit, status, error }));
    }

    /// The next report to send and its number, once the coordinator has said welcome.
    pub fn next_report(&mut self) -> Option<(u64, L)> {
        if self.welcomed { self.outbox.take() } else { None }
    }

    /// Whether [`Self::next_report`] has something.
    pub fn has_report(&self) -> bool {
        self.welcomed && self.outbox.unsent()
    }

    /// Whether ranks must wait until the coordinator has taken what waits.
    pub fn is_full(&self) -> bool {
        self.outbox.is_full()
    }

    /// Whether no rank runs here.
    pub fn is_idle(&self) -> bool {
        self.ranks.is_empty()
    }

    /// Whether the agent is leaving and its ranks have ended; with `acknowledged` also everything it had to say is known.
    pub fn done(&self, acknowledged: bool) -> bool {
        self.mode == Mode::Leaving && self.ranks.is_empty() && (!acknowledged || self.outbox.is_empty())
    }

    /// Whether the agent is leaving.
    pub fn is_leaving(&self) -> bool {
        self.mode == Mode::Leaving
    }
}

impl Mode {
    /// Leaving is for good.
    fn max_with(self, other: Self) -> Self {
        if self == Self::Leaving { self } else { other }
    }
}

/// What a rank's end means.
fn verdict(rank: &Rank, status: Status, why: Option<String>) -> (Exit, String) {
    if let Some(why) = why {
        return (Exit::Crashed, why);
    }
    // Its own word counts even when the process stumbles on its way out.
    if let Some((exit, error)) = &rank.said {
        return (*exit, error.clone());
    }
    if rank.killed {
        let reason = rank.stopping.as_deref().unwrap_or("a newer attempt of the run has begun");
        return (Exit::Stopped, format!("killed as ordered: {reason}"));
    }
    match (status.signal, status.code) {
        (Some(signal), _) => {
            let hint = if signal == 9 { "; often the kernel's answer to too little memory" } else { "" };
            (Exit::Crashed, format!("killed by signal {signal}{hint}"))
        }
        (None, Some(code)) => (Exit::Crashed, format!("ended with code {code} without a word; its log says more")),
        (None, None) => (Exit::Crashed, "ended without a word".into()),
    }
}

#[cfg(test)]
mod tests;
