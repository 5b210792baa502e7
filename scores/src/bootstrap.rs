//! Confidence intervals by resampling.

use morph_spec::Rng;

use crate::{Error, checked};

/// The percentile interval that holds `level` of `statistic` over `resamples` stratified resamples: each set is drawn from
/// with replacement, by itself, so that prevalence stays as it is. The same `seed` gives the same interval.
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
    checked(WHAT, "healthy set", healthy)?;
    checked(WHAT, "pathology set", pathology)?;
    if resamples == 0 || !(0.0..1.0).contains(&level) {
        return Err(Error::Shape {
            what: WHAT,
            why: format!("{resamples} resamples at level {level} give no interval"),
        });
    }
    let mut values = Vec::new();
    for i in 0..u64::from(resamples) {
        let mut rng = Rng::keyed(seed, "bootstrap", i);
        let mut draw =
            |set: &[f64]| set.iter().map(|_| set[rng.below(set.len() as u64) as usize]).collect::<Vec<f64>>();
        let (healthy, pathology) = (draw(healthy), draw(pathology));
        values.push(statistic(&healthy, &pathology)?);
    }
    values.sort_unstable_by(f64::total_cmp);
    let tail = (1.0 - level) / 2.0;
    Ok((quantile(&values, tail), quantile(&values, 1.0 - tail)))
}

/// The quantile of sorted values, linear between neighbours (numpy's default).
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let low = at.floor() as usize;
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + (sorted[high] - sorted[low]) * (at - low as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auroc;

    #[test]
    fn the_interval_holds_the_value_and_narrows_with_more_data() {
        let sample = |n: u64, shift: f64, seed: u64| -> Vec<f64> {
            let mut rng = Rng::keyed(seed, "test", 0);
            (0..n).map(|_| rng.uniform() + shift).collect()
        };
        let width = |n: u64| {
            let (healthy, sick) = (sample(n, 0.0, 1), sample(n, 0.2, 2));
            let (low, high) = bootstrap_ci(&healthy, &sick, auroc, 300, 0.95, 7).unwrap();
            let value = auroc(&healthy, &sick).unwrap();
            assert!(low <= value && value <= high, "{low} {value} {high}");
            assert_eq!((low, high), bootstrap_ci(&healthy, &sick, auroc, 300, 0.95, 7).unwrap());
            high - low
        };
        assert!(width(400) < width(40) / 2.0);
    }

    #[test]
    fn quantiles_are_numpys() {
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], 0.5), 2.5);
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 4.0], 0.25), 1.75);
        assert_eq!(quantile(&[5.0], 0.9), 5.0);
        assert!(bootstrap_ci(&[1.0], &[1.0], auroc, 0, 0.95, 1).is_err());
    }
}
