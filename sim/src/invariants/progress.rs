//! A run that can make progress eventually does: when faults stop, every run ends, and none is given up without a reason.

use morph_control::{Cluster, Exit, Run, RunState, schedule};
use morph_spec::Timestamp;

use crate::work;

/// Why it is said that nothing goes on.
pub fn stuck(cluster: Option<&Cluster>, now: Timestamp) -> String {
    let Some(cluster) = cluster else { return "progress: there is no coordinator".into() };
    let Some(run) = cluster.runs.values().find(|r| !r.is_over()) else {
        return "progress: a request was never answered".into();
    };
    let why = schedule::reasons(cluster, now).remove(&run.id).unwrap_or_default();
    format!("progress: {} does not end: {:?} {why}", run.name, run.state)
}

/// Everything is over.
///
/// # Errors
/// When a run has failed without cause, or a sweep of which all runs are over is not.
pub fn ended(cluster: &Cluster) -> Result<(), String> {
    for run in cluster.runs.values() {
        match &run.state {
            RunState::Failed { error, .. } if !is_cause(run, error) => {
                return Err(format!("progress: {} has failed: {error}", run.name));
            }
            RunState::Succeeded { .. } if work::doom(run.experiment.trainer.seed).is_some() => {
                return Err(format!("progress: {} cannot succeed, and has", run.name));
            }
            _ => {}
        }
    }
    match cluster.sweeps.values().find(|s| s.end.is_none()) {
        Some(sweep) => Err(format!("progress: all runs of sweep {} are over, and it is not", sweep.name)),
        None => Ok(()),
    }
}

/// Whether `run` may have failed with `error`: what it was submitted with lets it, or what was done to it.
fn is_cause(run: &Run, error: &str) -> bool {
    let scheduling = &run.experiment.scheduling;
    let doomed = |exit| work::doom(run.experiment.trainer.seed).is_some_and(|(_, how)| how == exit);
    error.starts_with("gave up after")
        || (doomed(Exit::User) && error.ends_with(work::complaint(Exit::User)))
        || (!scheduling.time_limit.0.is_zero() && error.starts_with("its time limit"))
        || (!scheduling.after.is_empty() && error.starts_with("it was to run after"))
}
