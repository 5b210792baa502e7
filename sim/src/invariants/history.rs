//! A run's history is monotone: every metric of every step is recorded once, with the value of the run that counts.

use std::collections::BTreeMap;

use morph_control::{Cluster, RunState};
use morph_spec::{Fence, RunId};

use crate::{coordinator::Disk, mail};

/// Everything is over.
///
/// # Errors
/// When a step's metric is wrong, or, of a run that succeeded, not there.
pub fn whole(cluster: &Cluster, disk: &Disk) -> Result<(), String> {
    let mut right: BTreeMap<RunId, Vec<u64>> = BTreeMap::new();
    for run in cluster.runs.values() {
        let steps = u64::from(run.experiment.trainer.epochs);
        let values = mail::undisturbed(Fence { run: run.id, attempt: 1 }, steps);
        if matches!(run.state, RunState::Succeeded { .. })
            && let Some(step) = (1..=steps).find(|s| !disk.metrics.contains_key(&(run.id, *s)))
        {
            return Err(format!("history: {} succeeded, and step {step} is not recorded", run.name));
        }
        right.insert(run.id, values);
    }
    for ((run, step), value) in &disk.metrics {
        let expected = right.get(run).and_then(|values| values.get(*step as usize));
        if expected != Some(value) {
            return Err(format!("history: step {step} of {run} is recorded as {value:#x}, and came to {expected:x?}"));
        }
    }
    Ok(())
}
