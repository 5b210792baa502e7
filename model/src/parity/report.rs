//! What a comparison found.

use std::fmt;

use serde::Serialize;
use tch::{Kind, Tensor};

/// The outcome of one case.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Name of the case.
    pub case: String,
    /// What was compared.
    pub sections: Vec<Section>,
}

/// One kind of thing that was compared.
#[derive(Debug, Clone, Serialize)]
pub struct Section {
    /// `forward/eval`, `train/losses`, ….
    pub name: String,
    /// Tensors or numbers compared.
    pub compared: usize,
    /// Largest absolute difference.
    pub max_abs: f64,
    /// Largest relative difference: of an element for outputs and losses, of the norm for gradients.
    pub max_rel: f64,
    /// The largest share of its bound that any difference took up; above 1 fails.
    pub of_bound: f64,
    /// What exceeded its bound, with numbers.
    pub failures: Vec<String>,
    /// What was left out, by reason, with how many.
    pub skipped: Vec<(String, usize)>,
}

impl Report {
    /// Whether everything kept its bound, and something was compared.
    pub fn passed(&self) -> bool {
        self.sections.iter().all(|s| s.failures.is_empty()) && self.sections.iter().any(|s| s.compared > 0)
    }
}

impl Section {
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            compared: 0,
            max_abs: 0.0,
            max_rel: 0.0,
            of_bound: 0.0,
            failures: Vec::new(),
            skipped: Vec::new(),
        }
    }

    /// The section, unless nothing belonged into it.
    pub(super) fn finish(self) -> Option<Self> {
        (self.compared > 0 || !self.skipped.is_empty()).then_some(self)
    }

    pub(super) fn skip(&mut self, reason: &str) {
        match self.skipped.iter_mut().find(|(r, _)| r == reason) {
            Some((_, n)) => *n += 1,
            None => self.skipped.push((reason.to_owned(), 1)),
        }
    }

    /// Records a difference against its bound. A NaN keeps no bound.
    pub(super) fn record(&mut self, name: &str, abs: f64, rel: f64, of_bound: f64) {
        self.compared += 1;
        self.max_abs = self.max_abs.max(abs);
        self.max_rel = self.max_rel.max(rel);
        self.of_bound = self.of_bound.max(of_bound);
        if of_bound.is_nan() || of_bound > 1.0 {
            self.failures
                .push(format!("{name}: differs by {abs:.3e} ({rel:.3e} relative), {of_bound:.2} times its bound"));
        }
    }

    /// Elementwise |got − want| ≤ atol + rtol · |want|.
    pub(super) fn close(&mut self, name: &str, got: &Tensor, want: &Tensor, rtol: f64, atol: f64) {
        if got.size() != want.size() {
            self.compared += 1;
            self.failures.push(format!("{name}: is {:?} instead of {:?}", got.size(), want.size()));
            return;
        }
        let (got, want) = (got.detach().to_kind(Kind::Double), want.to_kind(Kind::Double));
        let apart = (&got - &want).abs();
        let worst = |t: Tensor| t.max().double_value(&[]);
        let scale = worst(want.abs()).max(f64::MIN_POSITIVE);
        let abs = worst(apart.shallow_clone());
        let of_bound = worst(apart / (want.abs() * rtol + atol));
        self.record(name, abs, abs / scale, of_bound);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.case)?;
        writeln!(f, "  {:<24} {:>8} {:>11} {:>11} {:>9}", "section", "compared", "max abs", "max rel", "of bound")?;
        for s in &self.sections {
            let verdict = if s.failures.is_empty() { "ok" } else { "FAILED" };
            writeln!(
                f,
                "  {:<24} {:>8} {:>11.3e} {:>11.3e} {:>9.3}  {verdict}",
                s.name, s.compared, s.max_abs, s.max_rel, s.of_bound
            )?;
            for (reason, n) in &s.skipped {
                writeln!(f, "      {n} left out: {reason}")?;
            }
            for failure in s.failures.iter().take(10) {
                writeln!(f, "      {failure}")?;
            }
            if s.failures.len() > 10 {
                writeln!(f, "      and {} more", s.failures.len() - 10)?;
            }
        }
        Ok(())
    }
}
