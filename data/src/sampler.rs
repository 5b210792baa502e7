//! Which samples make which batch: a pure function, O(1) in memory, so that any rank of any attempt can ask for any batch.

use std::ops::Range;

use morph_spec::Rng;

/// Rounds of the Feistel network.
const ROUNDS: usize = 6;

/// The order of the samples of one split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampler {
    /// Number of samples.
    pub samples: u64,
    /// Images of a global batch.
    pub batch_size: u32,
    /// Seed of the order.
    pub seed: u64,
    /// Leave out the last, smaller batch.
    pub drop_last: bool,
}

impl Sampler {
    /// Batches of an epoch.
    pub fn batches(&self) -> u64 {
        let size = u64::from(self.batch_size.max(1));
        if self.drop_last { self.samples / size } else { self.samples.div_ceil(size) }
    }

    /// The samples of batch `index` of `epoch`, in order: every sample comes at most once in an epoch.
    pub fn batch(&self, epoch: u32, index: u64) -> Vec<u64> {
        let size = u64::from(self.batch_size.max(1));
        let start = index.saturating_mul(size).min(self.samples);
        let end = start.saturating_add(size).min(self.samples);
        let order = Permutation::new(self.samples, self.seed, epoch);
        (start..end).map(|position| order.at(position)).collect()
    }
}

/// The part of a batch of `batch_len` images that `rank` of `world` ranks takes: contiguous, in the order of ranks, sizes
/// differ by at most one, and together they are the batch.
///
/// # Panics
/// When there is no such rank.
pub fn share(batch_len: usize, rank: u32, world: u32) -> Range<usize> {
    assert!(rank < world, "invariant: rank {rank} of {world}");
    let bound = |rank: u32| (batch_len as u128 * u128::from(rank) / u128::from(world)) as usize;
    bound(rank)..bound(rank + 1)
}

/// A keyed bijection of `0..n`: a Feistel network on the next even number of bits, walked until it lands inside.
struct Permutation {
    n: u64,
    half: u32,
    keys: [u64; ROUNDS],
}

impl Permutation {
    fn new(n: u64, seed: u64, epoch: u32) -> Self {
        let mut rng = Rng::keyed(seed, "sampler", u64::from(epoch));
        let bits = u64::BITS - n.saturating_sub(1).leading_zeros();
        Self { n, half: bits.div_ceil(2).max(1), keys: std::array::from_fn(|_| rng.next_u64()) }
    }

    fn at(&self, position: u64) -> u64 {
        let mut x = position;
        loop {
            x = self.scramble(x);
            // The walk stays on the cycle of `position`, which is inside: it ends.
            if x < self.n {
                return x;
            }
        }
    }

    fn scramble(&self, x: u64) -> u64 {
        let mask = (1u64 << self.half) - 1;
        let (mut left, mut right) = (x >> self.half, x & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half | right
    }
}

/// The finalizer of splitmix64.
fn mix(mut z: u64) -> u64 {
    z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_epoch_shows_every_sample_once(samples in 1..400u64, batch_size in 1..33u32, seed: u64, epoch: u32) {
            let sampler = Sampler { samples, batch_size, seed, drop_last: false };
            let all: Vec<u64> = (0..sampler.batches()).flat_map(|i| sampler.batch(epoch, i)).collect();
            prop_assert_eq!(all.len() as u64, samples);
            prop_assert_eq!(all.iter().copied().collect::<BTreeSet<_>>(), (0..samples).collect::<BTreeSet<_>>());
        }

        #[test]
        fn shares_are_the_batch(len in 0..200usize, world in 1..17u32) {
            let shares: Vec<Range<usize>> = (0..world).map(|rank| share(len, rank, world)).collect();
            prop_assert_eq!(shares[0].start, 0);
            prop_assert_eq!(shares[shares.len() - 1].end, len);
            prop_assert!(shares.windows(2).all(|w| w[0].end == w[1].start));
            let sizes: Vec<usize> = shares.iter().map(Range::len).collect();
            prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
        }
    }

    #[test]
    fn the_last_batch_is_dropped_when_asked() {
        let sampler = |drop_last| Sampler { samples: 10, batch_size: 4, seed: 1, drop_last };
        assert_eq!((sampler(true).batches(), sampler(false).batches()), (2, 3));
        assert_eq!(sampler(false).batch(0, 2).len(), 2);
        assert!(sampler(false).batch(0, 99).is_empty());
        assert_eq!(Sampler { samples: 3, batch_size: 4, seed: 1, drop_last: true }.batches(), 0);
    }

    #[test]
    fn epochs_and_seeds_differ_and_the_order_never_changes() {
        let order = |seed, epoch| Sampler { samples: 100, batch_size: 100, seed, drop_last: true }.batch(epoch, 0);
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
        // Recorded: checkpoints of older builds depend on it.
        let recorded = Sampler { samples: 10, batch_size: 10, seed: 2109, drop_last: true }.batch(3, 0);
        assert_eq!(recorded, [3, 4, 5, 0, 6, 9, 8, 1, 2, 7]);
    }

    #[test]
    fn positions_are_spread_evenly() {
        // Where sample 0 stands in 2,000 epochs of 10 samples: about 200 times at each position.
        let mut counts = [0u32; 10];
        for epoch in 0..2000 {
            let order = Sampler { samples: 10, batch_size: 10, seed: 5, drop_last: true }.batch(epoch, 0);
            counts[order.iter().position(|s| *s == 0).unwrap()] += 1;
        }
        assert!(counts.iter().all(|n| (140..=260).contains(n)), "{counts:?}");
    }
}
