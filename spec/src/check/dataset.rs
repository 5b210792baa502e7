//! Checks of a dataset.

use super::{Checks, FieldProblem};
use crate::dataset::{Dataset, Layout};

impl Dataset {
    /// Looks at bounds, and at fields that must agree with each other.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn validate(&self) -> Result<(), Vec<FieldProblem>> {
        let mut c = Checks::default();
        c.name(&self.name, "name");
        c.not_empty(&self.source.root, "source.root", "the folder with the raw files");
        c.not_empty(&self.output, "output", "where shards and manifest go: a path or a URL");
        c.that(
            self.output.trim() != self.source.root.trim(),
            "output",
            "the prepared dataset would lie among the raw files",
            "give it a folder of its own",
        );
        c.that(
            self.source.patient_map.is_none() || self.source.layout == Layout::Rsna,
            "source.patient_map",
            "only `layout: rsna` reads a patient map",
            "leave it out",
        );
        c.at_least(8, self.preprocess.size.into(), "preprocess.size");
        c.at_most(4096, self.preprocess.size.into(), "preprocess.size");
        c.at_least(1, self.shard_samples.into(), "shard_samples");
        self.check_split(&mut c);
        c.done()
    }

    fn check_split(&self, c: &mut Checks) {
        let split = &self.split;
        for (share, field) in [(split.val, "split.val"), (split.test, "split.test")] {
            c.that((0.0..1.0).contains(&share), field, format!("{share} must be 0 or more and below 1"), "");
        }
        c.that(
            split.val + split.test < 1.0,
            "split.test",
            format!("split.val {} and split.test {} leave nothing to train on", split.val, split.test),
            "together they must be below 1",
        );
        c.that(!split.healthy.is_empty(), "split.healthy", "no label is healthy: nothing could be trained on", "");
        for (i, label) in split.healthy.iter().enumerate() {
            let gone = self.labels.get(label).filter(|new| *new != label && !self.labels.values().any(|v| v == label));
            if let Some(new) = gone {
                c.problem(
                    format!("split.healthy.{i}"),
                    format!("`labels` renames {label:?} to {new:?}"),
                    format!("name labels as they are afterwards: {new:?}"),
                );
            }
        }
        let kept = |label: &String| self.only_labels.contains(label);
        c.that(
            self.only_labels.is_empty() || split.healthy.iter().any(kept),
            "only_labels",
            "no healthy label is among them: nothing could be trained on",
            &format!("add one of split.healthy: {}", split.healthy.join(", ")),
        );
    }
}
