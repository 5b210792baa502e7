//! What prepare writes besides the manifest.

use bytes::Bytes;
use morph_objects::Objects;
use morph_spec::{
    Digest,
    manifest::{FILE, Shard},
};
use serde::{Deserialize, Serialize};

use super::{Skipped, json};
use crate::{Error, shard::Writer};

/// What was prepared from what, beside the manifest.
const RECORD: &str = "prepare.json";
/// The files that were left out, beside the manifest.
const SKIPPED: &str = "skipped.csv";
/// Names of shards end so.
const ARROW: &str = ".arrow";

#[derive(Serialize, Deserialize)]
struct Record {
    key: Digest,
    skipped: Vec<(String, String)>,
}

/// Writes shard `i` of `split`.
pub(super) async fn shard(out: &Objects, split: &str, i: usize, writer: Writer) -> Result<Shard, Error> {
    let file = format!("{split}-{i:05}{ARROW}");
    let (samples, labels) = (writer.len() as u64, writer.labels());
    let bytes = writer.finish().map_err(|e| Error::Shard { url: out.url_of(&file), why: e.to_string() })?;
    let (length, blake3) = (bytes.len() as u64, Digest::of(&bytes));
    out.put(&file, Bytes::from(bytes)).await?;
    Ok(Shard { file, split: split.to_owned(), samples, bytes: length, blake3, labels })
}

/// Writes what was left out, and what the dataset was made from.
pub(super) async fn record(out: &Objects, key: Digest, skipped: &[Skipped]) -> Result<(), Error> {
    out.put(SKIPPED, Bytes::from(table(skipped)?)).await?;
    let pairs = skipped.iter().map(|s| (s.source.clone(), s.reason.clone())).collect();
    out.put(RECORD, Bytes::from(json(&Record { key, skipped: pairs }, RECORD)?)).await?;
    Ok(())
}

/// What was left out when the dataset with this key was made; none when there is another one or none.
pub(super) async fn recorded(out: &Objects, key: Digest) -> Option<Vec<Skipped>> {
    let record: Record = serde_json::from_slice(&out.get(RECORD).await.ok()?).ok()?;
    let skipped = record.skipped.into_iter().map(|(source, reason)| Skipped { source, reason }).collect();
    (record.key == key).then_some(skipped)
}

/// Removes the dataset in `out`, the manifest first: what is removed halfway is no dataset. Other files stay.
pub(super) async fn clear(out: &Objects) -> Result<(), Error> {
    out.delete(FILE).await?;
    for entry in out.list("").await? {
        if is_shard(&entry.key) || entry.key == RECORD || entry.key == SKIPPED {
            out.delete(&entry.key).await?;
        }
    }
    Ok(())
}

/// Whether [`shard`] would give a file this name.
fn is_shard(key: &str) -> bool {
    key.strip_suffix(ARROW).and_then(|stem| stem.split_once('-')).is_some_and(|(split, number)| {
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
    use super::is_shard;

    #[test]
    fn only_its_own_files_are_removed() {
        assert!(is_shard("train-00000.arrow") && is_shard("val-100000.arrow"));
        for other in ["train-1.arrow", "notes-00000.arrow", "old/train-00000.arrow", "train-00000.arrow.bak", "x.csv"] {
            assert!(!is_shard(other), "{other}");
        }
    }
}
