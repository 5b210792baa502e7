//! A run whose newest checkpoint is gone, or damaged, when it is to go on from it.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use morph_e2e::lab::Lab;
use serde_json::Value;

/// The folders of `run`'s checkpoints, oldest first.
fn checkpoints(lab: &Lab, run: &Value) -> Result<Vec<PathBuf>> {
    let id = run["id"].as_str().context("an id")?;
    let folder = lab.home.path().join("objects/runs").join(id).join("checkpoints");
    let mut all = fs::read_dir(&folder)?.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
    // Of those that retention has removed, empty folders are left.
    all.retain(|folder| folder.join("manifest.json").is_file());
    all.sort();
    ensure!(all.len() > 1, "one is left to go on from: {all:?}");
    Ok(all)
}

#[test]
fn a_run_goes_on_from_the_checkpoint_before_the_one_that_is_gone() -> Result<()> {
    let lab = Lab::new(20)?;
    let _coordinator = lab.cluster.coordinator()?;
    let _agent = lab.cluster.agent("agent", 2)?;
    lab.train("x", &[])?;
    lab.wait("x", "running", 10)?;
    lab.ctl(&["pause", "x"])?;
    let x = lab.wait("x", "paused", 10)?;
    let gone = checkpoints(&lab, &x)?.pop().context("a checkpoint")?;
    fs::remove_dir_all(&gone)?;
    lab.ctl(&["resume", "x"])?;

    // Once more, and now it is there, but not what was written.
    let step = x["step"].as_u64().context("a step")?;
    lab.wait("x", "running", step + 4)?;
    lab.ctl(&["pause", "x"])?;
    let x = lab.wait("x", "paused", step + 4)?;
    let damaged = checkpoints(&lab, &x)?.pop().context("a checkpoint")?.join("tensors.safetensors");
    let mut bytes = fs::read(&damaged)?;
    *bytes.last_mut().context("a byte")? ^= 1;
    fs::write(&damaged, bytes)?;
    lab.ctl(&["resume", "x"])?;

    let x = lab.wait("x", "succeeded", 1)?;
    let story = lab.ctl(&["events", "x"])?;
    ensure!(story.matches("is lost, and struck from the record").count() == 2, "{story}");
    ensure!(story.contains("not found") && story.contains("corrupt"), "{story}");
    lab.whole(&x)?;
    // The same job, which nobody disturbed.
    lab.train("y", &[])?;
    let y = lab.wait("y", "succeeded", 1)?;
    lab.same(&x, &y)
}
