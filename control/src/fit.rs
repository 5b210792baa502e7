//! Whether an experiment and a dataset fit together: said at submission, not after minutes of waiting for slots.

use morph_spec::{Experiment, experiment::Subset};

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
