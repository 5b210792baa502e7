//! How often test sets were used, for people and programs.

use morph_proto::v1;
use serde::Serialize;

/// How a test set was used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Use {
    /// The dataset's name; its URL where no run was trained on it.
    pub dataset: String,
    /// BLAKE3 of its manifest; empty where no run was trained on it.
    pub digest: String,
    /// The split.
    pub split: String,
    /// Runs that have scores on it.
    pub scored: u32,
    /// Evaluations of checkpoints by hand.
    pub rescored: u32,
    /// Sweeps that compare runs by a score on it.
    pub choices: Vec<Choice>,
}

/// A sweep that chooses by a test score.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Choice {
    /// Its name; empty when it is of a project that is not the caller's.
    pub sweep: String,
    /// The score.
    pub metric: String,
    /// Runs that it has compared.
    pub runs: u32,
}

impl Use {
    /// From the wire.
    pub fn new(test: &v1::TestSet) -> Self {
        let choice = |c: &v1::Choice| Choice { sweep: c.name.clone(), metric: c.metric.clone(), runs: c.runs };
        Self {
            dataset: if test.name.is_empty() { test.url.clone() } else { test.name.clone() },
            digest: test.dataset.clone(),
            split: test.split.clone(),
            scored: test.scored,
            rescored: test.rescored,
            choices: test.choices.iter().map(choice).collect(),
        }
    }

    /// What it is: dataset and split.
    pub fn name(&self) -> String {
        let digest: String = self.digest.chars().take(12).collect();
        let manifest = if digest.is_empty() { String::new() } else { format!(", manifest {digest}") };
        format!("{} ({}{manifest})", self.dataset, self.split)
    }

    /// How often it was used, in words.
    pub fn text(&self) -> String {
        let scored = plural(self.scored, "run was", "runs were");
        let by_hand = plural(self.rescored, "evaluation", "evaluations");
        let by_hand = if self.rescored > 0 { format!(", with {by_hand} by hand besides") } else { String::new() };
        let choices = self.choices.len() as u32;
        if choices == 0 {
            return format!("{scored} scored on it{by_hand}, none was chosen by it");
        }
        let among: u32 = self.choices.iter().map(|c| c.runs).sum();
        format!(
            "{scored} scored on it{by_hand}, {} chose by it, among {among} runs",
            plural(choices, "sweep", "sweeps")
        )
    }

    /// The warning, where it chose.
    pub fn warning(&self) -> Option<String> {
        let named: Vec<String> = self
            .choices
            .iter()
            .map(|c| {
                if c.sweep.is_empty() {
                    format!("a sweep of another project among {} runs", c.runs)
                } else {
                    format!("{} by {} among {} runs", c.sweep, c.metric, c.runs)
                }
            })
            .collect();
        let what = format!("the {} set of {} was used to choose ({})", self.split, self.dataset, named.join("; "));
        (!named.is_empty()).then(|| format!("{what}: its numbers flatter what was chosen"))
    }
}

fn plural(n: u32, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_that_chose_is_warned_of() {
        let choice = |name: &str, runs| v1::Choice {
            sweep: String::new(),
            name: name.into(),
            metric: if name.is_empty() { String::new() } else { "opacity/auroc".into() },
            runs,
        };
        let mut test = v1::TestSet {
            dataset: "0123456789abcdef".into(),
            name: "rsna".into(),
            split: "test".into(),
            scored: 1,
            ..v1::TestSet::default()
        };
        let quiet = Use::new(&test);
        assert_eq!((quiet.warning(), quiet.text().as_str()), (None, "1 run was scored on it, none was chosen by it"));
        assert_eq!(quiet.name(), "rsna (test, manifest 0123456789ab)");
        test.rescored = 1;
        let looked = Use::new(&test).text();
        assert_eq!(looked, "1 run was scored on it, with 1 evaluation by hand besides, none was chosen by it");
        (test.scored, test.rescored) = (9, 0);
        test.choices = vec![choice("demo", 4), choice("", 2)];
        let told = Use::new(&test);
        assert_eq!(told.text(), "9 runs were scored on it, 2 sweeps chose by it, among 6 runs");
        let warning = told.warning().unwrap();
        assert!(warning.contains("demo by opacity/auroc among 4 runs; a sweep of another project"), "{warning}");
    }
}
