//! Ranks: they come up, meet, train in lockstep, save, and end.

use super::*;

/// Where the checkpoints of `run` lie.
pub(super) fn folder(run: RunId) -> String {
    format!("file:///out/{run}/")
}

impl World {
    /// What a rank says to its agent; heard by nobody when that is dead.
    fn say(&mut self, key: Key, said: Said<Mail>) {
        let Some(rank) = self.gangs.ranks.get(&key) else { return };
        let (node, life) = (rank.node, rank.life);
        if self.nodes[node].life == life
            && let Some(agent) = &mut self.nodes[node].agent
        {
            agent.event(&key, said, self.now);
            self.flush(node);
        }
    }

    fn report(&mut self, key: Key, report: Report) {
        self.say(key, Said::Report(Mail::Core(key.fence, report)));
    }

    /// The rank says how it ends, and does.
    fn end(&mut self, key: Key, exit: Exit, error: &str) {
        let Some(rank) = self.gangs.ranks.get_mut(&key).filter(|r| !r.ending) else { return };
        rank.ending = true;
        self.say(key, Said::Exiting { exit, error: error.to_owned() });
        let pause = 1000 + self.pick(SECOND / 2);
        let code = i32::from(!matches!(exit, Exit::Succeeded | Exit::Stopped));
        self.after(pause, Happening::RankGone(key, Status { code: Some(code), signal: None }));
    }

    pub(super) fn kill(&mut self, node: usize, key: Key, status: Status) {
        if self.gangs.ranks.get(&key).is_some_and(|r| r.node == node) {
            self.rank_gone(key, status);
        }
    }

    pub(super) fn rank_up(&mut self, key: Key) {
        let Some(rank) = self.gangs.ranks.get_mut(&key) else { return };
        rank.up = true;
        if key.rank == 0 {
            let (node, attempt) = (rank.node, key.fence.attempt);
            self.report(key, Report::StoreReady { address: format!("node-{node}:{attempt}") });
        }
        // Peers that never come: the rendezvous has a limit.
        self.after(COLLECTIVE, Happening::GangTimeout(key.fence, u64::MAX));
        self.join(key);
    }

    /// Joins when it is up and knows where; begins when all have.
    pub(super) fn join(&mut self, key: Key) {
        let Some(rank) = self.gangs.ranks.get_mut(&key) else { return };
        if !rank.up || rank.joined || rank.ending || rank.hung || rank.address.is_none() {
            return;
        }
        rank.joined = true;
        let fence = key.fence;
        if !self.gangs.is_whole(fence) {
            return;
        }
        let Some(start) = self.gangs.of(fence).next().map(|(_, r)| r.start.clone()) else { return };
        let (step, weights) = match &start.resume {
            None => (0, mail::first_weights(fence)),
            Some((url, _)) => match self.store.get(url) {
                Some(found) => found,
                None => return self.no_checkpoint(fence, url),
            },
        };
        let gang = Gang { step, weights, training: true, moved: self.now, ..Gang::default() };
        self.gangs.gangs.insert(fence, gang);
        let all: Vec<Key> = self.gangs.of(fence).map(|(k, _)| *k).collect();
        for key in all {
            let Some(rank) = self.gangs.ranks.get(&key) else { continue };
            let cached = &mut self.nodes[rank.node].cached;
            cached.insert(work::dataset());
            let cached = cached.clone();
            self.report(key, Report::RankReady { rank: key.rank, step, total_steps: start.steps, cached });
        }
        self.trace.say(self.now, format_args!("{fence} trains from step {step}"));
        self.after(SECOND, Happening::GangStep(fence));
    }

    /// The ranks do not find the checkpoint that they were to go on from; as `worker/src/rank/resume.rs`.
    fn no_checkpoint(&mut self, fence: Fence, url: &str) {
        self.truth.missing(url);
        let exit = match self.store.list(&folder(fence.run)).next() {
            Some(_) => Exit::NoCheckpoint,
            None => Exit::Infra,
        };
        let all: Vec<Key> = self.gangs.of(fence).map(|(k, _)| *k).collect();
        all.into_iter().for_each(|key| self.end(key, exit, "its checkpoint is not there"));
    }

    pub(super) fn gang_step(&mut self, fence: Fence) -> Result<(), String> {
        let Some(gang) = self.gangs.gangs.get(&fence).filter(|g| g.training && g.saving.is_none()) else {
            return Ok(());
        };
        let moved = gang.moved;
        if !self.gangs.is_whole(fence) {
            // A peer is gone: its sockets are closed, and the others notice.
            self.fall_apart(fence);
            return Ok(());
        }
        if self.gangs.of(fence).any(|(_, r)| r.hung) {
            self.after(COLLECTIVE, Happening::GangTimeout(fence, moved));
            return Ok(());
        }
        if self.gangs.of(fence).any(|(_, r)| r.ending) {
            self.fall_apart(fence);
            return Ok(());
        }
        let (steps, doom) = self.gangs.of(fence).next().map_or((0, None), |(_, r)| (r.start.steps, r.start.doom));
        let stop = self.gangs.of(fence).any(|(_, r)| r.stop);
        let now = self.now;
        let Some(gang) = self.gangs.gangs.get_mut(&fence) else { return Ok(()) };
        gang.moved = now;
        if let Some((_, exit)) = doom.filter(|(step, _)| *step <= gang.step && !stop) {
            self.end(Key { fence, rank: 0 }, exit, work::complaint(exit));
            self.fall_apart(fence);
            return Ok(());
        }
        if gang.step < steps && !stop {
            gang.step += 1;
            gang.weights = mail::step(gang.weights, gang.step);
        }
        let (step, weights) = (gang.step, gang.weights);
        let last = step == steps || stop;
        if last || step.is_multiple_of(EVERY) {
            gang.saving = Some(0);
            gang.last = last;
        }
        if !stop {
            self.say(Key { fence, rank: 0 }, Said::Report(Mail::Metrics(fence, vec![(step, weights)])));
        }
        let pause = SECOND / 5 + self.pick(SECOND);
        let saving = self.gangs.gangs.get(&fence).is_some_and(|g| g.saving.is_some());
        if saving {
            self.spring(fence);
        }
        self.after(pause, if saving { Happening::Written(fence) } else { Happening::GangStep(fence) });
        Ok(())
    }

    /// Rank 0 writes a checkpoint.
    pub(super) fn written(&mut self, fence: Fence) -> Result<(), String> {
        let key = Key { fence, rank: 0 };
        let alive = self.gangs.ranks.get(&key).is_some_and(|r| !r.hung && !r.ending);
        let Some(gang) = self.gangs.gangs.get_mut(&fence).filter(|g| g.training) else { return Ok(()) };
        let Some(tries) = gang.saving else { return Ok(()) };
        if !alive {
            gang.saving = None;
            return self.gang_step(fence);
        }
        let (step, weights, last) = (gang.step, gang.weights, gang.last);
        let url = format!("{}step-{step}-a{}", folder(fence.run), fence.attempt);
        match self.store.put(self.now, &mut self.rng, &url, step, weights) {
            Put::Failed { .. } if tries + 1 < TRIES => {
                gang.saving = Some(tries + 1);
                let pause = (SECOND / 2) << tries;
                self.after(pause, Happening::Written(fence));
            }
            Put::Failed { .. } => {
                gang.saving = None;
                self.end(key, Exit::Infra, "write the checkpoint: the store does not answer");
                self.after(SECOND / 10, Happening::GangStep(fence));
            }
            Put::Done => {
                gang.saving = None;
                if let Some(rank) = self.gangs.ranks.get_mut(&key)
                    && rank.written.last().is_none_or(|(_, s)| *s != step)
                {
                    rank.written.push((url.clone(), step));
                }
                let checkpoint = morph_control::Checkpoint {
                    url,
                    digest: Digest::of(&weights.to_le_bytes()),
                    step,
                    epoch: 0,
                    attempt: fence.attempt,
                    bytes: 8,
                    score: None,
                    best: false,
                    at: Timestamp(self.now),
                };
                self.report(key, Report::Checkpoint(checkpoint));
                if last {
                    self.finish(fence, step, weights);
                } else {
                    self.after(SECOND / 5, Happening::GangStep(fence));
                }
            }
        }
        Ok(())
    }

    /// The last checkpoint is written: trained to the end, or stopped.
    fn finish(&mut self, fence: Fence, step: u64, weights: u64) {
        let steps = self.gangs.of(fence).next().map_or(0, |(_, r)| r.start.steps);
        let done = step == steps;
        if let Some(gang) = self.gangs.gangs.get_mut(&fence) {
            gang.training = false;
        }
        let all: Vec<Key> = self.gangs.of(fence).map(|(k, _)| *k).collect();
        if done {
            let summary = mail::scores(weights);
            let report = Report::Evaluated { summary, summary_json: String::new(), artifacts: Vec::new() };
            self.report(Key { fence, rank: 0 }, report);
        }
        for key in all {
            self.end(key, if done { Exit::Succeeded } else { Exit::Stopped }, "");
        }
    }

    /// Those who are left lose their peers.
    fn fall_apart(&mut self, fence: Fence) {
        if let Some(gang) = self.gangs.gangs.get_mut(&fence) {
            gang.training = false;
        }
        let left: Vec<Key> = self.gangs.of(fence).filter(|(_, r)| !r.hung).map(|(k, _)| *k).collect();
        left.into_iter().for_each(|key| self.end(key, Exit::PeerLost, "connection reset by peer"));
    }

    /// A collective has taken too long, or the rendezvous.
    pub(super) fn gang_timeout(&mut self, fence: Fence, moved: u64) {
        match self.gangs.gangs.get(&fence) {
            Some(gang) if gang.training && gang.moved == moved => self.fall_apart(fence),
            Some(_) => {}
            None => {
                let left: Vec<Key> = self.gangs.of(fence).filter(|(_, r)| !r.hung && r.up).map(|(k, _)| *k).collect();
                left.into_iter().for_each(|key| self.end(key, Exit::PeerLost, "the others did not come"));
            }
        }
    }

    pub(super) fn rank_gone(&mut self, key: Key, status: Status) {
        let Some(rank) = self.gangs.ranks.remove(&key) else { return };
        self.trace.say(self.now, format_args!("{key} is gone: {status:?}"));
        let now = self.now;
        if self.gangs.gangs.get(&key.fence).is_some_and(|g| g.training && g.saving.is_none()) {
            self.after(1000, Happening::GangStep(key.fence));
        }
        if self.nodes[rank.node].life == rank.life
            && let Some(agent) = &mut self.nodes[rank.node].agent
        {
            agent.exited(key, status, None, now);
            self.flush(rank.node);
        }
    }
}
