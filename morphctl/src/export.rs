//! `export`: a checkpoint as a file for other programs. Weights are written here; what needs the network is morph-worker's.

use std::{collections::BTreeMap, io, path::Path};

use anyhow::{Context, Result};
use morph_checkpoint::{
    Snapshot, State, Tensors, file,
    pt::{self, Item},
    weights,
};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    checkpoint::{self, Found},
    cli::{Format, Global, Layout, Weights},
    fail::{ERROR, REFUSED, USAGE, coded},
    local, print,
};

/// What to write.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Name or id of a run; URL or path of a checkpoint.
    pub what: &'a str,
    /// As what.
    pub format: Weights,
    /// How it is laid out.
    pub layout: Layout,
    /// The file.
    pub out: &'a Path,
    /// Overwrite it.
    pub force: bool,
    /// The newest checkpoint instead of the best.
    pub newest: bool,
}

/// Writes the file and says what it is.
///
/// # Errors
/// When there is no such checkpoint, something is at the file's place, or the worker fails.
pub async fn export(global: &Global, request: Request<'_>) -> Result<u8> {
    let Request { what, format, layout, out, force, .. } = request;
    if layout == Layout::Paper && format != Weights::Pt {
        return Err(coded(USAGE, "--layout paper is of --format pt only: the published code reads nothing else"));
    }
    if out == Path::new("-") {
        return Err(coded(USAGE, "--out names a file: several formats cannot be written to a pipe"));
    }
    file::is_free(out, force).map_err(|e| refused(out, &e))?;
    let Found { url, .. } = checkpoint::find(global, what, request.newest).await?;
    let state = match (format, layout) {
        (Weights::Pt, Layout::State) | (Weights::Safetensors, _) => {
            let snapshot = morph_checkpoint::load(&url, None).await?;
            let bytes = encoded(&snapshot, format)?;
            file::write(out, &bytes, force).map_err(|e| refused(out, &e))?;
            snapshot.state
        }
        (Weights::Pt, Layout::Paper) => worker(&url, "paper", request).await?,
        (Weights::Torchscript, _) => worker(&url, "torchscript", request).await?,
        (Weights::Onnx, _) => worker(&url, "onnx", request).await?,
    };
    said(global, request, &url, &state)
}

/// Why `out` was not written.
pub fn refused(out: &Path, e: &io::Error) -> anyhow::Error {
    match e.kind() {
        io::ErrorKind::AlreadyExists => {
            coded(REFUSED, format!("{}: is there already; --force overwrites it", out.display()))
        }
        io::ErrorKind::NotFound => coded(ERROR, format!("{}: its folder is not there", out.display())),
        _ => coded(ERROR, format!("write {}: {e}", out.display())),
    }
}

fn encoded(snapshot: &Snapshot, format: Weights) -> Result<Vec<u8>> {
    let tensors: Tensors = weights::state_dict(&snapshot.tensors);
    Ok(if format == Weights::Safetensors {
        weights::to_safetensors_with(&tensors, &facts(&snapshot.state))?
    } else {
        pt::write(&Item::State(tensors.iter().map(|(name, t)| (name.clone(), t)).collect()))?
    })
}

/// What is written beside the tensors of a safetensors file: no place and no name but the experiment's.
fn facts(state: &State) -> BTreeMap<String, String> {
    let mut model = state.experiment["model"].clone();
    if let Some(fields) = model.as_object_mut() {
        fields.remove("weights");
    }
    let texts = [
        ("format", "pt".to_owned()),
        ("morph.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("morph.experiment", state.experiment["name"].as_str().unwrap_or_default().to_owned()),
        ("morph.model", model.to_string()),
        ("morph.step", state.step.to_string()),
        ("morph.epoch", state.epoch.to_string()),
        ("morph.dataset", state.dataset.to_string()),
    ];
    texts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Lets morph-worker write; what the checkpoint says of itself.
async fn worker(url: &str, format: &str, request: Request<'_>) -> Result<State> {
    let program = local::worker()?;
    let state = morph_checkpoint::inspect(url).await?.state;
    let mut command = Command::new(&program);
    command.args(["export", "--checkpoint", url, "--format", format, "--out"]).arg(request.out);
    if request.force {
        command.arg("--force");
    }
    let ended = command.status().await.with_context(|| format!("start {}", program.display()))?;
    if !ended.success() {
        return Err(coded(ERROR, format!("morph-worker could not write {}", request.out.display())));
    }
    Ok(state)
}

fn said(global: &Global, request: Request<'_>, url: &str, state: &State) -> Result<u8> {
    let file = request.out.display().to_string();
    let bytes = std::fs::metadata(request.out).map(|m| m.len()).unwrap_or_default();
    let method = state.experiment["model"]["method"].as_str().unwrap_or_default();
    match global.output {
        Format::Table => {
            let size = if bytes < 1_000_000 { bytes as f64 / 1e3 } else { bytes as f64 / 1e6 };
            let unit = if bytes < 1_000_000 { "kB" } else { "MB" };
            say!("{file}: {method}, step {} (epoch {}), {size:.1} {unit}", state.step, state.epoch);
        }
        Format::Name => print::line(&file)?,
        Format::Json | Format::Yaml => {
            let value: Value = json!({
                "file": file, "bytes": bytes, "checkpoint": url, "method": method, "step": state.step, "epoch": state.epoch,
            });
            print::value(global, &value)?;
        }
    }
    Ok(0)
}
