//! Checks of a dataset.

use super::{Checks, FieldProblem};
use crate::dataset::{Dataset, Layout, Levels};

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
        self.check_source(&mut c);
        self.check_preprocess(&mut c);
        self.check_filter(&mut c);
        self.check_classes(&mut c);
        c.that(
            !self.privacy.hash_ids || !self.privacy.salt.is_empty(),
            "privacy.salt",
            "hashes without a key can be guessed: ids are short",
            "give it a secret, ${MORPH_SALT} for instance",
        );
        c.at_least(1, self.shard_samples.into(), "shard_samples");
        self.check_split(&mut c);
        c.done()
    }

    fn check_source(&self, c: &mut Checks) {
        let source = &self.source;
        let only = |c: &mut Checks, given: bool, field: &str, layout: Layout, name: &str| {
            c.that(!given || source.layout == layout, field, format!("only `layout: {name}` reads it"), "leave it out");
        };
        only(c, source.patient_map.is_some(), "source.patient_map", Layout::Rsna, "rsna");
        only(c, source.labels.is_some(), "source.labels", Layout::Padchest, "padchest");
        only(c, !source.tables.is_empty(), "source.tables", Layout::Csv, "csv");
        c.that(
            source.layout != Layout::Csv || !source.tables.is_empty(),
            "source.tables",
            "there is no table",
            "name at least one: `- {file: train.csv, label: Normal, split: train}`",
        );
        c.not_empty(&source.columns.file, "source.columns.file", "the column with the names of the files");
        for (i, table) in source.tables.iter().enumerate() {
            c.not_empty(&table.file, &format!("source.tables.{i}.file"), "the name of a CSV file");
            if let Some(split) = &table.split {
                c.split(split, &format!("source.tables.{i}.split"));
            }
        }
        if let Some(slice) = source.slice {
            c.at_most(2, slice.axis.into(), "source.slice.axis");
        }
    }

    fn check_preprocess(&self, c: &mut Checks) {
        let p = &self.preprocess;
        c.at_least(8, p.size.into(), "preprocess.size");
        c.at_most(4096, p.size.into(), "preprocess.size");
        c.that(
            p.window.is_some() == (p.levels == Levels::Window),
            "preprocess.window",
            "`levels: window` and `window` belong together",
            "give both, or neither",
        );
        if let Some(window) = p.window {
            c.that(window.center.is_finite(), "preprocess.window.center", "it is no number", "");
            c.positive(window.width, "preprocess.window.width");
        }
        let (low, high) = (p.percentile.low, p.percentile.high);
        c.that(
            0.0 <= low && low < high && high <= 100.0,
            "preprocess.percentile",
            format!("{low} and {high} are no shares of values"),
            "0 or more, 100 or less, the lower one first",
        );
        if let Some(clahe) = p.clahe {
            c.positive(clahe.clip, "preprocess.clahe.clip");
            c.at_least(1, clahe.tiles.into(), "preprocess.clahe.tiles");
            c.at_most((p.size / 2).into(), clahe.tiles.into(), "preprocess.clahe.tiles");
        }
    }

    fn check_filter(&self, c: &mut Checks) {
        let f = &self.filter;
        for (i, sex) in f.sex.iter().enumerate() {
            c.that(matches!(&**sex, "M" | "F"), &format!("filter.sex.{i}"), format!("{sex:?} is neither M nor F"), "");
        }
        c.that(
            f.min_age.unwrap_or(0) <= f.max_age.unwrap_or(u32::MAX),
            "filter.max_age",
            "nobody is older than min_age and younger than max_age",
            "",
        );
        c.that(
            f.without_origins.is_empty() || self.source.layout == Layout::Covid19Radiography,
            "filter.without_origins",
            "only `layout: covid19-radiography` knows where images come from",
            "leave it out",
        );
        for (i, origin) in f.without_origins.iter().enumerate() {
            c.not_empty(origin, &format!("filter.without_origins.{i}"), "an empty text is in every origin");
        }
        c.that(
            f.columns.is_empty() || matches!(self.source.layout, Layout::Padchest | Layout::Csv),
            "filter.columns",
            "only `layout: padchest` and `layout: csv` have tables of which any column may be asked for",
            "leave it out",
        );
        for (name, wanted) in &f.columns {
            c.that(
                !name.is_empty() && !wanted.is_empty(),
                "filter.columns",
                format!("column {name:?} has no values of which one would do"),
                "give a list, or leave it out",
            );
        }
    }

    fn check_classes(&self, c: &mut Checks) {
        for (i, class) in self.classes.iter().enumerate() {
            c.not_empty(&class.label, &format!("classes.{i}.label"), "the name of the class");
            c.that(
                class.exactly.is_empty() || (class.any.is_empty() && class.none.is_empty()),
                &format!("classes.{i}.exactly"),
                "all findings are given already",
                "leave out `any` and `none`",
            );
        }
        let named = |label: &String| self.classes.iter().any(|class| class.label == *label);
        c.that(
            self.classes.is_empty() || self.split.healthy.iter().any(named),
            "classes",
            "no healthy label is among them: nothing could be trained on",
            &format!("add one of split.healthy: {}", self.split.healthy.join(", ")),
        );
        c.that(
            self.classes.is_empty() || self.labels.is_empty(),
            "labels",
            "`classes` names the labels already",
            "leave one of them out",
        );
    }

    fn check_split(&self, c: &mut Checks) {
        let split = &self.split;
        c.that(
            (0.0..1.0).contains(&split.val),
            "split.val",
            format!("{} must be 0 or more and below 1", split.val),
            "",
        );
        c.that((0.0..=1.0).contains(&split.test), "split.test", format!("{} must be from 0 to 1", split.test), "");
        c.that(
            split.val + split.test < 1.0 || split.tests_only(),
            "split.test",
            format!("split.val {} and split.test {} leave nothing to train on", split.val, split.test),
            "together they must be below 1; 1 for `test` and 0 for `val` make a dataset that is for tests only",
        );
        c.that(
            !split.healthy.is_empty() || split.tests_only(),
            "split.healthy",
            "no label is healthy: nothing could be trained on",
            "a dataset for tests only says `val: 0` and `test: 1`",
        );
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
            self.only_labels.is_empty() || split.tests_only() || split.healthy.iter().any(kept),
            "only_labels",
            "no healthy label is among them: nothing could be trained on",
            &format!("add one of split.healthy: {}", split.healthy.join(", ")),
        );
    }
}
