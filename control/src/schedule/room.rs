//! What is free on each worker, while a plan is being made.

use std::{collections::BTreeMap, ops::Range};

use morph_spec::{Digest, WorkerId};

use crate::{
    Cluster, Crash, Outcome, Run, WHOLE, Worker,
    placement::Node,
    sabotage::{Mechanism, is_broken},
};

/// What each rank of a run needs.
pub(super) struct Demand<'a> {
    share: u32,
    memory: u64,
    dataset: Digest,
    pub labels: &'a BTreeMap<String, String>,
    /// Where its last attempt failed.
    tried: &'a [WorkerId],
    /// Slots on which it crashed.
    crashes: &'a [Crash],
}

impl<'a> Demand<'a> {
    pub fn of(run: &'a Run) -> Self {
        let scheduling = &run.experiment.scheduling;
        let failed = run.past.last().filter(|past| matches!(past.outcome, Outcome::Failed | Outcome::Lost));
        let tried = failed.map_or(&[][..], |past| &past.ranks);
        Self {
            share: run.share(),
            memory: scheduling.memory.0,
            dataset: run.dataset,
            labels: &scheduling.nodes,
            tried,
            crashes: &run.crashes,
        }
    }

    fn suits(&self, worker: &Worker) -> bool {
        has(worker, self.labels)
    }
}

/// Whether `worker` has all of `labels`.
fn has(worker: &Worker, labels: &BTreeMap<String, String>) -> bool {
    labels.iter().all(|(label, value)| worker.labels.get(label) == Some(value))
}

#[derive(Debug, Clone)]
struct Room<'a> {
    worker: &'a Worker,
    /// Its slots among all.
    slots: Range<usize>,
    /// Bytes; the most there is when memory is not counted.
    memory: u64,
}

impl Room<'_> {
    /// Ranks that fit now. Two ranks of a gang never share a slot: NCCL would not let them.
    fn fits(&self, free: &[u32], demand: &Demand<'_>) -> u32 {
        let slots = free[self.slots.clone()].iter().filter(|free| **free >= demand.share).count() as u64;
        let most = self.memory.checked_div(demand.memory).unwrap_or(u64::MAX);
        slots.min(most) as u32
    }

    /// Ranks that would fit if nothing ran here.
    fn holds(&self, demand: &Demand<'_>) -> u32 {
        let memory = if self.worker.memory == 0 { u64::MAX } else { self.worker.memory };
        let most = memory.checked_div(demand.memory).unwrap_or(u64::MAX);
        u64::from(self.worker.slots).min(most) as u32
    }

    /// Takes the tightest slot in which a rank fits, but none of `taken`, and one on which runs crashed only for want of another.
    fn take(&mut self, free: &mut [u32], demand: &Demand<'_>, taken: &[u32]) -> u32 {
        let free = &mut free[self.slots.clone()];
        let fits = |d: &u32| free[*d as usize] >= demand.share && !taken.contains(d);
        let slots = (0..free.len() as u32).filter(fits);
        let crashed = |d: u32| {
            let own = demand.crashes.iter().any(|c| c.worker == self.worker.id && c.device == d);
            (own, self.worker.bad_slots.get(&d).map_or(0, Vec::len))
        };
        let device = slots.min_by_key(|d| (crashed(*d), free[*d as usize])).unwrap_or_default();
        if let Some(free) = free.get_mut(device as usize) {
            *free = free.saturating_sub(demand.share);
        }
        if self.worker.memory > 0 {
            self.memory = self.memory.saturating_sub(demand.memory);
        }
        device
    }
}

/// All workers that take new work.
#[derive(Debug, Clone)]
pub(super) struct Rooms<'a> {
    /// In the order of their workers' ids.
    rooms: Vec<Room<'a>>,
    /// Thousandths of each slot that are free; in one piece, for this is made anew with each plan.
    free: Vec<u32>,
}

impl<'a> Rooms<'a> {
    /// `workers` come in the order of their ids.
    pub fn new(cluster: &Cluster, workers: impl Iterator<Item = &'a Worker>) -> Self {
        let mut free = Vec::new();
        let rooms = workers.map(|worker| {
            let load = cluster.index.load(worker.id);
            let load = load.filter(|_| !is_broken(Mechanism::SlotCounts));
            let taken = |d: u32| load.and_then(|l| l.shares.get(d as usize)).copied().unwrap_or(0);
            let memory = match worker.memory {
                0 => u64::MAX,
                all => all.saturating_sub(load.map_or(0, |l| l.memory)),
            };
            let first = free.len();
            free.extend((0..worker.slots).map(|d| WHOLE.saturating_sub(taken(d))));
            Room { worker, slots: first..free.len(), memory }
        });
        let rooms = rooms.collect();
        Self { rooms, free }
    }

    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    pub fn len(&self) -> usize {
        self.rooms.len()
    }

    /// Whether no slot has any part left.
    pub fn are_full(&self) -> bool {
        self.free.iter().all(|free| *free == 0)
    }

    /// The workers as placement sees them; those that do not suit have no slots.
    pub fn nodes(&self, demand: &Demand<'_>) -> Vec<Node> {
        let node = |room: &Room<'_>| {
            if !demand.suits(room.worker) {
                return Node { free: 0, slots: 0, cached: false, tried: false };
            }
            let cached = room.worker.cached.contains(&demand.dataset);
            let tried = demand.tried.contains(&room.worker.id);
            Node { free: room.fits(&self.free, demand), slots: room.holds(demand), cached, tried }
        };
        self.rooms.iter().map(node).collect()
    }

    /// Ranks of `demand` that would fit if nothing ran.
    pub fn hold(&self, demand: &Demand<'_>) -> u32 {
        let suitable = self.rooms.iter().filter(|r| demand.suits(r.worker));
        suitable.map(|r| r.holds(demand)).fold(0, u32::saturating_add)
    }

    /// Ranks of `demand` that fit now.
    pub fn fit(&self, demand: &Demand<'_>) -> u32 {
        let suitable = self.rooms.iter().filter(|r| demand.suits(r.worker));
        suitable.map(|r| r.fits(&self.free, demand)).fold(0, u32::saturating_add)
    }

    /// Whether any worker has the labels that are asked for.
    pub fn suit(&self, demand: &Demand<'_>) -> bool {
        self.rooms.iter().any(|r| demand.suits(r.worker))
    }

    /// Whether a worker has all of `one` and all of `other`.
    pub fn suit_both(&self, one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> bool {
        self.rooms.iter().any(|r| has(r.worker, one) && has(r.worker, other))
    }

    /// Takes room on the `chosen` nodes, one for each rank: workers and their slots.
    pub fn take(&mut self, demand: &Demand<'_>, chosen: &[usize]) -> (Vec<WorkerId>, Vec<u32>) {
        let mut devices: Vec<u32> = Vec::with_capacity(chosen.len());
        for (rank, &node) in chosen.iter().enumerate() {
            let mine = chosen[..rank].iter().zip(&devices).filter(|(n, _)| **n == node);
            let taken: Vec<u32> = mine.map(|(_, device)| *device).collect();
            devices.push(self.rooms[node].take(&mut self.free, demand, &taken));
        }
        (chosen.iter().map(|&node| self.rooms[node].worker.id).collect(), devices)
    }

    /// Gives back (`true`) or takes again what the live ranks of `run` hold. True when any of it is here.
    pub fn free(&mut self, run: &Run, give: bool) -> bool {
        let (share, memory) = (run.share(), run.experiment.scheduling.memory.0);
        let mut any = false;
        for rank in run.attempt().into_iter().flat_map(|a| &a.ranks).filter(|r| r.is_live()) {
            let Ok(at) = self.rooms.binary_search_by_key(&rank.worker, |r| r.worker.id) else { continue };
            let room = &mut self.rooms[at];
            any = true;
            if let Some(free) = self.free[room.slots.clone()].get_mut(rank.device as usize) {
                *free = if give { (*free + share).min(WHOLE) } else { free.saturating_sub(share) };
            }
            if room.worker.memory > 0 {
                room.memory = if give { room.memory + memory } else { room.memory.saturating_sub(memory) };
            }
        }
        any
    }
}
