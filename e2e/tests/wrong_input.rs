//! What a new user gets wrong: each is one clear error that names the thing and the way out, a non-zero exit, and nothing
//! half-written.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use morph_e2e::{Home, expect, job, run};

fn says(text: &str, all: &[&str]) -> Result<()> {
    for wanted in all {
        ensure!(text.contains(wanted), "it does not say {wanted:?}:\n{text}");
    }
    Ok(())
}

#[test]
fn a_missing_file() -> Result<()> {
    let home = Home::new()?;
    let text = expect(home.morphctl()?.args(["sweep", "no-such.yaml"]), 2)?;
    says(&text, &["no-such.yaml"])
}

#[test]
fn a_typo_in_a_key() -> Result<()> {
    let home = Home::new()?;
    let file = home.write(
        "bad.yaml",
        "kind: experiment\nname: x\ndataset: {url: d}\nmodel: {method: morphaeus}\ntrainer:\n  optimiser:\n    lr: 1e-3\n",
    )?;
    let text = expect(home.morphctl()?.arg("validate").arg(file), 2)?;
    says(&text, &["bad.yaml:6:3", "optimiser", "optimizer"])
}

#[test]
fn a_corrupt_dicom_is_reported_and_not_fatal() -> Result<()> {
    let home = Home::new()?;
    job::dataset(&home, 30, 4)?;
    let images = home.path().join("raw/stage_2_train_images");
    let mut files: Vec<_> = fs::read_dir(&images)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    files.sort();
    fs::write(&files[0], b"this is no DICOM")?;
    let whole = fs::read(&files[1])?;
    fs::write(&files[1], &whole[..whole.len() * 6 / 10])?;
    let yaml = fs::read_to_string(home.path().join("dataset.yaml"))?.replace("datasets/tiny", "datasets/broken");
    let file = home.write("broken.yaml", &yaml)?;
    let text = expect(home.morphctl()?.args(["data", "prepare"]).arg(file), 0)?;
    says(&text, &["2", "skipped"])?;
    let report = fs::read_to_string(home.path().join("datasets/broken/skipped.csv"))?;
    for bad in &files[..2] {
        says(&report, &[bad.file_name().context("a name")?.to_str().context("UTF-8")?])?;
    }
    Ok(())
}

#[test]
fn a_truncated_shard_is_never_trained_on() -> Result<()> {
    let home = Home::new()?;
    let dataset = job::dataset(&home, 40, 4)?;
    let experiment = job::experiment(&home, 1)?;
    let mut shards: Vec<_> = fs::read_dir(&dataset)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    shards.retain(|p| p.extension().is_some_and(|e| e == "arrow"));
    for shard in &shards {
        let bytes = fs::read(shard)?;
        fs::write(shard, &bytes[..bytes.len() - 100])?;
    }
    ensure!(!shards.is_empty(), "shards lie in {}", dataset.display());
    let text = expect(home.morphctl()?.args(["train", "--local"]).arg(experiment), 100)?;
    says(&text, &[".arrow"])
}

#[test]
fn an_empty_split() -> Result<()> {
    let home = Home::new()?;
    job::dataset(&home, 40, 4)?;
    let file = job::experiment(&home, 1)?;
    let text = fs::read_to_string(&file)?.replace(
        "dataset: {url: '${MORPH_HOME}/datasets/tiny'}",
        "dataset: {url: '${MORPH_HOME}/datasets/tiny', train: {split: train, labels: [Healthy]}}",
    );
    fs::write(&file, text)?;
    let text = expect(home.morphctl()?.args(["train", "--local"]).arg(file), 2)?;
    says(&text, &["train", "Healthy", "Normal"])
}

#[test]
fn a_full_disk_leaves_nothing_half_written() -> Result<()> {
    let home = Home::new()?;
    let small = home.path().join("small");
    fs::create_dir(&small)?;
    let mounted = run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"]).arg(&small));
    if !mounted.is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: this machine does not let us mount a small tmpfs");
        return Ok(());
    }
    let result = fill(&home, &small);
    ensure!(Command::new("umount").arg("-l").arg(&small).status()?.success(), "umount {}", small.display());
    result
}

fn fill(home: &Home, small: &Path) -> Result<()> {
    job::dataset(home, 300, 40)?;
    let yaml = fs::read_to_string(home.path().join("dataset.yaml"))?
        .replace("${MORPH_HOME}/datasets/tiny", &small.join("d").display().to_string());
    let file = home.write("full.yaml", &yaml)?;
    let text = expect(home.morphctl()?.args(["data", "prepare"]).arg(file), 1)?;
    says(&text, &["no space"])?;
    ensure!(!small.join("d/manifest.json").exists(), "no manifest of a dataset that is not whole");
    Ok(())
}
