//! The coordinator and those who ask it.

use super::*;

impl World {
    pub(super) fn wish(&mut self) {
        if self.now < self.faults_until {
            if let Some(coordinator) = &self.coordinator {
                let workers: Vec<_> = self.nodes.iter().map(|n| n.worker).collect();
                let command = self.client.wish(&mut self.rng, &coordinator.cluster, &workers);
                self.want(command);
            }
            let pause = self.pick(50 * SECOND);
            self.after(pause, Happening::Wish);
        }
    }

    /// Somebody wants `command`.
    pub(super) fn want(&mut self, command: Command) {
        let number = self.client.ask(command);
        self.after(0, Happening::Ask(number));
    }

    /// Sends a request, and again until it is answered.
    pub(super) fn ask(&mut self, number: u64) {
        if self.client.requests.get(&number).is_none_or(|r| r.answered) {
            return;
        }
        self.after(5 * SECOND, Happening::Ask(number));
        // It may be lost on its way.
        if self.pick(10) != 0 {
            let delay = self.pick(self.net.delay);
            self.after(delay, Happening::Asked(number));
        }
    }

    pub(super) fn asked(&mut self, number: u64) -> Result<(), String> {
        let command = self.client.requests[&number].command.clone();
        self.enqueue(Inbox::Asked(number, Box::new(command)))
    }

    pub(super) fn answered(&mut self, life: u64, number: u64, answer: &Result<(), Refusal>) {
        // What is still under way from a history that is lost has come too late.
        if life > self.lost {
            self.truth.answered(&self.client.requests[&number].command, answer);
        }
        if let Some(request) = self.client.requests.get_mut(&number) {
            request.answered = true;
        }
    }

    pub(super) fn enqueue(&mut self, message: Inbox) -> Result<(), String> {
        let Some(coordinator) = &mut self.coordinator else { return Ok(()) };
        coordinator.inbox.push_back(message);
        if coordinator.is_busy() { Ok(()) } else { self.turn(None) }
    }

    pub(super) fn boot(&mut self) -> Result<(), String> {
        if self.coordinator.is_some() {
            return Ok(());
        }
        self.life += 1;
        let rng = Rng::keyed(self.rng.next_u64(), "coordinator", self.life);
        let process = Process::start(&self.disk, self.policy.clone(), rng, self.now, self.wall())?;
        invariants::durable::restarted(&process.cluster, &self.truth)?;
        invariants::of_log(&self.disk)?;
        invariants::away::back(self.now, &self.gangs, &self.truth)?;
        self.trace.say(self.now, format_args!("coordinator {} starts, {} events", self.life, self.disk.events.len()));
        self.coordinator = Some(process);
        self.turn(Some(Command::Start))
    }

    fn turn(&mut self, first: Option<Command>) -> Result<(), String> {
        let now = self.clock();
        let Some(coordinator) = &mut self.coordinator else { return Ok(()) };
        let events = coordinator.turn(now, first)?;
        for event in &events {
            self.trace.say(self.now, format_args!("{} {}", event.kind(), event.text()));
            cover::note(&mut self.seen, format!("event {}", event.kind()));
            if let What::StopRequested { fence, stop } = &event.what {
                let moment = self.gangs.moment(*fence);
                cover::note(&mut self.seen, format!("stop {:?} while {moment}", stop.cause));
            }
        }
        let early = self.coordinator.as_mut().map(Process::hurry).unwrap_or_default();
        self.carry_out(early)?;
        let sync = 100 + self.pick(5_000);
        let life = self.life;
        self.after(sync, Happening::Commit(life));
        Ok(())
    }

    pub(super) fn commit(&mut self) -> Result<(), String> {
        let Some(coordinator) = &mut self.coordinator else { return Ok(()) };
        let then = coordinator.commit(&mut self.disk);
        self.carry_out(then)?;
        let waiting = self.coordinator.as_ref().is_some_and(|c| !c.inbox.is_empty());
        if waiting {
            return self.turn(None);
        }
        let now = self.clock();
        if let Some(due) = self.coordinator.as_ref().and_then(|c| c.deadline(now)) {
            let life = self.life;
            self.after(due.since(now).as_micros() as u64 + 1, Happening::Wake(life));
        }
        Ok(())
    }

    fn carry_out(&mut self, then: Vec<Then>) -> Result<(), String> {
        for then in then {
            match then {
                Then::Answer(number, answer) => {
                    // An answer may be lost: then the request comes again.
                    if self.pick(10) == 0 {
                        continue;
                    }
                    if let Err(refusal) = &answer {
                        cover::note(&mut self.seen, format!("refusal {}", word(refusal)));
                    }
                    let delay = self.pick(self.net.delay);
                    self.after(delay, Happening::Answered(self.life, number, answer));
                }
                Then::Say(session, down) => self.send_down(session, down)?,
                Then::Close(session) => self.superseded(session),
                Then::Order(_) => unreachable!("orders were addressed"),
            }
        }
        Ok(())
    }

    /// The coordinator is being stopped in order.
    pub(super) fn drain(&mut self, away: u64) -> Result<(), String> {
        self.enqueue(Inbox::Drain)?;
        let (life, pause) = (self.life, self.pick(40 * SECOND));
        self.after(pause, Happening::Dismiss(life, away));
        Ok(())
    }

    pub(super) fn dismiss(&mut self, life: u64, away: u64) -> Result<(), String> {
        if life != self.life {
            return Ok(());
        }
        self.enqueue(Inbox::Dismiss)?;
        self.after(2 * SECOND, Happening::Stop(life, away));
        Ok(())
    }

    fn send_down(&mut self, session: u64, down: Down) -> Result<(), String> {
        if !self.net.sessions.get(&session).is_some_and(|s| s.at_coordinator) {
            return Ok(());
        }
        if let Down::Say(Heard::Ack { seq } | Heard::Welcome { acked: seq }) = &down {
            let session = &self.net.sessions[&session];
            self.truth.acknowledged(session.node, session.incarnation, *seq, &self.disk)?;
        }
        if matches!(down, Down::TurnedAway) {
            cover::note(&mut self.seen, "refusal replaced".into());
        }
        let held = self.nodes[self.net.sessions[&session].node].cut[1];
        if let Some(at) = self.net.arrival(session, Way::Down, self.now, held, &mut self.rng) {
            self.at(at, Happening::ArriveDown(session, down));
        }
        Ok(())
    }

    /// The coordinator ends a session because the same agent, or another with its id, has opened a newer one.
    fn superseded(&mut self, session: u64) {
        let Some(known) = self.net.sessions.get_mut(&session).filter(|s| s.at_coordinator) else { return };
        known.at_coordinator = false;
        let held = self.nodes[known.node].cut[1];
        self.trace.say(self.now, format_args!("session {session} is superseded"));
        if let Some(at) = self.net.arrival(session, Way::Down, self.now, held, &mut self.rng) {
            self.at(at, Happening::BrokenBelow(session));
        }
    }

    pub(super) fn arrive_up(&mut self, session: u64, up: Up) -> Result<(), String> {
        if self.coordinator.is_none() {
            return Ok(());
        }
        let Some(known) = self.net.sessions.get_mut(&session) else { return Ok(()) };
        if matches!(up, Up::Hello(_)) {
            known.at_coordinator = true;
            self.after(PATIENCE, Happening::Patience(session));
        }
        let Some(known) = self.net.sessions.get_mut(&session).filter(|s| s.at_coordinator) else { return Ok(()) };
        known.heard = self.now;
        let worker = self.nodes[known.node].worker;
        match up {
            Up::Beat => Ok(()),
            up => self.enqueue(Inbox::Said(session, worker, up)),
        }
    }

    pub(super) fn patience(&mut self, session: u64) -> Result<(), String> {
        let Some(known) = self.net.sessions.get(&session).filter(|s| s.at_coordinator) else { return Ok(()) };
        let due = known.heard + PATIENCE;
        if due > self.now {
            self.at(due, Happening::Patience(session));
            return Ok(());
        }
        self.closed_above(session, true, false)
    }

    /// The coordinator's end of a session closes, and the agent's with it, sooner or later.
    pub(super) fn closed_above(&mut self, session: u64, silent: bool, clean: bool) -> Result<(), String> {
        let Some(known) = self.net.sessions.get_mut(&session).filter(|s| s.at_coordinator) else { return Ok(()) };
        known.at_coordinator = false;
        let (node, at_agent) = (known.node, known.at_agent);
        let worker = self.nodes[node].worker;
        if at_agent {
            let pause = self.pick(KEEP_ALIVE);
            self.after(pause, Happening::BrokenBelow(session));
        }
        self.trace.say(self.now, format_args!("session {session} of node {node} is closed above, silent {silent}"));
        self.enqueue(Inbox::Closed { session, worker, silent, clean })
    }

    /// The disk is lost with the coordinator, and the last backup put in its place, as `morph-coordinator restore` does.
    pub(super) fn restored(&mut self, away: u64) -> Result<(), String> {
        let Some(backup) = self.backup.clone() else { return Ok(()) };
        self.coordinator_dies(away);
        self.lost = self.life;
        self.truth.restored(&self.disk.events, &backup.events);
        self.disk = backup;
        let kept = self.disk.events.len();
        let store = &self.store;
        let rng = Rng::keyed(self.rng.next_u64(), "restore", self.life);
        // Whoever restores it has a look at the clock.
        let wall = Timestamp(self.now);
        self.disk.restored(self.policy.clone(), rng, wall, |url| store.get(url).is_some())?;
        for event in &self.disk.events[kept..] {
            self.trace.say(self.now, format_args!("{} {}", event.kind(), event.text()));
            cover::note(&mut self.seen, format!("event {}", event.kind()));
        }
        Ok(())
    }

    pub(super) fn coordinator_dies(&mut self, away: u64) {
        let written = self.pick(2) == 0;
        let Some(process) = self.coordinator.take() else { return };
        process.crash(&mut self.disk, written);
        self.truth.coordinator_gone(self.now, &self.gangs);
        self.trace.say(self.now, format_args!("coordinator {} dies, its turn written {written}", self.life));
        // Nothing of this life happens any more.
        self.life += 1;
        let open = self.net.sessions.iter().filter(|(_, s)| s.at_coordinator || s.at_agent);
        let open: Vec<u64> = open.map(|(n, _)| *n).collect();
        for session in open {
            if let Some(known) = self.net.sessions.get_mut(&session) {
                known.at_coordinator = false;
            }
            let pause = self.pick(SECOND);
            self.after(pause, Happening::BrokenBelow(session));
        }
        self.after(away, Happening::Boot);
    }
}

/// The class of a refusal.
fn word(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::NotFound(_) => "not found",
        Refusal::Exists(_) => "exists",
        Refusal::Invalid(_) => "invalid",
        Refusal::Precondition(_) => "precondition",
        Refusal::Replaced(_) => "replaced",
        Refusal::Forbidden(_) => "forbidden",
    }
}
