//! The number of ranks does not change the method: two ranks train as one does, for both norm modes, in f64.

use morph_data::sampler::share;
use morph_model::{At, Keyed, Method, Optimizers, Statistics, Step, build};
use morph_spec::Experiment;
use morph_worker::rank::{
    group::Group,
    updates::{Reducers, Shared},
};
use tch::{Device, Kind, Tensor};

use crate::{both, group};

/// Not divisible by two ranks evenly in every step: shares of 4 and 3.
const BATCH: i64 = 7;

fn experiment(norm_mode: &str) -> Experiment {
    serde_json::from_value(serde_json::json!({
        "kind": "experiment", "name": "t", "dataset": {"url": "none"},
        "model": {
            "method": "morphaeus", "image_size": 32, "channels": [4, 8, 8, 8], "refine_channels": 8, "norm_mode": norm_mode,
        },
        "trainer": {
            "world_size": 2,
            "optimizer": {"lr": 1e-3},
            "loss": {"morph": {"start_epoch": 2, "beta_epochs": 4}, "perceptual": {"weight": 0.05, "weights": "random"}},
        },
    }))
    .unwrap()
}

pub(crate) struct Training {
    method: Box<dyn Method>,
    optimizers: Optimizers,
    reducers: Reducers,
    steps: u64,
}

impl Training {
    pub(crate) fn new(experiment: &Experiment) -> Self {
        let method = build(&experiment.model, &experiment.trainer, None, Device::Cpu, Kind::Double).unwrap();
        let optimizers = Optimizers::new(method.as_ref(), &experiment.trainer.optimizer);
        Self { method, optimizers, reducers: Reducers::default(), steps: 0 }
    }

    pub(crate) fn step(&mut self, epoch: u32, images: &Tensor, group: &Group) -> f64 {
        let mine = share(images.size()[0] as usize, group.rank(), group.world());
        let x = images.narrow(0, mine.start as i64, mine.len() as i64);
        self.reducers.arm(group, self.method.as_ref(), epoch).unwrap();
        let weight = mine.len() as f64 * f64::from(group.world()) / images.size()[0] as f64;
        let mut draws = Keyed::new(7, format!("step {}", self.steps), mine.start as u64..mine.end as u64);
        let mut updates = Shared { optimizers: &mut self.optimizers, reducers: &self.reducers, weight };
        let at = At { epoch, step: self.steps, validated: 0 };
        self.steps += 1;
        let step = &mut Step { at, stats: group, draws: &mut draws, updates: &mut updates };
        self.method.step(&x, step).unwrap().total.double_value(&[])
    }

    pub(crate) fn tensors(&self) -> Vec<(String, Tensor)> {
        self.method.parameters().into_iter().chain(self.method.buffers()).collect()
    }
}

pub(crate) fn images(step: i64) -> Tensor {
    tch::manual_seed(100 + step);
    Tensor::rand([BATCH, 1, 32, 32], (Kind::Double, Device::Cpu))
}

pub(crate) fn hash(tensors: &[(String, Tensor)]) -> String {
    let mut h = 0xcbf2_9ce4_8422_2325u64;
    for (_, t) in tensors {
        for v in Vec::<f64>::try_from(t.detach().to_kind(Kind::Double).flatten(0, -1)).unwrap() {
            h = (h ^ v.to_bits()).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{h:x}")
}

/// Trains the same network over both ranks and alone on the whole batches, through warm-up and beyond.
fn two_are_one(test: &str, norm_mode: &str) {
    tch::set_num_threads(1);
    let Some(group) = group() else {
        let said = both(test, &[]);
        assert_eq!(said[0], said[1], "the ranks are the same to the bit");
        return;
    };
    let experiment = experiment(norm_mode);
    let solo = Group::solo();
    let (mut shared, mut alone) = (Training::new(&experiment), Training::new(&experiment));
    let before = hash(&alone.tensors());
    for step in 0..8u32 {
        let x = images(i64::from(step));
        shared.step(step / 2, &x, &group);
        alone.step(step / 2, &x, &solo);
    }
    for ((name, a), (_, b)) in shared.tensors().iter().zip(&alone.tensors()) {
        let apart = (a - b).abs().max().double_value(&[]);
        assert!(apart < 1e-9, "{name} is apart by {apart:e} after 8 steps with lr 1e-3");
    }
    assert_ne!(before, hash(&alone.tensors()), "it did train");
    println!("<{}>", hash(&shared.tensors()));
}

#[test]
fn two_ranks_are_one_with_batch_norm_over_the_global_batch() {
    two_are_one("one_method::two_ranks_are_one_with_batch_norm_over_the_global_batch", "batch");
}

#[test]
fn two_ranks_are_one_with_frozen_batch_norm() {
    two_are_one("one_method::two_ranks_are_one_with_frozen_batch_norm", "frozen");
}

#[test]
fn without_sync_two_ranks_are_not_one() {
    tch::set_num_threads(1);
    let mut experiment = experiment("batch");
    experiment.model.sync = false;
    let losses = |x: &Tensor| Training::new(&experiment).step(0, x, &Group::solo());
    let x = images(0);
    let halves = (losses(&x.narrow(0, 0, 4)) * 4.0 + losses(&x.narrow(0, 4, 3)) * 3.0) / 7.0;
    assert!((halves - losses(&x)).abs() > 1e-6, "statistics of half a batch are others: this is what sync is for");
}

#[test]
fn one_rank_is_its_own_world() {
    let solo = Group::solo();
    assert_eq!((Statistics::rank(&solo), Statistics::world(&solo)), (0, 1));
}
