//! Which split a patient belongs to: a hash of seed and patient, so that it stays the same when images are added, and no
//! patient is in two splits.

use std::collections::BTreeSet;

use morph_spec::dataset::{Others, Split};

/// The split of each (patient, label), in order; none: left out. A patient with any image that is not healthy goes, with all
/// images, where [`Split::others`] says.
pub(super) fn of_patients<'a>(
    spec: &Split,
    samples: impl Iterator<Item = (&'a str, &'a str)> + Clone,
) -> Vec<Option<&'static str>> {
    let healthy = |label: &str| spec.healthy.iter().any(|h| h == label);
    let sick: BTreeSet<&str> =
        samples.clone().filter(|(_, label)| !healthy(label)).map(|(patient, _)| patient).collect();
    samples
        .map(|(patient, _)| match (sick.contains(patient), spec.others) {
            (true, Others::Test) => Some("test"),
            (true, Others::Drop) => None,
            (true, Others::Split) | (false, _) => Some(by_hash(spec, patient)),
        })
        .collect()
}

fn by_hash(spec: &Split, patient: &str) -> &'static str {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&spec.seed.to_le_bytes()).update(patient.as_bytes());
    let mut head = [0; 8];
    head.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    let at = (u64::from_le_bytes(head) >> 11) as f64 / (1u64 << 53) as f64;
    if at < spec.test {
        "test"
    } else if at < spec.test + spec.val {
        "val"
    } else {
        "train"
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_patient_is_in_two_splits(samples in proptest::collection::vec((0u8..40, any::<bool>()), 1..200), seed: u64) {
            let spec = Split { seed, ..Split::default() };
            let named: Vec<(String, &str)> =
                samples.iter().map(|(p, sick)| (p.to_string(), if *sick { "Lung Opacity" } else { "Normal" })).collect();
            let splits = of_patients(&spec, named.iter().map(|(p, l)| (p.as_str(), *l)));
            for ((p, _), split) in named.iter().zip(&splits) {
                for ((q, _), other) in named.iter().zip(&splits) {
                    prop_assert!(p != q || split == other);
                }
            }
            // Adding images of others moves nobody.
            let fewer = of_patients(&spec, named.iter().filter(|(p, _)| p != "0").map(|(p, l)| (p.as_str(), *l)));
            let kept: Vec<_> = named.iter().zip(&splits).filter(|((p, _), _)| p != "0").map(|(_, s)| *s).collect();
            prop_assert_eq!(fewer, kept);
        }
    }

    #[test]
    fn shares_are_about_as_asked_and_the_sick_are_never_trained_on() {
        let spec = Split::default();
        let names: Vec<String> = (0..5000).map(|i| format!("p{i}")).collect();
        let splits = of_patients(&spec, names.iter().map(|n| (n.as_str(), "Normal")));
        let share = |name| splits.iter().filter(|s| **s == Some(name)).count() as f64 / 5000.0;
        assert!((share("test") - 0.1).abs() < 0.02 && (share("val") - 0.1).abs() < 0.02);
        let mixed = of_patients(&spec, [("a", "Normal"), ("a", "Lung Opacity")].into_iter());
        assert_eq!(mixed, [Some("test"); 2], "a patient's healthy image follows the sick one");
    }
}
