//! What is trained: small experiments and sweeps, a few of which cannot end well.

use morph_control::{Command, Exit, Policy, Project, test_use::Tested};
use morph_spec::{
    Digest, Experiment, Manifest, Rng, Sweep,
    dataset::Preprocess,
    manifest::{self, PatientIds},
};
use serde_json::{Value, json};

/// Where the only dataset lies.
pub const URL: &str = "file:///data/tiny";
/// `trainer.seed` from here on: training comes to a NaN at the step that is left when this is taken off.
const NAN: u64 = 1000;
/// The same, and it is the machine that fails, each time.
const SICK: u64 = 2000;

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
        skipped: Default::default(),
    }
}

/// Somebody scores a checkpoint by hand.
pub fn rescored(rng: &mut Rng) -> Command {
    let split = ["test", "val"][rng.below(2) as usize].to_owned();
    let tested = Tested { url: URL.into(), digest: Some(dataset()), split };
    Command::Rescored { key: None, run: None, checkpoint: "file:///c/manifest.json".into(), tests: vec![tested] }
}

/// Quotas that each leave room for the widest gang; in half of all lives there are none.
pub fn projects(rng: &mut Rng, policy: &mut Policy) {
    if rng.below(2) == 0 {
        let narrow = Project { slots: Some(3000), runs: Some(2), max_priority: 1, ..Project::default() };
        let heavy = Project { weight: 3, ..Project::default() };
        policy.projects = [("default", Project::default()), ("heavy", heavy), ("narrow", narrow)]
            .into_iter()
            .map(|(name, project)| (name.to_owned(), project))
            .collect();
    }
}

/// The step at which training with `seed` fails, and how.
pub fn doom(seed: u64) -> Option<(u64, Exit)> {
    match seed {
        SICK.. => Some((seed - SICK, Exit::Crashed)),
        NAN.. => Some((seed - NAN, Exit::User)),
        _ => None,
    }
}

/// What a rank says whose training fails.
pub fn complaint(exit: Exit) -> &'static str {
    if exit == Exit::User { "train/loss is NaN" } else { "out of memory" }
}

/// An experiment of `steps` steps, with a trainer's seed.
fn experiment(rng: &mut Rng, steps: u64, seed: u64, after: &[String]) -> Value {
    let width = 1 + rng.below(3);
    let project = ["default", "default", "heavy", "narrow"][rng.below(4) as usize];
    let mut scheduling = json!({
        "project": project, "priority": rng.below(3), "preemptible": rng.below(4) != 0,
        "min_world_size": if rng.below(4) == 0 { 1 } else { 0 },
        "slot_share": if rng.below(4) == 0 { 0.5 } else { 1.0 },
        "memory": if rng.below(4) == 0 { "2GiB" } else { "0" },
        "after": after,
    });
    if rng.below(12) == 0 {
        scheduling["time_limit"] = json!(10 + rng.below(60));
    }
    if width == 1 && rng.below(4) == 0 {
        scheduling["nodes"] = json!({"zone": "a"});
    }
    // Epochs stand for steps here.
    json!({
        "kind": "experiment", "name": "tiny", "dataset": {"url": URL},
        "model": {"method": "morphaeus", "image_size": 32, "channels": [4, 8, 8, 8]},
        "trainer": {"world_size": width, "batch_size": 8, "epochs": steps, "seed": seed}, "scheduling": scheduling,
    })
}

fn parsed(experiment: Value) -> Experiment {
    serde_json::from_value(experiment).expect("invariant: it is an experiment")
}

/// Something to train, which may wait for one of `earlier`.
pub fn run(rng: &mut Rng, earlier: &[String]) -> Experiment {
    let steps = 5 + rng.below(40);
    let seed = match rng.below(16) {
        0 => NAN + rng.below(steps),
        1 => SICK + rng.below(steps),
        _ => 0,
    };
    let after = match earlier.len() as u64 {
        n if n > 0 && rng.below(6) == 0 => vec![earlier[rng.below(n) as usize].clone()],
        _ => Vec::new(),
    };
    parsed(experiment(rng, steps, seed, &after))
}

/// Something that goes before all others, on as many slots as a gang may have.
pub fn urgent(rng: &mut Rng) -> Experiment {
    let mut experiment = experiment(rng, 6, 0, &[]);
    experiment["trainer"]["world_size"] = json!(3);
    experiment["scheduling"] = json!({"priority": 9, "preemptible": false, "project": "default"});
    parsed(experiment)
}

/// A sweep by this name.
pub fn sweep(rng: &mut Rng, name: &str) -> Sweep {
    // Of some all runs fail, and for the same cause.
    let first = if rng.below(4) == 0 { NAN + 2 } else { 1 };
    let sweep = json!({
        "kind": "sweep", "name": name, "method": "grid",
        "experiment": experiment(rng, 12, 0, &[]), "metric": {"name": "high", "goal": "maximize"},
        "parameters": {"trainer.seed": {"values": [first, first + 1, first + 2, first + 3]}}, "max_parallel": rng.below(3),
    });
    serde_json::from_value(sweep).expect("invariant: it is a sweep")
}
