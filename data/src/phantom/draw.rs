//! Random draws and the few image filters that the phantom needs.

use std::convert::Infallible;

use morph_spec::Rng;
use rand_distr::{Beta, Distribution, Normal, Poisson};

/// [`Rng`] with the distributions of `rand_distr`.
#[derive(Debug, Clone)]
pub(super) struct Draw(pub Rng);

impl rand::TryRng for Draw {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.0.next_u64() >> 32) as u32)
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.0.next_u64().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

impl Draw {
    pub(super) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.0.uniform()
    }

    pub(super) fn chance(&mut self, p: f64) -> bool {
        self.0.uniform() < p
    }

    /// −1 or 1.
    pub(super) fn side(&mut self) -> f64 {
        if self.chance(0.5) { -1.0 } else { 1.0 }
    }

    pub(super) fn normal(&mut self, mean: f64, sd: f64) -> f64 {
        Normal::new(mean, sd).expect("invariant: constants of the model").sample(self)
    }

    pub(super) fn beta(&mut self, a: f64, b: f64) -> f64 {
        Beta::new(a, b).expect("invariant: constants of the model").sample(self)
    }

    /// Photons where `mean` are expected.
    pub(super) fn poisson(&mut self, mean: f64) -> f64 {
        Poisson::new(mean.max(1e-3)).map_or(0.0, |p| p.sample(self))
    }

    fn field(&mut self, len: usize) -> Vec<f64> {
        (0..len).map(|_| self.normal(0.0, 1.0)).collect()
    }

    /// n×n noise of unit variance whose correlation length is about `sigma` of the side.
    pub(super) fn smooth(&mut self, n: usize, sigma: f64) -> Vec<f64> {
        let k = ((1.6 / sigma).round() as usize).max(6);
        let coarse = self.field(k * k);
        let q: Vec<(usize, [f64; 4])> = (0..n)
            .map(|i| {
                let at = (i as f64 + 0.5) / n as f64 * (k - 3) as f64 + 1.0;
                let base = (at as usize).min(k - 3);
                (base - 1, cubic(at - base as f64))
            })
            .collect();
        let mut out = Vec::with_capacity(n * n);
        for &(row, wr) in &q {
            for &(column, wc) in &q {
                let line = |i: usize| (0..4).map(|j| wc[j] * coarse[(row + i) * k + column + j]).sum::<f64>();
                out.push((0..4).map(|i| wr[i] * line(i)).sum());
            }
        }
        scale(&mut out, 1.0);
        out
    }

    /// n×n rectified band-pass noise: bright strokes between two scales, given as standard deviations in pixels.
    pub(super) fn strokes(&mut self, n: usize, fine: f64, coarse: f64) -> Vec<f64> {
        let a = blur(&self.field(n * n), n, fine);
        let b = blur(&self.field(n * n), n, coarse);
        let mut out: Vec<f64> = a.iter().zip(&b).map(|(a, b)| (a - b).max(0.0)).collect();
        scale(&mut out, 0.5);
        out
    }
}

/// Catmull-Rom weights of the four neighbours at `t` in 0..1.
pub(super) fn cubic(t: f64) -> [f64; 4] {
    let (t2, t3) = (t * t, t * t * t);
    [-0.5 * t + t2 - 0.5 * t3, 1.0 - 2.5 * t2 + 1.5 * t3, 0.5 * t + 2.0 * t2 - 1.5 * t3, -0.5 * t2 + 0.5 * t3]
}

/// Divides by the standard deviation and multiplies by `to`.
fn scale(values: &mut [f64], to: f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let sd = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
    values.iter_mut().for_each(|v| *v *= to / (sd + 1e-9));
}

/// Gaussian blur of an n×n image, mirrored at the border, cut at four standard deviations.
pub(super) fn blur(image: &[f64], n: usize, sigma: f64) -> Vec<f64> {
    let radius = (4.0 * sigma + 0.5) as i64;
    let mut kernel: Vec<f64> = (-radius..=radius).map(|i| (-0.5 * (i as f64 / sigma).powi(2)).exp()).collect();
    let sum: f64 = kernel.iter().sum();
    kernel.iter_mut().for_each(|k| *k /= sum);
    let size = n as i64;
    let mirror = |i: i64| {
        let i = i.rem_euclid(2 * size);
        (if i < size { i } else { 2 * size - 1 - i }) as usize
    };
    let at: Vec<usize> = (-radius..size + radius).map(mirror).collect();
    let mut rows = vec![0.0; n * n];
    for (line, out) in image.chunks_exact(n).zip(rows.chunks_exact_mut(n)) {
        let padded: Vec<f64> = at.iter().map(|&i| line[i]).collect();
        for (x, o) in out.iter_mut().enumerate() {
            *o = kernel.iter().zip(&padded[x..]).map(|(k, v)| k * v).sum();
        }
    }
    let mut out = vec![0.0; n * n];
    for (y, line) in out.chunks_exact_mut(n).enumerate() {
        for (k, &from) in kernel.iter().zip(&at[y..]) {
            let source = &rows[from * n..(from + 1) * n];
            line.iter_mut().zip(source).for_each(|(o, v)| *o += k * v);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blur_keeps_the_mean_and_spreads_a_point() {
        let mut image = vec![0.0; 81];
        image[40] = 1.0;
        let out = blur(&image, 9, 1.0);
        assert!((out.iter().sum::<f64>() - 1.0).abs() < 1e-12, "a mirror loses nothing");
        assert!((out[40] - 0.159).abs() < 2e-3, "the centre of a Gaussian with sd 1: {}", out[40]);
        assert!((out[39] - out[31]).abs() < 1e-12, "rows and columns alike");
    }

    #[test]
    fn smooth_noise_has_unit_variance_and_neighbours_alike() {
        let noise = Draw(Rng::keyed(1, "test", 0)).smooth(64, 0.12);
        let mean = noise.iter().sum::<f64>() / 4096.0;
        let var = noise.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 4096.0;
        assert!((var - 1.0).abs() < 1e-6);
        let step = noise.windows(2).map(|w| (w[1] - w[0]).abs()).take(63).fold(0.0, f64::max);
        assert!(step < 1.2, "neighbours of independent noise would differ by 3: {step}");
    }
}
