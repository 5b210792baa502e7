//! One preparation: its shards, who has which, and how agents did at it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use morph_spec::{Digest, Timestamp, WorkerId};

use super::{COME_BACK, FAILURES, FAULTS, Order, STALL, Said};

/// Lines for people that are kept for followers that are slow.
const NOTES: usize = 1000;

/// Where a follower's last [`News`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cursor {
    /// Shards that it has been told of.
    pub done: usize,
    /// Lines that it has been told.
    pub notes: u64,
}

/// How far a preparation is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    /// Where the next ones begin.
    pub cursor: Cursor,
    /// Shards that are made, since the last news.
    pub done: Vec<String>,
    /// For people, since the last news.
    pub notes: Vec<String>,
    /// Images that are done, those of shards in work included.
    pub images: u64,
    /// Shards in work.
    pub working: usize,
    /// Why nothing is in work; empty when something is, or all is over.
    pub waiting: String,
    /// How it ended, once it has: well, or with its cause.
    pub end: Option<Result<(), String>>,
}

/// A shard is somebody's for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lease {
    pub worker: WorkerId,
    /// Images that are done.
    pub images: u64,
    /// When it is taken away, unless progress is heard of.
    pub deadline: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Open,
    Leased(Lease),
    Made,
}

#[derive(Debug)]
struct Shard {
    images: u64,
    state: State,
    /// Failures of agents that had made others.
    faults: u32,
    /// Who failed at it last.
    failed: Option<WorkerId>,
}

/// How an agent did.
#[derive(Debug, Default)]
struct Record {
    /// In a row.
    failures: u32,
    made: u64,
}

#[derive(Debug)]
pub(super) struct Job<W> {
    pub what: W,
    /// Agents that have been told of it, and not that it is over.
    pub hands: BTreeSet<WorkerId>,
    workers: usize,
    shards: BTreeMap<String, Shard>,
    /// In the order in which they were made.
    made: Vec<String>,
    records: BTreeMap<WorkerId, Record>,
    followers: BTreeSet<u64>,
    notes: VecDeque<String>,
    /// Number of the next line.
    next_note: u64,
    /// The last failure.
    cause: String,
    waiting: &'static str,
    /// Since when no agent is here that has not failed too often.
    stuck: Option<Timestamp>,
    end: Option<Result<(), String>>,
}

impl<W> Job<W> {
    pub fn new(what: W) -> Self {
        Self {
            what,
            hands: BTreeSet::new(),
            workers: 1,
            shards: BTreeMap::new(),
            made: Vec::new(),
            records: BTreeMap::new(),
            followers: BTreeSet::new(),
            notes: VecDeque::new(),
            next_note: 0,
            cause: String::new(),
            waiting: "",
            stuck: None,
            end: None,
        }
    }

    /// Somebody follows. One that had failed is tried again by all agents.
    pub fn join(&mut self, follower: u64, shards: Vec<(String, u64)>, workers: u32) {
        self.followers.insert(follower);
        self.workers = self.workers.max(workers as usize);
        for (name, images) in shards {
            let fresh = Shard { images, state: State::Open, faults: 0, failed: None };
            self.shards.entry(name).or_insert(fresh);
        }
        if matches!(self.end, Some(Err(_))) {
            self.records.clear();
            self.shards.values_mut().for_each(|shard| shard.faults = 0);
        }
        (self.end, self.stuck) = (None, None);
    }

    /// Whether nobody follows any more, now that `follower` has gone.
    pub fn leave(&mut self, follower: u64) -> bool {
        self.followers.remove(&follower);
        self.followers.is_empty()
    }

    pub fn is_over(&self) -> bool {
        self.end.is_some()
    }

    pub fn leases(&self) -> impl Iterator<Item = (&String, &Lease)> {
        self.shards.iter().filter_map(|(name, shard)| match &shard.state {
            State::Leased(lease) => Some((name, lease)),
            State::Open | State::Made => None,
        })
    }

    /// Whether a shard is open, and may be leased beside those that are.
    pub fn may_lease(&self) -> bool {
        let is_open = |shard: &Shard| shard.state == State::Open;
        !self.is_over() && self.leases().count() < self.workers && self.shards.values().any(is_open)
    }

    /// Whether `worker` has not failed too often.
    pub fn takes(&self, worker: &WorkerId) -> bool {
        self.records.get(worker).is_none_or(|record| record.failures < FAILURES)
    }

    fn note(&mut self, line: String) {
        self.notes.push_back(line);
        self.next_note += 1;
        if self.notes.len() > NOTES {
            self.notes.pop_front();
        }
    }

    /// Leases an open shard to `worker`; not the one that it failed at last, if there is another.
    pub fn lease(&mut self, key: Digest, worker: WorkerId, now: Timestamp) -> Order {
        let open = || self.shards.iter().filter(|(_, shard)| shard.state == State::Open);
        let found = open().find(|(_, shard)| shard.failed != Some(worker)).or_else(|| open().next());
        let name = found.map(|(name, _)| name.clone()).expect("invariant: who asks has seen that a shard is open");
        if let Some(shard) = self.shards.get_mut(&name) {
            shard.state = State::Leased(Lease { worker, images: 0, deadline: now.after(STALL) });
        }
        self.hands.insert(worker);
        Order::Make { worker, key, shard: name }
    }

    pub fn said(
        &mut self,
        worker: WorkerId,
        host: &str,
        (key, name): (Digest, &str),
        said: Said,
        notes: Vec<String>,
        now: Timestamp,
    ) -> Vec<Order> {
        notes.into_iter().for_each(|line| self.note(line));
        let Some(shard) = self.shards.get_mut(name) else { return Vec::new() };
        let own = matches!(&shard.state, State::Leased(lease) if lease.worker == worker);
        match said {
            Said::Working(images) => {
                if let State::Leased(lease) = &mut shard.state
                    && own
                    && images > lease.images
                {
                    (lease.images, lease.deadline) = (images.min(shard.images), now.after(STALL));
                }
                Vec::new()
            }
            // Whoever made it: it is there.
            Said::Made => {
                if shard.state != State::Made {
                    shard.state = State::Made;
                    self.made.push(name.to_owned());
                }
                let record = self.records.entry(worker).or_default();
                (record.failures, record.made) = (0, record.made + 1);
                Vec::new()
            }
            // It was taken away before: what becomes of it is somebody else's.
            Said::Refused(_) | Said::Failed(_) if !own => Vec::new(),
            Said::Refused(why) => self.failed(worker, host, (key, name), &why, false),
            Said::Failed(why) => self.failed(worker, host, (key, name), &why, true),
        }
    }

    /// `worker` has not made the shard that it had.
    fn failed(
        &mut self,
        worker: WorkerId,
        host: &str,
        (key, name): (Digest, &str),
        why: &str,
        of_the_shard: bool,
    ) -> Vec<Order> {
        let record = self.records.entry(worker).or_default();
        record.failures += 1;
        let (out, proven) = (record.failures >= FAILURES, record.made > 0);
        let mut faults = 0;
        if let Some(shard) = self.shards.get_mut(name) {
            shard.faults += u32::from(of_the_shard && proven);
            (shard.state, shard.failed, faults) = (State::Open, Some(worker), shard.faults);
        }
        self.note(if out {
            format!("{host} is left out after {FAILURES} failures in a row, the last: {why}")
        } else {
            format!("{host} failed at {name}: {why}")
        });
        if faults >= FAULTS {
            self.end = Some(Err(format!(
                "{name} failed {FAULTS} times, on agents that had made other shards; the last, {host}, said: {why}"
            )));
            return self.dismiss(key, "it has failed");
        }
        self.cause = format!("{host}: {why}");
        if out && self.hands.remove(&worker) {
            return vec![Order::Stop { worker, key, reason: "it fails too often".to_owned() }];
        }
        Vec::new()
    }

    /// `worker` is not connected any more.
    pub fn gone(&mut self, worker: WorkerId) {
        self.hands.remove(&worker);
        self.reopen(|lease| lease.worker == worker);
    }

    fn reopen(&mut self, wanted: impl Fn(&Lease) -> bool) {
        for shard in self.shards.values_mut() {
            if matches!(&shard.state, State::Leased(lease) if wanted(lease)) {
                shard.state = State::Open;
            }
        }
    }

    /// Takes away what is leased to agents that may get no new work, and what makes no progress.
    pub fn revoke(&mut self, key: Digest, able: &BTreeMap<WorkerId, u32>, now: Timestamp, orders: &mut Vec<Order>) {
        let unable: Vec<WorkerId> = self.hands.iter().filter(|w| !able.contains_key(w)).copied().collect();
        for worker in unable {
            self.gone(worker);
            orders.push(Order::Stop { worker, key, reason: "this agent gets no new work".to_owned() });
        }
        let late = |(name, lease): (&String, &Lease)| (lease.deadline <= now).then(|| (name.clone(), lease.worker));
        let hung: Vec<(String, WorkerId)> = self.leases().filter_map(late).collect();
        for (name, worker) in hung {
            if self.is_over() {
                return;
            }
            let why = format!("no progress for {} s: taken for hung", STALL.as_secs());
            orders.extend(self.failed(worker, &format!("agent {worker}"), (key, &name), &why, true));
            if self.hands.remove(&worker) {
                orders.push(Order::Stop { worker, key, reason: "it makes no progress".to_owned() });
            }
        }
    }

    /// Whether it has come to its end now.
    pub fn settle(&mut self, able: &BTreeMap<WorkerId, u32>, now: Timestamp) -> bool {
        let all_failed = !able.is_empty() && !able.keys().any(|w| self.takes(w));
        self.stuck = all_failed.then(|| self.stuck.unwrap_or(now));
        if self.shards.values().all(|shard| shard.state == State::Made) {
            self.end = Some(Ok(()));
        } else if self.given_up_at().is_some_and(|at| at <= now) {
            let n = able.len();
            let all = if n == 1 { "the only agent has".to_owned() } else { format!("all {n} agents have") };
            self.end = Some(Err(format!("{all} failed at it; the last was {}", self.cause)));
        }
        self.waiting = match (able.is_empty(), all_failed) {
            (true, _) => "no agent is ready to take work (morphctl get workers)",
            (false, true) => "every agent that is here has failed at it",
            (false, false) => "all agents prepare other datasets",
        };
        self.is_over()
    }

    /// When it ends for want of agents, should none come.
    fn given_up_at(&self) -> Option<Timestamp> {
        self.stuck.map(|since| since.after(COME_BACK))
    }

    /// When something is due.
    pub fn due(&self) -> Option<Timestamp> {
        let lease = self.leases().map(|(_, lease)| lease.deadline).min();
        let due = lease.into_iter().chain(self.given_up_at()).min();
        if self.is_over() { None } else { due }
    }

    /// All agents that have been told of it are told to stop.
    pub fn dismiss(&mut self, key: Digest, reason: &str) -> Vec<Order> {
        self.reopen(|_| true);
        let hands = std::mem::take(&mut self.hands).into_iter();
        hands.map(|worker| Order::Stop { worker, key, reason: reason.to_owned() }).collect()
    }

    pub fn news(&self, cursor: Cursor) -> News {
        let first = self.next_note - self.notes.len() as u64;
        let lost = first.saturating_sub(cursor.notes);
        let told = usize::try_from(cursor.notes.saturating_sub(first)).unwrap_or(usize::MAX);
        let left_out = (lost > 0).then(|| format!("({lost} lines were left out here)"));
        let images = self.shards.values().map(|shard| match &shard.state {
            State::Open => 0,
            State::Leased(lease) => lease.images,
            State::Made => shard.images,
        });
        News {
            cursor: Cursor { done: self.made.len(), notes: self.next_note },
            done: self.made.iter().skip(cursor.done).cloned().collect(),
            notes: left_out.into_iter().chain(self.notes.iter().skip(told).cloned()).collect(),
            images: images.sum(),
            working: self.leases().count(),
            waiting: if self.is_over() || self.leases().next().is_some() { "" } else { self.waiting }.to_owned(),
            end: self.end.clone(),
        }
    }
}
