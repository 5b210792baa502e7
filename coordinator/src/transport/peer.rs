//! An agent: the real protocol and the real link, around ranks that only count.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use morph_control::{
    Exit,
    agent::{Action, Agent, Key, Said, Status, Tell},
};
use morph_proto::v1::{self, Hello, SessionRequest, report::Report, session_request::Message as Saying};
use morph_spec::{Digest, Rng, Timestamp, WorkerId};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::{
    URL,
    letters::{Post, fence, heard},
    link,
};

/// Time that a step takes.
const STEP: Duration = Duration::from_millis(100);
/// Steps between checkpoints.
const EVERY: u64 = 10;

/// What training comes to at `step`.
pub(super) fn loss(step: u64) -> f64 {
    1.0 / step as f64
}

/// What tests may look at.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Connections so far.
    pub ups: u32,
    /// When they were lost.
    pub downs: Vec<Instant>,
    /// Ranks started so far.
    pub started: Vec<Key>,
    /// The last step that a rank here took.
    pub step: u64,
    /// The coordinator's words when it turned the agent away.
    pub replaced: Option<String>,
}

/// An agent as tests see it.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// Its id, as a number.
    id: u64,
    process: String,
    seen: Arc<Mutex<Seen>>,
}

impl Peer {
    /// The agent with the `id`-th id, started as `process`.
    pub fn new(id: u64, process: &str) -> Self {
        Self { id, process: process.to_owned(), seen: Arc::default() }
    }

    /// Its id.
    pub fn worker(&self) -> WorkerId {
        WorkerId::new(Timestamp(self.id), &mut Rng::keyed(self.id, "worker", 0))
    }

    /// What was seen of it.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }

    /// How it introduces itself when nothing runs there.
    pub fn introduction(&self) -> Hello {
        self.hello(&Agent::default())
    }

    fn hello(&self, agent: &Agent<Post>) -> Hello {
        Hello {
            worker: self.worker().to_string(),
            incarnation: self.process.clone(),
            process: self.process.clone(),
            host: "node".into(),
            slots: 1,
            version: env!("CARGO_PKG_VERSION").into(),
            live: agent.live().into_iter().map(fence).collect(),
            ..Hello::default()
        }
    }

    /// Serves until it is turned away.
    pub async fn serve(self) -> turmoil::Result {
        let mut link = link::start(URL, &link::Proof::default())?;
        let (said, mut saying) = mpsc::channel(64);
        let mut agent = Agent::<Post>::default();
        let mut ranks = Ranks { said, live: BTreeMap::new(), seen: self.seen.clone() };
        let mut connection: Option<mpsc::Sender<SessionRequest>> = None;
        let mut beat = interval(Duration::from_millis(2500));
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = link.recv() => match event.ok_or("the link has ended")? {
                    link::Event::Up(sender) => {
                        agent.disconnected();
                        sender.try_send(request(Saying::Hello(self.hello(&agent))))?;
                        connection = Some(sender);
                        self.seen().ups += 1;
                    }
                    link::Event::Down => {
                        connection = None;
                        agent.disconnected();
                        self.seen().downs.push(Instant::now());
                    }
                    link::Event::Message(message) => {
                        let heard = message.message.and_then(heard).ok_or("an order that says nothing")?;
                        let actions = agent.hear(heard, now());
                        actions.into_iter().for_each(|action| ranks.act(&mut agent, action));
                    }
                    link::Event::Replaced(why) => {
                        self.seen().replaced = Some(why);
                        return Ok(());
                    }
                    link::Event::Refused(why) => return Err(why.into()),
                },
                permit = reserve(connection.clone()), if agent.has_report() => match permit {
                    Some(permit) => if let Some((seq, Post(report))) = agent.next_report() {
                        permit.send(request(Saying::Report(v1::Report { seq, report: Some(report) })));
                    },
                    None => connection = None,
                },
                Some((key, word)) = saying.recv() => match word {
                    Word::Said(said) => agent.event(&key, said, now()),
                    Word::Gone => {
                        ranks.live.remove(&key);
                        agent.exited(key, Status { code: Some(0), signal: None }, None, now());
                    }
                },
                _ = beat.tick() => if let Some(connection) = &connection {
                    connection.try_send(request(Saying::Heartbeat(v1::Heartbeat { at: now() }))).ok();
                },
            }
        }
    }
}

async fn reserve(connection: Option<mpsc::Sender<SessionRequest>>) -> Option<mpsc::OwnedPermit<SessionRequest>> {
    match connection {
        Some(connection) => connection.reserve_owned().await.ok(),
        None => std::future::pending().await,
    }
}

fn now() -> u64 {
    super::clock().0
}

fn request(message: Saying) -> SessionRequest {
    SessionRequest { message: Some(message) }
}

/// Something that a rank says.
enum Word {
    Said(Said<Post>),
    Gone,
}

/// Ranks that run here.
struct Ranks {
    said: mpsc::Sender<(Key, Word)>,
    live: BTreeMap<Key, (mpsc::Sender<Tell>, JoinHandle<()>)>,
    seen: Arc<Mutex<Seen>>,
}

impl Ranks {
    fn act(&mut self, agent: &mut Agent<Post>, action: Action<Box<v1::StartRank>>) {
        match action {
            Action::Start(key, start) => {
                self.seen.lock().unwrap().started.push(key);
                let (tell, told) = mpsc::channel(16);
                let rank = Rank { key, said: self.said.clone(), seen: self.seen.clone() };
                self.live.insert(key, (tell, tokio::spawn(rank.train(*start, told))));
            }
            Action::Tell(key, tell) => {
                if let Some((teller, _)) = self.live.get(&key) {
                    teller.try_send(tell).ok();
                }
            }
            Action::Kill(key) => {
                if let Some((_, task)) = self.live.remove(&key) {
                    task.abort();
                    agent.exited(key, Status { code: None, signal: Some(9) }, None, now());
                }
            }
        }
    }
}

/// A rank: counts steps.
struct Rank {
    key: Key,
    said: mpsc::Sender<(Key, Word)>,
    seen: Arc<Mutex<Seen>>,
}

impl Rank {
    async fn say(&self, word: Word) {
        self.said.send((self.key, word)).await.ok();
    }

    async fn report(&self, report: Report) {
        self.say(Word::Said(Said::Report(Post(report)))).await;
    }

    async fn end(&self, exit: Exit) {
        self.say(Word::Said(Said::Exiting { exit, error: String::new() })).await;
        self.say(Word::Gone).await;
    }

    async fn train(self, start: v1::StartRank, mut told: mpsc::Receiver<Tell>) {
        let of = || Some(fence(self.key.fence));
        let experiment: morph_spec::Experiment = serde_json::from_str(&start.experiment_json).unwrap();
        let total_steps = u64::from(experiment.trainer.epochs);
        let first = start.resume.map_or(0, |c| c.step);
        self.report(Report::Store(v1::StoreReady { fence: of(), address: "node:1".into() })).await;
        while !matches!(told.recv().await, Some(Tell::Rendezvous { .. })) {}
        self.report(Report::Ready(v1::RankReady {
            fence: of(),
            rank: 0,
            step: first,
            total_steps,
            cached: Vec::new(),
        }))
        .await;
        for step in first + 1..=total_steps {
            sleep(STEP).await;
            self.seen.lock().unwrap().step = step;
            let point = v1::MetricPoint { step, at: now(), name: "train/loss".into(), value: loss(step) };
            self.report(Report::Metrics(v1::Metrics { fence: of(), points: vec![point] })).await;
            let mut stop = false;
            while let Ok(tell) = told.try_recv() {
                stop |= matches!(tell, Tell::Stop { .. });
            }
            if stop || step.is_multiple_of(EVERY) {
                self.report(Report::Checkpoint(self.saved(&start.output_url, step))).await;
            }
            if stop {
                return self.end(Exit::Stopped).await;
            }
        }
        let summary = [("val/score".to_owned(), loss(total_steps))].into();
        let evaluated = v1::Evaluated { fence: of(), summary, ..v1::Evaluated::default() };
        self.report(Report::Evaluated(evaluated)).await;
        self.end(Exit::Succeeded).await;
    }

    fn saved(&self, outputs: &str, step: u64) -> v1::CheckpointCommitted {
        let attempt = self.key.fence.attempt;
        let checkpoint = v1::Checkpoint {
            url: format!("{outputs}/step-{step}-a{attempt}"),
            digest: Digest::of(&step.to_le_bytes()).to_string(),
            step,
            attempt,
            ..v1::Checkpoint::default()
        };
        v1::CheckpointCommitted { fence: Some(fence(self.key.fence)), checkpoint: Some(checkpoint) }
    }
}
