//! The words of morph and the typed YAML: what an experiment, a sweep and a dataset are, their defaults, and errors
//! that point at file, line, column and field.
//!
//! Nothing here does I/O: text comes in, values or [`load::Error`] come out.

pub mod dataset;
pub mod experiment;
pub mod ids;
pub mod manifest;
pub mod rng;
pub mod sweep;
pub mod time;

pub use experiment::Experiment;
pub use ids::{Digest, Fence, RunId, SweepId, WorkerId};
pub use manifest::Manifest;
pub use rng::Rng;
pub use sweep::Sweep;
pub use time::Timestamp;
