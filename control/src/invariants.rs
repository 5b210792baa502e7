//! The contract of this room as predicates: tests ask them after every single command.

use crate::{Cluster, Command, Event, What, evolve};

/// Whether `events`, which `command` brought about, lead from `before` to `after` as they may.
///
/// # Errors
/// The name of the invariant that is broken, and how.
pub fn check(before: &Cluster, command: &Command, events: &[Event], after: &Cluster) -> Result<(), String> {
    gangs_are_whole(after)?;
    slots_hold_one_rank(before, events)?;
    history_only_grows(before, after)?;
    old_attempts_are_fenced(before, command, events)?;
    events_are_the_truth(before, events, after)
}

/// A live attempt has as many ranks as its run is wide, and is the run's newest.
///
/// # Errors
/// Names the run.
pub fn gangs_are_whole(cluster: &Cluster) -> Result<(), String> {
    for run in cluster.runs.values() {
        let Some(attempt) = run.attempt() else { continue };
        if attempt.ranks.len() != run.width() as usize {
            return Err(format!("gangs_are_whole: {} has {} of {} ranks", run.name, attempt.ranks.len(), run.width()));
        }
        if attempt.number != run.attempts {
            return Err(format!(
                "gangs_are_whole: {} lives in attempt {} of {}",
                run.name, attempt.number, run.attempts
            ));
        }
        if attempt.ranks.iter().all(|r| !r.is_live()) {
            return Err(format!("gangs_are_whole: {} has a live attempt without a live rank", run.name));
        }
    }
    Ok(())
}

/// No placement puts more ranks on a worker than it has free slots, nor on one that is not there.
///
/// # Errors
/// Names the worker.
pub fn slots_hold_one_rank(before: &Cluster, events: &[Event]) -> Result<(), String> {
    let mut cluster = before.clone();
    for event in events {
        evolve(&mut cluster, event);
        let What::RunPlaced { ranks, .. } = &event.what else { continue };
        for id in ranks {
            let Some(worker) = cluster.workers.get(id) else {
                return Err(format!("slots_hold_one_rank: placed on {id}, which nobody knows"));
            };
            if cluster.used(*id) > worker.slots {
                return Err(format!(
                    "slots_hold_one_rank: {id} has {} ranks in {} slots",
                    cluster.used(*id),
                    worker.slots
                ));
            }
            if worker.state != crate::WorkerState::Ready {
                return Err(format!("slots_hold_one_rank: placed on {id}, which is not here"));
            }
        }
    }
    Ok(())
}

/// Runs, checkpoints and attempts are never taken back, and what is over stays so.
///
/// # Errors
/// Names the run.
pub fn history_only_grows(before: &Cluster, after: &Cluster) -> Result<(), String> {
    let broken = |name: &str, what: &str| Err(format!("history_only_grows: {name}: {what}"));
    for (id, old) in &before.runs {
        let Some(new) = after.runs.get(id) else { return broken(&old.name, "the run is gone") };
        if new.attempts < old.attempts || new.past.len() < old.past.len() {
            return broken(&old.name, "attempts were taken back");
        }
        let urls = |r: &crate::Run| r.checkpoints.iter().map(|c| c.url.clone()).collect::<Vec<_>>();
        if !urls(new).starts_with(&urls(old)) {
            return broken(&old.name, "checkpoints were taken back");
        }
        if new.checkpoints.iter().filter(|c| c.best).count() > 1 {
            return broken(&old.name, "two checkpoints are the best");
        }
        if old.is_over() && new != old {
            return broken(&old.name, "it was over and has changed");
        }
    }
    for (id, old) in &before.sweeps {
        match after.sweeps.get(id) {
            Some(new) if old.end.is_none() || new.end == old.end => {}
            _ => return broken(&old.name, "the sweep's end was taken back"),
        }
    }
    Ok(())
}

/// What is said under any attempt but the newest changes nothing of its run.
///
/// # Errors
/// Names the event that should not be.
pub fn old_attempts_are_fenced(before: &Cluster, command: &Command, events: &[Event]) -> Result<(), String> {
    let Command::Report { fence, .. } = command else { return Ok(()) };
    if before.is_current(*fence) {
        return Ok(());
    }
    match events.iter().find(|e| e.run() == Some(fence.run) && !matches!(e.what, What::RunPlaced { .. })) {
        Some(event) => Err(format!("old_attempts_are_fenced: {fence} is old, and yet: {}", event.text())),
        None => Ok(()),
    }
}

/// Folding the events gives the state.
///
/// # Errors
/// When it does not.
pub fn events_are_the_truth(before: &Cluster, events: &[Event], after: &Cluster) -> Result<(), String> {
    let mut folded = before.clone();
    events.iter().for_each(|e| evolve(&mut folded, e));
    if folded == *after { Ok(()) } else { Err("events_are_the_truth: the fold differs from the state".into()) }
}
