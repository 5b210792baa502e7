//! Fréchet distance of two Gaussians fitted to features: FID's closed form (Heusel et al. 2017; Dowson & Landau 1982).
//!
//! d² = |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁Σ₂)^½. With Σ₁ = L₁L₁ᵀ and Σ₂ = L₂L₂ᵀ, the eigenvalues of Σ₁Σ₂ are the
//! squared singular values of L₁ᵀL₂, so the last trace is the sum of these singular values. No matrix square root is taken,
//! and singular covariances (fewer images than features, the rule here) need no added ε.

use crate::{Error, checked};

const WHAT: &str = "Fréchet distance";

/// A Gaussian fitted to features.
#[derive(Debug, Clone, PartialEq)]
pub struct Gaussian {
    mean: Vec<f64>,
    /// Row by row, symmetric.
    covariance: Vec<f64>,
}

/// Sums from which a Gaussian is fitted, one image after the other, so that features need not be kept. They are of the difference from
/// the first image, which loses no digits where features vary little. The same images in the same order give the same bits.
#[derive(Debug, Clone, Default)]
pub struct Moments {
    /// The first image's features.
    first: Vec<f64>,
    images: usize,
    sums: Vec<f64>,
    /// The upper triangle of the sums of products, row by row.
    products: Vec<f64>,
}

impl Moments {
    /// Takes in the features of one image.
    ///
    /// # Errors
    /// When they are none, not as many as the first image's, or one is not finite; nothing is taken in then.
    pub fn add(&mut self, features: &[f64]) -> Result<(), Error> {
        checked(WHAT, "features", features)?;
        let dimension = features.len();
        if self.images == 0 {
            *self = Self {
                first: features.to_vec(),
                images: 1,
                sums: vec![0.0; dimension],
                products: vec![0.0; dimension * (dimension + 1) / 2],
            };
            return Ok(());
        }
        if dimension != self.first.len() {
            let why = format!("an image has {dimension} features, the first {}", self.first.len());
            return Err(Error::Shape { what: WHAT, why });
        }
        self.images += 1;
        let apart: Vec<f64> = features.iter().zip(&self.first).map(|(v, first)| v - first).collect();
        let mut line = self.products.as_mut_slice();
        for (i, v) in apart.iter().enumerate() {
            self.sums[i] += v;
            let (row, rest) = line.split_at_mut(dimension - i);
            row.iter_mut().zip(&apart[i..]).for_each(|(sum, w)| *sum += v * w);
            line = rest;
        }
        Ok(())
    }

    /// How many images were taken in.
    pub fn images(&self) -> usize {
        self.images
    }

    /// The Gaussian: mean and sample covariance (÷ n − 1, as `numpy.cov`).
    ///
    /// # Errors
    /// When there are fewer than two images, which have no covariance.
    pub fn gaussian(&self) -> Result<Gaussian, Error> {
        if self.images < 2 {
            let why = format!("{} images have no covariance, two are the least", self.images);
            return Err(Error::Shape { what: WHAT, why });
        }
        let (n, dimension) = (self.images as f64, self.first.len());
        let mut covariance = vec![0.0; dimension * dimension];
        let mut line = self.products.as_slice();
        for i in 0..dimension {
            let (row, rest) = line.split_at(dimension - i);
            for (j, product) in (i..).zip(row) {
                let value = (product - self.sums[i] * self.sums[j] / n) / (n - 1.0);
                covariance[i * dimension + j] = value;
                covariance[j * dimension + i] = value;
            }
            line = rest;
        }
        let mean = self.first.iter().zip(&self.sums).map(|(first, sum)| first + sum / n).collect();
        Ok(Gaussian { mean, covariance })
    }
}

impl Gaussian {
    /// Fits to `features`, images × `dimension` values, row by row.
    ///
    /// # Errors
    /// When there are fewer than two images, sizes do not fit, or a value is not finite.
    pub fn fit(features: &[f64], dimension: usize) -> Result<Self, Error> {
        checked(WHAT, "features", features)?;
        if dimension == 0 || !features.len().is_multiple_of(dimension) {
            let why = format!("{} values are no images of {dimension} features", features.len());
            return Err(Error::Shape { what: WHAT, why });
        }
        let mut moments = Moments::default();
        features.chunks_exact(dimension).try_for_each(|image| moments.add(image))?;
        moments.gaussian()
    }

    /// From recorded moments: `covariance` is d × d, row by row.
    ///
    /// # Errors
    /// When sizes do not fit, a value is not finite, or the covariance is not symmetric.
    pub fn from_moments(mean: Vec<f64>, covariance: Vec<f64>) -> Result<Self, Error> {
        checked(WHAT, "mean", &mean)?;
        checked(WHAT, "covariance", &covariance)?;
        let n = mean.len();
        if covariance.len() != n * n {
            let why = format!("{} values are no covariance of {n} features", covariance.len());
            return Err(Error::Shape { what: WHAT, why });
        }
        let scale = (0..n).map(|i| covariance[i * n + i].abs()).fold(0.0, f64::max);
        let skew = |i: usize, j: usize| (covariance[i * n + j] - covariance[j * n + i]).abs() > 1e-8 * scale;
        if (0..n).any(|i| (0..i).any(|j| skew(i, j))) {
            return Err(Error::Shape { what: WHAT, why: "the covariance is not symmetric".to_owned() });
        }
        Ok(Self { mean, covariance })
    }

    /// Number of features.
    pub fn dimension(&self) -> usize {
        self.mean.len()
    }

    fn trace(&self) -> f64 {
        let n = self.dimension();
        (0..n).map(|i| self.covariance[i * n + i]).sum()
    }

    /// Columns of a factor L with LLᵀ = Σ: Cholesky with pivots, which stops where the rest is rounding. As many columns as
    /// the rank. `None` once `go_on` says no.
    fn factor(&self, go_on: &dyn Fn() -> bool) -> Result<Option<Vec<Vec<f64>>>, Error> {
        let n = self.dimension();
        let mut rest: Vec<f64> = (0..n).map(|i| self.covariance[i * n + i]).collect();
        let largest = rest.iter().copied().fold(0.0, f64::max);
        let negligible = largest * n as f64 * f64::EPSILON;
        let mut columns: Vec<Vec<f64>> = Vec::new();
        let mut done = vec![false; n];
        while columns.len() < n {
            if !go_on() {
                return Ok(None);
            }
            let Some(pivot) = (0..n).filter(|i| !done[*i]).max_by(|a, b| rest[*a].total_cmp(&rest[*b])) else { break };
            if rest[pivot] <= negligible {
                break;
            }
            done[pivot] = true;
            let root = rest[pivot].sqrt();
            let mut column = self.covariance[pivot * n..][..n].to_vec();
            for before in &columns {
                let by = before[pivot];
                column.iter_mut().zip(before).for_each(|(c, b)| *c -= by * b);
            }
            for (i, c) in column.iter_mut().enumerate() {
                // What is done is represented already; only rounding would be left there.
                *c = if i == pivot {
                    root
                } else if done[i] {
                    0.0
                } else {
                    *c / root
                };
                rest[i] -= *c * *c;
            }
            columns.push(column);
        }
        // A covariance has no negative variance left over.
        match rest.iter().position(|v| *v < -1e-6 * largest.max(f64::MIN_POSITIVE)) {
            None => Ok(Some(columns)),
            Some(i) => Err(Error::Shape { what: WHAT, why: format!("the covariance is not one: feature {i}") }),
        }
    }
}

/// Fréchet distance (squared, as FID is given) of two Gaussians: 0 when they are equal. O(d³): for Inception's 2048 features
/// some tens of seconds.
///
/// # Errors
/// When dimensions differ or a covariance is none.
pub fn frechet_distance(a: &Gaussian, b: &Gaussian) -> Result<f64, Error> {
    let found = frechet_distance_while(a, b, &|| true)?;
    Ok(found.expect("invariant: nothing ends it before its end"))
}

/// The same, as long as `go_on` says so: it is asked once for each feature and column, some milliseconds apart, and `None` is found once
/// it says no.
///
/// # Errors
/// As [`frechet_distance`].
pub fn frechet_distance_while(a: &Gaussian, b: &Gaussian, go_on: &dyn Fn() -> bool) -> Result<Option<f64>, Error> {
    if a.dimension() != b.dimension() {
        let why = format!("{} and {} features", a.dimension(), b.dimension());
        return Err(Error::Shape { what: WHAT, why });
    }
    let shift: f64 = a.mean.iter().zip(&b.mean).map(|(a, b)| (a - b) * (a - b)).sum();
    let Some(first) = a.factor(go_on)? else { return Ok(None) };
    let Some(second) = b.factor(go_on)? else { return Ok(None) };
    // The taller way round, as bidiagonalisation wants it.
    let (rows, columns) = if first.len() >= second.len() { (&first, &second) } else { (&second, &first) };
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    let column = |c: &Vec<f64>| go_on().then(|| rows.iter().map(|r| dot(r, c)).collect());
    let Some(product) = columns.iter().map(column).collect::<Option<Vec<Vec<f64>>>>() else { return Ok(None) };
    // Rounding must not turn nothing into less than nothing.
    let distance = |sum: f64| (shift + a.trace() + b.trace() - 2.0 * sum).max(0.0);
    Ok(singular_value_sum(product, go_on).map(distance))
}

/// Sum of the singular values of a matrix given by its columns, at least as tall as wide: Householder's bidiagonalisation,
/// then the eigenvalues of the tridiagonal [[0, B], [Bᵀ, 0]], which are ± the singular values (Golub & Kahan 1965). `None` once
/// `go_on` says no.
fn singular_value_sum(mut columns: Vec<Vec<f64>>, go_on: &dyn Fn() -> bool) -> Option<f64> {
    let n = columns.len();
    let Some(m) = columns.first().map(Vec::len) else { return Some(0.0) };
    // Off-diagonal of the tridiagonal matrix, in Golub and Kahan's order: d₁, e₁, d₂, e₂, …, dₙ; its diagonal is 0.
    let mut off = Vec::with_capacity(2 * n);
    for k in 0..n {
        if !go_on() {
            return None;
        }
        let (head, tail) = columns.split_at_mut(k + 1);
        let (alpha, v) = reflector(&head[k][k..]);
        off.push(alpha);
        for column in tail.iter_mut() {
            reflect(&v, &mut column[k..]);
        }
        if k + 1 == n {
            break;
        }
        let row: Vec<f64> = tail.iter().map(|c| c[k]).collect();
        let (beta, w) = reflector(&row);
        off.push(beta);
        // The same reflection on every row below, all at once: column by column, as they lie in memory.
        let mut along = vec![0.0; m - k - 1];
        for (column, w) in tail.iter().zip(&w) {
            along.iter_mut().zip(&column[k + 1..]).for_each(|(s, c)| *s += w * c);
        }
        for (column, w) in tail.iter_mut().zip(&w) {
            column[k + 1..].iter_mut().zip(&along).for_each(|(c, s)| *c -= 2.0 * w * s);
        }
    }
    absolute_eigenvalue_sum(&off, go_on).map(|sum| sum / 2.0)
}

/// The unit vector v and the value α with (1 − 2vvᵀ) x = α e₁; v is 0 where nothing is to be done.
fn reflector(x: &[f64]) -> (f64, Vec<f64>) {
    let largest = x.iter().fold(0.0f64, |a, v| a.max(v.abs()));
    let mut v = x.to_vec();
    if largest == 0.0 {
        return (0.0, v);
    }
    let norm = largest * x.iter().map(|v| (v / largest).powi(2)).sum::<f64>().sqrt();
    let alpha = if x[0] > 0.0 { -norm } else { norm };
    v[0] -= alpha;
    let length = v.iter().map(|v| v * v).sum::<f64>().sqrt();
    v.iter_mut().for_each(|v| *v /= length);
    (alpha, v)
}

fn reflect(v: &[f64], x: &mut [f64]) {
    let twice = 2.0 * v.iter().zip(x.iter()).map(|(v, x)| v * x).sum::<f64>();
    x.iter_mut().zip(v).for_each(|(x, v)| *x -= twice * v);
}

/// Sum of |λ| of the symmetric tridiagonal matrix with diagonal 0 and off-diagonal `off`. The number of eigenvalues below a
/// value is the number of negative pivots of its shifted factorisation (Sylvester); each is found by bisection, which
/// cannot fail to converge. Eigenvalues come in pairs ± λ, so only the upper half is looked for.
fn absolute_eigenvalue_sum(off: &[f64], go_on: &dyn Fn() -> bool) -> Option<f64> {
    let size = off.len() + 1;
    let squares: Vec<f64> = off.iter().map(|b| b * b).collect();
    let reach = |i: usize| off.get(i).map_or(0.0, |b| b.abs());
    let bound = (0..size).map(|i| reach(i) + i.checked_sub(1).map_or(0.0, reach)).fold(0.0, f64::max);
    if bound == 0.0 {
        return Some(0.0);
    }
    let tiny = f64::MIN_POSITIVE / f64::EPSILON;
    let below = |at: f64| {
        let mut pivot = -at;
        let mut count = usize::from(pivot < 0.0);
        for square in &squares {
            let safe = if pivot.abs() < tiny { -tiny } else { pivot };
            pivot = -at - square / safe;
            count += usize::from(pivot < 0.0);
        }
        count
    };
    let resolution = bound * f64::EPSILON;
    let mut sum = 0.0;
    let mut high = bound;
    // From the largest down: each bounds the next.
    for rank in (size / 2 + size % 2..size).rev() {
        if !go_on() {
            return None;
        }
        let (mut low, mut top) = (0.0, high);
        while top - low > resolution.max(top * f64::EPSILON) {
            let middle = 0.5 * (low + top);
            if below(middle) > rank { top = middle } else { low = middle }
        }
        high = top;
        sum += 0.5 * (low + top);
    }
    Some(2.0 * sum)
}

#[cfg(test)]
mod tests {
    use morph_spec::Rng;

    use super::*;

    fn features(images: usize, dimension: usize, seed: u64) -> Vec<f64> {
        let mut rng = Rng::keyed(seed, "features", 0);
        (0..images * dimension).map(|i| rng.uniform() * (1 + i % dimension) as f64).collect()
    }

    #[test]
    fn diagonal_covariances_have_a_closed_form() {
        let diagonal = |d: [f64; 3]| vec![d[0], 0.0, 0.0, 0.0, d[1], 0.0, 0.0, 0.0, d[2]];
        let a = Gaussian::from_moments(vec![0.0; 3], diagonal([1.0, 4.0, 0.0])).unwrap();
        let b = Gaussian::from_moments(vec![1.0, 0.0, 2.0], diagonal([9.0, 4.0, 25.0])).unwrap();
        // Σ (√a − √b)² + |Δμ|²
        assert!((frechet_distance(&a, &b).unwrap() - (4.0 + 25.0 + 5.0)).abs() < 1e-12);
        assert!(frechet_distance(&a, &a).unwrap() < 1e-12);
        let point = Gaussian::from_moments(vec![0.0; 3], vec![0.0; 9]).unwrap();
        assert!((frechet_distance(&point, &b).unwrap() - 43.0).abs() < 1e-12);
    }

    #[test]
    fn it_is_a_distance_that_shifts_and_scales() {
        // Fewer images than features: both covariances are singular.
        let (x, y) = (features(12, 20, 1), features(15, 20, 2));
        let fit = |v: &[f64]| Gaussian::fit(v, 20).unwrap();
        let (a, b) = (fit(&x), fit(&y));
        assert!(frechet_distance(&a, &a).unwrap() < 1e-9);
        let d = frechet_distance(&a, &b).unwrap();
        assert!((d - frechet_distance(&b, &a).unwrap()).abs() < 1e-9 * d);
        let double = |v: &[f64]| v.iter().map(|v| 2.0 * v + 3.0).collect::<Vec<f64>>();
        assert!((frechet_distance(&fit(&double(&x)), &fit(&double(&y))).unwrap() / d - 4.0).abs() < 1e-9);
        let moved: Vec<f64> = x.iter().map(|v| v + 0.5).collect();
        assert!((frechet_distance(&a, &fit(&moved)).unwrap() - 20.0 * 0.25).abs() < 1e-9);
    }

    #[test]
    fn it_ends_wherever_it_is_told_to() {
        use std::cell::Cell;

        let (x, y) = (features(40, 20, 1), features(45, 20, 2));
        let (a, b) = (Gaussian::fit(&x, 20).unwrap(), Gaussian::fit(&y, 20).unwrap());
        let asked = Cell::new(0);
        let until = |last: usize| {
            asked.set(0);
            frechet_distance_while(&a, &b, &|| asked.replace(asked.get() + 1) < last).unwrap()
        };
        assert_eq!(until(usize::MAX), Some(frechet_distance(&a, &b).unwrap()));
        // Two factors, their product, the reflections, the eigenvalues: 20 times each.
        let all = asked.get();
        assert_eq!(all, 5 * 20);
        for last in 0..all {
            assert_eq!(until(last), None);
            assert_eq!(asked.get(), last + 1, "it is asked no more once it has said no");
        }
    }

    #[test]
    fn the_edges() {
        let a = Gaussian::fit(&features(5, 3, 1), 3).unwrap();
        assert!(frechet_distance(&a, &Gaussian::fit(&features(5, 2, 1), 2).unwrap()).is_err());
        assert!(Gaussian::fit(&[1.0, 2.0], 2).is_err() && Gaussian::fit(&[], 2).is_err());
        assert!(matches!(Gaussian::fit(&[1.0, f64::NAN], 1), Err(Error::NotFinite { index: 1, .. })));
        assert!(Gaussian::from_moments(vec![0.0; 2], vec![1.0, 0.5, 0.0, 1.0]).is_err());
        assert!(Gaussian::from_moments(vec![0.0; 2], vec![1.0; 3]).is_err());
        let mut moments = Moments::default();
        moments.add(&[1.0, 2.0]).unwrap();
        assert!(moments.add(&[1.0]).unwrap_err().to_string().contains("1 features, the first 2"));
        assert!(moments.add(&[1.0, f64::INFINITY]).is_err());
        assert!(moments.gaussian().unwrap_err().to_string().contains("1 images have no covariance"));
        moments.add(&[3.0, 2.0]).unwrap();
        let two = Gaussian::from_moments(vec![2.0, 2.0], vec![2.0, 0.0, 0.0, 0.0]).unwrap();
        assert_eq!((moments.images(), moments.gaussian().unwrap()), (2, two));
        let none = Gaussian::from_moments(vec![0.0; 2], vec![1.0, 2.0, 2.0, 1.0]).unwrap();
        assert!(frechet_distance(&none, &none).unwrap_err().to_string().contains("is not one"));
    }
}
