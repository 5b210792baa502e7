//! The number of ranks does not change the method: two ranks train as one does, for both norm modes, in f64.

use morph_collective::{Ddp, DdpOptions, backward};
use morph_data::sampler::share;
use morph_model::{Adam, Method, Statistics, build};
use morph_spec::Experiment;
use morph_worker::rank::group::Group;
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

struct Training {
    method: Box<dyn Method>,
    adam: Adam,
    ddp: Option<Ddp>,
    epochs_with_morph: bool,
}

impl Training {
    fn new(experiment: &Experiment) -> Self {
        let (model, loss) = (&experiment.model, &experiment.trainer.loss);
        let method = build(model, loss, None, Device::Cpu, Kind::Double, 7).unwrap();
        let adam = Adam::new(&method.parameters(), &experiment.trainer.optimizer);
        Self { method, adam, ddp: None, epochs_with_morph: true }
    }

    fn step(&mut self, epoch: u32, start_epoch: u32, images: &Tensor, group: &Group) {
        let mine = share(images.size()[0] as usize, group.rank(), group.world());
        let x = images.narrow(0, mine.start as i64, mine.len() as i64);
        let with_morph = epoch >= start_epoch;
        if let Some(reducer) = group.reducer()
            && (self.ddp.is_none() || with_morph != self.epochs_with_morph)
        {
            self.ddp = None;
            let parameters: Vec<Tensor> = self.method.parameters().into_iter().map(|(_, t)| t).collect();
            let options = DdpOptions { find_unused: !with_morph, ..DdpOptions::default() };
            self.ddp = Some(Ddp::new(reducer, &parameters, options).unwrap());
            self.epochs_with_morph = with_morph;
        }
        if let Some(ddp) = &self.ddp {
            ddp.before_forward().unwrap();
        }
        let losses = self.method.losses(&x, epoch, group).unwrap();
        let total = losses.total * (mine.len() as f64 * f64::from(group.world()) / images.size()[0] as f64);
        match &self.ddp {
            Some(ddp) => ddp.backward(&total).unwrap(),
            None => backward(&total).unwrap(),
        }
        self.adam.step().unwrap();
        self.adam.zero_grad();
    }

    fn tensors(&self) -> Vec<(String, Tensor)> {
        self.method.parameters().into_iter().chain(self.method.buffers()).collect()
    }
}

fn images(step: i64) -> Tensor {
    tch::manual_seed(100 + step);
    Tensor::rand([BATCH, 1, 32, 32], (Kind::Double, Device::Cpu))
}

fn hash(tensors: &[(String, Tensor)]) -> String {
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
    let start_epoch = experiment.trainer.loss.morph.start_epoch;
    let solo = Group::solo();
    let (mut shared, mut alone) = (Training::new(&experiment), Training::new(&experiment));
    let before = hash(&alone.tensors());
    for step in 0..8u32 {
        let x = images(i64::from(step));
        shared.step(step / 2, start_epoch, &x, &group);
        alone.step(step / 2, start_epoch, &x, &solo);
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
    let losses = |x: &Tensor| {
        let training = Training::new(&experiment);
        training.method.losses(x, 0, &Group::solo()).unwrap().total.double_value(&[])
    };
    let x = images(0);
    let halves = (losses(&x.narrow(0, 0, 4)) * 4.0 + losses(&x.narrow(0, 4, 3)) * 3.0) / 7.0;
    assert!((halves - losses(&x)).abs() > 1e-6, "statistics of half a batch are others: this is what sync is for");
}

#[test]
fn one_rank_is_its_own_world() {
    let solo = Group::solo();
    assert_eq!((Statistics::rank(&solo), Statistics::world(&solo)), (0, 1));
}
