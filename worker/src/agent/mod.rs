//! The agent of a node: owns its slots, starts ranks as child processes, and tells the coordinator what they do.
//!
//! Contract:
//! 1. What a rank reported reaches the coordinator once, however often the connection breaks in between and even if the
//!    agent dies while the coordinator is away; training goes on meanwhile.
//! 2. No child outlives its agent.
//! 3. All decisions are [`morph_control::agent`]'s; this file only moves bytes.

pub mod clock;
pub mod dial;
pub mod home;
pub mod journal;
pub mod letters;
pub mod link;
pub mod process;
pub mod shards;
pub mod words;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, anyhow};
use morph_control::agent::{Action, Agent, Status};
use morph_objects::NodeCache;
use morph_proto::v1::{Heartbeat, Hello, Report, SessionRequest, StartRank, session_request, session_response};
use morph_spec::Experiment;
use morph_telemetry::{TRACE, continues, traceparent};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use crate::{
    agent::{
        clock::Steady,
        home::Home,
        journal::Journal,
        letters::Post,
        process::{Exceeds, Heard, Processes, Site},
        shards::Shards,
    },
    wire::Order,
};

/// How long ranks may take to save and stop when the agent is told to leave.
const LEAVE: Duration = Duration::from_secs(120);
/// How long a leaving agent waits for the coordinator to acknowledge its last reports.
const FAREWELL: Duration = Duration::from_secs(5);
/// Ranks' messages that wait for the agent; then the ranks wait.
const QUEUE: usize = 1024;

/// Starts of an agent that the next one names: far fewer than a coordinator takes.
const BEFORE: usize = 1000;

/// How an agent runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// `http://host:port` or `https://host:port`.
    pub coordinator: String,
    /// How it proves who it is.
    pub proof: link::Proof,
    /// Ranks that may run here at a time.
    pub slots: u32,
    /// Home folder.
    pub home: PathBuf,
    /// The address at which other nodes' ranks reach this node's.
    pub host: String,
    /// End as soon as the parent process does.
    pub die_with_parent: bool,
    /// Limit of the node's cache in bytes.
    pub cache_bytes: u64,
    /// How the logs of its ranks look.
    pub log_format: morph_telemetry::Format,
    /// What this node is, for `scheduling.nodes`.
    pub labels: std::collections::BTreeMap<String, String>,
    /// Main memory in bytes for all ranks; 0: not counted.
    pub memory: u64,
}

/// Serves until told to leave.
///
/// # Errors
/// When the home cannot be used, or the coordinator refuses this agent for good.
pub async fn run(options: Options) -> Result<()> {
    if options.die_with_parent {
        watch_parent();
    }
    let home = Home::open(&options.home, crate::now())?;
    let (worker, slots) = (home.worker, options.slots);
    let left = Journal::left(&home.dir)?;
    let mut shell = Shell::new(options, home);
    if let Some(left) = left {
        tracing::info!(%worker, "what an earlier agent had yet to say is delivered first");
        shell.incarnation = left.incarnation;
        shell.writers.splice(..0, left.writers);
        shell.agent = Agent::recovered(left.entries);
        shell.journal = left.journal;
        let continued = shell.journal.continued(&shell.process);
        shell.unwritten(continued);
        shell.recovering = true;
        shell = match shell.serve().await? {
            Some(shell) => Shell::new(shell.options, shell.home),
            None => return Ok(()),
        };
    }
    tracing::info!(%worker, slots, "agent started, coordinator {}", shell.options.coordinator);
    shell.serve().await.map(drop)
}

/// Ends this process when its parent has. Polling, and not PR_SET_PDEATHSIG, since that signal is about the parent's
/// *thread*, and the parent may have started us from a short-lived one.
fn watch_parent() {
    let parent = nix::unistd::getppid();
    std::thread::spawn(move || {
        while nix::unistd::getppid() == parent {
            std::thread::sleep(Duration::from_millis(200));
        }
        tracing::warn!("the parent process has ended, and with it this agent");
        // Ranks notice: their stdin closes and the kernel tells them.
        std::process::exit(1);
    });
}

struct Shell {
    options: Options,
    home: Home,
    /// Of this start of the agent.
    process: String,
    /// Whose reports are sent: this start's, or those of an earlier one that left a journal.
    incarnation: String,
    /// The processes that spoke as this incarnation, the last is this one.
    writers: Vec<String>,
    agent: Agent<Post>,
    journal: Journal,
    /// Only what an earlier agent had left is delivered.
    recovering: bool,
    processes: Processes,
    /// Datasets that are being prepared here, beside ranks.
    shards: Shards,
    connection: Option<mpsc::Sender<SessionRequest>>,
    heartbeat: Duration,
    time: Steady,
    /// When a leaving agent stops waiting.
    deadline: Option<Instant>,
}

impl Shell {
    fn new(options: Options, home: Home) -> Self {
        let process = home::fresh_id(crate::now()).to_string();
        Self {
            incarnation: process.clone(),
            writers: vec![process.clone()],
            process,
            agent: Agent::default(),
            journal: Journal::new(&home.dir),
            recovering: false,
            processes: Processes::default(),
            shards: Shards::default(),
            connection: None,
            heartbeat: Duration::from_secs(5),
            time: Steady::default(),
            deadline: None,
            options,
            home,
        }
    }

    /// Serves until told to leave, or, when recovering, until all is said; `None`: the agent is to end.
    async fn serve(mut self) -> Result<Option<Self>> {
        let mut link = link::start(&self.options.coordinator, &self.options.proof).map_err(|e| anyhow!(e))?;
        let mut terminate = signal(SignalKind::terminate()).context("listen to SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen to SIGINT")?;
        let (heard, mut ranks) = mpsc::channel(QUEUE);
        let (makers, mut made) = mpsc::channel(QUEUE);
        let mut beat = interval(self.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut period = self.heartbeat;
        loop {
            self.save();
            if self.recovering && self.agent.done(true) {
                return Ok(Some(self));
            }
            if !self.recovering && (self.agent.done(true) || (self.agent.done(false) && self.connection.is_none())) {
                break;
            }
            if !self.recovering && self.agent.done(false) {
                let farewell = Instant::now() + FAREWELL;
                self.deadline = Some(self.deadline.map_or(farewell, |d| d.min(farewell)));
            }
            if period != self.heartbeat {
                period = self.heartbeat;
                beat = interval(period);
                beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
            }
            let connection = self.connection.clone();
            let deadline = self.deadline;
            tokio::select! {
                event = link.recv() => match event {
                    Some(link::Event::Replaced(why)) if self.recovering => {
                        // Its ranks counted as lost when the other one joined: nobody waits for what they said.
                        tracing::warn!("what an earlier agent had yet to say is given up: {why}");
                        self.journal.end();
                        return Ok(Some(self));
                    }
                    Some(event) => self.linked(event, &heard, &makers)?,
                    None => return Err(anyhow!("the link to the coordinator ended")),
                },
                permit = reserve(connection), if self.agent.has_report() || self.shards.has_report() => match permit {
                    Some(permit) => {
                        if let Some(report) = self.shards.next_report() {
                            permit.send(SessionRequest { message: Some(session_request::Message::Shard(report)) });
                            continue;
                        }
                        // A number that anybody has heard must not be given to another report, whatever happens.
                        let synced = self.journal.sync();
                        self.unwritten(synced);
                        if let Some((seq, Post(report))) = self.agent.next_report() {
                            let report = Report { seq, report: Some(report) };
                            permit.send(SessionRequest { message: Some(session_request::Message::Report(report)) });
                        }
                    }
                    None => self.connection = None,
                },
                Some(said) = ranks.recv(), if !self.agent.is_full() => self.hear(said),
                Some(said) = made.recv() => self.shards.hear(said),
                _ = beat.tick() => self.beat(&heard),
                _ = terminate.recv() => {
                    if self.recovering { break }
                    self.leave("the agent was asked to end (SIGTERM)", &heard);
                }
                _ = interrupt.recv() => {
                    if self.recovering { break }
                    self.leave("the agent was interrupted (SIGINT)", &heard);
                }
                () = until(deadline) => {
                    if self.agent.done(false) {
                        break;
                    }
                    tracing::warn!("ranks did not stop in {} s: killed", LEAVE.as_secs());
                    let actions = self.agent.kill_all("did not stop in time", self.time.now());
                    self.perform(actions, &heard);
                    self.deadline = None;
                }
            }
        }
        if self.agent.owes() {
            self.remember();
            tracing::warn!(
                "left before the coordinator had heard everything: the next agent of this home will tell it"
            );
        } else {
            self.journal.end();
        }
        tracing::info!("agent left");
        Ok(None)
    }

    /// From now on the disk has to know what is said.
    fn remember(&mut self) {
        if !self.journal.is_open() {
            let all = self.agent.remember();
            let begun = self.journal.begin(&self.incarnation, &self.writers, all);
            self.unwritten(begun);
        }
    }

    /// Writes down what is new, before anybody else learns of it.
    fn save(&mut self) {
        if !self.journal.is_open() {
            return;
        }
        if self.agent.is_settled() {
            self.agent.forget();
            return self.journal.end();
        }
        let news = self.agent.journal();
        let appended = self.journal.append(news);
        self.unwritten(appended);
    }

    /// The datasets in the node's cache. One that cannot be looked at holds none.
    fn cached(&self) -> Vec<String> {
        let cache = NodeCache::open(&self.home.cache, self.options.cache_bytes);
        cache.map(|cache| cache.sets().iter().map(ToString::to_string).collect()).unwrap_or_default()
    }

    /// Who wrote the journal before this process. Of very many starts only the last are told: a coordinator that heard an earlier
    /// one last is told again what it knows.
    fn before(&self) -> Vec<String> {
        let all = &self.writers[..self.writers.len() - 1];
        all[all.len().saturating_sub(BEFORE)..].to_vec()
    }

    fn unwritten(&mut self, written: std::io::Result<()>) {
        if let Err(e) = written {
            let home = self.home.dir.display();
            tracing::error!("write the journal in {home}: {e}; what the coordinator has not heard is in memory only");
            self.agent.forget();
        }
    }

    fn linked(
        &mut self,
        event: link::Event,
        to: &mpsc::Sender<Heard>,
        makers: &mpsc::Sender<shards::Heard>,
    ) -> Result<()> {
        match event {
            link::Event::Up(sender) => {
                self.agent.disconnected();
                let hello = session_request::Message::Hello(Hello {
                    worker: self.home.worker.to_string(),
                    incarnation: self.incarnation.clone(),
                    process: self.process.clone(),
                    before: self.before(),
                    host: self.options.host.clone(),
                    slots: self.options.slots,
                    version: crate::VERSION.to_owned(),
                    live: self.agent.live().into_iter().map(letters::fence).collect(),
                    cached: self.cached(),
                    labels: self.options.labels.clone().into_iter().collect(),
                    memory: self.options.memory,
                });
                // A fresh channel has room for it.
                drop(sender.try_send(SessionRequest { message: Some(hello) }));
                self.connection = Some(sender);
            }
            link::Event::Down => {
                self.connection = None;
                self.agent.disconnected();
                self.remember();
            }
            link::Event::Replaced(why) => return Err(anyhow!("the coordinator turned this agent away: {why}")),
            link::Event::Refused(why) => return Err(anyhow!("the coordinator refused this agent: {why}")),
            link::Event::Message(message) => {
                let Some(message) = message.message else { return Ok(()) };
                if let session_response::Message::Welcome(welcome) = &message {
                    tracing::info!(cluster = %welcome.cluster, "connected to the coordinator");
                    self.heartbeat = Duration::from_millis((welcome.heartbeat_ms / 2).clamp(20, 60_000));
                }
                if let session_response::Message::Drain(drain) = &message {
                    tracing::info!("the coordinator drains: {}", drain.reason);
                    if drain.leave {
                        self.shards.end("the agent leaves");
                        self.deadline.get_or_insert(Instant::now() + LEAVE);
                    }
                }
                match message {
                    // Its session will soon be over, and the coordinator gives the shard to others.
                    session_response::Message::MakeShard(_) if self.agent.is_leaving() || self.recovering => {}
                    session_response::Message::MakeShard(make) => {
                        self.shards.make(make, self.options.log_format, makers);
                    }
                    session_response::Message::StopShards(stop) => self.shards.stop(&stop),
                    message => match letters::heard(message) {
                        Some(heard) => {
                            let actions = self.agent.hear(heard, self.time.now());
                            self.perform(actions, to);
                        }
                        None => tracing::warn!("the coordinator sent an order that names no attempt"),
                    },
                }
            }
        }
        Ok(())
    }

    fn hear(&mut self, heard: Heard) {
        let now = self.time.now();
        match heard {
            Heard::Event(key, event) => self.agent.event(&key, words::said(&key, event), now),
            Heard::Line(key, stream, text) => self.agent.log(key, stream, text, now),
            Heard::Exited(key, status) => {
                let (run, attempt, rank) = key.parts();
                tracing::info!(%run, attempt, rank, code = ?status.code, signal = ?status.signal, "rank ended");
                self.processes.forget(&key);
                self.agent.exited(key, status, None, now);
            }
            Heard::Failed(key, why) => {
                let (run, attempt, rank) = key.parts();
                tracing::error!(%run, attempt, rank, "{why}");
                self.agent.exited(key, Status::default(), Some(why), now);
            }
        }
    }

    fn perform(&mut self, actions: Vec<Action<Box<StartRank>>>, to: &mpsc::Sender<Heard>) {
        self.save();
        for action in actions {
            match action {
                Action::Start(key, mut start) => {
                    let (run, attempt, rank) = key.parts();
                    tracing::info!(%run, attempt, rank, world = start.world_size, "start rank");
                    let span = tracing::info_span!(target: TRACE, "start_rank", %run, attempt, rank);
                    continues(&span, &start.traceparent);
                    if let Some(own) = span.in_scope(traceparent) {
                        start.traceparent = own;
                    }
                    let site = Site {
                        host: &self.options.host,
                        cache: &self.home.cache,
                        cache_bytes: self.options.cache_bytes,
                        log_format: self.options.log_format,
                    };
                    let experiment: Option<Experiment> = serde_json::from_str(&start.experiment_json).ok();
                    let command = process::rank(experiment.as_ref(), &site);
                    self.processes.start(key, command, Order::start(&start), to);
                    self.processes.limit(&key, experiment.map_or(0, |e| e.scheduling.memory.0));
                }
                Action::Tell(key, tell) => self.processes.tell(&key, tell.into()),
                Action::Kill(key) => self.processes.kill(&key),
            }
        }
    }

    fn beat(&mut self, to: &mpsc::Sender<Heard>) {
        let now = self.time.now();
        let mut condemned = self.agent.tick(now);
        for Exceeds { key, takes, may } in self.processes.exceeding() {
            let (takes, may) = (takes.div_ceil(1 << 20), may >> 20);
            let why = format!("it takes {takes} MiB of main memory, and scheduling.memory says {may}: raise it");
            condemned.extend(self.agent.exceeds(key, why, now));
        }
        self.perform(condemned, to);
        self.shards.beat(self.connection.is_some());
        if let Some(connection) = &self.connection {
            let beat = session_request::Message::Heartbeat(Heartbeat { at: self.time.now() });
            // A full channel is being emptied: that is a sign of life, too.
            drop(connection.try_send(SessionRequest { message: Some(beat) }));
        }
    }

    /// The first time gently, the second time hard.
    fn leave(&mut self, reason: &str, to: &mpsc::Sender<Heard>) {
        let now = self.time.now();
        self.shards.end("the agent leaves");
        let actions = if self.agent.is_leaving() {
            self.agent.kill_all("the agent was asked to end twice", now)
        } else {
            tracing::info!("{reason}: stopping ranks with a checkpoint");
            self.deadline = Some(Instant::now() + LEAVE);
            self.agent.leave(reason, now)
        };
        self.perform(actions, to);
    }
}

async fn reserve(connection: Option<mpsc::Sender<SessionRequest>>) -> Option<mpsc::OwnedPermit<SessionRequest>> {
    match connection {
        Some(connection) => connection.reserve_owned().await.ok(),
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
