//! A job small enough for a test: tiny phantoms, a tiny network.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::{Home, expect};

/// Writes phantoms and prepares them at 32×32 pixels; returns the dataset's folder.
///
/// # Errors
/// When synth or prepare fails.
pub fn dataset(home: &Home, healthy: u32, opacity: u32) -> Result<PathBuf> {
    let raw = home.path().join("raw");
    expect(
        home.morphctl()?.args(["data", "synth"]).arg(&raw).args([
            "--healthy",
            &healthy.to_string(),
            "--opacity",
            &opacity.to_string(),
            "--other",
            "2",
            "--size",
            "128",
            "--seed",
            "7",
        ]),
        0,
    )?;
    let file = home.write(
        "dataset.yaml",
        "kind: dataset\nname: tiny-phantom\nsource: {layout: rsna, root: '${MORPH_HOME}/raw'}\n\
         output: '${MORPH_HOME}/datasets/tiny'\npreprocess: {size: 32}\nshard_samples: 16\n\
         split: {val: 0.2, test: 0.2}\n",
    )?;
    expect(home.morphctl()?.args(["data", "prepare"]).arg(file), 0)?;
    Ok(home.path().join("datasets/tiny"))
}

/// An experiment on [`dataset`]: two ranks, `epochs` epochs, a checkpoint every two steps.
///
/// # Errors
/// When the file cannot be written.
pub fn experiment(home: &Home, epochs: u32) -> Result<PathBuf> {
    home.write(
        "experiment.yaml",
        &format!(
            "kind: experiment\nname: tiny\ndataset: {{url: '${{MORPH_HOME}}/datasets/tiny'}}\n\
             model: {{method: morphaeus, image_size: 32, channels: [4, 8, 8, 8], refine_channels: 8}}\n\
             trainer:\n  epochs: {epochs}\n  batch_size: 8\n  world_size: 2\n  optimizer: {{lr: 1e-3}}\n  \
             loss: {{morph: {{start_epoch: 1, beta_epochs: 4}}}}\n  checkpoint: {{every_steps: 2}}\n"
        ),
    )
}

/// A run as `morphctl get runs -o json` shows it.
///
/// # Errors
/// When the command fails or prints no JSON.
pub fn runs(home: &Home, more: &[&str]) -> Result<Vec<Value>> {
    let out = home.morphctl()?.args(more).args(["get", "runs", "-o", "json"]).output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    let value: Value = serde_json::from_str(&text)
        .with_context(|| format!("get runs printed {text}{}", String::from_utf8_lossy(&out.stderr)))?;
    Ok(value.as_array().cloned().unwrap_or_default())
}

/// The weights that run `id` ended with: the bytes of its newest checkpoint's tensors.
///
/// # Errors
/// When it has no checkpoint.
pub fn final_weights(home: &Home, id: &str) -> Result<Vec<u8>> {
    final_weights_in(&home.path().join("objects"), id)
}

/// As [`final_weights`], of a coordinator whose `--objects` are the folder `objects`.
///
/// # Errors
/// As [`final_weights`].
pub fn final_weights_in(objects: &Path, id: &str) -> Result<Vec<u8>> {
    let folder = objects.join("runs").join(id).join("checkpoints");
    let mut names: Vec<PathBuf> = fs::read_dir(&folder)
        .with_context(|| format!("read {}", folder.display()))?
        .map(|e| Ok(e?.path()))
        .collect::<Result<_>>()?;
    names.retain(|p| p.join("manifest.json").is_file());
    names.sort();
    let newest = names.last().with_context(|| format!("{} holds no checkpoint", folder.display()))?;
    Ok(fs::read(newest.join("tensors.safetensors"))?)
}

/// Metrics as bits, by name and step.
pub type Metrics = BTreeMap<(String, u64), u64>;

/// All metrics of run `id` in the database of the coordinator's home `state`, but those that measure time.
///
/// # Errors
/// When they cannot be read.
pub fn metrics(state: &Path, id: &str) -> Result<Metrics> {
    let db = rusqlite::Connection::open(state.join("state.db"))?;
    let mut query = db.prepare("SELECT name, step, value FROM metrics WHERE run = ?1 AND name NOT LIKE 'perf/%'")?;
    let row = |r: &rusqlite::Row<'_>| Ok(((r.get(0)?, r.get(1)?), r.get::<_, f64>(2)?.to_bits()));
    Ok(query.query_map([id], row)?.collect::<rusqlite::Result<_>>()?)
}
