//! Attempts that fail: who is to blame, and what follows.

use super::*;

#[test]
fn a_failure_goes_on_from_the_checkpoint_and_old_attempts_are_deaf() {
    let mut w = World::new();
    w.worker(1, 2);
    let run = w.run("k", 2);
    w.train(run);
    let old = w.fence(run);
    let effects = w.save(old, 10, true);
    assert!(effects.iter().any(|e| matches!(e, Effect::CheckpointAck { step: 10, .. })));
    let effects = w.exit(old, 1, Exit::Crashed, "killed by signal 9");
    assert!(
        effects.iter().any(|e| matches!(e, Effect::Stop { now: true, .. })),
        "the other rank cannot go on: {effects:?}"
    );
    w.exit(old, 0, Exit::PeerLost, "connection reset");
    assert!(matches!(w.state(run), RunState::Queued { .. }));
    assert_eq!(w.cluster.runs[&run].past[0].outcome, Outcome::Failed);
    assert!(w.cluster.runs[&run].past[0].error.contains("signal 9"), "the one to blame is named");
    w.pass(1000);
    let new = w.fence(run);
    assert_eq!(new.attempt, 2);
    let placed = w.log.iter().rev().find_map(|e| match &e.what {
        What::RunPlaced { resume, .. } => Some(*resume),
        _ => None,
    });
    assert_eq!(placed, Some(Some(10)));
    let events = w.log.len();
    w.tell(Command::Report { worker: worker(1), fence: old, report: Report::Checkpoint(checkpoint(old, 99, true)) })
        .unwrap();
    assert_eq!(w.log.len(), events, "an old attempt can change nothing");
    w.train(run);
    w.finish(run, 0.8);
    assert!(matches!(w.state(run), RunState::Succeeded { .. }));
}

#[test]
fn failures_without_progress_end_a_run_and_the_users_fault_does_at_once() {
    let mut w = World::new();
    w.worker(1, 1);
    let run = w.run("k", 1);
    for attempt in 1..=4 {
        assert_eq!(w.fence(run).attempt, attempt);
        let fence = w.fence(run);
        w.exit(fence, 0, Exit::Crashed, "out of memory");
        w.pass(60_000);
    }
    let RunState::Failed { error, .. } = w.state(run) else { panic!("{:?}", w.state(run)) };
    assert!(error.contains("out of memory") && error.contains("gave up"), "{error}");
    let run = w.run("user", 1);
    let fence = w.fence(run);
    w.exit(fence, 0, Exit::User, "the loss is not a number");
    assert!(matches!(w.state(run), RunState::Failed { .. }));
    assert_eq!(w.cluster.runs[&run].attempts, 1);
}

#[test]
fn storage_that_fails_is_not_the_runs_fault_but_not_waited_for_for_ever() {
    let mut w = World::new();
    w.worker(1, 1);
    let run = w.run("k", 1);
    let why = "write a checkpoint: the store does not answer";
    for attempt in 1..=10 {
        let fence = w.fence(run);
        assert_eq!(fence.attempt, attempt);
        // A crash in between counts, and is not forgotten.
        let exit = if attempt == 5 { Exit::Crashed } else { Exit::Infra };
        w.exit(fence, 0, exit, why);
        w.pass(90_000);
        assert_eq!(w.cluster.runs[&run].failures, u32::from(attempt >= 5));
    }
    assert!(!w.cluster.runs[&run].is_over(), "more than max_retries");
    let fence = w.fence(run);
    w.save(fence, 5, false);
    w.exit(fence, 0, Exit::Infra, why);
    assert_eq!((w.cluster.runs[&run].failures, w.cluster.runs[&run].losses), (0, 1), "it got further");
    for _ in 1..=w.cluster.policy.losses {
        w.pass(90_000);
        let fence = w.fence(run);
        w.exit(fence, 0, Exit::Infra, why);
    }
    let RunState::Failed { error, .. } = w.state(run) else { panic!("{:?}", w.state(run)) };
    assert!(error.contains("gave up: worker, storage or network") && error.contains(why), "{error}");
}

#[test]
fn progress_forgives_earlier_failures() {
    let mut w = World::new();
    w.worker(1, 1);
    let run = w.run("k", 1);
    for n in 1..=10 {
        let fence = w.fence(run);
        w.save(fence, n * 5, false);
        w.exit(fence, 0, Exit::Crashed, "preempted");
        w.pass(60_000);
    }
    assert!(!w.cluster.runs[&run].is_over(), "ten failures, but each attempt got further");
}

/// The slot of a run's only rank.
fn slot(w: &World, run: RunId) -> (WorkerId, u32) {
    let rank = &w.cluster.runs[&run].attempt().unwrap().ranks[0];
    (rank.worker, rank.device)
}

#[test]
fn a_bad_slot_beside_good_ones_is_found_out() {
    let mut w = World::new();
    let (bad, _) = w.worker(1, 2);
    let steady = w.run("steady", 1);
    w.train(steady);
    w.worker(2, 1);
    for n in 0..3u64 {
        assert!(w.cluster.workers[&bad].cordoned.is_none(), "{n}");
        let run = w.run(&format!("r{n}"), 1);
        assert_eq!(slot(&w, run), (bad, 1));
        let fence = w.fence(run);
        w.exit(fence, 0, Exit::Crashed, "Xid 79: the GPU has fallen off the bus");
        let fence = w.fence(steady);
        w.save(fence, n + 1, false);
        w.pass(60_000);
        assert_eq!(slot(&w, run), (worker(2), 0));
        w.train(run);
        let fence = w.fence(run);
        w.save(fence, 10, false);
        w.finish(run, 0.5);
    }
    let cordon = w.cluster.workers[&bad].cordoned.clone().unwrap();
    assert!(cordon.automatic && cordon.reason.contains("3 runs failed on its slot 1"), "{}", cordon.reason);
    assert!(cordon.reason.contains("Xid 79") && w.cluster.runs[&steady].attempt().is_some(), "{}", cordon.reason);
    w.tell(Command::Uncordon(bad)).unwrap();
    assert!(w.cluster.workers[&bad].bad_slots.is_empty());
}

#[test]
fn runs_that_crash_wherever_they_go_are_no_slots_fault() {
    let mut w = World::new();
    let (first, _) = w.worker(1, 2);
    let steady = w.run("steady", 1);
    w.train(steady);
    w.worker(2, 1);
    for n in 0..4u64 {
        let run = w.run(&format!("r{n}"), 1);
        for _ in 0..4 {
            let fence = w.fence(run);
            w.exit(fence, 0, Exit::Crashed, "out of memory");
            let fence = w.fence(steady);
            let step = w.cluster.runs[&steady].newest_checkpoint().map_or(1, |c| c.step + 1);
            w.save(fence, step, false);
            w.pass(60_000);
        }
        assert!(w.cluster.runs[&run].is_over());
    }
    assert!(w.cluster.workers[&first].cordoned.is_none());
}

#[test]
fn on_the_same_worker_a_retry_takes_another_slot() {
    let mut w = World::new();
    let (only, _) = w.worker(1, 3);
    let run = w.run("r", 1);
    for device in [0, 1, 2, 0] {
        assert_eq!(slot(&w, run), (only, device));
        if device == 2 {
            // Of the slots on which it crashed others keep away as well, once it has got further here.
            let fence = w.fence(run);
            w.save(fence, 1, false);
            let other = w.run("other", 1);
            assert_eq!(slot(&w, other), (only, 0), "the first of two that may be bad");
            assert_eq!(w.cluster.workers[&only].bad_slots.len(), 2);
            w.save(w.fence(other), 1, false);
            assert_eq!(w.cluster.workers[&only].bad_slots.keys().copied().collect::<Vec<_>>(), [1]);
            w.finish(other, 0.5);
        }
        let fence = w.fence(run);
        w.exit(fence, 0, Exit::Crashed, "x");
        w.pass(60_000);
    }
}
