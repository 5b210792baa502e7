//! Virtual time: what happens next is the earliest thing that is due, and nothing else.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use morph_control::{
    Command, Exit, Policy, Refusal, Report, RunState, Target, What,
    agent::{Action, Agent, Heard, Key, Said, Status, Tell},
};
use morph_spec::{Digest, Fence, Rng, RunId, Timestamp, WorkerId};

use crate::{
    client::Client,
    coordinator::{Disk, Inbox, Process, Then},
    cover::{self, Seen},
    faults::{self, Ambush, Dangers, Fault, SECOND},
    gang::{Gang, Gangs, Rank},
    invariants::{self, Truth},
    mail::{self, Mail, Start},
    net::{Down, Net, Up, Way},
    node::Node,
    store::{ObjectStore, Put},
    trace::Trace,
    work,
};

/// How a life goes.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Everything follows from it.
    pub seed: u64,
    /// Keep the trace to be read.
    pub trace: bool,
}

/// How a life went.
#[derive(Debug)]
pub struct Life {
    /// Its seed.
    pub seed: u64,
    /// Hash of all that happened.
    pub hash: u64,
    /// Faults that struck.
    pub faults: u64,
    /// Runs that were submitted.
    pub runs: usize,
    /// Runs that succeeded.
    pub succeeded: usize,
    /// What it came by, and how often.
    pub seen: Seen,
    /// What its coordinator has on disk in the end.
    pub events: Vec<morph_control::Event>,
    /// What was broken, if anything.
    pub violation: Option<String>,
    /// All that happened, if it was to be kept.
    pub trace: Vec<String>,
}

/// Things that happen.
#[derive(Debug, Clone)]
enum Happening {
    /// A request is sent, and again until it is answered.
    Ask(u64),
    /// It has come to the coordinator.
    Asked(u64),
    /// Its answer, of a life of the coordinator, has come back.
    Answered(u64, u64, Result<(), Refusal>),
    Wish,
    Fault(Fault),
    ArriveUp(u64, Up),
    ArriveDown(u64, Down),
    /// The agent's end of a session notices that it is broken.
    BrokenBelow(u64),
    /// The coordinator's end does.
    BrokenAbove(u64),
    /// Nothing was heard for long: looks whether that is still so.
    Patience(u64),
    Boot,
    Wake(u64),
    Commit(u64),
    AgentBoot(usize),
    Connect(usize, u64),
    Beat(usize, u64),
    RankUp(Key),
    /// The rank's process ends.
    RankGone(Key, Status),
    GangStep(Fence),
    GangTimeout(Fence, u64),
    Written(Fence),
    Leave(usize, u64),
    LinkDown(usize, [bool; 2], u64),
    /// The coordinator, in this life, tells agents to leave, and then ends; it is back after the second.
    Dismiss(u64, u64),
    Stop(u64, u64),
    /// A home is copied, and an agent started from it.
    Copy(usize, u32),
    /// Who was turned away is started again.
    Again(usize),
    Heal,
    /// Somebody looks whether all goes on.
    Tend,
}

#[derive(Debug)]
struct Due(u64, u64, Happening);

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// Longest silence in a session that the coordinator bears, as its `--grace`.
const PATIENCE: u64 = 15 * SECOND;
/// How long a broken connection takes to be noticed (HTTP/2 keep-alive).
const KEEP_ALIVE: u64 = 10 * SECOND;
/// How long ranks wait in a collective (`trainer.collective_timeout_s`).
const COLLECTIVE: u64 = 60 * SECOND;
/// Steps between checkpoints.
const EVERY: u64 = 4;
/// Tries to write a checkpoint.
const TRIES: u32 = 5;
/// After the faults have stopped, everything must be over within this time.
const PROGRESS: u64 = 4 * 3600 * SECOND;

struct World {
    now: u64,
    /// How far the clock of the coordinator's machine is ahead.
    ahead: i64,
    queue: BinaryHeap<Reverse<Due>>,
    scheduled: u64,
    rng: Rng,
    trace: Trace,
    disk: Disk,
    /// A copy of it, of some time.
    backup: Option<Disk>,
    /// What may go wrong beside the rest.
    dangers: Dangers,
    coordinator: Option<Process>,
    /// Which life of the coordinator.
    life: u64,
    /// The last of them whose history was lost.
    lost: u64,
    /// Machines; a twin of one stands behind all others.
    nodes: Vec<Node>,
    /// Agents started so far.
    agents: u64,
    net: Net,
    gangs: Gangs,
    store: ObjectStore,
    client: Client,
    truth: Truth,
    policy: Policy,
    ambush: Option<Ambush>,
    seen: Seen,
    faults: u64,
    faults_until: u64,
    healed: bool,
}

/// One life.
pub fn live(options: Options) -> Life {
    let mut world = World::new(options);
    let violation = world.run().err();
    let cluster = world.coordinator.as_ref().map(|c| &c.cluster);
    let succeeded = |r: &&morph_control::Run| matches!(r.state, RunState::Succeeded { .. });
    Life {
        seed: options.seed,
        hash: world.trace.hash(),
        faults: world.faults,
        seen: world.seen,
        runs: cluster.map_or(0, |c| c.runs.len()),
        succeeded: cluster.map_or(0, |c| c.runs.values().filter(succeeded).count()),
        events: world.disk.events,
        violation,
        trace: world.trace.into_lines(),
    }
}

impl World {
    fn new(options: Options) -> Self {
        let mut rng = Rng::keyed(options.seed, "life", 0);
        let nodes = 1 + rng.below(4);
        let worker = |n| WorkerId::new(Timestamp(n), &mut Rng::keyed(options.seed, "worker", n));
        // Together they hold the widest gang.
        let slots = |n: u64, rng: &mut Rng| 3u64.div_ceil(nodes).max(1 + rng.below(3)) as u32 + u32::from(n == 0);
        let zone = |n: u64| if n == 0 { "a" } else { "b" };
        let nodes: Vec<Node> = (0..nodes).map(|n| Node::new(worker(n), slots(n, &mut rng), zone(n))).collect();
        let minutes = 1 + rng.below(12);
        let mut policy = Policy {
            grace: Duration::from_micros(PATIENCE),
            stop_timeout: Duration::from_secs(30),
            left: minutes as usize % 3,
            ..Policy::default()
        };
        work::projects(&mut rng, &mut policy);
        let delay = [1_000, 20_000, 300_000][rng.below(3) as usize];
        Self {
            now: SECOND,
            ahead: 0,
            queue: BinaryHeap::new(),
            scheduled: 0,
            trace: Trace::new(options.trace),
            disk: Disk::default(),
            backup: None,
            dangers: Dangers::of(options.seed),
            coordinator: None,
            life: 0,
            lost: 0,
            nodes,
            agents: 0,
            net: Net::new(delay),
            gangs: Gangs::default(),
            store: ObjectStore::new([0, 20, 200][rng.below(3) as usize]),
            client: Client { by_hand: options.seed % 2 == 1, ..Client::default() },
            truth: Truth::default(),
            policy,
            ambush: None,
            seen: Seen::new(),
            faults: 0,
            faults_until: minutes * 60 * SECOND,
            healed: false,
            rng,
        }
    }

    /// What the clock of the coordinator's machine says.
    fn wall(&self) -> Timestamp {
        Timestamp(self.now.saturating_add_signed(self.ahead))
    }

    /// What the coordinator takes the time for.
    fn clock(&mut self) -> Timestamp {
        let (now, wall) = (self.now, self.wall());
        self.coordinator.as_mut().map_or(wall, |c| c.time(now, wall))
    }

    fn at(&mut self, when: u64, what: Happening) {
        self.scheduled += 1;
        self.queue.push(Reverse(Due(when.max(self.now), self.scheduled, what)));
    }

    fn after(&mut self, pause: u64, what: Happening) {
        self.at(self.now + pause, what);
    }

    fn pick(&mut self, most: u64) -> u64 {
        self.rng.below(most.max(1))
    }

    fn run(&mut self) -> Result<(), String> {
        self.at(SECOND, Happening::Boot);
        for node in 0..self.nodes.len() {
            let pause = self.pick(3 * SECOND);
            self.after(pause, Happening::AgentBoot(node));
        }
        let register = Command::RegisterDataset {
            url: work::URL.into(),
            digest: work::dataset(),
            manifest: Box::new(work::manifest()),
        };
        let number = self.client.ask(register);
        self.after(SECOND / 10, Happening::Ask(number));
        self.after(SECOND, Happening::Wish);
        let (pause, fault) = faults::next(&mut self.rng, self.nodes.len(), 15 * SECOND, self.dangers);
        self.after(pause, Happening::Fault(fault));
        self.at(self.faults_until, Happening::Heal);
        while let Some(Reverse(Due(at, _, what))) = self.queue.pop() {
            self.now = at;
            self.happen(what)?;
            if self.healed && self.is_over() {
                return invariants::at_the_end(self.coordinator.as_ref().map(|c| &c.cluster), &self.disk, &self.truth);
            }
            if self.now > self.faults_until + PROGRESS {
                let clock = self.clock();
                return Err(invariants::progress::stuck(self.coordinator.as_ref().map(|c| &c.cluster), clock));
            }
        }
        Err("progress: nothing is due any more, and not all runs are over".into())
    }

    /// Whether everything that was asked for is answered, and every run has ended.
    fn is_over(&self) -> bool {
        let Some(coordinator) = &self.coordinator else { return false };
        let answered = self.client.requests.values().all(|r| r.answered);
        let idle = !coordinator.is_busy() && coordinator.inbox.is_empty();
        answered && idle && coordinator.cluster.runs.values().all(morph_control::Run::is_over)
    }

    fn happen(&mut self, what: Happening) -> Result<(), String> {
        match what {
            Happening::Ask(number) => self.ask(number),
            Happening::Asked(number) => self.asked(number)?,
            Happening::Answered(life, number, answer) => self.answered(life, number, &answer),
            Happening::Wish => self.wish(),
            Happening::Fault(fault) => self.strike(fault)?,
            Happening::Heal => {
                invariants::of_log(&self.disk)?;
                self.heal();
            }
            Happening::Tend => self.tend(),
            Happening::ArriveUp(session, up) => self.arrive_up(session, up)?,
            Happening::ArriveDown(session, down) => self.arrive_down(session, down)?,
            Happening::BrokenBelow(session) => self.broken_below(session),
            Happening::BrokenAbove(session) => self.closed_above(session, false, false)?,
            Happening::Patience(session) => self.patience(session)?,
            Happening::Boot => self.boot()?,
            Happening::Wake(life) if life == self.life => self.enqueue(Inbox::Tick)?,
            Happening::Commit(life) if life == self.life => self.commit()?,
            Happening::Stop(life, away) if life == self.life => self.coordinator_dies(away),
            Happening::Wake(_) | Happening::Commit(_) | Happening::Stop(..) => {}
            Happening::AgentBoot(node) => self.agent_boot(node),
            Happening::Connect(node, life) => self.connect(node, life),
            Happening::Beat(node, life) => self.beat(node, life)?,
            Happening::Leave(node, life) => self.leave(node, life)?,
            Happening::LinkDown(node, ways, length) => self.link_down(node, ways, length),
            Happening::Dismiss(life, away) => self.dismiss(life, away)?,
            Happening::Copy(node, patience) => self.twin(node, patience),
            Happening::Again(node) => self.again(node),
            Happening::RankUp(key) => self.rank_up(key),
            Happening::RankGone(key, status) => self.rank_gone(key, status),
            Happening::GangStep(fence) => self.gang_step(fence)?,
            Happening::GangTimeout(fence, moved) => self.gang_timeout(fence, moved),
            Happening::Written(fence) => self.written(fence)?,
        }
        Ok(())
    }
}

mod above;
mod below;
mod ranks;
mod trouble;
