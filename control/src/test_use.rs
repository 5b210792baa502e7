//! How often test sets were used: scored, and, worse, used to choose. Whoever chooses the best of many by a test score reports a
//! number that is too good; how many chose, and among how many runs, is what a reader must know. Nothing is recorded for it: it
//! follows from the runs' scores and the sweeps' metrics.

use std::collections::{BTreeMap, BTreeSet};

use morph_spec::{Digest, Experiment, SweepId};

use crate::{Cluster, Run, Sweep};

/// What became of the test samples of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestUse {
    /// The dataset.
    pub dataset: Digest,
    /// Its split that was scored.
    pub split: String,
    /// Runs that have scores on it.
    pub scored: u32,
    /// Sweeps that compare runs by a score on it, oldest first.
    pub choices: Vec<Choice>,
}

/// A sweep that chooses by a test score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Which.
    pub sweep: SweepId,
    /// Runs that it has compared so far: those that have its metric.
    pub runs: u32,
}

/// Every split that was scored, of every dataset.
pub fn all(cluster: &Cluster) -> Vec<TestUse> {
    let mut all = BTreeMap::<(Digest, String), TestUse>::new();
    let mut of = |(dataset, split): (Digest, String), change: &mut dyn FnMut(&mut TestUse)| {
        let new = || TestUse { dataset, split: split.clone(), scored: 0, choices: Vec::new() };
        change(all.entry((dataset, split.clone())).or_insert_with(new));
    };
    for run in cluster.in_order().filter(|r| !r.summary.is_empty()) {
        for place in places(cluster, run, |_| true) {
            of(place, &mut |t| t.scored += 1);
        }
    }
    for sweep in cluster.sweeps.values() {
        let mut chosen = BTreeMap::<(Digest, String), u32>::new();
        for run in sweep.runs.iter().filter_map(|id| cluster.runs.get(id)) {
            for place in compared(cluster, sweep, run) {
                *chosen.entry(place).or_default() += 1;
            }
        }
        // Of a single run nothing is chosen.
        for (place, runs) in chosen.into_iter().filter(|(_, runs)| *runs > 1) {
            of(place, &mut |t| t.choices.push(Choice { sweep: sweep.id, runs }));
        }
    }
    all.into_values().collect()
}

/// The sets by whose scores `sweep` compares `run` with its other runs.
fn compared(cluster: &Cluster, sweep: &Sweep, run: &Run) -> BTreeSet<(Digest, String)> {
    let metric = &sweep.spec.metric.name;
    if !run.summary.contains_key(metric) {
        return BTreeSet::new();
    }
    // `opacity/auroc` looks at the opacity and at the healthy; `healthy/ssim` at these; `val/score` at no test image.
    match metric.split_once('/').map(|(set, _)| set) {
        Some(set) if set == HEALTHY || run.experiment.evaluation.pathology.contains_key(set) => {
            places(cluster, run, |name| name == HEALTHY || name == set)
        }
        _ => BTreeSet::new(),
    }
}

const HEALTHY: &str = "healthy";

/// Dataset and split of those of the run's evaluation sets that are `wanted`.
fn places(cluster: &Cluster, run: &Run, wanted: impl Fn(&str) -> bool) -> BTreeSet<(Digest, String)> {
    let sets = sets(&run.experiment).into_iter().filter(|(name, ..)| wanted(name));
    let digest = |url: Option<&str>| match url {
        None => Some(run.dataset),
        Some(url) => cluster.urls.get(url).copied(),
    };
    sets.filter_map(|(_, url, split)| Some((digest(url)?, split.to_owned()))).collect()
}

/// Name, dataset's URL if it is not the one of training, and split of each set that is scored.
fn sets(experiment: &Experiment) -> Vec<(&str, Option<&str>, &str)> {
    let evaluation = &experiment.evaluation;
    let pathology = evaluation.pathology.iter().map(|(name, set)| (name.as_str(), None, set.split.as_str()));
    std::iter::once((HEALTHY, None, evaluation.healthy.split.as_str())).chain(pathology).collect()
}
