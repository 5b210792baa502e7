//! What prepare writes besides the manifest.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use morph_objects::Objects;
use morph_spec::{
    Digest,
    manifest::{FILE, Shard},
};
use serde::{Deserialize, Serialize};

use super::{Skipped, json};
use crate::{Error, inspect, shard::Writer};

/// What was prepared from what, beside the manifest.
const RECORD: &str = "prepare.json";
/// The files that were left out, beside the manifest.
const SKIPPED: &str = "skipped.csv";
/// Names of shards end so.
const ARROW: &str = ".arrow";
/// Beside each shard while there is no manifest: the shard is whole, and what it was made from.
const PART: &str = ".part.json";

#[derive(Serialize, Deserialize)]
struct Record {
    key: Digest,
    skipped: Vec<(String, String)>,
    remarks: Vec<Remark>,
}

/// Something that people should know of images that were taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remark {
    /// What.
    pub what: String,
    /// Of how many images.
    pub images: u64,
    /// One of them.
    pub example: String,
}

/// One more image with a remark, or several: remarks of the same kind are one.
pub(super) fn remark(all: &mut Vec<Remark>, new: Remark) {
    match all.iter_mut().find(|old| old.what == new.what) {
        Some(old) => old.images += new.images,
        None => all.push(new),
    }
}

/// What is known of a dataset that was made, besides its manifest.
#[derive(Debug)]
pub(super) struct Known {
    pub skipped: Vec<Skipped>,
    pub remarks: Vec<Remark>,
}

/// A part of the dataset that is done.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Part {
    key: Digest,
    /// None: nothing in it could be used.
    pub shard: Option<Shard>,
    pub skipped: Vec<Skipped>,
    pub remarks: Vec<Remark>,
}

/// What becomes of the images of a part.
#[derive(Debug)]
pub(super) struct Decoded {
    pub writer: Writer,
    pub skipped: Vec<Skipped>,
    pub remarks: Vec<Remark>,
}

/// The name of part `i` of `split`, without an end.
pub(super) fn stem(split: &str, i: usize) -> String {
    format!("{split}-{i:05}")
}

/// Refuses to write beside a manifest that another job has committed meanwhile: it stands for the shards that lie there.
async fn unclaimed(out: &Objects, key: Digest) -> Result<(), Error> {
    match out.get(FILE).await {
        Err(morph_objects::Error::NotFound { .. }) => Ok(()),
        // A job with the same key writes the same bytes.
        Ok(_) if recorded(out, key).await.is_some() => Ok(()),
        Ok(_) => Err(Error::Exists { url: out.url() }),
        Err(e) => Err(e.into()),
    }
}

/// Writes part `i` of `split`; what is whole says so.
pub(super) async fn part(
    out: &Objects,
    key: Digest,
    (split, i): (&str, usize),
    decoded: Decoded,
) -> Result<Part, Error> {
    let Decoded { writer, skipped, remarks } = decoded;
    let file = format!("{}{ARROW}", stem(split, i));
    let (samples, labels) = (writer.len() as u64, writer.labels());
    unclaimed(out, key).await?;
    let mut shard = None;
    if samples > 0 {
        let bytes = writer.finish().map_err(|e| Error::Shard { url: out.url_of(&file), why: e.to_string() })?;
        let (length, blake3) = (bytes.len() as u64, Digest::of(&bytes));
        out.put(&file, Bytes::from(bytes)).await?;
        shard = Some(Shard { file, split: split.to_owned(), samples, bytes: length, blake3, labels });
    }
    let part = Part { key, shard, skipped, remarks };
    out.put(&format!("{}{PART}", stem(split, i)), Bytes::from(json(&part, PART)?)).await?;
    Ok(part)
}

/// The part `name`, if a job with this key has done it and its shard is whole.
async fn whole(out: &Objects, key: Digest, name: &str) -> Result<Option<Part>, Error> {
    let found = match out.get(&format!("{name}{PART}")).await {
        Err(morph_objects::Error::NotFound { .. }) => return Ok(None),
        found => found?,
    };
    let part: Option<Part> = serde_json::from_slice(&found).ok();
    let Some(part) = part.filter(|part| part.key == key) else { return Ok(None) };
    let whole = match &part.shard {
        None => true,
        Some(shard) => shard.file == format!("{name}{ARROW}") && inspect::read(out, shard).await.is_ok(),
    };
    Ok(whole.then_some(part))
}

/// Whether the part `name` is done and whole.
pub(super) async fn is_done(out: &Objects, key: Digest, name: &str) -> Result<bool, Error> {
    Ok(whole(out, key, name).await?.is_some())
}

/// Parts that a job with this key has done, by split and number; everything else that a job may have left is removed.
pub(super) async fn unfinished(out: &Objects, key: Digest) -> Result<BTreeMap<String, Part>, Error> {
    let mut done = BTreeMap::new();
    let mut keep = BTreeSet::new();
    let listed = out.list("").await?;
    for entry in listed.iter().filter(|entry| is_ours(&entry.key, PART)) {
        let name = entry.key.trim_end_matches(PART);
        let Some(part) = whole(out, key, name).await? else { continue };
        keep.extend(part.shard.iter().map(|shard| shard.file.clone()));
        keep.insert(entry.key.clone());
        done.insert(name.to_owned(), part);
    }
    for entry in listed {
        if was_left(&entry.key) && !keep.contains(&entry.key) {
            out.delete(&entry.key).await?;
        }
    }
    Ok(done)
}

/// The part `i` of `split` among those that are done.
pub(super) fn done(parts: &mut BTreeMap<String, Part>, split: &str, i: usize) -> Option<Part> {
    parts.remove(&stem(split, i))
}

/// Forgets how the dataset came about: it is whole now. What stays because of an error is removed by whoever prepares next.
pub(super) async fn forget(out: &Objects) {
    for entry in out.list("").await.unwrap_or_default() {
        if is_ours(&entry.key, PART) {
            drop(out.delete(&entry.key).await);
        }
    }
}

/// Writes what was left out, and what the dataset was made from.
pub(super) async fn record(out: &Objects, key: Digest, skipped: &[Skipped], remarks: &[Remark]) -> Result<(), Error> {
    unclaimed(out, key).await?;
    out.put(SKIPPED, Bytes::from(table(skipped)?)).await?;
    let pairs = skipped.iter().map(|s| (s.source.clone(), s.reason.clone())).collect();
    out.put(RECORD, Bytes::from(json(&Record { key, skipped: pairs, remarks: remarks.to_vec() }, RECORD)?)).await?;
    Ok(())
}

/// What is known of the dataset with this key; none when there is another one or none.
pub(super) async fn recorded(out: &Objects, key: Digest) -> Option<Known> {
    let record: Record = serde_json::from_slice(&out.get(RECORD).await.ok()?).ok()?;
    let skipped = record.skipped.into_iter().map(|(source, reason)| Skipped { source, reason }).collect();
    (record.key == key).then_some(Known { skipped, remarks: record.remarks })
}

/// Removes the dataset in `out`, the manifest first: what is removed halfway is no dataset. Other files stay.
pub(super) async fn clear(out: &Objects) -> Result<(), Error> {
    out.delete(FILE).await?;
    for entry in out.list("").await? {
        if was_left(&entry.key) {
            out.delete(&entry.key).await?;
        }
    }
    Ok(())
}

/// Whether a job writes a file of this name, besides the manifest.
fn was_left(key: &str) -> bool {
    is_ours(key, ARROW) || is_ours(key, PART) || key == RECORD || key == SKIPPED
}

/// Whether a part would have a file of this name, with this end.
fn is_ours(key: &str, end: &str) -> bool {
    key.strip_suffix(end).and_then(|stem| stem.split_once('-')).is_some_and(|(split, number)| {
        ["train", "val", "test"].contains(&split) && number.len() >= 5 && number.bytes().all(|b| b.is_ascii_digit())
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

#[cfg(test)]
mod tests {
    use super::{ARROW, PART, is_ours};

    #[test]
    fn only_its_own_files_are_removed() {
        assert!(is_ours("train-00000.arrow", ARROW) && is_ours("val-100000.arrow", ARROW));
        for other in ["train-1.arrow", "notes-00000.arrow", "old/train-00000.arrow", "train-00000.arrow.bak", "x.csv"] {
            assert!(!is_ours(other, ARROW), "{other}");
        }
        assert!(is_ours("test-00003.part.json", PART) && !is_ours("test-3.part.json", PART));
    }
}
