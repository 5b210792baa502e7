//! A machine: an agent process, when it lives, with the real protocol in it.

use std::collections::BTreeSet;

use morph_control::{
    Hello,
    agent::{Agent, Entry},
};
use morph_spec::{Digest, WorkerId};

use crate::mail::Mail;

/// Main memory of each: what the widest gang may ask for.
const MEMORY: u64 = 8 << 30;

/// See the module.
#[derive(Debug)]
pub struct Node {
    /// Kept over restarts in the agent's home folder.
    pub worker: WorkerId,
    pub slots: u32,
    /// Where it stands.
    zone: &'static str,
    /// The process of the agent: no other one, anywhere, has this number.
    pub life: u64,
    /// The life whose reports the agent sends: an earlier one while it delivers what that left behind.
    pub incarnation: u64,
    /// The processes that have written the journal, by their lives.
    pub writers: Vec<u64>,
    /// It was turned away, because another agent with its id had joined: it has ended, and nobody starts it again by itself.
    pub turned_away: bool,
    /// On the agent's disk while the coordinator has not heard everything.
    pub journal: Option<Vec<Entry<Mail>>>,
    /// Datasets on its disk.
    pub cached: BTreeSet<Digest>,
    /// `None`: it is dead.
    pub agent: Option<Agent<Mail>>,
    /// It has been stopped, and what its ranks said meanwhile it has not written down: it has not even read it.
    pub behind: bool,
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
    pub fn new(worker: WorkerId, slots: u32, zone: &'static str) -> Self {
        Self {
            worker,
            slots,
            zone,
            life: 0,
            incarnation: 0,
            writers: Vec::new(),
            turned_away: false,
            journal: None,
            cached: BTreeSet::new(),
            agent: None,
            behind: false,
            session: None,
            cut: [0; 2],
            frozen_until: 0,
            refused: 0,
        }
    }

    /// Another machine with a copy of this one's home as it is on its disk.
    pub fn twin(&self) -> Self {
        let (incarnation, journal, writers) = (self.incarnation, self.journal.clone(), self.writers.clone());
        Self {
            incarnation,
            journal,
            writers,
            cached: self.cached.clone(),
            ..Self::new(self.worker, self.slots, self.zone)
        }
    }

    /// A new agent begins `life`: what an earlier one left behind comes first.
    pub fn boot(&mut self, life: u64) {
        self.life = life;
        self.turned_away = false;
        match &self.journal {
            Some(left) => {
                self.agent = Some(Agent::recovered(left.iter().cloned()));
                self.write();
            }
            None => {
                self.incarnation = life;
                self.agent = Some(Agent::default());
                self.writers.clear();
            }
        }
        self.writers.push(life);
    }

    /// Keeps the agent's journal, as its shell does.
    pub fn write(&mut self) {
        self.behind = false;
        let Some(agent) = &mut self.agent else { return };
        let news = agent.journal();
        match &mut self.journal {
            Some(journal) if !agent.is_settled() => journal.extend(news),
            _ => {
                agent.forget();
                self.journal = None;
            }
        }
    }

    /// Whether its agent only delivers what an earlier one has left.
    pub fn is_recovering(&self) -> bool {
        self.life != self.incarnation
    }

    /// The connection is gone: from now on the disk has to know what is said.
    pub fn disconnected(&mut self) {
        let Some(agent) = &mut self.agent else { return };
        agent.disconnected();
        if self.journal.is_none() {
            self.journal = Some(agent.remember());
        }
    }

    /// How its agent introduces itself.
    pub fn hello(&self) -> Hello {
        Hello {
            worker: self.worker,
            incarnation: self.incarnation.to_string(),
            process: self.life.to_string(),
            before: self.writers.iter().filter(|life| **life != self.life).map(ToString::to_string).collect(),
            host: "node".into(),
            slots: self.slots,
            version: "sim".into(),
            live: self.agent.as_ref().map(Agent::live).unwrap_or_default(),
            cached: self.cached.clone(),
            labels: [("zone".to_owned(), self.zone.to_owned())].into(),
            memory: MEMORY,
            certificate: String::new(),
        }
    }
}
