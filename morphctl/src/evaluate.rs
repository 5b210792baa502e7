//! `evaluate`: morph-worker scores a checkpoint, of a run or by its URL; the coordinator counts that its test sets were looked at.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    process::Stdio,
};

use anyhow::{Context, Result};
use morph_objects::Objects;
use morph_proto::v1;
use morph_spec::{Digest, Experiment, load, manifest};
use tokio::process::Command;

use crate::{
    checkpoint::{self, Found},
    cli::{Evaluate, Format, Global, Set},
    connect::{self, Connection, Purpose, is_away},
    data, fail, local, print, submit,
};

/// Scores; the worker prints.
///
/// # Errors
/// When there is no such run, it has no checkpoint, or the worker fails.
pub async fn evaluate(global: &Global, args: &Evaluate) -> Result<u8> {
    let mut on = Vec::new();
    for location in &args.on {
        let folder = Objects::open(location)?;
        let digest = Digest::of(&folder.get(manifest::FILE).await?);
        on.push((folder.url(), digest));
    }
    let Found { url, name, run } = checkpoint::find(global, &args.what, args.newest).await?;
    let options = data::options(global, &Set { set: args.set.clone() })?;
    let worker = local::worker()?;
    let mut command = Command::new(&worker);
    command.args(["evaluate", "--checkpoint", &url]).arg("--cache").arg(connect::home(global)?.join("agent/cache"));
    // What a --set may name means the same there.
    command.envs(&options.vars);
    for set in &options.set {
        command.args(["--set", set]);
    }
    command.args(["-o", if global.output == Format::Table { "table" } else { "json" }]);
    for (folder, _) in &on {
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
        if let Err(e) = count(global, &url, run, &on, &options).await {
            print::note(&format!("WARNING: the ledger of test sets does not count this evaluation: {e:#}"));
        }
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

/// Has the coordinator count the evaluation: the one that knows the run, or that --coordinator names.
async fn count(
    global: &Global,
    url: &str,
    run: Option<String>,
    on: &[(String, Digest)],
    options: &load::Options,
) -> Result<()> {
    if run.is_none() && global.coordinator.is_none() {
        let why = "the ledger of test sets does not count this evaluation: no coordinator was asked (name the run, or --coordinator)";
        print::note(why);
        return Ok(());
    }
    let state = morph_checkpoint::inspect(url).await?.state;
    let trained: Experiment = serde_json::from_value(state.experiment).context("read the checkpoint's experiment")?;
    let mut experiment = load::for_scoring(&trained, !on.is_empty(), options)?;
    submit::absolute(&mut experiment)?;
    let tests = tested(&experiment, state.dataset, on);
    // Two evaluations count twice; one whose answer was lost must not, when it is told again.
    let random = || RandomState::new().build_hasher().finish();
    let key = format!("evaluation-{:016x}{:016x}", random(), random());
    let request = v1::RecordEvaluationRequest { run: run.unwrap_or_default(), checkpoint: url.to_owned(), tests, key };
    let mut connection = Connection::open(global, Purpose::Change).await?;
    let mut recorded = connection.client.record_evaluation(request.clone()).await;
    if recorded.as_ref().is_err_and(is_away) {
        recorded = connection.client.record_evaluation(request).await;
    }
    connection.close().await;
    recorded.map_err(|s| fail::status(&s))?;
    Ok(())
}

/// What is scored: what `experiment` names, whose own dataset had the digest `own`, or the same of the datasets `on`.
fn tested(experiment: &Experiment, own: Digest, on: &[(String, Digest)]) -> Vec<v1::Tested> {
    let mut tests = Vec::new();
    let mut add = |url: &str, digest: Option<Digest>, split: String| {
        let digest = digest.map(|d| d.to_string()).unwrap_or_default();
        let test = v1::Tested { url: url.to_owned(), digest, split };
        if !tests.contains(&test) {
            tests.push(test);
        }
    };
    if on.is_empty() {
        for set in experiment.evaluation.plan().sets {
            match &set.dataset {
                None => add(&experiment.dataset.url, Some(own), set.subset.split),
                Some(url) => add(url, None, set.subset.split),
            }
        }
    }
    for (url, digest) in on {
        let there = experiment.evaluation.on(&[(String::new(), url.clone())]).plan();
        there.sets.into_iter().for_each(|set| add(url, Some(*digest), set.subset.split));
    }
    tests
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_split_is_counted_once_and_where_it_lies() {
        let experiment: Experiment = serde_json::from_value(json!({
            "kind": "experiment", "name": "t", "dataset": {"url": "/own"}, "model": {"method": "vae"},
            "evaluation": {"comparisons": {"covid": {
                "dataset": "/other",
                "healthy": {"split": "val", "labels": ["Normal"]},
                "pathology": {"split": "val", "labels": ["COVID"]},
            }}},
        }))
        .unwrap();
        let (own, other) = (Digest::of(b"own"), Digest::of(b"other"));
        let seen = |on: &[(String, Digest)]| -> Vec<(String, String, String)> {
            tested(&experiment, own, on).into_iter().map(|t| (t.url, t.digest, t.split)).collect()
        };
        let test = |url: &str, digest: Option<Digest>, split: &str| {
            (url.to_owned(), digest.map(|d| d.to_string()).unwrap_or_default(), split.to_owned())
        };
        assert_eq!(seen(&[]), [test("/own", Some(own), "test"), test("/other", None, "val")]);
        assert_eq!(seen(&[("/on".into(), other)]), [test("/on", Some(other), "test")]);
    }
}
