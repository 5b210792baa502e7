//! The paper's table: methods × comparisons, with intervals and tests, from tables of cases alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
};

use morph_scores::{
    Better, Detection, Estimate, MIN_CASES, Plan, best, bootstrap_mean, bootstrap_repeats,
    cases::Case,
    columns,
    columns::Kind,
    delong_repeats,
    evaluation::{Dataset, Input, Leakage},
    mean_and_deviation,
};
use serde::Serialize;

use super::{
    gather::Scored,
    groups::Group,
    mean::{self, Grid},
    same::Pairs,
};

/// [`Table::version`] that this build writes.
pub const VERSION: u32 = 1;
/// Digits after the point.
pub const DECIMALS: usize = 3;

/// How to compare.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// The score's column; `None`: what all runs were scored by.
    pub score: Option<String>,
    /// The run that all others are tested against; `None`: the method with the highest AUROC.
    pub baseline: Option<String>,
    /// Only these comparisons; empty: all.
    pub on: Vec<String>,
    /// How intervals are found.
    pub plan: Plan,
}

/// Everything that a comparison of runs found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Table {
    /// [`VERSION`] of the writer: fields are added, never renamed.
    pub version: u32,
    /// The column that images are ranked by.
    pub score: String,
    /// How intervals are found.
    pub bootstrap: Plan,
    /// Each comparison of healthy with a pathology.
    pub comparisons: Vec<Comparison>,
    /// Each row's mean over all comparisons, where there are several. Intervals are of the mean, tests are by the paired bootstrap; it
    /// has no FID.
    pub mean: Vec<Row>,
    /// Label of the method that the means of all others are tested against; empty where there is no mean.
    pub mean_against: String,
    /// The same numbers once more as methods × comparisons, where there are several.
    pub matrix: Vec<Grid>,
    /// How often the test sets were used.
    pub tests: Vec<super::ledger::Use>,
    /// What a reader must know.
    pub notes: Vec<String>,
}

/// One pathology against healthy.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Its name: that of the pathology.
    pub name: String,
    /// Names of the datasets that its cases are of.
    pub datasets: Vec<String>,
    /// Healthy cases.
    pub healthy: usize,
    /// Pathological cases.
    pub pathology: usize,
    /// Their share: the chance level of AUPRC.
    pub prevalence: f64,
    /// How many persons they are; `None` where persons are unknown, and each image counts as one.
    pub persons: Option<usize>,
    /// Label of the method that all others are tested against.
    pub against: String,
    /// Whether it was chosen for being the best here, which flatters it.
    pub against_best: bool,
    /// Methods, then what knows no network.
    pub rows: Vec<Row>,
}

/// A method, or a baseline.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Its label.
    pub method: String,
    /// Whether it knows no network: the view, the mean intensity.
    pub baseline: bool,
    /// Names of its runs: several where only the seed differs.
    pub runs: Vec<String>,
    /// Seeds of these.
    pub seeds: Vec<u64>,
    /// Area under the ROC curve.
    pub auroc: Cell,
    /// Average precision.
    pub auprc: Cell,
    /// False positive rate where 95 % of the pathology is found.
    pub fpr95: Cell,
    /// The same at 99 %.
    pub fpr99: Cell,
    /// The most of the pathology that is found where 90 % of the healthy are spared.
    pub sens90: Cell,
    /// The same at 95 %.
    pub sens95: Cell,
    /// Mean SSIM of the healthy images and their reconstructions.
    pub ssim: Option<Cell>,
    /// Mean |x − x̂| of the healthy images.
    pub l1: Option<Cell>,
    /// Mean LPIPS of the healthy images and their reconstructions, where the runs have it.
    pub lpips: Option<Cell>,
    /// Fréchet Inception distances, where the runs have them.
    pub fid: Option<Fids>,
    /// Whether its AUROC is another than that of [`Comparison::against`] (in the mean: [`Table::mean_against`]); `None` of that one
    /// itself.
    pub test: Option<Test>,
}

/// Fréchet Inception distances of a method, of several runs their means. They are of whole sets and have no intervals.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fids {
    /// Healthy images' reconstructions against these images.
    pub healthy: f64,
    /// Sick images' reconstructions against the healthy images.
    pub restored: f64,
    /// The sick images as they are against the healthy images.
    pub untouched: f64,
    /// Whose Inception it is by.
    pub network: String,
}

/// A number of a row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cell {
    /// The number, of several runs their mean, with its interval over cases.
    #[serde(flatten)]
    pub estimate: Estimate,
    /// Standard deviation over seeds, where there are several.
    pub seeds_sd: Option<f64>,
    /// Whether no method has a better one, as printed. Says nothing of significance.
    pub best: bool,
}

/// The test of a row against another: DeLong's, of means the paired bootstrap's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Test {
    /// AUROC of this row minus that of the other.
    pub difference: Estimate,
    /// Two-sided p-value.
    pub p: f64,
    /// The same after Holm's correction for all rows of the comparison.
    pub p_holm: f64,
}

/// The table of `groups`.
///
/// # Errors
/// Why they cannot be compared, in a sentence for people.
pub fn table(groups: &[Group<'_>], asked: &Asked) -> Result<Table, String> {
    let score = score(groups, asked)?;
    let mut comparisons = Vec::new();
    let mut notes = Vec::new();
    let mut compared = Vec::new();
    for name in names(groups, &asked.on)? {
        let pairs = Pairs::new(groups, &name)?;
        notes.extend(pairs.notes.iter().cloned());
        comparisons.push(comparison(groups, &name, &score, &pairs, asked, &mut notes)?);
        compared.push(pairs);
    }
    let (mean_against, mean) = mean::mean(groups, &score, &compared, asked, &mut notes)?.unwrap_or_default();
    let matrix = mean::matrix(&comparisons, &mean);
    notes.extend(general(groups, &compared.iter().flat_map(Pairs::datasets).collect()));
    let mut kept: Vec<String> = Vec::new();
    for note in notes {
        if !kept.contains(&note) {
            kept.push(note);
        }
    }
    let bootstrap = asked.plan;
    Ok(Table {
        version: VERSION,
        score,
        bootstrap,
        comparisons,
        mean,
        mean_against,
        matrix,
        tests: Vec::new(),
        notes: kept,
    })
}

fn all<'g>(groups: &'g [Group<'g>]) -> impl Iterator<Item = &'g Scored> {
    groups.iter().flat_map(|g| g.runs.iter().copied())
}

/// The column to compare by.
fn score(groups: &[Group<'_>], asked: &Asked) -> Result<String, String> {
    let first = all(groups).next().ok_or("there are no runs to compare")?;
    let score = match &asked.score {
        Some(score) => score.clone(),
        None => {
            let own = &first.evaluation.design.score;
            if let Some(other) = all(groups).find(|s| s.evaluation.design.score != *own) {
                return Err(format!(
                    "run {} was scored by {own}, run {} by {}: say which one with --score",
                    first.run.name, other.run.name, other.evaluation.design.score
                ));
            }
            own.clone()
        }
    };
    let ranks = |name: &str| matches!(columns::kind(name), Some(Kind::Anomaly | Kind::Baseline));
    match all(groups).find(|s| s.cases.column(&score).is_none() || !ranks(&score)) {
        Some(without) => {
            let known = without.cases.names().iter().map(String::as_str).filter(|name| ranks(name)).collect::<Vec<_>>();
            let is = match columns::known(&score).filter(|_| without.cases.column(&score).is_some()) {
                Some(column) => format!("{score} is no score that is higher for sick images, but: {}", column.meaning),
                None => format!("run {} has no score {score:?}", without.run.name),
            };
            Err(format!("{is}; compare by one of {}", known.join(", ")))
        }
        None => Ok(score),
    }
}

/// The comparisons that all runs have.
fn names(groups: &[Group<'_>], on: &[String]) -> Result<Vec<String>, String> {
    let of = |s: &Scored| s.evaluation.comparisons.keys().cloned().collect::<Vec<String>>();
    let known: Vec<String> = all(groups).next().map(of).unwrap_or_default();
    if on.is_empty() {
        let first = all(groups).next().map(|s| s.run.name.clone()).unwrap_or_default();
        if let Some(other) = all(groups).find(|s| of(s) != known) {
            let list = |names: Vec<String>| if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
            return Err(format!(
                "run {first} was compared on {}, run {} on {}: name those to look at with --on NAME",
                list(known),
                other.run.name,
                list(of(other))
            ));
        }
        if known.is_empty() {
            return Err(format!("run {first} was not scored on any pathology: there is nothing to compare"));
        }
        return Ok(known);
    }
    for name in on {
        if let Some(without) = all(groups).find(|s| !s.evaluation.comparisons.contains_key(name)) {
            let has = of(without).join(", ");
            return Err(format!("run {} has no comparison {name:?}; it has {has}", without.run.name));
        }
    }
    Ok(on.to_vec())
}

/// `[healthy, pathology]` values of a column, in the pairs' order of cases.
type Values = [Vec<f64>; 2];

fn slices(values: &Values) -> [&[f64]; 2] {
    [&values[0], &values[1]]
}

fn comparison(
    groups: &[Group<'_>],
    name: &str,
    score: &str,
    pairs: &Pairs<'_>,
    asked: &Asked,
    notes: &mut Vec<String>,
) -> Result<Comparison, String> {
    let mut scores: Vec<Vec<Values>> = Vec::new();
    for group in groups {
        let of = |run: &&Scored| pairs.values(run, score);
        scores.push(group.runs.iter().map(of).collect::<Result<_, _>>()?);
    }
    let patients = pairs.patients();
    let plan = asked.plan;
    // Each method on a thread of its own: thousands of resamples of thousands of cases take a while.
    let made: Vec<Result<Row, String>> = thread::scope(|scope| {
        let row = |(group, times): (&'_ Group<'_>, &'_ Vec<Values>)| row(group, times, pairs, patients, plan);
        let handles: Vec<_> = groups.iter().zip(&scores).map(|both| scope.spawn(move || row(both))).collect();
        let died = || Err("the computation of a row ended unexpectedly".to_owned());
        handles.into_iter().map(|h| h.join().unwrap_or_else(|_| died())).collect()
    });
    let mut rows = made.into_iter().collect::<Result<Vec<Row>, String>>()?;
    let methods = rows.len();
    for (label, column) in baselines(groups) {
        let Some(run) = all(groups).next() else { continue };
        let Ok(values) = pairs.values(run, column) else { continue };
        let found = detection(std::slice::from_ref(&values), patients, plan)?;
        rows.push(Row { method: label, baseline: true, ..Row::new(&found, &[]) });
        scores.push(vec![values]);
    }
    mark_best(&mut rows[..methods]);
    let against = against(groups, &rows[..methods], asked)?;
    let times: Vec<Vec<[&[f64]; 2]>> = scores.iter().map(|times| times.iter().map(slices).collect()).collect();
    match delong_repeats(&times, patients, Some(against)) {
        Ok(tests) => {
            for t in tests {
                // The test is of the reference minus the row; the table wants it the other way round.
                let d = t.test.difference;
                let difference = Estimate { value: -d.value, low: -d.high, high: -d.low };
                rows[t.second].test = Some(Test { difference, p: t.test.p, p_holm: t.p_holm });
            }
        }
        Err(e) => notes.push(format!("{name}: no p-values: {e}")),
    }
    let [healthy, pathology] = pairs.counts();
    let few = healthy.min(pathology);
    if few < MIN_CASES {
        notes.push(format!("{name}: {few} cases of one class say little; intervals from so few are unreliable."));
    }
    Ok(Comparison {
        name: name.to_owned(),
        datasets: pairs.datasets(),
        healthy,
        pathology,
        prevalence: pathology as f64 / (healthy + pathology) as f64,
        persons: pairs.persons(),
        against: rows[against].method.clone(),
        against_best: asked.baseline.is_none(),
        rows,
    })
}

#[allow(clippy::needless_pass_by_value, reason = "as map_err hands it over")]
pub(super) fn said(e: morph_scores::Error) -> String {
    e.to_string()
}

/// Detection of a method, and the same numbers of each time that it was trained.
pub(super) struct Found {
    pub(super) mean: Detection<Estimate>,
    pub(super) times: Vec<Detection<f64>>,
}

fn detection(times: &[Values], patients: Option<[&[u64]; 2]>, plan: Plan) -> Result<Found, String> {
    let all: Vec<[&[f64]; 2]> = times.iter().map(slices).collect();
    let mean = bootstrap_repeats(&all, patients, plan).map_err(said)?;
    let mut each = Vec::new();
    for [healthy, pathology] in all {
        each.push(Detection::of(&morph_scores::Ranked::new(healthy, pathology).map_err(said)?));
    }
    Ok(Found { mean, times: each })
}

pub(super) fn cell(estimate: Estimate, times: &[f64]) -> Cell {
    let seeds_sd = mean_and_deviation(times).ok().and_then(|(_, deviation)| deviation);
    Cell { estimate, seeds_sd, best: false }
}

impl Row {
    pub(super) fn new(found: &Found, runs: &[&Scored]) -> Self {
        let of = |estimate: Estimate, value: fn(&Detection<f64>) -> f64| {
            cell(estimate, &found.times.iter().map(value).collect::<Vec<f64>>())
        };
        Self {
            method: String::new(),
            baseline: false,
            runs: runs.iter().map(|s| s.run.name.clone()).collect(),
            seeds: runs.iter().map(|s| s.experiment.trainer.seed).collect(),
            auroc: of(found.mean.auroc, |d| d.auroc),
            auprc: of(found.mean.average_precision, |d| d.average_precision),
            fpr95: of(found.mean.fpr_at_95_tpr, |d| d.fpr_at_95_tpr),
            fpr99: of(found.mean.fpr_at_99_tpr, |d| d.fpr_at_99_tpr),
            sens90: of(found.mean.sensitivity_at_90_specificity, |d| d.sensitivity_at_90_specificity),
            sens95: of(found.mean.sensitivity_at_95_specificity, |d| d.sensitivity_at_95_specificity),
            ssim: None,
            l1: None,
            lpips: None,
            fid: None,
            test: None,
        }
    }
}

fn row(
    group: &Group<'_>,
    times: &[Values],
    pairs: &Pairs<'_>,
    patients: Option<[&[u64]; 2]>,
    plan: Plan,
) -> Result<Row, String> {
    let found = detection(times, patients, plan)?;
    let fidelity = |column: &str| -> Result<Option<Cell>, String> {
        let mut of_healthy = Vec::new();
        for run in &group.runs {
            // A score that a run does not have leaves the cell empty.
            let Ok([healthy, _]) = pairs.values(run, column) else { return Ok(None) };
            of_healthy.push(healthy);
        }
        let n = of_healthy.len() as f64;
        let cases = of_healthy.first().map_or(0, Vec::len);
        let means: Vec<f64> = (0..cases).map(|i| of_healthy.iter().map(|v| v[i]).sum::<f64>() / n).collect();
        let each: Vec<f64> = of_healthy.iter().map(|v| v.iter().sum::<f64>() / v.len() as f64).collect();
        let estimate = bootstrap_mean(&means, patients.map(|p| p[0]), plan).map_err(said)?;
        Ok(Some(cell(estimate, &each)))
    };
    let (ssim, l1, lpips) = (fidelity("ssim")?, fidelity("l1")?, fidelity("lpips")?);
    let fid = fids(group, pairs.name());
    Ok(Row { method: group.label.clone(), ssim, l1, lpips, fid, ..Row::new(&found, &group.runs) })
}

/// The means of a method's distances in the comparison `name`; `None` where a run has none, or another network's.
fn fids(group: &Group<'_>, name: &str) -> Option<Fids> {
    let of = |s: &Scored| {
        let c = s.evaluation.comparisons.get(name)?;
        let healthy = s.evaluation.sets.get(&c.sets.healthy)?.fid.as_ref()?;
        let values = [healthy.value, c.healthy_fid.as_ref()?.value, c.untouched_fid.as_ref()?.value];
        Some((values, healthy.network.clone()))
    };
    let all = group.runs.iter().map(|run| of(run)).collect::<Option<Vec<_>>>()?;
    let network = all.first()?.1.clone();
    let mean = |i: usize| all.iter().map(|(values, _)| values[i]).sum::<f64>() / all.len() as f64;
    let same = all.iter().all(|(_, other)| *other == network);
    same.then(|| Fids { healthy: mean(0), restored: mean(1), untouched: mean(2), network })
}

/// Label and column of what knows no network.
pub(super) fn baselines(groups: &[Group<'_>]) -> Vec<(String, &'static str)> {
    let has = |name: &str| all(groups).next().is_some_and(|s| s.cases.column(name).is_some());
    let known = columns::ALL.iter().filter(|c| c.kind == Kind::Baseline && has(c.name));
    let label = |name: &str| match name {
        columns::VIEW => "view alone".to_owned(),
        "intensity" => "mean intensity".to_owned(),
        other => other.to_owned(),
    };
    known.map(|c| (label(c.name), c.name)).collect()
}

pub(super) fn mark_best(rows: &mut [Row]) {
    fn mark(rows: &mut [Row], better: Better, cell: fn(&mut Row) -> Option<&mut Cell>) {
        let column: Vec<Option<f64>> = rows.iter_mut().map(|r| cell(r).map(|c| c.estimate.value)).collect();
        for (row, is_best) in rows.iter_mut().zip(best(&column, better, DECIMALS)) {
            if let Some(cell) = cell(row) {
                cell.best = is_best;
            }
        }
    }
    mark(rows, Better::Higher, |r| Some(&mut r.auroc));
    mark(rows, Better::Higher, |r| Some(&mut r.auprc));
    mark(rows, Better::Lower, |r| Some(&mut r.fpr95));
    mark(rows, Better::Lower, |r| Some(&mut r.fpr99));
    mark(rows, Better::Higher, |r| Some(&mut r.sens90));
    mark(rows, Better::Higher, |r| Some(&mut r.sens95));
    mark(rows, Better::Higher, |r| r.ssim.as_mut());
    mark(rows, Better::Lower, |r| r.l1.as_mut());
    mark(rows, Better::Lower, |r| r.lpips.as_mut());
}

/// The method with the highest AUROC, of several the first; baselines take no part.
pub fn highest(rows: &[Row]) -> Option<usize> {
    let methods = (0..rows.len()).rev().filter(|at| !rows[*at].baseline);
    methods.max_by(|a, b| rows[*a].auroc.estimate.value.total_cmp(&rows[*b].auroc.estimate.value))
}

/// The row that all others are tested against.
pub(super) fn against(groups: &[Group<'_>], rows: &[Row], asked: &Asked) -> Result<usize, String> {
    match &asked.baseline {
        None => {
            let best = highest(rows);
            best.ok_or_else(|| "there are no runs to compare".to_owned())
        }
        Some(wanted) => groups
            .iter()
            .position(|g| g.label == *wanted || g.runs.iter().any(|s| s.run.name == *wanted || s.run.id == *wanted))
            .ok_or_else(|| {
                let labels: Vec<&str> = groups.iter().map(|g| g.label.as_str()).collect();
                format!(
                    "--baseline {wanted}: that is none of the runs that are compared; methods are {}",
                    labels.join(", ")
                )
            }),
    }
}

/// What holds for all comparisons.
fn general(groups: &[Group<'_>], datasets: &BTreeSet<String>) -> Vec<String> {
    let mut notes = Vec::new();
    let used = |d: &&Dataset| datasets.contains(&d.name);
    if all(groups).any(|s| s.evaluation.datasets.iter().filter(used).any(|d| d.synthetic)) {
        notes.push("These are phantoms: their numbers say nothing about patients.".to_owned());
    }
    for s in all(groups) {
        let of_run = &s.evaluation.datasets;
        notes.extend(of_run.iter().filter(used).filter_map(|d| d.remark(of_run.first()?)));
        let doubtful =
            |l: &&Leakage| !l.unchecked.is_empty() || l.validation > 0 || (l.allowed && l.persons + l.images > 0);
        if let Some(leakage) = s.evaluation.leakage.as_ref().filter(doubtful) {
            notes.push(format!("run {}: {}", s.run.name, leakage.text()));
        }
    }
    if let Some(first) = all(groups).next() {
        for other in all(groups).skip(1) {
            for how in Input::changed(&first.evaluation.inputs, &other.evaluation.inputs) {
                notes.push(format!(
                    "Not scored with the same files: in run {} {how} in run {}.",
                    first.run.name, other.run.name
                ));
            }
        }
    }
    let epochs: BTreeMap<u32, &str> = all(groups).map(|s| (s.experiment.trainer.epochs, s.run.name.as_str())).collect();
    if epochs.len() > 1 {
        let said: Vec<String> = epochs.iter().map(|(n, run)| format!("{n} ({run})")).collect();
        notes.push(format!("The runs were trained for different numbers of epochs: {}.", said.join(", ")));
    }
    notes
}

/// Case and dataset, by which a case is known in all runs.
pub fn key(case: &Case) -> (&str, &str) {
    (&case.dataset, &case.id)
}
