//! What holds of the whole network, however a batch is shared out. In f64, where equal means equal to 12 digits.

use std::{
    sync::{Barrier, Mutex},
    thread,
};

use morph_spec::experiment as spec;
use tch::{Device, Kind, Tensor};

use super::{apart, off, one_thread};
use crate::{
    At, Error, Keyed, Losses, Method, Morphaeus, Norm, Solo, Statistics,
    methods::morphaeus::{identity, integrate, warp},
    script::Means,
    vgg::Vgg,
};

const IMAGES: i64 = 5;

fn model(norm_mode: &str) -> spec::Model {
    serde_json::from_value(serde_json::json!({
        "method": "morphaeus", "image_size": 32, "channels": [4, 8, 8, 8], "refine_channels": 8, "norm_mode": norm_mode,
    }))
    .unwrap()
}

fn loss() -> spec::Loss {
    serde_json::from_value(serde_json::json!({
        "perceptual": {"weight": 0.05, "weights": "random"}, "morph": {"start_epoch": 1, "beta_epochs": 4},
    }))
    .unwrap()
}

fn network(model: &spec::Model) -> Morphaeus {
    let vgg = Vgg::random(Device::Cpu, Kind::Double, 1);
    let network = Morphaeus::new(model, loss(), Some(vgg), Device::Cpu, Kind::Double, 3);
    // A flow that moves something, or the deformer is hardly tested.
    tch::no_grad(|| {
        for (name, t) in network.parameters() {
            if name == "deformer.flow.weight" {
                let _ = t.shallow_clone().f_mul_scalar_(3000.0).unwrap();
            }
        }
    });
    network
}

fn images() -> Tensor {
    tch::manual_seed(11);
    Tensor::rand([IMAGES, 1, 32, 32], (Kind::Double, Device::Cpu))
}

/// Two ranks in one process and one graph: each waits for the other's summand, and both get the sum of the two. A backward
/// through both losses is what two ranks do with a differentiable all-reduce.
struct Pair {
    summands: [Mutex<Option<Tensor>>; 2],
    meet: Barrier,
}

struct Half<'a> {
    pair: &'a Pair,
    rank: usize,
}

impl Statistics for Half<'_> {
    fn rank(&self) -> u32 {
        self.rank as u32
    }
    fn world(&self) -> u32 {
        2
    }
    fn all_reduce_sum(&self, t: &Tensor) -> Result<Tensor, Error> {
        *self.pair.summands[self.rank].lock().unwrap() = Some(t.shallow_clone());
        self.pair.meet.wait();
        let take = |i: usize| self.pair.summands[i].lock().unwrap().as_ref().unwrap().shallow_clone();
        let sum = take(0) + take(1);
        self.pair.meet.wait();
        Ok(sum)
    }
}

/// The losses of the two shares of `x`, computed side by side by two copies of the network.
fn halves(model: &spec::Model, x: &Tensor, first: i64) -> Vec<(Losses, Morphaeus, f64)> {
    let pair = Pair { summands: [Mutex::new(None), Mutex::new(None)], meet: Barrier::new(2) };
    let shares = [x.narrow(0, 0, first), x.narrow(0, first, IMAGES - first)];
    thread::scope(|scope| {
        let run = |(rank, (network, share)): (usize, (Morphaeus, Tensor))| {
            let pair = &pair;
            scope.spawn(move || {
                let losses = network.losses(&share, 2, &Half { pair, rank }).unwrap();
                (losses, network, share.size()[0] as f64 / IMAGES as f64)
            })
        };
        let threads: Vec<_> = shares.map(|share| (network(model), share)).into_iter().enumerate().map(run).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

fn two_halves_are_the_whole(norm_mode: &str) {
    one_thread();
    let (model, x) = (model(norm_mode), images());
    let whole = network(&model);
    let total = whole.losses(&x, 2, &Solo).unwrap().total;
    total.backward();
    for first in [2, 4] {
        let halves = halves(&model, &x, first);
        let sum = halves.iter().map(|(losses, _, weight)| &losses.total * *weight).reduce(|a, b| a + b).unwrap();
        assert!(apart(&sum, &total) < 1e-12);
        sum.backward();
        let [(_, a, _), (_, b, _)] = &halves[..] else { panic!("two halves") };
        let largest = whole.parameters().iter().map(|(_, p)| p.grad().norm().double_value(&[])).fold(0.0, f64::max);
        for (((name, p), (_, a)), (_, b)) in whole.parameters().iter().zip(a.parameters()).zip(b.parameters()) {
            let gradient = a.grad() + b.grad();
            // Before a BatchNorm that takes the batch's mean a bias has no gradient but rounding.
            let wrong = (&gradient - p.grad()).norm().double_value(&[]);
            let bound = 1e-10 * p.grad().norm().double_value(&[]) + 1e-13 * largest;
            assert!(wrong <= bound, "{name}: the gradient differs by {wrong:e}");
        }
        for (((name, t), (_, a)), (_, b)) in whole.buffers().iter().zip(a.buffers()).zip(b.buffers()) {
            assert!(apart(&a, t) < 1e-12 && apart(&b, t) < 1e-12, "{name} differs");
        }
    }
}

#[test]
fn batch_norm_over_two_shares_is_batch_norm_over_the_whole() {
    two_halves_are_the_whole("batch");
}

#[test]
fn frozen_batch_norm_does_not_see_how_a_batch_is_shared_out() {
    two_halves_are_the_whole("frozen");
}

#[test]
fn frozen_statistics_stay_and_the_batchs_do_not() {
    one_thread();
    for (mode, stays) in [("frozen", true), ("batch", false)] {
        let network = network(&model(mode));
        network.losses(&images(), 0, &Solo).unwrap();
        for (name, t) in network.buffers() {
            let fresh = match name.rsplit('.').next() {
                Some("running_mean" | "num_batches_tracked") => apart(&t, &t.zeros_like()) == 0.0,
                Some("running_var") => apart(&t, &t.ones_like()) == 0.0,
                _ => continue,
            };
            assert_eq!(fresh, stays, "{mode}: {name}");
        }
    }
}

#[test]
fn no_image_depends_on_its_company_in_evaluation() {
    one_thread();
    let network = network(&model("batch"));
    let x = images();
    network.losses(&x, 2, &Solo).unwrap();
    let draws = |n| Keyed::new(1, "evaluation", 0..n);
    let reconstruct = |x: &Tensor| network.reconstruct(x, &mut draws(x.size()[0] as u64)).unwrap();
    let (all, one) = (reconstruct(&x), reconstruct(&x.narrow(0, 3, 1)));
    assert!(off(&one.reconstruction, &all.reconstruction.narrow(0, 3, 1)) < 1e-12);
    let score = |x: &Tensor| network.validation_score(x, At::default(), &mut draws(x.size()[0] as u64)).unwrap();
    let scores = score(&x);
    assert_eq!(scores.size(), [IMAGES]);
    assert!(apart(&score(&x.narrow(0, 3, 1)), &scores.narrow(0, 3, 1)) < 1e-12);
}

#[test]
fn one_value_has_no_statistics() {
    one_thread();
    // 16 pixels a side are one pixel after four levels.
    let mut model = model("batch");
    model.image_size = 16;
    let network = network(&model);
    let x = images().narrow(0, 0, 1).narrow(2, 0, 16).narrow(3, 0, 16);
    assert!(matches!(network.losses_with(&x, 0, Norm::Local), Err(Error::NoStatistics)));
    assert!(matches!(network.losses_with(&x, 0, Norm::Global(&Solo)), Err(Error::NoStatistics)));
    assert!(network.losses_with(&x, 0, Norm::Running).is_ok());
}

#[test]
fn the_displacement_is_what_warped_the_prior() {
    one_thread();
    let r = network(&model("batch")).reconstruct(&images(), &mut Means).unwrap();
    let (velocity, displacement) = (r.deformation.unwrap(), r.displacement.unwrap());
    let grid = identity(32, 32, Kind::Double, Device::Cpu);
    assert_eq!(apart(&warp(&r.prior, &displacement, &grid).unwrap(), &r.reconstruction), 0.0);
    assert!(
        apart(&warp(&r.prior, &velocity, &grid).unwrap(), &r.reconstruction) > 1e-6,
        "the velocity is another field"
    );
    // A flow towards the middle row: its velocity folds the image, the deformation that it makes draws it together.
    let rows = (Tensor::arange(32, (Kind::Double, Device::Cpu)) - 15.5) * -1.5;
    let rows = rows.view([1, 1, 32, 1]).expand([1, 1, 32, 32], false);
    let velocity = Tensor::cat(&[&rows, &rows.zeros_like()], 1);
    let displacement = integrate(&velocity, &grid, 7).unwrap();
    let apart_by =
        |field: &Tensor| 1.0 + field.select(1, 0).diff(1, 1, None::<Tensor>, None::<Tensor>).min().double_value(&[]);
    assert!(apart_by(&velocity) < 0.0);
    assert!((apart_by(&displacement) - (-1.5f64).exp()).abs() < 0.01, "{}", apart_by(&displacement));
}

#[test]
fn before_the_deformation_counts_the_deformer_has_no_gradient() {
    one_thread();
    let network = network(&model("batch"));
    network.losses(&images(), 0, &Solo).unwrap().total.backward();
    for (name, p) in network.parameters() {
        assert_eq!(p.grad().defined(), !name.starts_with("deformer."), "{name}");
    }
}
