//! What is said when everything is done: the runs, best first, with baselines beside them.

use std::collections::BTreeSet;

use morph_proto::v1;

use crate::{print, text};

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
    runs.iter().flat_map(|r| r.summary.keys()).filter_map(|name| name.strip_suffix("/auroc")).collect()
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
            "AUROC: by mean |x - x'|. top5: by the mean of its smoothed highest 5 %. prior: before morphing.\n\
             (view), (intensity): what AP against PA, or brightness alone, would reach; a model must beat them.\n",
        );
    }
    out
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
