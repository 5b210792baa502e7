//! Images in, samples out: raw files become shards once, and are mapped into memory ever after.
//!
//! Contract:
//! 1. A prepared dataset is shards (Arrow IPC files) and one `manifest.json`, written last; every shard's BLAKE3 is in it and
//!    is checked before a sample is seen.
//! 2. The order of samples is a pure function of (seed, epoch, batch index), and what augmentation makes of one is one of (seed, epoch,
//!    sample): any number of ranks sees the same batches.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod augment;
mod clahe;
pub mod diff;
pub mod duplicates;
mod error;
pub mod font;
pub mod frame;
pub mod heatmap;
pub mod inspect;
pub mod layouts;
pub mod manifest;
mod mmap;
pub mod phantom;
pub mod picture;
pub mod prepare;
mod privacy;
mod progress;
pub mod readers;
pub mod resize;
pub mod sampler;
mod samples;
pub mod secondary_capture;
pub mod shard;
pub mod synth;
mod tone;
pub mod truth;

pub use error::Error;
pub use progress::{Progress, Silent};
pub use samples::{Meta, Samples, stays_within};
