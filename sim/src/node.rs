//! A machine: an agent process, when it lives, with the real protocol in it.

use morph_control::{Hello, agent::Agent};
use morph_spec::WorkerId;

use crate::mail::Mail;

/// See the module.
#[derive(Debug)]
pub struct Node {
    /// Kept over restarts in the agent's home folder.
    pub worker: WorkerId,
    pub slots: u32,
    /// Counts starts of the agent; its incarnation.
    pub life: u64,
    /// `None`: it is dead.
    pub agent: Option<Agent<Mail>>,
    /// The session that it has.
    pub session: Option<u64>,
    /// Its link to the coordinator is down until then: per direction, microseconds.
    pub cut: [u64; 2],
    /// The agent process is stopped (SIGSTOP) until then.
    pub frozen_until: u64,
    /// Failed connections in a row.
    pub refused: u32,
}

impl Node {
    /// A machine whose agent has not been started.
    pub fn new(worker: WorkerId, slots: u32) -> Self {
        Self { worker, slots, life: 0, agent: None, session: None, cut: [0; 2], frozen_until: 0, refused: 0 }
    }

    /// How its agent introduces itself.
    pub fn hello(&self) -> Hello {
        Hello {
            worker: self.worker,
            incarnation: self.life.to_string(),
            host: "node".into(),
            slots: self.slots,
            version: "sim".into(),
            live: self.agent.as_ref().map(Agent::live).unwrap_or_default(),
            cached: Vec::new(),
            labels: Default::default(),
            memory: 0,
        }
    }
}
