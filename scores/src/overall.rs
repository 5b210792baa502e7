//! The mean of a number over several comparisons, with the interval of that mean.
//!
//! Comparisons may share images, as two pathologies against one healthy set do. A set of one name is drawn once in each resample,
//! for all comparisons that it is part of, so that the interval knows how far they rise and fall together.

use crate::{
    Detection, Difference, Error, Estimate, Plan,
    bootstrap::{Places, Stratum, paired},
    checked,
};

const WHAT: &str = "bootstrap over comparisons";

/// One of several comparisons of a method, which may have been trained several times.
#[derive(Debug, Clone)]
pub struct Part<'a> {
    /// Names of the healthy and the pathological set. Equal names: the same cases in the same order.
    pub sets: [&'a str; 2],
    /// `[healthy, pathology]` scores of each time, on the same cases in the same order.
    pub times: Vec<[&'a [f64]; 2]>,
    /// The person of each case, where persons are known.
    pub patients: Option<[&'a [u64]; 2]>,
}

/// The sets of all comparisons, each once.
#[derive(Default)]
struct Sets<'a> {
    all: Vec<(&'a str, Stratum)>,
    /// How often each case of each set was drawn last.
    times: Vec<Vec<u64>>,
}

impl<'a> Sets<'a> {
    /// Where the set is.
    fn place(&mut self, name: &'a str, cases: usize, patients: Option<&[u64]>) -> Result<usize, Error> {
        let stratum = Stratum::new(cases, patients)?;
        let Some(at) = self.all.iter().position(|(known, _)| *known == name) else {
            self.all.push((name, stratum));
            self.times.push(Vec::new());
            return Ok(self.all.len() - 1);
        };
        let known = &mut self.all[at].1;
        if known.cases != cases {
            let why = format!("set {name:?} has {} cases in one comparison and {cases} in another", known.cases);
            return Err(Error::Shape { what: WHAT, why });
        }
        // Persons may be known beside one pathology and not beside the other.
        if known.groups.is_none() {
            *known = stratum;
        }
        Ok(at)
    }

    fn draw(&mut self, plan: Plan, resample: u32) {
        let mut rng = plan.rng(resample);
        self.all.iter().zip(&mut self.times).for_each(|((_, stratum), times)| stratum.draw(&mut rng, times));
    }
}

/// A method's mean detection over several comparisons, in the sample and in each resample.
#[derive(Debug, Clone, PartialEq)]
pub struct Resampled {
    values: [f64; 6],
    all: Vec<[f64; 6]>,
    plan: Plan,
    /// The sets that were drawn, with their cases.
    sets: Vec<(String, usize)>,
}

impl Resampled {
    /// The mean with its interval.
    pub fn detection(&self) -> Detection<Estimate> {
        let of = |k: usize| self.all.iter().map(|r| r[k]).collect();
        let estimate = |k| Estimate::percentile(self.values[k], of(k), self.plan.level);
        Detection::from_array(std::array::from_fn(estimate))
    }

    /// How much more this method detects than the `other` one in the mean: both were computed on the same resamples.
    ///
    /// # Errors
    /// When they were not: the comparisons or the plans differ.
    pub fn minus(&self, other: &Self) -> Result<Detection<Difference>, Error> {
        if (self.plan, &self.sets) != (other.plan, &other.sets) {
            let why = "the methods have not scored the same sets, or by other resamples".to_owned();
            return Err(Error::Shape { what: WHAT, why });
        }
        let of = |k: usize| self.all.iter().zip(&other.all).map(|(a, b)| a[k] - b[k]).collect();
        let difference = |k| Difference::of(self.values[k], other.values[k], of(k), self.plan.level);
        Ok(Detection::from_array(std::array::from_fn(difference)))
    }
}

/// The mean over `parts` of a method's detection, itself the mean over the times that it was trained. Of one part it is what
/// [`crate::bootstrap_repeats`] finds. The same plan draws the same cases of the same sets, whatever they were scored by.
///
/// # Errors
/// When there is no part or no time, a set is empty or has two sizes, a score is not finite, or the plan or the patients do not
/// fit.
pub fn resample_over(parts: &[Part<'_>], plan: Plan) -> Result<Resampled, Error> {
    let plan = plan.checked()?;
    let mut sets = Sets::default();
    let mut all: Vec<([usize; 2], Vec<Places>)> = Vec::new();
    let mut values = [0.0; 6];
    let add = |sum: &mut [f64; 6], next: [f64; 6], n: usize| {
        sum.iter_mut().zip(next).for_each(|(sum, next)| *sum += next / (n * parts.len()) as f64);
    };
    for part in parts {
        let [first, others @ ..] = part.times.as_slice() else {
            return Err(Error::Empty { what: WHAT, set: "trained networks" });
        };
        others.iter().try_for_each(|other| paired(WHAT, *first, *other))?;
        let healthy = sets.place(part.sets[0], first[0].len(), part.patients.map(|p| p[0]))?;
        let pathology = sets.place(part.sets[1], first[1].len(), part.patients.map(|p| p[1]))?;
        let mut times = Vec::new();
        for [healthy, pathology] in &part.times {
            let (places, found) = Places::new(healthy, pathology)?;
            add(&mut values, found, part.times.len());
            times.push(places);
        }
        all.push(([healthy, pathology], times));
    }
    if all.is_empty() {
        return Err(Error::Empty { what: WHAT, set: "comparisons" });
    }
    let mut resampled = Vec::new();
    for i in 0..plan.resamples {
        sets.draw(plan, i);
        let mut sum = [0.0; 6];
        for ([healthy, pathology], times) in &mut all {
            let n = times.len();
            for places in times {
                add(&mut sum, places.resample(&sets.times[*healthy], &sets.times[*pathology]), n);
            }
        }
        resampled.push(sum);
    }
    let sets = sets.all.iter().map(|(name, stratum)| ((*name).to_owned(), stratum.cases)).collect();
    Ok(Resampled { values, all: resampled, plan, sets })
}

/// What each case of a set has by itself.
#[derive(Debug, Clone, Copy)]
pub struct Values<'a> {
    /// The set's name. Equal names: the same cases in the same order.
    pub set: &'a str,
    /// A number of each case.
    pub values: &'a [f64],
    /// The person of each case, where persons are known.
    pub patients: Option<&'a [u64]>,
}

/// The mean of the means of several sets, as of their SSIM.
///
/// # Errors
/// As [`resample_over`].
pub fn bootstrap_mean_over(parts: &[Values<'_>], plan: Plan) -> Result<Estimate, Error> {
    let plan = plan.checked()?;
    let mut sets = Sets::default();
    let mut places = Vec::new();
    for part in parts {
        checked(WHAT, "values", part.values)?;
        places.push(sets.place(part.set, part.values.len(), part.patients)?);
    }
    if parts.is_empty() {
        return Err(Error::Empty { what: WHAT, set: "comparisons" });
    }
    let n = parts.len() as f64;
    let alone = |part: &Values<'_>| part.values.iter().sum::<f64>() / part.values.len() as f64;
    let value = parts.iter().map(alone).sum::<f64>() / n;
    let mut mean = |i: u32| {
        sets.draw(plan, i);
        let of = |(part, at): (&Values<'_>, &usize)| {
            let times = &sets.times[*at];
            let drawn: u64 = times.iter().sum();
            part.values.iter().zip(times).map(|(v, n)| v * *n as f64).sum::<f64>() / drawn as f64
        };
        parts.iter().zip(&places).map(of).sum::<f64>() / n
    };
    let resampled = (0..plan.resamples).map(&mut mean).collect();
    Ok(Estimate::percentile(value, resampled, plan.level))
}

#[cfg(test)]
mod tests {
    use morph_spec::Rng;

    use super::*;
    use crate::{bootstrap_mean, bootstrap_repeats};

    fn sample(n: u64, shift: f64, seed: u64) -> Vec<f64> {
        let mut rng = Rng::keyed(seed, "test", 0);
        (0..n).map(|_| rng.uniform() + shift).collect()
    }

    fn bootstrap_over(parts: &[Part<'_>], plan: Plan) -> Result<Detection<Estimate>, Error> {
        resample_over(parts, plan).map(|resampled| resampled.detection())
    }

    const PLAN: Plan = Plan { resamples: 400, level: 0.95, seed: 3 };

    #[test]
    fn of_one_comparison_it_is_that_comparison() {
        let (healthy, sick, again) = (sample(60, 0.0, 1), sample(40, 0.3, 2), sample(40, 0.5, 3));
        let persons: Vec<u64> = (0..60).map(|i| i / 2).collect();
        let patients = Some([persons.as_slice(), &persons[..40]]);
        let times = vec![[healthy.as_slice(), sick.as_slice()], [healthy.as_slice(), again.as_slice()]];
        let part = Part { sets: ["healthy", "sick"], times: times.clone(), patients };
        let (over, alone) =
            (bootstrap_over(&[part], PLAN).unwrap(), bootstrap_repeats(&times, patients, PLAN).unwrap());
        for (a, b) in [(over.auroc, alone.auroc), (over.fpr_at_95_tpr, alone.fpr_at_95_tpr)] {
            assert!((a.value - b.value).abs() < 1e-12 && (a.low - b.low).abs() < 1e-12, "{a:?}, {b:?}");
            assert!((a.high - b.high).abs() < 1e-12, "{a:?}, {b:?}");
        }
        let mean = bootstrap_mean_over(&[Values { set: "healthy", values: &healthy, patients: Some(&persons) }], PLAN)
            .unwrap();
        assert_eq!(mean, bootstrap_mean(&healthy, Some(&persons), PLAN).unwrap());
    }

    #[test]
    fn what_is_shared_is_drawn_once() {
        let (healthy, other, sick) = (sample(60, 0.0, 1), sample(60, 0.0, 4), sample(60, 0.2, 2));
        let part = |name: &'static str, healthy: &'static [f64]| Part {
            sets: [name, "sick"],
            times: vec![[healthy, &*sick.clone().leak()]],
            patients: None,
        };
        let (healthy, other): (&[f64], &[f64]) = (healthy.leak(), other.leak());
        let width = |parts: &[Part<'_>]| {
            let e = bootstrap_over(parts, PLAN).unwrap().auroc;
            e.high - e.low
        };
        let one = width(&[part("healthy", healthy)]);
        // Twice the same is no more evidence than once.
        assert!((width(&[part("healthy", healthy), part("healthy", healthy)]) - one).abs() < 1e-12);
        // Other healthy images are.
        assert!(width(&[part("healthy", healthy), part("other", other)]) < 0.97 * one);
        let of = |parts: &[Part<'_>]| bootstrap_over(parts, PLAN).unwrap().auroc.value;
        let both = of(&[part("healthy", healthy), part("other", other)]);
        assert!((both - (of(&[part("healthy", healthy)]) + of(&[part("other", other)])) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn two_methods_differ_by_what_they_differ_on_the_same_cases() {
        let [healthy, better] = [1, 2].map(|seed| sample(60, 0.0, seed));
        let sick = [sample(50, 0.1, 3), sample(40, 0.2, 4)];
        let part = |at: usize, healthy: &[f64], shift: f64| {
            let sick = sick[at].iter().map(|v| v + shift).collect::<Vec<f64>>();
            let names: [&str; 2] = [["healthy", "covid"], ["healthy", "opacity"]][at];
            Part { sets: names, times: vec![[healthy.to_vec().leak(), sick.leak()]], patients: None }
        };
        let method = |healthy: &[f64], shift: f64| {
            resample_over(&[part(0, healthy, shift), part(1, healthy, shift)], PLAN).unwrap()
        };
        let (plain, same, much) = (method(&healthy, 0.0), method(&healthy, 0.0), method(&better, 0.6));
        let none = plain.minus(&same).unwrap().auroc;
        assert_eq!((none.estimate.value, none.estimate.low, none.estimate.high, none.p), (0.0, 0.0, 0.0, 1.0));
        let found = much.minus(&plain).unwrap().auroc;
        let values = much.detection().auroc.value - plain.detection().auroc.value;
        assert!((found.estimate.value - values).abs() < 1e-12 && found.estimate.low > 0.0, "{found:?}");
        assert!((found.p - 2.0 / 401.0).abs() < 1e-12, "{found:?}");
        let back = plain.minus(&much).unwrap().auroc;
        assert!((back.estimate.low + found.estimate.high).abs() < 1e-12 && back.p == found.p);
        // Of one comparison it is what the bootstrap of that one says.
        let (a, b) = (part(0, &healthy, 0.3), part(0, &better, 0.0));
        let cases = crate::Cases { healthy: a.times[0][0], pathology: a.times[0][1], patients: None };
        let alone = crate::bootstrap_difference(&cases, b.times[0], PLAN).unwrap();
        let [a, b] = [&[a], &[b]].map(|parts| resample_over(parts, PLAN).unwrap());
        assert_eq!(a.minus(&b).unwrap(), alone);
        assert!(a.minus(&plain).is_err(), "not the same sets");
        assert!(a.minus(&resample_over(&[part(0, &healthy, 0.0)], Plan { seed: 4, ..PLAN }).unwrap()).is_err());
    }

    #[test]
    fn what_does_not_fit_is_said() {
        let (healthy, sick) = (sample(6, 0.0, 1), sample(4, 0.3, 2));
        let part = |name: &'static str, cases: usize| Part {
            sets: [name, "sick"],
            times: vec![[&healthy[..cases], sick.as_slice()]],
            patients: None,
        };
        assert!(bootstrap_over(&[], PLAN).is_err() && bootstrap_mean_over(&[], PLAN).is_err());
        let said = bootstrap_over(&[part("healthy", 6), part("healthy", 5)], PLAN).unwrap_err().to_string();
        assert!(said.contains("\"healthy\" has 6 cases in one comparison and 5 in another"), "{said}");
        assert!(bootstrap_over(&[Part { times: Vec::new(), ..part("healthy", 6) }], PLAN).is_err());
        let said = bootstrap_mean_over(&[Values { set: "a", values: &[1.0, f64::NAN], patients: None }], PLAN);
        let said = said.unwrap_err().to_string();
        assert!(said.contains("NaN"), "{said}");
    }
}
