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
