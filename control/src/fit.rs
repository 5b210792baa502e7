//! Whether an experiment and a dataset fit together: said at submission, not after minutes of waiting for slots.

use morph_spec::{Experiment, dataset::Preprocess, experiment::Subset};

use crate::Dataset;

/// Whether `experiment` can be trained on `dataset`.
///
/// # Errors
/// One line per problem, each naming the field and what the dataset has.
pub fn fits(experiment: &Experiment, dataset: &Dataset) -> Result<(), String> {
    let mut problems = Vec::new();
    let [height, width] = dataset.manifest.image_size;
    let size = experiment.model.image_size;
    if [size, size] != [height, width] {
        problems.push(format!(
            "model.image_size is {size}, but the images of {} are {height}x{width}: prepare the data with preprocess.size {size} or change the model",
            dataset.url
        ));
    }
    if let Some(wanted) = &experiment.dataset.preprocess {
        problems.extend(otherwise(wanted, dataset));
    }
    let train = samples(dataset, "dataset.train", &experiment.dataset.train, &mut problems);
    samples(dataset, "dataset.validation", &experiment.dataset.validation, &mut problems);
    samples(dataset, "evaluation.healthy", &experiment.evaluation.healthy, &mut problems);
    for (name, subset) in &experiment.evaluation.pathology {
        samples(dataset, &format!("evaluation.pathology.{name}"), subset, &mut problems);
    }
    for (name, comparison) in experiment.evaluation.comparisons.iter().filter(|(_, c)| c.dataset.is_none()) {
        for (side, part) in [("healthy", &comparison.healthy), ("pathology", &comparison.pathology)] {
            if part.dataset.is_none() {
                let field = format!("evaluation.comparisons.{name}.{side}");
                samples(dataset, &field, &part.subset(), &mut problems);
            }
        }
    }
    let trainer = &experiment.trainer;
    if trainer.world_size == 0 || trainer.batch_size < trainer.world_size {
        problems.push(format!(
            "trainer.batch_size {} gives not every one of trainer.world_size {} ranks an image",
            trainer.batch_size, trainer.world_size
        ));
    }
    if trainer.drop_last && train > 0 && train < u64::from(trainer.batch_size) {
        problems.push(format!(
            "trainer.batch_size {} with drop_last leaves no batch of the {train} training samples: lower it or set drop_last: false",
            trainer.batch_size
        ));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

/// Fields in which the images of `dataset` were made otherwise than `wanted`, one line each.
fn otherwise(wanted: &Preprocess, dataset: &Dataset) -> Vec<String> {
    let line = |(name, wanted, made): (String, String, String)| {
        format!(
            "dataset.preprocess.{name} is {}, but {} was prepared with {}: prepare it again, or leave the field out",
            wanted, dataset.url, made
        )
    };
    wanted.differences(&dataset.manifest.preprocess).into_iter().map(line).collect()
}

/// Samples of `subset`; none is a problem.
fn samples(dataset: &Dataset, field: &str, subset: &Subset, problems: &mut Vec<String>) -> u64 {
    let counts = &dataset.manifest.counts;
    let Some(labels) = counts.get(&subset.split) else {
        let known: Vec<&str> = counts.keys().map(String::as_str).collect();
        problems.push(format!(
            "{field}: {} has no split {:?}, it has: {}",
            dataset.url,
            subset.split,
            known.join(", ")
        ));
        return 0;
    };
    let wanted = |label: &String| subset.labels.is_empty() || subset.labels.contains(label);
    let found = labels.iter().filter(|(l, _)| wanted(l)).fold(0, |sum: u64, (_, n)| sum.saturating_add(*n));
    if found == 0 {
        let has: Vec<String> = labels.iter().map(|(label, n)| format!("{label} ({n})")).collect();
        problems.push(format!(
            "{field}: split {:?} of {} has no sample labelled {}; it has: {}",
            subset.split,
            dataset.url,
            if subset.labels.is_empty() { "anything".into() } else { subset.labels.join(" or ") },
            if has.is_empty() { "none".into() } else { has.join(", ") },
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use morph_spec::{
        Digest, Manifest, Timestamp,
        dataset::Resize,
        manifest::{PatientIds, VERSION},
    };
    use serde_json::json;

    use super::*;

    #[test]
    fn images_that_were_made_otherwise_are_refused() {
        let preprocess = Preprocess { size: 32, ..Preprocess::default() };
        let counts = |n: u64| BTreeMap::from([("Normal".to_owned(), n), ("Lung Opacity".to_owned(), n)]);
        let manifest = Manifest {
            version: VERSION,
            name: "x".into(),
            preprocess: preprocess.clone(),
            fingerprint: Digest::of(b""),
            image_size: [32, 32],
            shards: Vec::new(),
            counts: ["train", "val", "test"].map(|split| (split.to_owned(), counts(9))).into(),
            patient_ids: PatientIds::Person,
            synthetic: false,
            skipped: BTreeMap::new(),
        };
        let (name, url, digest) = ("x".to_owned(), "there".to_owned(), Digest::of(b"m"));
        let dataset = Dataset { name, url, digest, manifest, at: Timestamp(0) };
        let mut experiment: Experiment = serde_json::from_value(json!({
            "kind": "experiment", "name": "t", "dataset": {"url": "there"},
            "model": {"method": "morphaeus", "image_size": 32, "channels": [4, 8, 8, 8]},
            "trainer": {"batch_size": 4},
        }))
        .unwrap();
        assert_eq!(fits(&experiment, &dataset), Ok(()), "any will do");
        experiment.dataset.preprocess = Some(preprocess.clone());
        assert_eq!(fits(&experiment, &dataset), Ok(()));
        experiment.dataset.preprocess = Some(Preprocess { size: 64, resize: Resize::TorchBilinear, ..preprocess });
        let why = fits(&experiment, &dataset).unwrap_err();
        assert!(why.contains("dataset.preprocess.size is 64, but there was prepared with 32"), "{why}");
        assert!(why.contains("dataset.preprocess.resize is \"torch-bilinear\""), "{why}");
    }
}
