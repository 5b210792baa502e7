//! Save, load, damage; and the file that the paper's own trainer wrote.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, path::PathBuf};

use morph_checkpoint::{
    Dtype, EarlyStopping, Error, Snapshot, State, TensorData, Tensors, load, remove, save, weights,
};
use morph_objects::Objects;
use morph_spec::Digest;
use proptest::prelude::*;

fn snapshot() -> Snapshot {
    let tensors = Tensors::from([
        ("model/a.weight".to_owned(), TensorData::new(Dtype::F32, vec![2, 3], vec![7; 24]).unwrap()),
        ("model/a.num_batches_tracked".to_owned(), TensorData::new(Dtype::I64, vec![], vec![1; 8]).unwrap()),
        ("rng/cpu".to_owned(), TensorData::new(Dtype::U8, vec![5], vec![1, 2, 3, 4, 5]).unwrap()),
    ]);
    let state = State {
        step: 12,
        epoch: 3,
        batch: 2,
        world_size: 2,
        early_stopping: EarlyStopping { best: Some(0.1 + 0.2), epochs_since: 1, stopped: false },
        optimizer_steps: BTreeMap::from([("a.weight".to_owned(), 12)]),
        sums: BTreeMap::from([("loss".to_owned(), 1.0 / 3.0)]),
        best: None,
        schedulers: serde_json::Value::Null,
        experiment: serde_json::json!({"name": "x"}),
        dataset: Digest::of(b"dataset"),
        weights: Some(Digest::of(b"weights")),
    };
    Snapshot { tensors, state }
}

#[tokio::test]
async fn what_is_saved_is_loaded_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let objects = Objects::open(dir.path().to_str().unwrap()).unwrap();
    let saved = save(&objects, "step-00000012-a1", &snapshot()).await.unwrap();
    assert_eq!(load(&saved.url, Some(saved.digest)).await.unwrap(), snapshot());
    assert_eq!(save(&objects, "step-00000012-a1", &snapshot()).await.unwrap(), saved, "saving again is the same");
    remove(&saved.url).await.unwrap();
    assert!(objects.list("").await.unwrap().is_empty());
    assert!(load(&saved.url, None).await.is_err());
}

#[tokio::test]
async fn a_flipped_byte_is_found_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let objects = Objects::open(dir.path().to_str().unwrap()).unwrap();
    let saved = save(&objects, "c", &snapshot()).await.unwrap();
    let path = dir.path().join("c/tensors.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = load(&saved.url, Some(saved.digest)).await.unwrap_err();
    assert!(matches!(&error, Error::Corrupt { url, .. } if url.ends_with("c/tensors.safetensors")), "{error}");
    let other = load(&saved.url, Some(Digest::of(b"other"))).await.unwrap_err();
    assert!(matches!(&other, Error::Corrupt { url, .. } if url.ends_with("manifest.json")), "{other}");
}

fn golden(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("MORPH_GOLDEN").map(PathBuf::from);
    let root = root.unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/golden")));
    let path = root.join(name);
    if !path.exists() {
        eprintln!("skipped: the recorded vectors are not here ({name}); set MORPH_GOLDEN");
        return None;
    }
    Some(path)
}

#[test]
fn the_papers_checkpoint_is_read() {
    let (Some(file), Some(ops)) = (golden("checkpoint/latest_model.pt"), golden("ops/ops.json")) else { return };
    let tensors = weights::read(&std::fs::read(file).unwrap(), "latest_model.pt").unwrap();
    let ops: serde_json::Value = serde_json::from_slice(&std::fs::read(ops).unwrap()).unwrap();
    let expected = ops["checkpoint"]["weights"].as_object().unwrap();
    for (name, want) in expected {
        let tensor = &tensors[&format!("model_weights.{name}")];
        let Some(shape) = want.get("shape") else {
            assert_eq!(i64::from_le_bytes(tensor.bytes.clone().try_into().unwrap()), want.as_i64().unwrap());
            continue;
        };
        let shape: Vec<u64> = serde_json::from_value(shape.clone()).unwrap();
        assert_eq!(tensor.shape, shape, "{name}");
        let values: Vec<f64> =
            tensor.bytes.chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect();
        let sum: f64 = values.iter().sum();
        assert!((sum - want["sum"].as_f64().unwrap()).abs() < 1e-6 * (1.0 + sum.abs()), "{name}");
        for (value, first) in values.iter().zip(want["first"].as_array().unwrap()) {
            assert_eq!(*value, first.as_f64().unwrap(), "{name}");
        }
    }
    assert!(tensors.keys().any(|k| k.starts_with("optimizer_weights.state.")), "Adam's moments are there too");
}

#[test]
fn garbage_is_refused() {
    for bytes in [&b""[..], b"\x80\x02garbage", b"PK\x03\x04garbage", &[0xff; 100]] {
        assert!(weights::read(bytes, "garbage").is_err());
    }
}

proptest! {
    #[test]
    fn damaged_files_never_panic(at in 0usize..6000, value: u8, cut in 0usize..6000) {
        let Some(file) = golden("checkpoint/latest_model.pt") else { return Ok(()) };
        let mut bytes = std::fs::read(file).unwrap();
        // The pickle lies in front; the rest is weights.
        bytes[at] = value;
        drop(weights::read(&bytes, "damaged"));
        bytes.truncate(bytes.len() - cut);
        drop(weights::read(&bytes, "damaged"));
    }
}
