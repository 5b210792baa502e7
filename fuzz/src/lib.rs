//! Every parser of morph that eats bytes from elsewhere, each as a function of bytes.
//!
//! Contract: whatever the bytes are, the function returns. It does not panic, nor overflow a stack of 2 MiB, and what it takes
//! of memory and time is in proportion to the bytes. Where what was read has a property that matters beyond that (a document
//! is read back as it was written, nobody passes the gate without a token), the function asserts it.
//!
//! The same functions run in two ways: under libFuzzer (`cargo fuzz run pickle`), which looks for new bytes, and in
//! `tests/corpus.rs`, which CI runs on those that are known (`seeds/`) and on mutations of them. docs/security.md has the rest.

mod access;
mod documents;
mod files;
mod wire;

pub use access::{certificate, gate, location, telemetry};
pub use documents::{cases, checkpoint_manifest, dataset_manifest, evaluation, event, yaml};
pub use files::{
    Header, dicom, dicom_pixels, jpeg, nifti, npy, padchest, pickle, png, shard, tables, weights, workbook,
};
pub use wire::{URL, messages, runs, session, submit};

/// A parser.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name, which is that of its program and of its folder of seeds.
    pub name: &'static str,
    /// Feeds it.
    pub run: fn(&[u8]),
}

macro_rules! targets {
    ($($name:ident),*) => {
        /// All of them.
        pub const TARGETS: &[Target] = &[$(Target { name: stringify!($name), run: $name }),*];
    };
}

targets!(
    cases,
    certificate,
    checkpoint_manifest,
    dataset_manifest,
    dicom,
    dicom_pixels,
    evaluation,
    event,
    gate,
    jpeg,
    location,
    messages,
    nifti,
    npy,
    padchest,
    pickle,
    png,
    session,
    shard,
    submit,
    tables,
    telemetry,
    weights,
    workbook,
    yaml
);
