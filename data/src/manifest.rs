//! Reading and writing `manifest.json`.

use std::collections::BTreeMap;

use bytes::Bytes;
use morph_objects::Objects;
use morph_spec::{
    Digest, Manifest,
    manifest::{FILE, LARGEST, VERSION},
};

use crate::Error;

/// The manifest in the folder `dataset`, and the BLAKE3 of its file.
///
/// # Errors
/// When there is none, or it cannot be read by this build.
pub async fn read(dataset: &Objects) -> Result<(Manifest, Digest), Error> {
    let bytes = dataset.get_up_to(FILE, LARGEST).await?;
    Ok((parse(&bytes, &dataset.url_of(FILE))?, Digest::of(&bytes)))
}

/// Writes the manifest: from then on the dataset exists.
///
/// # Errors
/// When another dataset lies there already.
pub async fn commit(dataset: &Objects, manifest: &Manifest) -> Result<Digest, Error> {
    let url = dataset.url_of(FILE);
    let bytes = serde_json::to_vec_pretty(manifest).map_err(|e| Error::Manifest { url, why: e.to_string() })?;
    let digest = Digest::of(&bytes);
    dataset.commit(FILE, Bytes::from(bytes)).await?;
    Ok(digest)
}

/// Samples per split and label, for people.
pub(crate) fn counts_text(counts: &BTreeMap<String, BTreeMap<String, u64>>) -> String {
    let list = |labels: &BTreeMap<String, u64>| {
        labels.iter().map(|(label, n)| format!("{n} {label:?}")).collect::<Vec<_>>().join(", ")
    };
    let has: Vec<String> = counts.iter().map(|(split, labels)| format!("{split:?}: {}", list(labels))).collect();
    if has.is_empty() { "none at all".into() } else { has.join("; ") }
}

/// The manifest in `bytes`, which came from `url`.
///
/// # Errors
/// [`Error::Manifest`] when it is none, or one that this build cannot read.
pub fn parse(bytes: &[u8], url: &str) -> Result<Manifest, Error> {
    let bad = |why: String| Error::Manifest { url: url.to_owned(), why };
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
    // The version first: a newer manifest may have fields that make no sense here.
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(version) if version > u64::from(VERSION) => {
            return Err(bad(format!("its version is {version}, this build knows up to {VERSION}; use a newer morph")));
        }
        _ => {}
    }
    let manifest: Manifest = serde_json::from_value(value).map_err(|e| bad(e.to_string()))?;
    if manifest.image_size.contains(&0) {
        return Err(bad("its images have no pixels".into()));
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_manifest_is_refused_by_its_version() {
        let said = parse(br#"{"version": 99, "hologram": true}"#, "file:///m").unwrap_err().to_string();
        assert!(said.contains("version is 99"), "{said}");
        assert!(parse(b"[]", "file:///m").is_err());
    }
}
