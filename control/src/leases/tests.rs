//! Agents that die, lie, are cut off and come back, in virtual time, from one seed each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use morph_spec::{Digest, Rng, Timestamp, WorkerId};
use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000;

fn worker(n: u64) -> WorkerId {
    format!("{n:026}").parse().unwrap()
}

fn request(shards: u64, workers: u32) -> Request<&'static str> {
    let shards = (0..shards).map(|i| (format!("train-{i:05}"), 10)).collect();
    Request { key: Digest([7; 32]), what: "what", shards, workers }
}

fn able(all: &[u64]) -> BTreeMap<WorkerId, u32> {
    all.iter().map(|n| (worker(*n), 0)).collect()
}

/// Who was told to make what.
fn made(orders: &[Order]) -> Vec<(WorkerId, &str)> {
    orders
        .iter()
        .filter_map(|order| match order {
            Order::Make { worker, shard, .. } => Some((*worker, shard.as_str())),
            Order::Stop { .. } => None,
        })
        .collect()
}

fn stopped(orders: &[Order]) -> Vec<WorkerId> {
    let stop = |order: &Order| match order {
        Order::Stop { worker, .. } => Some(*worker),
        Order::Make { .. } => None,
    };
    orders.iter().filter_map(stop).collect()
}

struct Desk {
    leases: Leases<&'static str>,
    key: Digest,
    now: Timestamp,
}

impl Desk {
    fn new(shards: u64, workers: u32) -> Self {
        let mut leases = Leases::new(Timestamp(0));
        let request = request(shards, workers);
        let key = request.key;
        leases.join(1, request).unwrap();
        Self { leases, key, now: Timestamp(SECOND) }
    }

    fn turn(&mut self, all: &[u64]) -> Vec<Order> {
        self.leases.turn(&able(all), self.now)
    }

    fn said(&mut self, n: u64, shard: &str, said: Said) -> Vec<Order> {
        self.leases.said(worker(n), &format!("host-{n}"), (self.key, shard), said, Vec::new(), self.now)
    }

    fn news(&self) -> News {
        self.leases.news(&self.key, Cursor::default()).unwrap()
    }
}

#[test]
fn shards_go_to_as_many_agents_as_the_job_may_have_one_each() {
    let mut desk = Desk::new(4, 2);
    let orders = desk.turn(&[1, 2, 3]);
    assert_eq!(made(&orders), [(worker(1), "train-00000"), (worker(2), "train-00001")]);
    assert!(desk.turn(&[1, 2, 3]).is_empty(), "nothing is free");
    desk.said(1, "train-00000", Said::Working(4));
    assert_eq!((desk.news().images, desk.news().working), (4, 2));
    desk.said(1, "train-00000", Said::Made);
    // The one that has listed the source goes on, and no third one has to.
    assert_eq!(made(&desk.turn(&[1, 2, 3])), [(worker(1), "train-00002")]);
    desk.said(1, "train-00002", Said::Made);
    desk.said(2, "train-00001", Said::Made);
    let orders = desk.turn(&[1, 2, 3]);
    assert_eq!(made(&orders).len(), 1);
    desk.said(1, "train-00003", Said::Made);
    assert_eq!(stopped(&desk.turn(&[1, 2, 3])).len(), 2, "who was told of it is told that it is over");
    let news = desk.news();
    assert_eq!((news.end, news.images, news.done.len()), (Some(Ok(())), 40, 4));
}

#[test]
fn what_an_agent_had_goes_to_others_when_it_is_gone_or_gets_no_new_work() {
    let mut desk = Desk::new(2, 2);
    desk.turn(&[1]);
    desk.leases.gone(worker(1));
    assert_eq!(made(&desk.turn(&[2])), [(worker(2), "train-00000")]);
    // It was cordoned.
    let orders = desk.turn(&[3]);
    assert_eq!((stopped(&orders), made(&orders)), (vec![worker(2)], vec![(worker(3), "train-00000")]));
    // It had finished all the same: that counts.
    desk.said(2, "train-00000", Said::Made);
    assert_eq!(desk.news().done, ["train-00000"]);
    assert_eq!(made(&desk.turn(&[3])), [(worker(3), "train-00001")]);
}

#[test]
fn what_makes_no_progress_is_taken_away() {
    let mut desk = Desk::new(1, 1);
    desk.turn(&[1, 2]);
    desk.now = desk.now.after(STALL / 2);
    desk.said(1, "train-00000", Said::Working(1));
    desk.now = desk.now.after(STALL / 2);
    assert!(desk.turn(&[1, 2]).is_empty(), "progress was heard of");
    assert_eq!(desk.leases.due(), Some(desk.now.after(STALL / 2)));
    // The same again is no progress.
    desk.said(1, "train-00000", Said::Working(1));
    desk.now = desk.now.after(STALL / 2);
    let orders = desk.turn(&[1, 2]);
    assert_eq!(stopped(&orders), [worker(1)]);
    assert_eq!(made(&orders).len(), 1);
}

#[test]
fn a_bad_agent_is_left_out_and_when_all_are_the_job_ends_with_its_cause() {
    let mut desk = Desk::new(3, 3);
    let why = || Said::Refused("raw/: no such folder".into());
    desk.turn(&[1, 2]);
    desk.said(1, "train-00000", why());
    desk.turn(&[1, 2]);
    let had =
        desk.leases.jobs[&desk.key].leases().find(|(_, l)| l.worker == worker(1)).map(|(n, _)| n.clone()).unwrap();
    assert_eq!(stopped(&desk.said(1, &had, why())), [worker(1)]);
    assert!(made(&desk.turn(&[1, 2])).is_empty(), "it gets no more; the other has its hands full");
    assert!(desk.news().notes.iter().any(|n| n.contains("host-1 is left out") && n.contains("no such folder")));
    desk.said(2, "train-00001", Said::Made);
    assert_eq!(desk.turn(&[1, 2]).len(), 1, "the good one goes on");
    // Only the bad one is here: it cannot go on.
    desk.leases.gone(worker(2));
    desk.turn(&[1]);
    assert_eq!((desk.news().end, &*desk.news().waiting), (None, "every agent that is here has failed at it"));
    assert_eq!(desk.leases.due(), Some(desk.now.after(COME_BACK)));
    desk.now = desk.now.after(COME_BACK);
    desk.turn(&[1]);
    let end = desk.news().end.unwrap().unwrap_err();
    assert!(end.contains("the only agent has failed") && end.contains("host-1: raw/: no such folder"), "{end}");
    // Who asks again has all try again.
    desk.leases.join(2, request(3, 3)).unwrap();
    assert_eq!(made(&desk.turn(&[1])).len(), 1);
}

#[test]
fn a_shard_that_no_good_agent_can_make_ends_the_job() {
    let mut desk = Desk::new(8, 1);
    let mut bad = 0;
    for _ in 0..40 {
        let orders = desk.turn(&[1, 2]);
        let Some((w, shard)) = made(&orders).first().map(|(w, s)| (*w, (*s).to_owned())) else { break };
        let n = if w == worker(1) { 1 } else { 2 };
        let said = if shard == "train-00003" { Said::Failed("killed by signal 9".into()) } else { Said::Made };
        bad += u32::from(shard == "train-00003");
        desk.said(n, &shard, said);
    }
    let end = desk.news().end.unwrap().unwrap_err();
    assert!(end.contains("train-00003") && end.contains("signal 9"), "{end}");
    assert_eq!(bad, 3);
}

#[test]
fn who_waits_for_nothing_stops_it_and_the_same_key_is_the_same_thing() {
    let mut desk = Desk::new(2, 1);
    desk.turn(&[1]);
    desk.leases.join(2, request(2, 1)).unwrap();
    assert!(desk.leases.leave(desk.key, 1).is_empty(), "another one follows");
    let other = Request { what: "other", ..request(2, 1) };
    assert!(matches!(desk.leases.join(3, other), Err(Refusal::Exists(_))));
    assert_eq!(stopped(&desk.leases.leave(desk.key, 2)), [worker(1)]);
    assert!(desk.leases.is_empty());
    // An agent that had not heard of it is told, once those who ask had the time to come back.
    assert!(desk.said(1, "train-00000", Said::Working(3)).is_empty());
    desk.now = desk.now.after(REJOIN);
    assert_eq!(stopped(&desk.said(1, "train-00000", Said::Working(4))), [worker(1)]);
}

#[test]
fn two_jobs_share_the_agents_and_each_keeps_its_own() {
    let mut desk = Desk::new(9, 9);
    let other = Request { key: Digest([8; 32]), ..request(9, 9) };
    desk.leases.join(2, other).unwrap();
    let first = desk.turn(&[1, 2, 3, 4]);
    assert_eq!(made(&first).len(), 4);
    let of = |leases: &Leases<&str>, key: u8| {
        leases.jobs[&Digest([key; 32])].leases().map(|(name, l)| (l.worker, name.clone())).collect::<BTreeMap<_, _>>()
    };
    let before = [7, 8].map(|k| of(&desk.leases, k));
    assert!(before.iter().all(|job| job.len() == 2), "{before:?}");
    for (key, job) in [7, 8].into_iter().zip(&before) {
        for (w, shard) in job {
            desk.leases.said(*w, "h", (Digest([key; 32]), shard), Said::Made, Vec::new(), desk.now);
        }
    }
    desk.turn(&[1, 2, 3, 4]);
    let after = [7, 8].map(|k| of(&desk.leases, k));
    for (before, after) in before.iter().zip(&after) {
        assert!(before.keys().eq(after.keys()), "nobody has to list another source: {before:?} {after:?}");
    }
}

#[test]
fn slow_followers_are_told_what_they_missed() {
    let mut desk = Desk::new(1, 1);
    desk.turn(&[1]);
    for i in 0..1500 {
        let notes = vec![format!("skipped {i}")];
        desk.leases.said(worker(1), "h", (desk.key, "train-00000"), Said::Working(0), notes, desk.now);
    }
    let news = desk.news();
    assert_eq!((news.notes.len(), news.cursor.notes), (1001, 1500));
    assert!(news.notes[0].contains("500 lines") && news.notes[1] == "skipped 500", "{:?}", &news.notes[..2]);
    let next = desk.leases.news(&desk.key, Cursor { notes: 1498, ..news.cursor }).unwrap();
    assert_eq!(next.notes, ["skipped 1498", "skipped 1499"]);
}

/// How an agent behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nature {
    Good,
    /// It does not see the source.
    Blind,
    /// It cannot write.
    Broken,
}

/// An agent: what it was told to make comes one after the other.
struct Peer {
    nature: Nature,
    connected: bool,
    /// The child lives on when the connection does not.
    todo: VecDeque<(String, u64)>,
}

/// Agents, what has been made in truth, and orders and words under way.
struct World {
    rng: Rng,
    leases: Leases<&'static str>,
    request: Request<&'static str>,
    peers: BTreeMap<u64, Peer>,
    storage: BTreeSet<String>,
    now: Timestamp,
    /// What morphctl still wants.
    wanted: BTreeSet<String>,
    cursor: Cursor,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::keyed(seed, "leases", 0);
        let (shards, workers) = (1 + rng.below(20), 1 + rng.below(4) as u32);
        let request = request(shards, workers);
        // The first one is good, and stays.
        let nature = |rng: &mut Rng, n| match rng.below(4) {
            _ if n == 0 => Nature::Good,
            0 => Nature::Blind,
            1 => Nature::Broken,
            _ => Nature::Good,
        };
        let peers = (0..1 + rng.below(5))
            .map(|n| (n, Peer { nature: nature(&mut rng, n), connected: true, todo: VecDeque::new() }))
            .collect();
        let wanted = request.shards.iter().map(|(name, _)| name.clone()).collect();
        let mut leases = Leases::new(Timestamp(0));
        leases.join(1, request.clone()).unwrap();
        let (storage, now) = (BTreeSet::new(), Timestamp(0));
        Self { rng, leases, request, peers, storage, now, wanted, cursor: Cursor::default() }
    }

    fn pass(&mut self, orders: Vec<Order>) {
        for order in orders {
            let (w, make) = match order {
                Order::Make { worker, shard, .. } => (worker, Some(shard)),
                Order::Stop { worker, .. } => (worker, None),
            };
            let peer = self.peers.iter_mut().find(|(n, _)| worker(**n) == w).map(|(_, p)| p).unwrap();
            match (peer.connected, make) {
                (false, _) => {}
                (true, Some(shard)) if peer.todo.iter().any(|(s, _)| *s == shard) => {}
                (true, Some(shard)) => peer.todo.push_back((shard, 0)),
                (true, None) => peer.todo.clear(),
            }
        }
    }

    fn turn(&mut self) {
        let able = self.peers.iter().filter(|(_, p)| p.connected).map(|(n, _)| (worker(*n), 0)).collect();
        let orders = self.leases.turn(&able, self.now);
        self.pass(orders);
        self.hold(&able);
        let Some(news) = self.leases.news(&self.request.key, self.cursor) else { return };
        self.cursor = news.cursor;
        for name in news.done {
            assert!(self.storage.contains(&name), "{name} was said to be made");
            self.wanted.remove(&name);
        }
    }

    /// The contract.
    fn hold(&self, able: &BTreeMap<WorkerId, u32>) {
        let mut holders = BTreeSet::new();
        for job in self.leases.jobs.values() {
            assert!(job.leases().count() <= self.request.workers as usize);
            for (name, lease) in job.leases() {
                assert!(holders.insert(lease.worker), "an agent has two leases");
                assert!(able.contains_key(&lease.worker), "{name} is leased to nobody");
            }
        }
    }

    /// Something happens.
    fn happen(&mut self) {
        self.now = self.now.after(Duration::from_millis(1 + self.rng.below(2000)));
        let n = self.rng.below(self.peers.len() as u64);
        match self.rng.below(20) {
            // It dies, or only its connection does; the last good one is spared.
            0 | 1 if n > 0 => {
                let child_dies = self.rng.below(2) == 0;
                let peer = self.peers.get_mut(&n).unwrap();
                peer.connected = false;
                if child_dies {
                    peer.todo.clear();
                }
                self.leases.gone(worker(n));
            }
            2 | 3 => self.peers.get_mut(&n).unwrap().connected = true,
            4 => {
                // The coordinator dies; morphctl asks again for what it has not been told of.
                self.leases = Leases::new(self.now);
                let missing = self.request.shards.iter().filter(|(name, _)| self.wanted.contains(name));
                let request = Request { shards: missing.cloned().collect(), ..self.request.clone() };
                self.cursor = Cursor::default();
                self.leases.join(1, request).unwrap();
            }
            _ => self.work(n),
        }
        self.turn();
    }

    /// The child of an agent does something about its first shard.
    fn work(&mut self, n: u64) {
        let peer = self.peers.get_mut(&n).unwrap();
        let Some((shard, images)) = peer.todo.front_mut() else { return };
        let shard = shard.clone();
        let said = match peer.nature {
            Nature::Blind => Said::Refused("no such folder".into()),
            Nature::Broken => Said::Failed("cannot write".into()),
            Nature::Good if *images < 10 => {
                *images += 1 + self.rng.below(9);
                Said::Working(*images)
            }
            Nature::Good => {
                self.storage.insert(shard.clone());
                Said::Made
            }
        };
        if !matches!(said, Said::Working(_)) {
            peer.todo.pop_front();
        }
        if peer.connected {
            let orders = self.leases.said(worker(n), "h", (self.request.key, &shard), said, Vec::new(), self.now);
            self.pass(orders);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_shard_is_made_while_one_good_agent_lives(seed: u64) {
        let mut world = World::new(seed);
        world.turn();
        for _ in 0..5000 {
            let news = world.leases.news(&world.request.key, world.cursor).unwrap();
            match news.end {
                Some(Ok(())) => break,
                Some(Err(why)) => prop_assert!(false, "it ended with {why}"),
                None => world.happen(),
            }
        }
        prop_assert!(world.wanted.is_empty(), "never made: {:?}", world.wanted);
        prop_assert_eq!(world.storage.len(), world.request.shards.len());
    }
}
