//! Ranks that train together: they speak to each other without the coordinator, step by step in lockstep, and fail
//! together.

use std::collections::{BTreeMap, BTreeSet};

use morph_control::agent::Key;
use morph_spec::Fence;

use crate::mail::Start;

/// A rank's process.
#[derive(Debug)]
pub struct Rank {
    /// The node that it runs on.
    pub node: usize,
    /// Which life of the node's agent started it.
    pub life: u64,
    pub start: Start,
    /// Whether it has come up.
    pub up: bool,
    /// Where it was told to meet the others.
    pub address: Option<String>,
    /// Whether it is in the group.
    pub joined: bool,
    /// It does nothing any more, and does not end either.
    pub hung: bool,
    /// It has said how it ends.
    pub ending: bool,
    /// Asked to save and stop.
    pub stop: bool,
    /// Checkpoints that it has written: URL and step, oldest first; rank 0 only.
    pub written: Vec<(String, u64)>,
}

/// Ranks of one attempt.
#[derive(Debug, Default)]
pub struct Gang {
    /// Steps taken, and what they came to.
    pub step: u64,
    pub weights: u64,
    /// Whether all are in.
    pub training: bool,
    /// When it last took a step or began.
    pub moved: u64,
    /// A checkpoint is being written: how often it was tried.
    pub saving: Option<u32>,
    /// What is done when it is written.
    pub last: bool,
}

/// All ranks and gangs of all nodes.
#[derive(Debug, Default)]
pub struct Gangs {
    pub ranks: BTreeMap<Key, Rank>,
    pub gangs: BTreeMap<Fence, Gang>,
}

impl Gangs {
    /// Ranks of `fence` that are alive.
    pub fn of(&self, fence: Fence) -> impl Iterator<Item = (&Key, &Rank)> {
        let (first, last) = (Key { fence, rank: 0 }, Key { fence, rank: u32::MAX });
        self.ranks.range(first..=last)
    }

    /// What the ranks of `fence` are at.
    pub fn moment(&self, fence: Fence) -> &'static str {
        match self.gangs.get(&fence) {
            Some(gang) if gang.training && gang.saving.is_some() => "saving",
            Some(gang) if gang.training => "training",
            Some(_) => "ending",
            None => "starting",
        }
    }

    /// Whether every rank of the gang is up and in the group.
    pub fn is_whole(&self, fence: Fence) -> bool {
        let world = self.of(fence).next().map_or(0, |(_, r)| r.start.world);
        let joined: BTreeSet<u32> = self.of(fence).filter(|(_, r)| r.joined).map(|(k, _)| k.rank).collect();
        world > 0 && joined.len() as u32 == world
    }
}
