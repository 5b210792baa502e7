//! Every file under `configs/` is valid, and says what it is meant to say.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use morph_spec::{
    Experiment, Sweep,
    experiment::{Activation, Argument, Method, Ncc, NormMode, Posterior, Sampling, ScheduleName},
    load::{self, Document, Options},
};
use serde_json::json;

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").join("configs")
}

fn files(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("configs/ is readable") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, out);
        } else if path.extension().is_some_and(|e| e == "yaml" || e == "yml") {
            out.push(path);
        }
    }
}

fn options() -> Options {
    let vars = [
        ("MORPH_HOME", "/home-of-morph"),
        ("RSNA_ROOT", "/raw/rsna"),
        ("PADCHEST_ROOT", "/raw/padchest"),
        ("COVID19_ROOT", "/raw/covid19"),
        ("VGG19_WEIGHTS", "/vgg19.pth"),
    ];
    Options { vars: vars.map(|(k, v)| (k.to_owned(), v.to_owned())).into(), ..Options::default() }
}

fn load(path: &Path) -> Document {
    load::file(path, &options()).unwrap_or_else(|p| panic!("{p}"))
}

fn experiment(name: &str) -> Experiment {
    match load(&configs().join(name)) {
        Document::Experiment(e) => *e,
        other => panic!("{name} is a {}", other.kind()),
    }
}

fn sweep(name: &str) -> Sweep {
    match load(&configs().join(name)) {
        Document::Sweep(s) => *s,
        other => panic!("{name} is a {}", other.kind()),
    }
}

#[test]
fn every_config_is_valid_and_survives_a_round_trip() {
    let mut all = Vec::new();
    files(&configs(), &mut all);
    assert!(all.len() >= 6, "{all:?}");
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for path in &all {
        let document = load(path);
        *kinds.entry(document.kind()).or_default() += 1;
        let again = load::text(&document.to_yaml(), "written", Path::new(""), &Options::default());
        assert_eq!(again.unwrap_or_else(|p| panic!("{p}")), document, "{}", path.display());
    }
    assert_eq!(kinds.len(), 4, "{kinds:?}");
}

#[test]
fn the_published_config_differs_from_the_intended_one_in_three_fields() {
    let (mut intended, published) = (experiment("cxr/morphaeus.yaml"), experiment("cxr/morphaeus-published.yaml"));
    assert_eq!((intended.model.norm_mode, published.model.norm_mode), (NormMode::Batch, NormMode::Frozen));
    intended.model.norm_mode = NormMode::Frozen;
    intended.trainer.loss.morph.ncc = Ncc::Reference;
    assert!(std::mem::replace(&mut intended.trainer.early_stopping.anew, false));
    intended.name.clone_from(&published.name);
    intended.description.clone_from(&published.description);
    assert_eq!(intended, published);
}

#[test]
fn the_papers_hyper_parameters() {
    let e = experiment("cxr/morphaeus.yaml");
    assert_eq!(e.model.channels, [16, 32, 64, 128, 256, 256, 256]);
    assert_eq!((e.model.image_size, e.model.refine_levels, e.model.integration_steps), (128, 3, 7));
    assert_eq!((e.trainer.batch_size, e.trainer.epochs, e.trainer.early_stopping.patience), (64, 500, 25));
    assert_eq!(e.trainer.optimizer.lr, 5e-4);
    let loss = &e.trainer.loss;
    assert_eq!((loss.perceptual.weight, loss.morph.weight, loss.morph.start_epoch), (0.05, 1.0, 11));
    assert_eq!((loss.morph.beta, loss.morph.beta_epochs, loss.morph.ncc_window), (3.0, 200, 9));
    assert_eq!(loss.perceptual.weights.as_deref(), Some("/vgg19.pth"));
}

#[test]
fn the_papers_two_tasks_have_healthy_images_of_their_own() {
    let (one, two) = (experiment("cxr/morphaeus.yaml"), experiment("cxr/morphaeus-two-tasks.yaml"));
    assert_eq!((&one.model, &one.trainer, &one.dataset), (&two.model, &two.trainer, &two.dataset));
    let plan = two.evaluation.plan();
    assert_eq!(plan.comparisons["opacity"], ["healthy", "opacity"]);
    assert_eq!(plan.comparisons["covid"], ["covid/healthy", "covid"]);
    let datasets: Vec<&str> = plan.sets.iter().filter_map(|s| s.dataset.as_deref()).collect();
    assert_eq!(datasets, ["/home-of-morph/datasets/padchest", "/home-of-morph/datasets/covid19"]);
    // What it names is what the files in configs/datasets prepare.
    let prepared = |name: &str| match load(&configs().join(format!("datasets/{name}.yaml"))) {
        Document::Dataset(d) => *d,
        other => panic!("{name} is a {}", other.kind()),
    };
    let (padchest, covid) = (prepared("padchest"), prepared("covid19"));
    assert_eq!([padchest.output.as_str(), covid.output.as_str()], [datasets[0], datasets[1]]);
    assert!(padchest.classes.iter().any(|c| c.label == "Normal") && covid.only_labels.contains(&"COVID".to_owned()));
    let truth = experiment("phantom/morphaeus.yaml").evaluation.truth;
    assert_eq!(truth.as_deref(), Some("/home-of-morph/raw/rsna-phantom/truth"));
}

#[test]
fn the_demo_is_a_grid_of_four_over_the_phantom() {
    let s = sweep("sweeps/demo.yaml");
    let varied = s.experiment.first();
    assert_eq!((varied, s.experiment.count()), (&experiment("phantom/morphaeus.yaml"), 1));
    let points: usize = s.parameters.values().map(|p| p.values.as_ref().map_or(1, Vec::len)).product();
    assert!(points >= 4);
    assert_eq!(varied.dataset.url, "/home-of-morph/datasets/rsna-phantom");
    assert_eq!((varied.trainer.world_size, varied.trainer.epochs), (2, 10));
    let morph = &varied.trainer.loss.morph;
    let epochs = s.parameters["trainer.epochs"].value.as_ref().and_then(serde_json::Value::as_u64);
    assert!(epochs > Some(u64::from(morph.start_epoch)), "the demo deforms");
    assert_eq!(varied.trainer.loss.perceptual.weight, 0.0);
}

#[test]
fn every_method_of_the_paper_has_an_experiment_as_published_and_one_as_intended() {
    for method in Method::PAPER {
        let name = method.name();
        let (intended, published) =
            (experiment(&format!("cxr/{name}.yaml")), experiment(&format!("cxr/{name}-published.yaml")));
        assert_eq!((intended.model.method, published.model.method), (method, method));
        assert_eq!((intended.name.as_str(), published.name.clone()), (name, format!("{name}-published")));
        assert_ne!(intended.model.image_size, 0);
        // What is compared is the same: data, size of the step, seed, length.
        assert_eq!((&intended.dataset, &intended.evaluation), (&published.dataset, &published.evaluation));
        let common =
            |e: &Experiment| (e.trainer.batch_size, e.trainer.epochs, e.trainer.seed, e.trainer.optimizer.clone());
        assert_eq!(common(&intended), common(&published), "{name}");
        assert_ne!((&intended.model, &intended.trainer), (&published.model, &published.trainer), "{name}");
    }
}

#[test]
fn every_method_has_an_experiment() {
    for method in Method::ALL {
        let e = experiment(&format!("cxr/{}.yaml", method.name()));
        assert_eq!((e.model.method, e.name.as_str()), (*method, method.name()));
    }
}

#[test]
fn quirks_are_in_the_published_experiments_only() {
    let of = |name: &str| (experiment(&format!("cxr/{name}.yaml")), experiment(&format!("cxr/{name}-published.yaml")));
    for name in ["morphaeus", "baseline", "ae-s", "ae-d", "si-vae"] {
        let (intended, published) = of(name);
        assert_eq!(
            (intended.model.norm_mode, published.model.norm_mode),
            (NormMode::Batch, NormMode::Frozen),
            "{name}"
        );
        assert!(intended.model.sync, "{name}");
    }
    for name in ["ae-s", "ae-d"] {
        let (intended, published) = of(name);
        assert_eq!((intended.model.negative_slope, published.model.negative_slope), (0.01, 1.0));
        assert_eq!((intended.model.activation, intended.model.levels()), (Activation::LeakyRelu, 4));
    }
    let (intended, published) = of("vae");
    assert_eq!((intended.model.sampling, published.model.sampling), (Sampling::Training, Sampling::Never));
    assert_eq!(published.trainer.loss.vae.posterior, Posterior::Twice);
    assert_eq!(intended.trainer.schedule.name, ScheduleName::Plateau);
    let (intended, published) = of("b-vae");
    assert_eq!((intended.model.sampling, published.model.sampling), (Sampling::Training, Sampling::Always));
    assert!(published.trainer.loss.capacity.count_validation && !intended.trainer.loss.capacity.count_validation);
    let (_, published) = of("aae");
    assert_eq!((published.trainer.early_stopping.patience, published.model.norm_mode), (0, NormMode::Batch));
    for name in ["si-vae", "dae"] {
        let (intended, published) = of(name);
        assert_eq!(
            (intended.trainer.schedule.argument, published.trainer.schedule.argument),
            (Argument::Epoch, Argument::Score)
        );
    }
    let (intended, published) = of("dae");
    assert!(intended.trainer.optimizer.amsgrad && published.trainer.optimizer.weight_decay == 1e-5);
}

#[test]
fn the_depth_study_differs_in_depth() {
    let all: Vec<Experiment> = (1..=7).map(|n| experiment(&format!("depth/ae{n}.yaml"))).collect();
    for (i, e) in all.iter().enumerate() {
        assert_eq!((e.model.method, e.model.channels.len()), (Method::Baseline, i + 1));
        assert_eq!(e.model.channels, all[6].model.channels[..=i]);
        assert_eq!(e.trainer, all[0].trainer);
        // As published it is the same but for the one oversight.
        let published = experiment(&format!("depth/ae{}-published.yaml", i + 1));
        let mut frozen = e.clone();
        frozen.model.norm_mode = NormMode::Frozen;
        frozen.name = format!("{}-published", e.name);
        frozen.description.clone_from(&published.description);
        assert_ne!(e.model, published.model);
        assert_eq!(frozen, published);
    }
}

#[test]
fn sweeps_over_depths_see_the_same_images_at_every_depth() {
    let depths = |s: &Sweep| s.experiment.iter().map(|e| e.model.channels.len()).collect::<Vec<_>>();
    let s = sweep("sweeps/depth.yaml");
    assert_eq!(depths(&s), [1, 2, 3, 4, 5, 6, 7]);
    for (field, value) in [("model.image_size", json!(128)), ("dataset.url", json!("/home-of-morph/datasets/rsna"))] {
        assert_eq!(s.parameters[field].value, Some(value), "all of one size, of one dataset");
    }
    let s = sweep("sweeps/depth-published.yaml");
    assert_eq!(depths(&s), [1, 2, 3, 4, 5, 6]);
    let first = s.experiment.first();
    for e in s.experiment.iter() {
        assert_eq!((&e.dataset, e.model.image_size), (&first.dataset, 64));
        assert_eq!(e.model.norm_mode, NormMode::Frozen);
    }
}

#[test]
fn the_papers_table_has_all_methods_on_both_tasks() {
    let tasks = experiment("cxr/morphaeus-two-tasks.yaml").evaluation;
    for (name, published) in [("paper", ""), ("paper-published", "-published")] {
        let s = sweep(&format!("sweeps/{name}.yaml"));
        let methods: Vec<Method> = s.experiment.iter().map(|e| e.model.method).collect();
        assert_eq!(methods, Method::PAPER);
        for e in s.experiment.iter() {
            assert_eq!(*e, experiment(&format!("cxr/{}{published}.yaml", e.model.method.name())));
            let fixed = s.parameters.iter().filter_map(|(name, p)| Some((name.clone(), p.value.clone()?)));
            let run = e.with(&fixed.collect()).expect("values of the experiment");
            assert_eq!(run.evaluation.plan(), tasks.plan(), "{}", e.name);
        }
    }
}

#[test]
fn the_smoke_test_of_methods_has_all_of_them_on_the_same_cases() {
    let s = sweep("sweeps/methods-smoke.yaml");
    let methods: Vec<Method> = s.experiment.iter().map(|e| e.model.method).collect();
    assert!(Method::PAPER.iter().all(|m| methods.contains(m)), "{methods:?}");
    assert_eq!(s.metric.name, "val/score", "no test set chooses");
    let first = s.experiment.first();
    for e in s.experiment.iter() {
        assert_eq!((&e.dataset, &e.evaluation), (&first.dataset, &first.evaluation), "{}", e.name);
        let budget = |e: &Experiment| (e.trainer.epochs, e.trainer.batch_size, e.trainer.world_size, e.trainer.seed);
        assert_eq!(budget(e), budget(first), "{}", e.name);
    }
}

#[test]
fn what_is_wrong_in_a_dataset_is_said_with_its_line() {
    let file = configs().join("datasets/padchest.yaml");
    let with = |set: &[&str]| {
        let vars = ["MORPH_HOME", "PADCHEST_ROOT"].map(|v| (v.to_owned(), "/x".to_owned())).into();
        load::file(&file, &Options { set: set.iter().map(|s| (*s).to_owned()).collect(), vars })
    };
    assert!(with(&[]).is_ok());
    for (set, field) in [
        ("filter.min_age=30", None),
        ("filter.max_age=10", Some("filter.max_age")),
        ("filter.sex.0=X", Some("filter.sex.0")),
        ("preprocess.levels=window", Some("preprocess.window")),
        ("preprocess.percentile.low=99.9", Some("preprocess.percentile")),
        ("preprocess.clahe.tiles=100", Some("preprocess.clahe.tiles")),
        ("source.layout=csv", Some("source.tables")),
        ("source.patient_map=a.csv", Some("source.patient_map")),
        ("privacy.hash_ids=true", Some("privacy.salt")),
        ("classes.0.label=Healthy", Some("classes")),
        ("filter.without_origins.0=x", Some("filter.without_origins")),
        ("filter.columns.Pediatric=[]", Some("filter.columns")),
        ("filter.columns.Pediatric=[\"No\"]", None),
    ] {
        let said = with(&[set]).map_err(|e| e.to_string());
        match field {
            None => assert!(said.is_ok(), "{set}: {said:?}"),
            Some(field) => assert!(said.as_ref().is_err_and(|e| e.contains(field)), "{set}: {said:?}"),
        }
    }
}
