//! The coordinator is never in the training path: ranks train on while it is away.

use super::Truth;
use crate::gang::Gangs;

/// Without the coordinator a gang that nothing else disturbs may stand still for this long, microseconds.
const STILL: u64 = 30_000_000;

impl Truth {
    /// The coordinator is gone.
    pub fn coordinator_gone(&mut self, now: u64, gangs: &Gangs) {
        let training = gangs.gangs.iter().filter(|(_, g)| g.training && g.saving.is_none());
        self.away = Some((now, training.map(|(fence, _)| *fence).collect()));
    }
}

/// The coordinator is back.
///
/// # Errors
/// When a gang has waited for it.
pub fn back(now: u64, gangs: &Gangs, truth: &Truth) -> Result<(), String> {
    let Some((since, training)) = &truth.away else { return Ok(()) };
    for fence in training.iter().filter(|f| !truth.disturbed.contains(f)) {
        let Some(gang) = gangs.gangs.get(fence).filter(|g| g.training && g.saving.is_none()) else { continue };
        if gangs.is_whole(*fence) && now > since + STILL && gang.moved <= *since {
            return Err(format!("away: {fence} has stood still at step {} while the coordinator was away", gang.step));
        }
    }
    Ok(())
}
