//! Datasets, runs and sweeps come in.

use std::{collections::BTreeMap, sync::Arc};

use morph_spec::{Digest, Experiment, Manifest, Rng, RunId, SweepId, Timestamp, manifest};

use crate::{Cluster, Dataset, Refusal, Submission, Target, What, find, fits, quoted, search};

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
    cluster.admits(&experiment.scheduling.project, "scheduling.project")?;
    fits(experiment, dataset).map_err(Refusal::Invalid)
}

/// The refusal of a `key` that was used for something else.
pub(super) fn taken(key: &str, by: Submission) -> Refusal {
    let what = match by {
        Submission::Run(id) => format!("run {id}"),
        Submission::Sweep(id) => format!("sweep {id}"),
        Submission::Evaluation => "an evaluation".into(),
    };
    Refusal::Exists(format!("the key {} belongs to {what}", quoted(key)))
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
        Some(other) => return Err(taken(&key, *other)),
        None => {}
    }
    // A sweep's are looked at where their values are filled in.
    experiment.validate().map_err(|problems| {
        let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
        Refusal::Invalid(said.join("; "))
    })?;
    check(cluster, &experiment, dataset)?;
    let name = if name.is_empty() {
        numbered(cluster, &experiment.name, 0)
    } else if !is_name(name) {
        return Err(no_name(name));
    } else if cluster.index.run_names.contains_key(name) {
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
        after: after(cluster, &experiment)?,
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
        Some(other) => return Err(taken(&key, *other)),
        None => {}
    }
    if !is_name(&spec.name) {
        return Err(no_name(&spec.name));
    }
    let invalid = |e: search::Error| Refusal::Invalid(e.to_string());
    let points = search::ask(&spec, 0, u32::MAX).map_err(invalid)?;
    let mut candidates = std::iter::once(spec.name.clone()).chain((2u64..).map(|n| format!("{}.{n}", spec.name)));
    let is_free = |name: &String| !cluster.index.sweep_names.contains_key(name);
    let name = candidates.find(is_free).expect("invariant: numbers do not end");
    let id = SweepId::new(now, rng);
    let spec = Arc::new(spec);
    let mut events = vec![What::SweepSubmitted { sweep: id, key, name: name.clone(), spec: spec.clone() }];
    for (i, params) in points.into_iter().enumerate() {
        let experiment = search::with(&spec, &params).map_err(invalid)?;
        let url = &experiment.dataset.url;
        let dataset = *datasets.get(url).ok_or_else(|| Refusal::Invalid(format!("dataset {url} is not registered")))?;
        check(cluster, &experiment, dataset)?;
        events.push(What::RunSubmitted {
            run: RunId::new(now, rng),
            key: None,
            name: numbered(cluster, &name, i as u64),
            sweep: Some(id),
            params,
            after: after(cluster, &experiment)?,
            experiment: Arc::new(experiment),
            dataset,
            max_retries: spec.max_retries,
        });
    }
    Ok(events)
}

/// The `ahead`-th next name `base-N`; numbers that people have given to runs themselves are passed over.
fn numbered(cluster: &Cluster, base: &str, ahead: u64) -> String {
    let highest = cluster.index.numbers.get(base).copied().unwrap_or(0);
    format!("{base}-{}", highest + 1 + ahead)
}

impl Cluster {
    /// Refuses a `project` that no run can be of; it stands in `field`.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] says which there are.
    pub fn admits(&self, project: &str, field: &str) -> Result<(), Refusal> {
        if !is_name(project) || project.len() > 63 {
            let why = "is no name: 1 to 63 letters, digits, `.`, `_` or `-`, a letter or digit first";
            return Err(Refusal::Invalid(format!("{field}: {} {why}", quoted(project))));
        }
        if self.project(project).is_none() {
            let known: Vec<&str> = self.policy.projects.keys().map(String::as_str).collect();
            let known = known.join(", ");
            return Err(Refusal::Invalid(format!("{field}: there is no project {project:?}, there is: {known}")));
        }
        Ok(())
    }
}

/// Names become parts of other names, of folders and of arguments.
fn is_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.len() <= 100 && name.chars().all(good) && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

fn no_name(name: &str) -> Refusal {
    Refusal::Invalid(format!(
        "{:?} is no name: 1 to 100 letters, digits, `.`, `_` or `-`, a letter or digit first",
        name.chars().take(100).collect::<String>()
    ))
}

/// What must have succeeded before `experiment` runs.
fn after(cluster: &Cluster, experiment: &Experiment) -> Result<Vec<Target>, Refusal> {
    let scheduling = &experiment.scheduling;
    // Of its own project first, as who may see no other means it.
    let meant = |text: &String| {
        let own = find(cluster, text, Some(&scheduling.project));
        own.or_else(|refusal| find(cluster, text, None).map_err(|_| refusal))
    };
    let found =
        scheduling.after.iter().map(|text| meant(text).map_err(|e| Refusal::Invalid(format!("scheduling.after: {e}"))));
    found.collect()
}
