//! Faults strike, and in the end are mended.

use super::*;

/// How long ranks may take to save and stop when their agent leaves.
const LEAVE: u64 = 120 * SECOND;
/// How often somebody looks after what is held back, when faults are over.
const TENDED: u64 = 300 * SECOND;
/// Seconds that whoever copies a home waits for a journal in it.
const COPIES: u32 = 60;

impl World {
    pub(super) fn strike(&mut self, fault: Fault) -> Result<(), String> {
        if self.now >= self.faults_until {
            return Ok(());
        }
        self.faults += 1;
        self.trace.say(self.now, format_args!("FAULT {fault:?}"));
        cover::note(&mut self.seen, format!("fault {}", fault.word()));
        match fault {
            Fault::CoordinatorDies { away } => self.coordinator_dies(away),
            Fault::CoordinatorDrains { away } => self.drain(away)?,
            Fault::AgentDies { node, away } => self.agent_dies(node, away),
            Fault::AgentLeaves { node, away } => self.agent_leaves(node, away)?,
            Fault::RankDies { which } => {
                if let Some(key) = self.any_rank(which) {
                    self.strike_down(key);
                }
            }
            Fault::AllRanksDie => {
                let all: Vec<Key> = self.gangs.ranks.keys().copied().collect();
                all.into_iter().for_each(|key| self.strike_down(key));
            }
            Fault::RankHangs { which } => {
                if let Some(key) = self.any_rank(which)
                    && let Some(rank) = self.gangs.ranks.get_mut(&key)
                {
                    rank.hung = true;
                    self.truth.disturbed(key.fence);
                }
            }
            Fault::AgentStops { node, length } => {
                self.nodes[node].frozen_until = self.now + length;
                let life = self.nodes[node].life;
                self.after(length, Happening::Connect(node, life));
            }
            Fault::LinkDown { node, ways, length } => self.link_down(node, ways, length),
            Fault::Swizzle { which, length } => self.swizzle(which, length),
            Fault::Break { node } => {
                if let Some(session) = self.nodes[node].session {
                    let (below, above) = (self.pick(KEEP_ALIVE), self.pick(KEEP_ALIVE));
                    self.after(below, Happening::BrokenBelow(session));
                    self.after(above, Happening::BrokenAbove(session));
                }
            }
            Fault::StoreDown { length } => self.store.down_until = self.now + length,
            Fault::ClockJumps { by } => self.ahead += by,
            Fault::Ambush(ambush) => self.ambush = Some(ambush),
            Fault::BackedUp => self.backup = Some(self.disk.clone()),
            Fault::Restored { away } => self.restored(away)?,
            Fault::CheckpointLost { which } => self.checkpoint_lost(which),
            Fault::Twin { node, journal } => self.twin(node, if journal { COPIES } else { 0 }),
        }
        let (pause, next) = faults::next(&mut self.rng, self.nodes.len(), 15 * SECOND, self.dangers);
        self.after(pause, Happening::Fault(next));
        Ok(())
    }

    fn strike_down(&mut self, key: Key) {
        self.truth.disturbed(key.fence);
        self.rank_gone(key, Status { code: None, signal: Some(9) });
    }

    fn checkpoint_lost(&mut self, which: u64) {
        // Of a run that has only one the folder would be empty, and nobody would believe that it is the right one.
        let others = |key: &&Key| self.store.list(&ranks::folder(key.fence.run)).nth(1).is_some();
        let ranks: Vec<Key> = self.gangs.ranks.keys().filter(others).copied().collect();
        if ranks.is_empty() {
            return;
        }
        let key = ranks[(which % ranks.len() as u64) as usize];
        let folder = ranks::folder(key.fence.run);
        let Some((newest, step)) = self.store.list(&folder).max_by_key(|(_, step)| *step) else { return };
        let newest = newest.to_owned();
        self.store.delete(&newest);
        self.truth.taken(newest, step);
        self.strike_down(key);
    }

    /// The moment that somebody's wish has waited for, if one has: the ranks of `fence` are at `moment`.
    pub(super) fn spring(&mut self, fence: Fence) {
        let run = Target::Run(fence.run);
        let moment = self.gangs.moment(fence);
        let command = match (self.ambush, moment) {
            (Some(Ambush::CancelSaving), "saving") | (Some(Ambush::CancelStarting), "starting") => Command::Cancel(run),
            (Some(Ambush::PauseSaving), "saving") => Command::Pause(run),
            (Some(Ambush::PreemptStarting), "starting") => self.client.urgent(&mut self.rng),
            _ => return,
        };
        self.ambush = None;
        self.want(command);
    }

    fn any_rank(&self, which: u64) -> Option<Key> {
        let n = self.gangs.ranks.len() as u64;
        (n > 0).then(|| self.gangs.ranks.keys().nth((which % n) as usize).copied())?
    }

    fn agent_leaves(&mut self, node: usize, away: u64) -> Result<(), String> {
        let now = self.now;
        let Some(agent) = &mut self.nodes[node].agent else { return Ok(()) };
        let actions = agent.leave("SIGTERM", now);
        self.perform(node, actions)?;
        self.flush(node);
        let life = self.nodes[node].life;
        self.after(LEAVE + away, Happening::Leave(node, life));
        Ok(())
    }

    /// An agent that leaves has had its time.
    pub(super) fn leave(&mut self, node: usize, life: u64) -> Result<(), String> {
        let now = self.now;
        if self.nodes[node].life != life {
            return Ok(());
        }
        let Some(agent) = self.nodes[node].agent.as_mut().filter(|a| a.is_leaving()) else { return Ok(()) };
        let actions = agent.kill_all("did not stop in time", now);
        self.perform(node, actions)?;
        self.flush(node);
        Ok(())
    }

    /// `patience`: how often to wait for something to lie in the home's journal.
    pub(super) fn twin(&mut self, node: usize, patience: u32) {
        if patience > 0 && self.nodes[node].journal.is_none() {
            return self.after(SECOND, Happening::Copy(node, patience - 1));
        }
        let of_worker = |n: &Node| n.worker == self.nodes[node].worker;
        if let Some(gone) = self.nodes.iter().position(|n| of_worker(n) && n.turned_away) {
            return self.again(gone);
        }
        if self.now >= self.faults_until || self.nodes.iter().filter(|n| of_worker(n)).count() > 1 {
            return;
        }
        let twin = self.nodes.len();
        self.nodes.push(self.nodes[node].twin());
        self.truth.forked(node, twin);
        self.after(1, Happening::AgentBoot(twin));
    }

    /// Somebody starts an agent again that was turned away.
    pub(super) fn again(&mut self, node: usize) {
        if self.now < self.faults_until && self.nodes[node].turned_away {
            self.nodes[node].turned_away = false;
            self.after(1, Happening::AgentBoot(node));
        }
    }

    /// Some links go down one by one, and heal in another order.
    fn swizzle(&mut self, which: u64, length: u64) {
        let mut nodes: Vec<usize> = (0..self.nodes.len()).filter(|n| which >> n & 1 == 1).collect();
        let gap = length / (2 * nodes.len() as u64).max(1);
        self.rng.shuffle(&mut nodes);
        let mut order: Vec<u64> = (0..nodes.len() as u64).collect();
        self.rng.shuffle(&mut order);
        let all = nodes.len() as u64;
        for (down, (node, up)) in (0..).zip(nodes.into_iter().zip(order)) {
            self.after(down * gap, Happening::LinkDown(node, [true; 2], (all + up - down) * gap));
        }
    }

    pub(super) fn link_down(&mut self, node: usize, ways: [bool; 2], length: u64) {
        if self.healed {
            return;
        }
        for (cut, way) in self.nodes[node].cut.iter_mut().zip(ways) {
            if way {
                *cut = self.now + length;
            }
        }
        // Longer than the keep-alive: each end gives up by itself.
        if let Some(session) = self.nodes[node].session.filter(|_| length > KEEP_ALIVE) {
            let (below, above) = (self.pick(KEEP_ALIVE / 2), self.pick(KEEP_ALIVE / 2));
            self.after(KEEP_ALIVE + below, Happening::BrokenBelow(session));
            self.after(KEEP_ALIVE + above, Happening::BrokenAbove(session));
        }
    }

    /// Faults are over: whatever is dead comes back, whatever was held back goes on.
    pub(super) fn heal(&mut self) {
        self.healed = true;
        self.trace.say(self.now, format_args!("faults are over"));
        self.store.down_until = 0;
        self.store.flaky = 0;
        for node in 0..self.nodes.len() {
            self.nodes[node].cut = [0; 2];
            self.nodes[node].frozen_until = self.nodes[node].frozen_until.min(self.now);
            // An agent that is leaving ends first.
            self.after(200 * SECOND, Happening::AgentBoot(node));
            let life = self.nodes[node].life;
            self.after(0, Happening::Connect(node, life));
        }
        self.after(SECOND, Happening::Boot);
        self.after(TENDED, Happening::Tend);
    }

    /// Somebody lets go on what was held back, again and again: other wishes may still be on their way, and the circuit
    /// breaker sees to it that workers get no work, too.
    pub(super) fn tend(&mut self) {
        self.after(TENDED, Happening::Tend);
        let Some(Process { cluster, .. }) = &self.coordinator else { return };
        let paused = cluster.runs.values().filter(|r| matches!(r.state, RunState::Paused { .. }));
        let paused = paused.map(|r| Command::Resume(Target::Run(r.id)));
        let sweeps = cluster.sweeps.values().filter(|s| s.paused).map(|s| Command::Resume(Target::Sweep(s.id)));
        let cordoned = cluster.workers.values().filter(|w| w.cordoned.is_some()).map(|w| Command::Uncordon(w.id));
        let wishes: Vec<Command> = cordoned.chain(sweeps).chain(paused).collect();
        wishes.into_iter().for_each(|command| self.want(command));
    }
}
