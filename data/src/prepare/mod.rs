//! From raw files to a prepared dataset.
//!
//! Contract:
//! 1. The manifest is committed after everything else: there is a whole dataset, or none.
//! 2. The same files and the same YAML give the same bytes, whatever the number of jobs.
//! 3. A file that cannot be used is reported and never fatal, unless nothing is left.
//! 4. A job that fails takes back what it wrote; what a killed one left is removed by the next.

mod output;
mod sample;
mod split;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use morph_objects::Objects;
use morph_spec::{
    Digest, Manifest,
    dataset::{Dataset, Layout, Split},
    manifest::{FILE, PatientIds, Shard, VERSION},
};
use rayon::prelude::*;
use serde::Serialize;

pub use crate::layouts::Skipped;
use crate::{
    Error, Progress, inspect,
    layouts::{Item, Listing, folders, rsna},
    manifest, shard, synth,
};

/// Raised whenever the same source would give other pixels.
const PIPELINE: u32 = 1;

/// How to prepare.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Images decoded at a time; 0: one per core.
    pub jobs: usize,
    /// Replace another dataset at the same place.
    pub overwrite: bool,
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
    let root = PathBuf::from(&spec.source.root);
    let listing = match spec.source.layout {
        Layout::Rsna => rsna::list(&root, spec.source.patient_map.as_deref().map(Path::new))?,
        Layout::Folders => folders::list(&root)?,
    };
    let out = Objects::open(&spec.output)?;
    let key = Digest::of(&json(&(PIPELINE, spec, stamps(&listing)), "the dataset's YAML")?);
    match reuse(&out, key, progress).await? {
        Found::Whole(report) => return Ok(*report),
        Found::Damaged => output::clear(&out).await?,
        Found::Nothing => match out.get(FILE).await {
            Ok(_) if !options.overwrite => return Err(Error::Exists { url: out.url() }),
            // Without a manifest, what is there was left by a job that did not end.
            Ok(_) | Err(morph_objects::Error::NotFound { .. }) => output::clear(&out).await?,
            Err(e) => return Err(e.into()),
        },
    }
    let made = make(spec, options, progress, &out, key, listing).await;
    // A manifest that is there now was committed by another job, and so are its shards.
    if made.is_err() && matches!(out.get(FILE).await, Err(morph_objects::Error::NotFound { .. })) {
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
) -> Result<Report, Error> {
    let (splits, mut skipped) = assign(spec, listing.items);
    skipped.extend(listing.skipped);
    let promised = splits.iter().map(|(split, items)| (*split, items.iter().map(|(_, label)| (label.as_str(), 1))));
    check(spec, &counted(promised), &skipped)?;

    progress.stage("decode and resize", splits.values().map(|items| items.len() as u64).sum());
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.jobs)
        .build()
        .map_err(|e| Error::Source { path: "threads".to_owned(), why: e.to_string() })?;
    let mut shards = Vec::new();
    for (name, items) in &splits {
        for (i, chunk) in items.chunks(spec.shard_samples.max(1) as usize).enumerate() {
            let read = |(item, label): &(Item, String)| {
                let sample = sample::read(item, label, &spec.preprocess);
                progress.advance(1);
                sample.map_err(|reason| Skipped { source: item.source.clone(), reason })
            };
            let samples: Vec<_> = pool.install(|| chunk.par_iter().map(read).collect());
            let mut writer = shard::Writer::new(spec.preprocess.size, spec.preprocess.size);
            for sample in samples {
                match sample {
                    Ok((pixels, meta)) => writer.push(&pixels, meta),
                    Err(skip) => {
                        progress.warn(&format!("skipped {}: {}", skip.source, skip.reason));
                        skipped.push(skip);
                    }
                }
            }
            if !writer.is_empty() {
                shards.push(output::shard(out, name, i, writer).await?);
            }
        }
    }
    skipped.sort_by(|a, b| a.source.cmp(&b.source));
    let counts = counted(shards.iter().map(|s| (s.split.as_str(), s.labels.iter().map(|(l, n)| (l.as_str(), *n)))));
    check(spec, &counts, &skipped)?;
    let manifest = describe(spec, shards, counts, &skipped, listing.persons)?;
    output::record(out, key, &skipped).await?;
    let digest = manifest::commit(out, &manifest).await?;
    Ok(Report { url: out.url(), digest, manifest, reused: false, skipped })
}

/// What the tables say of every file, its size and its time of change: what decides whether anything has to be done again.
fn stamps(listing: &Listing) -> Vec<(String, u64, u128)> {
    let stamp = |item: &Item| {
        let meta = fs::metadata(&item.path).ok();
        let time = meta.as_ref().and_then(|m| m.modified().ok()?.duration_since(UNIX_EPOCH).ok());
        (
            format!("{} {} {} {:?}", item.source, item.patient, item.label, item.boxes),
            meta.map_or(0, |m| m.len()),
            time.map_or(0, |t| t.as_nanos()),
        )
    };
    listing.items.iter().map(stamp).collect()
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
    Ok(Found::Whole(Box::new(Report { url: out.url(), digest, manifest, reused: true, skipped })))
}

type Splits = BTreeMap<&'static str, Vec<(Item, String)>>;

fn assign(spec: &Dataset, items: Vec<Item>) -> (Splits, Vec<Skipped>) {
    let mut skipped = Vec::new();
    let mut labelled = Vec::new();
    for item in items {
        let label = spec.labels.get(&item.label).unwrap_or(&item.label).clone();
        if spec.only_labels.is_empty() || spec.only_labels.contains(&label) {
            labelled.push((item, label));
        } else {
            skipped.push(Skipped { source: item.source, reason: format!("its label {label:?} is not in only_labels") });
        }
    }
    let chosen =
        split::of_patients(&spec.split, labelled.iter().map(|(i, label)| (i.patient.as_str(), label.as_str())));
    let mut splits = Splits::new();
    for ((item, label), split) in labelled.into_iter().zip(chosen) {
        match split {
            Some(split) => splits.entry(split).or_default().push((item, label)),
            None => skipped.push(Skipped { source: item.source, reason: format!("split.others drops {label:?}") }),
        }
    }
    (splits, skipped)
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
fn check(spec: &Dataset, counts: &Counts, skipped: &[Skipped]) -> Result<(), Error> {
    if counts.is_empty() {
        let reason =
            skipped.first().map_or_else(|| "it lists no image".to_owned(), |s| format!("{}: {}", s.source, s.reason));
        return Err(Error::NothingLeft { root: spec.source.root.clone(), skipped: skipped.len(), reason });
    }
    let Split { healthy, val, test, .. } = &spec.split;
    let filled =
        |split: &str| counts.get(split).is_some_and(|labels| labels.keys().any(|label| healthy.contains(label)));
    match [("train", true), ("val", *val > 0.0), ("test", *test > 0.0)].iter().find(|(s, wanted)| *wanted && !filled(s))
    {
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
        *reasons.entry(skip.reason.clone()).or_default() += 1;
    }
    Ok(Manifest {
        version: VERSION,
        name: spec.name.clone(),
        preprocess: spec.preprocess.clone(),
        fingerprint: Digest::of(&json(
            &(PIPELINE, &spec.preprocess, &spec.split, &spec.labels, &spec.only_labels),
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
