//! The agent of a node and the ranks that train: everything that runs where the GPUs are.
//!
//! Contract:
//! 1. An agent starts ranks as child processes and survives their death; no rank outlives its agent.
//! 2. A rank speaks to its agent only ([`wire`]), and computes the same bits whether it was interrupted or not.
//! 3. Every end is sorted by who is to blame (`morph.v1.Exit`), so that the coordinator knows whether to try again.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod agent;
pub mod child;
pub mod device;
pub mod evaluate;
pub mod export;
pub mod node;
pub mod prepare;
pub mod rank;
pub mod wire;

use std::time::{SystemTime, UNIX_EPOCH};

use morph_spec::Timestamp;

/// The time of day: the only clock that reports see.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
