//! What can go wrong with checkpoints and weights files.

use morph_spec::Digest;

/// A failed save, load or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Object storage failed.
    #[error(transparent)]
    Objects(#[from] morph_objects::Error),
    /// A file of the checkpoint is not what its manifest says.
    #[error(
        "{url}: corrupt: expected {expected} ({bytes} bytes), found {found} ({found_bytes} bytes); go on from an older checkpoint"
    )]
    Corrupt {
        /// The file.
        url: String,
        /// BLAKE3 promised.
        expected: Digest,
        /// Size promised; 0 when unknown.
        bytes: u64,
        /// BLAKE3 found.
        found: Digest,
        /// Size found.
        found_bytes: u64,
    },
    /// The manifest is no manifest, or of a newer version.
    #[error("{url}: not a checkpoint manifest: {why}")]
    Manifest {
        /// The manifest.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// A weights file cannot be read.
    #[error("{name}: cannot read weights: {why}")]
    Weights {
        /// The file.
        name: String,
        /// What is wrong and what to do.
        why: String,
    },
}
