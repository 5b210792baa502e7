//! Working points: a threshold from healthy validation images alone, and what it does on a test set.

use serde::{Deserialize, Serialize};

use crate::{Error, Estimate, HEALTHY, PATHOLOGY, checked, curves::share, normal, quantile::sorted};

/// The lowest threshold at which at least `specificity` of the healthy validation images are left alone. As everywhere, a
/// score of at least the threshold is called sick; ties with the last image left alone are left alone, too. No test image
/// and no pathology takes part.
///
/// # Errors
/// When there are no scores, one is not finite, or `specificity` is not in 0..=1.
pub fn threshold_at_specificity(validation: &[f64], specificity: f64) -> Result<f64, Error> {
    const WHAT: &str = "threshold at specificity";
    checked(WHAT, "validation set", validation)?;
    share(WHAT, "specificity", specificity)?;
    let values = sorted(validation.to_vec());
    let n = values.len() as f64;
    // Asked of each count, not computed by one multiplication: 0.95 · 20 must be 19 and not 20, whatever the rounding.
    let spared = (0..=values.len()).find(|k| *k as f64 / n >= specificity).unwrap_or(values.len());
    Ok(match spared.checked_sub(1) {
        Some(last) => values[last].next_up(),
        None => values[0],
    })
}

/// How cases fall at a threshold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confusion {
    /// Sick and called sick.
    pub true_positives: u64,
    /// Healthy and called sick.
    pub false_positives: u64,
    /// Healthy and left alone.
    pub true_negatives: u64,
    /// Sick and missed.
    pub false_negatives: u64,
}

impl Confusion {
    /// Counts cases: a score of at least `threshold` is called sick. One class may be missing; what is said of it then is
    /// `None`.
    ///
    /// # Errors
    /// When both sets are empty, a score is not finite, or the threshold is NaN.
    pub fn at(threshold: f64, healthy: &[f64], pathology: &[f64]) -> Result<Self, Error> {
        const WHAT: &str = "confusion matrix";
        if threshold.is_nan() {
            return Err(Error::NotFinite { what: WHAT, set: "thresholds", index: 0, value: threshold });
        }
        if healthy.is_empty() && pathology.is_empty() {
            return Err(Error::Empty { what: WHAT, set: "test set" });
        }
        let called = |set: &'static str, values: &[f64]| -> Result<(u64, u64), Error> {
            if values.is_empty() {
                return Ok((0, 0));
            }
            let called = checked(WHAT, set, values)?.iter().filter(|v| **v >= threshold).count();
            Ok((called as u64, (values.len() - called) as u64))
        };
        let (false_positives, true_negatives) = called(HEALTHY, healthy)?;
        let (true_positives, false_negatives) = called(PATHOLOGY, pathology)?;
        Ok(Self { true_positives, false_positives, true_negatives, false_negatives })
    }

    /// Share of the sick that is found.
    pub fn sensitivity(&self) -> Option<Estimate> {
        wilson(self.true_positives, self.true_positives + self.false_negatives)
    }

    /// Share of the healthy that is left alone. On a test set it drifts from what was asked of the validation set; print
    /// both.
    pub fn specificity(&self) -> Option<Estimate> {
        wilson(self.true_negatives, self.true_negatives + self.false_positives)
    }

    /// Positive predictive value in this test set, whose prevalence is its makers' choice.
    pub fn ppv(&self) -> Option<Estimate> {
        wilson(self.true_positives, self.true_positives + self.false_positives)
    }

    /// Negative predictive value in this test set.
    pub fn npv(&self) -> Option<Estimate> {
        wilson(self.true_negatives, self.true_negatives + self.false_negatives)
    }

    /// Positive predictive value where `prevalence` of the images are sick, by Bayes' rule, with its 95 % interval; `None` when a
    /// class is missing or nothing would be called sick.
    ///
    /// # Errors
    /// When `prevalence` is not in 0..=1.
    pub fn ppv_at(&self, prevalence: f64) -> Result<Option<Estimate>, Error> {
        share("predictive value", "prevalence", prevalence)?;
        let sick = [self.true_positives, self.false_negatives];
        Ok(predictive(sick, [self.false_positives, self.true_negatives], prevalence))
    }

    /// Negative predictive value where `prevalence` of the images are sick.
    ///
    /// # Errors
    /// When `prevalence` is not in 0..=1.
    pub fn npv_at(&self, prevalence: f64) -> Result<Option<Estimate>, Error> {
        share("predictive value", "prevalence", prevalence)?;
        let healthy = [self.true_negatives, self.false_positives];
        Ok(predictive(healthy, [self.false_negatives, self.true_positives], 1.0 - prevalence))
    }
}

/// The share of images of a class among those that are judged to be of it, where the class has the share `prevalence` of all. `own`
/// and `other` count, of the class and of the other one, the images that are judged so and those that are not. The interval is the
/// logit one (Mercaldo, Lau, Zhou 2007, Stat. Med. 26:2170); where a count is 0, half a case is added to all, and it is widened to the value.
fn predictive(own: [u64; 2], other: [u64; 2], prevalence: f64) -> Option<Estimate> {
    let [own, other] = [own, other].map(|counts| counts.map(|n| n as f64));
    let of = |[judged, not]: [f64; 2]| judged / (judged + not);
    let [right, wrong] = [of(own) * prevalence, of(other) * (1.0 - prevalence)];
    let value = right / (right + wrong);
    if value.is_nan() {
        return None;
    }
    if prevalence == 0.0 || prevalence == 1.0 {
        return Some(Estimate { value, low: value, high: value });
    }
    let z = normal::half_width(0.95);
    let variance = |[judged, not]: [f64; 2]| not / (judged * (judged + not));
    let more = if [own, other].concat().contains(&0.0) { 0.5 } else { 0.0 };
    let [own, other] = [own, other].map(|counts| counts.map(|n| n + more));
    let middle = (of(own) * prevalence / (of(other) * (1.0 - prevalence))).ln();
    let reach = z * (variance(own) + variance(other)).sqrt();
    let logistic = |logit: f64| 1.0 / (1.0 + (-logit).exp());
    Some(Estimate { value, low: logistic(middle - reach).min(value), high: logistic(middle + reach).max(value) })
}

/// `hits` of `n` with the 95 % score interval (Wilson 1927, JASA 22:209), which holds at 0 and 1, too; `None` of none.
pub fn wilson(hits: u64, n: u64) -> Option<Estimate> {
    if n == 0 || hits > n {
        return None;
    }
    let (z, count, value) = (normal::half_width(0.95), n as f64, hits as f64 / n as f64);
    let scale = 1.0 + z * z / count;
    let middle = (value + z * z / (2.0 * count)) / scale;
    let reach = z / scale * (value * (1.0 - value) / count + z * z / (4.0 * count * count)).sqrt();
    let low = if hits == 0 { 0.0 } else { middle - reach };
    let high = if hits == n { 1.0 } else { middle + reach };
    Some(Estimate { value, low, high })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_threshold_spares_what_was_asked_and_no_lower_one_does(
            validation in prop::collection::vec((0..20i32).prop_map(f64::from), 1..60),
            specificity in prop::sample::select(vec![0.0, 0.5, 0.9, 0.95, 1.0]),
        ) {
            let threshold = threshold_at_specificity(&validation, specificity).unwrap();
            let spared = |t: f64| validation.iter().filter(|v| **v < t).count() as f64 / validation.len() as f64;
            prop_assert!(spared(threshold) >= specificity);
            let lower = threshold.next_down();
            prop_assert!(specificity == 0.0 || spared(lower) < specificity);
        }
    }

    #[test]
    fn validation_chooses_and_the_test_set_tells() {
        let validation: Vec<f64> = (1..=20).map(f64::from).collect();
        let threshold = threshold_at_specificity(&validation, 0.95).unwrap();
        assert_eq!(threshold, 19f64.next_up());
        let confusion = Confusion::at(threshold, &[1.0, 19.0, 25.0, 2.0], &[19.5, 30.0, 3.0]).unwrap();
        assert_eq!(
            confusion,
            Confusion { true_positives: 2, false_positives: 1, true_negatives: 3, false_negatives: 1 }
        );
        assert_eq!(confusion.specificity().unwrap().value, 0.75);
        assert_eq!(confusion.ppv().unwrap().value, 2.0 / 3.0);
        // The set's own prevalence gives the set's own value.
        assert!((confusion.ppv_at(3.0 / 7.0).unwrap().unwrap().value - 2.0 / 3.0).abs() < 1e-15);
        assert!((confusion.npv_at(3.0 / 7.0).unwrap().unwrap().value - 0.75).abs() < 1e-15);
        assert_eq!(confusion.ppv_at(0.0), Ok(Some(Estimate { value: 0.0, low: 0.0, high: 0.0 })));
        assert_eq!(confusion.npv_at(0.0), Ok(Some(Estimate { value: 1.0, low: 1.0, high: 1.0 })));
        assert!(confusion.ppv_at(1.5).is_err() && confusion.npv_at(f64::NAN).is_err());
    }

    /// `[true positives, false positives, true negatives, false negatives]`.
    fn counted([true_positives, false_positives, true_negatives, false_negatives]: [u64; 4]) -> Confusion {
        Confusion { true_positives, false_positives, true_negatives, false_negatives }
    }

    #[test]
    fn predictive_values_at_the_edges_have_their_value_in_their_interval() {
        let perfect = counted([20, 0, 30, 0]);
        for value in [perfect.ppv_at(0.1), perfect.npv_at(0.1)] {
            let e = value.unwrap().unwrap();
            assert!(e.value == 1.0 && e.high == 1.0 && e.low > 0.1 && e.low < 1.0, "{e:?}");
        }
        let blind = counted([0, 5, 25, 20]).ppv_at(0.1).unwrap().unwrap();
        assert!(blind.value == 0.0 && blind.low == 0.0 && blind.high > 0.0, "{blind:?}");
        assert_eq!(counted([0, 0, 30, 20]).ppv_at(0.1), Ok(None), "nothing is called sick");
        assert_eq!(counted([20, 30, 0, 0]).npv_at(0.1), Ok(None), "nothing is left alone");
        // More cases, a narrower interval.
        let width = |n: u64| {
            let e = counted([8 * n, 3 * n, 27 * n, 2 * n]).ppv_at(0.05).unwrap().unwrap();
            e.high - e.low
        };
        assert!(width(100) < width(10) && width(10) < width(1));
    }

    #[test]
    fn intervals_of_predictive_values_hold_what_they_promise() {
        let mut rng = morph_spec::Rng::keyed(11, "predictive", 0);
        let mut count = |n: u64, share: f64| (0..n).filter(|_| rng.uniform() < share).count() as u64;
        let (prevalence, times) = (0.05, 2000);
        for (sensitivity, specificity, sick, healthy) in
            [(0.85, 0.9, 60, 90), (0.5, 0.95, 60, 90), (0.95, 0.95, 40, 60), (0.9, 0.9, 20, 20), (0.7, 0.8, 300, 500)]
        {
            let of = |a: f64, b: f64| a / (a + b);
            let ppv = of(sensitivity * prevalence, (1.0 - specificity) * (1.0 - prevalence));
            let npv = of(specificity * (1.0 - prevalence), (1.0 - sensitivity) * prevalence);
            let mut held = [0, 0];
            for _ in 0..times {
                let (found, spared) = (count(sick, sensitivity), count(healthy, specificity));
                let confusion = counted([found, healthy - spared, spared, sick - found]);
                let estimates = [(confusion.ppv_at(prevalence), ppv), (confusion.npv_at(prevalence), npv)];
                for (held, (estimate, truth)) in held.iter_mut().zip(estimates) {
                    let e = estimate.unwrap().unwrap();
                    *held += u32::from(e.low <= truth && truth <= e.high);
                }
            }
            let shares = held.map(|n| f64::from(n) / f64::from(times));
            assert!(shares.iter().all(|share| (0.93..0.985).contains(share)), "{shares:?} of {sick} and {healthy}");
        }
    }

    #[test]
    fn the_edges() {
        let only_healthy = Confusion::at(1.0, &[0.0, 2.0], &[]).unwrap();
        assert_eq!((only_healthy.sensitivity(), only_healthy.ppv_at(0.5)), (None, Ok(None)));
        assert_eq!(only_healthy.specificity().unwrap().value, 0.5);
        assert!(Confusion::at(1.0, &[], &[]).is_err());
        assert!(Confusion::at(f64::NAN, &[1.0], &[]).is_err());
        assert!(threshold_at_specificity(&[], 0.9).is_err());
        // scipy.stats.binomtest(k, n).proportion_ci(method='wilson')
        for (k, n, low, high) in
            [(0, 10, 0.0, 0.277_532_799_862_889_23), (7, 10, 0.396_778_147_461_145_3, 0.892_208_732_593_699)]
        {
            let e = wilson(k, n).unwrap();
            assert!((e.low - low).abs() < 1e-9 && (e.high - high).abs() < 1e-9, "{e:?}");
        }
        assert_eq!(wilson(0, 0), None);
    }
}
