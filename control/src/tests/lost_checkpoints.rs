//! Checkpoints that are gone when a run is to go on from them.

use super::*;

const WHY: &str = "file:///out/step-20/manifest.json: not found";

/// Trains `run` of two ranks, saves at `steps`, and has its rank 0 crash.
fn crashed_after(w: &mut World, run: RunId, steps: &[u64]) {
    w.train(run);
    let fence = w.fence(run);
    for step in steps {
        w.save(fence, *step, true);
    }
    w.exit(fence, 0, Exit::Crashed, "out of memory");
    w.exit(fence, 1, Exit::PeerLost, "");
    w.pass(60_000);
}

/// All ranks of `run` say that its checkpoint is gone; the events that follow.
fn gone(w: &mut World, run: RunId) -> Vec<Event> {
    let (fence, seen) = (w.fence(run), w.log.len());
    for rank in 0..w.cluster.runs[&run].width() {
        w.exit(fence, rank, Exit::NoCheckpoint, WHY);
    }
    w.pass(90_000);
    w.log[seen..].to_vec()
}

fn struck(events: &[Event]) -> Vec<u64> {
    let lost = events.iter().filter_map(|e| match &e.what {
        What::CheckpointLost { step, .. } => Some(*step),
        _ => None,
    });
    lost.collect()
}

fn steps(w: &World, run: RunId) -> Vec<u64> {
    w.cluster.runs[&run].checkpoints.iter().map(|c| c.step).collect()
}

/// Where the newest attempt goes on from, as its order to start says.
fn start(w: &World, run: RunId) -> Option<u64> {
    let of = &w.cluster.runs[&run];
    of.start_of(of.attempts).map(|c| c.step)
}

#[test]
fn a_run_goes_on_from_the_checkpoint_before_and_in_the_end_anew() {
    let mut w = World::new();
    w.worker(1, 2);
    let run = w.run("k", 2);
    crashed_after(&mut w, run, &[10, 20]);
    let failures = w.cluster.runs[&run].failures;
    assert_eq!((start(&w, run), failures), (Some(20), 1));

    let events = gone(&mut w, run);
    assert_eq!(struck(&events), [20], "once, though both ranks have said so");
    assert!(events.iter().any(|e| e.text().contains("step 20 is lost") && e.text().contains(WHY)), "{events:?}");
    assert_eq!((steps(&w, run), start(&w, run)), (vec![10], Some(10)));
    let resume = events.iter().find_map(|e| match &e.what {
        What::RunPlaced { resume, .. } => Some(*resume),
        _ => None,
    });
    assert_eq!(resume, Some(Some(10)), "{events:?}");
    let it = &w.cluster.runs[&run];
    assert_eq!((it.failures, it.losses, it.past.len()), (failures, 0, 2), "it counts as nobody's failure");
    assert_eq!(it.past[1].outcome, Outcome::Failed);
    let worker = &w.cluster.workers[&worker(1)];
    assert_eq!(worker.strikes.len(), 1, "only the crash: {:?}", worker.strikes);
    assert!(it.crashes.iter().all(|c| c.error == "out of memory"), "{:?}", it.crashes);

    assert_eq!(struck(&gone(&mut w, run)), [10]);
    assert_eq!((steps(&w, run), start(&w, run)), (vec![], None), "none is left");
    // What it saves again is recorded again, under other names.
    w.train(run);
    let fence = w.fence(run);
    w.save(fence, 20, true);
    assert_eq!(steps(&w, run), [20]);
    assert!(w.cluster.runs[&run].checkpoints[0].best);
    w.finish(run, 0.9);
    assert!(matches!(w.state(run), RunState::Succeeded { .. }));
}

#[test]
fn with_it_those_are_struck_that_retention_may_have_removed() {
    let mut w = World::new();
    w.worker(1, 2);
    let run = w.run("k", 2);
    w.train(run);
    let fence = w.fence(run);
    for step in [10, 20, 30, 40, 50, 60] {
        w.save(fence, step, step == 20);
    }
    w.exit(fence, 0, Exit::Crashed, "x");
    w.exit(fence, 1, Exit::PeerLost, "");
    w.pass(60_000);
    assert_eq!(struck(&gone(&mut w, run)), [60]);
    assert_eq!(w.cluster.runs[&run].experiment.trainer.checkpoint.keep_last, 2);
    assert_eq!(steps(&w, run), [20, 40, 50], "the best, and those that it keeps");
    assert_eq!(struck(&gone(&mut w, run)), [50]);
    assert_eq!(steps(&w, run), [20, 40]);
}

#[test]
fn what_an_old_attempt_says_of_its_checkpoint_strikes_none() {
    let mut w = World::new();
    w.worker(1, 2);
    let run = w.run("k", 2);
    crashed_after(&mut w, run, &[10, 20]);
    let old = w.fence(run);
    gone(&mut w, run);
    let events = w.log.len();
    let report = Report::RankExited { rank: 0, exit: Exit::NoCheckpoint, error: WHY.into() };
    w.tell(Command::Report { worker: worker(1), fence: old, report }).unwrap();
    assert_eq!((w.log.len(), steps(&w, run)), (events, vec![10]));
}

#[test]
fn one_rank_that_does_not_find_it_is_enough_whatever_the_others_come_to() {
    for other in [Exit::Stopped, Exit::PeerLost, Exit::Infra, Exit::Crashed, Exit::User] {
        let mut w = World::new();
        w.worker(1, 2);
        let run = w.run("k", 2);
        crashed_after(&mut w, run, &[10, 20]);
        let fence = w.fence(run);
        let effects = w.exit(fence, 1, Exit::NoCheckpoint, WHY);
        let killed = |e: &Effect| matches!(e, Effect::Stop { now: true, .. });
        assert!(effects.iter().any(killed), "the other cannot begin without it: {effects:?}");
        assert_eq!(steps(&w, run), [10, 20], "not before all are over");
        w.exit(fence, 0, other, "x");
        assert_eq!(steps(&w, run), [10], "{other:?}");
        assert!(matches!(w.state(run), RunState::Queued { .. }), "{other:?}: {:?}", w.state(run));
    }
}

#[test]
fn a_run_that_is_being_stopped_forgets_it_and_stops() {
    let mut w = World::new();
    w.worker(1, 2);
    let run = w.run("k", 2);
    crashed_after(&mut w, run, &[10, 20]);
    w.tell(Command::Pause(Target::Run(run))).unwrap();
    assert_eq!(struck(&gone(&mut w, run)), [20]);
    assert!(matches!(w.state(run), RunState::Paused { .. }), "{:?}", w.state(run));
    w.tell(Command::Resume(Target::Run(run))).unwrap();
    assert_eq!(start(&w, run), Some(10));
}

#[test]
fn who_had_none_to_go_on_from_says_nothing_that_could_repeat_for_ever() {
    let mut w = World::new();
    w.worker(1, 2);
    let run = w.run("k", 2);
    for _ in 0..=w.cluster.policy.losses {
        assert!(struck(&gone(&mut w, run)).is_empty());
    }
    let RunState::Failed { error, .. } = w.state(run) else { panic!("{:?}", w.state(run)) };
    assert!(error.contains("gave up") && error.contains(WHY), "{error}");
}
