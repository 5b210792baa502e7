//! The one loop that owns the core. It takes what has come in since its last turn, lets the core decide, makes all of it
//! durable in one transaction, and only then answers and gives orders.
//!
//! A database that fails ends the loop: a coordinator that cannot remember must not act. Its ranks train on, and the next
//! coordinator goes on from what was durable.

pub mod preparing;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use morph_control::{
    Cluster, Command, Effect, Event, Hello, Refusal, Target, What, apply, leases::Leases, next_deadline, react,
};
use morph_proto::v1::{self, SessionResponse, session_response};
use morph_spec::{Rng, RunId, Timestamp, WorkerId};
use tokio::{
    runtime,
    sync::{mpsc, oneshot, watch},
};
use tonic::Status;

use self::preparing::Preparing;
use crate::{
    clock::{Source, Steady},
    metrics::Metrics,
    orders,
    parse::Said,
    store::{self, Batch, Writer},
    view::{Live, View},
};

/// How much one turn takes at most.
const TURN: usize = 512;

/// Where orders to an agent go.
pub type Orders = mpsc::Sender<Result<SessionResponse, Status>>;

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The agent closed it in order.
    Clean,
    /// The connection broke.
    Broken,
    /// The agent was silent for too long.
    Silent,
}

/// A question about the state, asked when all that came before it is durable.
pub type Question = Box<dyn FnOnce(&View<'_>) + Send>;

/// What comes in.
pub enum Message {
    /// Decide.
    Command {
        /// What is wanted.
        command: Box<Command>,
        /// Where the answer goes.
        reply: oneshot::Sender<Result<(), Refusal>>,
        /// The trace under which it is wanted.
        trace: Option<String>,
    },
    /// Answer.
    Ask(Question),
    /// An agent is here.
    Opened {
        /// Who.
        hello: Box<Hello>,
        /// Number of the session.
        session: u64,
        /// Its orders go here.
        orders: Orders,
    },
    /// An agent lives.
    Heard(WorkerId),
    /// An agent reports.
    Said {
        /// Who.
        worker: WorkerId,
        /// In which session.
        session: u64,
        /// The number of the report.
        seq: u64,
        /// What.
        said: Box<Said>,
    },
    /// A session is over.
    Closed {
        /// Whose.
        worker: WorkerId,
        /// Which.
        session: u64,
        /// How.
        end: End,
    },
    /// About datasets that are being prepared.
    Preparing(Box<Preparing>),
    /// Tell all agents to leave.
    Dismiss(String),
}

/// How others speak to the loop.
#[derive(Debug, Clone)]
pub struct Core {
    messages: mpsc::Sender<Message>,
    changes: watch::Receiver<u64>,
    metrics: Arc<Metrics>,
}

impl Core {
    /// Sends `message`.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the loop has ended.
    pub async fn send(&self, message: Message) -> Result<(), Status> {
        self.messages.send(message).await.map_err(|_| gone())
    }

    /// Has `command` decided; when this returns it is durable.
    ///
    /// # Errors
    /// The core's refusal as a gRPC status.
    pub async fn command(&self, command: Command) -> Result<(), Status> {
        let (reply, answer) = oneshot::channel();
        let since = Instant::now();
        let (command, trace) = (Box::new(command), morph_telemetry::traceparent());
        self.send(Message::Command { command, reply, trace }).await?;
        let answer = answer.await.map_err(|_| gone())?;
        self.metrics.commanded(since.elapsed());
        answer.map_err(status)
    }

    /// Asks about the state.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the loop has ended.
    pub async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&View<'_>) -> T + Send + 'static,
    ) -> Result<T, Status> {
        let (reply, answer) = oneshot::channel();
        let ask = move |view: &View<'_>| {
            // Whoever asked may have gone away.
            drop(reply.send(question(view)));
        };
        self.send(Message::Ask(Box::new(ask))).await?;
        answer.await.map_err(|_| gone())
    }

    /// Messages that wait to be taken.
    pub fn waiting(&self) -> usize {
        self.messages.max_capacity() - self.messages.capacity()
    }

    /// Counts up with every change of the state.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }
}

fn gone() -> Status {
    Status::unavailable("the coordinator is stopping")
}

/// A refusal as a gRPC status.
pub fn status(refusal: Refusal) -> Status {
    match refusal {
        Refusal::NotFound(why) => Status::not_found(why),
        Refusal::Exists(why) => Status::already_exists(why),
        Refusal::Invalid(why) => Status::invalid_argument(why),
        Refusal::Precondition(why) => Status::failed_precondition(why),
        Refusal::Replaced(why) => Status::aborted(why),
        Refusal::Forbidden(why) => Status::permission_denied(why),
    }
}

/// What the loop is set up with.
#[derive(Debug)]
pub struct Setup {
    /// The state, folded from the events.
    pub cluster: Cluster,
    /// Where new events go; `None`: read only, commands are refused.
    pub store: Option<Box<dyn Writer>>,
    /// The highest durable report of each worker, and of which incarnation.
    pub acks: BTreeMap<WorkerId, (String, u64)>,
    /// What is known of runs beside the events.
    pub live: BTreeMap<RunId, Live>,
    /// URL of the folder of run outputs.
    pub outputs: String,
    /// How often agents are asked to say something.
    pub heartbeat: Duration,
    /// Where to count.
    pub metrics: Arc<Metrics>,
    /// Traces that runs and sweeps were submitted under.
    pub traces: BTreeMap<Target, String>,
    /// Time of the newest event.
    pub at: Timestamp,
    /// Where the time comes from.
    pub source: Source,
}

#[derive(Debug)]
struct Session {
    id: u64,
    incarnation: String,
    orders: Orders,
    acked: u64,
}

/// What follows when a turn is durable, in order.
enum Then {
    Reply(oneshot::Sender<Result<(), Refusal>>, Result<(), Refusal>),
    Ask(Question),
    /// To one session: in the same turn another agent may take its place, whose reports have numbers of their own.
    Say(WorkerId, u64, Box<session_response::Message>),
    Order(Effect),
}

/// The loop itself. Whoever drives it lets it [`Self::begin`], and then waits for messages as long as it wants to be waited,
/// turn by turn.
pub(crate) struct Loop {
    cluster: Cluster,
    store: Option<Box<dyn Writer>>,
    acks: BTreeMap<WorkerId, (String, u64)>,
    live: BTreeMap<RunId, Live>,
    last_seen: BTreeMap<WorkerId, Timestamp>,
    sessions: BTreeMap<WorkerId, Session>,
    /// Datasets that are being prepared.
    leases: Leases<preparing::What>,
    outputs: String,
    heartbeat: Duration,
    metrics: Arc<Metrics>,
    traces: BTreeMap<Target, String>,
    /// Of the command that is being decided.
    trace: Option<String>,
    rng: Rng,
    time: Steady,
    now: Timestamp,
    batch: Batch,
    then: Vec<Then>,
    is_changed: bool,
    changed: watch::Sender<u64>,
}

/// Waits for messages, but no longer than `patience`; false: nobody can send any more.
pub(crate) async fn wait(patience: Duration, inbox: &mut mpsc::Receiver<Message>, turn: &mut Vec<Message>) -> bool {
    !matches!(tokio::time::timeout(patience, inbox.recv_many(turn, TURN)).await, Ok(0))
}

/// Starts the loop on a thread of its own. The receiver gets the error that ended it, if one did.
///
/// # Errors
/// When there is no thread to be had.
pub fn start(setup: Setup) -> std::io::Result<(Core, oneshot::Receiver<store::Error>)> {
    let (died, death) = oneshot::channel();
    let runtime = runtime::Builder::new_current_thread().enable_time().build()?;
    let (core, this, inbox) = Loop::new(setup);
    std::thread::Builder::new().name("core".into()).spawn(move || {
        if let Err(error) = this.run(&runtime, inbox) {
            tracing::error!("{error}; the coordinator stops, running ranks go on");
            // Nobody may be waiting for it.
            drop(died.send(error));
        }
    })?;
    Ok((core, death))
}

impl Loop {
    /// The loop, how others speak to it, and where what they say comes in.
    pub(crate) fn new(setup: Setup) -> (Core, Self, mpsc::Receiver<Message>) {
        use std::hash::{BuildHasher, Hasher, RandomState};
        let seed = RandomState::new().build_hasher().finish();
        let (messages, inbox) = mpsc::channel(4096);
        let (changed, changes) = watch::channel(0);
        let core = Core { messages, changes, metrics: setup.metrics.clone() };
        let this = Self {
            cluster: setup.cluster,
            store: setup.store,
            acks: setup.acks,
            live: setup.live,
            last_seen: BTreeMap::new(),
            sessions: BTreeMap::new(),
            leases: Leases::new(setup.at),
            outputs: setup.outputs,
            heartbeat: setup.heartbeat,
            metrics: setup.metrics,
            traces: setup.traces,
            trace: None,
            rng: Rng::keyed(seed, "coordinator", 0),
            time: Steady::after(setup.at, setup.source),
            now: setup.at,
            batch: Batch::default(),
            then: Vec::new(),
            is_changed: false,
            changed,
        };
        (core, this, inbox)
    }

    /// Only waiting is done within `runtime`: a database may have one of its own.
    fn run(mut self, runtime: &runtime::Runtime, mut inbox: mpsc::Receiver<Message>) -> Result<(), store::Error> {
        self.begin()?;
        let mut turn = Vec::with_capacity(TURN);
        while runtime.block_on(wait(self.patience(), &mut inbox, &mut turn)) {
            self.turn(&mut turn)?;
        }
        if let Some(store) = self.store.take() {
            store.close();
        }
        Ok(())
    }

    /// The first turn.
    pub(crate) fn begin(&mut self) -> Result<(), store::Error> {
        self.tick();
        if self.store.is_some() {
            self.decide(Command::Start).ok();
        }
        self.finish()
    }

    /// How long it may be waited for messages before something is due.
    pub(crate) fn patience(&mut self) -> Duration {
        let due = match next_deadline(&self.cluster, self.now).into_iter().chain(self.leases.due()).min() {
            Some(at) if self.store.is_some() => at.since(self.time.now()),
            _ => Duration::from_secs(3600),
        };
        let pace = self.store.as_ref().and_then(|s| s.pace());
        pace.map_or(due, |pace| pace.min(due))
    }

    /// Takes the messages of a turn; none came: time has passed.
    pub(crate) fn turn(&mut self, turn: &mut Vec<Message>) -> Result<(), store::Error> {
        self.tick();
        let (since, taken) = (Instant::now(), turn.len());
        if turn.is_empty() {
            self.decide(Command::Tick).ok();
        }
        turn.drain(..).for_each(|message| self.take(message));
        self.finish()?;
        self.metrics.turned(taken, since.elapsed());
        Ok(())
    }

    fn tick(&mut self) {
        self.now = self.time.now();
    }

    fn may_decide(&self) -> Result<(), Refusal> {
        let why = "nobody serves this home, it is open for reading only: start a coordinator, or use --local";
        if self.store.is_some() { Ok(()) } else { Err(Refusal::Precondition(why.into())) }
    }

    fn decide(&mut self, command: Command) -> Result<(), Refusal> {
        self.may_decide()?;
        let events = apply(&mut self.cluster, self.now, &mut self.rng, command)?;
        let mut effects = Vec::new();
        for event in &events {
            let run = event.run().map(tracing::field::display);
            tracing::debug!(run, kind = event.kind(), "{}", event.text());
            self.metrics.event(&self.cluster, event);
            if let (Some(target), Some(trace)) = (submitted(event), &self.trace) {
                self.traces.insert(target, trace.clone());
                self.batch.traces.push((target, trace.clone()));
            }
            if let Some(run) = event.run() {
                self.live.entry(run).or_default().ledger.take(event);
            }
            react(&self.cluster, event, &mut effects);
        }
        self.is_changed |= !events.is_empty();
        self.batch.events.extend(events);
        self.then.extend(effects.into_iter().map(Then::Order));
        Ok(())
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Command { command, reply, trace } => {
                self.trace = trace;
                let done = self.decide(*command);
                self.trace = None;
                self.then.push(Then::Reply(reply, done));
            }
            Message::Ask(question) => self.then.push(Then::Ask(question)),
            Message::Opened { hello, session, orders } => self.opened(*hello, session, orders),
            Message::Heard(worker) => {
                self.metrics.heartbeat();
                self.last_seen.insert(worker, self.now);
            }
            Message::Said { worker, session, seq, said } => self.said(worker, session, seq, *said),
            Message::Closed { worker, session, end } => self.closed(worker, session, end),
            Message::Preparing(message) => self.preparing(*message),
            Message::Dismiss(reason) => {
                let drain = v1::Drain { reason, leave: true };
                let all = self.sessions.iter();
                let say = |(w, s): (&WorkerId, &Session)| {
                    Then::Say(*w, s.id, Box::new(session_response::Message::Drain(drain.clone())))
                };
                self.then.extend(all.map(say));
            }
        }
    }

    fn opened(&mut self, hello: Hello, session: u64, orders: Orders) {
        let worker = hello.worker;
        let (incarnation, host, slots) = (hello.incarnation.clone(), hello.host.clone(), hello.slots);
        // The welcome comes before all orders.
        let orders_from = self.then.len();
        let is_its_own = self.cluster.acknowledges(&hello);
        if let Err(refusal) = self.decide(Command::Hello(Box::new(hello))) {
            tracing::warn!(%worker, host, "an agent is turned away: {refusal}");
            // Whoever does not listen need not be told.
            orders.try_send(Err(status(refusal))).ok();
            return;
        }
        tracing::info!(%worker, host, slots, "an agent is here");
        // What it still has and a copy of it said already, it says again: that changes nothing.
        let known = self.acks.get(&worker).filter(|(i, _)| is_its_own && *i == incarnation);
        let acked = known.map_or(0, |(_, acked)| *acked);
        let welcome = v1::Welcome { cluster: String::new(), heartbeat_ms: self.heartbeat.as_millis() as u64, acked };
        let welcome = Then::Say(worker, session, Box::new(session_response::Message::Welcome(welcome)));
        self.then.insert(orders_from, welcome);
        self.sessions.insert(worker, Session { id: session, incarnation, orders, acked });
        self.leases.gone(worker);
        self.last_seen.insert(worker, self.now);
    }

    fn said(&mut self, worker: WorkerId, session: u64, seq: u64, said: Said) {
        let Some(known) = self.sessions.get_mut(&worker).filter(|s| s.id == session) else { return };
        self.last_seen.insert(worker, self.now);
        if seq > known.acked {
            known.acked = seq;
            let incarnation = known.incarnation.clone();
            self.heed(worker, &incarnation, said);
            self.acks.insert(worker, (incarnation.clone(), seq));
            self.batch.acks.push((worker, incarnation, seq));
        }
        self.then.push(Then::Say(worker, session, Box::new(session_response::Message::Ack(v1::Ack { seq }))));
    }

    fn heed(&mut self, worker: WorkerId, incarnation: &str, said: Said) {
        match said {
            Said::Leaving => {
                let incarnation = incarnation.to_owned();
                self.decide(Command::WorkerLeaving { worker, incarnation }).ok();
            }
            Said::Core(fence, report) => {
                self.decide(Command::Report { worker, fence, report }).ok();
            }
            Said::Progress(fence, p) if self.cluster.is_current(fence) => {
                let live = self.live.entry(fence.run).or_default();
                (live.step, live.epoch, live.images_per_second) = (p.step, p.epoch, p.images_per_second);
                self.is_changed = true;
            }
            Said::Metrics(fence, points) if self.cluster.is_current(fence) => {
                let live = self.live.entry(fence.run).or_default();
                points.iter().for_each(|p| live.point(p));
                self.batch.metrics.extend(points.into_iter().map(|p| (fence.run, p)));
                self.is_changed = true;
            }
            Said::Lines(lines) => {
                self.is_changed = true;
                let runs = &self.cluster.runs;
                self.batch.lines.extend(lines.into_iter().filter(|l| runs.contains_key(&l.fence.run)));
            }
            // An attempt that is over tells nothing any more.
            Said::Progress(..) | Said::Metrics(..) | Said::Nothing => {}
        }
    }

    fn closed(&mut self, worker: WorkerId, session: u64, end: End) {
        if self.sessions.get(&worker).is_none_or(|s| s.id != session) {
            return;
        }
        let Some(Session { incarnation, .. }) = self.sessions.remove(&worker) else { return };
        self.leases.gone(worker);
        tracing::info!(%worker, ?end, "an agent's session ended");
        let command = match end {
            End::Clean | End::Broken => Command::WorkerAway { worker, incarnation, clean: end == End::Clean },
            End::Silent => Command::WorkerLost { worker, incarnation },
        };
        self.decide(command).ok();
    }

    /// Makes the turn durable, then answers and orders.
    fn finish(&mut self) -> Result<(), store::Error> {
        if let Some(store) = &mut self.store {
            let since = Instant::now();
            store.commit(&self.batch)?;
            if !self.batch.is_empty() {
                self.metrics.committed(&self.batch, since.elapsed());
            }
        }
        self.batch = Batch::default();
        self.lease();
        // Before the answers: who has one, and watches then, is not shown what was before.
        self.tell_change();
        let then = std::mem::take(&mut self.then);
        if then.iter().any(|t| matches!(t, Then::Ask(_))) {
            let view = View {
                cluster: &self.cluster,
                live: &self.live,
                leases: &self.leases,
                now: self.now,
                reasons: std::cell::RefCell::new(None),
                last_seen: &self.last_seen,
                connected: self.sessions.len(),
                read_only: self.store.is_none(),
            };
            let mut rest = Vec::new();
            for then in then {
                match then {
                    Then::Ask(question) => question(&view),
                    other => rest.push(other),
                }
            }
            rest.into_iter().for_each(|t| self.carry_out(t));
        } else {
            then.into_iter().for_each(|t| self.carry_out(t));
        }
        self.tell_change();
        Ok(())
    }

    fn tell_change(&mut self) {
        if std::mem::take(&mut self.is_changed) {
            self.changed.send_modify(|n| *n += 1);
        }
    }

    fn carry_out(&mut self, then: Then) {
        match then {
            // Whoever asked may have gone away.
            Then::Reply(to, answer) => drop(to.send(answer)),
            Then::Ask(_) => {}
            Then::Say(worker, session, message) => {
                if self.sessions.get(&worker).is_some_and(|s| s.id == session) {
                    self.say(worker, *message);
                }
            }
            Then::Order(effect) => {
                if let Some(mut message) = orders::message(&self.cluster, &self.outputs, &effect) {
                    if let session_response::Message::Start(start) = &mut message {
                        start.traceparent = self.trace_of(effect.fence().run).unwrap_or_default();
                    }
                    self.say(effect.worker(), message);
                }
            }
        }
    }

    /// The trace that `run` was submitted under, or its sweep.
    fn trace_of(&self, run: RunId) -> Option<String> {
        let of_sweep = || self.traces.get(&Target::Sweep(self.cluster.runs.get(&run)?.sweep?));
        self.traces.get(&Target::Run(run)).or_else(of_sweep).cloned()
    }

    fn say(&mut self, worker: WorkerId, message: session_response::Message) {
        let Some(session) = self.sessions.get(&worker) else { return };
        if session.orders.try_send(Ok(SessionResponse { message: Some(message) })).is_err() {
            // It does not listen. Without its sender the stream ends, and the agent comes back and is told again.
            tracing::warn!(%worker, "an agent does not take its orders; its session is closed");
            if let Some(Session { id, .. }) = self.sessions.get(&worker) {
                let id = *id;
                self.closed(worker, id, End::Broken);
            }
        }
    }
}

/// What `event` says was submitted; of a sweep the sweep, not its runs.
fn submitted(event: &Event) -> Option<Target> {
    match &event.what {
        What::RunSubmitted { run, sweep: None, .. } => Some(Target::Run(*run)),
        What::SweepSubmitted { sweep, .. } => Some(Target::Sweep(*sweep)),
        _ => None,
    }
}
