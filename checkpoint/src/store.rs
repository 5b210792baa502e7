//! Checkpoints in object storage: `<name>/tensors.safetensors`, then `<name>/manifest.json`.

use bytes::Bytes;
use morph_objects::{Objects, split_url};
use morph_spec::Digest;
use serde::{Deserialize, Serialize};

use crate::{Error, Snapshot, State, weights};

/// File name of a checkpoint's manifest.
pub const MANIFEST: &str = "manifest.json";
const TENSORS: &str = "tensors.safetensors";
const VERSION: u32 = 1;
/// Bytes of a manifest: they are thousands.
const LARGEST: u64 = 64 << 20;

/// The URL of the manifest of the checkpoint at `place`: the URL or path of that, or of its folder.
///
/// # Errors
/// When it is no URL of a store that is known.
pub fn manifest_url(place: &str) -> Result<String, Error> {
    if !place.ends_with(".json") {
        return Ok(Objects::open(place)?.url_of(MANIFEST));
    }
    let beside_us;
    let place = if place.contains('/') {
        place
    } else {
        beside_us = format!("./{place}");
        &beside_us
    };
    let (folder, name) = split_url(place)?;
    Ok(folder.url_of(&name))
}

/// What a checkpoint says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the format.
    pub version: u32,
    /// Where training stands.
    pub state: State,
    /// The files beside the manifest.
    pub files: Vec<FileEntry>,
}

impl Manifest {
    /// The manifest in `text`, which came from `url`.
    ///
    /// # Errors
    /// [`Error::Manifest`] when it is none, or one that this build cannot read.
    pub fn parse(text: &[u8], url: &str) -> Result<Self, Error> {
        let bad = |why: String| Error::Manifest { url: url.to_owned(), why };
        let manifest: Self = serde_json::from_slice(text).map_err(|e| bad(e.to_string()))?;
        if manifest.version > VERSION {
            return Err(bad(format!("its version is {}, this build knows up to {VERSION}", manifest.version)));
        }
        Ok(manifest)
    }
}

/// A file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Name beside the manifest.
    pub file: String,
    /// Size in bytes.
    pub bytes: u64,
    /// BLAKE3 of the file.
    pub blake3: Digest,
}

/// A checkpoint that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// URL of its manifest.
    pub url: String,
    /// BLAKE3 of its manifest.
    pub digest: Digest,
    /// Size of all its files in bytes.
    pub bytes: u64,
}

/// Writes `snapshot` as the checkpoint `name` below `checkpoints`.
///
/// # Errors
/// Object storage's; then there is no checkpoint of that name.
pub async fn save(checkpoints: &Objects, name: &str, snapshot: &Snapshot) -> Result<Saved, Error> {
    let folder = checkpoints.at(name);
    let tensors = Bytes::from(weights::to_safetensors(&snapshot.tensors)?);
    let entry = FileEntry { file: TENSORS.to_owned(), bytes: tensors.len() as u64, blake3: Digest::of(&tensors) };
    let manifest = Manifest { version: VERSION, state: snapshot.state.clone(), files: vec![entry] };
    let text = Bytes::from(
        serde_json::to_vec_pretty(&manifest)
            .map_err(|e| Error::Manifest { url: folder.url_of(MANIFEST), why: e.to_string() })?,
    );
    let saved =
        Saved { url: folder.url_of(MANIFEST), digest: Digest::of(&text), bytes: (tensors.len() + text.len()) as u64 };
    if let Err(e) = folder.put(TENSORS, tensors).await {
        // A half-written folder without manifest is no checkpoint; tidy up if the store lets us.
        drop(folder.delete(TENSORS).await);
        return Err(e.into());
    }
    folder.commit(MANIFEST, text).await?;
    Ok(saved)
}

/// Reads a checkpoint's manifest; with `digest`, verified.
async fn manifest(url: &str, digest: Option<Digest>) -> Result<(Objects, Manifest), Error> {
    let (folder, key) = split_url(url)?;
    let text = folder.get_up_to(&key, LARGEST).await?;
    let found = Digest::of(&text);
    if let Some(expected) = digest.filter(|d| *d != found) {
        let found_bytes = text.len() as u64;
        return Err(Error::Corrupt { url: url.to_owned(), expected, bytes: 0, found, found_bytes });
    }
    Ok((folder, Manifest::parse(&text, url)?))
}

/// What the checkpoint whose manifest lies at `url` says of itself.
///
/// # Errors
/// When it is not there, or no manifest.
pub async fn inspect(url: &str) -> Result<Manifest, Error> {
    Ok(manifest(url, None).await?.1)
}

/// Reads the checkpoint whose manifest lies at `url`, and verifies every byte of it.
///
/// # Errors
/// [`Error::Corrupt`] names the file, what was expected and what was found.
pub async fn load(url: &str, digest: Option<Digest>) -> Result<Snapshot, Error> {
    let (folder, manifest) = manifest(url, digest).await?;
    let mut snapshot = Snapshot { tensors: crate::Tensors::new(), state: manifest.state };
    for entry in &manifest.files {
        let bytes = folder.get_up_to(&entry.file, entry.bytes).await?;
        let found = Digest::of(&bytes);
        if found != entry.blake3 {
            return Err(Error::Corrupt {
                url: folder.url_of(&entry.file),
                expected: entry.blake3,
                bytes: entry.bytes,
                found,
                found_bytes: bytes.len() as u64,
            });
        }
        snapshot.tensors.extend(weights::read(&bytes, &entry.file)?);
    }
    Ok(snapshot)
}

/// Removes the checkpoint whose manifest lies at `url`: the manifest first, so that it is never seen in part.
///
/// # Errors
/// Object storage's.
pub async fn remove(url: &str) -> Result<(), Error> {
    let (folder, key) = split_url(url)?;
    folder.delete(&key).await?;
    Ok(folder.delete_all("").await?)
}
