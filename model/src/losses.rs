//! The losses of the paper (reference-spec, section 2, "Losses").

use morph_spec::experiment as spec;
use tch::{Kind, Tensor};

use crate::{Error, Losses, vgg::Vgg};

/// Mean of squares, or of absolutes, over all pixels.
pub fn reconstruction(kind: spec::Reconstruction, y: &Tensor, x: &Tensor) -> Tensor {
    match kind {
        spec::Reconstruction::L2 => (y - x).square().mean(x.kind()),
        spec::Reconstruction::L1 => (y - x).abs().mean(x.kind()),
    }
}

/// `first`, called `name`, plus α times the perceptual term between `y` and `x`, unless that is off.
pub(crate) fn with_perceptual(
    first: Tensor,
    name: &'static str,
    (y, x): (&Tensor, &Tensor),
    vgg: Option<&Vgg>,
    weight: &spec::Perceptual,
) -> Result<Losses, Error> {
    let mut terms = vec![(name, first.detach())];
    let mut total = first;
    if let Some(vgg) = vgg {
        let perceptual = vgg.loss(y, x)?;
        terms.push(("perceptual", perceptual.detach()));
        total = total + perceptual * weight.weight;
    }
    terms.push(("loss", total.detach()));
    Ok(Losses { total, terms })
}

/// The same of each image `[B]`.
pub fn per_image(kind: spec::Reconstruction, y: &Tensor, x: &Tensor) -> Tensor {
    let apart = match kind {
        spec::Reconstruction::L2 => (y - x).square(),
        spec::Reconstruction::L1 => (y - x).abs(),
    };
    apart.mean_dim([1i64, 2, 3].as_slice(), false, x.kind())
}

/// β(epoch) = clip(β · epoch / `epochs`, 1e-3, β).
pub fn beta(beta: f64, epochs: u32, epoch: u32) -> f64 {
    let grown = beta * f64::from(epoch) / f64::from(epochs.max(1));
    grown.min(beta).max(1e-3_f64.min(beta))
}

/// Local normalised cross-correlation over square windows, zero-padded, as 1 − mean(cc): 0 is a perfect fit.
#[derive(Debug, Clone, Copy)]
pub struct Ncc {
    /// Side of the window in pixels; odd.
    pub window: i64,
    /// How the window sums are taken.
    pub variant: spec::Ncc,
}

impl Ncc {
    /// The loss between `i` and `j`, both `[B, 1, H, W]`; a scalar of their kind.
    ///
    /// # Errors
    /// libtorch's.
    pub fn loss(self, i: &Tensor, j: &Tensor) -> Result<Tensor, Error> {
        match self.variant {
            spec::Ncc::Reference => self.by_sums(i, j, |t| {
                let ones = Tensor::ones([1, 1, self.window, self.window], (t.kind(), t.device()));
                let pad = self.window / 2;
                Ok(t.f_conv2d(&ones, None::<&Tensor>, [1, 1], [pad, pad], [1, 1], 1)?)
            }),
            // E[x²] − E[x]² in f32 loses up to half of the gradient on flat predictions; f64 has digits to spare.
            spec::Ncc::Stable => {
                let double = |t: &Tensor| t.to_kind(Kind::Double);
                let sums = |t: &Tensor| {
                    let (side, pad) = (self.window, self.window / 2);
                    // With a divisor of 1 the "average" is the window's sum; rows, then columns, is 2 n additions and not n².
                    let rows = t.f_avg_pool2d([side, 1], [1, 1], [pad, 0], false, true, 1)?;
                    Ok(rows.f_avg_pool2d([1, side], [1, 1], [0, pad], false, true, 1)?)
                };
                Ok(self.by_sums(&double(i), &double(j), sums)?.to_kind(i.kind()))
            }
        }
    }

    fn by_sums(self, i: &Tensor, j: &Tensor, sum: impl Fn(&Tensor) -> Result<Tensor, Error>) -> Result<Tensor, Error> {
        let n = (self.window * self.window) as f64;
        let (i_sum, j_sum) = (sum(i)?, sum(j)?);
        let (i2_sum, j2_sum, ij_sum) = (sum(&(i * i))?, sum(&(j * j))?, sum(&(i * j))?);
        let (u_i, u_j) = (&i_sum / n, &j_sum / n);
        let cross = ij_sum - &u_j * &i_sum - &u_i * &j_sum + &u_i * &u_j * n;
        let i_var = i2_sum - &u_i * &i_sum * 2.0 + &u_i * &u_i * n;
        let j_var = j2_sum - &u_j * &j_sum * 2.0 + &u_j * &u_j * n;
        let cc = &cross * &cross / ((i_var * j_var).clamp_min(0.0) + 1e-5);
        Ok(1.0 - cc.mean(i.kind()))
    }
}

fn d_rows(t: &Tensor) -> Tensor {
    let [.., height, width] = t.size()[..] else { return t.shallow_clone() };
    (t.slice(2, 2, height, 1).slice(3, 1, width - 1, 1) - t.slice(2, 0, height - 2, 1).slice(3, 1, width - 1, 1)) / 2.0
}

fn d_columns(t: &Tensor) -> Tensor {
    let [.., height, width] = t.size()[..] else { return t.shallow_clone() };
    (t.slice(2, 1, height - 1, 1).slice(3, 2, width, 1) - t.slice(2, 1, height - 1, 1).slice(3, 0, width - 2, 1)) / 2.0
}

/// The regulariser of a displacement field `[B, 2, H, W]`: central differences on the interior, mean over everything.
///
/// # Errors
/// When the field is smaller than the differences need (5 pixels a side).
pub fn regulariser(kind: spec::Regulariser, field: &Tensor) -> Result<Tensor, Error> {
    let [.., height, width] = field.size()[..] else { return Err(Error::Torch("a field has four dimensions".into())) };
    if height < 5 || width < 5 {
        return Err(Error::Torch(format!("a field of {height}x{width} is too small to be regularised")));
    }
    let (rows, columns) = (d_rows(field), d_columns(field));
    Ok(match kind {
        spec::Regulariser::GradientL2 => (rows.square() + columns.square()).mean(field.kind()) / 2.0,
        spec::Regulariser::GradientL1 => (rows.abs() + columns.abs()).mean(field.kind()) / 2.0,
        spec::Regulariser::Bending => {
            let mixed = d_columns(&rows).square();
            (d_rows(&rows).square() + d_columns(&columns).square() + mixed * 2.0).mean(field.kind())
        }
    })
}
