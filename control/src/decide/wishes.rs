//! What people ask for: cancel, pause, resume, retry of runs and sweeps; cordon and drain of workers.

use morph_spec::{RunId, Timestamp, WorkerId};

use super::{attempts::stop, submit::taken};
use crate::{Cause, Cluster, Refusal, Run, RunState, Stop, Submission, Sweep, Target, What, test_use::Tested};

fn run(cluster: &Cluster, id: RunId) -> Result<&Run, Refusal> {
    cluster.runs.get(&id).ok_or_else(|| Refusal::NotFound(format!("there is no run {id}")))
}

fn sweep(cluster: &Cluster, id: morph_spec::SweepId) -> Result<&Sweep, Refusal> {
    cluster.sweeps.get(&id).ok_or_else(|| Refusal::NotFound(format!("there is no sweep {id}")))
}

fn runs<'a>(cluster: &'a Cluster, sweep: &'a Sweep) -> impl Iterator<Item = &'a Run> {
    sweep.runs.iter().filter_map(|id| cluster.runs.get(id))
}

/// Splits that one evaluation can have been of, and bytes of a place: what is recorded is kept for ever.
const MOST_TESTS: usize = 1000;
const LONGEST: usize = 4096;

/// Records that a checkpoint was scored by hand.
pub(super) fn rescored(
    cluster: &Cluster,
    key: Option<String>,
    of: Option<RunId>,
    checkpoint: String,
    mut tests: Vec<Tested>,
) -> Result<Vec<What>, Refusal> {
    match key.as_ref().and_then(|key| Some((key, cluster.keys.get(key)?))) {
        Some((_, Submission::Evaluation)) => return Ok(Vec::new()),
        Some((key, other)) => return Err(taken(key, *other)),
        None => {}
    }
    of.map(|id| run(cluster, id)).transpose()?;
    tests.sort();
    tests.dedup();
    let long = |text: &String| text.is_empty() || text.len() > LONGEST;
    if tests.is_empty() || tests.len() > MOST_TESTS {
        let why = format!("an evaluation is of 1 to {MOST_TESTS} splits of datasets, not of {}", tests.len());
        return Err(Refusal::Invalid(why));
    }
    if long(&checkpoint) || key.as_ref().is_some_and(long) || tests.iter().any(|t| long(&t.url) || long(&t.split)) {
        return Err(Refusal::Invalid(format!("a key, a place or a split is empty, or longer than {LONGEST} bytes")));
    }
    Ok(vec![What::Rescored { key, run: of, checkpoint, tests }])
}

/// Stops a run, or all of a sweep, for good.
pub(super) fn cancel(cluster: &Cluster, now: Timestamp, target: Target) -> Result<Vec<What>, Refusal> {
    let one = |run: &Run| -> Option<What> {
        match &run.state {
            RunState::Queued { .. } | RunState::Paused { .. } => Some(What::RunCancelled { run: run.id }),
            RunState::Stopping { stop, .. } if stop.cause == Cause::Cancel => None,
            _ => stop(run, Cause::Cancel, &cluster.policy, now, "cancelled"),
        }
    };
    match target {
        Target::Run(id) => Ok(one(run(cluster, id)?).into_iter().collect()),
        Target::Sweep(id) => {
            let sweep = sweep(cluster, id)?;
            let first = (!sweep.cancelled && sweep.end.is_none()).then_some(What::SweepCancelled { sweep: id });
            Ok(first.into_iter().chain(runs(cluster, sweep).filter_map(one)).collect())
        }
    }
}

/// Holds a run, or all of a sweep, back.
pub(super) fn pause(cluster: &Cluster, now: Timestamp, target: Target) -> Result<Vec<What>, Refusal> {
    let one = |run: &Run| -> Option<What> {
        match &run.state {
            RunState::Queued { .. } => Some(What::RunPaused { run: run.id }),
            RunState::Stopping { stop, .. } if matches!(stop.cause, Cause::Cancel | Cause::Pause) => None,
            _ => stop(run, Cause::Pause, &cluster.policy, now, "paused"),
        }
    };
    match target {
        Target::Run(id) => {
            let run = run(cluster, id)?;
            if run.is_over() {
                return Err(Refusal::Precondition(format!("run {} is over: there is nothing to pause", run.name)));
            }
            Ok(one(run).into_iter().collect())
        }
        Target::Sweep(id) => {
            let sweep = sweep(cluster, id)?;
            if sweep.end.is_some() {
                return Err(Refusal::Precondition(format!("sweep {} is over: there is nothing to pause", sweep.name)));
            }
            let first = (!sweep.paused).then_some(What::SweepPaused { sweep: id });
            Ok(first.into_iter().chain(runs(cluster, sweep).filter_map(one)).collect())
        }
    }
}

/// Lets what was paused go on.
pub(super) fn resume(cluster: &Cluster, target: Target) -> Result<Vec<What>, Refusal> {
    let one = |run: &Run| -> Option<What> {
        match &run.state {
            RunState::Paused { .. } => Some(What::RunResumed { run: run.id }),
            // It is being stopped already; what it becomes afterwards can still be changed.
            RunState::Stopping { stop, .. } if stop.cause == Cause::Pause => {
                let stop = Stop { cause: Cause::Drain, ..stop.clone() };
                Some(What::StopRequested { fence: run.fence(), stop })
            }
            _ => None,
        }
    };
    match target {
        Target::Run(id) => {
            let run = run(cluster, id)?;
            let resumed = one(run).ok_or_else(|| {
                Refusal::Precondition(format!("run {} is not paused: there is nothing to resume", run.name))
            })?;
            Ok(vec![resumed])
        }
        Target::Sweep(id) => {
            let sweep = sweep(cluster, id)?;
            let first = sweep.paused.then_some(What::SweepResumed { sweep: id });
            let all: Vec<What> = first.into_iter().chain(runs(cluster, sweep).filter_map(one)).collect();
            if all.is_empty() {
                let why = format!("sweep {} is not paused: there is nothing to resume", sweep.name);
                return Err(Refusal::Precondition(why));
            }
            Ok(all)
        }
    }
}

/// Tries again what failed or was cancelled, from its newest checkpoint.
pub(super) fn retry(cluster: &Cluster, target: Target) -> Result<Vec<What>, Refusal> {
    let one = |run: &Run| match &run.state {
        RunState::Failed { .. } | RunState::Cancelled { .. } => Some(What::RunRetried { run: run.id }),
        _ => None,
    };
    let (reopened, retried, name) = match target {
        Target::Run(id) => {
            let run = run(cluster, id)?;
            (run.sweep, one(run).into_iter().collect::<Vec<_>>(), &run.name)
        }
        Target::Sweep(id) => {
            let sweep = sweep(cluster, id)?;
            (Some(id), runs(cluster, sweep).filter_map(one).collect(), &sweep.name)
        }
    };
    if retried.is_empty() {
        return Err(Refusal::Precondition(format!("{name} has not failed and was not cancelled: nothing to retry")));
    }
    let over = |id: &morph_spec::SweepId| {
        cluster.sweeps.get(id).is_some_and(|s| s.end.is_some() || s.cancelled || s.halted.is_some())
    };
    let first = reopened.filter(over).map(|sweep| What::SweepRetried { sweep });
    Ok(first.into_iter().chain(retried).collect())
}

/// Gives a worker no new work; with `drain` its ranks save, stop, and go on elsewhere.
pub(super) fn cordon(
    cluster: &Cluster,
    now: Timestamp,
    worker: WorkerId,
    reason: &str,
    drain: bool,
) -> Result<Vec<What>, Refusal> {
    let known = known(cluster, worker)?;
    let again = known.cordoned.as_ref().is_some_and(|c| !c.automatic && c.reason == reason);
    let cordon = What::WorkerCordoned { worker, reason: reason.to_owned(), automatic: false };
    let mut events: Vec<What> = (!again).then_some(cordon).into_iter().collect();
    if drain {
        let why = format!("its worker is drained: {reason}");
        let moving = cluster.runs_on(worker).filter(|r| !matches!(r.state, RunState::Stopping { .. }));
        events.extend(moving.filter_map(|r| stop(r, Cause::Drain, &cluster.policy, now, &why)));
    }
    Ok(events)
}

/// Gives a worker work again.
pub(super) fn uncordon(cluster: &Cluster, worker: WorkerId) -> Result<Vec<What>, Refusal> {
    let known = known(cluster, worker)?;
    Ok(known.cordoned.iter().map(|_| What::WorkerUncordoned { worker }).collect())
}

fn known(cluster: &Cluster, worker: WorkerId) -> Result<&crate::Worker, Refusal> {
    cluster.workers.get(&worker).ok_or_else(|| Refusal::NotFound(format!("there is no worker {worker}")))
}
