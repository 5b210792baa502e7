//! Variance of the AUROC and the test of two methods on the same cases, after DeLong, DeLong & Clarke-Pearson 1988
//! (Biometrics 44:837), by mid-ranks as Sun & Xu 2014 (IEEE SPL 21:1389): O(n log n).

use std::collections::BTreeMap;

use crate::{Error, Estimate, HEALTHY, PATHOLOGY, bootstrap::paired, checked, multiple::holm, normal};

const WHAT: &str = "DeLong";

/// The share of the other class that each case wins against, ties counting half. Their mean is the AUROC.
#[derive(Debug)]
struct Placements {
    healthy: Vec<f64>,
    pathology: Vec<f64>,
}

/// Ranks from 1, of ties the mean, in the order of `values`.
fn mid_ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_unstable_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    // By value: 0 and −0 tie, though total order has them apart.
    for ties in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let rank = start as f64 + 0.5 * (ties.len() + 1) as f64;
        ties.iter().for_each(|i| ranks[*i] = rank);
        start += ties.len();
    }
    ranks
}

impl Placements {
    fn new(healthy: &[f64], pathology: &[f64]) -> Result<Self, Error> {
        checked(WHAT, HEALTHY, healthy)?;
        checked(WHAT, PATHOLOGY, pathology)?;
        for (name, set) in [("healthy", healthy), ("pathological", pathology)] {
            if set.len() < 2 {
                let why = format!("a variance takes two {name} cases at least, there is one");
                return Err(Error::Shape { what: WHAT, why });
            }
        }
        let (m, n) = (pathology.len(), healthy.len());
        let all = mid_ranks(&[pathology, healthy].concat());
        let (own_sick, own_healthy) = (mid_ranks(pathology), mid_ranks(healthy));
        Ok(Self {
            pathology: (0..m).map(|i| (all[i] - own_sick[i]) / n as f64).collect(),
            healthy: (0..n).map(|j| 1.0 - (all[m + j] - own_healthy[j]) / m as f64).collect(),
        })
    }

    /// The mean of the placements of several times on the same cases.
    fn mean(times: &[[&[f64]; 2]]) -> Result<Self, Error> {
        let all = times.iter().map(|[healthy, sick]| Self::new(healthy, sick)).collect::<Result<Vec<Self>, Error>>()?;
        let n = all.len() as f64;
        let sum = |mut sum: Self, next: Self| {
            sum.healthy.iter_mut().zip(&next.healthy).for_each(|(a, b)| *a += b);
            sum.pathology.iter_mut().zip(&next.pathology).for_each(|(a, b)| *a += b);
            sum
        };
        let mut total =
            all.into_iter().reduce(sum).ok_or(Error::Empty { what: WHAT, set: "trained networks of a method" })?;
        total.healthy.iter_mut().chain(&mut total.pathology).for_each(|v| *v /= n);
        Ok(total)
    }

    fn auroc(&self) -> f64 {
        mean(&self.pathology)
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn sample_covariance(a: &[f64], b: &[f64]) -> f64 {
    let (mean_a, mean_b) = (mean(a), mean(b));
    a.iter().zip(b).map(|(a, b)| (a - mean_a) * (b - mean_b)).sum::<f64>() / (a.len() - 1) as f64
}

fn covariance(a: &Placements, b: &Placements) -> f64 {
    sample_covariance(&a.pathology, &b.pathology) / a.pathology.len() as f64
        + sample_covariance(&a.healthy, &b.healthy) / a.healthy.len() as f64
}

/// Variance of the AUROC. 0 where the classes are wholly apart: then no interval says anything.
///
/// # Errors
/// When a class has fewer than two cases or a score is not finite.
pub fn delong_variance(healthy: &[f64], pathology: &[f64]) -> Result<f64, Error> {
    let placements = Placements::new(healthy, pathology)?;
    Ok(covariance(&placements, &placements))
}

/// AUROC with DeLong's interval at `level`: ± normal quantile × standard error, cut to 0..=1 (pROC's default).
///
/// # Errors
/// As [`delong_variance`], and when `level` is not between 0 and 1.
pub fn delong_ci(healthy: &[f64], pathology: &[f64], level: f64) -> Result<Estimate, Error> {
    let placements = Placements::new(healthy, pathology)?;
    let auroc = placements.auroc();
    let reach = half_width(level)? * covariance(&placements, &placements).max(0.0).sqrt();
    Ok(Estimate { value: auroc, low: (auroc - reach).max(0.0), high: (auroc + reach).min(1.0) })
}

fn half_width(level: f64) -> Result<f64, Error> {
    if level > 0.0 && level < 1.0 {
        Ok(normal::half_width(level))
    } else {
        Err(Error::Shape { what: WHAT, why: format!("level {level} gives no interval") })
    }
}

/// Two methods' AUROC on the same cases.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DelongTest {
    /// The first method's AUROC.
    pub first: f64,
    /// The second's.
    pub second: f64,
    /// First minus second, with its 95 % interval.
    pub difference: Estimate,
    /// The difference in standard errors: 0 where methods do not differ, infinite where they do and neither varies.
    pub z: f64,
    /// Two-sided p-value of no difference.
    pub p: f64,
}

/// Whether two methods' AUROC differ on the same cases: `[healthy, pathology]` scores of each, in the same order of cases.
/// Correlation between the methods is taken into account. Only ranks count, so methods need no common scale.
///
/// # Errors
/// As [`delong_variance`], and when the methods have not scored equally many cases.
pub fn delong_test(first: [&[f64]; 2], second: [&[f64]; 2]) -> Result<DelongTest, Error> {
    paired(WHAT, first, second)?;
    let (a, b) = (Placements::new(first[0], first[1])?, Placements::new(second[0], second[1])?);
    test(&a, &b, None)
}

fn test(a: &Placements, b: &Placements, persons: Option<&Persons>) -> Result<DelongTest, Error> {
    let (first, second) = (a.auroc(), b.auroc());
    let difference = first - second;
    // As the variance of the differences of placements: the same number as var a + var b − 2 cov, but it cannot turn
    // negative, and is exactly 0 for equal methods.
    let minus = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a - b).collect();
    let apart = Placements { healthy: minus(&a.healthy, &b.healthy), pathology: minus(&a.pathology, &b.pathology) };
    let variance = persons.map_or_else(|| covariance(&apart, &apart), |p| p.variance(&apart));
    let error = variance.max(0.0).sqrt();
    let z = if difference == 0.0 { 0.0 } else { difference / error };
    let reach = half_width(0.95)? * error;
    let estimate = Estimate { value: difference, low: difference - reach, high: difference + reach };
    Ok(DelongTest { first, second, difference: estimate, z, p: normal::two_sided(z) })
}

/// One of many tests.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Position of the first method.
    pub first: usize,
    /// Position of the second.
    pub second: usize,
    /// The test.
    pub test: DelongTest,
    /// Its p-value after Holm's correction for all tests that were made.
    pub p_holm: f64,
}

/// DeLong's test of every pair of methods, `[healthy, pathology]` scores of each on the same cases, corrected for their
/// number by Holm. With `reference`, only the pairs with that method: fewer tests, more power.
///
/// # Errors
/// As [`delong_test`], and when `reference` is none of the methods.
pub fn delong_comparisons(methods: &[[&[f64]; 2]], reference: Option<usize>) -> Result<Vec<Comparison>, Error> {
    let methods: Vec<Vec<[&[f64]; 2]>> = methods.iter().map(|m| vec![*m]).collect();
    delong_repeats(&methods, None, reference)
}

/// As [`delong_comparisons`], of methods that were trained several times each: of each the mean AUROC over the times, which is
/// linear in the placements. What is tested is whether these networks differ on other cases, not whether other seeds would.
///
/// With `patients`, `[healthy, pathology]` in the order of the scores, images of one person are one piece of evidence: the
/// variance is that of Obuchowski 1997 (Biometrics 53:567), which is DeLong's where each person has one image.
///
/// # Errors
/// As [`delong_comparisons`], when a method has no scores, and when patients do not fit or a class has only one.
pub fn delong_repeats(
    methods: &[Vec<[&[f64]; 2]>],
    patients: Option<[&[u64]; 2]>,
    reference: Option<usize>,
) -> Result<Vec<Comparison>, Error> {
    if let Some(reference) = reference.filter(|r| *r >= methods.len()) {
        let why = format!("method {reference} is the reference, but there are {} methods", methods.len());
        return Err(Error::Shape { what: WHAT, why });
    }
    let mut times = methods.iter().flatten();
    let first = times.next();
    if let Some(first) = first {
        times.try_for_each(|m| paired(WHAT, *first, *m))?;
    }
    let persons = match (patients, first) {
        (Some(patients), Some(first)) => Some(Persons::new(patients, [first[0].len(), first[1].len()])?),
        _ => None,
    };
    let placements = methods.iter().map(|m| Placements::mean(m)).collect::<Result<Vec<Placements>, Error>>()?;
    let pairs: Vec<(usize, usize)> = match reference {
        Some(r) => (0..methods.len()).filter(|i| *i != r).map(|i| (r, i)).collect(),
        None => (0..methods.len()).flat_map(|i| (i + 1..methods.len()).map(move |j| (i, j))).collect(),
    };
    let tests = pairs
        .iter()
        .map(|(i, j)| test(&placements[*i], &placements[*j], persons.as_ref()))
        .collect::<Result<Vec<DelongTest>, Error>>()?;
    let corrected = holm(&tests.iter().map(|t| t.p).collect::<Vec<f64>>())?;
    let rows = pairs.into_iter().zip(tests).zip(corrected);
    Ok(rows.map(|(((first, second), test), p_holm)| Comparison { first, second, test, p_holm }).collect())
}

/// The cases of each person: positions among the healthy, and among the pathological.
struct Persons(Vec<[Vec<usize>; 2]>);

impl Persons {
    fn new(patients: [&[u64]; 2], cases: [usize; 2]) -> Result<Self, Error> {
        let mut all = BTreeMap::<u64, [Vec<usize>; 2]>::new();
        for (class, (patients, cases)) in patients.iter().zip(cases).enumerate() {
            if patients.len() != cases {
                let why = format!("{cases} scores, but {} patients", patients.len());
                return Err(Error::Shape { what: WHAT, why });
            }
            for (case, patient) in patients.iter().enumerate() {
                all.entry(*patient).or_default()[class].push(case);
            }
        }
        let persons = Self(all.into_values().collect());
        for (class, name) in ["healthy", "pathological"].into_iter().enumerate() {
            if persons.count(class) < 2 {
                let why = format!("a variance takes {name} cases of two persons at least");
                return Err(Error::Shape { what: WHAT, why });
            }
        }
        Ok(persons)
    }

    fn count(&self, class: usize) -> usize {
        self.0.iter().filter(|cases| !cases[class].is_empty()).count()
    }

    /// Variance of the mean placement, persons being drawn and not images. A person with both kinds of images makes the classes
    /// depend on each other.
    fn variance(&self, p: &Placements) -> f64 {
        let (centre, classes) = ([mean(&p.healthy), mean(&p.pathology)], [&p.healthy, &p.pathology]);
        let sum = |cases: &[Vec<usize>; 2], class: usize| -> f64 {
            cases[class].iter().map(|i| classes[class][*i] - centre[class]).sum::<f64>() / classes[class].len() as f64
        };
        let unbiased = |n: usize| n as f64 / (n as f64 - 1.0);
        let own = |class: usize| {
            let squares: f64 = self.0.iter().map(|cases| sum(cases, class).powi(2)).sum();
            unbiased(self.count(class)) * squares
        };
        let shared: f64 = self.0.iter().map(|cases| sum(cases, 0) * sum(cases, 1)).sum();
        own(0) + own(1) + 2.0 * unbiased(self.0.len()) * shared
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::auroc;

    fn set(n: std::ops::Range<usize>) -> impl Strategy<Value = Vec<f64>> {
        prop::collection::vec((0..10i32).prop_map(f64::from), n)
    }

    /// Straight from the definition: one kernel for each pair.
    fn by_pairs(healthy: &[f64], sick: &[f64]) -> f64 {
        let wins = |s: f64, h: f64| {
            if s > h {
                1.0
            } else if s == h {
                0.5
            } else {
                0.0
            }
        };
        let v10: Vec<f64> =
            sick.iter().map(|s| mean(&healthy.iter().map(|h| wins(*s, *h)).collect::<Vec<_>>())).collect();
        let v01: Vec<f64> =
            healthy.iter().map(|h| mean(&sick.iter().map(|s| wins(*s, *h)).collect::<Vec<_>>())).collect();
        sample_covariance(&v10, &v10) / sick.len() as f64 + sample_covariance(&v01, &v01) / healthy.len() as f64
    }

    proptest! {
        #[test]
        fn mid_ranks_do_what_pairs_do((healthy, sick) in (set(2..40), set(2..40))) {
            let variance = delong_variance(&healthy, &sick).unwrap();
            prop_assert!((variance - by_pairs(&healthy, &sick)).abs() < 1e-12);
            let ci = delong_ci(&healthy, &sick, 0.95).unwrap();
            prop_assert!((ci.value - auroc(&healthy, &sick).unwrap()).abs() < 1e-12);
            prop_assert!(ci.low <= ci.value && ci.value <= ci.high);
            let mirrored = delong_ci(&sick, &healthy, 0.95).unwrap();
            prop_assert!((ci.low + mirrored.high - 1.0).abs() < 1e-9);
        }

        #[test]
        fn the_test_is_antisymmetric_and_looks_at_ranks((h1, h2) in (set(12..13), set(12..13)), (p1, p2) in (set(9..10), set(9..10))) {
            let there = delong_test([&h1, &p1], [&h2, &p2]).unwrap();
            let back = delong_test([&h2, &p2], [&h1, &p1]).unwrap();
            prop_assert!((there.z + back.z).abs() < 1e-9 || there.z == -back.z);
            prop_assert!((0.0..=1.0).contains(&there.p));
            let scaled = |v: &[f64]| v.iter().map(|v| v.powi(3) + 4.0).collect::<Vec<f64>>();
            prop_assert_eq!(there, delong_test([&scaled(&h1), &scaled(&p1)], [&h2, &p2]).unwrap());
        }
    }

    #[test]
    fn the_edges() {
        let (healthy, sick) = ([0.0, 1.0, 2.0], [3.0, 4.0]);
        assert_eq!(delong_variance(&healthy, &sick), Ok(0.0));
        let same = delong_test([&healthy, &sick], [&healthy, &sick]).unwrap();
        assert_eq!((same.z, same.p), (0.0, 1.0));
        let opposite = delong_test([&healthy, &sick], [&[9.0, 9.0, 9.0], &sick]).unwrap();
        assert_eq!((opposite.z, opposite.p), (f64::INFINITY, 0.0));
        assert_eq!(delong_ci(&[1.0; 5], &[1.0; 6], 0.95).unwrap().value, 0.5);
        assert!(delong_variance(&[1.0], &sick).unwrap_err().to_string().contains("two healthy cases"));
        assert!(delong_test([&healthy, &sick], [&healthy, &sick[1..]]).is_err());
        assert!(delong_ci(&healthy, &sick, 1.0).is_err());
        assert!(matches!(delong_variance(&[0.0, f64::NAN], &sick), Err(Error::NotFinite { index: 1, .. })));
    }

    #[test]
    fn many_methods_are_corrected() {
        let healthy: Vec<f64> = (0..40).map(f64::from).collect();
        let sick: Vec<f64> = (0..40).map(|i| f64::from(i * 7 % 40) + 15.0).collect();
        let noise: Vec<f64> = (0..40).map(|i| f64::from(i * 11 % 40)).collect();
        let methods: [[&[f64]; 2]; 3] = [[&healthy, &sick], [&healthy, &noise], [&noise, &sick]];
        let all = delong_comparisons(&methods, None).unwrap();
        assert_eq!(all.iter().map(|c| (c.first, c.second)).collect::<Vec<_>>(), [(0, 1), (0, 2), (1, 2)]);
        assert!(all.iter().all(|c| c.p_holm >= c.test.p));
        assert_eq!(delong_comparisons(&methods, Some(2)).unwrap().len(), 2);
        assert!(delong_comparisons(&methods, Some(3)).is_err());
        assert_eq!(delong_comparisons(&[], None), Ok(Vec::new()));
    }

    #[test]
    fn images_of_one_person_are_one_piece_of_evidence() {
        let healthy: Vec<f64> = (0..30).map(f64::from).collect();
        let (a, b): (Vec<f64>, Vec<f64>) = (
            (0..30).map(|i| f64::from(i * 7 % 30) + 9.0).collect(),
            (0..30).map(|i| f64::from(i * 11 % 30) + 4.0).collect(),
        );
        let methods = |h: &[f64], a: &[f64], b: &[f64], patients| {
            delong_repeats(&[vec![[h, a]], vec![[h, b]]], patients, Some(0)).unwrap()[0].test
        };
        let plain = methods(&healthy, &a, &b, None);
        let (first, second): (Vec<u64>, Vec<u64>) = ((0..30).collect(), (30..60).collect());
        let each = methods(&healthy, &a, &b, Some([first.as_slice(), second.as_slice()]));
        assert!((plain.z - each.z).abs() < 1e-12, "one image a person: DeLong's");
        let twice = |v: &[f64]| v.iter().flat_map(|v| [*v, *v]).collect::<Vec<f64>>();
        let who = |v: &[u64]| v.iter().flat_map(|v| [*v, *v]).collect::<Vec<u64>>();
        let (h2, a2, b2) = (twice(&healthy), twice(&a), twice(&b));
        let (first2, second2) = (who(&first), who(&second));
        let doubled = methods(&h2, &a2, &b2, Some([first2.as_slice(), second2.as_slice()]));
        assert!((plain.z - doubled.z).abs() < 1e-12, "each image twice tells no more");
        assert!(methods(&h2, &a2, &b2, None).z.abs() > 1.3 * plain.z.abs(), "but it seems to, without persons");
        let one = [0; 30];
        let same = delong_repeats(&[vec![[healthy.as_slice(), a.as_slice()]]], Some([&one, &one]), None);
        assert!(same.unwrap_err().to_string().contains("two persons"));
    }

    /// Obuchowski's variance from its definition, where persons have images of both kinds.
    #[test]
    fn persons_with_both_kinds_of_images() {
        let (healthy, sick) = ([1.0, 4.0, 2.0, 6.0, 3.0], [5.0, 7.0, 3.0, 8.0]);
        let other = [6.0, 2.0, 4.0, 9.0];
        let (who_healthy, who_sick) = ([1, 1, 2, 3, 4], [1, 2, 5, 5]);
        let methods = [vec![[&healthy[..], &sick[..]]], vec![[&healthy[..], &other[..]]]];
        let got = delong_repeats(&methods, Some([&who_healthy, &who_sick]), Some(0)).unwrap()[0].test;
        let wins = |s: f64, h: f64| if s > h { 1.0 } else { f64::from(u8::from(s == h)) / 2.0 };
        let kernel = |i: usize, j: usize| wins(sick[i], healthy[j]) - wins(other[i], healthy[j]);
        let (m, n) = (4.0, 5.0);
        let theta = (0..4).flat_map(|i| (0..5).map(move |j| (i, j))).map(|(i, j)| kernel(i, j)).sum::<f64>() / (m * n);
        let x = |i: usize| (0..5).map(|j| kernel(i, j)).sum::<f64>() / n - theta;
        let y = |j: usize| (0..4).map(|i| kernel(i, j)).sum::<f64>() / m - theta;
        let sums = |person: u64| {
            let of = |who: &[u64], f: &dyn Fn(usize) -> f64| -> f64 {
                who.iter().enumerate().filter(|(_, w)| **w == person).map(|(k, _)| f(k)).sum()
            };
            (of(&who_sick, &x), of(&who_healthy, &y))
        };
        let all: Vec<(f64, f64)> = (1..=5).map(sums).collect();
        // Sick images are of 3 persons, healthy ones of 4, all of 5.
        let s10 = 3.0 / (2.0 * m) * all.iter().map(|(x, _)| x * x).sum::<f64>();
        let s01 = 4.0 / (3.0 * n) * all.iter().map(|(_, y)| y * y).sum::<f64>();
        let s11 = 5.0 / 4.0 * all.iter().map(|(x, y)| x * y).sum::<f64>();
        let variance = s10 / m + s01 / n + 2.0 * s11 / (m * n);
        assert!((got.difference.value - theta).abs() < 1e-12);
        assert!((got.z - theta / variance.sqrt()).abs() < 1e-9, "{} {}", got.z, theta / variance.sqrt());
    }

    #[test]
    fn a_method_that_was_trained_several_times_is_its_mean() {
        let healthy: Vec<f64> = (0..20).map(f64::from).collect();
        let seed = |k: i32| (0..20).map(|i| f64::from(i * k % 20) + 8.0).collect::<Vec<f64>>();
        let (a, b, c) = (seed(7), seed(3), seed(11));
        let h = healthy.as_slice();
        let methods = [vec![[h, a.as_slice()], [h, b.as_slice()]], vec![[h, c.as_slice()]]];
        let test = delong_repeats(&methods, None, Some(1)).unwrap()[0].test;
        let mean = (auroc(h, &a).unwrap() + auroc(h, &b).unwrap()) / 2.0;
        assert!((test.second - mean).abs() < 1e-12 && (test.first - auroc(h, &c).unwrap()).abs() < 1e-12);
        let same = [vec![[h, a.as_slice()], [h, a.as_slice()]], vec![[h, a.as_slice()]]];
        assert_eq!(delong_repeats(&same, None, None).unwrap()[0].test.p, 1.0);
        assert!(delong_repeats(&[vec![], vec![[h, c.as_slice()]]], None, None).is_err());
    }
}
