//! Where methods take their random numbers from: a function of (seed, purpose, image), so there is nothing to save, and the
//! number of ranks changes nothing; or a recording.

use std::collections::VecDeque;

use morph_spec::Rng;
use tch::Tensor;

use crate::Error;

/// The random numbers of one step, in the order in which they are asked for.
pub trait Draws {
    /// `[B, shape…]` numbers from N(0, `std`²) for the images `like [B, …]`, of its kind and device. A row belongs to its image,
    /// whoever computes it.
    ///
    /// # Errors
    /// When a recording has something else here, or libtorch's.
    fn normal(&mut self, shape: &[i64], std: f64, like: &Tensor) -> Result<Tensor, Error>;

    /// A number in `0..n`, one for the whole batch.
    ///
    /// # Errors
    /// When a recording has something else here.
    fn below(&mut self, n: u64) -> Result<u64, Error>;
}

/// Numbers that follow from a seed, a purpose (as `step 12`) and each image's number.
#[derive(Debug, Clone)]
pub struct Keyed {
    seed: u64,
    purpose: String,
    images: Vec<u64>,
    calls: u64,
}

impl Keyed {
    /// For these images: their places in the batch of all ranks, or in the set that is scored.
    pub fn new(seed: u64, purpose: impl Into<String>, images: impl IntoIterator<Item = u64>) -> Self {
        Self { seed, purpose: purpose.into(), images: images.into_iter().collect(), calls: 0 }
    }

    fn next(&mut self) -> String {
        self.calls += 1;
        format!("{}/{}", self.purpose, self.calls)
    }
}

impl Draws for Keyed {
    fn normal(&mut self, shape: &[i64], std: f64, like: &Tensor) -> Result<Tensor, Error> {
        let key = self.next();
        let images = like.size().first().copied().unwrap_or(0);
        if images != self.images.len() as i64 {
            return Err(Error::Torch(format!("{images} images, but numbers for {}", self.images.len())));
        }
        let each = shape.iter().product::<i64>() as usize;
        let mut values = Vec::with_capacity(each * self.images.len());
        for image in &self.images {
            let mut rng = Rng::keyed(self.seed, &key, *image);
            // The second of each two is thrown away, so that each number costs the same draws.
            values.extend((0..each).map(|_| (rng.normals()[0] * std) as f32));
        }
        let full: Vec<i64> = std::iter::once(images).chain(shape.iter().copied()).collect();
        Ok(Tensor::from_slice(&values).f_reshape(&full)?.to_kind(like.kind()).to_device(like.device()))
    }

    fn below(&mut self, n: u64) -> Result<u64, Error> {
        let key = self.next();
        Ok(Rng::keyed(self.seed, &key, 0).below(n))
    }
}

/// Numbers that were recorded, in their order; scaled already.
#[derive(Debug, Default)]
pub struct Recorded(VecDeque<Tensor>);

impl Recorded {
    /// Tensors in the order in which they are asked for; single integers for [`Draws::below`].
    pub fn new(tensors: impl IntoIterator<Item = Tensor>) -> Self {
        Self(tensors.into_iter().collect())
    }

    /// How many are left.
    pub fn left(&self) -> usize {
        self.0.len()
    }

    fn next(&mut self, what: &str) -> Result<Tensor, Error> {
        self.0.pop_front().ok_or_else(|| Error::Golden(format!("no more numbers are recorded, but {what}")))
    }
}

impl Draws for Recorded {
    fn normal(&mut self, shape: &[i64], _: f64, like: &Tensor) -> Result<Tensor, Error> {
        let full: Vec<i64> = like.size().first().into_iter().chain(shape).copied().collect();
        let next = self.next(&format!("{full:?} normal ones are asked for"))?;
        if next.numel() as i64 != full.iter().product::<i64>() {
            return Err(Error::Golden(format!("{:?} numbers are recorded where {full:?} are asked for", next.size())));
        }
        Ok(next.f_reshape(&full)?.to_kind(like.kind()).to_device(like.device()))
    }

    fn below(&mut self, n: u64) -> Result<u64, Error> {
        let next = self.next(&format!("one below {n} is asked for"))?;
        let value = if next.numel() == 1 { next.int64_value(&[]) } else { -1 };
        u64::try_from(value).ok().filter(|v| *v < n).ok_or_else(|| {
            Error::Golden(format!("{:?} is recorded where a number below {n} is asked for", next.size()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn like(images: i64) -> Tensor {
        Tensor::zeros([images, 1], (Kind::Double, Device::Cpu))
    }

    #[test]
    fn an_images_numbers_do_not_depend_on_who_draws_them() {
        let mut all = Keyed::new(7, "step 3", 0..5);
        let mut some = Keyed::new(7, "step 3", 2..4);
        for _ in 0..2 {
            let (whole, part) =
                (all.normal(&[3, 2], 0.5, &like(5)).unwrap(), some.normal(&[3, 2], 0.5, &like(2)).unwrap());
            assert_eq!(whole.narrow(0, 2, 2), part);
            assert_eq!(all.below(1000).unwrap(), some.below(1000).unwrap());
        }
        let other = Keyed::new(7, "step 4", 0..5).normal(&[3, 2], 0.5, &like(5)).unwrap();
        assert_ne!(Keyed::new(7, "step 3", 0..5).normal(&[3, 2], 0.5, &like(5)).unwrap(), other);
    }

    #[test]
    fn they_are_normal() {
        let drawn = Keyed::new(1, "x", 0..100).normal(&[200], 2.0, &like(100)).unwrap();
        let (mean, std) = (drawn.mean(Kind::Double).double_value(&[]), drawn.std(true).double_value(&[]));
        assert!(mean.abs() < 0.05 && (std - 2.0).abs() < 0.05, "{mean} {std}");
    }

    #[test]
    fn a_recording_is_replayed_in_its_order_or_refused() {
        let mut recorded = Recorded::new([Tensor::from_slice(&[1.0f32, 2.0]), Tensor::from(5i64)]);
        assert_eq!(recorded.normal(&[1], 9.0, &like(2)).unwrap(), Tensor::from_slice(&[1.0, 2.0]).reshape([2, 1]));
        assert!(recorded.below(5).is_err(), "5 is not below 5");
        assert_eq!(recorded.left(), 0);
        assert!(recorded.below(9).unwrap_err().to_string().contains("no more"));
    }
}
