//! A card for each method: what it is for, what it was made of, what is known of its limits.

use std::collections::BTreeMap;

use morph_scores::cases::Role;

use super::{
    html::{Html, list, pairs, plain, tag},
    material::Material,
    page::RESEARCH,
};
use crate::compare::{formats, gather::Scored, groups::Group};

/// All cards.
pub fn cards(m: &Material, groups: &[Group<'_>]) -> Html {
    let cards = groups.iter().map(|g| tag("article", &[("class", "card")], card(m, g)));
    tag("div", &[("class", "cards")], cards.collect::<Html>())
}

fn card(m: &Material, group: &Group<'_>) -> Vec<Html> {
    let s = group.runs[0];
    let e = &s.experiment;
    let seeds: Vec<String> = group.runs.iter().map(|s| s.experiment.trainer.seed.to_string()).collect();
    let runs: Vec<&str> = group.runs.iter().map(|s| s.run.name.as_str()).collect();
    let trainer = &e.trainer;
    let training = format!(
        "{} epochs at most, batches of {} over {} ranks, {:?} at a rate of {}, seed {}",
        trainer.epochs,
        trainer.batch_size,
        s.run.world_size,
        trainer.optimizer.name,
        trainer.optimizer.lr,
        seeds.join(", ")
    );
    let results = m.table.comparisons.iter().filter_map(|c| {
        let row = c.rows.iter().find(|r| !r.baseline && r.method == group.label)?;
        Some(format!(
            "healthy against {}: AUROC {}, AUPRC {} (chance {:.3})",
            c.name,
            formats::number(&row.auroc),
            formats::number(&row.auprc),
            c.prevalence
        ))
    });
    let facts = pairs(vec![
        (
            "What it is",
            Html::from(format!(
                "{}, an anomaly detector: it reconstructs an image as a healthy one, and scores how far the image is from that",
                e.model.method.title()
            )),
        ),
        (
            "Intended use",
            "Research on methods of anomaly detection in chest X-rays, on data like that which it was trained on."
                .into(),
        ),
        ("Not for", Html::from(RESEARCH)),
        ("Runs", runs.join(", ").into()),
        ("Training data", training_data(m, s).into()),
        ("Training", training.into()),
        (
            "Input",
            Html::from(format!(
                "one channel of {0}×{0} pixels, 8 bits, prepared as the dataset's manifest says",
                e.model.image_size
            )),
        ),
        (
            "Score",
            Html::from(format!(
                "{}, higher for images that look sicker; evaluated by {}",
                s.evaluation.design.score, m.table.score
            )),
        ),
        ("Test data", test_data(s).into()),
    ]);
    vec![
        plain("h3", group.label.as_str()),
        facts,
        plain("h4", "Results"),
        list(results),
        plain("h4", "Limits"),
        list(limits(m, group)),
    ]
}

fn training_data(m: &Material, s: &Scored) -> String {
    let subset = &s.experiment.dataset.train;
    let labels = if subset.labels.is_empty() { "all labels".to_owned() } else { subset.labels.join(", ") };
    let digest: String = s.run.dataset.chars().take(12).collect();
    let Some(manifest) = m.manifests.get(&s.run.dataset) else {
        return format!(
            "{labels} of the {} split, manifest {digest}; views, sex and age of training images are not recorded",
            subset.split
        );
    };
    let counts = manifest.counts.get(&subset.split);
    let wanted = |label: &String| subset.labels.is_empty() || subset.labels.contains(label);
    let n: u64 = counts.map_or(0, |c| c.iter().filter(|(label, _)| wanted(label)).map(|(_, n)| n).sum());
    format!(
        "{n} images ({labels}) of the {} split of {}, manifest {digest}; their views, sex and age are not recorded in it",
        subset.split, manifest.name
    )
}

/// The test sets: how many, of which views, sex and age.
fn test_data(s: &Scored) -> String {
    let mut sets = Vec::new();
    for (name, role) in s.cases.sets().into_iter().filter(|(_, role)| *role != Role::Validation) {
        let cases: Vec<_> = s.cases.set(name).collect();
        let share = |what: &str, of: &dyn Fn(&morph_scores::cases::Case) -> Option<String>| {
            let mut counts = BTreeMap::<String, usize>::new();
            for case in &cases {
                *counts.entry(of(case).unwrap_or_else(|| "unknown".to_owned())).or_default() += 1;
            }
            let said: Vec<String> =
                counts.iter().map(|(k, n)| format!("{k} {:.0} %", 100.0 * *n as f64 / cases.len() as f64)).collect();
            format!("{what}: {}", said.join(", "))
        };
        let ages: Vec<u32> = cases.iter().filter_map(|c| c.age).collect();
        let age = if ages.is_empty() {
            "age: unknown".to_owned()
        } else {
            format!("age: mean {:.0}", f64::from(ages.iter().sum::<u32>()) / ages.len() as f64)
        };
        let (view, sex) = (share("view", &|c| c.view.clone()), share("sex", &|c| c.sex.clone()));
        sets.push(format!("{name} ({}): {} images; {view}; {sex}; {age}", role.name(), cases.len()));
    }
    sets.join(". ")
}

fn limits(m: &Material, group: &Group<'_>) -> Vec<String> {
    let s = group.runs[0];
    let mut out = Vec::new();
    if s.evaluation.datasets.iter().any(|d| d.synthetic) {
        out.push("Trained or tested on phantoms: no number here says anything about patients.".to_owned());
    }
    if group.runs.len() == 1 {
        out.push("One seed: how far the numbers depend on it is not known.".to_owned());
    }
    for c in &m.table.comparisons {
        let Some(row) = c.rows.iter().find(|r| !r.baseline && r.method == group.label) else { continue };
        for baseline in c.rows.iter().filter(|r| r.baseline) {
            if row.auroc.estimate.value <= baseline.auroc.estimate.value {
                out.push(format!(
                    "On {} it does not beat {} ({:.3} against {:.3}), which knows no network.",
                    c.name, baseline.method, row.auroc.estimate.value, baseline.auroc.estimate.value
                ));
            }
        }
        if row.auroc.estimate.low <= 0.5 {
            out.push(format!(
                "On {} its AUROC is not above chance: the interval reaches {:.3}.",
                c.name, row.auroc.estimate.low
            ));
        }
        let Some(own) = s.evaluation.comparisons.get(&c.name) else { continue };
        if let Some(o) = own.scores.get(&m.table.score).and_then(|found| found.operating) {
            let asked = s.evaluation.design.specificity;
            if !(o.specificity.low..=o.specificity.high).contains(&asked) {
                out.push(format!(
                    "On {} specificity drifts: {:.3} was asked of the threshold, {:.3} came of it.",
                    c.name, asked, o.specificity.value
                ));
            }
        }
        let few: Vec<String> = own
            .subgroups
            .iter()
            .flat_map(|(by, parts)| {
                parts.iter().filter(|p| p.detection.is_none()).map(move |p| format!("{by} {}", p.group))
            })
            .collect();
        if !few.is_empty() {
            out.push(format!("On {} nothing is known of groups with too few images: {}.", c.name, few.join(", ")));
        }
    }
    match &s.evaluation.leakage {
        Some(leakage) => out.push(format!("{}.", leakage.text())),
        None => out.push("Whether test patients took part in training was not checked.".to_owned()),
    }
    out.extend(s.evaluation.notes.iter().cloned());
    out.extend(m.table.tests.iter().filter_map(|t| t.warning()).map(|w| format!("{w}.")));
    let mut kept: Vec<String> = Vec::new();
    out.into_iter().for_each(|line| {
        if !kept.contains(&line) {
            kept.push(line);
        }
    });
    kept
}
