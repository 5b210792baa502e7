//! The samples of a subset, mapped out of the node's cache.

use std::collections::BTreeSet;

use morph_objects::{CachedFile, NodeCache, Objects, Wanted};
use morph_spec::{Digest, Manifest, experiment::Subset, manifest::Shard};

use crate::{Error, manifest, mmap::Mapped, shard};

/// Whether a file that is named after the sample `id` stays in its folder, or in one below: an id that is a path would lead out.
pub fn stays_within(id: &str) -> bool {
    !id.split('/').any(|part| part.is_empty() || part == "." || part == "..")
}

/// What is known of a sample besides its pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct Meta {
    /// The image's name in its source.
    pub id: String,
    /// The person, or the image where persons are unknown (see the manifest).
    pub patient: String,
    /// The label, as the dataset calls it.
    pub label: String,
    /// How it was taken: `AP`, `PA`, …
    pub view: Option<String>,
    /// `M` or `F`.
    pub sex: Option<String>,
    /// Years.
    pub age: Option<u32>,
    /// Findings: x, y, width, height in 0..1 of the prepared image.
    pub boxes: Vec<[f32; 4]>,
    /// Path of the source file, relative to the source's root.
    pub source: String,
    /// BLAKE3 of the source file.
    pub digest: Digest,
}

/// The samples of one subset. Pixels stay in the page cache, which all ranks of a node share.
#[derive(Debug)]
pub struct Samples {
    shards: Vec<shard::Shard>,
    /// Shard and row of each sample.
    index: Vec<(u32, u32)>,
    image_size: [u32; 2],
    maps: Vec<Mapped>,
    _files: Vec<CachedFile>,
}

impl Samples {
    /// The samples of `subset` in the dataset whose manifest lies in the folder `dataset`; shards that are not in `cache` are
    /// fetched, and verified.
    ///
    /// # Errors
    /// [`Error::Empty`] when nothing is left, and what object storage says.
    pub async fn open(
        dataset: &Objects,
        manifest: &Manifest,
        subset: &Subset,
        cache: &NodeCache,
    ) -> Result<Self, Error> {
        let labels: BTreeSet<&str> = subset.labels.iter().map(String::as_str).collect();
        let wants = |label: &str| labels.is_empty() || labels.contains(label);
        let [height, width] = manifest.image_size;
        let entries: Vec<_> = shards(manifest, subset).collect();
        let files = cache.fetch_all(dataset, &entries.iter().map(|shard| wanted(shard)).collect::<Vec<_>>()).await?;
        let (mut shards, mut maps, mut index) = (Vec::new(), Vec::new(), Vec::new());
        for (entry, file) in entries.into_iter().zip(&files) {
            let bad = |why: String| Error::Shard { url: dataset.url_of(&entry.file), why };
            let map = Mapped::new(file.file()).map_err(|e| bad(format!("it cannot be mapped: {e}")))?;
            let shard = shard::Shard::open(&map.buffer(), height as usize * width as usize).map_err(bad)?;
            if shard.len() as u64 != entry.samples {
                return Err(bad(format!("it holds {} samples, the manifest says {}", shard.len(), entry.samples)));
            }
            let number = u32::try_from(shards.len()).map_err(|_| bad("there are too many shards".into()))?;
            let rows = (0..shard.len()).filter(|row| wants(shard.label(*row)));
            index.extend(rows.map(|row| (number, row as u32)));
            shards.push(shard);
            maps.push(map);
        }
        if index.is_empty() {
            return Err(empty(manifest, subset));
        }
        Ok(Self { shards, index, image_size: manifest.image_size, maps, _files: files })
    }

    /// Has all shards of `subsets` in `cache`, each once, and holds them there: whoever opens several subsets is refused at once when they
    /// do not fit there together, and there is no pause between them. The cache knows them by `digest`, the manifest's, from then on.
    ///
    /// # Errors
    /// What object storage says.
    pub async fn fetch(
        dataset: &Objects,
        manifest: &Manifest,
        digest: Digest,
        subsets: &[&Subset],
        cache: &NodeCache,
    ) -> Result<Vec<CachedFile>, Error> {
        let mut all = Vec::new();
        for shard in subsets.iter().flat_map(|subset| shards(manifest, subset)) {
            if !all.iter().any(|known: &Wanted| known.digest == shard.blake3) {
                all.push(wanted(shard));
            }
        }
        let held = cache.fetch_all(dataset, &all).await?;
        cache.note(digest, all.iter().map(|shard| shard.digest));
        Ok(held)
    }

    /// How many there are; at least one.
    #[allow(clippy::len_without_is_empty, reason = "never empty: opening nothing is an error")]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    fn at(&self, i: usize) -> (&shard::Shard, usize) {
        let (shard, row) = self.index[i];
        (&self.shards[shard as usize], row as usize)
    }

    /// The pixels of sample `i`: height × width, row by row.
    ///
    /// # Panics
    /// When there is no such sample.
    pub fn image(&self, i: usize) -> &[u8] {
        let (shard, row) = self.at(i);
        shard.image(row)
    }

    /// What else is known of sample `i`.
    ///
    /// # Panics
    /// When there is no such sample.
    pub fn meta(&self, i: usize) -> Meta {
        let (shard, row) = self.at(i);
        shard.meta(row)
    }

    /// BLAKE3 of the source file of sample `i`.
    ///
    /// # Panics
    /// When there is no such sample.
    pub fn digest(&self, i: usize) -> Digest {
        let (shard, row) = self.at(i);
        shard.digest(row)
    }

    /// Reads all of it into memory, where it stays for as long as this lives; it is there once for all processes of the node. Whether
    /// the kernel has promised to keep it: it does not when that is more than this process may lock.
    pub fn keep_in_memory(&self) -> bool {
        // All of them, whatever the first says.
        self.maps.iter().filter(|map| map.keep_in_memory()).count() == self.maps.len()
    }

    /// Bytes of all pixels.
    pub fn pixels(&self) -> u64 {
        self.image_size.iter().fold(self.index.len() as u64, |all, side| all.saturating_mul(u64::from(*side)))
    }

    /// Height and width of every image.
    pub fn image_size(&self) -> [u32; 2] {
        self.image_size
    }
}

/// The shards in which there is something of `subset`.
fn shards<'a>(manifest: &'a Manifest, subset: &'a Subset) -> impl Iterator<Item = &'a Shard> {
    let wants = |label: &String| subset.labels.is_empty() || subset.labels.contains(label);
    manifest.split(&subset.split).filter(move |shard| shard.labels.keys().any(wants))
}

fn wanted(shard: &Shard) -> Wanted {
    Wanted { key: shard.file.clone(), bytes: shard.bytes, digest: shard.blake3 }
}

fn empty(manifest: &Manifest, subset: &Subset) -> Error {
    Error::Empty {
        split: subset.split.clone(),
        wanted: if subset.labels.is_empty() { "at all".into() } else { format!("labelled {:?}", subset.labels) },
        has: manifest::counts_text(&manifest.counts),
    }
}
