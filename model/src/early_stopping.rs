//! Early stopping on a score where lower is better (reference-spec, section 0.17), with its state in and out.

use morph_spec::experiment as spec;

/// Watches a validation score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EarlyStopping {
    patience: u32,
    min_delta: f64,
    /// Lowest score so far.
    pub best: Option<f64>,
    /// Scores since the last improvement.
    pub since: u32,
}

/// What a new score means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// It is the best so far.
    pub improved: bool,
    /// Training should end.
    pub stop: bool,
}

impl EarlyStopping {
    /// Has seen nothing yet.
    pub fn new(options: &spec::EarlyStopping) -> Self {
        Self { patience: options.patience, min_delta: options.min_delta, best: None, since: 0 }
    }

    /// Takes a new score. It improves when it is lower than the best by more than `min_delta`; training should end after
    /// `patience` scores in a row that do not (never, when `patience` is 0). The count begins again after that.
    pub fn see(&mut self, score: f64) -> Verdict {
        let improved = self.best.is_none_or(|best| best - score > self.min_delta);
        if improved {
            self.best = Some(score);
            self.since = 0;
            return Verdict { improved, stop: false };
        }
        self.since += 1;
        let stop = self.patience > 0 && self.since >= self.patience;
        if stop {
            self.since = 0;
        }
        Verdict { improved, stop }
    }
}
