//! The vectors recorded from the paper's own code.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use morph_model::{Error, parity};

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

fn passes(name: &str) {
    // Tests run side by side: one thread each, or they wait for each other.
    tch::set_num_threads(1);
    let Some(dir) = golden(name) else { return };
    let report = parity::run(&dir).unwrap();
    eprintln!("{report}");
    assert!(report.passed(), "{report}");
}

#[test]
fn morphaeus_small() {
    passes("morphaeus_small");
}

#[test]
fn morphaeus_small_warmup() {
    passes("morphaeus_small_warmup");
}

#[test]
fn morphaeus_small_trained() {
    passes("morphaeus_small_trained");
}

#[test]
fn morphaeus_full() {
    passes("morphaeus_full");
}

#[test]
fn morphaeus_full_prng() {
    passes("morphaeus_full_prng");
}

#[test]
fn a_changed_weight_is_noticed() {
    tch::set_num_threads(1);
    let Some(dir) = golden("morphaeus_small_trained") else { return };
    let report = parity::run_with(&dir, |weights| {
        let tensor = weights.get_mut("decoder.conv__decode_3.weight").unwrap();
        let value = f32::from_le_bytes(tensor.bytes[..4].try_into().unwrap());
        tensor.bytes[..4].copy_from_slice(&(value + 0.01).to_le_bytes());
    });
    assert!(!report.unwrap().passed());
}

#[test]
fn what_is_no_case_or_not_implemented_is_said() {
    let error = parity::run(&PathBuf::from("no/such/case")).unwrap_err();
    assert!(error.to_string().contains("meta.json"), "{error}");
    let Some(dir) = golden("vae_small") else { return };
    assert!(matches!(parity::run(&dir), Err(Error::Golden(why)) if why.contains("not implemented")));
}
