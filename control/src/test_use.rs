//! How often test sets were used: scored, and, worse, used to choose. Whoever chooses the best of many by a test score reports a
//! number that is too good; how many chose, and among how many runs, is what a reader must know. It follows from the runs' scores and
//! the sweeps' metrics; only evaluations by hand are recorded for it.

use std::collections::BTreeMap;

use morph_spec::{
    Digest, SweepId,
    evaluation::{Evaluation, TestPlan, TestSet},
};

use serde::{Deserialize, Serialize};

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
    /// Evaluations of checkpoints by hand.
    pub rescored: u32,
    /// Sweeps that compare runs by a score on it, oldest first.
    pub choices: Vec<Choice>,
}

/// A split that a checkpoint was scored on by hand.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tested {
    /// The folder of its dataset.
    pub url: String,
    /// BLAKE3 of the dataset's manifest, where whoever scored knew it.
    pub digest: Option<Digest>,
    /// The split.
    pub split: String,
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

/// Every split that was scored, of every dataset. Runs are looked at one by one, by the loop that decides: 100,000 take it a
/// few hundredths of a second.
pub fn all(cluster: &Cluster) -> Vec<TestUse> {
    let mut looked = Looked { cluster, known: BTreeMap::new(), last: None };
    let mut scored = BTreeMap::<usize, u32>::new();
    for run in cluster.in_order().filter(|r| !r.summary.is_empty()) {
        for split in distinct(&looked.at(run).splits, |_| true) {
            *scored.entry(split).or_default() += 1;
        }
    }
    let mut choices = BTreeMap::<usize, Vec<Choice>>::new();
    for sweep in cluster.sweeps.values() {
        let mut chosen = BTreeMap::<usize, u32>::new();
        for run in sweep.runs.iter().filter_map(|id| cluster.runs.get(id)) {
            for split in compared(&mut looked, sweep, run) {
                *chosen.entry(split).or_default() += 1;
            }
        }
        // Of a single run nothing is chosen.
        for (split, runs) in chosen.into_iter().filter(|(_, runs)| *runs > 1) {
            choices.entry(split).or_default().push(Choice { sweep: sweep.id, runs });
        }
    }
    let mut rescored = BTreeMap::<usize, u32>::new();
    for (test, n) in &cluster.rescored {
        let next = looked.known.len();
        let split = looked.known.entry((place(cluster, test), test.split.clone())).or_insert(next);
        *rescored.entry(*split).or_default() += n;
    }
    let used = |((place, split), i): (Split, usize)| {
        let (scored, choices) = (scored.get(&i).copied().unwrap_or(0), choices.remove(&i).unwrap_or_default());
        let rescored = rescored.get(&i).copied().unwrap_or(0);
        (scored + rescored > 0).then_some(TestUse { place, split, scored, rescored, choices })
    };
    looked.known.into_iter().filter_map(used).collect()
}

/// The dataset of what was scored by hand: by its digest where that is registered, else as the one that is registered at its URL.
fn place(cluster: &Cluster, test: &Tested) -> Place {
    match test.digest {
        Some(digest) if cluster.datasets.contains_key(&digest) => Place::Known(digest),
        // Another one than is registered there.
        Some(_) => Place::Elsewhere(test.url.clone()),
        None => at(cluster, &test.url),
    }
}

fn at(cluster: &Cluster, url: &str) -> Place {
    cluster.urls.get(url).map_or_else(|| Place::Elsewhere(url.to_owned()), |digest| Place::Known(*digest))
}

/// A dataset and the name of its split.
type Split = (Place, String);

/// What runs are scored on. Most have the evaluation of the run before them, so that is worth remembering.
struct Looked<'a> {
    cluster: &'a Cluster,
    /// Splits, by number.
    known: BTreeMap<Split, usize>,
    last: Option<(&'a Evaluation, Digest, Tests)>,
}

/// See [`Evaluation::plan`]; beside each set, the number of its split.
struct Tests {
    plan: TestPlan,
    splits: Vec<usize>,
}

impl<'a> Looked<'a> {
    fn at(&mut self, run: &'a Run) -> &Tests {
        let evaluation = &run.experiment.evaluation;
        let last = self.last.take().filter(|(of, dataset, _)| *of == evaluation && *dataset == run.dataset);
        let (_, _, tests) = self.last.insert(match last {
            Some(last) => last,
            None => (evaluation, run.dataset, tests(self.cluster, run, &mut self.known)),
        });
        tests
    }
}

fn tests(cluster: &Cluster, run: &Run, known: &mut BTreeMap<Split, usize>) -> Tests {
    let plan = run.experiment.evaluation.plan();
    let mut number = |set: &TestSet| {
        let place = match &set.dataset {
            None => Place::Known(run.dataset),
            Some(url) => at(cluster, url),
        };
        let next = known.len();
        *known.entry((place, set.subset.split.clone())).or_insert(next)
    };
    let splits = plan.sets.iter().map(&mut number).collect();
    Tests { plan, splits }
}

/// The splits by whose scores `sweep` compares `run` with its other runs.
fn compared<'a>(looked: &mut Looked<'a>, sweep: &Sweep, run: &'a Run) -> Vec<usize> {
    let metric = &sweep.spec.metric.name;
    let Some((of, _)) = metric.split_once('/').filter(|_| run.summary.contains_key(metric)) else {
        return Vec::new();
    };
    // `opacity/auroc` looks at both sets of that comparison, `healthy/ssim` at one set, `mean/auroc` at all, `val/score` at none.
    let Tests { plan, splits } = looked.at(run);
    distinct(splits, |i| match plan.comparisons.get(of) {
        Some(pair) => pair.contains(&plan.sets[i].name),
        None => of == plan.sets[i].name || of == "mean",
    })
}

/// Each of the `splits` of the sets that are `wanted`, once.
fn distinct(splits: &[usize], wanted: impl Fn(usize) -> bool) -> Vec<usize> {
    let mut found: Vec<usize> = (0..splits.len()).filter(|i| wanted(*i)).map(|i| splits[i]).collect();
    found.sort_unstable();
    found.dedup();
    found
}
