//! A slot belongs to at most one attempt, and a rank runs once. (That gangs are placed whole, and on slots that are free,
//! `morph_control::invariants` asks after every command.)

use morph_control::{Cluster, agent::Key};

use super::Truth;
use crate::gang::Gangs;

/// A node starts the process of `key`.
///
/// # Errors
/// When it runs already, or did.
pub fn started(gangs: &Gangs, truth: &mut Truth, key: Key, node: usize) -> Result<(), String> {
    if !truth.started.insert(key) {
        return Err(format!("slots: node {node} starts {key}, which was started before"));
    }
    match gangs.ranks.get(&key) {
        Some(rank) => Err(format!("slots: node {node} starts {key}, which runs on node {} already", rank.node)),
        None => Ok(()),
    }
}

/// Nothing runs any more.
///
/// # Errors
/// When a slot is still taken.
pub fn released(cluster: &Cluster) -> Result<(), String> {
    match cluster.workers.keys().find(|w| cluster.used(**w) > 0) {
        Some(worker) => Err(format!("slots: {worker} has {} ranks, and all is over", cluster.used(*worker))),
        None => Ok(()),
    }
}
