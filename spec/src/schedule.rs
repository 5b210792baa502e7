//! `trainer.schedule`: how the learning rate changes over the epochs, as `torch.optim.lr_scheduler` computes it.

use serde::{Deserialize, Serialize};

/// The schedule. Fields that the named one does not use mean nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Which one.
    pub name: ScheduleName,
    /// plateau, exponential, multi-step: what the rate is multiplied by.
    pub factor: f64,
    /// plateau: epochs without improvement that are waited.
    pub patience: u32,
    /// plateau: an improvement is a score below best · (1 − threshold).
    pub threshold: f64,
    /// cosine: epochs until the rate is at its lowest.
    pub epochs: u32,
    /// multi-step: epochs (from 0) that begin with a lower rate.
    pub milestones: Vec<u32>,
    /// plateau, cosine: the rate goes no lower.
    pub min_lr: f64,
    /// cosine, multi-step: what counts as the epoch.
    pub argument: Argument,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            name: ScheduleName::None,
            factor: 0.1,
            patience: 10,
            threshold: 1e-4,
            epochs: 100,
            milestones: Vec::new(),
            min_lr: 0.0,
            argument: Argument::Epoch,
        }
    }
}

/// Schedules of the learning rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleName {
    /// Constant.
    None,
    /// `ReduceLROnPlateau` on the validation score.
    Plateau,
    /// `CosineAnnealingLR`.
    Cosine,
    /// `ExponentialLR`.
    Exponential,
    /// `MultiStepLR`.
    MultiStep,
}

/// What a schedule takes for the number of the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Argument {
    /// The epochs that are done.
    Epoch,
    /// The validation score, as the published code has it, which calls `step(val_loss)`: the rate hardly ever changes.
    Score,
}
