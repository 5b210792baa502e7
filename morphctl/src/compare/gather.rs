//! What there is to compare: runs with their evaluations and tables of cases.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use morph_objects::{Objects, split_url};
use morph_proto::v1::{self, RunState};
use morph_scores::{auroc, cases::Cases, evaluation::Evaluation};
use morph_spec::{Experiment, Manifest};

use crate::{
    connect::{Client, run},
    fail::{NOT_FOUND, REFUSED, code, coded, status},
    json,
};

/// A run that was scored, and all that its scores are made of.
#[derive(Debug, Clone)]
pub struct Scored {
    /// The run.
    pub run: v1::Run,
    /// What was trained.
    pub experiment: Experiment,
    /// What its evaluation found.
    pub evaluation: Evaluation,
    /// Every scored image.
    pub cases: Cases,
}

/// All that was asked for.
#[derive(Debug, Clone, Default)]
pub struct Gathered {
    /// Runs, in the order in which they were named.
    pub runs: Vec<Scored>,
    /// Sweeps that were named.
    pub sweeps: Vec<v1::Sweep>,
    /// How their test sets were used.
    pub tests: Vec<v1::TestSet>,
    /// Runs of these sweeps that have no scores, and why.
    pub left_out: Vec<String>,
}

/// The runs that `ids` mean, those of sweeps one by one.
///
/// # Errors
/// When there is no such thing, a run that was named has no scores, or its files cannot be read.
pub async fn gather(client: &mut Client, ids: &[String]) -> Result<Gathered> {
    let mut out = Gathered::default();
    for id in ids {
        let found = match run(client, id).await {
            Ok(run) => vec![(run, true)],
            Err(e) if code(&e) == NOT_FOUND => {
                let request = v1::GetSweepRequest { sweep: id.clone() };
                let Ok(found) = client.get_sweep(request).await else {
                    return Err(coded(NOT_FOUND, format!("there is no run or sweep {id:?}")));
                };
                let found = found.into_inner();
                out.sweeps.extend(found.sweep);
                let mut runs = Vec::new();
                for part in &found.runs {
                    runs.push((run(client, &part.id).await?, false));
                }
                runs
            }
            Err(e) => return Err(e),
        };
        for (run, named) in found {
            if out.runs.iter().any(|s| s.run.id == run.id) {
                continue;
            }
            if run.state() == RunState::Succeeded {
                out.runs.push(scored(run).await?);
                continue;
            }
            let why = format!("run {} is {}: it has no scores", run.name, json::run_state(&run));
            if named {
                return Err(coded(REFUSED, why));
            }
            out.left_out.push(why);
        }
    }
    if out.runs.is_empty() {
        let why =
            if out.left_out.is_empty() { "there are no runs to compare".to_owned() } else { out.left_out.join("; ") };
        return Err(coded(REFUSED, why));
    }
    out.tests = test_sets(client, datasets(&out.runs)).await?;
    Ok(out)
}

/// What the dataset that `run` was trained on says of itself, if that still lies there and can be read from here.
pub async fn manifest(run: &v1::Run, experiment: &Experiment) -> Option<Manifest> {
    let folder = Objects::open(&experiment.dataset.url).ok()?;
    let (manifest, digest) = morph_data::manifest::read(&folder).await.ok()?;
    // It may be another one by now.
    (digest.to_string() == run.dataset).then_some(manifest)
}

/// How the test sets of `datasets` were used.
///
/// # Errors
/// When nobody answers.
pub async fn test_sets(client: &mut Client, datasets: Vec<String>) -> Result<Vec<v1::TestSet>> {
    let request = v1::TestSetsRequest { datasets };
    Ok(client.test_sets(request).await.map_err(|s| status(&s))?.into_inner().tests)
}

/// Digests and URLs of the datasets that the runs were scored on.
fn datasets(runs: &[Scored]) -> Vec<String> {
    let all = runs.iter().flat_map(|s| s.evaluation.datasets.iter().flat_map(|d| [d.digest.clone(), d.url.clone()]));
    let own = runs.iter().map(|s| s.run.dataset.clone());
    let all: BTreeSet<String> = all.chain(own).filter(|d| !d.is_empty()).collect();
    all.into_iter().collect()
}

async fn scored(run: v1::Run) -> Result<Scored> {
    let name = &run.name;
    let again = "score it again with morphctl evaluate, or train it again";
    let evaluation = Evaluation::from_json(&format!("the evaluation of run {name}"), run.summary_json.as_bytes());
    let evaluation = evaluation.map_err(|why| coded(REFUSED, why))?;
    let experiment = serde_json::from_str(&run.experiment_json);
    let experiment = experiment.with_context(|| format!("read the experiment of run {name}"))?;
    let missing = || coded(REFUSED, format!("run {name} has left no table of cases: {again}"));
    let url = artifact(&run, "cases.csv").ok_or_else(missing)?;
    let bytes = read(url).await?;
    let cases = Cases::from_csv(url, &bytes).map_err(|e| coded(REFUSED, format!("the cases of run {name}: {e}")))?;
    is_scored_by(&evaluation, &cases).map_err(|why| {
        coded(REFUSED, format!("{url} is not the table that run {name} was scored by: {why}; {again}"))
    })?;
    Ok(Scored { experiment, evaluation, cases, run })
}

/// Whether `evaluation` is of `cases`, by the numbers of cases and the AUROC of each comparison. Rows may have been taken out since.
pub(super) fn is_scored_by(evaluation: &Evaluation, cases: &Cases) -> Result<(), String> {
    let score = &evaluation.design.score;
    for (name, c) in &evaluation.comparisons {
        let values = |set: &str| cases.values(set, score).map_err(|e| e.to_string());
        let [healthy, sick] = [values(&c.sets.healthy)?, values(&c.sets.pathology)?];
        if [healthy.len(), sick.len()] != [c.healthy_cases, c.pathology_cases] {
            return Err(format!(
                "{name} has {} healthy and {} sick images there, and had {} and {}",
                healthy.len(),
                sick.len(),
                c.healthy_cases,
                c.pathology_cases
            ));
        }
        let auroc = auroc(&healthy, &sick).map_err(|e| e.to_string())?;
        let recorded = c.scores.get(score).map(|s| s.detection.auroc.value);
        if recorded.is_some_and(|recorded| (recorded - auroc).abs() > 1e-9) {
            return Err(format!(
                "{name} has an AUROC of {auroc:.6} there, and had {:.6}",
                recorded.unwrap_or_default()
            ));
        }
    }
    Ok(())
}

/// The URL of the file `name` that the run's evaluation has left.
pub fn artifact<'a>(run: &'a v1::Run, name: &str) -> Option<&'a str> {
    run.artifacts.iter().map(String::as_str).find(|url| url.rsplit('/').next() == Some(name))
}

/// The bytes at `url`.
///
/// # Errors
/// When they cannot be read.
pub async fn read(url: &str) -> Result<Vec<u8>> {
    let (folder, name) = split_url(url)?;
    Ok(folder.get(&name).await?.to_vec())
}
