//! What there is to make, known from the source alone: which images become which shard. Every machine that sees the same files
//! and the same YAML arrives at the same work, by the same key.

use std::{
    collections::BTreeMap,
    path::{Component, Path},
};

use morph_objects::Objects;
use morph_spec::{Digest, dataset::Dataset};

use super::{
    LARGEST_SHARD, Options, Skipped, check,
    choose::{self, Splits},
    counted, key,
    line::{self, Task},
    output::{self, Part},
};
use crate::{
    Error, Progress,
    layouts::{self, Listing},
};

/// A shard that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Its name, without an end: `train-00000`.
    pub name: String,
    /// How many images may be in it.
    pub images: u64,
}

/// All shards of a dataset that is to be prepared.
#[derive(Debug)]
pub struct Work<'a> {
    pub(super) spec: &'a Dataset,
    pub(super) key: Digest,
    pub(super) splits: Splits,
    /// What is left out before any file is read.
    pub(super) skipped: Vec<Skipped>,
    /// Whether tables say the splits.
    pub(super) given: bool,
    /// Whether patients are persons.
    pub(super) persons: bool,
    /// Whether the images were drawn, and are of nobody.
    pub(super) synthetic: bool,
    /// Most images of a shard.
    samples: usize,
}

impl<'a> Work<'a> {
    /// Lists the source. Nothing is written.
    ///
    /// # Errors
    /// When it cannot be listed, nothing is left of it, or a split is empty.
    pub fn list(spec: &'a Dataset) -> Result<Self, Error> {
        let listing = layouts::list(spec)?;
        Self::of(spec, key(spec, &listing)?, listing)
    }

    pub(super) fn of(spec: &'a Dataset, key: Digest, listing: Listing) -> Result<Self, Error> {
        let given = listing.items.iter().any(|item| item.split.is_some());
        let (splits, mut skipped) = choose::assign(spec, listing.items)?;
        skipped.extend(listing.skipped);
        let promised = splits.iter().map(|(split, items)| (*split, items.iter().map(|(_, label)| (label.as_str(), 1))));
        check(spec, given, &counted(promised), &skipped)?;
        let pixels = u64::from(spec.preprocess.size).pow(2);
        let samples = u64::from(spec.shard_samples).min(LARGEST_SHARD / pixels).max(1) as usize;
        let (persons, synthetic) = (listing.persons, listing.synthetic);
        Ok(Self { spec, key, splits, skipped, given, persons, synthetic, samples })
    }

    /// What decides whether anything has to be made again: a digest of the YAML, of what tables say of every file, and of the files'
    /// sizes and times of change.
    pub fn key(&self) -> Digest {
        self.key
    }

    /// The first image whose name leads out of the source's root: tables may say any. Who makes shards for others reads nothing there.
    pub fn stray(&self) -> Option<&str> {
        let leads_out = |source: &str| {
            !Path::new(source).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
        };
        self.splits.values().flatten().map(|(item, _)| item.source.as_str()).find(|source| leads_out(source))
    }

    /// Images that are to be read.
    pub fn images(&self) -> u64 {
        self.splits.values().map(|items| items.len() as u64).sum()
    }

    /// Every shard: its split, its number there, and what becomes of it.
    pub(super) fn parts(&self) -> impl Iterator<Item = Task<'_>> {
        self.splits
            .iter()
            .flat_map(|(split, items)| items.chunks(self.samples).enumerate().map(|(i, chunk)| (*split, i, chunk)))
    }

    /// Every shard, in the manifest's order.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> {
        self.parts().map(|(split, i, items)| Chunk { name: output::stem(split, i), images: items.len() as u64 })
    }

    /// Makes the shard `name` in `out`, unless it is there already, whole and made from the same; a shard that is not whole never
    /// counts. Blocks this thread while it decodes.
    ///
    /// # Errors
    /// When there is no such shard in this work, object storage fails, or what the source lies on ([`Error::Storage`]).
    pub async fn make(
        &self,
        out: &Objects,
        name: &str,
        options: &Options,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        let found = self.parts().find(|(split, i, _)| output::stem(split, *i) == name);
        let Some((split, i, items)) = found else {
            return Err(Error::Source { path: name.to_owned(), why: "this dataset has no such shard".to_owned() });
        };
        if output::is_done(out, self.key, name).await? {
            progress.advance(items.len() as u64);
            return Ok(());
        }
        line::make(self, &[(split, i, items)], options, progress).map(drop)
    }

    /// Makes every shard that is not among `done`; all of them, in order. Blocks this thread.
    ///
    /// # Errors
    /// As [`Self::make`].
    pub(super) fn make_all(
        &self,
        mut done: BTreeMap<String, Part>,
        options: &Options,
        progress: &dyn Progress,
    ) -> Result<Vec<Part>, Error> {
        progress.stage("decode and resize", self.images());
        let (mut parts, mut missing) = (Vec::new(), Vec::new());
        for (split, i, items) in self.parts() {
            let part = output::done(&mut done, split, i);
            match part {
                Some(_) => progress.advance(items.len() as u64),
                None => missing.push((split, i, items)),
            }
            parts.push(part);
        }
        let mut made = line::make(self, &missing, options, progress)?.into_iter();
        Ok(parts.into_iter().filter_map(|part| part.or_else(|| made.next())).collect())
    }
}
