//! Whether test images had a part in training. Looked at before training, so that nobody trains for days to be refused.

use std::collections::{BTreeSet, HashMap};

use morph_data::{
    Samples,
    duplicates::{Known, Same},
};
use morph_scores::evaluation::{Leakage, Shared};
use morph_spec::{Experiment, experiment};

use crate::rank::{
    failure::Failure,
    images::{TestSamples, TestSets},
};

/// How many examples an evaluation lists.
const EXAMPLES: usize = 20;
/// How many a refusal names.
const NAMED: usize = 3;
/// Characters of an id that cannot be two persons' by chance: UIDs, UUIDs, hashes, PadChest's numbers. Shorter ones are counted within one
/// source only.
const UNMISTAKABLE: usize = 12;

/// What the test sets share with what was trained and validated on, and whether that is allowed.
pub fn look(experiment: &Experiment, train: &Samples, validation: &Samples, test: &TestSets) -> Leakage {
    let own = &test.datasets[0];
    let mut found = Leakage {
        persons_known: own.persons_known,
        allowed: experiment.evaluation.leakage == experiment::Leakage::Allow,
        ..Leakage::default()
    };
    for (split, known) in [("train", train), ("val", validation)] {
        let images = Known::new(known);
        let persons = own.persons_known.then(|| persons(known));
        if split == "train" {
            let alike = images.find(validation).into_iter().map(|d| d.image);
            let is_trained_on =
                |i: &usize| persons.as_ref().is_some_and(|p| p.contains_key(&validation.meta(*i).patient));
            found.validation = (0..validation.len()).filter(is_trained_on).chain(alike).collect::<BTreeSet<_>>().len();
        }
        // Healthy validation images may well be those that calibrate; images that were trained on may not.
        for set in test.sets.iter().filter(|set| split == "train" || !test.calibrates(set)) {
            let other = &test.datasets[set.dataset];
            if let Some(persons) = persons.as_ref().filter(|_| other.persons_known) {
                shared_persons(&mut found, split, persons, known, set, other.name == own.name);
            }
            for d in images.find(&set.samples) {
                let how = match d.same {
                    Same::File => "the same file".to_owned(),
                    Same::Pixels => "the same pixels".to_owned(),
                    Same::Nearly(correlation) => format!("nearly the same image (correlation {correlation:.3})"),
                };
                found.images += 1;
                example(&mut found, set, d.image, split, known, d.known, how);
            }
        }
    }
    found
}

/// The first image of each person.
fn persons(samples: &Samples) -> HashMap<String, usize> {
    (0..samples.len()).rev().map(|i| (samples.meta(i).patient, i)).collect()
}

/// Images of `set` whose person is one of `persons`. A dataset keeps its name however often it is prepared, unless somebody gives it another:
/// then only ids that cannot be two persons' say that it is the same one.
fn shared_persons(
    found: &mut Leakage,
    split: &str,
    persons: &HashMap<String, usize>,
    known: &Samples,
    set: &TestSamples,
    one_name: bool,
) {
    for i in 0..set.samples.len() {
        let patient = set.samples.meta(i).patient;
        let Some(other) = persons.get(&patient) else { continue };
        if one_name || patient.chars().count() >= UNMISTAKABLE {
            found.persons += 1;
            example(found, set, i, split, known, *other, format!("the same person ({patient})"));
        } else {
            found.namesakes += 1;
        }
    }
}

fn example(
    found: &mut Leakage,
    set: &TestSamples,
    image: usize,
    split: &str,
    known: &Samples,
    other: usize,
    how: String,
) {
    if found.examples.len() < EXAMPLES {
        let (case, other) = (set.samples.meta(image).id, known.meta(other).id);
        found.examples.push(Shared { set: set.name.clone(), case, split: split.to_owned(), other, how });
    }
}

/// Refuses what leaks, unless that is allowed; then it is said loudly.
///
/// # Errors
/// [`Failure::Refused`], with examples and the ways out.
pub fn refuse(found: &Leakage) -> Result<(), Failure> {
    if found.persons + found.images == 0 {
        if found.namesakes + found.validation > 0 {
            tracing::warn!("{}", found.text());
        }
        return Ok(());
    }
    if found.allowed {
        tracing::warn!("{}", found.text());
        return Ok(());
    }
    let example =
        |s: &Shared| format!("{} of set {:?} and {} of split {:?}: {}", s.case, s.set, s.other, s.split, s.how);
    let examples: Vec<String> = found.examples.iter().take(NAMED).map(example).collect();
    let more = if found.persons + found.images > NAMED { "; …" } else { "" };
    Err(Failure::Refused(format!(
        "test images had a part in training: {} by their person, {} by their pixels ({}{more}). A score on them says nothing. \
         Split the dataset by person or leave these images out, or say evaluation.leakage: allow (morphctl evaluate: \
         --allow-leakage), which the evaluation records",
        found.persons,
        found.images,
        examples.join("; ")
    )))
}
