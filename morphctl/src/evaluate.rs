//! `evaluate`: morph-worker scores a checkpoint, of a run or by its URL.

use std::process::Stdio;

use anyhow::{Context, Result};
use morph_objects::Objects;
use morph_spec::manifest;
use tokio::process::Command;

use crate::{
    checkpoint::{self, Found},
    cli::{Evaluate, Format, Global},
    connect, local, print,
};

/// Scores; the worker prints.
///
/// # Errors
/// When there is no such run, it has no checkpoint, or the worker fails.
pub async fn evaluate(global: &Global, args: &Evaluate) -> Result<u8> {
    let mut on = Vec::new();
    for location in &args.on {
        let folder = Objects::open(location)?;
        folder.get(manifest::FILE).await?;
        on.push(folder.url());
    }
    let Found { url, name } = checkpoint::find(global, &args.what, args.newest).await?;
    let worker = local::worker()?;
    let mut command = Command::new(&worker);
    command.args(["evaluate", "--checkpoint", &url]).arg("--cache").arg(connect::home(global)?.join("agent/cache"));
    command.args(["-o", if global.output == Format::Table { "table" } else { "json" }]);
    for folder in &on {
        command.args(["--on", folder]);
    }
    if let Some(score) = args.score {
        command.args(["--score", score.name()]);
    }
    if let Some(truth) = &args.truth {
        command.args(["--truth", &Objects::open(truth)?.url()]);
    }
    if args.allow_leakage {
        command.arg("--allow-leakage");
    }
    let paths = [
        ("--panel", &args.panel),
        ("--cases", &args.cases),
        ("--out", &args.out),
        ("--heatmaps", &args.heatmaps),
        ("--source", &args.source),
    ];
    for (flag, path) in paths {
        if let Some(path) = path {
            command.arg(flag).arg(path);
        }
    }
    let start = || format!("start {}", worker.display());
    let (status, report) = if global.output == Format::Table {
        (command.status().await.with_context(start)?, Vec::new())
    } else {
        // Not `output()`, which would keep what is said on stderr to itself.
        let child = command.stdout(Stdio::piped()).spawn().with_context(start)?;
        let out = child.wait_with_output().await.with_context(start)?;
        (out.status, out.stdout)
    };
    if status.success() {
        match global.output {
            Format::Table => {}
            Format::Name => print::line(&name)?,
            Format::Json | Format::Yaml => {
                print::value(global, &serde_json::from_slice(&report).context("read the report of morph-worker")?)?;
            }
        }
    }
    Ok(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1))
}
