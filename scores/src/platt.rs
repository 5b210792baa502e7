//! Platt's sigmoid from score to probability, and its fit.

use crate::{Error, HEALTHY, PATHOLOGY, checked};

const WHAT: &str = "Platt calibration";
/// Newton's steps: fewer than ten are the rule.
const STEPS: usize = 200;

/// A probability 1 / (1 + e^−(slope · score + offset)), fitted to a labelled set (Platt 1999, with his smoothed targets, which
/// keep the slope finite where classes are wholly apart). For those who have labels beside the test set; with few of them it is
/// steadier than [`Isotonic`](crate::Isotonic).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Platt {
    /// Change of the log-odds with the score.
    pub slope: f64,
    /// Log-odds at score 0.
    pub offset: f64,
}

fn sigmoid(x: f64) -> f64 {
    // The form whose exponential cannot overflow.
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

impl Platt {
    /// Fits to labelled scores by Newton's method on the cross entropy, which is convex.
    ///
    /// # Errors
    /// When a set is empty or a score is not finite.
    pub fn fit(healthy: &[f64], pathology: &[f64]) -> Result<Self, Error> {
        checked(WHAT, HEALTHY, healthy)?;
        checked(WHAT, PATHOLOGY, pathology)?;
        let n = (healthy.len() + pathology.len()) as f64;
        let (no, yes) = (1.0 / (healthy.len() as f64 + 2.0), 1.0 - 1.0 / (pathology.len() as f64 + 2.0));
        let all = || healthy.iter().map(move |s| (*s, no)).chain(pathology.iter().map(move |s| (*s, yes)));
        let mean = all().map(|(s, _)| s / n).sum::<f64>();
        let spread = all().map(|(s, _)| (s - mean).powi(2) / n).sum::<f64>().sqrt();
        let offset_alone = (pathology.len() as f64 + 1.0).ln() - (healthy.len() as f64 + 1.0).ln();
        // Compared by value: the mean of equal numbers may differ from them in the last digit.
        if all().all(|(s, _)| s == healthy[0]) {
            // A constant says nothing: what is left is the prevalence, as the smoothed targets have it.
            let target = all().map(|(_, t)| t / n).sum::<f64>();
            return Ok(Self { slope: 0.0, offset: (target / (1.0 - target)).ln() });
        }
        // On scores of mean 0 and deviation 1, so that steps are well conditioned whatever the unit of the score.
        let (mut a, mut b) = (0.0, offset_alone);
        let loss = |a: f64, b: f64| -> f64 {
            all()
                .map(|(s, t)| {
                    let x = a * (s - mean) / spread + b;
                    // ln(1 + eˣ) − t x
                    x.max(0.0) + (-x.abs()).exp().ln_1p() - t * x
                })
                .sum()
        };
        let mut now = loss(a, b);
        for _ in 0..STEPS {
            let (mut ga, mut gb, mut haa, mut hab, mut hbb) = (0.0, 0.0, 1e-12, 0.0, 1e-12);
            for (s, t) in all() {
                let z = (s - mean) / spread;
                let p = sigmoid(a * z + b);
                let (error, weight) = (p - t, p * (1.0 - p));
                ga += error * z;
                gb += error;
                haa += weight * z * z;
                hab += weight * z;
                hbb += weight;
            }
            let determinant = haa * hbb - hab * hab;
            let (da, db) = ((hbb * ga - hab * gb) / determinant, (haa * gb - hab * ga) / determinant);
            let mut size = 1.0;
            // Halved until it helps: far from the minimum a whole step can overshoot.
            while loss(a - size * da, b - size * db) > now && size > 1e-10 {
                size *= 0.5;
            }
            (a, b) = (a - size * da, b - size * db);
            let next = loss(a, b);
            if (size * da).abs() + (size * db).abs() < 1e-12 || next >= now {
                break;
            }
            now = next;
        }
        Ok(Self { slope: a / spread, offset: b - a * mean / spread })
    }

    /// The probability of a score.
    ///
    /// # Errors
    /// When `score` is not finite.
    pub fn probability(&self, score: f64) -> Result<f64, Error> {
        checked(WHAT, "scores", &[score])?;
        Ok(sigmoid(self.slope * score + self.offset))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set() -> impl Strategy<Value = Vec<f64>> {
        prop::collection::vec(-3.0..3.0f64, 1..40)
    }

    proptest! {
        #[test]
        fn the_mean_probability_is_the_mean_target(healthy in set(), sick in set()) {
            let fit = Platt::fit(&healthy, &sick).unwrap();
            let sum: f64 = healthy.iter().chain(&sick).map(|s| fit.probability(*s).unwrap()).sum();
            let (h, p) = (healthy.len() as f64, sick.len() as f64);
            prop_assert!((sum - h / (h + 2.0) - p * (p + 1.0) / (p + 2.0)).abs() < 1e-6);
        }

        #[test]
        fn the_unit_of_the_score_does_not_matter(healthy in set(), sick in set()) {
            let scaled = |v: &[f64]| v.iter().map(|v| v * 1e-4 + 7.0).collect::<Vec<f64>>();
            let (a, b) = (Platt::fit(&healthy, &sick).unwrap(), Platt::fit(&scaled(&healthy), &scaled(&sick)).unwrap());
            for s in [-2.0, 0.0, 2.5] {
                prop_assert!((a.probability(s).unwrap() - b.probability(s * 1e-4 + 7.0).unwrap()).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn the_edges() {
        let apart = Platt::fit(&[0.0, 1.0], &[5.0, 6.0]).unwrap();
        assert!(apart.slope > 0.0 && apart.slope.is_finite());
        let constant = Platt::fit(&[1.0; 3], &[1.0; 3]).unwrap();
        assert_eq!((constant.slope, constant.probability(9.0)), (0.0, Ok(0.5)));
        assert!(Platt::fit(&[], &[1.0]).is_err() && Platt::fit(&[f64::NAN], &[1.0]).is_err());
        assert_eq!((sigmoid(-1e3), sigmoid(1e3)), (0.0, 1.0));
    }
}
