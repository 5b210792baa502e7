//! What a command makes happen.

mod attempts;
mod reports;
mod submit;
mod tick;
mod workers;

use morph_spec::{Rng, Timestamp};

use crate::{Cluster, Command, Event, Refusal, RunState, What, WorkerState, evolve, schedule};

/// What `command` makes happen at `now`: events to record and to [`evolve`] with, in order. None: it changes nothing.
///
/// # Errors
/// When it cannot be done; then nothing has happened.
pub fn decide(cluster: &Cluster, now: Timestamp, rng: &mut Rng, command: Command) -> Result<Vec<Event>, Refusal> {
    let whats = match command {
        Command::Start => vec![What::CoordinatorStarted {}],
        Command::Tick => tick::tick(cluster, now, rng),
        Command::RegisterDataset { url, digest, manifest } => submit::dataset(cluster, now, url, digest, *manifest),
        Command::SubmitRun { key, name, experiment, dataset } => {
            submit::run(cluster, now, rng, key, &name, *experiment, dataset)?
        }
        Command::SubmitSweep { key, sweep, datasets } => submit::sweep(cluster, now, rng, key, *sweep, &datasets)?,
        Command::Cancel(target) => attempts::cancel(cluster, now, target)?,
        Command::Drain { reason } => attempts::drain(cluster, now, reason),
        Command::Hello(hello) => workers::hello(cluster, now, rng, *hello),
        Command::WorkerAway { worker, incarnation, clean } => workers::away(cluster, worker, &incarnation, clean),
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
    let mut all = decide(cluster, now, rng, command)?;
    all.iter().for_each(|event| evolve(cluster, event));
    loop {
        let more = decide(cluster, now, rng, Command::Tick)?;
        if more.is_empty() {
            return Ok(all);
        }
        more.iter().for_each(|event| evolve(cluster, event));
        all.extend(more);
    }
}

/// When something is due by itself, after `now`: then [`Command::Tick`] makes it happen.
pub fn next_deadline(cluster: &Cluster, now: Timestamp) -> Option<Timestamp> {
    let workers = cluster.workers.values().filter_map(|w| match w.state {
        WorkerState::Away { since } => Some(since.after(cluster.policy.grace)),
        _ => None,
    });
    let runs = cluster.runs.values().flat_map(|run| match &run.state {
        RunState::Queued { not_before } => vec![*not_before],
        RunState::Stopping { attempt, stop } => {
            let kill = (!stop.killed).then_some(stop.kill_at);
            kill.into_iter().chain(tick::missing(attempt).map(|(_, since)| since.after(cluster.policy.grace))).collect()
        }
        _ => Vec::new(),
    });
    workers.chain(runs).filter(|&at| at > now).min()
}

/// New attempts of the runs that fit just now.
fn placements(cluster: &Cluster, now: Timestamp) -> impl Iterator<Item = What> + '_ {
    schedule::plan(cluster, now).into_iter().filter_map(|(id, plan)| {
        let schedule::Plan::Place(ranks) = plan else { return None };
        let run = cluster.runs.get(&id)?;
        let fence = morph_spec::Fence { run: id, attempt: run.attempts + 1 };
        Some(What::RunPlaced { fence, ranks, resume: run.newest_checkpoint().map(|c| c.step) })
    })
}
