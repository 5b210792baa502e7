//! Who prepares which shard of which dataset: leases of shards to agents, pure as the rest of the core. No clock, no storage.
//!
//! This is soft state, and no event. What has been made lies in object storage, shard by shard, each whole or not there; who asks
//! for a dataset asks again when a coordinator has died, and says what is still missing. A shard that is made twice is the same
//! bytes, so that nothing here has to be right about agents that are silent: only the work has to go on.
//!
//! Contract (held by `tests`, under agents that die, lie and come back):
//! 1. Of one job no more shards are leased at a time than it may have; to one agent no more than one, of all jobs.
//! 2. A job ends well when all its shards have been made, and with its cause when no agent is left that has not failed at it.
//! 3. While one agent lives that can make shards, the job goes on.
//! 4. A lease ends with its agent's session, when the agent may get no new work, and when nothing comes of it for [`STALL`].

mod job;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use morph_spec::{Digest, Timestamp, WorkerId};

use crate::Refusal;
use job::Job;
pub use job::{Cursor, News};

/// How long a shard may make no progress: the agent counts as hung, and another one gets it.
pub const STALL: Duration = Duration::from_secs(900);
/// How long agents may go on with what a coordinator does not know: who asked for it needs a moment to ask again.
const REJOIN: Duration = Duration::from_secs(30);
/// How long a job waits for another agent when all that are here have failed at it: when a coordinator has been away they come back one
/// by one, and a bad one may be the first.
const COME_BACK: Duration = Duration::from_secs(10);
/// So many failures in a row, and an agent gets no more of a job.
const FAILURES: u32 = 2;
/// So many failures of agents that had made other shards, and the shard is to blame.
const FAULTS: u32 = 3;

/// What somebody wants to have prepared. What it is (`W`) is passed on unread.
#[derive(Debug, Clone, PartialEq)]
pub struct Request<W> {
    /// The key of the preparation.
    pub key: Digest,
    /// What agents have to know.
    pub what: W,
    /// Shards, with how many images they may have.
    pub shards: Vec<(String, u64)>,
    /// How many may be made at a time.
    pub workers: u32,
}

/// What an agent says of a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// So many of its images are done.
    Working(u64),
    /// It is in object storage.
    Made,
    /// The agent cannot prepare this dataset at all: it does not see the source, or sees another one.
    Refused(String),
    /// It was not made.
    Failed(String),
}

/// What an agent is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Have this shard made.
    Make {
        /// The agent.
        worker: WorkerId,
        /// Of which preparation.
        key: Digest,
        /// Its name.
        shard: String,
    },
    /// Have nothing of this preparation running.
    Stop {
        /// The agent.
        worker: WorkerId,
        /// Which preparation.
        key: Digest,
        /// For the log.
        reason: String,
    },
}

/// Everything that is being prepared.
#[derive(Debug)]
pub struct Leases<W> {
    jobs: BTreeMap<Digest, Job<W>>,
    /// Since when this is kept.
    began: Timestamp,
}

impl<W: PartialEq> Leases<W> {
    /// Nothing yet, at `now`.
    pub fn new(now: Timestamp) -> Self {
        Self { jobs: BTreeMap::new(), began: now }
    }

    /// Whether nothing is being prepared.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// `follower` wants what `request` says; whoever wants the same joins in.
    ///
    /// # Errors
    /// When something else is being prepared under the same key.
    pub fn join(&mut self, follower: u64, request: Request<W>) -> Result<(), Refusal> {
        let Request { key, what, shards, workers } = request;
        match self.jobs.get(&key) {
            Some(job) if job.what != what => {
                let why = "another dataset is being prepared under this key; give each YAML, output and folder its own";
                return Err(Refusal::Exists(why.to_owned()));
            }
            _ => {}
        }
        self.jobs.entry(key).or_insert_with(|| Job::new(what)).join(follower, shards, workers);
        Ok(())
    }

    /// What agents are told about the preparation `key`.
    pub fn what(&self, key: &Digest) -> Option<&W> {
        self.jobs.get(key).map(|job| &job.what)
    }

    /// `follower` has gone. A preparation that nobody follows any more is stopped.
    pub fn leave(&mut self, key: Digest, follower: u64) -> Vec<Order> {
        let Some(job) = self.jobs.get_mut(&key) else { return Vec::new() };
        if !job.leave(follower) {
            return Vec::new();
        }
        let orders = job.dismiss(key, "nobody waits for it any more");
        self.jobs.remove(&key);
        orders
    }

    /// `worker`, on `host`, says something of a shard, with `notes` for people.
    pub fn said(
        &mut self,
        worker: WorkerId,
        host: &str,
        about: (Digest, &str),
        said: Said,
        notes: Vec<String>,
        now: Timestamp,
    ) -> Vec<Order> {
        let (key, shard) = about;
        match self.jobs.get_mut(&key) {
            Some(job) if !job.is_over() => job.said(worker, host, (key, shard), said, notes, now),
            _ if matches!(said, Said::Working(_)) && now.since(self.began) >= REJOIN => {
                vec![Order::Stop { worker, key, reason: "nobody asks for it".to_owned() }]
            }
            _ => Vec::new(),
        }
    }

    /// The session of `worker` is over: what it had goes to others, and it is asked anew.
    pub fn gone(&mut self, worker: WorkerId) {
        self.jobs.values_mut().for_each(|job| job.gone(worker));
    }

    /// Ends leases whose time is up or whose agents are not `able` (the others: with how many of their slots are used), and leases what
    /// is open.
    pub fn turn(&mut self, able: &BTreeMap<WorkerId, u32>, now: Timestamp) -> Vec<Order> {
        let mut orders = Vec::new();
        for (key, job) in &mut self.jobs {
            if !job.is_over() {
                job.revoke(*key, able, now, &mut orders);
                if job.settle(able, now) {
                    orders.extend(job.dismiss(*key, "it is over"));
                }
            }
        }
        let busy = |w: &WorkerId| self.jobs.values().any(|job| job.leases().any(|(_, lease)| lease.worker == *w));
        let mut free: BTreeSet<WorkerId> = able.keys().filter(|w| !busy(w)).copied().collect();
        // Of several jobs the one with the fewest leases comes first.
        while let Some((key, worker)) = self.next(&free, able) {
            free.remove(&worker);
            for (other, job) in &mut self.jobs {
                if *other == key {
                    orders.push(job.lease(key, worker, now));
                } else {
                    job.hands.remove(&worker);
                }
            }
        }
        orders
    }

    /// Which job may lease a shard next, and to which agent.
    fn next(&self, free: &BTreeSet<WorkerId>, able: &BTreeMap<WorkerId, u32>) -> Option<(Digest, WorkerId)> {
        let open = self.jobs.iter().filter(|(_, job)| job.may_lease());
        let choice = open.filter_map(|(key, job)| {
            let others = |w: &WorkerId| self.jobs.iter().any(|(k, j)| k != key && j.hands.contains(w));
            // Who has listed the source already, then who would have to for nobody else, then who trains least.
            let rank = |w: &&WorkerId| (!job.hands.contains(w), others(w), able.get(w).copied(), **w);
            let worker = free.iter().filter(|w| job.takes(w)).min_by_key(rank)?;
            Some((job.leases().count(), *key, *worker))
        });
        choice.min().map(|(_, key, worker)| (key, worker))
    }

    /// When there is something to do although nobody says anything: a lease runs out, or a job's patience.
    pub fn due(&self) -> Option<Timestamp> {
        self.jobs.values().filter_map(Job::due).min()
    }

    /// What there is to tell of the preparation `key` since `cursor`; none when there is no such preparation.
    pub fn news(&self, key: &Digest, cursor: Cursor) -> Option<News> {
        self.jobs.get(key).map(|job| job.news(cursor))
    }
}
