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
fn what_is_no_case_or_not_implemented_is_said() {
    let error = parity::run(&PathBuf::from("no/such/case")).unwrap_err();
    assert!(error.to_string().contains("meta.json"), "{error}");
    let Some(dir) = golden("vae_small") else { return };
    assert!(matches!(parity::run(&dir), Err(Error::Golden(why)) if why.contains("not implemented")));
}
