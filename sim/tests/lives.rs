//! Many short lives of a small cluster: nothing that must hold is broken, and the same seed is the same life.

use morph_sim::{Life, Options, live};

/// Lives in one test run; `cargo run --release -p morph-sim` lives more.
const LIVES: u64 = 240;

fn life(seed: u64) -> Life {
    live(Options { seed, trace: false })
}

/// Every fourth life from `first`.
fn quarter(first: u64) {
    let (mut faults, mut succeeded) = (0, 0);
    for seed in (first..LIVES).step_by(4) {
        let life = life(seed);
        if let Some(what) = life.violation {
            panic!("{what}\n  see it: cargo run --release -p morph-sim -- --from {seed} --seeds 1 --trace");
        }
        faults += life.faults;
        succeeded += life.succeeded;
    }
    assert!(
        faults > LIVES && succeeded > LIVES as usize / 4,
        "{faults} faults, {succeeded} succeeded: that shows little"
    );
}

#[test]
fn first_quarter() {
    quarter(0);
}

#[test]
fn second_quarter() {
    quarter(1);
}

#[test]
fn third_quarter() {
    quarter(2);
}

#[test]
fn fourth_quarter() {
    quarter(3);
}

#[test]
fn the_same_seed_is_the_same_life() {
    for seed in 0..20 {
        let (one, two) = (life(seed), life(seed));
        assert_eq!((one.hash, one.faults, one.succeeded), (two.hash, two.faults, two.succeeded), "seed {seed}");
    }
    let hashes: std::collections::BTreeSet<u64> = (0..20).map(|seed| life(seed).hash).collect();
    assert_eq!(hashes.len(), 20, "other seeds are other lives");
}
