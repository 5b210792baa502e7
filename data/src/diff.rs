//! How two prepared datasets differ.

use std::collections::BTreeMap;

use morph_objects::Objects;
use morph_spec::{Digest, Manifest};
use serde::Serialize;

use crate::{Error, Meta, inspect, manifest};

/// Names that are shown of each kind of difference.
const SHOWN: usize = 10;

/// The differences of two datasets; samples are told apart by their ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// What the manifests say differently: name, the first's, the second's.
    pub manifest: Vec<[String; 3]>,
    /// Only in the first.
    pub removed: Vec<String>,
    /// Only in the second.
    pub added: Vec<String>,
    /// In another split: id, the first's, the second's.
    pub moved: Vec<[String; 3]>,
    /// With another label.
    pub relabelled: Vec<[String; 3]>,
    /// With other facts: patient, view, sex, age, boxes.
    pub changed: Vec<String>,
    /// Made of another file.
    pub other_files: Vec<String>,
    /// With other pixels, made of the same file.
    pub other_pixels: Vec<String>,
}

/// What is compared of a sample.
struct Sample {
    split: String,
    pixels: Digest,
    meta: Meta,
}

/// Compares the datasets at `a` and `b`. All shards of both are read; of samples all but the pixels is kept in memory.
///
/// # Errors
/// When one is missing or damaged.
pub async fn diff(a: &str, b: &str) -> Result<Diff, Error> {
    let (first, mut second) = (read(a).await?, read(b).await?);
    let mut found = Diff {
        manifest: manifests(&first.0, &second.0),
        removed: Vec::new(),
        added: Vec::new(),
        moved: Vec::new(),
        relabelled: Vec::new(),
        changed: Vec::new(),
        other_files: Vec::new(),
        other_pixels: Vec::new(),
    };
    for (id, x) in first.1 {
        let Some(y) = second.1.remove(&id) else {
            found.removed.push(id);
            continue;
        };
        if x.split != y.split {
            found.moved.push([id.clone(), x.split, y.split]);
        }
        if x.meta.label != y.meta.label {
            found.relabelled.push([id.clone(), x.meta.label.clone(), y.meta.label.clone()]);
        }
        let facts = |m: Meta| (m.patient, m.view, m.sex, m.age, m.boxes);
        let (digest, other) = (x.meta.digest, y.meta.digest);
        if facts(x.meta) != facts(y.meta) {
            found.changed.push(id.clone());
        }
        if digest != other {
            found.other_files.push(id);
        } else if x.pixels != y.pixels {
            found.other_pixels.push(id);
        }
    }
    found.added = second.1.into_keys().collect();
    Ok(found)
}

async fn read(url: &str) -> Result<(Manifest, BTreeMap<String, Sample>), Error> {
    let dataset = Objects::open(url)?;
    let (manifest, _) = manifest::read(&dataset).await?;
    let mut samples = BTreeMap::new();
    for entry in &manifest.shards {
        let shard = inspect::open(&dataset, &manifest, entry).await?;
        for row in 0..shard.len() {
            let (meta, pixels) = (shard.meta(row), Digest::of(shard.image(row)));
            samples.insert(meta.id.clone(), Sample { split: entry.split.clone(), pixels, meta });
        }
    }
    Ok((manifest, samples))
}

fn manifests(a: &Manifest, b: &Manifest) -> Vec<[String; 3]> {
    let text = |value: Result<String, serde_json::Error>| value.unwrap_or_default();
    let both = [
        ("preprocess", text(serde_json::to_string(&a.preprocess)), text(serde_json::to_string(&b.preprocess))),
        ("fingerprint", a.fingerprint.to_string(), b.fingerprint.to_string()),
        ("patient_ids", text(serde_json::to_string(&a.patient_ids)), text(serde_json::to_string(&b.patient_ids))),
        ("skipped", text(serde_json::to_string(&a.skipped)), text(serde_json::to_string(&b.skipped))),
    ];
    both.into_iter().filter(|(_, a, b)| a != b).map(|(name, a, b)| [name.to_owned(), a, b]).collect()
}

impl Diff {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.lines().is_empty()
    }

    /// For people, a line for each.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> =
            self.manifest.iter().map(|[name, a, b]| format!("{name}: {a} in the first, {b} in the second")).collect();
        let mut list = |what: &str, names: Vec<String>| {
            if names.is_empty() {
                return;
            }
            let more = names.len().saturating_sub(SHOWN);
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
            lines.push(format!("{} {what}: {shown}{more}", names.len()));
        };
        let pairs = |all: &[[String; 3]]| all.iter().map(|[id, a, b]| format!("{id} ({a} → {b})")).collect();
        list("only in the first", self.removed.clone());
        list("only in the second", self.added.clone());
        list("in another split", pairs(&self.moved));
        list("with another label", pairs(&self.relabelled));
        list("with other facts", self.changed.clone());
        list("made of another file", self.other_files.clone());
        list("with other pixels of the same file", self.other_pixels.clone());
        lines
    }
}
