//! Many short lives of a small cluster: nothing that must hold is broken, they reach what there is to reach, and the same seed
//! is the same life.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
};

use morph_sim::{Life, Options, live};

/// Lives in one test run; `cargo run --release -p morph-sim` lives more.
const LIVES: u64 = 240;
/// Threads that live them.
const THREADS: u64 = 2;
/// One event of each kind, a line each.
const KINDS: &str = include_str!("../../control/tests/golden/events.jsonl");

/// What all lives together must come by, besides every kind of event.
const MUST: [&str; 35] = [
    "refusal not found",
    "refusal exists",
    "refusal invalid",
    "refusal precondition",
    "refusal replaced",
    "fault coordinator dies",
    "fault coordinator drains",
    "fault agent dies",
    "fault agent leaves",
    "fault rank dies",
    "fault all ranks die",
    "fault rank hangs",
    "fault agent stops",
    "fault link down",
    "fault link down one way",
    "fault swizzle",
    "fault connection breaks",
    "fault store down",
    "fault clock jumps",
    "fault twin",
    "fault backed up",
    "fault restored",
    "fault checkpoint lost",
    "fault ambush",
    "stop Cancel while starting",
    "stop Cancel while training",
    "stop Cancel while saving",
    "stop Pause while starting",
    "stop Pause while saving",
    "stop Preempt while starting",
    "stop Preempt while training",
    "stop Drain while starting",
    "stop Drain while saving",
    "stop Failure while training",
    "stop TimeLimit while training",
];

fn life(seed: u64) -> Life {
    live(Options { seed, trace: false })
}

/// The lives of one thread: faults, runs that succeeded, and what was seen.
fn lives(first: u64) -> (u64, usize, BTreeMap<String, u64>) {
    let (mut faults, mut succeeded, mut seen) = (0, 0, BTreeMap::new());
    for seed in (first..LIVES).step_by(THREADS as usize) {
        let life = life(seed);
        if let Some(what) = life.violation {
            panic!("{what}\n  see it: cargo run --release -p morph-sim -- --from {seed} --seeds 1 --trace");
        }
        faults += life.faults;
        succeeded += life.succeeded;
        for (what, n) in life.seen {
            *seen.entry(what).or_default() += n;
        }
    }
    (faults, succeeded, seen)
}

#[test]
fn nothing_that_must_hold_is_broken_and_all_that_can_happen_does() {
    let (mut faults, mut succeeded, mut seen) = (0, 0, BTreeMap::new());
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|first| scope.spawn(move || lives(first))).collect();
        for thread in threads {
            let (f, s, all) = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (faults, succeeded) = (faults + f, succeeded + s);
            for (what, n) in all {
                *seen.entry(what).or_insert(0) += n;
            }
        }
    });
    assert!(
        faults > 4 * LIVES && succeeded > LIVES as usize,
        "{faults} faults, {succeeded} succeeded: that shows little"
    );
    let kind = |line: &str| {
        let (_, rest) = line.split_once("\"kind\":\"").expect("an event has a kind");
        format!("event {}", rest.split('"').next().unwrap_or_default())
    };
    let must: BTreeSet<String> = KINDS.lines().map(kind).chain(MUST.map(str::to_owned)).collect();
    let missing: Vec<_> = must.iter().filter(|what| !seen.contains_key(*what)).collect();
    assert!(missing.is_empty(), "no life came by {missing:?}; they came by {seen:#?}");
}

#[test]
fn the_same_seed_is_the_same_life() {
    let mut hashes = BTreeSet::new();
    for seed in 0..20 {
        let (one, two) = (life(seed), life(seed));
        assert_eq!((one.hash, one.faults, one.succeeded), (two.hash, two.faults, two.succeeded), "seed {seed}");
        assert!(hashes.insert(one.hash), "other seeds are other lives");
    }
}
