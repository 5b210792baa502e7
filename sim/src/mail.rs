//! What agents report, as plain values.

use std::collections::BTreeMap;

use morph_control::{
    Exit, Report,
    agent::{Ended, Letter, Line},
};
use morph_spec::Fence;

/// A start order: what a rank needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    pub fence: Fence,
    pub rank: u32,
    pub world: u32,
    /// The checkpoint to go on from: its URL and step.
    pub resume: Option<(String, u64)>,
    /// Steps of the whole training.
    pub steps: u64,
    /// The step at which it fails, whatever is done, and how.
    pub doom: Option<(u64, Exit)>,
}

/// One value of the only metric there is: what training has come to at a step.
pub type Point = (u64, u64);

/// A report.
#[derive(Debug, Clone, PartialEq)]
pub enum Mail {
    /// For the core.
    Core(Fence, Report),
    /// Metrics, kept beside the events.
    Metrics(Fence, Vec<Point>),
    /// Log lines: the number of them is enough.
    Lines(u64),
    /// The agent is about to leave.
    Leaving,
}

impl Letter for Mail {
    fn ended(ended: Ended) -> Self {
        // Only the coordinator says that a worker is lost.
        let exit = if ended.exit == Exit::Lost { Exit::Infra } else { ended.exit };
        let report = Report::RankExited { rank: ended.key.rank, exit, error: ended.error };
        Self::Core(ended.key.fence, report)
    }

    fn leaving() -> Self {
        Self::Leaving
    }

    fn not_here(fence: Fence) -> Self {
        Self::Core(fence, Report::NotHere)
    }

    fn line(_: Line) -> Self {
        Self::Lines(1)
    }

    fn size(&self) -> usize {
        match self {
            Self::Core(..) => 100,
            Self::Metrics(_, points) => 16 * points.len(),
            Self::Lines(n) => 80 * *n as usize,
            Self::Leaving => 2,
        }
    }

    fn merge(&mut self, newer: &Self) -> Option<usize> {
        match (self, newer) {
            (Self::Metrics(a, points), Self::Metrics(b, more)) if a == b && points.len() < 64 => points.extend(more),
            (Self::Lines(a), Self::Lines(b)) => *a += b,
            _ => return None,
        }
        Some(newer.size())
    }
}

/// What training comes to after one more step: stands for the weights, and shows whether a step was left out or taken
/// twice.
pub fn step(weights: u64, step: u64) -> u64 {
    (weights ^ step).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) ^ 0x5851_f42d_4c95_7f2d
}

/// The weights that a run begins with.
pub fn first_weights(fence: Fence) -> u64 {
    fence.run.as_u128() as u64
}

/// The weights after each of `steps` steps, undisturbed; the first ones stand at 0.
pub fn undisturbed(fence: Fence, steps: u64) -> Vec<u64> {
    let mut weights = vec![first_weights(fence)];
    for n in 1..=steps {
        weights.push(step(weights[n as usize - 1], n));
    }
    weights
}

/// Weights as the scores of an evaluation, exactly.
pub fn scores(weights: u64) -> BTreeMap<String, f64> {
    let halves = [("high", weights >> 32), ("low", weights & u64::from(u32::MAX))];
    halves.into_iter().map(|(name, half)| (name.to_owned(), half as f64)).collect()
}
