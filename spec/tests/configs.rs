//! Every file under `configs/` is valid, and says what it is meant to say.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use morph_spec::{
    Experiment, Sweep,
    experiment::{Ncc, NormMode},
    load::{self, Document, Options},
};

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
    let vars = [("MORPH_HOME", "/home-of-morph"), ("RSNA_ROOT", "/raw/rsna"), ("VGG19_WEIGHTS", "/vgg19.pth")];
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
fn the_published_config_differs_from_the_intended_one_in_two_fields() {
    let (mut intended, published) = (experiment("cxr/morphaeus.yaml"), experiment("cxr/morphaeus-published.yaml"));
    assert_eq!((intended.model.norm_mode, published.model.norm_mode), (NormMode::Batch, NormMode::Frozen));
    intended.model.norm_mode = NormMode::Frozen;
    intended.trainer.loss.morph.ncc = Ncc::Reference;
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
fn the_demo_is_a_grid_of_four_over_the_phantom() {
    let s = sweep("sweeps/demo.yaml");
    assert_eq!(s.experiment, experiment("phantom/morphaeus.yaml"));
    let points: usize = s.parameters.values().map(|p| p.values.as_ref().map_or(1, Vec::len)).product();
    assert!(points >= 4);
    assert_eq!(s.experiment.dataset.url, "/home-of-morph/datasets/rsna-phantom");
    assert_eq!((s.experiment.trainer.world_size, s.experiment.trainer.epochs), (2, 5));
    assert_eq!(s.experiment.trainer.loss.perceptual.weight, 0.0);
}
