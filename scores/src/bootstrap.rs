//! Confidence intervals by resampling: percentile intervals of stratified resamples, of patients where they are known.
//!
//! Each class is drawn from with replacement, by itself, so that prevalence stays as it is (pROC's default, with as many
//! resamples). Where a person has several images these are drawn together, since they are no independent evidence. Percentile
//! intervals, Efron & Tibshirani 1993, §13.3.

use std::collections::BTreeMap;

use morph_spec::Rng;
use serde::{Deserialize, Serialize};

use crate::{
    Error, HEALTHY, PATHOLOGY, Ranked, checked, curves,
    quantile::{quantile, sorted},
    ranked::Step,
};

/// How to resample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Number of resamples.
    pub resamples: u32,
    /// Share of them that the interval holds.
    pub level: f64,
    /// The same seed gives the same intervals.
    pub seed: u64,
}

impl Default for Plan {
    /// 2000 resamples, 95 %.
    fn default() -> Self {
        Self { resamples: 2000, level: 0.95, seed: 2109 }
    }
}

impl Plan {
    pub(crate) fn checked(self) -> Result<Self, Error> {
        if self.resamples > 0 && self.level > 0.0 && self.level < 1.0 {
            return Ok(self);
        }
        let why = format!("{} resamples at level {} give no interval", self.resamples, self.level);
        Err(Error::Shape { what: "bootstrap", why })
    }

    pub(crate) fn rng(self, resample: u32) -> Rng {
        Rng::keyed(self.seed, "bootstrap", u64::from(resample))
    }
}

/// A number and its interval. Percentile intervals of small samples need not hold the number itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Computed from all cases.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Estimate {
    pub(crate) fn percentile(value: f64, resampled: Vec<f64>, level: f64) -> Self {
        let values = sorted(resampled);
        let tail = (1.0 - level) / 2.0;
        Self { value, low: quantile(&values, tail), high: quantile(&values, 1.0 - tail) }
    }
}

/// The numbers by which detection is judged.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Detection<T> {
    /// Area under the ROC curve.
    pub auroc: T,
    /// Average precision (AUPRC).
    pub average_precision: T,
    /// False positive rate where 95 % of the pathology is found.
    pub fpr_at_95_tpr: T,
    /// The same at 99 %.
    pub fpr_at_99_tpr: T,
    /// Sensitivity where 90 % of the healthy is left alone.
    pub sensitivity_at_90_specificity: T,
    /// The same at 95 %.
    pub sensitivity_at_95_specificity: T,
}

impl Detection<f64> {
    /// All numbers of two samples.
    pub fn of(ranked: &Ranked) -> Self {
        Self::from_array(Self::compute(ranked.steps()))
    }

    /// The mean of each number; `None` of nothing.
    pub fn mean(all: &[Self]) -> Option<Self> {
        let n = all.len() as f64;
        let of = |value: fn(&Self) -> f64| all.iter().map(value).sum::<f64>() / n;
        (!all.is_empty()).then(|| Self {
            auroc: of(|d| d.auroc),
            average_precision: of(|d| d.average_precision),
            fpr_at_95_tpr: of(|d| d.fpr_at_95_tpr),
            fpr_at_99_tpr: of(|d| d.fpr_at_99_tpr),
            sensitivity_at_90_specificity: of(|d| d.sensitivity_at_90_specificity),
            sensitivity_at_95_specificity: of(|d| d.sensitivity_at_95_specificity),
        })
    }

    fn compute(steps: &[Step]) -> [f64; 6] {
        [
            curves::auroc(steps),
            curves::average_precision(steps),
            curves::at_tpr(steps, 0.95).fpr,
            curves::at_tpr(steps, 0.99).fpr,
            curves::at_specificity(steps, 0.90).tpr,
            curves::at_specificity(steps, 0.95).tpr,
        ]
    }
}

impl<T> Detection<T> {
    pub(crate) fn from_array([a, b, c, d, e, f]: [T; 6]) -> Self {
        Self {
            auroc: a,
            average_precision: b,
            fpr_at_95_tpr: c,
            fpr_at_99_tpr: d,
            sensitivity_at_90_specificity: e,
            sensitivity_at_95_specificity: f,
        }
    }
}

/// The scored cases of a comparison.
#[derive(Debug, Clone, Copy)]
pub struct Cases<'a> {
    /// Scores of the healthy.
    pub healthy: &'a [f64],
    /// Scores of the pathological.
    pub pathology: &'a [f64],
    /// The person of each case, in the order of the scores, where persons are known: any numbers that differ between
    /// persons.
    pub patients: Option<[&'a [u64]; 2]>,
}

/// Groups of cases that are drawn together, of one class.
pub(crate) struct Stratum {
    pub(crate) cases: usize,
    /// `None` when each case is drawn by itself.
    pub(crate) groups: Option<Vec<Vec<usize>>>,
}

impl Stratum {
    pub(crate) fn new(cases: usize, patients: Option<&[u64]>) -> Result<Self, Error> {
        let Some(patients) = patients else { return Ok(Self { cases, groups: None }) };
        if patients.len() != cases {
            let why = format!("{cases} scores, but {} patients", patients.len());
            return Err(Error::Shape { what: "bootstrap", why });
        }
        let mut groups = BTreeMap::<u64, Vec<usize>>::new();
        for (case, patient) in patients.iter().enumerate() {
            groups.entry(*patient).or_default().push(case);
        }
        Ok(Self { cases, groups: Some(groups.into_values().collect()) })
    }

    /// How often each case is drawn.
    pub(crate) fn draw(&self, rng: &mut Rng, times: &mut Vec<u64>) {
        times.clear();
        times.resize(self.cases, 0);
        match &self.groups {
            None => (0..self.cases).for_each(|_| times[rng.below(self.cases as u64) as usize] += 1),
            Some(groups) => {
                for _ in 0..groups.len() {
                    groups[rng.below(groups.len() as u64) as usize].iter().for_each(|case| times[*case] += 1);
                }
            }
        }
    }
}

/// Where each case stands among the distinct scores: sorted once, so that a resample is only counted.
pub(crate) struct Places {
    thresholds: Vec<f64>,
    healthy: Vec<usize>,
    pathology: Vec<usize>,
    counts: Vec<(u64, u64)>,
    steps: Vec<Step>,
}

impl Places {
    pub(crate) fn new(healthy: &[f64], pathology: &[f64]) -> Result<(Self, [f64; 6]), Error> {
        let ranked = Ranked::named("bootstrap", healthy, pathology)?;
        let thresholds: Vec<f64> = ranked.steps().iter().map(|s| s.threshold).collect();
        let place = |set: &[f64]| set.iter().map(|v| thresholds.partition_point(|t| t > v)).collect();
        let places = Self {
            healthy: place(healthy),
            pathology: place(pathology),
            counts: vec![(0, 0); thresholds.len()],
            steps: Vec::with_capacity(thresholds.len()),
            thresholds,
        };
        Ok((places, Detection::compute(ranked.steps())))
    }

    pub(crate) fn resample(&mut self, healthy: &[u64], pathology: &[u64]) -> [f64; 6] {
        self.count(healthy, pathology);
        Detection::compute(&self.steps)
    }

    /// The AUROC alone of a resample that has both classes.
    pub(crate) fn auroc(&mut self, healthy: &[u64], pathology: &[u64]) -> f64 {
        self.count(healthy, pathology);
        curves::auroc(&self.steps)
    }

    fn count(&mut self, healthy: &[u64], pathology: &[u64]) {
        self.counts.fill((0, 0));
        self.healthy.iter().zip(healthy).for_each(|(place, times)| self.counts[*place].0 += times);
        self.pathology.iter().zip(pathology).for_each(|(place, times)| self.counts[*place].1 += times);
        self.steps.clear();
        let mut sum = (0, 0);
        for (threshold, count) in self.thresholds.iter().zip(&self.counts) {
            if *count != (0, 0) {
                sum = (sum.0 + count.0, sum.1 + count.1);
                self.steps.push(Step { threshold: *threshold, healthy: sum.0, pathology: sum.1 });
            }
        }
    }
}

/// Detection with intervals, all from the same resamples. Takes O(resamples × cases): about a second for 2000 resamples of
/// 10,000 cases.
///
/// # Errors
/// When a set is empty, a score not finite, or the plan or the patients do not fit.
pub fn bootstrap_detection(cases: &Cases<'_>, plan: Plan) -> Result<Detection<Estimate>, Error> {
    bootstrap_repeats(&[[cases.healthy, cases.pathology]], cases.patients, plan)
}

/// The mean detection of a method that was trained several times, as with several seeds: `[healthy, pathology]` scores of each
/// time, on the same cases in the same order. In each resample all times are computed on the same cases, so that the interval
/// is that of the mean over cases; how far the times are apart is another question ([`crate::mean_and_deviation`]).
///
/// # Errors
/// As [`bootstrap_detection`], and when there is no time, or not equally many cases each time.
pub fn bootstrap_repeats(
    times: &[[&[f64]; 2]],
    patients: Option<[&[u64]; 2]>,
    plan: Plan,
) -> Result<Detection<Estimate>, Error> {
    const WHAT: &str = "bootstrap";
    let [first, others @ ..] = times else { return Err(Error::Empty { what: WHAT, set: "trained networks" }) };
    others.iter().try_for_each(|other| paired(WHAT, *first, *other))?;
    let mut all = Vec::new();
    for [healthy, pathology] in times {
        all.push(Places::new(healthy, pathology)?);
    }
    let mean = |sum: [f64; 6]| sum.map(|v| v / times.len() as f64);
    let add = |sum: [f64; 6], next: [f64; 6]| std::array::from_fn(|k| sum[k] + next[k]);
    let values = mean(all.iter().map(|(_, values)| *values).fold([0.0; 6], add));
    let cases = Cases { healthy: first[0], pathology: first[1], patients };
    let resampled = resamples(&cases, plan, |healthy, pathology| {
        mean(all.iter_mut().map(|(places, _)| places.resample(healthy, pathology)).fold([0.0; 6], add))
    })?;
    let estimates =
        std::array::from_fn(|k| Estimate::percentile(values[k], resampled.iter().map(|r| r[k]).collect(), plan.level));
    Ok(Detection::from_array(estimates))
}

/// A difference between two methods.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// First minus second, with the interval of the difference.
    pub estimate: Estimate,
    /// Two-sided p-value of no difference: twice the smaller share of resamples on either side of 0, counting the sample
    /// itself, so that it is never 0.
    pub p: f64,
}

impl Difference {
    /// Of the values `first` and `second`, and of what each resample found of the two.
    pub(crate) fn of(first: f64, second: f64, resampled: Vec<f64>, level: f64) -> Self {
        let side = |f: fn(&f64) -> bool| resampled.iter().filter(|v| f(v)).count() + 1;
        let smaller = side(|v| *v <= 0.0).min(side(|v| *v >= 0.0));
        let p = (2.0 * smaller as f64 / (resampled.len() + 1) as f64).min(1.0);
        Self { estimate: Estimate::percentile(first - second, resampled, level), p }
    }
}

/// What the first of two methods detects more than the second on the same cases: both are computed on the same resamples.
/// `second` has the healthy and the pathological scores in the order of `first`'s.
///
/// # Errors
/// As [`bootstrap_detection`], and when the methods have not scored equally many cases.
pub fn bootstrap_difference(
    first: &Cases<'_>,
    second: [&[f64]; 2],
    plan: Plan,
) -> Result<Detection<Difference>, Error> {
    paired("bootstrap", [first.healthy, first.pathology], second)?;
    let (mut a, a_values) = Places::new(first.healthy, first.pathology)?;
    let (mut b, b_values) = Places::new(second[0], second[1])?;
    let resampled = resamples(first, plan, |healthy, pathology| {
        let (a, b) = (a.resample(healthy, pathology), b.resample(healthy, pathology));
        std::array::from_fn(|k| a[k] - b[k])
    })?;
    let differences = std::array::from_fn(|k| {
        Difference::of(a_values[k], b_values[k], resampled.iter().map(|r| r[k]).collect(), plan.level)
    });
    Ok(Detection::from_array(differences))
}

pub(crate) fn paired(what: &'static str, first: [&[f64]; 2], second: [&[f64]; 2]) -> Result<(), Error> {
    for (name, a, b) in [("healthy", first[0], second[0]), ("pathological", first[1], second[1])] {
        if a.len() != b.len() {
            let why = format!("the methods have scored {} and {} {name} cases, not the same ones", a.len(), b.len());
            return Err(Error::Shape { what, why });
        }
    }
    Ok(())
}

fn resamples(
    cases: &Cases<'_>,
    plan: Plan,
    mut compute: impl FnMut(&[u64], &[u64]) -> [f64; 6],
) -> Result<Vec<[f64; 6]>, Error> {
    let plan = plan.checked()?;
    let healthy = Stratum::new(cases.healthy.len(), cases.patients.map(|p| p[0]))?;
    let pathology = Stratum::new(cases.pathology.len(), cases.patients.map(|p| p[1]))?;
    let mut times = (Vec::new(), Vec::new());
    let draw = |i: u32| {
        let mut rng = plan.rng(i);
        healthy.draw(&mut rng, &mut times.0);
        pathology.draw(&mut rng, &mut times.1);
        compute(&times.0, &times.1)
    };
    Ok((0..plan.resamples).map(draw).collect())
}

/// The mean of `values` with its interval, persons drawn whole where they are known: for SSIM, hits of the pointing game and
/// other numbers that each case has by itself.
///
/// # Errors
/// When there are no values, one is not finite, or the plan or the patients do not fit.
pub fn bootstrap_mean(values: &[f64], patients: Option<&[u64]>, plan: Plan) -> Result<Estimate, Error> {
    checked("bootstrap", "values", values)?;
    let plan = plan.checked()?;
    let stratum = Stratum::new(values.len(), patients)?;
    let mut times = Vec::new();
    let mut mean = |i: u32| {
        stratum.draw(&mut plan.rng(i), &mut times);
        let drawn: u64 = times.iter().sum();
        values.iter().zip(&times).map(|(v, n)| v * *n as f64).sum::<f64>() / drawn as f64
    };
    let resampled = (0..plan.resamples).map(&mut mean).collect();
    Ok(Estimate::percentile(values.iter().sum::<f64>() / values.len() as f64, resampled, plan.level))
}

/// The percentile interval that holds `level` of `statistic` over `resamples` stratified resamples. For any statistic; the
/// usual ones are faster by [`bootstrap_detection`], which draws the same resamples.
///
/// # Errors
/// When a set is empty, a value not finite, `level` not between 0 and 1, or `resamples` 0; and what `statistic` says.
pub fn bootstrap_ci(
    healthy: &[f64],
    pathology: &[f64],
    statistic: impl Fn(&[f64], &[f64]) -> Result<f64, Error>,
    resamples: u32,
    level: f64,
    seed: u64,
) -> Result<(f64, f64), Error> {
    const WHAT: &str = "bootstrap";
    checked(WHAT, HEALTHY, healthy)?;
    checked(WHAT, PATHOLOGY, pathology)?;
    let plan = Plan { resamples, level, seed }.checked()?;
    let mut values = Vec::new();
    for i in 0..resamples {
        let mut rng = plan.rng(i);
        let mut draw =
            |set: &[f64]| set.iter().map(|_| set[rng.below(set.len() as u64) as usize]).collect::<Vec<f64>>();
        let (healthy, pathology) = (draw(healthy), draw(pathology));
        values.push(statistic(&healthy, &pathology)?);
    }
    let Estimate { low, high, .. } = Estimate::percentile(f64::NAN, values, level);
    Ok((low, high))
}

#[cfg(test)]
mod tests {
    use morph_spec::Rng;
    use proptest::prelude::*;

    use super::*;
    use crate::{auroc, average_precision, fpr_at_tpr};

    fn sample(n: u64, shift: f64, seed: u64) -> Vec<f64> {
        let mut rng = Rng::keyed(seed, "test", 0);
        (0..n).map(|_| rng.uniform() + shift).collect()
    }

    fn cases<'a>(healthy: &'a [f64], pathology: &'a [f64]) -> Cases<'a> {
        Cases { healthy, pathology, patients: None }
    }

    #[test]
    fn the_interval_holds_the_value_and_narrows_with_more_data() {
        let width = |n: u64| {
            let (healthy, sick) = (sample(n, 0.0, 1), sample(n, 0.2, 2));
            let plan = Plan { resamples: 300, ..Plan::default() };
            let all = bootstrap_detection(&cases(&healthy, &sick), plan).unwrap();
            for e in [all.auroc, all.average_precision] {
                assert!(e.low <= e.value && e.value <= e.high, "{e:?}");
            }
            assert_eq!(all, bootstrap_detection(&cases(&healthy, &sick), plan).unwrap());
            all.auroc.high - all.auroc.low
        };
        assert!(width(400) < width(40) / 2.0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn counting_gives_what_drawing_gives(
            healthy in prop::collection::vec((0..9i32).prop_map(f64::from), 1..30),
            sick in prop::collection::vec((0..9i32).prop_map(f64::from), 1..30),
        ) {
            let plan = Plan { resamples: 40, level: 0.9, seed: 5 };
            let fast = bootstrap_detection(&cases(&healthy, &sick), plan).unwrap();
            let slow = |f: fn(&[f64], &[f64]) -> Result<f64, Error>| bootstrap_ci(&healthy, &sick, f, 40, 0.9, 5).unwrap();
            for (estimate, drawn) in [
                (fast.auroc, slow(auroc)),
                (fast.average_precision, slow(average_precision)),
                (fast.fpr_at_95_tpr, slow(|h, p| fpr_at_tpr(h, p, 0.95))),
                (fast.sensitivity_at_90_specificity, slow(|h, p| Ok(Ranked::new(h, p)?.at_specificity(0.9)?.tpr))),
            ] {
                prop_assert_eq!((estimate.low, estimate.high), drawn);
            }
        }
    }

    #[test]
    fn the_mean_of_several_times_is_taken_on_the_same_cases() {
        let (healthy, sick) = (sample(80, 0.0, 1), sample(80, 0.2, 2));
        let noisy = |v: &[f64], seed| v.iter().zip(sample(80, 0.0, seed)).map(|(a, b)| a + b).collect::<Vec<f64>>();
        let (other_healthy, other_sick) = (noisy(&healthy, 3), noisy(&sick, 4));
        let (a, b): ([&[f64]; 2], [&[f64]; 2]) = ([&healthy, &sick], [&other_healthy, &other_sick]);
        let plan = Plan { resamples: 400, ..Plan::default() };
        let mean = |times: &[[&[f64]; 2]]| bootstrap_repeats(times, None, plan).unwrap();
        let (one, other, both) = (mean(&[a]), mean(&[b]), mean(&[a, b]));
        assert_eq!(both.auroc.value, (one.auroc.value + other.auroc.value) / 2.0);
        assert_eq!(mean(&[a, a, a, a]), one, "the same network four times tells no more");
        let width = |d: &Detection<Estimate>| d.auroc.high - d.auroc.low;
        assert!(width(&both) < width(&one).max(width(&other)) && width(&both) > 0.5 * width(&one));
        assert!(bootstrap_repeats(&[], None, plan).is_err());
        assert!(bootstrap_repeats(&[a, [&healthy[1..], &sick]], None, plan).is_err());
    }

    #[test]
    fn images_of_one_person_are_one_piece_of_evidence() {
        let (healthy, sick) = (sample(60, 0.0, 1), sample(60, 0.2, 2));
        let twice = |v: &[f64]| v.iter().flat_map(|v| [*v, *v]).collect::<Vec<f64>>();
        let (many_healthy, many_sick) = (twice(&healthy), twice(&sick));
        let persons: Vec<u64> = (0..60).flat_map(|i| [i, i]).collect();
        let grouped = Cases { patients: Some([&persons, &persons]), ..cases(&many_healthy, &many_sick) };
        let plan = Plan { resamples: 200, ..Plan::default() };
        let by_person = bootstrap_detection(&grouped, plan).unwrap();
        assert_eq!(by_person.auroc, bootstrap_detection(&cases(&healthy, &sick), plan).unwrap().auroc);
        let by_image = bootstrap_detection(&cases(&many_healthy, &many_sick), plan).unwrap().auroc;
        assert!(by_image.high - by_image.low < by_person.auroc.high - by_person.auroc.low);
        let short = Cases { patients: Some([&persons[1..], &persons]), ..grouped };
        assert!(bootstrap_detection(&short, plan).unwrap_err().to_string().contains("119 patients"));
        let mean = bootstrap_mean(&many_sick, Some(&persons), plan).unwrap();
        assert!(mean.low < mean.value && mean.value < mean.high);
    }

    #[test]
    fn a_method_does_not_differ_from_itself_and_does_from_a_worse_one() {
        let (healthy, sick) = (sample(200, 0.0, 1), sample(200, 0.3, 2));
        let plan = Plan { resamples: 400, ..Plan::default() };
        let same = bootstrap_difference(&cases(&healthy, &sick), [&healthy, &sick], plan).unwrap();
        assert_eq!((same.auroc.estimate.low, same.auroc.estimate.high, same.auroc.p), (0.0, 0.0, 1.0));
        let noise = sample(200, 0.0, 3);
        let better = bootstrap_difference(&cases(&healthy, &sick), [&healthy, &noise], plan).unwrap();
        assert!(better.auroc.estimate.low > 0.0 && better.auroc.p < 0.01, "{better:?}");
        assert!(bootstrap_difference(&cases(&healthy, &sick), [&healthy, &sick[1..]], plan).is_err());
    }

    #[test]
    fn thousands_of_resamples_of_thousands_of_cases_are_no_wait() {
        let (healthy, sick) = (sample(1019, 0.0, 1), sample(6012, 0.2, 2));
        let e = bootstrap_detection(&cases(&healthy, &sick), Plan::default()).unwrap().auroc;
        assert!(e.low < e.value && e.value < e.high);
        assert!(bootstrap_ci(&[1.0], &[1.0], auroc, 0, 0.95, 1).is_err());
        assert!(bootstrap_detection(&cases(&[], &sick), Plan::default()).is_err());
    }
}
