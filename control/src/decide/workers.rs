//! Agents come and go.

use morph_spec::{Rng, Timestamp, WorkerId};

use super::attempts::Ends;
use crate::{
    Cluster, Exit, Hello, Refusal, What, Worker, WorkerState,
    sabotage::{Mechanism, is_broken},
};

/// An agent is here. Kubernetes may start one twice, and homes are copied: the one that joined last stays, and who was replaced
/// is turned away, or the two would replace each other for ever. With a home its journal is copied, too, and then two
/// processes speak as one incarnation: each would have its own reports acknowledged under the numbers of the other's.
///
/// Under a new incarnation, ranks that it had and does not know are lost; under the old one their ends
/// are still to be reported, or they were never started and the orders are repeated.
pub(super) fn hello(cluster: &Cluster, now: Timestamp, rng: &mut Rng, hello: Hello) -> Result<Vec<What>, Refusal> {
    let known = cluster.workers.get(&hello.worker);
    if let Some(other) = known.filter(|w| is_anothers(w, &hello)) {
        return Err(Refusal::Forbidden(format!(
            "{} is the worker of certificate {:?}, this one's is {:?}: give the agent that certificate, or a --home of its own",
            hello.worker, other.certificate, hello.certificate
        )));
    }
    if let Some(newer) = known.filter(|w| is_replaced(w, &hello)) {
        return Err(Refusal::Replaced(format!(
            "another agent with its id, {}, has joined since, at {}: was it started twice, or its home copied? Each agent needs a \
             --home of its own",
            hello.worker, newer.host
        )));
    }
    let mut events = Vec::new();
    if known.is_some_and(|w| w.incarnation != hello.incarnation) {
        events = ends(cluster, now, rng, hello.worker, "its agent was restarted", |fence| !hello.live.contains(&fence));
    }
    events.push(What::WorkerJoined {
        worker: hello.worker,
        incarnation: hello.incarnation,
        process: hello.process,
        host: hello.host,
        slots: hello.slots,
        version: hello.version,
        live: hello.live,
        cached: hello.cached,
        cached_is_all: true,
        labels: hello.labels,
        memory: hello.memory,
        certificate: hello.certificate,
    });
    Ok(events)
}

/// Whether the worker is known by another certificate. Without one nobody is told apart: then the coordinator asks for tokens, or for
/// nothing.
fn is_anothers(worker: &Worker, hello: &Hello) -> bool {
    let names = [&worker.certificate, &hello.certificate];
    names.iter().all(|name| !name.is_empty()) && names[0] != names[1]
}

/// Whether another agent has taken the place of the one that says `hello`.
fn is_replaced(worker: &Worker, hello: &Hello) -> bool {
    let earlier = worker.replaced.contains(&hello.incarnation) && !is_broken(Mechanism::ReplacedAgents);
    let same = worker.incarnation == hello.incarnation && !is_broken(Mechanism::OneProcess);
    earlier || (same && worker.processes.contains(&hello.process))
}

/// An agent's session has ended.
pub(super) fn away(cluster: &Cluster, worker: WorkerId, incarnation: &str, clean: bool) -> Vec<What> {
    let Some(known) = cluster.workers.get(&worker) else { return Vec::new() };
    if known.incarnation != incarnation || known.state != WorkerState::Ready {
        return Vec::new();
    }
    // An agent that still has ranks did not mean to leave. One that had said so, and has none, may cut the line in going.
    let left = (clean || known.leaving) && cluster.used(worker) == 0;
    vec![if left { What::WorkerLeft { worker } } else { What::WorkerAway { worker } }]
}

/// An agent is about to leave.
pub(super) fn leaving(cluster: &Cluster, worker: WorkerId, incarnation: &str) -> Vec<What> {
    let known = cluster.workers.get(&worker).filter(|w| w.incarnation == incarnation && !w.leaving);
    known.map(|_| What::WorkerLeaving { worker }).into_iter().collect()
}

/// An agent was silent for too long, though its session seemed to live.
pub(super) fn silent(
    cluster: &Cluster,
    now: Timestamp,
    rng: &mut Rng,
    worker: WorkerId,
    incarnation: &str,
) -> Vec<What> {
    let here = |s| matches!(s, WorkerState::Ready | WorkerState::Away { .. });
    match cluster.workers.get(&worker) {
        Some(known) if known.incarnation == incarnation && here(known.state) => lose(cluster, now, rng, worker),
        _ => Vec::new(),
    }
}

/// A worker is lost, and with it its ranks.
pub(super) fn lose(cluster: &Cluster, now: Timestamp, rng: &mut Rng, worker: WorkerId) -> Vec<What> {
    let mut events = vec![What::WorkerLost { worker }];
    events.extend(ends(cluster, now, rng, worker, "its worker was lost", |_| true));
    events
}

fn ends(
    cluster: &Cluster,
    now: Timestamp,
    rng: &mut Rng,
    worker: WorkerId,
    why: &str,
    which: impl Fn(morph_spec::Fence) -> bool,
) -> Vec<What> {
    let mut events = Vec::new();
    for run in cluster.runs_on(worker).filter(|r| which(r.fence())) {
        let mut ends = Ends::new(run, run.fence());
        let ranks = run.attempt().map(|a| a.ranks.as_slice()).unwrap_or_default();
        for (rank, _) in ranks.iter().enumerate().filter(|(_, r)| r.worker == worker) {
            ends.rank(rank as u32, Exit::Lost, why.to_owned());
        }
        events.extend(ends.finish(&cluster.policy, now, rng));
    }
    events
}
