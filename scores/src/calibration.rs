//! What a score means: against the healthy validation set, and as a probability.

use serde::{Deserialize, Serialize};

use crate::{Error, checked, quantile::sorted};

/// The healthy validation set's scores: the only thing a new score is compared with.
#[derive(Debug, Clone, PartialEq)]
pub struct Reference {
    sorted: Vec<f64>,
}

impl Reference {
    /// From the scores of healthy images that took no part in training.
    ///
    /// # Errors
    /// When there are none or one is not finite.
    pub fn new(validation: &[f64]) -> Result<Self, Error> {
        Ok(Self { sorted: sorted(checked("calibration", "validation set", validation)?.to_vec()) })
    }

    /// (1 + number of validation scores ≥ `score`) / (1 + n): at most α with chance α for a healthy image like those of the
    /// validation set (a conformal p-value, Vovk, Gammerman & Shafer 2005). Never 0.
    ///
    /// # Errors
    /// When `score` is not finite.
    pub fn p_value(&self, score: f64) -> Result<f64, Error> {
        checked("p-value", "scores", &[score])?;
        let at_least = self.sorted.len() - self.sorted.partition_point(|v| *v < score);
        Ok((1 + at_least) as f64 / (1 + self.sorted.len()) as f64)
    }

    /// Whether `scores` are distributed as the validation set's: Kolmogorov–Smirnov's two-sample test. A small p says that
    /// thresholds from this validation set do not carry over.
    ///
    /// # Errors
    /// When there are no scores or one is not finite.
    pub fn drift(&self, scores: &[f64]) -> Result<Drift, Error> {
        let scores = sorted(checked("drift", "scores", scores)?.to_vec());
        let (m, n) = (self.sorted.len(), scores.len());
        // The largest distance of the two step functions, times m·n: whole, so that ties of the distance are seen as such.
        let (mut i, mut j, mut largest) = (0usize, 0usize, 0u128);
        while i < m && j < n {
            let at = self.sorted[i].min(scores[j]);
            i += self.sorted[i..].iter().take_while(|v| **v == at).count();
            j += scores[j..].iter().take_while(|v| **v == at).count();
            largest = largest.max((i as u128 * n as u128).abs_diff(j as u128 * m as u128));
        }
        let statistic = largest as f64 / (m as f64 * n as f64);
        let p = if m.saturating_mul(n) <= EXACT { exact_p(m, n, largest) } else { asymptotic_p(m, n, statistic) };
        Ok(Drift { statistic, p })
    }
}

/// Largest product of sample sizes whose p-value is counted; beyond it Kolmogorov's limit is as good.
const EXACT: usize = 20_000_000;

/// Kolmogorov–Smirnov's test of two samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// Largest distance between the two cumulative distributions.
    pub statistic: f64,
    /// Chance of at least this distance when both samples come from one continuous distribution; conservative with ties.
    pub p: f64,
}

/// Chance that a random path from (0, 0) to (m, n), one step for each case in the order of scores, somewhere departs from
/// the diagonal by at least `distance`/(m·n). Computed as the chance of departing, not 1 minus that of staying: small
/// p-values keep their digits.
fn exact_p(m: usize, n: usize, distance: u128) -> f64 {
    let departs = |i: usize, j: usize| (i as u128 * n as u128).abs_diff(j as u128 * m as u128) >= distance;
    let mut row: Vec<f64> = vec![0.0; n + 1];
    for i in 0..=m {
        for j in 0..=n {
            row[j] = if departs(i, j) {
                1.0
            } else {
                let steps = (i + j) as f64;
                let above = if i > 0 { row[j] * i as f64 / steps } else { 0.0 };
                let left = if j > 0 { row[j - 1] * j as f64 / steps } else { 0.0 };
                above + left
            };
        }
    }
    row[n].min(1.0)
}

fn asymptotic_p(m: usize, n: usize, statistic: f64) -> f64 {
    let (m, n) = (m as f64, n as f64);
    let x = statistic * (m * n / (m + n)).sqrt();
    if x < 0.2 {
        // The alternating series needs many terms here; the chance differs from 1 by less than 1e-12.
        return 1.0;
    }
    let term = |k: i32| {
        let sign = if k % 2 == 1 { 2.0 } else { -2.0 };
        sign * (-2.0 * (f64::from(k) * x).powi(2)).exp()
    };
    (1..=40).map(term).sum::<f64>().clamp(0.0, 1.0)
}

/// Probabilities of being sick beside the truth.
fn probabilities(what: &'static str, probability: &[f64], sick: &[bool]) -> Result<(), Error> {
    checked(what, "probabilities", probability)?;
    if probability.len() != sick.len() {
        let why = format!("{} probabilities, but {} labels", probability.len(), sick.len());
        return Err(Error::Shape { what, why });
    }
    probability.iter().enumerate().try_for_each(|(i, p)| {
        let fits = (0.0..=1.0).contains(p);
        fits.then_some(())
            .ok_or_else(|| Error::Shape { what, why: format!("probability {i} is {p}; it lies in 0..=1") })
    })
}

/// Mean squared difference of probability and truth (Brier 1950): 0 is best, 0.25 says ½ of everything.
///
/// # Errors
/// When there are none, sizes differ, or a probability is not in 0..=1.
pub fn brier(probability: &[f64], sick: &[bool]) -> Result<f64, Error> {
    probabilities("Brier score", probability, sick)?;
    let squares = probability.iter().zip(sick).map(|(p, s)| (p - f64::from(u8::from(*s))).powi(2));
    Ok(squares.sum::<f64>() / probability.len() as f64)
}

/// One bin of a reliability diagram.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityBin {
    /// Cases in it.
    pub cases: u64,
    /// Their mean probability.
    pub predicted: f64,
    /// Share of them that is sick.
    pub observed: f64,
}

/// The reliability diagram over `bins` equally wide bins of 0..=1, upper edges included; empty ones are left out, as
/// `calibration_curve` does.
///
/// # Errors
/// As [`brier`], and when `bins` is 0.
pub fn reliability(probability: &[f64], sick: &[bool], bins: usize) -> Result<Vec<ReliabilityBin>, Error> {
    const WHAT: &str = "reliability";
    probabilities(WHAT, probability, sick)?;
    if bins == 0 {
        return Err(Error::Shape { what: WHAT, why: "no bins".to_owned() });
    }
    let mut sums = vec![(0u64, 0.0, 0u64); bins];
    for (p, s) in probability.iter().zip(sick) {
        // The upper edge belongs to the bin; a cast of a negative number is 0.
        let bin = &mut sums[((p * bins as f64).ceil() - 1.0) as usize];
        *bin = (bin.0 + 1, bin.1 + p, bin.2 + u64::from(*s));
    }
    let filled = sums.into_iter().filter(|b| b.0 > 0);
    Ok(filled
        .map(|(cases, sum, sick)| ReliabilityBin {
            cases,
            predicted: sum / cases as f64,
            observed: sick as f64 / cases as f64,
        })
        .collect())
}

/// Expected calibration error: the bins' |observed − predicted|, weighted by their cases (Naeini et al. 2015).
///
/// # Errors
/// As [`reliability`].
pub fn expected_calibration_error(probability: &[f64], sick: &[bool], bins: usize) -> Result<f64, Error> {
    let gap = |b: &ReliabilityBin| b.cases as f64 * (b.observed - b.predicted).abs();
    Ok(reliability(probability, sick, bins)?.iter().map(gap).sum::<f64>() / probability.len() as f64)
}

/// A rising map from score to probability, fitted to a labelled set by pooling adjacent violators (isotonic regression,
/// Zadrozny & Elkan 2002). For those who have labels beside the test set; unsupervised detection has none.
#[derive(Debug, Clone, PartialEq)]
pub struct Isotonic {
    /// Ends of the flat pieces: score, probability; both rise.
    knots: Vec<(f64, f64)>,
}

impl Isotonic {
    /// Fits to labelled scores.
    ///
    /// # Errors
    /// When a set is empty or a score is not finite.
    pub fn fit(healthy: &[f64], pathology: &[f64]) -> Result<Self, Error> {
        let ranked = crate::Ranked::named("isotonic calibration", healthy, pathology)?;
        // Lowest score first: (cases, sick, first score, last score) of each pool.
        let mut pools: Vec<(u64, u64, f64, f64)> = Vec::new();
        for (i, step) in ranked.steps().iter().enumerate().rev() {
            let before = i.checked_sub(1).map_or((0, 0), |b| (ranked.steps()[b].healthy, ranked.steps()[b].pathology));
            let sick = step.pathology - before.1;
            let mut pool = (step.healthy - before.0 + sick, sick, step.threshold, step.threshold);
            // Fractions are compared crosswise, in whole numbers.
            let violates = |last: &(u64, u64, f64, f64), pool: &(u64, u64, f64, f64)| {
                u128::from(last.1) * u128::from(pool.0) >= u128::from(pool.1) * u128::from(last.0)
            };
            while let Some(last) = pools.pop_if(|last| violates(last, &pool)) {
                pool = (last.0 + pool.0, last.1 + pool.1, last.2, pool.3);
            }
            pools.push(pool);
        }
        let ends = |(n, sick, first, last): (u64, u64, f64, f64)| {
            let p = sick as f64 / n as f64;
            if first == last { vec![(first, p)] } else { vec![(first, p), (last, p)] }
        };
        Ok(Self { knots: pools.into_iter().flat_map(ends).collect() })
    }

    /// The probability of a score: linear between the fitted ones, constant beyond them.
    ///
    /// # Errors
    /// When `score` is not finite.
    pub fn probability(&self, score: f64) -> Result<f64, Error> {
        checked("isotonic calibration", "scores", &[score])?;
        let after = self.knots.partition_point(|k| k.0 < score);
        let right = self.knots[after.min(self.knots.len() - 1)];
        let left = self.knots[after.saturating_sub(1)];
        if right.0 <= left.0 {
            return Ok(left.1);
        }
        Ok(left.1 + (right.1 - left.1) * (score - left.0) / (right.0 - left.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set() -> impl Strategy<Value = Vec<f64>> {
        prop::collection::vec((0..15i32).prop_map(f64::from), 1..30)
    }

    proptest! {
        #[test]
        fn p_values_fall_and_are_never_zero(validation in set(), score in -5.0..20.0f64) {
            let reference = Reference::new(&validation).unwrap();
            let p = reference.p_value(score).unwrap();
            prop_assert!(p > 0.0 && p <= 1.0 && reference.p_value(score + 1.0).unwrap() <= p);
            // Scores that tie with validation scores, and scores that do not.
            for score in [score, score.round()] {
                let counted = validation.iter().filter(|v| **v >= score).count();
                prop_assert_eq!(reference.p_value(score), Ok((1 + counted) as f64 / (1 + validation.len()) as f64));
            }
        }

        #[test]
        fn isotonic_rises_and_keeps_the_mean(healthy in set(), sick in set()) {
            let fit = Isotonic::fit(&healthy, &sick).unwrap();
            prop_assert!(fit.knots.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1));
            let all: Vec<f64> = healthy.iter().chain(&sick).map(|s| fit.probability(*s).unwrap()).collect();
            prop_assert!((all.iter().sum::<f64>() - sick.len() as f64).abs() < 1e-9);
        }

        #[test]
        fn drift_is_symmetric(a in set(), b in set()) {
            let (there, back) = (Reference::new(&a).unwrap().drift(&b).unwrap(), Reference::new(&b).unwrap().drift(&a).unwrap());
            prop_assert_eq!(there.statistic, back.statistic);
            prop_assert!((there.p - back.p).abs() < 1e-12);
        }
    }

    #[test]
    fn exact_and_asymptotic_agree_where_both_hold() {
        for distance in [0.03, 0.06, 0.1] {
            let exact = exact_p(1000, 1500, (distance * 1.5e6) as u128);
            let limit = asymptotic_p(1000, 1500, distance);
            assert!((exact - limit).abs() < 0.02 * limit.max(0.05), "{distance}: {exact} {limit}");
        }
        assert_eq!(asymptotic_p(10_000, 10_000, 0.0), 1.0);
    }

    #[test]
    fn calibration_of_the_simplest() {
        let sick = [true, false, true, false];
        assert_eq!(brier(&[1.0, 0.0, 1.0, 0.0], &sick), Ok(0.0));
        assert_eq!(brier(&[0.5; 4], &sick), Ok(0.25));
        assert_eq!(expected_calibration_error(&[0.5; 4], &sick, 10), Ok(0.0));
        assert_eq!(expected_calibration_error(&[1.0; 4], &sick, 10), Ok(0.5));
        assert_eq!(reliability(&[1.0; 4], &sick, 10).unwrap().len(), 1);
        assert!(brier(&[1.5], &[true]).unwrap_err().to_string().contains("probability 0 is 1.5"));
        assert!(brier(&[0.5], &[]).is_err() && reliability(&[0.5], &[true], 0).is_err());
        assert!(matches!(brier(&[f64::NAN], &[true]), Err(Error::NotFinite { .. })));
    }
}
