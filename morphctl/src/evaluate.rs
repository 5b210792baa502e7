//! `evaluate`: morph-worker scores a checkpoint of a run.

use std::{path::Path, process::Stdio};

use anyhow::{Context, Result};
use morph_objects::Objects;
use morph_proto::v1;
use morph_spec::manifest;
use tokio::process::Command;

use crate::{
    cli::{Format, Global},
    connect::{self, Connection, Purpose},
    fail::{REFUSED, coded, status},
    local, print,
};

/// What to score.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Name or id.
    pub run: &'a str,
    /// Another dataset than the run's.
    pub dataset: Option<&'a str>,
    /// The newest checkpoint instead of the best.
    pub newest: bool,
    /// PNG file to draw to.
    pub panel: Option<&'a Path>,
    /// CSV file to write to.
    pub scores: Option<&'a Path>,
}

/// Scores; the worker prints.
///
/// # Errors
/// When there is no such run, it has no checkpoint, or the worker fails.
pub async fn evaluate(global: &Global, request: Request<'_>) -> Result<u8> {
    let worker = local::worker()?;
    if let Some(url) = request.dataset {
        Objects::open(url)?.get(manifest::FILE).await?;
    }
    let mut connection = Connection::open(global, Purpose::Ask).await?;
    let found = connection.client.get_run(v1::GetRunRequest { run: request.run.to_owned() }).await;
    connection.close().await;
    let run = found.map_err(|s| status(&s))?.into_inner().run.unwrap_or_default();
    let best = run.checkpoints.iter().rev().find(|c| c.best && !request.newest);
    let checkpoint = best
        .or_else(|| run.checkpoints.iter().max_by_key(|c| c.step))
        .ok_or_else(|| coded(REFUSED, format!("run {} has no checkpoint yet", run.name)))?;
    let mut command = Command::new(&worker);
    command
        .args(["evaluate", "--checkpoint", &checkpoint.url])
        .arg("--cache")
        .arg(connect::home(global)?.join("agent/cache"));
    command.args(["-o", if global.output == Format::Table { "table" } else { "json" }]);
    if let Some(url) = request.dataset {
        command.args(["--dataset", url]);
    }
    if let Some(path) = request.panel {
        command.arg("--panel").arg(path);
    }
    if let Some(path) = request.scores {
        command.arg("--scores").arg(path);
    }
    let start = || format!("start {}", worker.display());
    let (status, report) = if global.output == Format::Table {
        (command.status().await.with_context(start)?, Vec::new())
    } else {
        let out = command.stderr(Stdio::inherit()).output().await.with_context(start)?;
        (out.status, out.stdout)
    };
    if status.success() {
        match global.output {
            Format::Table => {}
            Format::Name => print::line(&format!("run/{}", run.name))?,
            Format::Json | Format::Yaml => {
                print::value(global, &serde_json::from_slice(&report).context("read the report of morph-worker")?)?;
            }
        }
    }
    Ok(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1))
}
