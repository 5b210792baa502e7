//! The only source of randomness in the core, the sampler and the phantom: PCG64 seeded by key, so there is no state
//! to save.

use std::f64::consts::TAU;

use rand::{Rng as _, SeedableRng};
use rand_pcg::Pcg64;

/// A random number generator whose whole history is `(seed, key, n)`.
#[derive(Debug, Clone)]
pub struct Rng(Pcg64);

impl Rng {
    /// The generator for purpose `key`, item `n`, under `seed`. Different keys or items give independent streams.
    pub fn keyed(seed: u64, key: &str, n: u64) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(&n.to_le_bytes()).update(key.as_bytes());
        Self(Pcg64::from_seed(*hasher.finalize().as_bytes()))
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in `[0, 1)` with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Two numbers from N(0, 1): Box and Muller's transform.
    pub fn normals(&mut self) -> [f64; 2] {
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        let (radius, angle) = ((-2.0 * u.ln()).sqrt(), TAU * v);
        [radius * angle.cos(), radius * angle.sin()]
    }

    /// Uniform in `0..n`, unbiased (Lemire's rejection).
    ///
    /// # Panics
    /// When `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "invariant: an empty range has no element");
        loop {
            let wide = u128::from(self.next_u64()) * u128::from(n);
            if wide as u64 >= n.wrapping_neg() % n {
                return (wide >> 64) as u64;
            }
        }
    }

    /// Puts `items` in a uniformly random order (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}
