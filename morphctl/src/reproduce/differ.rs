//! Where two records of training part.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

/// Step and name → value.
pub type Metrics = BTreeMap<(u64, String), f64>;

/// The first value that is not the same to the bit.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// Its step.
    pub step: u64,
    /// Its name.
    pub name: String,
    /// As recorded; `None` where there was none.
    pub then: Option<f64>,
    /// As it is now.
    pub now: Option<f64>,
    /// How many values differ.
    pub differing: usize,
    /// Of how many.
    pub compared: usize,
}

/// The first difference of the two, by step and then by name; `None` when there is none.
pub fn first(then: &Metrics, now: &Metrics) -> Option<Difference> {
    let all: BTreeSet<&(u64, String)> = then.keys().chain(now.keys()).collect();
    let bits = |m: &Metrics, key| m.get(key).map(|v| v.to_bits());
    let mut differing = all.iter().filter(|key| bits(then, **key) != bits(now, **key));
    let (step, name) = differing.next()?;
    let key = (*step, name.clone());
    Some(Difference {
        step: *step,
        name: name.clone(),
        then: then.get(&key).copied(),
        now: now.get(&key).copied(),
        differing: differing.count() + 1,
        compared: all.len(),
    })
}

impl Difference {
    /// In words, but for the step.
    pub fn text(&self) -> String {
        let Self { name, then, now, .. } = self;
        match (then, now) {
            (Some(then), Some(now)) => {
                format!("{name} was {then:?} and is {now:?} (by {:e})", (now - then).abs())
            }
            (Some(then), None) => format!("{name} was {then:?} and is missing"),
            (None, Some(now)) => format!("{name} was not recorded and is {now:?}"),
            (None, None) => name.clone(),
        }
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "step": self.step,
            "metric": self.name,
            "then": self.then,
            "now": self.now,
            "by": self.then.zip(self.now).map(|(then, now)| (now - then).abs()),
            "differing": self.differing,
            "compared": self.compared,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(points: &[(u64, &str, f64)]) -> Metrics {
        points.iter().map(|(step, name, value)| ((*step, (*name).to_owned()), *value)).collect()
    }

    #[test]
    fn the_first_difference_is_the_one_of_the_lowest_step() {
        let then = metrics(&[(1, "train/loss", 0.5), (2, "train/loss", 0.25), (10, "train/loss", 0.1)]);
        assert_eq!(first(&then, &then.clone()), None);
        let mut now = then.clone();
        now.insert((10, "train/loss".into()), 0.2);
        now.insert((2, "train/loss".into()), 0.25 + f64::EPSILON / 4.0);
        let d = first(&then, &now).unwrap();
        assert_eq!((d.step, d.differing, d.compared), (2, 2, 3), "10 comes after 2, and the last bit counts");
        assert!(d.text().contains("train/loss was 0.25") && d.text().contains("e-17"), "{}", d.text());
        now = metrics(&[(1, "train/loss", 0.5), (2, "train/loss", 0.25)]);
        let d = first(&then, &now).unwrap();
        assert_eq!((d.step, d.now), (10, None));
        assert!(d.text().contains("is missing"));
        assert_eq!(first(&now, &then).unwrap().then, None);
        assert_eq!(first(&metrics(&[(0, "a", 0.0)]), &metrics(&[(0, "a", -0.0)])).unwrap().differing, 1);
    }
}
