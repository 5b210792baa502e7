//! The learning rate over the epochs, as `torch.optim.lr_scheduler` computes it: plain numbers, no tensors.

use std::f64::consts::PI;

use morph_spec::experiment::{Argument, Schedule, ScheduleName};
use serde::{Deserialize, Serialize};

/// What a schedule remembers from epoch to epoch.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct State {
    /// Epochs that have ended.
    pub epochs: u32,
    /// The score of the last.
    pub score: f64,
    /// plateau: the best score.
    pub best: Option<f64>,
    /// plateau: epochs since it.
    pub bad: u32,
    /// plateau: how often the rate was lowered.
    pub lowered: u32,
}

impl State {
    /// Takes the validation score of an epoch that has ended.
    pub fn end_epoch(&mut self, score: f64, schedule: &Schedule) {
        (self.epochs, self.score) = (self.epochs + 1, score);
        if self.best.is_none_or(|best| score < best * (1.0 - schedule.threshold)) {
            (self.best, self.bad) = (Some(score), 0);
        } else {
            self.bad += 1;
        }
        if self.bad > schedule.patience {
            (self.lowered, self.bad) = (self.lowered + 1, 0);
        }
    }

    /// The learning rate of the epoch that begins, where `lr` is that of the first.
    pub fn rate(&self, lr: f64, schedule: &Schedule) -> f64 {
        // Before the first score there is nothing that could be taken for an epoch.
        let by_score = schedule.argument == Argument::Score && self.epochs > 0;
        let epoch = if by_score { self.score } else { f64::from(self.epochs) };
        match schedule.name {
            ScheduleName::None => lr,
            // Step by step, as torch multiplies, and with its rule that tiny changes (1e-8) are none.
            ScheduleName::Plateau => (0..self.lowered).fold(lr, |lr, _| {
                let lower = (lr * schedule.factor).max(schedule.min_lr);
                if lr - lower > 1e-8 { lower } else { lr }
            }),
            ScheduleName::Exponential => lr * schedule.factor.powi(self.epochs as i32),
            ScheduleName::Cosine => {
                let period = f64::from(schedule.epochs.max(1));
                schedule.min_lr + (lr - schedule.min_lr) * (1.0 + (PI * epoch / period).cos()) / 2.0
            }
            ScheduleName::MultiStep => {
                let passed = schedule.milestones.iter().filter(|m| f64::from(**m) <= epoch).count();
                lr * schedule.factor.powi(passed as i32)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(schedule: &Schedule, lr: f64, scores: &[f64]) -> Vec<f64> {
        let mut state = State::default();
        let mut after = |score: &f64| {
            state.end_epoch(*score, schedule);
            state.rate(lr, schedule)
        };
        scores.iter().map(&mut after).collect()
    }

    fn named(name: ScheduleName) -> Schedule {
        Schedule { name, ..Schedule::default() }
    }

    fn numbers(value: &serde_json::Value) -> Vec<f64> {
        value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    }

    #[test]
    fn rates_are_the_references() {
        let root = std::env::var_os("MORPH_GOLDEN").map(std::path::PathBuf::from);
        let root = root.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/golden").into());
        let Ok(file) = std::fs::read(root.join("ops/ops.json")) else {
            eprintln!("skipped: the recorded vectors are not here (ops/ops.json); set MORPH_GOLDEN");
            return;
        };
        let facts: serde_json::Value = serde_json::from_slice(&file).unwrap();
        let same = |schedule: &Schedule, lr: f64, fact: &serde_json::Value| {
            let (got, want) = (rates(schedule, lr, &numbers(&fact["values"])), numbers(&fact["lr_after"]));
            assert_eq!(got.len(), want.len());
            for (epoch, (got, want)) in got.iter().zip(&want).enumerate() {
                assert!(
                    (got - want).abs() <= 1e-12 * want,
                    "{:?}, epoch {epoch}: {got} instead of {want}",
                    schedule.name
                );
            }
        };
        for fact in facts["plateau"].as_array().unwrap() {
            same(&named(ScheduleName::Plateau), 5e-4, fact);
        }
        let by_score = |name| Schedule { argument: Argument::Score, milestones: vec![350], ..named(name) };
        same(&by_score(ScheduleName::Cosine), 1e-4, &facts["cosine_called_with_val_loss"]);
        same(&by_score(ScheduleName::MultiStep), 5e-5, &facts["multistep_called_with_val_loss"]);
    }

    #[test]
    fn true_schedules_go_by_epochs() {
        let steps = Schedule { factor: 0.25, milestones: vec![1, 3], ..named(ScheduleName::MultiStep) };
        assert_eq!(rates(&steps, 1.0, &[9.0; 4]), [0.25, 0.25, 0.0625, 0.0625]);
        let cosine = Schedule { epochs: 2, ..named(ScheduleName::Cosine) };
        let got = rates(&cosine, 1.0, &[9.0; 4]);
        for (got, want) in got.iter().zip([0.5, 0.0, 0.5, 1.0]) {
            assert!((got - want).abs() < 1e-12, "{got} instead of {want}");
        }
        let exponential = Schedule { factor: 0.5, ..named(ScheduleName::Exponential) };
        assert_eq!(rates(&exponential, 1.0, &[9.0; 2]), [0.5, 0.25]);
        assert_eq!(rates(&named(ScheduleName::None), 1.0, &[9.0; 2]), [1.0, 1.0]);
        assert_eq!(State::default().rate(1e-4, &Schedule { argument: Argument::Score, ..cosine }), 1e-4);
    }
}
