//! `export` and `import` as a shell sees them; what needs morph-worker is tested with it.
#![allow(clippy::unwrap_used)]

use std::{fs, path::Path};

use assert_cmd::Command;
use morph_checkpoint::{Dtype, EarlyStopping, Snapshot, State, TensorData, Tensors, weights};
use morph_objects::Objects;
use morph_spec::Digest;
use serde_json::Value;
use tempfile::TempDir;

/// Exit code, stdout, stderr.
fn run(home: &TempDir, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::cargo_bin("morphctl").unwrap();
    command.env("MORPH_HOME", home.path()).env_remove("MORPH_COORDINATOR").env_remove("MORPH_WORKER");
    let out = command.current_dir(home).args(args).output().unwrap();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    (out.status.code().unwrap(), text(&out.stdout), text(&out.stderr))
}

/// A checkpoint with a few tensors, in the folder `c`.
fn checkpoint(home: &Path) -> Tensors {
    let model = Tensors::from([
        ("encoder.weight".to_owned(), TensorData::new(Dtype::F32, vec![2, 1], vec![7; 8]).unwrap()),
        ("norm.num_batches_tracked".to_owned(), TensorData::new(Dtype::I64, vec![], vec![1; 8]).unwrap()),
    ]);
    let mut tensors: Tensors = model.iter().map(|(n, t)| (format!("model/{n}"), t.clone())).collect();
    let moment = TensorData::new(Dtype::F32, vec![2, 1], vec![3; 8]).unwrap();
    tensors.insert("optimizer/adam/encoder.weight/exp_avg".into(), moment);
    tensors.insert("rng/cpu".into(), TensorData::new(Dtype::U8, vec![1], vec![9]).unwrap());
    let state = State {
        step: 12,
        epoch: 3,
        batch: 0,
        world_size: 1,
        early_stopping: EarlyStopping::default(),
        optimizer_steps: Default::default(),
        sums: Default::default(),
        best: None,
        schedulers: Value::Null,
        experiment: serde_json::json!({
            "name": "x", "dataset": {"url": "s3://secret-bucket/d"},
            "model": {"method": "ae-s", "weights": "/somewhere/w.pt", "image_size": 32},
        }),
        dataset: Digest::of(b"dataset"),
        weights: None,
    };
    let objects = Objects::open(home.to_str().unwrap()).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(morph_checkpoint::save(&objects, "c", &Snapshot { tensors, state })).unwrap();
    model
}

#[test]
fn weights_alone_are_written_without_a_worker() {
    let home = tempfile::tempdir().unwrap();
    let model = checkpoint(home.path());
    for (format, place) in [("pt", "c"), ("safetensors", "./c/manifest.json")] {
        let out = format!("w.{format}");
        let (code, _, err) = run(&home, &["export", place, "--format", format, "--out", &out]);
        assert_eq!(code, 0, "{err}");
        assert!(err.contains(&format!("{out}: ae-s, step 12 (epoch 3)")), "{err}");
        let bytes = fs::read(home.path().join(&out)).unwrap();
        assert_eq!(weights::read(&bytes, &out).unwrap(), model, "the network's tensors and no others");
        let text = String::from_utf8_lossy(&bytes);
        assert!(!text.contains("secret-bucket") && !text.contains("somewhere"), "no place is given away");
        let (code, _, err) = run(&home, &["export", place, "--format", format, "--out", &out]);
        assert_eq!(code, 4, "{err}");
        assert!(err.contains("--force"), "{err}");
        let (code, said, err) =
            run(&home, &["export", place, "--format", format, "--out", &out, "--force", "-o", "json"]);
        assert_eq!(code, 0, "{err}");
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!((&said["file"], &said["step"]), (&out.as_str().into(), &12.into()));
        assert_eq!(fs::read(home.path().join(&out)).unwrap(), bytes, "the same bytes again");
    }
    let files = fs::read_dir(home.path()).unwrap().count();
    assert_eq!(files, 3, "a checkpoint and two files");
}

#[test]
fn what_cannot_be_exported_is_said() {
    let home = tempfile::tempdir().unwrap();
    checkpoint(home.path());
    for (args, code, wanted) in [
        (&["export", "nowhere/c", "--format", "pt", "--out", "w.pt"][..], 3, "manifest.json"),
        (&["export", "c", "--format", "pt", "--out", "no/w.pt"], 1, "folder is not there"),
        (&["export", "c", "--format", "safetensors", "--layout", "paper", "--out", "w.st"], 2, "--format pt only"),
        (&["export", "c", "--format", "pickle", "--out", "w.st"], 2, "torchscript"),
    ] {
        let (got, _, err) = run(&home, args);
        assert_eq!(got, code, "{args:?}: {err}");
        assert!(err.contains(wanted), "{args:?}: {err}");
    }
}

const PAPER: &str = "name: AE\nexperiment: {name: x, task: train, weights: }\ndevice: gpu\nmodel:\n  module_name: zoo\n  class_name: VAE\n  \
    params: {input_size: !!python/tuple [1, 32, 32], h_size: [4, 8], z_dim: 8}\ntrainer:\n  module_name: p.Trainer\n  \
    class_name: PTrainer\n  params:\n    nr_epochs: 3\n    loss: {class_name: VAELoss, params: }\n    optimizer_params: {lr: 1.0e-3}\n    \
    colour: red\n  data_loader: {params: {args: {target_size: !!python/tuple [32, 32], batch_size: 8}}}\ndownstream_tasks:\n";

#[test]
fn the_papers_yaml_becomes_an_experiment_that_validates() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("theirs.yaml"), PAPER).unwrap();
    let (code, out, err) = run(&home, &["import", "theirs.yaml"]);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("method: vae") && err.contains("theirs.yaml: line 15: trainer.params.colour: has no counterpart"),
        "{out}{err}"
    );
    let (code, nothing, err) = run(&home, &["import", "theirs.yaml", "--out", "ours.yaml"]);
    assert_eq!((code, nothing.as_str()), (0, ""), "{err}");
    assert_eq!(fs::read_to_string(home.path().join("ours.yaml")).unwrap(), out);
    assert_eq!(run(&home, &["import", "theirs.yaml", "--out", "ours.yaml"]).0, 4, "it is there already");
    let (code, _, err) = run(&home, &["validate", "ours.yaml"]);
    assert_eq!(code, 0, "{err}");
    fs::write(home.path().join("bad.yaml"), PAPER.replace("class_name: VAE\n", "class_name: VAEE\n")).unwrap();
    let (code, _, err) = run(&home, &["import", "bad.yaml"]);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("bad.yaml:6:") && err.contains("did you mean `VAE`?"), "{err}");
}
