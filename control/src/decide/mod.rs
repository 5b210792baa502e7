//! What a command makes happen.

mod attempts;
mod reports;
mod submit;
mod tick;
mod wishes;
mod workers;

use morph_spec::{Rng, Timestamp};

use crate::{
    Cluster, Command, Event, Refusal, RunState, What, WorkerState, evolve,
    sabotage::{Mechanism, is_broken},
    schedule,
    state::Soft,
};

/// What `command` makes happen at `now`: events to record and to [`evolve`] with, in order. None: it changes nothing.
///
/// # Errors
/// When it cannot be done; then nothing has happened.
pub fn decide(cluster: &Cluster, now: Timestamp, rng: &mut Rng, command: Command) -> Result<Vec<Event>, Refusal> {
    let whats = match command {
        Command::Start => vec![What::CoordinatorStarted {}],
        Command::Restore { gone, wall } => attempts::restore(cluster, now, rng, gone, wall),
        Command::Tick => tick::tick(cluster, now, rng),
        Command::RegisterDataset { url, digest, manifest } => submit::dataset(cluster, now, url, digest, *manifest),
        Command::SubmitRun { key, name, experiment, dataset } => {
            submit::run(cluster, now, rng, key, &name, *experiment, dataset)?
        }
        Command::SubmitSweep { key, sweep, datasets } => submit::sweep(cluster, now, rng, key, *sweep, &datasets)?,
        Command::Rescored { key, run, checkpoint, tests } => wishes::rescored(cluster, key, run, checkpoint, tests)?,
        Command::Cancel(target) => wishes::cancel(cluster, now, target)?,
        Command::Pause(target) => wishes::pause(cluster, now, target)?,
        Command::Resume(target) => wishes::resume(cluster, target)?,
        Command::Retry(target) => wishes::retry(cluster, target)?,
        Command::Cordon { worker, reason, drain } => wishes::cordon(cluster, now, worker, &reason, drain)?,
        Command::Uncordon(worker) => wishes::uncordon(cluster, worker)?,
        Command::Drain { reason } => attempts::drain(cluster, now, reason),
        Command::Hello(hello) => workers::hello(cluster, now, rng, *hello)?,
        Command::WorkerAway { worker, incarnation, clean } => workers::away(cluster, worker, &incarnation, clean),
        Command::WorkerLeaving { worker, incarnation } => workers::leaving(cluster, worker, &incarnation),
        Command::WorkerLost { worker, incarnation } => workers::silent(cluster, now, rng, worker, &incarnation),
        Command::Report { worker, fence, report } => reports::report(cluster, now, rng, worker, fence, report),
    };
    Ok(whats.into_iter().map(|what| Event::new(now, what)).collect())
}

/// [`decide`] and [`evolve`], and what follows by itself until nothing more does: the events of all of it, in order.
///
/// # Errors
/// As [`decide`].
pub fn apply(cluster: &mut Cluster, now: Timestamp, rng: &mut Rng, command: Command) -> Result<Vec<Event>, Refusal> {
    let tick = command == Command::Tick;
    let mut all = decide(cluster, now, rng, command)?;
    all.iter().for_each(|event| evolve(cluster, event));
    let due = next_deadline(cluster, now).is_some_and(|at| at <= now);
    if !tick && !due && !all.iter().any(|e| stirs(&e.what)) {
        return Ok(all);
    }
    loop {
        let more = decide(cluster, now, rng, Command::Tick)?;
        if more.is_empty() {
            cluster.ticked = Soft(now.max(cluster.ticked.0));
            return Ok(all);
        }
        more.iter().for_each(|event| evolve(cluster, event));
        all.extend(more);
    }
}

/// Whether something may follow from it by itself, at once. News that come with every step of training are not among them.
fn stirs(what: &What) -> bool {
    !matches!(
        what,
        What::StoreReady { .. }
            | What::RankReady { .. }
            | What::CheckpointCommitted { .. }
            | What::Evaluated { .. }
            | What::Rescored { .. }
            | What::DatasetRegistered { .. }
    )
}

/// When something is due by itself: then [`Command::Tick`] makes it happen. In the past when that is overdue.
pub fn next_deadline(cluster: &Cluster, now: Timestamp) -> Option<Timestamp> {
    let Cluster { index, policy, .. } = cluster;
    let seen = cluster.ticked.0.min(now);
    let later = (std::ops::Bound::Excluded((seen, morph_spec::RunId::LAST)), std::ops::Bound::Unbounded);
    let wake = index.wakes.range(later).next().map(|(at, _)| *at);
    let away = index.away.iter().filter_map(|id| match cluster.workers.get(id)?.state {
        WorkerState::Away { since } => Some(since.after(policy.grace)),
        _ => None,
    });
    let limits = index.limited.iter().filter_map(|id| {
        let run = cluster.runs.get(id)?;
        run.overdue_at().filter(|_| !matches!(run.state, RunState::Stopping { .. }))
    });
    let stops = index.stopping.iter().filter_map(|id| cluster.runs.get(id)).flat_map(|run| match &run.state {
        RunState::Stopping { attempt, stop } => {
            let kill = (!stop.killed && !is_broken(Mechanism::StopEscalation)).then_some(stop.kill_at);
            let missing = tick::missing(attempt).map(|(_, since)| since.after(policy.grace));
            kill.into_iter().chain(missing).min()
        }
        _ => None,
    });
    // Older runs rise in the queue by waiting alone.
    let aged = (!index.queued.is_empty() && !policy.aging.is_zero()).then(|| seen.after(policy.aging));
    wake.into_iter().chain(away).chain(limits).chain(stops).chain(aged).min()
}

/// New attempts of the runs that fit just now, and what must stop so that others can start.
fn placements(cluster: &Cluster, now: Timestamp) -> Vec<What> {
    schedule::plan(cluster, now)
        .into_iter()
        .filter_map(|step| match step {
            schedule::Step::Place { run, ranks, devices, backfill, raised } => {
                let run = cluster.runs.get(&run)?;
                let fence = run.next();
                let resume = run.newest_checkpoint().map(|c| c.step);
                Some(What::RunPlaced { fence, ranks, resume, devices, backfill, raised })
            }
            schedule::Step::Stop { run, reason } => {
                attempts::stop(cluster.runs.get(&run)?, crate::Cause::Preempt, &cluster.policy, now, &reason)
            }
        })
        .collect()
}
