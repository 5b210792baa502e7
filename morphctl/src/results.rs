//! What is said when everything is done: the runs, best first, with baselines beside them.

use std::collections::BTreeSet;

use anyhow::Result;
use morph_proto::v1::{self, RunState};
use morph_scores::evaluation::Evaluation;
use morph_spec::sweep::EXPERIMENT;

use crate::{
    cli::{Format, Global},
    connect::{self, Client},
    fail::{CANCELLED, FAILED, OK},
    json, print, text, watch,
};

/// Columns of the table and the scores that they show; `{}` is the pathology.
const SCORES: [(&str, &str); 9] = [
    ("AUROC", "{}/auroc"),
    ("AUPRC", "{}/auprc"),
    ("FPR@95", "{}/fpr95"),
    ("AUROC top5", "{}/auroc_top5"),
    ("AUROC prior", "{}/auroc_prior"),
    ("SSIM", "healthy/ssim"),
    ("L1", "healthy/l1"),
    ("(view)", "{}/auroc_view"),
    ("(intensity)", "{}/auroc_intensity"),
];

/// Pathologies that any of `runs` was scored on.
fn pathologies(runs: &[v1::Run]) -> BTreeSet<&str> {
    let all = runs.iter().flat_map(|r| r.summary.keys()).filter_map(|name| name.strip_suffix("/auroc"));
    // `mean/auroc` is that of all comparisons.
    all.filter(|name| *name != "mean").collect()
}

/// `runs` in the order of `metric`, best first; those without it last.
pub fn ranked<'a>(runs: &'a [v1::Run], metric: &str, goal: &str) -> Vec<&'a v1::Run> {
    let mut sorted: Vec<&v1::Run> = runs.iter().collect();
    let value = |r: &v1::Run| r.summary.get(metric).map(|v| if goal == "minimize" { *v } else { -*v });
    sorted.sort_by(|a, b| match (value(a), value(b)) {
        (Some(a), Some(b)) => a.total_cmp(&b),
        (a, b) => b.is_some().cmp(&a.is_some()),
    });
    sorted
}

/// One table for each pathology.
pub fn tables(runs: &[v1::Run], metric: &str, goal: &str) -> String {
    let ranked = ranked(runs, metric, goal);
    let mut out = String::new();
    for pathology in pathologies(runs) {
        let columns: Vec<&str> = ["RUN", "PARAMS"].into_iter().chain(SCORES.iter().map(|(head, _)| *head)).collect();
        let row = |r: &&v1::Run| {
            let score = |(_, name): &(&str, &str)| {
                let value = r.summary.get(&name.replace("{}", pathology));
                value.map_or_else(|| "-".to_owned(), |v| format!("{v:.4}"))
            };
            let mut cells = vec![r.name.clone(), text::params(&r.params_json)];
            cells.extend(SCORES.iter().map(score));
            cells
        };
        out.push_str(&format!("\nhealthy against {pathology}, best first by {metric}:\n"));
        out.push_str(&print::table(&columns, ranked.iter().map(row).collect()));
        out.push('\n');
    }
    if !out.is_empty() {
        out.push_str(
            "AUROC: by evaluation.score, mean |x - x'| unless the experiment says otherwise.\n\
             top5: by the mean of its smoothed highest 5 %. prior: before morphing.\n\
             (view), (intensity): what AP against PA, or brightness alone, would reach; a model must beat them.\n",
        );
    }
    out
}

/// Says how a run or sweep ended, and all scores; the exit code.
///
/// # Errors
/// When stdout cannot be written.
pub async fn conclude(global: &Global, client: &mut Client, end: &v1::WatchResponse) -> Result<u8> {
    let (metric, goal) = match &end.sweep {
        Some(sweep) => (sweep.metric.clone(), sweep.goal.clone()),
        None => (default_metric(&end.runs), "maximize".to_owned()),
    };
    match global.output {
        Format::Json | Format::Yaml => {
            let runs: Vec<_> = ranked(&end.runs, &metric, &goal).into_iter().map(json::run).collect();
            let value = match &end.sweep {
                Some(sweep) => {
                    let mut value = json::sweep(sweep);
                    value["runs"] = runs.into();
                    value
                }
                None => runs.into_iter().next().unwrap_or_default(),
            };
            print::value(global, &value)?;
        }
        Format::Name => {
            for run in ranked(&end.runs, &metric, &goal) {
                print::line(&format!("run/{}", run.name))?;
            }
        }
        Format::Table => {
            let tables = tables(&end.runs, &metric, &goal);
            if !tables.is_empty() {
                print::line(tables.trim_end())?;
            }
            if !tables.is_empty() && is_synthetic(client, &end.runs).await {
                print::line("These are phantoms: their numbers say nothing about patients.")?;
            }
            if metric == "val/score" && of_several_experiments(&end.runs) {
                print::line("val/score is each experiment's own loss: their order here says nothing between them.")?;
            }
            let best = ranked(&end.runs, &metric, &goal).into_iter().find(|r| r.state() == RunState::Succeeded);
            if let Some(best) = best {
                print::line(&format!("\nbest run: {}", best.name))?;
                for artifact in &best.artifacts {
                    print::line(&format!("  {}", artifact.strip_prefix("file://").unwrap_or(artifact)))?;
                }
            }
            if let Some(sweep) = &end.sweep {
                print::line(&format!("sweep {}: {}", sweep.name, watch::counts(sweep)))?;
                if sweep.succeeded > 1 {
                    print::line(&format!("  with intervals and tests: morphctl compare {}", sweep.name))?;
                    print::line(&format!(
                        "  as a page:                morphctl report {0} --out report-{0}",
                        sweep.name
                    ))?;
                }
            }
            for run in end.runs.iter().filter(|r| r.state() == RunState::Failed) {
                print::line(&format!("run {} failed: {}", run.name, run.error))?;
                print::line(&format!("  its log: morphctl logs {}", run.name))?;
            }
        }
    }
    let state = |wanted: RunState| end.runs.iter().any(|r| r.state() == wanted);
    Ok(if state(RunState::Failed) {
        FAILED
    } else if state(RunState::Cancelled) {
        CANCELLED
    } else {
        OK
    })
}

/// Whether a sweep made the runs of more than one experiment.
fn of_several_experiments(runs: &[v1::Run]) -> bool {
    let named = |r: &v1::Run| {
        serde_json::from_str::<serde_json::Value>(&r.params_json).is_ok_and(|p| p[EXPERIMENT].is_string())
    };
    runs.iter().any(named)
}

/// What a single run is listed by.
fn default_metric(runs: &[v1::Run]) -> String {
    let names = runs.iter().flat_map(|r| r.summary.keys()).filter(|n| n.ends_with("/auroc"));
    names.min().cloned().unwrap_or_else(|| "val/score".into())
}

/// Whether the runs were scored on phantoms, as the evaluation of one of them says.
async fn is_synthetic(client: &mut Client, runs: &[v1::Run]) -> bool {
    let Some(scored) = runs.iter().find(|r| !r.summary.is_empty()) else { return false };
    let Ok(run) = connect::run(client, &scored.id).await else { return false };
    let evaluation = Evaluation::from_json("the evaluation", run.summary_json.as_bytes());
    evaluation.is_ok_and(|e| e.datasets.iter().any(|d| d.synthetic))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, auroc: Option<f64>) -> v1::Run {
        let summary = auroc.map(|v| ("opacity/auroc".to_owned(), v)).into_iter().collect();
        v1::Run { name: name.into(), summary, ..v1::Run::default() }
    }

    #[test]
    fn the_best_comes_first_and_the_failed_last() {
        let runs = [run("none", None), run("low", Some(0.6)), run("high", Some(0.9))];
        let names = |goal| ranked(&runs, "opacity/auroc", goal).iter().map(|r| r.name.clone()).collect::<Vec<_>>();
        assert_eq!(names("maximize"), ["high", "low", "none"]);
        assert_eq!(names("minimize"), ["low", "high", "none"]);
        let text = tables(&runs, "opacity/auroc", "maximize");
        assert!(
            text.contains("healthy against opacity") && text.contains("0.9000") && text.contains("(view)"),
            "{text}"
        );
    }
}
