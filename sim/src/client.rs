//! What people do: submit, submit the same again, cancel, pause, resume, retry, cordon; and what makes no sense. A request
//! that is not answered is sent again under the same key.

use std::collections::BTreeMap;

use morph_control::{Cluster, Command, Target};
use morph_spec::{Digest, Rng, RunId, Timestamp, WorkerId};

use crate::work;

/// A request: a wish, sent until it is answered.
#[derive(Debug)]
pub struct Request {
    pub command: Command,
    /// The key of a submission.
    pub key: Option<String>,
    pub answered: bool,
}

/// All that was asked for.
#[derive(Debug, Default)]
pub struct Client {
    pub requests: BTreeMap<u64, Request>,
    /// Whether checkpoints are scored by hand.
    pub by_hand: bool,
}

impl Client {
    /// Notes a wish; its number.
    pub fn ask(&mut self, command: Command) -> u64 {
        let key = match &command {
            Command::SubmitRun { key, .. } | Command::SubmitSweep { key, .. } => Some(key.clone()),
            _ => None,
        };
        let number = self.requests.len() as u64;
        self.requests.insert(number, Request { command, key, answered: false });
        number
    }

    /// A key that no submission has.
    fn key(&self) -> String {
        format!("k{}", self.requests.len())
    }

    /// Something that somebody may want, who sees `cluster`.
    pub fn wish(&self, rng: &mut Rng, cluster: &Cluster, workers: &[WorkerId]) -> Command {
        let worker = workers[rng.below(workers.len() as u64) as usize];
        match rng.below(24) {
            n @ 0..=6 => match self.target(rng, cluster) {
                Some(target) => match n {
                    0 => Command::Cancel(target),
                    1 | 2 => Command::Pause(target),
                    3 | 4 => Command::Resume(target),
                    _ => Command::Retry(target),
                },
                None => self.run(rng, cluster),
            },
            7 => Command::Cordon { worker, reason: "fans".into(), drain: rng.below(2) == 0 },
            8 => Command::Uncordon(worker),
            9 | 10 => self.sweep(rng),
            11 => self.again(rng),
            12 if self.by_hand && rng.below(4) == 0 => work::rescored(rng),
            12 => self.nonsense(rng),
            _ => self.run(rng, cluster),
        }
    }

    /// A run or sweep that is there.
    fn target(&self, rng: &mut Rng, cluster: &Cluster) -> Option<Target> {
        let sweeps = if rng.below(4) == 0 { cluster.sweeps.len() as u64 } else { 0 };
        if sweeps > 0 {
            return cluster.sweeps.keys().nth(rng.below(sweeps) as usize).map(|id| Target::Sweep(*id));
        }
        let runs = cluster.order.len() as u64;
        (runs > 0).then(|| Target::Run(cluster.order[rng.below(runs) as usize]))
    }

    fn run(&self, rng: &mut Rng, cluster: &Cluster) -> Command {
        let earlier: Vec<String> = cluster.order.iter().map(RunId::to_string).collect();
        let experiment = Box::new(work::run(rng, &earlier));
        Command::SubmitRun { key: self.key(), name: String::new(), experiment, dataset: work::dataset() }
    }

    /// A run that goes before all others.
    pub fn urgent(&self, rng: &mut Rng) -> Command {
        let experiment = Box::new(work::urgent(rng));
        Command::SubmitRun { key: self.key(), name: String::new(), experiment, dataset: work::dataset() }
    }

    fn sweep(&self, rng: &mut Rng) -> Command {
        let sweep = Box::new(work::sweep(rng, &format!("s{}", self.requests.len())));
        Command::SubmitSweep { key: self.key(), sweep, datasets: [(work::URL.to_owned(), work::dataset())].into() }
    }

    /// The same again: nothing new comes of it.
    fn again(&self, rng: &mut Rng) -> Command {
        let all: Vec<&Command> = self.requests.values().filter(|r| r.key.is_some()).map(|r| &r.command).collect();
        all.get(rng.below(all.len().max(1) as u64) as usize).map_or(Command::Tick, |c| (*c).clone())
    }

    /// What is refused: what is not there, what is not known, a name that is taken.
    fn nonsense(&self, rng: &mut Rng) -> Command {
        let (key, experiment) = (self.key(), Box::new(work::run(rng, &[])));
        match rng.below(3) {
            0 => Command::Cancel(Target::Run(RunId::new(Timestamp(7), rng))),
            1 => Command::SubmitRun { key, name: String::new(), experiment, dataset: Digest::of(b"another") },
            _ => Command::SubmitRun { key, name: "mine".into(), experiment, dataset: work::dataset() },
        }
    }
}
