//! The words of morph and the typed YAML: what an experiment, a sweep and a dataset are, their defaults, and errors
//! that point at file, line, column and field.
//!
//! [`load`] reads files, nothing else here does any I/O: text comes in, values or [`load::Problems`] come out.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod augment;
mod check;
pub mod cluster;
pub mod dataset;
pub mod evaluation;
pub mod experiment;
pub mod gpus;
pub mod ids;
pub mod load;
pub mod loss;
pub mod manifest;
pub mod method;
mod nearest;
pub mod rng;
pub mod schedule;
pub mod scheduling;
pub mod sweep;
pub mod time;

pub use augment::Augment;
pub use check::FieldProblem;
pub use cluster::Cluster;
pub use dataset::Dataset;
pub use experiment::Experiment;
pub use ids::{Digest, Fence, RunId, SweepId, WorkerId};
pub use manifest::Manifest;
pub use rng::Rng;
pub use scheduling::Scheduling;
pub use sweep::Sweep;
pub use time::Timestamp;
