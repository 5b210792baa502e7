//! The page: what stands on it, in which order.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{
    cards,
    html::{Html, list, p, plain, section, tag},
    material::Material,
    scores, trained,
};
use crate::{
    compare::{
        formats,
        gather::Scored,
        groups::{Group, groups},
        table::{Row, highest},
    },
    text,
};

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("sort.js");

/// Said of everything here.
pub const RESEARCH: &str = "Research use only. Not a medical device, and not for decisions about patients.";

/// The page.
pub fn render(m: &Material) -> String {
    let groups = groups(&m.gathered.runs);
    let title = title(m);
    let sections: Vec<(&'static str, &'static str, Html)> = vec![
        ("table", "Comparison", scores::comparisons(m)),
        ("trained", "What was trained", trained::runs(m, &groups)),
        ("curves", "Curves", scores::curves(m, &groups)),
        ("distributions", "Distributions of scores", scores::distributions(m, &groups)),
        ("thresholds", "Thresholds and calibration", scores::thresholds(m, &groups)),
        ("subgroups", "Subgroups", scores::subgroups(m, &groups)),
        ("localisation", "Localisation", scores::localisation(m, &groups)),
        ("restoration", "Restoration", scores::restoration(m, &groups)),
        ("examples", "Examples", trained::examples(m, &groups)),
        ("training", "Training", trained::curves(m, &groups)),
        ("ledger", "Use of the test sets", scores::ledger(m)),
        ("cards", "Model cards", cards::cards(m, &groups)),
        ("reading", "How to read this", reading(m)),
    ];
    let shown: Vec<_> = sections.into_iter().filter(|(_, _, inner)| !inner.is_none()).collect();
    let links = shown.iter().map(|(id, name, _)| plain("li", tag("a", &[("href", &format!("#{id}"))], *name)));
    let nav = tag("nav", &[("aria-label", "Sections")], plain("ul", links.collect::<Html>()));
    let main: Html = shown.into_iter().map(|(id, name, inner)| section(id, name, inner)).collect();
    let data = json!({ "table": m.table, "runs": m.gathered.runs.iter().map(run_json).collect::<Vec<_>>() });
    let body = Html::from([
        tag("a", &[("class", "skip"), ("href", "#main")], "Skip to the tables"),
        plain("header", [plain("h1", title.as_str()), lead(m), banners(m), summary(m, &groups), nav]),
        tag("main", &[("id", "main")], main),
        plain(
            "footer",
            p(format!("Made by morphctl {}, {}. {RESEARCH}", env!("CARGO_PKG_VERSION"), text::instant(m.at))),
        ),
        tag("script", &[("type", "application/json"), ("id", "data")], Html::json(&data)),
        plain("script", Html::constant(SCRIPT)),
    ]);
    // Nothing may be loaded, and no script but the one above may run, whatever stands in names and labels.
    let hash = STANDARD.encode(Sha256::digest(SCRIPT.as_bytes()));
    let policy = format!(
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{hash}'; base-uri 'none'"
    );
    let head = Html::from([
        tag("meta", &[("charset", "utf-8")], Html::none()),
        tag("meta", &[("http-equiv", "Content-Security-Policy"), ("content", &policy)], Html::none()),
        tag("meta", &[("name", "viewport"), ("content", "width=device-width, initial-scale=1")], Html::none()),
        plain("title", title.as_str()),
        plain("style", Html::constant(STYLE)),
    ]);
    let page = tag("html", &[("lang", "en")], [plain("head", head), plain("body", body)]);
    format!("<!DOCTYPE html>\n{}\n", page.into_string())
}

fn title(m: &Material) -> String {
    let sweeps: Vec<&str> = m.gathered.sweeps.iter().map(|s| s.name.as_str()).collect();
    if sweeps.is_empty() {
        let runs: Vec<&str> = m.gathered.runs.iter().map(|s| s.run.name.as_str()).take(4).collect();
        let more = if m.gathered.runs.len() > runs.len() { ", …" } else { "" };
        return format!("Report on {}{more}", runs.join(", "));
    }
    format!("Report on sweep {}", sweeps.join(", "))
}

fn lead(m: &Material) -> Html {
    let described = m.gathered.sweeps.iter().filter_map(|s| {
        let sweep: morph_spec::Sweep = serde_json::from_str(&s.sweep_json).ok()?;
        Some(sweep.description).filter(|d| !d.is_empty())
    });
    let mut out: Vec<Html> = described.map(|d| tag("p", &[("class", "lead")], d)).collect();
    let runs = m.gathered.runs.len();
    let of = if runs == 1 { "One run".to_owned() } else { format!("{runs} runs") };
    out.push(tag("p", &[("class", "lead")], format!("{of}, {}. {RESEARCH}", text::instant(m.at))));
    out.into()
}

/// What nobody may overlook.
fn banners(m: &Material) -> Html {
    let mut warnings: Vec<String> =
        m.table.tests.iter().filter_map(|t| t.warning()).map(|w| format!("Warning: {w}.")).collect();
    warnings.extend(m.table.notes.iter().cloned());
    warnings.into_iter().map(|w| tag("div", &[("class", "warning"), ("role", "note")], p(w))).collect()
}

/// How many methods are told apart from `against`.
fn apart(rows: &[Row], against: &str) -> String {
    let others: Vec<&Row> = rows.iter().filter(|r| !r.baseline && r.method != against).collect();
    let told = others.iter().filter(|r| r.test.is_some_and(|t| t.p_holm < 0.05)).count();
    format!("{told} of {} others differ from {against} at 5 %", others.len())
}

/// The result in a sentence for each comparison.
fn summary(m: &Material, groups: &[Group<'_>]) -> Html {
    let mut sentences = Vec::new();
    for c in &m.table.comparisons {
        let Some(best) = highest(&c.rows).map(|at| &c.rows[at]) else { continue };
        let mut text = format!("Healthy against {}: ", c.name);
        if groups.len() > 1 {
            text.push_str(&format!(
                "of {} methods, {} has the highest AUROC, {}",
                groups.len(),
                best.method,
                formats::number(&best.auroc)
            ));
            text.push_str(&format!("; {} (DeLong, Holm)", apart(&c.rows, &c.against)));
        } else {
            text.push_str(&format!("AUROC {}", formats::number(&best.auroc)));
        }
        for baseline in c.rows.iter().filter(|r| r.baseline) {
            let than =
                if baseline.auroc.estimate.value < best.auroc.estimate.value { "is lower" } else { "is NOT lower" };
            text.push_str(&format!("; {} {than}, {}", baseline.method, formats::number(&baseline.auroc)));
        }
        text.push('.');
        sentences.push(text);
    }
    if let Some(best) = highest(&m.table.mean).map(|at| &m.table.mean[at]) {
        let of = if groups.len() > 1 {
            let apart = apart(&m.table.mean, &m.table.mean_against);
            format!(
                "{} has the highest AUROC, {}; {apart} (bootstrap, Holm)",
                best.method,
                formats::number(&best.auroc)
            )
        } else {
            format!("AUROC {}", formats::number(&best.auroc))
        };
        sentences.push(format!("Mean over {} comparisons: {of}.", m.table.comparisons.len()));
    }
    tag("div", &[("class", "note")], sentences.into_iter().map(p).collect::<Html>())
}

/// The run for programs.
fn run_json(s: &Scored) -> serde_json::Value {
    let run = &s.run;
    json!({
        "id": run.id,
        "name": run.name,
        "method": s.experiment.model.method.name(),
        "seed": s.experiment.trainer.seed,
        "dataset": run.dataset,
        "experiment": s.experiment,
    })
}

fn reading(m: &Material) -> Html {
    let columns =
        m.gathered.runs.first().map(|s| morph_scores::evaluation::legend(s.cases.names())).unwrap_or_default();
    let meanings =
        columns.into_iter().map(|(name, meaning)| Html::from([plain("dt", plain("code", name)), plain("dd", meaning)]));
    let general = [
        "AUROC: the chance that a sick image scores higher than a healthy one; 0.5 is chance. AUPRC: average precision; chance is the prevalence of this test set, which is its makers' choice.",
        "FPR@95, FPR@99: the share of healthy images called sick where 95 % or 99 % of the sick are found, as read from the test set's own curve.",
        "Intervals hold 95 % of resamples of the test cases, each class by itself, patients drawn whole where they are known. They say how far the number depends on these cases, not on the seed of the training.",
        "p-values are DeLong's test of AUROC on the same cases, corrected by Holm for all rows of a comparison. Against a method that was chosen for being the best here they are optimistic.",
        "View alone (AP against PA) and mean intensity know no network. A method that does not beat them has not been shown to see disease.",
        "Thresholds of use come from healthy validation images alone; what they do on the test set is reported, and never tuned there.",
    ];
    Html::from([
        list(formats::legend(&m.table)),
        list(general.map(ToOwned::to_owned)),
        plain("h3", "Scores of an image (x: the image, x': its reconstruction)"),
        plain("dl", meanings.collect::<Html>()),
    ])
}
