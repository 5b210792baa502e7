//! The agent's side of the protocol, pure: what the coordinator orders and what ranks do goes in, what to do about it
//! and what to report comes out. No clock, no process, no socket.

use std::collections::{BTreeMap, BTreeSet};

use morph_proto::v1::{self, report::Report, session_response::Message};

use crate::{
    agent::outbox::Outbox,
    wire::{Event, Exit, Order},
};

/// How many ended ranks are remembered, so that an order that was under way when one ended does not start it again.
const REMEMBERED: usize = 4096;

/// One rank of one attempt.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The run's id.
    pub run: String,
    /// The attempt.
    pub attempt: u32,
    /// The rank.
    pub rank: u32,
}

impl Key {
    /// The rank `rank` of the attempt that `fence` names; `None` when it names none.
    fn new(fence: Option<&v1::Fence>, rank: u32) -> Option<Self> {
        fence.map(|f| Self { run: f.run.clone(), attempt: f.attempt, rank })
    }

    /// The attempt, as the wire names it.
    pub fn fence(&self) -> v1::Fence {
        v1::Fence { run: self.run.clone(), attempt: self.attempt }
    }

    fn is_of(&self, fence: &v1::Fence) -> bool {
        self.run == fence.run && self.attempt == fence.attempt
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{} rank {}", self.run, self.attempt, self.rank)
    }
}

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Start a process and give it its start order.
    Start(Key, Box<v1::StartRank>),
    /// Pass an order on.
    Tell(Key, Order),
    /// kill -9, the whole process group.
    Kill(Key),
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
pub struct Agent {
    ranks: BTreeMap<Key, Rank>,
    ended: BTreeSet<Key>,
    /// Attempts that were ordered to stop; they are not started by an order that comes late.
    stopped: BTreeSet<(String, u32)>,
    /// Next number of a log line.
    lines: BTreeMap<Key, u64>,
    outbox: Outbox,
    mode: Mode,
    welcomed: bool,
}

impl Default for Agent {
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

impl Agent {
    /// Attempts with ranks that run here.
    pub fn live(&self) -> Vec<v1::Fence> {
        let mut fences: Vec<v1::Fence> = self.ranks.keys().map(Key::fence).collect();
        fences.dedup();
        fences
    }

    /// The connection is gone: what was not acknowledged is sent again on the next one, after its welcome.
    pub fn disconnected(&mut self) {
        self.welcomed = false;
    }

    /// Something the coordinator said at `now` (microseconds since the Unix epoch).
    pub fn hear(&mut self, message: Message, now: u64) -> Vec<Action> {
        match message {
            Message::Welcome(welcome) => {
                self.welcomed = true;
                self.outbox.acknowledge(welcome.acked);
                self.outbox.rewind();
                Vec::new()
            }
            Message::Ack(ack) => {
                self.outbox.acknowledge(ack.seq);
                Vec::new()
            }
            Message::Start(start) => self.start(start, now),
            Message::Rendezvous(v1::Rendezvous { fence, address }) => {
                self.tell(fence.as_ref(), |_| Order::Rendezvous { address: address.clone() })
            }
            Message::CheckpointAck(v1::CheckpointAck { fence, step }) => {
                self.tell(fence.as_ref(), |_| Order::CheckpointAck { step })
            }
            Message::Stop(stop) => self.stop(stop, now),
            Message::Drain(drain) => {
                if drain.leave {
                    self.leave(&drain.reason, now)
                } else {
                    self.mode = self.mode.max_with(Mode::Draining);
                    Vec::new()
                }
            }
        }
    }

    fn start(&mut self, start: v1::StartRank, now: u64) -> Vec<Action> {
        let Some(key) = Key::new(start.fence.as_ref(), start.rank) else { return Vec::new() };
        let stopped = self.stopped.contains(&(key.run.clone(), key.attempt));
        let superseded = self.ranks.keys().any(|k| k.run == key.run && k.attempt > key.attempt);
        if self.ranks.contains_key(&key) || self.ended.contains(&key) || stopped || superseded {
            return Vec::new();
        }
        if self.mode != Mode::Serving {
            self.ended(&key, Exit::Infra, Status::default(), "the agent is leaving and starts nothing".into());
            return Vec::new();
        }
        // Only the newest attempt of a run is heard: what is left of older ones only costs time.
        let mut actions = Vec::new();
        for (old, rank) in self.ranks.iter_mut().filter(|(k, _)| k.run == key.run && k.attempt < key.attempt) {
            rank.killed = true;
            actions.push(Action::Kill(old.clone()));
        }
        self.ranks.insert(key.clone(), Rank::default());
        self.say(&key, format!("starting rank {} of {}, attempt {}", key.rank, start.world_size, key.attempt), now);
        actions.push(Action::Start(key, Box::new(start)));
        actions
    }

    fn tell(&self, fence: Option<&v1::Fence>, order: impl Fn(&Key) -> Order) -> Vec<Action> {
        let Some(fence) = fence else { return Vec::new() };
        self.ranks.keys().filter(|k| k.is_of(fence)).map(|k| Action::Tell(k.clone(), order(k))).collect()
    }

    fn stop(&mut self, stop: v1::StopAttempt, now: u64) -> Vec<Action> {
        let Some(fence) = stop.fence else { return Vec::new() };
        self.stopped.insert((fence.run.clone(), fence.attempt));
        while self.stopped.len() > REMEMBERED {
            self.stopped.pop_first();
        }
        let keys: Vec<Key> = self.ranks.keys().filter(|k| k.is_of(&fence)).cloned().collect();
        let gently = stop.checkpoint && !stop.now;
        keys.into_iter().filter_map(|key| self.end(key, gently, &stop.reason, now)).collect()
    }

    /// Stops one rank: once gently, once hard.
    fn end(&mut self, key: Key, gently: bool, reason: &str, now: u64) -> Option<Action> {
        let rank = self.ranks.get_mut(&key)?;
        if rank.killed || (gently && rank.stopping.is_some()) {
            return None;
        }
        rank.stopping = Some(reason.to_owned());
        rank.killed = !gently;
        let how = if gently { "asked to save a checkpoint and stop" } else { "killed" };
        self.say(&key, format!("{how}: {reason}"), now);
        Some(if gently { Action::Tell(key, Order::Stop { reason: reason.to_owned() }) } else { Action::Kill(key) })
    }

    /// Starts nothing more, stops all ranks with a checkpoint, and is [`Self::done`] when they have ended.
    pub fn leave(&mut self, reason: &str, now: u64) -> Vec<Action> {
        self.mode = Mode::Leaving;
        let keys: Vec<Key> = self.ranks.keys().cloned().collect();
        keys.into_iter().filter_map(|key| self.end(key, true, reason, now)).collect()
    }

    /// Kills what still runs.
    pub fn kill_all(&mut self, reason: &str, now: u64) -> Vec<Action> {
        self.mode = Mode::Leaving;
        let keys: Vec<Key> = self.ranks.keys().cloned().collect();
        keys.into_iter().filter_map(|key| self.end(key, false, reason, now)).collect()
    }

    /// Something a rank said.
    pub fn event(&mut self, key: &Key, event: Event) {
        let Some(rank) = self.ranks.get_mut(key) else { return };
        match event {
            Event::Exiting { exit, error } => rank.said = Some((exit, error)),
            other => {
                if let Some(report) = other.report(&key.fence(), key.rank) {
                    self.outbox.push(report);
                }
            }
        }
    }

    /// A line that a rank wrote, or that the agent writes about it (`stream` "agent"), at `now`.
    pub fn log(&mut self, key: &Key, stream: &str, text: String, now: u64) {
        let seq = self.lines.entry(key.clone()).or_insert(0);
        let line = v1::LogLine {
            run: key.run.clone(),
            attempt: key.attempt,
            rank: key.rank,
            seq: *seq,
            at: now,
            stream: stream.to_owned(),
            text,
        };
        *seq += 1;
        self.outbox.push_log(line);
    }

    fn say(&mut self, key: &Key, text: String, now: u64) {
        self.log(key, "agent", text, now);
    }

    /// The process of `key` has ended, or could not be started (`why`).
    pub fn exited(&mut self, key: &Key, status: Status, why: Option<String>, now: u64) {
        let Some(rank) = self.ranks.remove(key) else { return };
        let (exit, error) = verdict(&rank, status, why);
        let text =
            if error.is_empty() { format!("rank ended: {exit:?}") } else { format!("rank ended: {exit:?}: {error}") };
        self.say(key, text, now);
        self.lines.remove(key);
        self.ended(key, exit, status, error);
    }

    fn ended(&mut self, key: &Key, exit: Exit, status: Status, error: String) {
        self.ended.insert(key.clone());
        while self.ended.len() > REMEMBERED {
            // Run ids sort by age: the oldest goes.
            self.ended.pop_first();
        }
        self.outbox.push(Report::Exited(v1::RankExited {
            fence: Some(key.fence()),
            rank: key.rank,
            exit: v1::Exit::from(exit).into(),
            code: status.code,
            signal: status.signal,
            error,
        }));
    }

    /// The next report to send, once the coordinator has said welcome.
    pub fn next_report(&mut self) -> Option<v1::Report> {
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
        return (Exit::Infra, why);
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
            (Exit::Infra, format!("killed by signal {signal}{hint}"))
        }
        (None, Some(code)) => (Exit::Infra, format!("ended with code {code} without a word; its log says more")),
        (None, None) => (Exit::Infra, "ended without a word".into()),
    }
}

#[cfg(test)]
mod tests;
