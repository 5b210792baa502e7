//! Methods × test sets: each number of each comparison side by side, and its mean over all of them.

use std::collections::BTreeMap;

use morph_scores::{Detection, Part, Plan, Ranked, Resampled, Values, bootstrap_mean_over, holm, resample_over};
use serde::Serialize;

use super::{
    formats,
    gather::Scored,
    groups::Group,
    same::Pairs,
    table::{Asked, Cell, Comparison, Found, Row, Test, against, baselines, cell, mark_best, said},
};

/// What the mean over comparisons is called, beside their names; no comparison may have it.
pub const MEAN: &str = "mean";

/// How many cases, or persons, a class must have for its resamples to differ.
const TESTABLE: usize = 2;

/// One number of all methods on all test sets.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Grid {
    /// Which number: `auroc`, `auprc`, …
    pub number: &'static str,
    /// Its head in tables.
    pub head: &'static str,
    /// Methods, then what knows no network.
    pub rows: Vec<Line>,
}

/// A method's number on each test set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Line {
    /// The method's label.
    pub method: String,
    /// Whether it knows no network.
    pub baseline: bool,
    /// By comparison, and the mean over all of them as [`MEAN`]; what a method does not have is not there.
    pub by: BTreeMap<String, Cell>,
}

/// The mean of each row over `comparisons`: methods, then those baselines that all comparisons have; and the label of the method that
/// they are tested against. `None` of a single comparison.
///
/// # Errors
/// When a case has no score.
pub fn mean(
    groups: &[Group<'_>],
    score: &str,
    pairs: &[Pairs<'_>],
    asked: &Asked,
    notes: &mut Vec<String>,
) -> Result<Option<(String, Vec<Row>)>, String> {
    if pairs.len() < 2 {
        return Ok(None);
    }
    let plan = asked.plan;
    let (mut rows, mut resampled) = (Vec::new(), Vec::new());
    for group in groups {
        let (detected, all) = detection(&group.runs, score, pairs, plan)?;
        resampled.push(all);
        let of = |column: &str| fidelity(&group.runs, column, pairs, plan);
        let (ssim, l1, lpips) = (of("ssim")?, of("l1")?, of("lpips")?);
        rows.push(Row { method: group.label.clone(), ssim, l1, lpips, ..Row::new(&detected, &group.runs) });
    }
    mark_best(&mut rows);
    let against = against(groups, &rows, asked)?;
    let first = groups.first().and_then(|g| g.runs.first()).copied();
    for (label, column) in baselines(groups) {
        let Some(run) = first.filter(|run| pairs.iter().all(|p| p.values(run, column).is_ok())) else { continue };
        let (detected, all) = detection(&[run], column, pairs, plan)?;
        resampled.push(all);
        rows.push(Row { method: label, baseline: true, ..Row::new(&detected, &[]) });
    }
    match pairs.iter().find(|p| p.drawn().into_iter().min() < Some(TESTABLE)) {
        // It would be drawn whole each time, as if there were no other.
        Some(p) => {
            notes.push(format!("mean: no p-values: {} has a class of less than {TESTABLE} to draw from.", p.name()));
        }
        None => test(&mut rows, &resampled, against)?,
    }
    Ok(Some((rows[against].method.clone(), rows)))
}

/// Tests every row but `against` for another mean AUROC than that one's.
fn test(rows: &mut [Row], resampled: &[Resampled], against: usize) -> Result<(), String> {
    let others: Vec<usize> = (0..rows.len()).filter(|at| *at != against).collect();
    let mut found = Vec::new();
    for at in &others {
        found.push(resampled[*at].minus(&resampled[against]).map_err(said)?.auroc);
    }
    let corrected = holm(&found.iter().map(|d| d.p).collect::<Vec<_>>()).map_err(said)?;
    for ((at, d), p_holm) in others.into_iter().zip(found).zip(corrected) {
        rows[at].test = Some(Test { difference: d.estimate, p: d.p, p_holm });
    }
    Ok(())
}

/// Detection by `column`, the mean over comparisons, with that of each time that the method was trained; and its resamples.
fn detection(runs: &[&Scored], column: &str, pairs: &[Pairs<'_>], plan: Plan) -> Result<(Found, Resampled), String> {
    let mut values = Vec::new();
    for p in pairs {
        values.push(runs.iter().map(|run| p.values(run, column)).collect::<Result<Vec<_>, String>>()?);
    }
    let parts: Vec<Part<'_>> = pairs.iter().zip(&values).map(|(p, times)| part(p, times)).collect();
    let resampled = resample_over(&parts, plan).map_err(said)?;
    let mut times = Vec::new();
    for time in 0..runs.len() {
        let mut each = Vec::new();
        for [healthy, sick] in values.iter().filter_map(|times| times.get(time)) {
            each.push(Detection::of(&Ranked::new(healthy, sick).map_err(said)?));
        }
        times.extend(Detection::mean(&each));
    }
    Ok((Found { mean: resampled.detection(), times }, resampled))
}

/// A comparison with the scores of each time that a method was trained.
fn part<'a>(pairs: &'a Pairs<'a>, times: &'a [[Vec<f64>; 2]]) -> Part<'a> {
    Part {
        sets: pairs.sets(),
        times: times.iter().map(|[healthy, sick]| [healthy.as_slice(), sick.as_slice()]).collect(),
        patients: pairs.patients(),
    }
}

/// The mean over comparisons of what their healthy images have by themselves; `None` where some do not.
fn fidelity(runs: &[&Scored], column: &str, pairs: &[Pairs<'_>], plan: Plan) -> Result<Option<Cell>, String> {
    let mut of_cases: Vec<Vec<f64>> = Vec::new();
    let mut of_runs = vec![0.0; runs.len()];
    for p in pairs {
        let [cases, _] = p.counts();
        let mut means = vec![0.0; cases];
        for (run, mean) in runs.iter().zip(&mut of_runs) {
            let Ok([healthy, _]) = p.values(run, column) else { return Ok(None) };
            *mean += healthy.iter().sum::<f64>() / (cases * pairs.len()) as f64;
            means.iter_mut().zip(healthy).for_each(|(sum, v)| *sum += v / runs.len() as f64);
        }
        of_cases.push(means);
    }
    let mut parts = Vec::new();
    for (p, values) in pairs.iter().zip(&of_cases) {
        parts.push(Values { set: p.sets()[0], values, patients: p.patients().map(|p| p[0]) });
    }
    let estimate = bootstrap_mean_over(&parts, plan).map_err(said)?;
    Ok(Some(cell(estimate, &of_runs)))
}

/// The grids of `comparisons` and the mean over them; none of a single comparison.
pub fn matrix(comparisons: &[Comparison], mean: &[Row]) -> Vec<Grid> {
    if comparisons.len() < 2 {
        return Vec::new();
    }
    let Some(first) = comparisons.first() else { return Vec::new() };
    let found = |rows: &[Row], like: &Row, at: usize| {
        let row = rows.iter().find(|r| r.method == like.method && r.baseline == like.baseline)?;
        formats::cells(row)[at].copied()
    };
    let line = |like: &Row, at: usize| {
        let of = |c: &Comparison| Some((c.name.clone(), found(&c.rows, like, at)?));
        let mut by: BTreeMap<String, Cell> = comparisons.iter().filter_map(of).collect();
        by.extend(found(mean, like, at).map(|cell| (MEAN.to_owned(), cell)));
        Line { method: like.method.clone(), baseline: like.baseline, by }
    };
    let grid = |(at, (number, head)): (usize, (&'static str, &'static str))| {
        let lines = first.rows.iter().map(|row| line(row, at)).filter(|line| !line.by.is_empty());
        Grid { number, head, rows: lines.collect() }
    };
    let all = formats::NAMES.into_iter().zip(formats::HEADS).enumerate().map(grid);
    all.filter(|grid| !grid.rows.is_empty()).collect()
}
