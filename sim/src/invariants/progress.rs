//! A run that can make progress eventually does: when faults stop, every run ends, and none is given up without a reason.

use morph_control::{Cluster, RunState, schedule};
use morph_spec::Timestamp;

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
            RunState::Failed { error, .. } if !error.starts_with("gave up after") => {
                return Err(format!("progress: {} has failed: {error}", run.name));
            }
            _ => {}
        }
    }
    match cluster.sweeps.values().find(|s| s.end.is_none()) {
        Some(sweep) => Err(format!("progress: all runs of sweep {} are over, and it is not", sweep.name)),
        None => Ok(()),
    }
}
