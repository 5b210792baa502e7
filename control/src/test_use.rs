//! How often test sets were used: scored, and, worse, used to choose. Whoever chooses the best of many by a test score reports a
//! number that is too good; how many chose, and among how many runs, is what a reader must know. Nothing is recorded for it: it
//! follows from the runs' scores and the sweeps' metrics.

use std::collections::{BTreeMap, BTreeSet};

use morph_spec::{Digest, SweepId};

use crate::{Cluster, Run, Sweep};

/// What became of the samples of a split of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestUse {
    /// Whose samples.
    pub place: Place,
    /// Its split that was scored.
    pub split: String,
    /// Runs that have scores on it.
    pub scored: u32,
    /// Sweeps that compare runs by a score on it, oldest first.
    pub choices: Vec<Choice>,
}

/// A dataset that is scored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// One that is registered.
    Known(Digest),
    /// Another one, by its URL: runs are only scored on it, none is trained there.
    Elsewhere(String),
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
    let mut all = BTreeMap::<Split, TestUse>::new();
    let mut of = |split: Split, change: &mut dyn FnMut(&mut TestUse)| {
        let (place, name) = split.clone();
        change(all.entry(split).or_insert(TestUse { place, split: name, scored: 0, choices: Vec::new() }));
    };
    for run in cluster.in_order().filter(|r| !r.summary.is_empty()) {
        for split in splits(cluster, run, |_| true) {
            of(split, &mut |t| t.scored += 1);
        }
    }
    for sweep in cluster.sweeps.values() {
        let mut chosen = BTreeMap::<Split, u32>::new();
        for run in sweep.runs.iter().filter_map(|id| cluster.runs.get(id)) {
            for split in compared(cluster, sweep, run) {
                *chosen.entry(split).or_default() += 1;
            }
        }
        // Of a single run nothing is chosen.
        for (split, runs) in chosen.into_iter().filter(|(_, runs)| *runs > 1) {
            of(split, &mut |t| t.choices.push(Choice { sweep: sweep.id, runs }));
        }
    }
    all.into_values().collect()
}

/// A dataset and the name of its split.
type Split = (Place, String);

/// The splits by whose scores `sweep` compares `run` with its other runs.
fn compared(cluster: &Cluster, sweep: &Sweep, run: &Run) -> BTreeSet<Split> {
    let metric = &sweep.spec.metric.name;
    let Some((of, _)) = metric.split_once('/').filter(|_| run.summary.contains_key(metric)) else {
        return BTreeSet::new();
    };
    // `opacity/auroc` looks at both sets of that comparison, `healthy/ssim` at one set, `mean/auroc` at all, `val/score` at none.
    let comparisons = run.experiment.evaluation.plan().comparisons;
    splits(cluster, run, |set| match comparisons.get(of) {
        Some(pair) => pair.iter().any(|name| name == set),
        None => of == set || of == "mean",
    })
}

/// The splits of those of the run's evaluation sets that are `wanted`.
fn splits(cluster: &Cluster, run: &Run, wanted: impl Fn(&str) -> bool) -> BTreeSet<Split> {
    let place = |url: Option<&String>| match url {
        None => Place::Known(run.dataset),
        Some(url) => {
            cluster.urls.get(url).map_or_else(|| Place::Elsewhere(url.clone()), |digest| Place::Known(*digest))
        }
    };
    let sets = run.experiment.evaluation.plan().sets.into_iter().filter(|set| wanted(&set.name));
    sets.map(|set| (place(set.dataset.as_ref()), set.subset.split)).collect()
}
