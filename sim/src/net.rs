//! Sessions between agents and the coordinator: each direction in order, or not at all. Both ends learn of a break in their
//! own time, so an agent may be back before the coordinator knows that it was gone.

use std::collections::BTreeMap;

use morph_control::{Hello, agent::Heard};
use morph_spec::Rng;

use crate::mail::{Mail, Start};

/// Agent → coordinator.
#[derive(Debug, Clone)]
pub enum Up {
    /// The first message.
    Hello(Box<Hello>),
    /// A sign of life.
    Beat,
    /// A report and its number.
    Report(u64, Mail),
}

/// Coordinator → agent.
#[derive(Debug, Clone)]
pub enum Down {
    /// The protocol's.
    Say(Heard<Start>),
    /// Another agent with its id has joined since: it is to end.
    TurnedAway,
}

/// One session.
#[derive(Debug)]
pub struct Session {
    /// The node.
    pub node: usize,
    /// Which life of the node's agent.
    pub life: u64,
    /// Whose reports it sends.
    pub incarnation: u64,
    /// Whether the agent's end is open.
    pub at_agent: bool,
    /// Whether the coordinator's end is open.
    pub at_coordinator: bool,
    /// When the coordinator heard of it last.
    pub heard: u64,
    /// When the last message of each direction arrives: later ones do not overtake it.
    arrives: [u64; 2],
}

/// Directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the coordinator.
    Up,
    /// To the agent.
    Down,
}

/// All sessions, by number.
#[derive(Debug, Default)]
pub struct Net {
    pub sessions: BTreeMap<u64, Session>,
    next: u64,
    /// Longest ordinary delay, microseconds.
    pub delay: u64,
}

impl Net {
    /// No sessions yet; `delay`: longest ordinary delay, microseconds.
    pub fn new(delay: u64) -> Self {
        Self { delay, ..Self::default() }
    }

    /// A new session.
    pub fn open(&mut self, node: usize, life: u64, incarnation: u64, now: u64) -> u64 {
        self.next += 1;
        let (at_agent, at_coordinator, arrives) = (true, false, [now, now]);
        let session = Session { node, life, incarnation, at_agent, at_coordinator, heard: now, arrives };
        self.sessions.insert(self.next, session);
        self.next
    }

    /// When a message that is sent now arrives; `held`: not before, because the link is down until then.
    pub fn arrival(&mut self, session: u64, way: Way, now: u64, held: u64, rng: &mut Rng) -> Option<u64> {
        let delay = 50 + rng.below(self.delay.max(1));
        let session = self.sessions.get_mut(&session)?;
        let last = &mut session.arrives[usize::from(way == Way::Down)];
        *last = (now.max(held) + delay).max(*last + 1);
        Some(*last)
    }
}
