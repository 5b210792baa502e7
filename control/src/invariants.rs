//! The contract of this room as predicates: tests ask them after every single command.

use std::collections::BTreeSet;

use morph_spec::Rng;

use crate::{Cluster, Command, Event, WHOLE, What, decide, evolve, index::Index};

/// Whether `events`, which `command` brought about, lead from `before` to `after` as they may.
///
/// # Errors
/// The name of the invariant that is broken, and how.
pub fn check(before: &Cluster, command: &Command, events: &[Event], after: &Cluster) -> Result<(), String> {
    gangs_are_whole(after)?;
    slots_hold_one_rank(before, events)?;
    history_only_grows(before, events, after)?;
    old_attempts_are_fenced(before, command, events)?;
    the_index_is_true(after)?;
    events_are_the_truth(before, events, after)
}

/// A live attempt has as many ranks as its run is wide, and is the run's newest.
///
/// # Errors
/// Names the run.
pub fn gangs_are_whole(cluster: &Cluster) -> Result<(), String> {
    for run in cluster.runs.values() {
        let Some(attempt) = run.attempt() else { continue };
        let ranks = attempt.ranks.len() as u32;
        if !(run.least_width()..=run.width()).contains(&ranks) {
            return Err(format!("gangs_are_whole: {} has {ranks} of {} ranks", run.name, run.width()));
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

/// No placement takes more of a slot, or of a worker's memory, than is free, or goes to a worker that takes no work.
///
/// # Errors
/// Names the worker.
pub fn slots_hold_one_rank(before: &Cluster, events: &[Event]) -> Result<(), String> {
    // Most events place nothing, and a copy of everything is dear.
    let Some(last) = events.iter().rposition(|e| matches!(e.what, What::RunPlaced { .. })) else { return Ok(()) };
    let mut cluster = before.clone();
    for event in &events[..=last] {
        evolve(&mut cluster, event);
        let What::RunPlaced { ranks, .. } = &event.what else { continue };
        for id in ranks {
            let broken = |what: String| Err(format!("slots_hold_one_rank: {id} {what}"));
            let Some(worker) = cluster.workers.get(id) else {
                return broken("is placed on, which nobody knows".into());
            };
            if !worker.serves() {
                return broken("is placed on, which takes no work".into());
            }
            // Counted from the runs, not looked up: the index is what is to be trusted.
            let mut shares = vec![0; worker.slots as usize];
            let mut memory = 0;
            for run in cluster.runs.values() {
                let ranks = run.attempt().into_iter().flat_map(|a| &a.ranks);
                for rank in ranks.filter(|r| r.worker == *id && r.is_live()) {
                    memory += run.experiment.scheduling.memory.0;
                    match shares.get_mut(rank.device as usize) {
                        Some(taken) => *taken += run.share(),
                        None if run.fence() == event_fence(event) => {
                            return broken(format!("has no slot {}", rank.device));
                        }
                        // Placed when the worker had more slots.
                        None => {}
                    }
                }
            }
            if let Some(taken) = shares.iter().find(|taken| **taken > WHOLE) {
                return broken(format!("has {taken} thousandths of a slot taken"));
            }
            if worker.memory > 0 && memory > worker.memory {
                return broken(format!("has {memory} of {} bytes taken", worker.memory));
            }
        }
    }
    Ok(())
}

fn event_fence(event: &Event) -> morph_spec::Fence {
    let What::RunPlaced { fence, .. } = &event.what else { unreachable!("callers have looked") };
    *fence
}

/// Runs, checkpoints (but those that are said to be gone) and attempts are never taken back, and what is over stays so until somebody asks for it again.
///
/// # Errors
/// Names the run.
pub fn history_only_grows(before: &Cluster, events: &[Event], after: &Cluster) -> Result<(), String> {
    let broken = |name: &str, what: &str| Err(format!("history_only_grows: {name}: {what}"));
    let restored = events.iter().any(|e| matches!(e.what, What::HistoryRestored { .. }));
    let mut gone: BTreeSet<&String> = BTreeSet::new();
    for event in events {
        match &event.what {
            What::HistoryRestored { gone: all, .. } => gone.extend(all),
            What::CheckpointLost { url, expired, .. } => gone.extend(expired.iter().chain([url])),
            _ => {}
        }
    }
    for (id, old) in &before.runs {
        let Some(new) = after.runs.get(id) else { return broken(&old.name, "the run is gone") };
        if new.attempts < old.attempts || new.past.len() < old.past.len() {
            return broken(&old.name, "attempts were taken back");
        }
        let mut urls = new.checkpoints.iter().map(|c| &c.url);
        if old.checkpoints.iter().filter(|c| !gone.contains(&c.url)).any(|c| urls.next() != Some(&c.url)) {
            return broken(&old.name, "checkpoints were taken back");
        }
        if new.checkpoints.iter().filter(|c| c.best).count() > 1 {
            return broken(&old.name, "two checkpoints are the best");
        }
        let retried = || events.iter().any(|e| matches!(&e.what, What::RunRetried { run } if run == id));
        if old.is_over() && new != old && !retried() && (!restored || old.is_done()) {
            return broken(&old.name, "it was over and has changed");
        }
    }
    for (id, old) in &before.sweeps {
        match after.sweeps.get(id) {
            Some(new) if old.end.is_none() || new.end == old.end => {}
            Some(_) if events.iter().any(|e| matches!(&e.what, What::SweepRetried { sweep } if sweep == id)) => {}
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
    let Some(first) = events.first() else { return Ok(()) };
    // What was due in the same moment happens, too; what was said has no part in it.
    let own = decide(before, first.at, &mut Rng::keyed(0, "invariant", 0), command.clone());
    match own.unwrap_or_default().first() {
        Some(event) => Err(format!("old_attempts_are_fenced: {fence} is old, and yet: {}", event.text())),
        None => Ok(()),
    }
}

/// What is indexed is what a fresh look at all runs would give.
///
/// # Errors
/// When it is not.
pub fn the_index_is_true(cluster: &Cluster) -> Result<(), String> {
    let mut fresh = Index::default();
    for run in cluster.in_order() {
        fresh.name_run(&run.name, run.id);
        fresh.add(&cluster.policy, run);
    }
    for sweep in cluster.sweeps.values() {
        fresh.sweep_names.insert(sweep.name.clone(), sweep.id);
        fresh.sweep_ended(sweep.id, sweep.end);
    }
    cluster.workers.values().for_each(|w| fresh.place(w.id, w.state));
    fresh.struck = cluster.workers.values().filter(|w| w.is_struck()).map(|w| w.id).collect();
    // An empty count and none are the same.
    let mut kept = cluster.index.clone();
    kept.outcomes.retain(|_, causes| !causes.is_empty());
    if kept == fresh { Ok(()) } else { Err(format!("the_index_is_true: {kept:?}\nis not {fresh:?}")) }
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
