//! The coordinator: the real core, and its shell's rules on a disk that loses what was not yet written. One turn at a
//! time: decide, make durable, and only then answer and order. It mirrors `coordinator/src/core.rs`.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use morph_control::{
    Clock, Cluster, Command, Effect, Event, Hello, Policy, Refusal,
    agent::Heard,
    apply, evolve, invariants, next_deadline, react,
    sabotage::{Mechanism, is_broken},
    snapshot::Restore,
};
use morph_spec::{Fence, Rng, RunId, Timestamp, WorkerId};

use crate::{
    mail::{Mail, Point, Start},
    net::{Down, Up},
    work,
};

/// Newest durable report of each worker's incarnation.
type Acks = BTreeMap<WorkerId, (String, u64)>;

/// How long a rank 0 may say nothing, as `trainer.stall_timeout_s`; microseconds.
const PATIENCE: u64 = 300_000_000;
/// After so many events a snapshot is taken.
const SNAPSHOT_EVERY: usize = 50;

/// What survives kill -9.
#[derive(Debug, Default, Clone)]
pub struct Disk {
    pub events: Vec<Event>,
    pub acks: Acks,
    /// The metric by run and step: the first value stays.
    pub metrics: BTreeMap<(RunId, u64), u64>,
    /// The state after so many events, in pieces.
    snapshot: Option<(usize, Vec<String>)>,
}

impl Disk {
    /// It was put back from a backup, and the clock says `wall`; as `coordinator/src/restore.rs`.
    ///
    /// # Errors
    /// When that breaks what the core promises.
    pub fn restored(
        &mut self,
        policy: Policy,
        mut rng: Rng,
        wall: Timestamp,
        is_there: impl Fn(&str) -> bool,
    ) -> Result<(), String> {
        let mut cluster = Cluster::new(policy);
        self.events.iter().for_each(|e| evolve(&mut cluster, e));
        let open = cluster.runs.values().filter(|r| !r.is_done()).flat_map(|r| &r.checkpoints);
        let gone = open.map(|c| c.url.clone()).filter(|url| !is_there(url)).collect();
        let before = cluster.clone();
        let now = wall.max(self.events.last().map_or(Timestamp(0), |e| e.at));
        let command = Command::Restore { gone, wall };
        let events = apply(&mut cluster, now, &mut rng, command.clone()).map_err(|e| format!("restore: {e:?}"))?;
        invariants::check(&before, &command, &events, &cluster)?;
        self.events.extend(events);
        self.snapshot = None;
        Ok(())
    }
}

/// Something that waits for its turn.
#[derive(Debug, Clone)]
pub enum Inbox {
    /// From a session.
    Said(u64, WorkerId, Up),
    /// A session is over.
    Closed { session: u64, worker: WorkerId, silent: bool, clean: bool },
    /// From a client; the number is the client's own.
    Asked(u64, Box<Command>),
    /// From whoever started it and is about to stop it.
    Drain,
    /// All agents are told to leave.
    Dismiss,
    /// Time has passed.
    Tick,
}

/// What follows when a turn is durable.
#[derive(Debug)]
pub enum Then {
    /// To the client.
    Answer(u64, Result<(), Refusal>),
    /// To an agent's session.
    Say(u64, Down),
    /// An order, to the session that its worker has by then.
    Order(Effect),
    /// Another one has taken the place of this session.
    Close(u64),
}

#[derive(Debug, Default)]
struct Turn {
    events: Vec<Event>,
    metrics: Vec<(RunId, Point)>,
    acks: Vec<(WorkerId, String, u64)>,
    then: Vec<Then>,
}

#[derive(Debug)]
struct Session {
    id: u64,
    incarnation: String,
    acked: u64,
}

/// A coordinator process that lives.
#[derive(Debug)]
pub struct Process {
    pub cluster: Cluster,
    sessions: BTreeMap<WorkerId, Session>,
    acks: Acks,
    pub inbox: VecDeque<Inbox>,
    /// The turn that is being written.
    writing: Option<Turn>,
    rng: Rng,
    clock: Clock,
}

impl Process {
    /// Folds what is on the disk; it is `now`, and the machine's clock says `wall`.
    ///
    /// # Errors
    /// When the snapshot and what came after it give another state than all events.
    pub fn start(disk: &Disk, policy: Policy, rng: Rng, now: u64, wall: Timestamp) -> Result<Self, String> {
        let mut cluster = Cluster::new(policy.clone());
        disk.events.iter().for_each(|e| evolve(&mut cluster, e));
        if let Some((events, pieces)) = &disk.snapshot {
            let mut restore = Restore::new(policy);
            for piece in pieces {
                restore.put(serde_json::from_str(piece).map_err(|e| format!("snapshot: {e}: {piece}"))?);
            }
            let mut restored = restore.done();
            disk.events[*events..].iter().for_each(|e| evolve(&mut restored, e));
            if restored != cluster {
                return Err(format!("snapshot: the one of {events} events gives another state than the events"));
            }
            cluster = restored;
        }
        let clock = Clock::new(Duration::from_micros(now), wall, disk.events.last().map_or(Timestamp(0), |e| e.at));
        let (sessions, acks) = (BTreeMap::new(), disk.acks.clone());
        Ok(Self { cluster, sessions, acks, inbox: VecDeque::new(), writing: None, rng, clock })
    }

    /// The time that the core is told.
    pub fn time(&mut self, now: u64, wall: Timestamp) -> Timestamp {
        self.clock.tick(Duration::from_micros(now), wall).0
    }

    /// Whether a turn is being written: what comes now waits.
    pub fn is_busy(&self) -> bool {
        self.writing.is_some()
    }

    /// Decides on all that waits. What happened, and what is broken by it.
    pub fn turn(&mut self, now: Timestamp, first: Option<Command>) -> Result<Vec<Event>, String> {
        let mut turn = Turn::default();
        if let Some(command) = first {
            self.decide(&mut turn, now, command)?.ok();
        }
        while let Some(message) = self.inbox.pop_front() {
            self.take(&mut turn, now, message)?;
        }
        let events = turn.events.clone();
        self.writing = Some(turn);
        Ok(events)
    }

    /// What follows from the turn that is being written, although it is not yet durable: only to show that this is wrong.
    pub fn hurry(&mut self) -> Vec<Then> {
        let turn = self.writing.as_mut().filter(|_| is_broken(Mechanism::DurableFirst));
        let then = turn.map(|t| std::mem::take(&mut t.then)).unwrap_or_default();
        self.addressed(then)
    }

    /// The turn is durable: writes it to `disk`; what follows.
    pub fn commit(&mut self, disk: &mut Disk) -> Vec<Then> {
        let Some(turn) = self.writing.take() else { return Vec::new() };
        turn.write(disk);
        if disk.events.len() >= disk.snapshot.as_ref().map_or(0, |(events, _)| *events) + SNAPSHOT_EVERY {
            let piece = |p| serde_json::to_string(&p).expect("invariant: states are plain values with text keys");
            disk.snapshot = Some((disk.events.len(), self.cluster.pieces().map(piece).collect()));
        }
        self.addressed(turn.then)
    }

    /// Orders as messages to the sessions that their workers have now.
    fn addressed(&self, then: Vec<Then>) -> Vec<Then> {
        let address = |then| match then {
            Then::Order(effect) => self.order(&effect),
            other => Some(other),
        };
        then.into_iter().filter_map(address).collect()
    }

    /// Dies in the middle of a turn: the disk may have it all the same.
    pub fn crash(self, disk: &mut Disk, written: bool) {
        if let Some(turn) = self.writing.filter(|_| written) {
            turn.write(disk);
        }
    }

    /// When it wants to be woken.
    pub fn deadline(&self, now: Timestamp) -> Option<Timestamp> {
        next_deadline(&self.cluster, now)
    }

    #[allow(clippy::needless_pass_by_value, reason = "commands are made in place")]
    fn decide(&mut self, turn: &mut Turn, now: Timestamp, command: Command) -> Result<Result<(), Refusal>, String> {
        let before = self.cluster.clone();
        let answer = apply(&mut self.cluster, now, &mut self.rng, command.clone());
        let events = match answer {
            Ok(events) if !events.is_empty() => events,
            // What brings nothing about must leave everything as it was.
            nothing if before == self.cluster => return Ok(nothing.map(drop)),
            nothing => return Err(format!("a command without events changed something: {command:?} ({nothing:?})")),
        };
        invariants::check(&before, &command, &events, &self.cluster)?;
        let mut effects = Vec::new();
        events.iter().for_each(|e| react(&self.cluster, e, &mut effects));
        turn.events.extend(events);
        turn.then.extend(effects.into_iter().map(Then::Order));
        Ok(Ok(()))
    }

    fn take(&mut self, turn: &mut Turn, now: Timestamp, message: Inbox) -> Result<(), String> {
        match message {
            Inbox::Tick => drop(self.decide(turn, now, Command::Tick)?),
            Inbox::Drain => drop(self.decide(turn, now, Command::Drain { reason: "it is being stopped".into() })?),
            Inbox::Dismiss => {
                let leave = || Down::Say(Heard::Leave { reason: "it is being stopped".into() });
                turn.then.extend(self.sessions.values().map(|s| Then::Say(s.id, leave())));
            }
            Inbox::Asked(number, command) => {
                let answer = self.decide(turn, now, *command)?;
                turn.then.push(Then::Answer(number, answer));
            }
            Inbox::Said(session, _, Up::Hello(hello)) => self.opened(turn, now, session, *hello)?,
            Inbox::Said(..) | Inbox::Closed { .. } => self.of_session(turn, now, message)?,
        }
        Ok(())
    }

    fn opened(&mut self, turn: &mut Turn, now: Timestamp, session: u64, hello: Hello) -> Result<(), String> {
        let (worker, incarnation) = (hello.worker, hello.incarnation.clone());
        // The welcome comes before all orders.
        let orders_from = turn.then.len();
        let is_its_own = self.cluster.acknowledges(&hello);
        if self.decide(turn, now, Command::Hello(Box::new(hello)))?.is_err() {
            turn.then.push(Then::Say(session, Down::TurnedAway));
            return Ok(());
        }
        let known = self.acks.get(&worker).filter(|(i, _)| is_its_own && *i == incarnation);
        let acked = known.map_or(0, |(_, seq)| *seq);
        turn.then.insert(orders_from, Then::Say(session, Down::Say(Heard::Welcome { acked })));
        let earlier = self.sessions.insert(worker, Session { id: session, incarnation, acked });
        turn.then.extend(earlier.map(|s| Then::Close(s.id)));
        Ok(())
    }

    fn of_session(&mut self, turn: &mut Turn, now: Timestamp, message: Inbox) -> Result<(), String> {
        match message {
            Inbox::Said(session, worker, Up::Report(seq, mail)) => {
                let Some(known) = self.sessions.get_mut(&worker).filter(|s| s.id == session) else { return Ok(()) };
                if seq > known.acked {
                    known.acked = seq;
                    let incarnation = known.incarnation.clone();
                    self.heed(turn, now, worker, &incarnation, mail)?;
                    self.acks.insert(worker, (incarnation.clone(), seq));
                    turn.acks.push((worker, incarnation, seq));
                }
                turn.then.push(Then::Say(session, Down::Say(Heard::Ack { seq })));
            }
            Inbox::Closed { session, worker, silent, clean } => {
                if self.sessions.get(&worker).is_none_or(|s| s.id != session) {
                    return Ok(());
                }
                let Some(Session { incarnation, .. }) = self.sessions.remove(&worker) else { return Ok(()) };
                let command = if silent {
                    Command::WorkerLost { worker, incarnation }
                } else {
                    Command::WorkerAway { worker, incarnation, clean }
                };
                self.decide(turn, now, command)?.ok();
            }
            _ => {}
        }
        Ok(())
    }

    fn heed(
        &mut self,
        turn: &mut Turn,
        now: Timestamp,
        worker: WorkerId,
        incarnation: &str,
        mail: Mail,
    ) -> Result<(), String> {
        match mail {
            Mail::Leaving => {
                let incarnation = incarnation.to_owned();
                drop(self.decide(turn, now, Command::WorkerLeaving { worker, incarnation })?);
            }
            Mail::Core(fence, report) => drop(self.decide(turn, now, Command::Report { worker, fence, report })?),
            Mail::Metrics(fence, points) if self.cluster.is_current(fence) => {
                turn.metrics.extend(points.into_iter().map(|p| (fence.run, p)));
            }
            Mail::Metrics(..) | Mail::Lines(_) => {}
        }
        Ok(())
    }

    /// An effect as a message to the session that its worker has now.
    fn order(&self, effect: &Effect) -> Option<Then> {
        let session = self.sessions.get(&effect.worker())?.id;
        let down = match effect {
            Effect::StartRank { fence, rank, .. } => {
                let start = self.start_order(*fence, *rank)?;
                let key = morph_control::agent::Key { fence: *fence, rank: *rank };
                Heard::Start { key, world_size: start.world, patience: PATIENCE, start }
            }
            Effect::Rendezvous { fence, address, .. } => Heard::Rendezvous { fence: *fence, address: address.clone() },
            Effect::Stop { fence, checkpoint, now, reason, .. } => {
                Heard::Stop { fence: *fence, checkpoint: *checkpoint, now: *now, reason: reason.clone() }
            }
            Effect::CheckpointAck { fence, step, .. } => Heard::CheckpointAck { fence: *fence, step: *step },
        };
        Some(Then::Say(session, Down::Say(down)))
    }

    /// As `coordinator/src/orders.rs`.
    fn start_order(&self, fence: Fence, rank: u32) -> Option<Start> {
        let run = self.cluster.runs.get(&fence.run)?;
        let world = run.attempt()?.ranks.len() as u32;
        let resume = run.start_of(fence.attempt).map(|c| (c.url.clone(), c.step));
        let trainer = &run.experiment.trainer;
        Some(Start { fence, rank, world, resume, steps: u64::from(trainer.epochs), doom: work::doom(trainer.seed) })
    }
}

impl Turn {
    fn write(&self, disk: &mut Disk) {
        disk.events.extend(self.events.iter().cloned());
        for (worker, incarnation, seq) in &self.acks {
            disk.acks.insert(*worker, (incarnation.clone(), *seq));
        }
        for (run, (step, value)) in &self.metrics {
            disk.metrics.entry((*run, *step)).or_insert(*value);
        }
    }
}
