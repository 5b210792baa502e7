//! From raw files to a prepared dataset.
//!
//! Contract:
//! 1. The manifest is committed after everything else: there is a whole dataset, or none.
//! 2. The same files and the same YAML give the same bytes, whatever the number of jobs.
//! 3. A file that cannot be used is reported and never fatal, unless nothing is left. Storage that does not give it is: nothing is
//!    committed then, for all other files would be missing, too.
//! 4. A job that is killed, or whose storage fails, leaves whole shards that the next takes over; one whose source is to blame takes
//!    back what it wrote.
//! 5. Memory is bounded, whatever the dataset and however large its images: see [`Options::memory`].
//! 6. Shards may be made by anybody who sees source and output ([`Work::make`]), in any order, and twice: [`Plan::finish`] takes
//!    what is whole, makes what is missing, and is the only one that commits.

mod choose;
mod gate;
mod line;
mod output;
mod sample;
mod split;
mod work;

use std::collections::BTreeMap;

use morph_objects::Objects;
use morph_spec::{
    Digest, Manifest,
    dataset::{Dataset, Split},
    manifest::{FILE, PatientIds, Shard, VERSION},
};
use serde::Serialize;

pub use self::{
    output::Remark,
    work::{Chunk, Work},
};
pub use crate::layouts::Skipped;
use crate::{
    Error, Progress, inspect,
    layouts::{self, Listing},
    manifest,
    privacy::Hider,
};

/// Raised whenever the same source would give other pixels.
const PIPELINE: u32 = 3;

/// Pixels in a shard: it is written from memory.
const LARGEST_SHARD: u64 = 64 << 20;

/// Reasons that a manifest counts one by one.
const MOST_REASONS: usize = 100;

/// How to prepare.
#[derive(Debug, Clone)]
pub struct Options {
    /// Images decoded at a time; 0: one per core.
    pub jobs: usize,
    /// Replace another dataset at the same place.
    pub overwrite: bool,
    /// Bytes of memory that the job may take, about; images wait for each other when they are too large. A single image may need
    /// most of a GiB.
    pub memory: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { jobs: 0, overwrite: false, memory: 2 << 30 }
    }
}

/// What became of it.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The dataset's folder.
    pub url: String,
    /// BLAKE3 of the manifest.
    pub digest: Digest,
    /// What is in it.
    pub manifest: Manifest,
    /// It was there already, made of the same files in the same way.
    pub reused: bool,
    /// Shards that an interrupted job had left.
    pub resumed: usize,
    /// What was left out.
    pub skipped: Vec<Skipped>,
    /// What people should know of what was taken.
    pub remarks: Vec<Remark>,
}

fn json<T: Serialize>(value: &T, what: &str) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(value).map_err(|e| Error::Source { path: what.to_owned(), why: e.to_string() })
}

/// Prepares the dataset that `spec` describes. Decoding happens on this thread's pool and blocks it.
///
/// # Errors
/// When the source cannot be listed, nothing is left of it, a split is empty, another dataset lies at the output, or
/// object storage fails.
pub async fn prepare(spec: &Dataset, options: &Options, progress: &dyn Progress) -> Result<Report, Error> {
    match begin(spec, options.overwrite, progress).await? {
        Begun::Whole(report) => Ok(*report),
        Begun::Plan(plan) => plan.finish(options, progress).await,
    }
}

/// A preparation, once it is known what there is to do.
#[derive(Debug)]
pub enum Begun<'a> {
    /// Nothing: the dataset is there already.
    Whole(Box<Report>),
    /// Shards are to be made.
    Plan(Box<Plan<'a>>),
}

/// What there is to do, and what of it an interrupted job has left.
#[derive(Debug)]
pub struct Plan<'a> {
    work: Work<'a>,
    out: Objects,
    parts: BTreeMap<String, output::Part>,
    /// Shards that an interrupted job had left.
    resumed: usize,
}

/// Lists the source, looks at the output, and removes there what an interrupted job has left and nobody can use. With `overwrite`
/// another dataset at the same place is removed, too.
///
/// # Errors
/// When the source cannot be listed, nothing is left of it, a split is empty, another dataset lies at the output, or
/// object storage fails.
pub async fn begin<'a>(spec: &'a Dataset, overwrite: bool, progress: &dyn Progress) -> Result<Begun<'a>, Error> {
    let listing = layouts::list(spec)?;
    let out = Objects::open(&spec.output)?;
    let key = key(spec, &listing)?;
    let mut parts = BTreeMap::new();
    match reuse(&out, key, progress).await? {
        Found::Whole(report) => return Ok(Begun::Whole(report)),
        Found::Damaged => output::clear(&out).await?,
        Found::Nothing => match out.get(FILE).await {
            Ok(_) if !overwrite => return Err(Error::Exists { url: out.url() }),
            Ok(_) => output::clear(&out).await?,
            // Without a manifest, what is there was left by a job that did not end.
            Err(morph_objects::Error::NotFound { .. }) => parts = output::unfinished(&out, key).await?,
            Err(e) => return Err(e.into()),
        },
    }
    let work = taken_back(&out, Work::of(spec, key, listing)).await?;
    let resumed = parts.len();
    Ok(Begun::Plan(Box::new(Plan { work, out, parts, resumed })))
}

/// Passes `done` on. When the source is to blame for an error, what was written is removed first.
async fn taken_back<T>(out: &Objects, done: Result<T, Error>) -> Result<T, Error> {
    let from_the_source = matches!(done, Err(Error::Source { .. } | Error::NothingLeft { .. } | Error::Empty { .. }));
    // A manifest that is there now was committed by another job, and so are its shards.
    if from_the_source && matches!(out.get(FILE).await, Err(morph_objects::Error::NotFound { .. })) {
        // The first error is the one to tell; what cannot be removed has no manifest, and the next try removes it.
        drop(output::clear(out).await);
    }
    done
}

impl<'a> Plan<'a> {
    /// What there is to make, whoever makes it.
    pub fn work(&self) -> &Work<'a> {
        &self.work
    }

    /// Shards that have yet to be made.
    pub fn missing(&self) -> Vec<Chunk> {
        self.work.chunks().filter(|chunk| !self.parts.contains_key(&chunk.name)).collect()
    }

    /// Looks at the output again: at what others have made meanwhile, shard by shard against its hash.
    ///
    /// # Errors
    /// When object storage fails.
    pub async fn gather(self, progress: &dyn Progress) -> Result<Begun<'a>, Error> {
        let Self { work, out, resumed, .. } = self;
        // Another job with the same key may have been faster.
        if let Found::Whole(report) = reuse(&out, work.key(), progress).await? {
            return Ok(Begun::Whole(report));
        }
        let parts = output::unfinished(&out, work.key()).await?;
        Ok(Begun::Plan(Box::new(Self { work, out, parts, resumed })))
    }

    /// Makes what is missing, and commits the dataset. Decoding happens on this thread's pool and blocks it.
    ///
    /// # Errors
    /// When nothing is left of the source, a split is empty, or object storage fails.
    pub async fn finish(self, options: &Options, progress: &dyn Progress) -> Result<Report, Error> {
        let Self { work, out, parts, resumed } = self;
        let finished = commit(work, &out, parts, resumed, options, progress).await;
        taken_back(&out, finished).await
    }
}

async fn commit(
    mut work: Work<'_>,
    out: &Objects,
    parts: BTreeMap<String, output::Part>,
    resumed: usize,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Report, Error> {
    let (spec, hider) = (work.spec, Hider::new(&work.spec.privacy));
    let mut skipped = std::mem::take(&mut work.skipped);
    skipped.iter_mut().for_each(|skip| skip.source = hider.hide(&skip.source));
    let (mut shards, mut remarks) = (Vec::new(), Vec::new());
    for part in work.make_all(parts, options, progress)? {
        skipped.extend(part.skipped);
        shards.extend(part.shard);
        part.remarks.into_iter().for_each(|new| output::remark(&mut remarks, new));
    }
    skipped.sort_by(|a, b| a.source.cmp(&b.source));
    let counts = counted(shards.iter().map(|s| (s.split.as_str(), s.labels.iter().map(|(l, n)| (l.as_str(), *n)))));
    check(spec, work.given, &counts, &skipped)?;
    let manifest = describe(&work, shards, counts, &skipped)?;
    // Shards of other jobs have the same names: what is committed is what lies there, not what was once written.
    if let Some(lost) = inspect::damage_of(out, &manifest).await?.into_iter().next() {
        return Err(Error::Contested { url: out.url_of(&lost.file), why: lost.why });
    }
    output::record(out, work.key, &skipped, &remarks).await?;
    let digest = manifest::commit(out, &manifest).await?;
    output::forget(out).await;
    Ok(Report { url: out.url(), digest, manifest, reused: false, resumed, skipped, remarks })
}

/// What decides whether anything has to be done again: the YAML, what tables say of every file, its size and its time of change.
fn key(spec: &Dataset, listing: &Listing) -> Result<Digest, Error> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&json(&(PIPELINE, spec), "the dataset's YAML")?);
    for item in &listing.items {
        let known = (&item.source, &item.patient, &item.label, &item.findings, &item.boxes, &item.facts, item.bits);
        let text =
            format!("{known:?} {:?} {:?} {:?} {:?}\n", item.split, item.inverted, item.origin, item.place.stamp());
        hasher.update(text.as_bytes());
        // Nothing where nothing is asked for: keys stay what they were.
        if !item.columns.is_empty() {
            hasher.update(format!("{:?}\n", item.columns).as_bytes());
        }
    }
    Ok(Digest(*hasher.finalize().as_bytes()))
}

/// What lies at the output already.
enum Found {
    /// This very dataset.
    Whole(Box<Report>),
    /// This very dataset, but a shard is missing or changed.
    Damaged,
    /// Nothing, or something else.
    Nothing,
}

async fn reuse(out: &Objects, key: Digest, progress: &dyn Progress) -> Result<Found, Error> {
    let Some(known) = output::recorded(out, key).await else { return Ok(Found::Nothing) };
    let (manifest, digest) = match manifest::read(out).await {
        Ok(found) => found,
        Err(Error::Objects(morph_objects::Error::NotFound { .. })) => return Ok(Found::Nothing),
        Err(e) => return Err(e),
    };
    let damage = inspect::damage_of(out, &manifest).await?;
    if let Some(first) = damage.first() {
        progress.warn(&format!("{}: {}; preparing again", out.url_of(&first.file), first.why));
        return Ok(Found::Damaged);
    }
    let output::Known { skipped, remarks } = known;
    Ok(Found::Whole(Box::new(Report { url: out.url(), digest, manifest, reused: true, resumed: 0, skipped, remarks })))
}

type Counts = BTreeMap<String, BTreeMap<String, u64>>;

fn counted<'a>(splits: impl Iterator<Item = (&'a str, impl Iterator<Item = (&'a str, u64)>)>) -> Counts {
    let mut counts = Counts::new();
    for (split, labels) in splits {
        for (label, n) in labels {
            *counts.entry(split.to_owned()).or_default().entry(label.to_owned()).or_default() += n;
        }
    }
    counts
}

/// Refuses datasets that nothing could be trained or scored on.
fn check(spec: &Dataset, given: bool, counts: &Counts, skipped: &[Skipped]) -> Result<(), Error> {
    if counts.is_empty() {
        let reason =
            skipped.first().map_or_else(|| "it lists no image".to_owned(), |s| format!("{}: {}", s.source, s.reason));
        return Err(Error::NothingLeft { root: spec.source.root.clone(), skipped: skipped.len(), reason });
    }
    let Split { healthy, val, test, .. } = &spec.split;
    let filled =
        |split: &str| counts.get(split).is_some_and(|labels| labels.keys().any(|label| healthy.contains(label)));
    // Tables may leave out what they like, but for what is trained on.
    let trains = !spec.split.tests_only();
    let wanted = [("train", trains), ("val", !given && *val > 0.0), ("test", trains && !given && *test > 0.0)];
    match wanted.iter().find(|(s, wanted)| *wanted && !filled(s)) {
        None => Ok(()),
        Some((split, _)) => Err(Error::Empty {
            split: (*split).to_owned(),
            wanted: format!("of the healthy labels {healthy:?}; see split.healthy, split.val and split.test"),
            has: manifest::counts_text(counts),
        }),
    }
}

/// Everything that decides pixels and splits. Of the source only the plane of a volume does; where none is named, the fingerprint is
/// what it was before there was one.
fn fingerprint(spec: &Dataset) -> Result<Digest, Error> {
    let made = (PIPELINE, &spec.preprocess, &spec.split, &spec.labels, &spec.only_labels);
    let taken = (&spec.filter, &spec.classes, &spec.privacy.hash_ids);
    Ok(Digest::of(&match spec.source.slice {
        None => json(&(made, taken), "preprocess")?,
        Some(slice) => json(&(made, taken, slice), "preprocess")?,
    }))
}

fn describe(work: &Work<'_>, shards: Vec<Shard>, counts: Counts, skipped: &[Skipped]) -> Result<Manifest, Error> {
    let spec = work.spec;
    let mut reasons: BTreeMap<String, u64> = BTreeMap::new();
    for skip in skipped {
        let known = reasons.len() < MOST_REASONS || reasons.contains_key(&skip.reason);
        let reason = if known { &*skip.reason } else { "other reasons: see skipped.csv" };
        *reasons.entry(reason.to_owned()).or_default() += 1;
    }
    Ok(Manifest {
        version: VERSION,
        name: spec.name.clone(),
        preprocess: spec.preprocess.clone(),
        fingerprint: fingerprint(spec)?,
        image_size: [spec.preprocess.size; 2],
        shards,
        counts,
        patient_ids: if work.persons { PatientIds::Person } else { PatientIds::Image },
        synthetic: work.synthetic,
        skipped: reasons,
    })
}
