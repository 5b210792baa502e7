//! Every method of the registry, tiny, over two ranks: killed and resumed it ends in the very bits of the undisturbed run; and in
//! f64 two ranks compute what one does, random numbers and alternating updates included.

use std::{env, path::Path};

use morph_objects::Objects;
use morph_spec::{
    Experiment,
    experiment::{Method, NormMode},
};
use morph_worker::rank::{self, group::Group, orders::Orders, trainer::End};
use serde_json::{Value, json};
use tch::Kind;

use crate::{
    both, group,
    one_method::{Training, hash, images},
    resume::{Rank, SIDE, experiment, write_dataset},
};

/// What each method needs to be small.
fn small(method: Method) -> Value {
    match method {
        Method::Morphaeus => json!({"channels": [4, 8, 8, 8], "refine_channels": 8}),
        Method::AeS => {
            json!({"channels": [4, 8], "levels": 3, "kernel_size": 5, "upsampling": "transposed", "activation": "leaky_relu"})
        }
        Method::AeD => json!({"channels": [4, 8], "levels": 3, "latent": 8}),
        Method::Vae => json!({"channels": [4, 8, 8], "latent": 8}),
        Method::BetaVae => json!({"latent": 4, "sampling": "always"}),
        Method::Dae => json!({"channels": [4, 8, 8]}),
        // At 32 pixels its extra layers are idle: parameters that no update reaches.
        Method::Aae => json!({"channels": [4], "latent": 8}),
        Method::SiVae => json!({"channels": [4, 8, 8], "latent": 8, "sampling": "always"}),
        _ if method.fields().contains(&"channels") => json!({"channels": [4, 8, 8]}),
        _ => json!({}),
    }
}

pub(crate) fn of(method: Method, folder: &Path) -> Experiment {
    let mut tree = serde_json::to_value(experiment(folder)).unwrap();
    let mut model = small(method);
    model["method"] = json!(method);
    model["image_size"] = json!(SIDE);
    tree["model"] = model;
    tree["trainer"]["schedule"] = json!({"name": "exponential", "factor": 0.5});
    if method != Method::Morphaeus {
        tree["trainer"]["loss"] = json!({"capacity": {"count_validation": method == Method::BetaVae}});
    }
    let experiment: Experiment = serde_json::from_value(tree).unwrap();
    assert_eq!(experiment.validate(), Ok(()), "{}", method.name());
    experiment
}

/// In a rank's process: trains methods through, or from the checkpoint of step 8, in the middle of the second epoch.
fn train_all(group: Group, methods: &[Method], sync: bool) -> String {
    let folder = env::var_os("T_FOLDER").unwrap();
    let folder = Path::new(&folder);
    let resumed = env::var("T_PHASE").unwrap() == "resume";
    let mut rank = Rank::new(group, folder);
    let mut said = String::new();
    for method in methods {
        rank.experiment = of(*method, folder);
        rank.experiment.model.sync = sync;
        rank.output = Objects::open(&folder.join(method.name()).display().to_string()).unwrap();
        let (attempt, from) = if resumed { (2, Some("step-00000008-a1")) } else { (1, None) };
        let (end, net, at) = rank.train(attempt, from, &Orders::default());
        assert_eq!((end, at.step), (End::Finished, 15), "{}", method.name());
        if !resumed {
            rank.assert_scores_do_not_depend_on_ranks(&net);
        }
        said += &format!("{}: {}\n", method.name(), Rank::state(&net, &at));
    }
    said
}

/// Trains `methods` over two ranks, through and from a checkpoint.
fn the_same_bits(test: &str, methods: &[Method], sync: bool) {
    if let Some(group) = group() {
        println!("<{}>", train_all(group, methods, sync));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    rank::runtime().unwrap().block_on(write_dataset(folder.path()));
    let run = |phase: &str| both(test, &[("T_FOLDER", folder.path().to_str().unwrap()), ("T_PHASE", phase)]);
    let through = run("through");
    assert_eq!(through[0], through[1], "the ranks are the same to the bit");
    assert_eq!(through[0].lines().count(), methods.len());
    assert_eq!(run("resume"), through);
}

#[test]
fn every_method_goes_on_from_a_checkpoint_to_the_same_bits() {
    the_same_bits("methods::every_method_goes_on_from_a_checkpoint_to_the_same_bits", Method::ALL, true);
}

/// A checkpoint holds rank 0's statistics, and a network is judged by these on every rank.
#[test]
fn with_statistics_of_each_rank_they_go_on_to_the_same_bits_too() {
    let normalised = [Method::Morphaeus, Method::Baseline, Method::AeS, Method::Aae, Method::SiVae];
    the_same_bits("methods::with_statistics_of_each_rank_they_go_on_to_the_same_bits_too", &normalised, false);
}

#[test]
fn two_ranks_compute_what_one_does() {
    tch::set_num_threads(1);
    let Some(group) = group() else {
        let said = both("methods::two_ranks_compute_what_one_does", &[]);
        assert_eq!(said[0], said[1], "the ranks are the same to the bit");
        return;
    };
    let mut said = String::new();
    for method in Method::ALL {
        for norm_mode in [NormMode::Batch, NormMode::Frozen] {
            let mut experiment = of(*method, Path::new("none"));
            experiment.model.norm_mode = norm_mode;
            let (mut shared, mut alone) = (Training::new(&experiment), Training::new(&experiment));
            let before = hash(&alone.tensors());
            for step in 0..4u32 {
                let x = images(i64::from(step));
                shared.step(step / 2, &x, &group);
                alone.step(step / 2, &x, &Group::solo());
            }
            // Where a gradient is nothing but rounding Adam makes whole steps of it: a bias before BatchNorm.
            let biases =
                |name: &str| norm_mode == NormMode::Batch && (name.ends_with(".bias") || name.contains("running_"));
            for ((name, a), (_, b)) in shared.tensors().iter().zip(&alone.tensors()) {
                let apart = (a - b).abs().max().to_kind(Kind::Double).double_value(&[]);
                let bound = if biases(name) { 1e-2 } else { 1e-7 };
                assert!(apart < bound, "{} {norm_mode:?}: {name} is apart by {apart:e}", method.name());
            }
            assert_ne!(before, hash(&alone.tensors()), "{} did train", method.name());
            said += &hash(&shared.tensors());
        }
    }
    println!("<{said}>");
}
