//! The vectors recorded from the paper's own code.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use morph_model::{Error, parity};
use tch::Device;

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
    let report = parity::run(&dir, Device::Cpu).unwrap();
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
fn baseline_small() {
    passes("baseline_small");
}

#[test]
fn ae_s_small() {
    passes("ae-s_small");
}

#[test]
fn ae_s_full() {
    passes("ae-s_full");
}

#[test]
fn ae_d_small() {
    passes("ae-d_small");
}

#[test]
fn ae_d_full() {
    passes("ae-d_full");
}

#[test]
fn vae_small() {
    passes("vae_small");
}

#[test]
fn vae_full() {
    passes("vae_full");
}

#[test]
fn b_vae_full() {
    passes("b-vae_full");
}

#[test]
fn dae_small() {
    passes("dae_small");
}

#[test]
fn dae_full() {
    passes("dae_full");
}

#[test]
fn aae_small() {
    passes("aae_small");
}

#[test]
fn aae_full() {
    passes("aae_full");
}

#[test]
fn si_vae_small() {
    passes("si-vae_small");
}

/// Forward, and the first step: every loss, gradient and parameter after it. The steps after that, which the small case replays in
/// f64, take half an hour at this size and compare little but roundings (docs/methods.md).
#[test]
fn si_vae_full() {
    tch::set_num_threads(1);
    let Some(dir) = golden("si-vae_full") else { return };
    let report = parity::run_steps(&dir, Device::Cpu, 1).unwrap();
    eprintln!("{report}");
    assert!(report.passed(), "{report}");
}

#[test]
fn what_is_no_case_or_not_implemented_is_said() {
    let error = parity::run(&PathBuf::from("no/such/case"), Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("meta.json"), "{error}");
    let Some(dir) = golden("vae_small") else { return };
    let folder = std::env::temp_dir().join(format!("morph-parity-{}", std::process::id()));
    let case = folder.join("case");
    std::fs::create_dir_all(&case).unwrap();
    std::fs::copy(dir.join("../inputs.safetensors"), folder.join("inputs.safetensors")).unwrap();
    let meta = std::fs::read_to_string(dir.join("meta.json")).unwrap().replace("\"VAE\"", "\"GAN\"");
    std::fs::write(case.join("meta.json"), meta).unwrap();
    let said = parity::run(&case, Device::Cpu);
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(matches!(&said, Err(Error::Golden(why)) if why.contains("not implemented")), "{said:?}");
}
