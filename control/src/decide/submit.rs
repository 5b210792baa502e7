//! Datasets, runs and sweeps come in.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use morph_spec::{Digest, Experiment, Manifest, Rng, RunId, SweepId, Timestamp, manifest};

use crate::{Cluster, Dataset, Refusal, Submission, What, fits, search};

/// Retries of a run that belongs to no sweep.
const RETRIES: u32 = 3;

/// A dataset; the same again changes nothing.
pub(super) fn dataset(cluster: &Cluster, now: Timestamp, url: String, digest: Digest, manifest: Manifest) -> Vec<What> {
    if cluster.urls.get(&url) == Some(&digest) || manifest.version > manifest::VERSION {
        return Vec::new();
    }
    let dataset = Dataset { name: manifest.name.clone(), url, digest, manifest, at: now };
    vec![What::DatasetRegistered { dataset: Arc::new(dataset) }]
}

fn check(cluster: &Cluster, experiment: &Experiment, digest: Digest) -> Result<(), Refusal> {
    let unknown =
        || Refusal::Invalid(format!("dataset {digest} is not registered: register {} first", experiment.dataset.url));
    let dataset = cluster.datasets.get(&digest).ok_or_else(unknown)?;
    fits(experiment, dataset).map_err(Refusal::Invalid)
}

fn taken(cluster: &Cluster, key: &str) -> Refusal {
    let what = match cluster.keys.get(key) {
        Some(Submission::Run(id)) => format!("run {id}"),
        Some(Submission::Sweep(id)) => format!("sweep {id}"),
        None => "nothing".into(),
    };
    Refusal::Exists(format!("the submission key {key:?} belongs to {what}"))
}

/// One run.
pub(super) fn run(
    cluster: &Cluster,
    now: Timestamp,
    rng: &mut Rng,
    key: String,
    name: &str,
    experiment: Experiment,
    dataset: Digest,
) -> Result<Vec<What>, Refusal> {
    match cluster.keys.get(&key) {
        Some(Submission::Run(_)) => return Ok(Vec::new()),
        Some(Submission::Sweep(_)) => return Err(taken(cluster, &key)),
        None => {}
    }
    check(cluster, &experiment, dataset)?;
    let mut names = Names::of_runs(cluster);
    let name = if name.is_empty() {
        names.numbered(&experiment.name)
    } else if names.0.contains(name) {
        return Err(Refusal::Exists(format!("there is already a run {name:?}; choose another name")));
    } else {
        name.to_owned()
    };
    Ok(vec![What::RunSubmitted {
        run: RunId::new(now, rng),
        key: Some(key),
        name,
        sweep: None,
        params: BTreeMap::new(),
        experiment: Arc::new(experiment),
        dataset,
        max_retries: RETRIES,
    }])
}

/// A sweep and all its runs.
pub(super) fn sweep(
    cluster: &Cluster,
    now: Timestamp,
    rng: &mut Rng,
    key: String,
    spec: morph_spec::Sweep,
    datasets: &BTreeMap<String, Digest>,
) -> Result<Vec<What>, Refusal> {
    match cluster.keys.get(&key) {
        Some(Submission::Sweep(_)) => return Ok(Vec::new()),
        Some(Submission::Run(_)) => return Err(taken(cluster, &key)),
        None => {}
    }
    let invalid = |e: search::Error| Refusal::Invalid(e.to_string());
    let points = search::ask(&spec, 0, u32::MAX).map_err(invalid)?;
    let name = Names(cluster.sweeps.values().map(|s| s.name.clone()).collect()).free(&spec.name);
    let id = SweepId::new(now, rng);
    let mut names = Names::of_runs(cluster);
    let spec = Arc::new(spec);
    let mut events = vec![What::SweepSubmitted { sweep: id, key, name: name.clone(), spec: spec.clone() }];
    for params in points {
        let experiment = search::with(&spec.experiment, &params).map_err(invalid)?;
        let url = &experiment.dataset.url;
        let dataset = *datasets.get(url).ok_or_else(|| Refusal::Invalid(format!("dataset {url} is not registered")))?;
        check(cluster, &experiment, dataset)?;
        events.push(What::RunSubmitted {
            run: RunId::new(now, rng),
            key: None,
            name: names.numbered(&name),
            sweep: Some(id),
            params,
            experiment: Arc::new(experiment),
            dataset,
            max_retries: spec.max_retries,
        });
    }
    Ok(events)
}

/// Names that are taken.
struct Names(BTreeSet<String>);

impl Names {
    fn of_runs(cluster: &Cluster) -> Self {
        Self(cluster.runs.values().map(|r| r.name.clone()).collect())
    }

    /// `base-1`, or the first number that is free; taken from now on.
    fn numbered(&mut self, base: &str) -> String {
        self.first((1u64..).map(|n| format!("{base}-{n}")))
    }

    /// `base`, or `base.2`, …; taken from now on.
    fn free(&mut self, base: &str) -> String {
        self.first(std::iter::once(base.to_owned()).chain((2u64..).map(|n| format!("{base}.{n}"))))
    }

    fn first(&mut self, mut candidates: impl Iterator<Item = String>) -> String {
        let name = candidates.find(|n| !self.0.contains(n)).expect("invariant: numbers do not end");
        self.0.insert(name.clone());
        name
    }
}
