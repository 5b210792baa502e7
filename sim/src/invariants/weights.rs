//! Same seed, same configuration: the same weights, through any number of failures.

use morph_control::{Cluster, RunState};
use morph_spec::Fence;

use super::Truth;
use crate::mail;

/// Everything is over.
///
/// # Errors
/// When a run came to other weights than an undisturbed one, or a checkpoint to go on from was gone.
pub fn right(cluster: &Cluster, truth: &Truth) -> Result<(), String> {
    if let Some(url) = &truth.missing {
        return Err(format!("weights: {url} was to be resumed from, and is not there"));
    }
    for run in cluster.runs.values().filter(|r| matches!(r.state, RunState::Succeeded { .. })) {
        let steps = u64::from(run.experiment.trainer.epochs);
        let last = mail::undisturbed(Fence { run: run.id, attempt: 1 }, steps)[steps as usize];
        if run.summary != mail::scores(last) {
            return Err(format!("weights: {} came to {:?} after {} attempts", run.name, run.summary, run.attempts));
        }
    }
    Ok(())
}
