//! Which queued run goes where, and for what the others wait. The same function decides and explains, so that the reason
//! shown is the true one.
//!
//! Runs go in the order of their submission. One that would fit on the cluster but not on what is free just now holds back
//! those behind it: else narrow runs could keep a wide one waiting for ever. One that is wider than the whole cluster holds
//! back nobody.

use std::collections::BTreeMap;

use morph_spec::{RunId, SweepId, Timestamp, WorkerId};

use crate::{
    Cluster, Run, RunState, Worker, WorkerState,
    placement::{NoFit, Node, place},
};

/// What a queued run gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// These workers, by rank.
    Place(Vec<WorkerId>),
    /// Nothing yet; one line for people says why.
    Wait(String),
}

/// The plan for every queued run, in order.
pub fn plan(cluster: &Cluster, now: Timestamp) -> Vec<(RunId, Plan)> {
    let ready: Vec<&Worker> = cluster.workers.values().filter(|w| w.state == WorkerState::Ready).collect();
    let mut free: Vec<u32> = ready.iter().map(|w| w.slots.saturating_sub(cluster.used(w.id))).collect();
    let mut active: BTreeMap<SweepId, u32> = BTreeMap::new();
    for sweep in cluster.runs.values().filter(|r| r.attempt().is_some()).filter_map(|r| r.sweep) {
        *active.entry(sweep).or_default() += 1;
    }
    let mut first_in_line: Option<&Run> = None;
    let mut plans = Vec::new();
    for run in cluster.in_order() {
        let RunState::Queued { not_before } = run.state else { continue };
        let limit = run.sweep.and_then(|s| cluster.sweeps.get(&s)).map_or(0, |s| s.spec.max_parallel);
        let running = run.sweep.and_then(|s| active.get(&s).copied()).unwrap_or(0);
        let plan = if let Some(reason) = &cluster.draining {
            Plan::Wait(format!("waits for the coordinator, which is stopping: {reason}"))
        } else if not_before > now {
            Plan::Wait(again(run, not_before, now))
        } else if limit > 0 && running >= limit {
            Plan::Wait(format!("waits for its turn: its sweep runs at most {limit} at a time"))
        } else if ready.is_empty() {
            Plan::Wait(nobody(cluster))
        } else {
            let nodes: Vec<Node> = ready
                .iter()
                .zip(&free)
                .map(|(w, &free)| Node { free, slots: w.slots, cached: w.cached.contains(&run.dataset) })
                .collect();
            match (place(&nodes, run.width()), first_in_line) {
                (Err(NoFit::TooWide { slots }), _) => Plan::Wait(too_wide(run.width(), slots, ready.len())),
                (_, Some(first)) => {
                    Plan::Wait(format!("waits behind {} for {}", first.name, count(run.width(), "slot")))
                }
                (Ok(ranks), None) => {
                    for &node in &ranks {
                        free[node] -= 1;
                    }
                    if let Some(sweep) = run.sweep {
                        *active.entry(sweep).or_default() += 1;
                    }
                    Plan::Place(ranks.into_iter().map(|node| ready[node].id).collect())
                }
                (Err(NoFit::Short { free, slots }), None) => {
                    first_in_line = Some(run);
                    let (wanted, workers) = (count(run.width(), "slot"), count(ready.len() as u32, "worker"));
                    Plan::Wait(format!("waits for {wanted}: {free} of {slots} free on {workers}"))
                }
            }
        };
        plans.push((run.id, plan));
    }
    plans
}

/// Why each queued run waits.
pub fn reasons(cluster: &Cluster, now: Timestamp) -> BTreeMap<RunId, String> {
    let reason = |(run, plan)| match plan {
        Plan::Wait(why) => (run, why),
        Plan::Place(_) => (run, "about to be placed".to_owned()),
    };
    plan(cluster, now).into_iter().map(reason).collect()
}

fn count(n: u32, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

fn again(run: &Run, not_before: Timestamp, now: Timestamp) -> String {
    let seconds = not_before.since(now).as_secs_f64().ceil();
    match &run.last_error {
        Some(error) if run.failures > 0 => {
            format!("goes on in {seconds} s, try {} of {}, after: {error}", run.failures, run.max_retries)
        }
        _ => format!("goes on in {seconds} s"),
    }
}

fn nobody(cluster: &Cluster) -> String {
    if cluster.workers.is_empty() {
        return "no worker has joined yet; start one: morph-worker agent --coordinator URL".into();
    }
    let away = cluster.workers.values().filter(|w| matches!(w.state, WorkerState::Away { .. })).count();
    if away > 0 {
        format!("no worker is connected, {away} may come back")
    } else {
        "no worker is connected: all have left or are lost".into()
    }
}

fn too_wide(width: u32, slots: u32, workers: usize) -> String {
    format!(
        "needs {}, more than the whole cluster has ({slots} on {}): start more workers or lower trainer.world_size",
        count(width, "slot"),
        count(workers as u32, "worker"),
    )
}
