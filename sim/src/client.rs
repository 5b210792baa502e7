//! What people do: submit, submit the same again, cancel, pause, resume, retry, cordon. A request that is not answered is
//! sent again under the same key.

use std::collections::BTreeMap;

use morph_control::{Command, Target};
use morph_spec::{
    Digest, Experiment, Manifest, Rng, RunId, WorkerId,
    dataset::Preprocess,
    manifest::{self, PatientIds},
};
use serde_json::json;

/// Where the only dataset lies.
pub const URL: &str = "file:///data/tiny";

/// The dataset's digest.
pub fn dataset() -> Digest {
    Digest::of(b"manifest")
}

/// The dataset's manifest.
pub fn manifest() -> Manifest {
    let labels = |normal: u64, sick: u64| [("Normal".to_owned(), normal), ("Lung Opacity".to_owned(), sick)].into();
    Manifest {
        version: manifest::VERSION,
        name: "tiny".into(),
        preprocess: Preprocess { size: 32, ..Preprocess::default() },
        fingerprint: dataset(),
        image_size: [32, 32],
        shards: Vec::new(),
        counts: [
            ("train".to_owned(), labels(80, 0)),
            ("val".to_owned(), labels(10, 0)),
            ("test".to_owned(), labels(10, 20)),
        ]
        .into(),
        patient_ids: PatientIds::Image,
        synthetic: true,
        skipped: BTreeMap::new(),
    }
}

/// An experiment of `steps` steps.
fn experiment(rng: &mut Rng, steps: u64) -> Experiment {
    let width = 1 + rng.below(3);
    let scheduling = json!({
        "priority": rng.below(3), "preemptible": rng.below(4) != 0,
        "min_world_size": if rng.below(4) == 0 { 1 } else { 0 },
        "slot_share": if rng.below(4) == 0 { 0.5 } else { 1.0 },
    });
    // Epochs stand for steps here.
    let experiment = json!({
        "kind": "experiment", "name": "tiny", "dataset": {"url": URL},
        "model": {"method": "morphaeus", "image_size": 32, "channels": [4, 8, 8, 8]},
        "trainer": {"world_size": width, "batch_size": 8, "epochs": steps}, "scheduling": scheduling,
    });
    serde_json::from_value(experiment).expect("invariant: it is an experiment")
}

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

    /// Something that somebody may want: about one of `runs`, or new.
    pub fn wish(&mut self, rng: &mut Rng, runs: &[RunId], workers: &[WorkerId]) -> Command {
        let n = self.requests.len();
        let run = (!runs.is_empty()).then(|| Target::Run(runs[rng.below(runs.len().max(1) as u64) as usize]));
        match (rng.below(20), run) {
            (0, Some(run)) => Command::Cancel(run),
            (1 | 2, Some(run)) => Command::Pause(run),
            (3 | 4, Some(run)) => Command::Resume(run),
            (5, Some(run)) => Command::Retry(run),
            (6, _) => {
                let worker = workers[rng.below(workers.len() as u64) as usize];
                Command::Cordon { worker, reason: "fans".into(), drain: rng.below(2) == 0 }
            }
            (7, _) => Command::Uncordon(workers[rng.below(workers.len() as u64) as usize]),
            (8, _) => {
                let sweep = json!({
                    "kind": "sweep", "name": format!("s{n}"), "method": "grid",
                    "experiment": experiment(rng, 12), "metric": {"name": "high", "goal": "maximize"},
                    "parameters": {"trainer.seed": {"values": [1, 2, 3]}}, "max_parallel": rng.below(3),
                });
                let sweep = Box::new(serde_json::from_value(sweep).expect("invariant: it is a sweep"));
                Command::SubmitSweep { key: format!("k{n}"), sweep, datasets: [(URL.to_owned(), dataset())].into() }
            }
            // The same again: nothing new comes of it.
            (9, _) if n > 0 => {
                let submitted = self.requests.values().filter(|r| r.key.is_some());
                let all: Vec<&Command> = submitted.map(|r| &r.command).collect();
                match all.get(rng.below(all.len().max(1) as u64) as usize) {
                    Some(command) => (*command).clone(),
                    None => Command::Tick,
                }
            }
            _ => {
                let steps = 5 + rng.below(40);
                let experiment = Box::new(experiment(rng, steps));
                Command::SubmitRun { key: format!("k{n}"), name: String::new(), experiment, dataset: dataset() }
            }
        }
    }
}
