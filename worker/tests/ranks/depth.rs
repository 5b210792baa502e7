//! The depth study as `configs/depth` has it: every experiment trains at its own size, is saved and scored, and what it makes of a
//! pixel depends on as much of the image as its depth says.

use std::path::Path;

use morph_model::{Keyed, Method};
use morph_spec::{
    Experiment,
    load::{self, Document, Options},
};
use morph_worker::rank::{
    self,
    group::{Group, Place},
    orders::Orders,
    trainer::End,
};
use tch::{Kind, Tensor};

use crate::resume::{PLACE, Rank, write_noise};

/// The experiment `configs/depth/<name>.yaml` of a home in which data are small, and one epoch long.
fn experiment(name: &str, home: &Path) -> Experiment {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(format!("configs/depth/{name}.yaml"));
    let set = ["trainer.epochs=1", "trainer.batch_size=11", "trainer.device=cpu", "evaluation.resamples=100"];
    let options = Options {
        set: set.map(str::to_owned).into(),
        vars: [("MORPH_HOME".to_owned(), home.display().to_string())].into(),
    };
    match load::file(&file, &options).unwrap_or_else(|p| panic!("{p}")) {
        Document::Experiment(e) => *e,
        other => panic!("{name} is a {}", other.kind()),
    }
}

fn reconstructed(method: &dyn Method, x: &Tensor) -> Tensor {
    method.reconstruct(x, &mut Keyed::new(0, "none", 0..x.size()[0] as u64)).unwrap().reconstruction
}

/// Whether a far corner of the reconstruction feels it when a corner of the image turns white. In f64: little of it is left after fourteen
/// layers.
fn reaches_across(method: &dyn Method, side: i64) -> bool {
    let x = Tensor::full([1, 1, side, side], 0.5, (Kind::Double, PLACE.device));
    let other = x.copy();
    let _ = other.narrow(2, 0, 4).narrow(3, 0, 4).fill_(1.0);
    let corner = |t: &Tensor| t.narrow(2, side - 4, 4).narrow(3, side - 4, 4);
    let apart = (reconstructed(method, &x) - reconstructed(method, &other)).abs();
    assert!(apart.max().double_value(&[]) > 0.0, "the network looks at its image");
    corner(&apart).max().double_value(&[]) > 0.0
}

#[test]
fn every_depth_trains_and_is_scored_as_its_file_says() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path();
    let runtime = rank::runtime().unwrap();
    for (name, side) in [("rsna-64", 64), ("rsna", 128)] {
        runtime.block_on(write_noise(&home.join("datasets").join(name), side));
    }
    let (mut local, mut global) = (Vec::new(), Vec::new());
    for depth in 1..=7u32 {
        for name in [format!("ae{depth}"), format!("ae{depth}-published")] {
            let experiment = experiment(&name, home);
            let side = if depth == 7 { 128 } else { 64 };
            assert_eq!((experiment.model.image_size, experiment.model.levels()), (side, depth), "{name}");
            let exact = rank::build(&experiment, Place { kind: Kind::Double, ..PLACE }, &runtime).unwrap();
            let reach = if reaches_across(exact.method.as_ref(), i64::from(side)) { &mut global } else { &mut local };
            reach.push(name.clone());
            let untrained = rank::build(&experiment, PLACE, &runtime).unwrap();
            let before: Vec<Tensor> = untrained.method.parameters().iter().map(|(_, t)| t.detach().copy()).collect();
            let rank = Rank::of(Group::solo(), experiment, &home.join(&name));
            let (end, net, at) = rank.train(1, None, &Orders::default());
            assert_eq!((end, at.step), (End::Finished, 2), "{name}: 22 images, 11 at a time");
            assert!(at.best.as_ref().is_some_and(|b| b.score > 0.0 && b.score < 1.0), "{name}: {:?}", at.best);
            for ((parameter, after), before) in net.method.parameters().iter().zip(&before) {
                let moved = (after.detach() - before).abs().max().double_value(&[]);
                assert!(moved > 0.0 && moved.is_finite(), "{name}: {parameter} was not trained");
            }
            let side = i64::from(side);
            let made =
                reconstructed(net.method.as_ref(), &Tensor::rand([3, 1, side, side], (Kind::Float, PLACE.device)));
            assert_eq!(made.size(), [3, 1, side, side], "{name}");
            let (low, high) = (made.min().double_value(&[]), made.max().double_value(&[]));
            assert!(low >= 0.0 && high <= 1.0 && low < high, "{name}: {low}..{high}");
            let outcome = rank.score(&net, &Group::solo()).unwrap();
            assert_eq!(outcome.evaluation.comparisons["opacity"].healthy_cases, 7, "{name}");
        }
    }
    assert!(local.contains(&"ae1".to_owned()) && local.contains(&"ae2-published".to_owned()), "{local:?}");
    for depth in ["ae6", "ae6-published", "ae7", "ae7-published"] {
        assert!(global.contains(&depth.to_owned()), "one pixel in the middle: everything goes through it; {global:?}");
    }
}
