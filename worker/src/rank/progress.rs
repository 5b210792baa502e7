//! Where training stands, and early stopping: plain numbers, no tensors.

use std::collections::BTreeMap;

use morph_checkpoint::{Best, EarlyStopping};
use morph_spec::experiment;

use crate::rank::schedule;

/// Where training stands.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Position {
    /// Optimizer steps taken.
    pub step: u64,
    /// Epochs finished.
    pub epoch: u32,
    /// Batches finished of the running epoch.
    pub batch: u64,
    /// Sums over the running epoch's images of each term of the loss.
    pub sums: BTreeMap<String, f64>,
    /// Early stopping.
    pub early_stopping: EarlyStopping,
    /// The best checkpoint so far.
    pub best: Option<Best>,
    /// The learning rate's schedule.
    pub schedule: schedule::State,
}

/// The key in [`Position::sums`] that counts images.
pub const IMAGES: &str = "images";

impl Position {
    /// Adds one batch of `images` images with these mean terms.
    pub fn add<'a>(&mut self, terms: impl IntoIterator<Item = (&'a str, f64)>, images: f64) {
        for (name, mean) in terms {
            *self.sums.entry(name.to_owned()).or_default() += mean * images;
        }
        *self.sums.entry(IMAGES.to_owned()).or_default() += images;
        self.step += 1;
        self.batch += 1;
    }

    /// Ends the epoch; the means of its terms.
    pub fn end_epoch(&mut self) -> Vec<(String, f64)> {
        let mut sums = std::mem::take(&mut self.sums);
        let images = sums.remove(IMAGES).unwrap_or_default();
        self.epoch += 1;
        self.batch = 0;
        if images == 0.0 { Vec::new() } else { sums.into_iter().map(|(name, sum)| (name, sum / images)).collect() }
    }

    /// Forgets what validation said so far: the network that is judged next is not of the same kind.
    pub fn judge_anew(&mut self) {
        self.early_stopping = EarlyStopping::default();
        self.best = None;
    }

    /// Takes the validation score of an epoch; whether it is the best so far. As the reference's EarlyStopping
    /// (reference-spec.md 0.17), but that its state survives a restart.
    pub fn judge(&mut self, score: f64, rule: &experiment::EarlyStopping) -> bool {
        let state = &mut self.early_stopping;
        let improved = state.best.is_none_or(|best| best - score > rule.min_delta);
        if improved {
            state.best = Some(score);
            state.epochs_since = 0;
        } else {
            state.epochs_since += 1;
            state.stopped = rule.patience > 0 && state.epochs_since >= rule.patience;
        }
        improved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epochs_means_weigh_images_not_batches() {
        let mut at = Position::default();
        at.add([("loss", 1.0)], 3.0);
        at.add([("loss", 5.0)], 1.0);
        assert_eq!((at.step, at.batch), (2, 2));
        assert_eq!(at.end_epoch(), [("loss".to_owned(), 2.0)]);
        assert_eq!((at.step, at.batch, at.epoch), (2, 0, 1));
        assert!(at.sums.is_empty());
    }

    #[test]
    fn patience_ends_training_and_zero_never_does() {
        let rule = experiment::EarlyStopping { patience: 2, min_delta: 0.1, anew: true };
        let mut at = Position::default();
        assert!(at.judge(1.0, &rule));
        assert!(!at.judge(0.95, &rule), "not better by min_delta");
        assert!(!at.early_stopping.stopped);
        assert!(at.judge(0.5, &rule));
        assert!(!at.judge(0.5, &rule) && !at.judge(0.6, &rule));
        assert!(at.early_stopping.stopped);
        let never = experiment::EarlyStopping { patience: 0, min_delta: 0.0, anew: true };
        let mut at = Position::default();
        (0..50).for_each(|_| {
            at.judge(1.0, &never);
        });
        assert!(!at.early_stopping.stopped);
    }
    #[test]
    fn patience_is_the_references() {
        let root = std::env::var_os("MORPH_GOLDEN").map(std::path::PathBuf::from);
        let root = root.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/golden").into());
        let Ok(file) = std::fs::read(root.join("ops/ops.json")) else {
            eprintln!("skipped: the recorded vectors are not here (ops/ops.json); set MORPH_GOLDEN");
            return;
        };
        let facts: serde_json::Value = serde_json::from_slice(&file).unwrap();
        for case in facts["early_stopping"].as_array().unwrap() {
            let rule = experiment::EarlyStopping {
                patience: case["patience"].as_u64().unwrap() as u32,
                min_delta: case["min_delta"].as_f64().unwrap(),
                anew: false,
            };
            let mut at = Position::default();
            let recorded = case["stop_counter_best"].as_array().unwrap();
            for (value, after) in case["values"].as_array().unwrap().iter().zip(recorded) {
                at.judge(value.as_f64().unwrap(), &rule);
                let state = &mut at.early_stopping;
                // The reference counts from 0 again once it has said stop; here nothing follows a stop.
                let stopped = std::mem::take(&mut state.stopped);
                if stopped {
                    state.epochs_since = 0;
                }
                let said = serde_json::json!([stopped, state.epochs_since, state.best]);
                assert_eq!(&said, after, "patience {}", rule.patience);
            }
        }
    }
}
