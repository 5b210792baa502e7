//! Nodes and their agents.

use super::*;

impl World {
    pub(super) fn agent_boot(&mut self, node: usize) {
        if self.nodes[node].agent.is_some() || self.nodes[node].turned_away {
            return;
        }
        self.agents += 1;
        let it = &mut self.nodes[node];
        it.boot(self.agents);
        let (life, incarnation) = (it.life, it.incarnation);
        self.trace.say(self.now, format_args!("agent of node {node} starts, life {life}, as {incarnation}"));
        self.after(1000, Happening::Connect(node, life));
        self.after(SECOND, Happening::Beat(node, life));
    }

    fn lives(&self, node: usize, life: u64) -> bool {
        self.nodes[node].agent.is_some() && self.nodes[node].life == life
    }

    pub(super) fn connect(&mut self, node: usize, life: u64) {
        if !self.lives(node, life) || self.nodes[node].session.is_some() {
            return;
        }
        let frozen = self.nodes[node].frozen_until;
        if frozen > self.now {
            return self.at(frozen, Happening::Connect(node, life));
        }
        if self.coordinator.is_none() || self.nodes[node].cut.iter().any(|until| *until > self.now) {
            let it = &mut self.nodes[node];
            it.refused = (it.refused + 1).min(6);
            let pause = (SECOND / 10) << it.refused;
            let pause = pause.min(5 * SECOND) / 2 + self.pick(pause.min(5 * SECOND) / 2);
            return self.after(pause, Happening::Connect(node, life));
        }
        let session = self.net.open(node, life, self.nodes[node].incarnation, self.now);
        let it = &mut self.nodes[node];
        (it.refused, it.session) = (0, Some(session));
        it.disconnected();
        let hello = it.hello();
        self.trace.say(self.now, format_args!("node {node} opens session {session}, live {}", hello.live.len()));
        self.send_up(session, Up::Hello(Box::new(hello)));
    }

    fn send_up(&mut self, session: u64, up: Up) {
        let Some(known) = self.net.sessions.get(&session) else { return };
        let held = self.nodes[known.node].cut[0];
        if let Some(at) = self.net.arrival(session, Way::Up, self.now, held, &mut self.rng) {
            self.at(at, Happening::ArriveUp(session, up));
        }
    }

    pub(super) fn beat(&mut self, node: usize, life: u64) -> Result<(), String> {
        if !self.lives(node, life) {
            return Ok(());
        }
        let frozen = self.nodes[node].frozen_until;
        if frozen > self.now {
            self.at(frozen, Happening::Beat(node, life));
            return Ok(());
        }
        if let Some(session) = self.nodes[node].session {
            self.send_up(session, Up::Beat);
        }
        let now = self.now;
        let hung = self.nodes[node].agent.as_mut().map(|a| a.tick(now)).unwrap_or_default();
        self.perform(node, hung)?;
        // What was said while it was stopped.
        self.flush(node);
        self.after(2 * SECOND, Happening::Beat(node, life));
        Ok(())
    }

    /// Sends all that the agent has to say.
    pub(super) fn flush(&mut self, node: usize) {
        if self.nodes[node].frozen_until > self.now {
            self.nodes[node].behind = true;
            return;
        }
        self.nodes[node].write();
        let Some(session) = self.nodes[node].session else { return };
        while let Some((seq, mail)) = self.nodes[node].agent.as_mut().and_then(Agent::next_report) {
            self.truth.sent(node, self.nodes[node].incarnation, seq, &mail);
            self.send_up(session, Up::Report(seq, mail));
        }
        self.left(node);
    }

    /// An agent that was asked to leave ends when all is said.
    fn left(&mut self, node: usize) {
        if self.nodes[node].agent.as_ref().is_some_and(|a| a.done(true)) {
            self.trace.say(self.now, format_args!("agent of node {node} has left"));
            let it = &mut self.nodes[node];
            // One that only delivered what an earlier one had left makes way for the next at once.
            let pause = if it.is_recovering() { 1000 } else { 60 * SECOND };
            it.agent = None;
            if let Some(session) = it.session.take() {
                if let Some(known) = self.net.sessions.get_mut(&session) {
                    known.at_agent = false;
                }
                // In order, and so the coordinator knows at once; a violation shows at its next turn.
                self.closed_above(session, false, true).ok();
            }
            self.after(pause, Happening::AgentBoot(node));
        }
    }

    pub(super) fn arrive_down(&mut self, session: u64, down: Down) -> Result<(), String> {
        let Some(known) = self.net.sessions.get(&session).filter(|s| s.at_agent) else { return Ok(()) };
        let (node, life) = (known.node, known.life);
        if !self.lives(node, life) {
            return Ok(());
        }
        let frozen = self.nodes[node].frozen_until;
        if frozen > self.now {
            self.at(frozen, Happening::ArriveDown(session, down));
            return Ok(());
        }
        let heard = match down {
            Down::Say(heard) => heard,
            Down::TurnedAway => {
                self.turned_away(node);
                return Ok(());
            }
        };
        let now = self.now;
        let agent = self.nodes[node].agent.as_mut().expect("invariant: it lives");
        let actions = agent.hear(heard, now);
        self.perform(node, actions)?;
        self.flush(node);
        Ok(())
    }

    pub(super) fn perform(&mut self, node: usize, actions: Vec<Action<Start>>) -> Result<(), String> {
        for action in actions {
            match action {
                Action::Start(key, start) => self.start(node, key, start)?,
                Action::Tell(key, tell) => self.tell(node, key, tell),
                Action::Kill(key) => self.kill(node, key, Status { code: None, signal: Some(9) }),
            }
        }
        Ok(())
    }

    fn start(&mut self, node: usize, key: Key, start: Start) -> Result<(), String> {
        invariants::slots::started(&self.gangs, &mut self.truth, key, node)?;
        let life = self.nodes[node].life;
        let rank = Rank {
            node,
            life,
            start,
            up: false,
            address: None,
            joined: false,
            hung: false,
            ending: false,
            stop: false,
            written: Vec::new(),
        };
        self.trace.say(self.now, format_args!("node {node} starts {key}"));
        self.gangs.ranks.insert(key, rank);
        self.spring(key.fence);
        let pause = SECOND / 2 + self.pick(3 * SECOND);
        self.after(pause, Happening::RankUp(key));
        Ok(())
    }

    fn tell(&mut self, node: usize, key: Key, tell: Tell) {
        let Some(rank) = self.gangs.ranks.get_mut(&key).filter(|r| r.node == node) else { return };
        match tell {
            Tell::Rendezvous { address } => {
                rank.address = Some(address);
                self.join(key);
            }
            Tell::CheckpointAck { step } => {
                // Retention: what is older than the newest recorded one may go, but for one.
                let known = rank.written.iter().position(|(_, s)| *s == step).unwrap_or(0);
                let old: Vec<_> = rank.written.drain(..known.saturating_sub(1)).collect();
                for (url, step) in old {
                    self.store.delete(&url);
                    self.truth.removed(key.fence, url, step);
                }
            }
            Tell::Stop { .. } => rank.stop = true,
        }
    }

    pub(super) fn broken_below(&mut self, session: u64) {
        let Some(known) = self.net.sessions.get_mut(&session).filter(|s| s.at_agent) else { return };
        known.at_agent = false;
        let (node, life) = (known.node, known.life);
        if !self.lives(node, life) || self.nodes[node].session != Some(session) {
            return;
        }
        let it = &mut self.nodes[node];
        it.session = None;
        it.disconnected();
        self.trace.say(self.now, format_args!("node {node} loses session {session}"));
        let pause = self.pick(SECOND / 5);
        self.after(pause, Happening::Connect(node, life));
    }

    /// Another agent with its id has joined since.
    fn turned_away(&mut self, node: usize) {
        self.trace.say(self.now, format_args!("agent of node {node} is turned away"));
        if self.nodes[node].is_recovering() {
            // Nobody waits any more for what an earlier one had yet to say; the next begins anew.
            self.nodes[node].journal = None;
            self.agent_ends(node);
            return self.after(1000, Happening::AgentBoot(node));
        }
        self.agent_ends(node);
        self.nodes[node].turned_away = true;
        // Kubernetes starts it again, sooner or later.
        if self.pick(3) == 0 {
            let pause = 10 * SECOND + self.pick(60 * SECOND);
            self.after(pause, Happening::Again(node));
        }
    }

    /// kill -9 of an agent, which is started again.
    pub(super) fn agent_dies(&mut self, node: usize, away: u64) {
        if self.agent_ends(node) {
            // Not before its ranks are gone: the new one waits for the lock of the home.
            self.after(away.max(SECOND / 2), Happening::AgentBoot(node));
        }
    }

    /// An agent is gone, if there was one: its ranks notice a little later.
    fn agent_ends(&mut self, node: usize) -> bool {
        let it = &mut self.nodes[node];
        let Some(dead) = it.agent.take() else { return false };
        if let Some(journal) = it.journal.as_ref().filter(|_| !it.behind) {
            self.truth.left_behind(node, dead, journal);
        }
        self.trace.say(self.now, format_args!("agent of node {node} dies"));
        if let Some(session) = self.nodes[node].session.take() {
            if let Some(known) = self.net.sessions.get_mut(&session) {
                known.at_agent = false;
            }
            let pause = self.pick(SECOND);
            self.after(pause, Happening::BrokenAbove(session));
        }
        let mine: Vec<Key> = self.gangs.ranks.iter().filter(|(_, r)| r.node == node).map(|(k, _)| *k).collect();
        for key in mine {
            let pause = self.pick(SECOND / 2);
            self.after(pause, Happening::RankGone(key, Status { code: Some(1), signal: None }));
        }
        true
    }
}
