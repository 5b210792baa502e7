//! Of two agents with one id the one that joined last stays: who was replaced does not come back as who it was.

use std::collections::{BTreeMap, BTreeSet};

use morph_control::{Event, What};
use morph_spec::WorkerId;

/// No incarnation of an agent joins again after another one of its worker has, and no process after another one; unless its worker
/// was forgotten meanwhile, and is new.
///
/// # Errors
/// Names it.
pub fn log(events: &[Event]) -> Result<(), String> {
    let mut newest: BTreeMap<WorkerId, [&str; 2]> = BTreeMap::new();
    let mut replaced: [BTreeSet<(WorkerId, &str)>; 2] = Default::default();
    for event in events {
        let (worker, incarnation, process) = match &event.what {
            What::WorkerJoined { worker, incarnation, process, .. } => (worker, incarnation, process),
            What::WorkerForgotten { worker } => {
                newest.remove(worker);
                replaced.iter_mut().for_each(|replaced| replaced.retain(|(of, _)| of != worker));
                continue;
            }
            _ => continue,
        };
        let joined = [incarnation.as_str(), process.as_str()];
        let earlier = newest.insert(*worker, joined).unwrap_or(joined);
        for ((replaced, what), (now, before)) in
            replaced.iter_mut().zip(["incarnation", "process"]).zip(joined.into_iter().zip(earlier))
        {
            if now != before {
                replaced.insert((*worker, before));
            }
            if replaced.contains(&(*worker, now)) {
                return Err(format!("twins: {what} {now} of {worker} was replaced, and has joined again"));
            }
        }
    }
    Ok(())
}
