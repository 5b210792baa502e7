//! The normal distribution, to the last digits of an `f64`.

use std::f64::consts::{PI, SQRT_2};

/// Below this the series of erf is used, above it the continued fraction of erfc.
const SWITCH: f64 = 2.0;

/// The complementary error function of `x` ≥ 0. Abramowitz & Stegun 7.1.6 and 7.1.14.
fn erfc(x: f64) -> f64 {
    if x < SWITCH {
        // erf x = 2/√π · e^(−x²) · Σ 2ⁿ x^(2n+1) / (1·3·…·(2n+1)): all terms positive, nothing cancels.
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term > sum * f64::EPSILON / 4.0 {
            n += 1.0;
            term *= 2.0 * x * x / (2.0 * n + 1.0);
            sum += term;
        }
        1.0 - 2.0 / PI.sqrt() * (-x * x).exp() * sum
    } else {
        // √π e^(x²) erfc x = 1/(x + (1/2)/(x + 1/(x + (3/2)/(x + …)))), from the far end, where it has long converged.
        let fraction = (1..=120).rev().fold(x, |below, k| x + 0.5 * f64::from(k) / below);
        (-x * x).exp() / (fraction * PI.sqrt())
    }
}

/// Chance that a standard normal variable is farther from 0 than `z`, on either side.
pub(crate) fn two_sided(z: f64) -> f64 {
    erfc(z.abs() / SQRT_2)
}

fn upper_tail(z: f64) -> f64 {
    if z >= 0.0 { erfc(z / SQRT_2) / 2.0 } else { 1.0 - erfc(-z / SQRT_2) / 2.0 }
}

/// How far from 0 a standard normal variable lies with chance 1 − `level`: 1.96 for 0.95. `level` in 0..1.
pub(crate) fn half_width(level: f64) -> f64 {
    let tail = (1.0 - level) / 2.0;
    // Bisection, as it cannot fail; two hundred halvings end at neighbouring numbers.
    let (mut low, mut high) = (0.0, 40.0);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if upper_tail(middle) > tail {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_scipys() {
        // scipy.stats.norm.sf(z) · 2
        for (z, wanted) in [
            (0.0, 1.0),
            (0.5, 0.617_075_077_451_973_8),
            (1.959_963_984_540_054, 0.05),
            (2.8, 0.005_110_260_660_855_864),
            (2.9, 0.003_731_626_600_768_075),
            (5.0, 5.733_031_437_583_866e-7),
            (10.0, 1.523_970_604_832_094e-23),
        ] {
            let p = two_sided(z);
            assert!((p / wanted - 1.0).abs() < 1e-11, "{z}: {p}, scipy says {wanted}");
            assert_eq!(p, two_sided(-z));
        }
    }

    #[test]
    fn both_branches_meet() {
        let (below, above) = (erfc(SWITCH - 1e-12), erfc(SWITCH + 1e-12));
        assert!(below > above && (below / above - 1.0).abs() < 1e-10);
    }

    #[test]
    fn half_widths_are_scipys() {
        assert!((half_width(0.95) - 1.959_963_984_540_054).abs() < 1e-13);
        assert!((half_width(0.99) - 2.575_829_303_548_900_4).abs() < 1e-13);
        assert!((half_width(0.5) - 0.674_489_750_196_081_7).abs() < 1e-13);
    }
}
