//! Many comparisons, and how their numbers stand in a table.

use crate::{Error, Estimate};

/// p-values corrected for their number by Holm 1979 (Scand. J. Statist. 6:65), in the order given: reject where it is at most
/// the level, and the chance of any false rejection is at most the level. None in, none out.
///
/// # Errors
/// When a value is not in 0..=1.
pub fn holm(p: &[f64]) -> Result<Vec<f64>, Error> {
    if let Some(index) = p.iter().position(|p| !(0.0..=1.0).contains(p)) {
        let why = format!("p-value {index} is {}; it lies in 0..=1", p[index]);
        return Err(Error::Shape { what: "Holm's correction", why });
    }
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let mut corrected = vec![0.0; p.len()];
    let mut highest = 0.0f64;
    for (done, i) in order.into_iter().enumerate() {
        highest = highest.max(((p.len() - done) as f64 * p[i]).min(1.0));
        corrected[i] = highest;
    }
    Ok(corrected)
}

/// Which way a metric is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// AUROC, AUPRC, SSIM, sensitivity.
    Higher,
    /// FPR@TPR, L1, LPIPS, FID, Brier.
    Lower,
}

/// Which entries of a column are set bold: the best, and all that are printed as the same number. `None` and NaN never are.
/// Bold says nothing of significance; that is the p-value's part.
pub fn best(column: &[Option<f64>], better: Better, decimals: usize) -> Vec<bool> {
    let candidates = column.iter().flatten().filter(|v| !v.is_nan());
    let best = match better {
        Better::Higher => candidates.max_by(|a, b| a.total_cmp(b)),
        Better::Lower => candidates.min_by(|a, b| a.total_cmp(b)),
    };
    let printed = |v: &f64| fixed(*v, decimals);
    let best = best.map(printed);
    column.iter().map(|v| v.filter(|v| !v.is_nan()).is_some_and(|v| Some(printed(&v)) == best)).collect()
}

/// `v` with so many decimals; zero has no sign.
fn fixed(v: f64, decimals: usize) -> String {
    let text = format!("{v:.decimals$}");
    match text.strip_prefix('-') {
        Some(digits) if digits.chars().all(|c| matches!(c, '0' | '.')) => digits.to_owned(),
        _ => text,
    }
}

/// `0.812 [0.790, 0.833]`: a number and its interval.
pub fn format_interval(estimate: &Estimate, decimals: usize) -> String {
    let [value, low, high] = [estimate.value, estimate.low, estimate.high].map(|v| fixed(v, decimals));
    format!("{value} [{low}, {high}]")
}

/// `0.812 ± 0.022`: half the interval's width after the sign. Of a skewed interval this says less than
/// [`format_interval`].
pub fn format_plus_minus(estimate: &Estimate, decimals: usize) -> String {
    format!("{} ± {}", fixed(estimate.value, decimals), fixed((estimate.high - estimate.low) / 2.0, decimals))
}

/// `0.034`, or `<0.001`: p-values with three decimals.
pub fn format_p(p: f64) -> String {
    if p < 0.001 { "<0.001".to_owned() } else { format!("{p:.3}") }
}

/// Mean and sample standard deviation of the same number over runs, seeds or datasets; the deviation of a single one is
/// `None`.
///
/// # Errors
/// When there are no values or one is not finite.
pub fn mean_and_deviation(values: &[f64]) -> Result<(f64, Option<f64>), Error> {
    crate::checked("mean", "values", values)?;
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
    Ok((mean, (values.len() > 1).then(|| (squares / (values.len() - 1) as f64).sqrt())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn holm_steps_down() {
        // The worked example is arithmetic: 4·0.005, 3·0.01, then 2·0.03 and 1·0.04 raised to it.
        let corrected = holm(&[0.01, 0.04, 0.03, 0.005]).unwrap();
        for (got, wanted) in corrected.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!((got - wanted).abs() < 1e-15, "{corrected:?}");
        }
        assert_eq!(holm(&[]), Ok(Vec::new()));
        assert!(holm(&[0.5, f64::NAN]).unwrap_err().to_string().contains("p-value 1"));
    }

    proptest! {
        #[test]
        fn holm_is_between_none_and_bonferroni(p in prop::collection::vec(0.0..=1.0f64, 1..20)) {
            let corrected = holm(&p).unwrap();
            for (p, c) in p.iter().zip(&corrected) {
                prop_assert!(p <= c && *c <= 1.0);
            }
            let lowest = p.iter().copied().fold(1.0, f64::min);
            prop_assert_eq!(corrected.iter().copied().fold(1.0, f64::min), (lowest * p.len() as f64).min(1.0));
        }
    }

    #[test]
    fn ties_in_print_are_both_bold() {
        let column = [Some(0.8121), Some(0.8119), None, Some(f64::NAN), Some(0.8)];
        assert_eq!(best(&column, Better::Higher, 3), [true, true, false, false, false]);
        assert_eq!(best(&column, Better::Lower, 3), [false, false, false, false, true]);
        assert_eq!(best(&[None], Better::Lower, 3), [false]);
    }

    #[test]
    fn numbers_in_tables() {
        let estimate = Estimate { value: 0.8119, low: 0.79, high: 0.8342 };
        assert_eq!(format_interval(&estimate, 3), "0.812 [0.790, 0.834]");
        assert_eq!(format_plus_minus(&estimate, 2), "0.81 ± 0.02");
        assert_eq!(format_interval(&Estimate { value: -0.0001, low: -0.01, high: 0.01 }, 2), "0.00 [-0.01, 0.01]");
        assert_eq!((format_p(0.0342), format_p(1e-9)), ("0.034".to_owned(), "<0.001".to_owned()));
        assert_eq!(mean_and_deviation(&[1.0, 3.0]), Ok((2.0, Some(2f64.sqrt()))));
        assert_eq!(mean_and_deviation(&[1.0]), Ok((1.0, None)));
    }
}
