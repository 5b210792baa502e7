//! From raw files to a prepared dataset.
//!
//! Contract:
//! 1. The manifest is committed after everything else: there is a whole dataset, or none.
//! 2. The same files and the same YAML give the same bytes, whatever the number of jobs.
//! 3. A file that cannot be used is reported and never fatal, unless nothing is left.

mod split;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use bytes::Bytes;
use morph_objects::Objects;
use morph_spec::{
    Digest, Manifest,
    dataset::{Dataset, Layout, Preprocess, Resize},
    manifest::{FILE, PatientIds, Shard, VERSION},
};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub use crate::layouts::Skipped;
use crate::{
    Error, Meta, Progress,
    layouts::{Item, Listing, folders, rsna},
    manifest,
    readers::{self, Facts, Grey},
    resize, shard, synth,
};

/// Raised whenever the same source would give other pixels.
const PIPELINE: u32 = 1;
/// What was prepared from what, beside the manifest.
const RECORD: &str = "prepare.json";
/// The files that were left out, beside the manifest.
const SKIPPED: &str = "skipped.csv";

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

#[derive(Serialize, Deserialize)]
struct Record {
    key: Digest,
    skipped: Vec<(String, String)>,
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
    if let Some(report) = reuse(&out, key).await? {
        return Ok(report);
    }
    match out.get(FILE).await {
        Ok(_) if !options.overwrite => return Err(Error::Exists { url: out.url() }),
        Ok(_) => out.delete_all("").await?,
        Err(morph_objects::Error::NotFound { .. }) => {}
        Err(e) => return Err(e.into()),
    }
    let (splits, mut skipped) = assign(spec, listing.items);
    skipped.extend(listing.skipped);
    progress.stage("decode and resize", splits.values().map(|items| items.len() as u64).sum());
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(options.jobs)
        .build()
        .map_err(|e| Error::Source { path: "threads".to_owned(), why: e.to_string() })?;
    let mut shards = Vec::new();
    for (name, items) in &splits {
        for (i, chunk) in items.chunks(spec.shard_samples.max(1) as usize).enumerate() {
            let read = |(item, label): &(Item, String)| {
                let sample = sample(item, label, &spec.preprocess);
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
                shards.push(put(&out, name, i, writer).await?);
            }
        }
    }
    skipped.sort_by(|a, b| a.source.cmp(&b.source));
    let manifest = describe(spec, shards, &skipped, listing.persons)?;
    out.put(SKIPPED, Bytes::from(table(&skipped)?)).await?;
    let pairs = skipped.iter().map(|s| (s.source.clone(), s.reason.clone())).collect();
    out.put(RECORD, Bytes::from(json(&Record { key, skipped: pairs }, RECORD)?)).await?;
    let digest = manifest::commit(&out, &manifest).await?;
    Ok(Report { url: out.url(), digest, manifest, reused: false, skipped })
}

/// Path, size and time of change of every file: what decides whether anything has to be done again.
fn stamps(listing: &Listing) -> Vec<(String, u64, u128)> {
    let stamp = |item: &Item| {
        let meta = fs::metadata(&item.path).ok();
        let time = meta.as_ref().and_then(|m| m.modified().ok()?.duration_since(UNIX_EPOCH).ok());
        (
            format!("{} {} {:?}", item.source, item.label, item.boxes),
            meta.map_or(0, |m| m.len()),
            time.map_or(0, |t| t.as_nanos()),
        )
    };
    listing.items.iter().map(stamp).collect()
}

async fn reuse(out: &Objects, key: Digest) -> Result<Option<Report>, Error> {
    let Ok(bytes) = out.get(RECORD).await else { return Ok(None) };
    let Ok(record) = serde_json::from_slice::<Record>(&bytes) else { return Ok(None) };
    if record.key != key {
        return Ok(None);
    }
    match manifest::read(out).await {
        Ok((manifest, digest)) => {
            let skipped = record.skipped.into_iter().map(|(source, reason)| Skipped { source, reason }).collect();
            Ok(Some(Report { url: out.url(), digest, manifest, reused: true, skipped }))
        }
        Err(Error::Objects(morph_objects::Error::NotFound { .. })) => Ok(None),
        Err(e) => Err(e),
    }
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

/// Reads, decodes and resizes one image.
fn sample(item: &Item, label: &str, preprocess: &Preprocess) -> Result<(Vec<u8>, Meta), String> {
    let bytes = fs::read(&item.path).map_err(|e| e.to_string())?;
    let is_png = item.path.extension().is_some_and(|e| e.eq_ignore_ascii_case("png"));
    let (grey, facts) =
        if is_png { (readers::png::read(&bytes)?, Facts::default()) } else { readers::dicom::read(&bytes)? };
    if item.check_id && facts.id.as_ref().is_some_and(|id| *id != item.id) {
        return Err("the file's PatientID is not the one in its name".to_owned());
    }
    let boxes = boxes(item, &grey);
    let side = preprocess.size as usize;
    let prepared = match preprocess.resize {
        Resize::PillowBilinear => resize::pillow_bilinear(&grey, side, side),
    };
    let meta = Meta {
        id: item.id.clone(),
        patient: item.patient.clone(),
        label: label.to_owned(),
        view: facts.view,
        sex: facts.sex,
        age: facts.age,
        boxes,
        source: item.source.clone(),
        digest: Digest::of(&bytes),
    };
    Ok((prepared.pixels, meta))
}

/// The item's boxes in 0..1 of the image, cut at its edges.
fn boxes(item: &Item, grey: &Grey) -> Vec<[f32; 4]> {
    let (width, height) = match item.box_side {
        0.0 => (grey.width as f32, grey.height as f32),
        side => (side, side),
    };
    let unit = |[x, y, w, h]: &[f32; 4]| {
        let (left, top) = ((x / width).clamp(0.0, 1.0), (y / height).clamp(0.0, 1.0));
        let (right, bottom) = (((x + w) / width).clamp(0.0, 1.0), ((y + h) / height).clamp(0.0, 1.0));
        [left, top, right - left, bottom - top]
    };
    item.boxes.iter().map(unit).collect()
}

async fn put(out: &Objects, split: &str, i: usize, writer: shard::Writer) -> Result<Shard, Error> {
    let file = format!("{split}-{i:05}.arrow");
    let (samples, labels) = (writer.len() as u64, writer.labels());
    let bytes = writer.finish().map_err(|e| Error::Shard { url: out.url_of(&file), why: e.to_string() })?;
    let entry = Shard {
        file: file.clone(),
        split: split.to_owned(),
        samples,
        bytes: bytes.len() as u64,
        blake3: Digest::of(&bytes),
        labels,
    };
    out.put(&file, Bytes::from(bytes)).await?;
    Ok(entry)
}

fn describe(spec: &Dataset, shards: Vec<Shard>, skipped: &[Skipped], persons: bool) -> Result<Manifest, Error> {
    let mut counts: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for shard in &shards {
        let split = counts.entry(shard.split.clone()).or_default();
        for (label, n) in &shard.labels {
            *split.entry(label.clone()).or_default() += n;
        }
    }
    if shards.is_empty() {
        let reason =
            skipped.first().map_or_else(|| "it lists no image".to_owned(), |s| format!("{}: {}", s.source, s.reason));
        return Err(Error::NothingLeft { root: spec.source.root.clone(), skipped: skipped.len(), reason });
    }
    let share = |n: f64| n > 0.0;
    for (split, wanted) in [("train", true), ("val", share(spec.split.val)), ("test", share(spec.split.test))] {
        if wanted && !counts.contains_key(split) {
            return Err(Error::Empty {
                split: split.to_owned(),
                wanted: format!(
                    "of the healthy labels {:?}; see split.healthy, split.val and split.test",
                    spec.split.healthy
                ),
                has: format!("{counts:?}"),
            });
        }
    }
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

fn table(skipped: &[Skipped]) -> Result<Vec<u8>, Error> {
    let bad = |e: String| Error::Source { path: SKIPPED.to_owned(), why: e };
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["source", "reason"]).map_err(|e| bad(e.to_string()))?;
    for skip in skipped {
        writer.write_record([&skip.source, &skip.reason]).map_err(|e| bad(e.to_string()))?;
    }
    writer.into_inner().map_err(|e| bad(e.to_string()))
}
