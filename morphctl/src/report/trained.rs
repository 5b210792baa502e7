//! What was trained: runs, how their configurations differ, examples, curves.

use std::collections::{BTreeMap, BTreeSet};

use base64::{Engine, engine::general_purpose::STANDARD};
use morph_spec::Experiment;
use serde_json::Value;

use super::{
    html::{Cell, Head, Html, p, plain, table, tag},
    material::Material,
    plots,
};
use crate::{
    compare::{gather::Scored, groups::Group},
    text,
};

/// Every run of `groups` with the number and label of its method; the seed is named where there are several.
pub fn each<'a, 'g>(groups: &'g [Group<'a>]) -> impl Iterator<Item = (usize, String, &'a Scored)> + 'g {
    groups.iter().enumerate().flat_map(|(i, g)| {
        let several = g.runs.len() > 1;
        g.runs.iter().map(move |s| {
            let seed = if several { format!(" (seed {})", s.experiment.trainer.seed) } else { String::new() };
            (i, format!("{}{seed}", g.label), *s)
        })
    })
}

/// The runs, and how they differ.
pub fn runs(m: &Material, groups: &[Group<'_>]) -> Html {
    let heads = ["Method", "Run", "What it is"].map(Head::text).into_iter();
    let numbers = ["Seed", "Ranks", "Epochs", "Steps", "Scored step", "Validation score"].map(Head::number);
    let heads: Vec<Head> = heads.chain(numbers).chain(["Time", "morph", "Dataset"].map(Head::text)).collect();
    let row = |(_, label, s): (usize, String, &Scored)| {
        let run = &s.run;
        let newest = run.attempts.last();
        let took = if run.started_at == 0 { "–".to_owned() } else { text::ago(run.started_at, run.ended_at) };
        let title = s.experiment.model.method.title();
        vec![
            Cell::of(label),
            Cell::of(run.name.as_str()),
            Cell::of(title),
            Cell::number(s.experiment.trainer.seed as f64, 0),
            Cell::count(run.world_size as usize),
            Cell::count(run.epoch as usize),
            Cell::count(run.step as usize),
            Cell::count(s.evaluation.model.step as usize),
            s.evaluation
                .model
                .validation_score
                .map_or_else(Cell::empty, |v| Cell { shown: text::number(v).into(), value: Some(v) }),
            Cell::of(took),
            Cell::of(newest.map_or("–", |a| a.version.as_str())),
            Cell::of(plain("code", run.dataset.chars().take(12).collect::<String>())),
        ]
    };
    let rows = each(groups).map(row).collect();
    let caption = "Runs. The validation score is each method's own loss on healthy images and says nothing between methods; \
                   the dataset is named by the beginning of its manifest's BLAKE3.";
    let mut parts = vec![table(caption, &heads, rows), datasets(m)];
    parts.extend(differences(groups));
    parts.into()
}

/// What the datasets say of themselves.
fn datasets(m: &Material) -> Html {
    let heads = ["Dataset", "Split"].map(Head::text).into_iter().chain([Head::number("Images"), Head::text("Labels")]);
    let mut rows = Vec::new();
    for (digest, manifest) in &m.manifests {
        for (split, labels) in &manifest.counts {
            let each: Vec<String> = labels.iter().map(|(label, n)| format!("{label} {n}")).collect();
            let short: String = digest.chars().take(12).collect();
            let name =
                format!("{} at {}×{} px, {short}", manifest.name, manifest.image_size[0], manifest.image_size[1]);
            rows.push(vec![
                Cell::of(name),
                Cell::of(split.as_str()),
                Cell::count(labels.values().sum::<u64>() as usize),
                Cell::of(each.join(", ")),
            ]);
        }
    }
    if rows.is_empty() {
        return p("The datasets are not there any more, or others lie in their place: their contents are not listed.");
    }
    table("What the datasets hold.", &heads.collect::<Vec<_>>(), rows)
}

/// The fields in which the methods' configurations differ.
fn differences(groups: &[Group<'_>]) -> Option<Html> {
    let all: Vec<BTreeMap<String, String>> = groups.iter().map(|g| leaves(&g.runs[0].experiment)).collect();
    let names: BTreeSet<&String> = all.iter().flat_map(BTreeMap::keys).collect();
    let differs = |name: &&&String| all.iter().any(|e| e.get(**name) != all[0].get(**name));
    let differing: Vec<&&String> = names.iter().filter(differs).collect();
    if groups.len() < 2 {
        return None;
    }
    if differing.is_empty() {
        return Some(p("The configurations of all methods are the same."));
    }
    let heads: Vec<Head> =
        std::iter::once("Field").chain(groups.iter().map(|g| g.label.as_str())).map(Head::text).collect();
    let row = |name: &&String| {
        let cells = all.iter().map(|e| e.get(*name).map_or_else(Cell::empty, |v| Cell::of(plain("code", v.as_str()))));
        std::iter::once(Cell::of(plain("code", name.as_str()))).chain(cells).collect()
    };
    let caption = "The fields in which configurations differ, but for seeds and names. Defaults are written out; not every \
                   method has a use for every field.";
    Some(table(caption, &heads, differing.into_iter().map(row).collect()))
}

/// Dotted fields and values of an experiment, but for what differs between runs of one method.
fn leaves(experiment: &Experiment) -> BTreeMap<String, String> {
    fn collect(value: &Value, name: &str, out: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                for (key, value) in fields {
                    let below = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                    collect(value, &below, out);
                }
            }
            Value::String(text) => drop(out.insert(name.to_owned(), text.clone())),
            other => drop(out.insert(name.to_owned(), other.to_string())),
        }
    }
    let mut out = BTreeMap::new();
    collect(&serde_json::to_value(experiment).unwrap_or_default(), "", &mut out);
    out.retain(|name, _| {
        !["name", "description", "trainer.seed"].contains(&name.as_str()) && !name.starts_with("scheduling.")
    });
    out
}

/// The picture that each run left.
pub fn examples(m: &Material, groups: &[Group<'_>]) -> Html {
    let mut parts = Vec::new();
    for (_, label, s) in each(groups) {
        let Some(png) = m.panels.get(&s.run.id) else { continue };
        let source = format!("data:image/png;base64,{}", STANDARD.encode(png));
        let said = format!("examples of {label}: input, prior, reconstruction and residuals of some test cases");
        // What was drawn before panels had one scale says so in the picture itself.
        let scale = s.evaluation.residual_scale.map_or(String::new(), |v| {
            format!(" Of healthy validation images 99.5 % of the residuals' pixels are below {v:.3}, where heat maps are brightest.")
        });
        let said_of = "The scale of residuals stands in the picture; it is the same for all images.";
        let caption = plain("figcaption", format!("{label}, run {}. {said_of}{scale}", s.run.name));
        let image = tag("img", &[("src", &source), ("alt", &said), ("loading", "lazy")], Html::none());
        parts.push(tag("figure", &[("class", "panel")], [plain("h3", label.as_str()), image, caption]));
    }
    if parts.is_empty() {
        return Html::none();
    }
    parts.insert(0, p("Evenly spaced cases of each set, chosen by their place and not by their scores."));
    parts.into()
}

/// Loss and validation score of each run.
pub fn curves(m: &Material, groups: &[Group<'_>]) -> Html {
    let mut parts = Vec::new();
    for (index, label, s) in each(groups) {
        if let Some(t) = m.training.get(&s.run.id) {
            parts.push(plots::training(&label, index, &t.loss, &t.score));
        }
    }
    if parts.is_empty() {
        return Html::none();
    }
    let said = "Each method has a loss of its own: curves say whether a run had converged, and nothing between methods. \
                The network of the lowest validation score was scored.";
    Html::from([p(said), tag("div", &[("class", "grid3")], parts)])
}
