//! `downstream_tasks`: what is compared with what.

use super::{Import, Lines, Section, plain_name};

/// What the published code's sets hold, by our labels.
const LABELS: [(&str, &str); 3] = [("pneumonia", "Lung Opacity"), ("opacity", "Lung Opacity"), ("covid", "COVID")];
/// The published code takes a set for healthy when its name has this in it.
const NORMAL: &str = "Normal";

impl Import {
    pub(super) fn evaluation(&mut self, mut tasks: Section) -> Lines {
        let mut pathology: Vec<(String, String)> = Vec::new();
        let mut healthy = false;
        for name in tasks.keys() {
            let mut task = self.section(&mut tasks, &name);
            task.drop(&["module_name", "checkpoint_path"]);
            self.only(&mut task, "class_name", "PDownstreamEvaluator", "sets are scored by");
            for key in ["compute_fid", "compute_scores"] {
                let path = task.path_of(key);
                if task.get(key).is_some() {
                    let (at, _) = self.flag(&mut task, key, false);
                    self.note(at, &path, "the code does not look at it here; all scores are computed");
                }
            }
            let mut loader = self.section(&mut task, "data_loader");
            self.class(&mut loader, "DefaultDataLoader");
            let mut params = self.section(&mut loader, "params");
            let mut args = self.section(&mut params, "args");
            self.side(&mut args, "target_size");
            if let Some((at, n)) = self.int_at(&mut args, "batch_size") {
                let text = format!("{n} image(s) at a time; scores here do not depend on it");
                self.note(at, &args.path_of("batch_size"), text);
            }
            let mut module = self.section(&mut args, "dataset_module");
            self.class(&mut module, "CXRDataset");
            let mut sets = self.section(&mut loader, "datasets");
            for set in sets.keys() {
                let at = sets.at(&set);
                let path = sets.path_of(&set);
                let mut content = self.section(&mut sets, &set);
                if set.contains(NORMAL) {
                    let text = match healthy {
                        false => "the healthy set: evaluation.healthy, label Normal",
                        true => {
                            "a second healthy set: one experiment has one; evaluate the run on the other dataset, too"
                        }
                    };
                    self.files(&mut content, text);
                    healthy = true;
                } else {
                    let word = set.to_lowercase();
                    let label = LABELS.iter().find(|(k, _)| word.contains(k)).map(|(_, label)| *label);
                    let text = match label {
                        Some(label) => format!("its images' label in the dataset must be {label:?}"),
                        None => format!("its images' label in the dataset must be {set:?}"),
                    };
                    if content.get("data_dir").is_some() {
                        self.files(&mut content, &text);
                    } else {
                        self.note(at, &path, text);
                    }
                    pathology.push((word, label.unwrap_or(&set).to_owned()));
                }
                self.leftovers(content);
            }
            for rest in [module, args, params, sets, loader, task] {
                self.leftovers(rest);
            }
        }
        self.leftovers(tasks);
        let mut lines = Lines::default();
        lines.put("healthy: {split: test, labels: [Normal]}");
        let mut named: Vec<String> = Vec::new();
        for (word, label) in pathology {
            let mut name = plain_name(&word).trim_matches('"').to_owned();
            while named.contains(&name) || ["healthy", "perf", "train", "val"].contains(&name.as_str()) {
                name.push('_');
            }
            if named.is_empty() {
                lines.put("pathology:");
            }
            lines.put(format!("  {name}: {{split: test, labels: [{}]}}", super::quoted(&label)));
            named.push(name);
        }
        if named.is_empty() {
            lines.comment("pathology: {}", "the file compares with nothing");
        }
        lines
    }
}
