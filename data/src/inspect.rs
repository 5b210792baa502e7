//! Looking at a prepared dataset.

use std::collections::BTreeMap;

use arrow_buffer::Buffer;
use bytes::Bytes;
use morph_objects::Objects;
use morph_spec::{Digest, Manifest, manifest::Shard as Entry};
use serde::Serialize;

use crate::{Error, manifest, readers::png, shard::Shard};

/// What is in a dataset.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Its folder.
    pub url: String,
    /// BLAKE3 of its manifest.
    pub digest: Digest,
    /// The manifest.
    pub manifest: Manifest,
    /// Samples by split, then `view`, `sex` or `age`, then value.
    pub groups: BTreeMap<String, BTreeMap<String, BTreeMap<String, u64>>>,
}

/// A shard that is not as its manifest says.
#[derive(Debug, Clone, Serialize)]
pub struct Damage {
    /// File name.
    pub file: String,
    /// What is wrong.
    pub why: String,
}

fn band(age: Option<u32>) -> &'static str {
    match age {
        None => "unknown",
        Some(0..=39) => "<40",
        Some(40..=59) => "40-59",
        Some(60..=79) => "60-79",
        Some(_) => "80+",
    }
}

pub(crate) async fn open(dataset: &Objects, manifest: &Manifest, entry: &Entry) -> Result<Shard, Error> {
    let bytes = read(dataset, entry).await?;
    let [height, width] = manifest.image_size;
    let url = dataset.url_of(&entry.file);
    Shard::open(&Buffer::from(bytes), height as usize * width as usize).map_err(|why| Error::Shard { url, why })
}

/// The shard's bytes, when they are those that the manifest promises.
pub(crate) async fn read(dataset: &Objects, entry: &Entry) -> Result<Bytes, Error> {
    let bytes = dataset.get_up_to(&entry.file, entry.bytes).await?;
    let (found, found_bytes) = (Digest::of(&bytes), bytes.len() as u64);
    if found != entry.blake3 || found_bytes != entry.bytes {
        let (url, expected, bytes) = (dataset.url_of(&entry.file), entry.blake3, entry.bytes);
        return Err(morph_objects::Error::Corrupt { url, expected, bytes, found, found_bytes }.into());
    }
    Ok(bytes)
}

/// Reads manifest and shards of the dataset at `url`.
///
/// # Errors
/// When there is none, or it is damaged.
pub async fn inspect(url: &str) -> Result<Summary, Error> {
    let dataset = Objects::open(url)?;
    let (manifest, digest) = manifest::read(&dataset).await?;
    let mut groups: BTreeMap<String, BTreeMap<String, BTreeMap<String, u64>>> = BTreeMap::new();
    for entry in &manifest.shards {
        let shard = open(&dataset, &manifest, entry).await?;
        let split = groups.entry(entry.split.clone()).or_default();
        for row in 0..shard.len() {
            let meta = shard.meta(row);
            let unknown = || "unknown".to_owned();
            for (what, value) in [
                ("view", meta.view.unwrap_or_else(unknown)),
                ("sex", meta.sex.unwrap_or_else(unknown)),
                ("age", band(meta.age).to_owned()),
            ] {
                *split.entry(what.to_owned()).or_default().entry(value).or_default() += 1;
            }
        }
    }
    Ok(Summary { url: dataset.url(), digest, manifest, groups })
}

/// Compares every shard of the dataset at `url` with its manifest.
///
/// # Errors
/// When there is no dataset; damage is no error, it is the answer.
pub async fn verify(url: &str) -> Result<Vec<Damage>, Error> {
    let dataset = Objects::open(url)?;
    let (manifest, _) = manifest::read(&dataset).await?;
    damage_of(&dataset, &manifest).await
}

/// The shards of `manifest` that are not as it says.
pub(crate) async fn damage_of(dataset: &Objects, manifest: &Manifest) -> Result<Vec<Damage>, Error> {
    use morph_objects::Error::{Corrupt, NotFound, TooLarge};
    let mut damage = Vec::new();
    for entry in &manifest.shards {
        let why = match read(dataset, entry).await {
            Ok(_) => continue,
            Err(Error::Objects(NotFound { .. })) => "it is missing".to_owned(),
            Err(Error::Objects(TooLarge { most, .. })) => {
                format!("it has more than the {most} bytes that were promised")
            }
            Err(Error::Objects(Corrupt { expected, bytes, found, found_bytes, .. })) => {
                format!("its BLAKE3 is {found} ({found_bytes} bytes) instead of {expected} ({bytes} bytes)")
            }
            Err(e) => return Err(e),
        };
        damage.push(Damage { file: entry.file.clone(), why });
    }
    Ok(damage)
}

/// The first `n` images of `split`, side by side, as a PNG.
///
/// # Errors
/// When there is no dataset, or nothing in the split.
pub async fn contact_sheet(url: &str, split: &str, n: usize) -> Result<Vec<u8>, Error> {
    let dataset = Objects::open(url)?;
    let (manifest, _) = manifest::read(&dataset).await?;
    let [height, width] = manifest.image_size.map(|d| d as usize);
    let mut images = Vec::new();
    for entry in manifest.split(split) {
        let shard = open(&dataset, &manifest, entry).await?;
        images.extend((0..shard.len()).take(n - images.len()).map(|row| shard.image(row).to_vec()));
        if images.len() == n {
            break;
        }
    }
    if images.is_empty() {
        let has = manifest::counts_text(&manifest.counts);
        return Err(Error::Empty { split: split.to_owned(), wanted: "to show".to_owned(), has });
    }
    let columns = images.len().isqrt().max(1);
    let rows = images.len().div_ceil(columns);
    let mut sheet = vec![0; columns * width * rows * height];
    for (i, image) in images.iter().enumerate() {
        let (left, top) = (i % columns * width, i / columns * height);
        for (y, row) in image.chunks_exact(width).enumerate() {
            let at = (top + y) * columns * width + left;
            sheet[at..at + width].copy_from_slice(row);
        }
    }
    png::write(columns * width, rows * height, &sheet).map_err(|why| Error::Shard { url: dataset.url(), why })
}
