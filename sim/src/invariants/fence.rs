//! Every attempt but the newest is fenced: a late worker of an old attempt can change nothing.

use std::collections::BTreeMap;

use morph_control::{Event, What};
use morph_spec::RunId;

/// No event of the log belongs to an attempt that was not the newest when it happened, or that had ended.
///
/// # Errors
/// Names the event.
pub fn log(events: &[Event]) -> Result<(), String> {
    // The newest attempt of each run, and whether it lives.
    let mut newest: BTreeMap<RunId, (u32, bool)> = BTreeMap::new();
    for event in events {
        let fence = match &event.what {
            What::RunPlaced { fence, .. } => {
                let (attempt, alive) = newest.get(&fence.run).copied().unwrap_or((0, false));
                if alive || fence.attempt != attempt + 1 {
                    return Err(format!("fence: {fence} is placed after attempt {attempt}, which lives: {alive}"));
                }
                newest.insert(fence.run, (fence.attempt, true));
                continue;
            }
            What::RunSubmitted { run, .. } => {
                newest.insert(*run, (0, false));
                continue;
            }
            What::HistoryRestored { floor, .. } => {
                for (run, (attempt, alive)) in &mut newest {
                    if *alive {
                        return Err(format!("fence: attempt {attempt} of {run} lives in a history that was restored"));
                    }
                    *attempt = (*attempt).max(*floor);
                }
                continue;
            }
            What::StoreReady { fence, .. }
            | What::RankReady { fence, .. }
            | What::CheckpointCommitted { fence, .. }
            | What::CheckpointLost { fence, .. }
            | What::Evaluated { fence, .. }
            | What::RankExited { fence, .. }
            | What::StopRequested { fence, .. }
            | What::StopEscalated { fence }
            | What::AttemptEnded { fence, .. } => fence,
            _ => continue,
        };
        if newest.get(&fence.run) != Some(&(fence.attempt, true)) {
            return Err(format!("fence: {fence} is over, and yet: {}", event.text()));
        }
        if let What::AttemptEnded { .. } = event.what {
            newest.insert(fence.run, (fence.attempt, false));
        }
    }
    Ok(())
}
