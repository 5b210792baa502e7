//! Quantiles.

use crate::{Error, checked};

pub(crate) fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values
}

/// The quantile of sorted values, linear between neighbours (numpy's default). `q` in 0..=1, at least one value.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let low = at.floor() as usize;
    let high = (low + 1).min(sorted.len() - 1);
    sorted[low] + (sorted[high] - sorted[low]) * (at - low as f64)
}

/// The `q`-quantile of `values`, linear between neighbours: `numpy.quantile`'s default.
///
/// # Errors
/// When there are no values, one is not finite, or `q` is not in 0..=1.
pub fn quantile_of(values: &[f64], q: f64) -> Result<f64, Error> {
    const WHAT: &str = "quantile";
    checked(WHAT, "values", values)?;
    crate::curves::share(WHAT, "quantile", q)?;
    Ok(quantile(&sorted(values.to_vec()), q))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_numpys() {
        assert_eq!(quantile_of(&[4.0, 2.0, 3.0, 1.0], 0.5), Ok(2.5));
        assert_eq!(quantile_of(&[1.0, 2.0, 3.0, 4.0], 0.25), Ok(1.75));
        assert_eq!(quantile_of(&[5.0], 0.9), Ok(5.0));
        assert!(quantile_of(&[5.0], 1.1).is_err());
    }
}
