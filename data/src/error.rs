//! What can go wrong with datasets.

/// A failed read or preparation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Object storage or the cache failed.
    #[error(transparent)]
    Objects(#[from] morph_objects::Error),
    /// The manifest is no manifest, or of a newer version.
    #[error("{url}: not a dataset manifest: {why}")]
    Manifest {
        /// The manifest.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// A shard has the bytes that were promised, but they make no sense.
    #[error("{url}: not a shard of this dataset: {why}; prepare the dataset again")]
    Shard {
        /// The shard.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// Nothing is left of a split.
    #[error("split {split:?} has no samples {wanted}; the dataset has {has}")]
    Empty {
        /// The split.
        split: String,
        /// Which labels were asked for.
        wanted: String,
        /// What there is instead.
        has: String,
    },
    /// A raw dataset's table or folder cannot be used.
    #[error("{path}: {why}")]
    Source {
        /// The file or folder.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// Where raw files lie has failed, so that nothing can be said of any file.
    #[error(
        "{path}: {why}; nothing was committed, and the same command goes on from the shards that are done (should it be this file alone, \
         name it in source.bad_images)"
    )]
    Storage {
        /// The file at which it failed.
        path: String,
        /// What it says.
        why: String,
    },
    /// Somebody else writes to the output of a job.
    #[error(
        "{url}: {why}, though this job has written it: another one, of other files or another YAML, seems to have the same output; \
         nothing was committed: choose another output, or run the same command again when the other has ended"
    )]
    Contested {
        /// The shard.
        url: String,
        /// What it is now.
        why: String,
    },
    /// Not one image could be used.
    #[error("{root}: no image is left; {skipped} were skipped, the first because: {reason}")]
    NothingLeft {
        /// The source's root.
        root: String,
        /// How many were skipped.
        skipped: usize,
        /// Why the first was.
        reason: String,
    },
    /// Another dataset lies where this one should go.
    #[error(
        "{url}: another dataset is there already, made from other files or another YAML; choose another output, or say --overwrite"
    )]
    Exists {
        /// The folder.
        url: String,
    },
    /// A picture cannot be drawn or written.
    #[error("picture: {0}")]
    Picture(String),
}

/// An I/O error in words; a full disk is named as such.
pub(crate) fn io_text(e: &std::io::Error) -> String {
    match e.kind() {
        std::io::ErrorKind::StorageFull => "no space left on the device".to_owned(),
        _ => e.to_string(),
    }
}
