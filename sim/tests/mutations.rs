//! Each mechanism that an invariant rests on is broken on purpose, and the simulator must notice: else it shows nothing.

use morph_control::sabotage::{Mechanism, break_only};
use morph_sim::{Options, live};

/// Lives in which the damage must show.
const LIVES: u64 = 300;

/// Breaks `mechanism`; some life must be violated, and by one of these invariants.
fn is_noticed(mechanism: Mechanism, by: &[&str]) {
    is_noticed_from(0, mechanism, by);
}

/// As [`is_noticed`], in lives from seed `first`: what shows in one life of thousands shows there.
fn is_noticed_from(first: u64, mechanism: Mechanism, by: &[&str]) {
    break_only(Some(mechanism));
    let broken = (first..first + LIVES).find_map(|seed| live(Options { seed, trace: false }).violation);
    break_only(None);
    let what = broken.unwrap_or_else(|| panic!("{mechanism:?} is broken, and nobody noticed in {LIVES} lives"));
    assert!(by.iter().any(|name| what.starts_with(name)), "{mechanism:?}: {what}");
}

#[test]
fn fence() {
    is_noticed(Mechanism::Fence, &["old_attempts_are_fenced", "fence", "gangs_are_whole", "history_only_grows"]);
}

#[test]
fn whole_gangs() {
    is_noticed(Mechanism::WholeGangs, &["gangs_are_whole"]);
}

#[test]
fn slot_counts() {
    is_noticed(Mechanism::SlotCounts, &["slots_hold_one_rank", "fence"]);
}

#[test]
fn stop_escalation() {
    is_noticed(Mechanism::StopEscalation, &["progress"]);
}

#[test]
fn newest_checkpoint() {
    is_noticed(Mechanism::NewestCheckpoint, &["weights", "progress"]);
}

#[test]
fn lost_checkpoints() {
    is_noticed(Mechanism::LostCheckpoints, &["progress"]);
}

#[test]
fn resend() {
    is_noticed(Mechanism::Resend, &["progress", "durable", "history", "journal"]);
}

#[test]
fn sealed_reports() {
    is_noticed(Mechanism::SealedReports, &["journal", "durable", "history", "progress"]);
}

#[test]
fn journal() {
    is_noticed(Mechanism::Journal, &["journal"]);
}

#[test]
fn ended_ranks() {
    is_noticed(Mechanism::EndedRanks, &["slots"]);
}

#[test]
fn watchdog() {
    is_noticed(Mechanism::Watchdog, &["progress"]);
}

#[test]
fn durable_first() {
    is_noticed(Mechanism::DurableFirst, &["durable", "history", "fence", "slots", "weights", "progress"]);
}

#[test]
fn replaced_agents() {
    is_noticed(Mechanism::ReplacedAgents, &["twins"]);
}

#[test]
fn one_process() {
    is_noticed(Mechanism::OneProcess, &["twins", "journal", "durable", "history", "progress"]);
}

#[test]
fn lineage() {
    is_noticed_from(20_002_000, Mechanism::Lineage, &["history", "durable", "journal"]);
}

#[test]
fn snapshot() {
    is_noticed(Mechanism::Snapshot, &["snapshot"]);
}
