//! From raw files to a prepared dataset.
//!
//! Contract:
//! 1. The manifest is committed after everything else: there is a whole dataset, or none.
//! 2. The same files and the same YAML give the same bytes, whatever the number of jobs.
//! 3. A file that cannot be used is reported and never fatal, unless nothing is left.
//! 4. A job that is killed, or whose storage fails, leaves whole shards that the next takes over; one whose source is to blame takes
//!    back what it wrote.
//! 5. Memory is bounded, whatever the dataset and however large its images: see [`Options::memory`].

mod choose;
mod gate;
mod output;
mod sample;
mod split;

use std::{collections::BTreeMap, path::Path};

use morph_objects::Objects;
use morph_spec::{
    Digest, Manifest,
    dataset::{Dataset, Split},
    manifest::{FILE, PatientIds, Shard, VERSION},
};
use rayon::prelude::*;
use serde::Serialize;

use self::sample::Shared;
pub use crate::layouts::Skipped;
use crate::{
    Error, Progress, inspect,
    layouts::{self, Item, Listing},
    manifest, shard, synth,
};

/// Raised whenever the same source would give other pixels.
const PIPELINE: u32 = 2;

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
    let listing = layouts::list(spec)?;
    let out = Objects::open(&spec.output)?;
    let key = key(spec, &listing)?;
    let mut parts = BTreeMap::new();
    match reuse(&out, key, progress).await? {
        Found::Whole(report) => return Ok(*report),
        Found::Damaged => output::clear(&out).await?,
        Found::Nothing => match out.get(FILE).await {
            Ok(_) if !options.overwrite => return Err(Error::Exists { url: out.url() }),
            Ok(_) => output::clear(&out).await?,
            // Without a manifest, what is there was left by a job that did not end.
            Err(morph_objects::Error::NotFound { .. }) => parts = output::unfinished(&out, key).await?,
            Err(e) => return Err(e.into()),
        },
    }
    let made = make(spec, options, progress, &out, key, listing, parts).await;
    let from_the_source = matches!(made, Err(Error::Source { .. } | Error::NothingLeft { .. } | Error::Empty { .. }));
    // A manifest that is there now was committed by another job, and so are its shards.
    if from_the_source && matches!(out.get(FILE).await, Err(morph_objects::Error::NotFound { .. })) {
        // The first error is the one to tell; what cannot be removed has no manifest, and the next try removes it.
        drop(output::clear(&out).await);
    }
    made
}

async fn make(
    spec: &Dataset,
    options: &Options,
    progress: &dyn Progress,
    out: &Objects,
    key: Digest,
    listing: Listing,
    mut parts: BTreeMap<String, output::Part>,
) -> Result<Report, Error> {
    let given = listing.items.iter().any(|item| item.split.is_some());
    let (splits, mut skipped) = choose::assign(spec, listing.items)?;
    skipped.extend(listing.skipped);
    let promised = splits.iter().map(|(split, items)| (*split, items.iter().map(|(_, label)| (label.as_str(), 1))));
    check(spec, given, &counted(promised), &skipped)?;

    let shared = Shared::new(spec, options.memory);
    skipped.iter_mut().for_each(|skip| skip.source = shared.hider.hide(&skip.source));
    progress.stage("decode and resize", splits.values().map(|items| items.len() as u64).sum());
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.jobs)
        .build()
        .map_err(|e| Error::Source { path: "threads".to_owned(), why: e.to_string() })?;
    let pixels = u64::from(spec.preprocess.size).pow(2);
    let samples = u64::from(spec.shard_samples).min(LARGEST_SHARD / pixels).max(1) as usize;
    let mut shards = Vec::new();
    let mut resumed = 0;
    for (name, items) in &splits {
        for (i, chunk) in items.chunks(samples).enumerate() {
            let part = match output::done(&mut parts, name, i) {
                Some(part) => {
                    progress.advance(chunk.len() as u64);
                    resumed += 1;
                    part
                }
                None => {
                    let (writer, left_out) = pool.install(|| decode(&shared, chunk, progress));
                    output::part(out, key, (name, i), writer, left_out).await?
                }
            };
            skipped.extend(part.skipped);
            shards.extend(part.shard);
        }
    }
    skipped.sort_by(|a, b| a.source.cmp(&b.source));
    let counts = counted(shards.iter().map(|s| (s.split.as_str(), s.labels.iter().map(|(l, n)| (l.as_str(), *n)))));
    check(spec, given, &counts, &skipped)?;
    let manifest = describe(spec, shards, counts, &skipped, listing.persons)?;
    output::record(out, key, &skipped).await?;
    let digest = manifest::commit(out, &manifest).await?;
    output::forget(out).await;
    Ok(Report { url: out.url(), digest, manifest, reused: false, resumed, skipped })
}

/// The samples of one shard, in order, and what could not be used.
fn decode(shared: &Shared<'_>, chunk: &[(Item, String)], progress: &dyn Progress) -> (shard::Writer, Vec<Skipped>) {
    let read = |(item, label): &(Item, String)| {
        let sample = shared.read(item, label);
        progress.advance(1);
        sample.map_err(|reason| {
            progress.warn(&format!("skipped {}: {reason}", item.source));
            Skipped { source: shared.hider.hide(&item.source), reason }
        })
    };
    let samples: Vec<_> = chunk.par_iter().map(read).collect();
    let size = shared.spec.preprocess.size;
    let mut writer = shard::Writer::new(size, size);
    let mut skipped = Vec::new();
    for sample in samples {
        match sample {
            Ok((pixels, meta)) => writer.push(&pixels, meta),
            Err(skip) => skipped.push(skip),
        }
    }
    (writer, skipped)
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
    let Some(skipped) = output::recorded(out, key).await else { return Ok(Found::Nothing) };
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
    Ok(Found::Whole(Box::new(Report { url: out.url(), digest, manifest, reused: true, resumed: 0, skipped })))
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
    let wanted = [("train", true), ("val", !given && *val > 0.0), ("test", !given && *test > 0.0)];
    match wanted.iter().find(|(s, wanted)| *wanted && !filled(s)) {
        None => Ok(()),
        Some((split, _)) => Err(Error::Empty {
            split: (*split).to_owned(),
            wanted: format!("of the healthy labels {healthy:?}; see split.healthy, split.val and split.test"),
            has: manifest::counts_text(counts),
        }),
    }
}

fn describe(
    spec: &Dataset,
    shards: Vec<Shard>,
    counts: Counts,
    skipped: &[Skipped],
    persons: bool,
) -> Result<Manifest, Error> {
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
        fingerprint: Digest::of(&json(
            &(
                (PIPELINE, &spec.preprocess, &spec.split, &spec.labels, &spec.only_labels),
                (&spec.filter, &spec.classes, &spec.privacy.hash_ids),
            ),
            "preprocess",
        )?),
        image_size: [spec.preprocess.size; 2],
        shards,
        counts,
        patient_ids: if persons { PatientIds::Person } else { PatientIds::Image },
        synthetic: synth::is_synthetic(Path::new(&spec.source.root)),
        skipped: reasons,
    })
}
