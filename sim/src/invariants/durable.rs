//! No acknowledged submission, metric or checkpoint is ever lost.

use morph_control::{Cluster, Report};
use morph_spec::Fence;

use super::Truth;
use crate::{coordinator::Disk, mail::Mail};

/// The coordinator has read its disk again.
///
/// # Errors
/// When something that a client was told to be accepted is not there.
pub fn restarted(cluster: &Cluster, truth: &Truth) -> Result<(), String> {
    match truth.submitted.iter().find(|key| !cluster.keys.contains_key(*key)) {
        Some(key) => Err(format!("durable: the submission {key} was acknowledged and is gone")),
        None => Ok(()),
    }
}

impl Truth {
    /// The coordinator tells an agent that everything up to `seq` is durable.
    ///
    /// # Errors
    /// When it is not, though it was said under an attempt that counts.
    pub fn acknowledged(&mut self, node: usize, life: u64, seq: u64, disk: &Disk) -> Result<(), String> {
        self.log.catch_up(&disk.events);
        let Some(sent) = self.sent.get_mut(&(node, life)) else { return Ok(()) };
        let rest = sent.split_off(&(seq + 1));
        let void = |fence: &Fence| self.log.ended.contains(fence) || self.lost.contains(fence);
        for (n, mail) in std::mem::replace(sent, rest) {
            match mail {
                Mail::Core(fence, Report::Checkpoint(c)) if !self.log.checkpoints.contains(&c.url) && !void(&fence) => {
                    return Err(format!(
                        "durable: checkpoint {} (report {n}) was acknowledged and is not there",
                        c.url
                    ));
                }
                Mail::Metrics(fence, points) if !void(&fence) => {
                    if let Some((step, _)) = points.iter().find(|(s, _)| !disk.metrics.contains_key(&(fence.run, *s))) {
                        return Err(format!(
                            "durable: the metric of {fence} at step {step} was acknowledged and is not there"
                        ));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}
