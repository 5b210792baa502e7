//! `evaluate`: morph-worker scores a checkpoint, of a run or by its URL.

use std::process::Stdio;

use anyhow::{Context, Result};
use morph_objects::Objects;
use morph_proto::v1;
use morph_spec::manifest;
use tokio::process::Command;

use crate::{
    cli::{Evaluate, Format, Global},
    connect::{self, Connection, Purpose},
    fail::{REFUSED, coded, status},
    local, print,
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
    // Names of runs have no slash.
    let (checkpoint, name) = if args.what.contains('/') {
        let url = manifest_of(&args.what)?;
        // Whether it is there: said here, with the exit code that this deserves.
        let (folder, name) = morph_objects::split_url(&url)?;
        folder.get(&name).await?;
        (url.clone(), url)
    } else {
        of_run(global, args).await?
    };
    let worker = local::worker()?;
    let mut command = Command::new(&worker);
    command
        .args(["evaluate", "--checkpoint", &checkpoint])
        .arg("--cache")
        .arg(connect::home(global)?.join("agent/cache"));
    command.args(["-o", if global.output == Format::Table { "table" } else { "json" }]);
    for url in &on {
        command.args(["--on", url]);
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

/// The URL of a checkpoint's manifest, from that or its folder's, or from a path.
fn manifest_of(location: &str) -> Result<String> {
    let url = if location.contains("://") {
        location.to_owned()
    } else {
        let path = std::path::absolute(location).with_context(|| format!("find {location}"))?;
        format!("file://{}", path.display())
    };
    // Of checkpoints it is called as of datasets.
    Ok(if url.ends_with(".json") { url } else { format!("{}/{}", url.trim_end_matches('/'), manifest::FILE) })
}

/// The checkpoint of a run that is to be scored, and what the run is called.
async fn of_run(global: &Global, args: &Evaluate) -> Result<(String, String)> {
    let mut connection = Connection::open(global, Purpose::Ask).await?;
    let found = connection.client.get_run(v1::GetRunRequest { run: args.what.clone() }).await;
    connection.close().await;
    let run = found.map_err(|s| status(&s))?.into_inner().run.unwrap_or_default();
    let best = run.checkpoints.iter().rev().find(|c| c.best && !args.newest);
    let checkpoint = best
        .or_else(|| run.checkpoints.iter().max_by_key(|c| c.step))
        .ok_or_else(|| coded(REFUSED, format!("run {} has no checkpoint yet", run.name)))?;
    Ok((checkpoint.url.clone(), format!("run/{}", run.name)))
}
