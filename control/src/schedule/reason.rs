//! Why a run waits, in one line for people.

use morph_spec::{RunId, Timestamp};

use super::room::{Demand, Rooms};
use crate::{Cluster, Run, RunState, Target, WorkerState};

/// `1 slot`, `2 slots`.
fn count(n: u32, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// What it waits for.
fn wanted(run: &Run) -> String {
    let width = run.least_width();
    match run.experiment.scheduling.slot_share {
        1.0 => count(width, "slot"),
        share => format!("{share} of {}", count(width, "slot")),
    }
}

pub(super) fn short(run: &Run, free: u32, slots: u32, workers: usize) -> String {
    format!("waits for {}: {free} of {slots} free on {}", wanted(run), count(workers as u32, "worker"))
}

/// What `run` may be told of another: names are their project's own.
pub(super) fn named(other: &Run, run: &Run) -> String {
    let project = &other.experiment.scheduling.project;
    if *project == run.experiment.scheduling.project {
        other.name.clone()
    } else {
        format!("a run of project {project}")
    }
}

pub(super) fn behind(run: &Run, first: &Run) -> String {
    format!("waits behind {} for {}", named(first, run), wanted(run))
}

pub(super) fn making_room(cluster: &Cluster, run: &Run, victims: &[RunId]) -> String {
    let name = |id: &RunId| cluster.runs.get(id).map(|other| named(other, run));
    let names: Vec<String> = match victims {
        [] => cluster.index.stopping.iter().filter_map(name).collect(),
        some => some.iter().filter_map(name).collect(),
    };
    let who = match names.as_slice() {
        [] => "runs that are stopping".to_owned(),
        [one] => one.clone(),
        [one, rest @ ..] => format!("{one} and {} more", rest.len()),
    };
    format!("waits for {}, which {who} will leave", wanted(run))
}

pub(super) fn again(run: &Run, not_before: Timestamp, now: Timestamp) -> String {
    let seconds = not_before.since(now).as_secs_f64().ceil();
    match &run.last_error {
        Some(error) if run.failures > 0 => {
            format!("goes on in {seconds} s, try {} of {}, after: {error}", run.failures, run.max_retries)
        }
        Some(error) if run.losses > 0 => format!("goes on in {seconds} s, after: {error}"),
        _ => format!("goes on in {seconds} s"),
    }
}

/// The first run or sweep that must succeed before.
pub(super) fn unmet(cluster: &Cluster, run: &Run) -> Option<String> {
    let target = *run.after.iter().find(|target| cluster.succeeded(**target) != Some(true))?;
    let how = match target {
        Target::Run(id) => match cluster.runs.get(&id).map(|r| &r.state) {
            Some(RunState::Queued { .. }) => "waits itself",
            Some(RunState::Paused { .. }) => "is paused",
            _ => "is not done",
        },
        Target::Sweep(id) if cluster.sweeps.get(&id).is_some_and(|s| s.paused) => "is paused",
        Target::Sweep(_) => "is not done",
    };
    Some(format!("runs after {}, which {how}", cluster.name_of(target)))
}

pub(super) fn nobody(cluster: &Cluster) -> String {
    if cluster.workers.is_empty() {
        return "no worker has joined yet; start one: morph-worker agent --coordinator URL".into();
    }
    let here = |w: &&crate::Worker| w.state == WorkerState::Ready;
    let cordoned = cluster.workers.values().filter(here).filter(|w| w.cordoned.is_some()).count();
    if cordoned == 0 && cluster.workers.values().any(|w| here(&w)) {
        return "no worker takes new work: those that are connected are leaving".into();
    }
    if cordoned > 0 {
        let workers = count(cordoned as u32, "worker");
        return format!("no worker takes new work, {workers} cordoned: morphctl uncordon WORKER");
    }
    match cluster.index.away.len() {
        0 => "no worker is connected: all have left or are lost".into(),
        away => format!("no worker is connected, {away} may come back"),
    }
}

pub(super) fn too_wide(cluster: &Cluster, run: &Run, rooms: &Rooms<'_>, slots: u32) -> String {
    let demand = Demand::of(run);
    if !rooms.suit(&demand) {
        let labels: Vec<String> = demand.labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
        let known: std::collections::BTreeSet<String> = (cluster.workers.values())
            .flat_map(|w| w.labels.iter().filter(|(l, _)| demand.labels.contains_key(*l)))
            .map(|(label, value)| format!("{label}={value}"))
            .collect();
        let known = match known.len() {
            0 => "no worker has such labels".to_owned(),
            _ => format!("there is {}", known.into_iter().take(8).collect::<Vec<_>>().join(", ")),
        };
        return format!("no worker has {}: {known}", labels.join(", "));
    }
    let memory = run.experiment.scheduling.memory;
    // Slots alone may be enough, and no node of them large enough.
    let (memory, remedy) = match (memory.0 > 0, run.experiment.trainer.world_size > 1) {
        (false, false) => (String::new(), "start more workers"),
        (false, true) => (String::new(), "start more workers or lower trainer.world_size"),
        (true, false) => (format!(" with {memory} each"), "start larger workers or lower scheduling.memory"),
        (true, true) => (
            format!(" with {memory} each"),
            "start more or larger workers, or lower trainer.world_size or scheduling.memory",
        ),
    };
    format!(
        "needs {}{memory}, more than the whole cluster has ({slots} on {}): {remedy}",
        wanted(run),
        count(rooms.len() as u32, "worker"),
    )
}
