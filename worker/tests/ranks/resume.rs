//! A run that was interrupted anywhere ends in the very bits of one that was not, with two ranks; and scores are the same
//! bits with two ranks as with one.

use std::{env, path::Path, sync::Arc};

use morph_data::{Meta, manifest, shard::Writer};
use morph_model::{At, Keyed};
use morph_objects::Objects;
use morph_scores::evaluation::Scored;
use morph_spec::{
    Augment, Digest, Experiment, Manifest,
    manifest::{PatientIds, Shard, VERSION},
};
use morph_worker::{
    evaluate::{self, Outcome, Scene},
    rank::{
        self,
        events::Events,
        foreign,
        group::{Group, Place},
        images::{Dataset, Sets, tensor, values},
        orders::Orders,
        progress::Position,
        saver::Saver,
        snapshot::{self, Net, Provenance},
        trainer::{Bench, End, Trainer},
    },
};
use tch::{Device, Kind};
use tokio::runtime::Runtime;

use crate::{both, group};

pub(crate) const SIDE: u32 = 32;
/// Five batches of 5, 5, 5, 5 and 2: the ranks' shares differ in size.
const TRAIN: u32 = 22;
pub(crate) const PLACE: Place = Place { device: Device::Cpu, kind: Kind::Float };

pub(crate) fn experiment(folder: &Path) -> Experiment {
    serde_json::from_value(serde_json::json!({
        "kind": "experiment", "name": "t", "dataset": {"url": folder.join("data").display().to_string()},
        "model": {"method": "morphaeus", "image_size": SIDE, "channels": [4, 8, 8, 8], "refine_channels": 8},
        "trainer": {
            "world_size": 2, "epochs": 3, "batch_size": 5, "drop_last": false, "device": "cpu",
            "optimizer": {"lr": 1e-3},
            "loss": {"morph": {"start_epoch": 1, "beta_epochs": 4}},
            "checkpoint": {"every_steps": 2, "keep_last": 2},
        },
        "evaluation": {"batch_size": 3, "panel_cases": 1},
    }))
    .unwrap()
}

/// Writes a small dataset of noise.
pub(crate) async fn write_dataset(folder: &Path) {
    write_noise(&folder.join("data"), SIDE).await;
}

/// The same of images of `side` pixels, into `folder` itself.
pub(crate) async fn write_noise(folder: &Path, side: u32) {
    let data = Objects::open(&folder.display().to_string()).unwrap();
    let mut rng = morph_spec::Rng::keyed(5, "noise", 0);
    let mut splits = Vec::new();
    for (split, samples) in [("train", TRAIN), ("val", 7), ("test", 14)] {
        let mut all = Vec::new();
        for i in 0..samples {
            let image: Vec<u8> = (0..side * side).map(|_| rng.next_u64() as u8).collect();
            let sick = split == "test" && i % 2 == 1;
            let meta = Meta {
                id: format!("{split}-{i}"),
                patient: format!("{split}-{i}"),
                label: if sick { "Lung Opacity" } else { "Normal" }.into(),
                view: Some(if i % 3 == 0 { "AP" } else { "PA" }.into()),
                sex: None,
                age: None,
                boxes: Vec::new(),
                source: format!("{i}.dcm"),
                digest: Digest::of(&image),
            };
            all.push((image, meta));
        }
        splits.push((split, all));
    }
    store(&data, "noise", splits, PatientIds::Image).await;
}

/// Images and what is known of them.
pub(crate) type Split = Vec<(Vec<u8>, Meta)>;

/// Writes a dataset of these splits, whose images are square.
pub(crate) async fn store(data: &Objects, name: &str, splits: Vec<(&str, Split)>, patient_ids: PatientIds) {
    let mut shards = Vec::new();
    let side = (splits[0].1[0].0.len() as u32).isqrt();
    for (split, samples) in splits {
        let mut writer = Writer::new(side, side);
        let count = samples.len() as u64;
        for (image, meta) in samples {
            writer.push(&image, meta);
        }
        let labels = writer.labels();
        let bytes = writer.finish().unwrap();
        let file = format!("{split}.arrow");
        shards.push(Shard {
            file: file.clone(),
            split: split.into(),
            samples: count,
            bytes: bytes.len() as u64,
            blake3: Digest::of(&bytes),
            labels,
        });
        data.put(&file, bytes.into()).await.unwrap();
    }
    let manifest = Manifest {
        version: VERSION,
        name: name.into(),
        preprocess: morph_spec::dataset::Preprocess { size: side, ..Default::default() },
        fingerprint: Digest::of(name.as_bytes()),
        image_size: [side, side],
        counts: shards.iter().map(|s| (s.split.clone(), s.labels.clone())).collect(),
        shards,
        patient_ids,
        synthetic: true,
        skipped: Default::default(),
    };
    manifest::commit(data, &manifest).await.unwrap();
}

pub(crate) struct Rank {
    pub(crate) group: Group,
    pub(crate) experiment: Experiment,
    runtime: Runtime,
    pub(crate) sets: Sets,
    digest: Digest,
    pub(crate) output: Objects,
}

impl Rank {
    pub(crate) fn new(group: Group, folder: &Path) -> Self {
        Self::of(group, experiment(folder), folder)
    }

    /// A rank that trains `experiment`, with its cache and its checkpoints in `folder`.
    pub(crate) fn of(group: Group, experiment: Experiment, folder: &Path) -> Self {
        rank::set_up(1, Device::Cpu).unwrap();
        let runtime = rank::runtime().unwrap();
        let cache = folder.join("cache");
        let dataset = runtime.block_on(Dataset::open(&experiment.dataset.url, None, &cache, 1 << 30)).unwrap();
        let sets = runtime.block_on(dataset.sets(&experiment)).unwrap();
        let output = Objects::open(&folder.join("checkpoints").display().to_string()).unwrap();
        Self { group, experiment, runtime, sets, digest: dataset.digest, output }
    }

    /// Trains as attempt `attempt`, from the checkpoint `from` if there is one, as a rank's process does.
    pub(crate) fn train(&self, attempt: u32, from: Option<&str>, orders: &Orders) -> (End, Net, Position) {
        let mut net = rank::build(&self.experiment, PLACE, &self.runtime).unwrap();
        let experiment = serde_json::to_value(&self.experiment).unwrap();
        let provenance = Provenance { experiment, dataset: self.digest, world: 2 };
        let at = match from {
            Some(name) => {
                let url = self.output.at(name).url_of(morph_checkpoint::MANIFEST);
                let saved = self.runtime.block_on(morph_checkpoint::load(&url, None)).unwrap();
                snapshot::restore(&mut net, &saved, &provenance).unwrap()
            }
            None => foreign::begin(&mut net, &self.experiment, &self.runtime).unwrap(),
        };
        let events = Arc::new(Events::silent());
        let saver = (self.group.rank() == 0).then(|| {
            let handle = self.runtime.handle().clone();
            Saver::new(handle, self.output.clone(), attempt, 2, Vec::new(), Arc::clone(&events))
        });
        orders.begin_training().ok();
        let bench = Bench {
            experiment: &self.experiment,
            sets: &self.sets,
            group: &self.group,
            place: PLACE,
            orders,
            events: &events,
            provenance: &provenance,
        };
        let mut trainer = Trainer::new(bench, net, at, saver);
        let end = trainer.train().unwrap();
        let (net, at, _) = trainer.into_parts();
        (end, net, at)
    }

    /// Everything in which a resumed run could differ, as one text.
    pub(crate) fn state(net: &Net, at: &Position) -> String {
        let provenance = Provenance { experiment: serde_json::Value::Null, dataset: Digest::of(b""), world: 2 };
        let mut taken = snapshot::take(net, at, &provenance).unwrap();
        // The only thing that rank 0 alone knows, and that names the attempt.
        if let Some(best) = &mut taken.state.best {
            best.url.clear();
        }
        let mut bytes = serde_json::to_vec(&taken.state).unwrap();
        for (name, tensor) in &taken.tensors {
            bytes.extend(name.bytes());
            bytes.extend(&tensor.bytes);
        }
        format!("step {} {}", at.step, Digest::of(&bytes))
    }

    /// The validation score of `net` as this rank computes it alone.
    fn judged(&self, net: &Net) -> f64 {
        let (set, size) = (&self.sets.validation, self.experiment.evaluation.batch_size as usize);
        let score = |start: usize| {
            let images = start as u64..set.len().min(start + size) as u64;
            let x = tensor(set, images.clone(), PLACE);
            let mut draws = Keyed::new(0, "none", images);
            values(&net.method.validation_score(&x, At::default(), &mut draws).unwrap()).unwrap()
        };
        let scores: Vec<f64> = (0..set.len()).step_by(size).flat_map(score).collect();
        scores.iter().sum::<f64>() / scores.len() as f64
    }

    /// The scores of `net` by the ranks of `group`; rank 0 has them.
    pub(crate) fn score(&self, net: &Net, group: &Group) -> Option<Outcome> {
        let scene = Scene {
            experiment: &self.experiment,
            test: &self.sets.test,
            validation: &self.sets.validation,
            leakage: None,
            lpips: None,
            fid: None,
            inputs: &net.inputs,
            group,
            place: PLACE,
            orders: &Orders::default(),
            runtime: &self.runtime,
        };
        evaluate::score(&scene, net.method.as_ref(), Scored::default()).unwrap().unwrap()
    }

    /// The scores by both ranks are those by this one alone, bit for bit.
    pub(crate) fn assert_scores_do_not_depend_on_ranks(&self, net: &Net) {
        let shared = self.score(net, &self.group);
        assert_eq!(shared.is_some(), self.group.rank() == 0, "rank 0 has the scores of all");
        if let Some(shared) = shared {
            let alone = self.score(net, &Group::solo()).unwrap();
            assert_eq!(shared.files().unwrap(), alone.files().unwrap(), "every artifact, byte by byte");
            assert_eq!(shared.evaluation.summary(), alone.evaluation.summary());
        }
    }
}

/// In a rank's process: what the phase named by `T_PHASE` asks for.
fn rank_main(group: Group) -> String {
    let folder = env::var_os("T_FOLDER").unwrap();
    let mut rank = Rank::new(group, Path::new(&folder));
    // What an image becomes is the same after any stop, too.
    rank.experiment.trainer.augment = Augment { flip: 0.5, rotate: 5.0, noise: 0.02, ..Augment::default() };
    let phase = env::var("T_PHASE").unwrap();
    let (attempt, orders) = (env::var("T_ATTEMPT").unwrap().parse().unwrap(), Orders::default());
    match phase.as_str() {
        "through" => {
            let (end, net, at) = rank.train(attempt, None, &orders);
            assert_eq!((end, at.step, at.epoch), (End::Finished, 15, 3));
            rank.assert_scores_do_not_depend_on_ranks(&net);
            Rank::state(&net, &at)
        }
        "stop" => {
            // One rank is told, both stop after the same step.
            if rank.group.rank() == 1 {
                orders.request_stop();
            }
            let (end, _, at) = rank.train(attempt, None, &orders);
            assert_eq!(end, End::Stopped);
            format!("step {} batch {}", at.step, at.batch)
        }
        from => {
            let (end, net, at) = rank.train(attempt, Some(from), &orders);
            assert_eq!(end, End::Finished);
            Rank::state(&net, &at)
        }
    }
}

#[test]
fn two_ranks_go_on_from_the_middle_of_an_epoch_to_the_same_bits() {
    if let Some(group) = group() {
        println!("<{}>", rank_main(group));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    rank::runtime().unwrap().block_on(write_dataset(folder.path()));
    let run = |phase: &str, attempt: &str| {
        let variables = [("T_FOLDER", folder.path().to_str().unwrap()), ("T_PHASE", phase), ("T_ATTEMPT", attempt)];
        both("resume::two_ranks_go_on_from_the_middle_of_an_epoch_to_the_same_bits", &variables)
    };
    let through = run("through", "1");
    assert_eq!(through[0], through[1], "the ranks are the same to the bit");
    assert_eq!(run("stop", "2"), ["step 1 batch 1", "step 1 batch 1"]);
    // Where an order stopped it; where kill -9 could have: in the warm-up, after it, and in the last epoch.
    for from in ["step-00000001-a2", "step-00000002-a1", "step-00000008-a1", "step-00000014-a1"] {
        assert_eq!(run(from, "3"), through, "resumed from {from}");
        // What this attempt saved is of no more use, and the next has the same name.
        for entry in std::fs::read_dir(folder.path().join("checkpoints")).unwrap() {
            let path = entry.unwrap().path();
            if path.to_str().unwrap().ends_with("-a3") {
                std::fs::remove_dir_all(path).unwrap();
            }
        }
    }
}

#[test]
fn the_network_that_is_judged_is_the_one_that_is_saved() {
    const TEST: &str = "resume::the_network_that_is_judged_is_the_one_that_is_saved";
    if let Some(group) = group() {
        let folder = env::var_os("T_FOLDER").unwrap();
        let mut rank = Rank::new(group, Path::new(&folder));
        // As DDP without synchronised BatchNorm: each rank has statistics of its own images, and rank 0's are saved.
        rank.experiment.model.sync = false;
        rank.experiment.trainer.epochs = 1;
        let (_, net, at) = rank.train(1, None, &Orders::default());
        assert_eq!(at.best.as_ref().unwrap().score, rank.judged(&net), "whichever rank computed it");
        println!("<{}>", Rank::state(&net, &at));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    rank::runtime().unwrap().block_on(write_dataset(folder.path()));
    let said = both(TEST, &[("T_FOLDER", folder.path().to_str().unwrap())]);
    assert_eq!(said[0], said[1], "the ranks are the same to the bit");
}

#[test]
fn the_best_network_is_one_that_was_trained_to_deform() {
    let folder = tempfile::tempdir().unwrap();
    rank::runtime().unwrap().block_on(write_dataset(folder.path()));
    let mut rank = Rank::new(Group::solo(), folder.path());
    // Five steps an epoch; the deformation counts from the third epoch on. No score is better than another by so much.
    rank.experiment.trainer.loss.morph.start_epoch = 2;
    rank.experiment.trainer.early_stopping.min_delta = 1e6;
    let mut judged = |attempt: u32, epochs: u32, anew: bool| {
        rank.experiment.trainer.epochs = epochs;
        rank.experiment.trainer.early_stopping.anew = anew;
        let (end, _, at) = rank.train(attempt, None, &Orders::default());
        assert_eq!(end, End::Finished);
        let best = at.best.unwrap();
        assert_eq!(at.early_stopping.best, Some(best.score));
        (best.step, at.early_stopping.epochs_since)
    };
    assert_eq!(judged(1, 4, false), (5, 3), "the published code: a network that cannot deform");
    assert_eq!(judged(2, 4, true), (15, 1), "the first of those that were trained to deform, and patience from there");
    assert_eq!(judged(3, 2, true), (5, 1), "where none was, the best of the others");
}
