//! The denoising auto-encoder of Kascenas et al. (MIDL 2022): a U-Net with weight-standardised convolutions, Swish and
//! GroupNorm, trained to remove coarse noise from the foreground. It sees images without noise when they are scored.

use morph_spec::experiment as spec;
use tch::Tensor;

use super::Parts;
use crate::{
    At, Draws, Error, Losses, Method, Reconstruction, Step,
    graph::{Graph, Outputs, Value},
    layers::{Conv, Place, Slide, push},
    losses,
    method::one_update,
    vgg::Vgg,
};

/// Below this a pixel is background, which gets no noise.
const FOREGROUND: f64 = 0.01;
const EPS: f64 = 1e-5;

/// The network with its loss: reconstruction of the clean image + α · perceptual.
#[derive(Debug)]
pub struct Dae {
    loss: spec::Loss,
    noise: spec::Noise,
    vgg: Option<Vgg>,
    down: Vec<Block>,
    /// Transposed 2×2 convolutions, coarsest first, each with the block that follows.
    up: Vec<(Conv, Block)>,
    last: Conv,
}

/// Twice: reflection padding, weight-standardised 3×3 convolution, Swish, GroupNorm.
#[derive(Debug)]
struct Block([(Conv, GroupNorm); 2]);

#[derive(Debug)]
struct GroupNorm {
    groups: i64,
    weight: Tensor,
    bias: Tensor,
}

/// As the reference chooses it: the middle one of the sorted divisors.
fn groups(channels: i64) -> i64 {
    let divisors: Vec<i64> = (1..=channels).filter(|i| channels % i == 0).collect();
    divisors[divisors.len() / 2]
}

impl Block {
    fn new(input: i64, output: i64, place: Place) -> Self {
        let half = |input| {
            let conv = Conv::new(input, output, 3, Slide::Down(1, 0), true, place);
            let filled = |v: f64| place.leaf(&[output], |t| drop(t.fill_(v)));
            (conv, GroupNorm { groups: groups(output), weight: filled(1.0), bias: filled(0.0) })
        };
        Self([half(input), half(output)])
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, Error> {
        let mut h = x.shallow_clone();
        for (conv, norm) in &self.0 {
            let y = conv.with(&standardised(&conv.weight), &h.f_reflection_pad2d([1, 1, 1, 1])?)?.silu();
            h = y.f_group_norm(norm.groups, Some(&norm.weight), Some(&norm.bias), EPS, false)?;
        }
        Ok(h)
    }

    /// Weights are standardised here and now: they do not change any more.
    fn graph(&self, graph: &mut Graph, x: &Value, side: i64) -> Result<Value, Error> {
        let mut h = x.clone();
        for (conv, norm) in &self.0 {
            let padded = graph.reflect(&h);
            let y = graph.conv(&padded, (&standardised(&conv.weight), conv.bias.as_ref()), 1, 0)?;
            let y = graph.silu(&y);
            h = graph.group_norm(&y, norm.groups, (&norm.weight, &norm.bias), (side, EPS))?;
        }
        Ok(h)
    }

    fn parameters(&self, prefix: &str, out: &mut Vec<(String, Tensor)>) {
        // Numbers of a `Sequential` of padding, convolution, activation, norm, twice.
        for (i, (conv, norm)) in self.0.iter().enumerate() {
            conv.parameters(&format!("{prefix}.{}", 4 * i + 1), out);
            push(out, &format!("{prefix}.{}", 4 * i + 3), &norm.weight, Some(&norm.bias));
        }
    }
}

/// Each filter with mean 0 and (sample) standard deviation 1.
pub(crate) fn standardised(weight: &Tensor) -> Tensor {
    let all = [1i64, 2, 3].as_slice();
    let centred = weight - weight.mean_dim(all, true, weight.kind());
    let std = centred.flatten(1, -1).std_dim([1i64].as_slice(), true, false) + EPS;
    &centred / std.view([-1, 1, 1, 1])
}

/// `x` with noise: drawn on a coarse grid, interpolated, rolled by one random shift for the whole batch, on the foreground only.
pub(crate) fn noisy(x: &Tensor, noise: &spec::Noise, draws: &mut dyn Draws) -> Result<Tensor, Error> {
    let [_, channels, height, width] = x.size()[..] else {
        return Err(Error::Torch("a batch of images has four dimensions".into()));
    };
    let side = i64::from(noise.resolution);
    let coarse = draws.normal(&[channels, side, side], noise.std, x)?;
    let fine = coarse.f_upsample_bilinear2d([height, width], true, None, None)?;
    let rows = draws.below(height as u64)? as i64;
    let columns = draws.below(width as u64)? as i64;
    let rolled = fine.f_roll([rows, columns], [-2, -1])?;
    let foreground = x.sum_dim_intlist([1i64].as_slice(), true, x.kind()).gt(FOREGROUND);
    Ok(x + rolled * foreground.to_kind(x.kind()))
}

pub(super) fn build(parts: Parts<'_>) -> Result<Dae, Error> {
    let Parts { model, loss, noise, vgg, place, seed } = parts;
    tch::manual_seed(seed as i64);
    let widths: Vec<i64> = model.channels.iter().map(|c| i64::from(*c)).collect();
    let Some(finest) = widths.first().copied() else { return Err(Error::Torch("a U-Net has channels".into())) };
    let inputs = std::iter::once(1).chain(widths.iter().copied());
    let down = inputs.zip(&widths).map(|(input, output)| Block::new(input, *output, place)).collect();
    let rise = |pair: &[i64]| {
        let (fine, coarse) = (pair[0], pair[1]);
        // The block sees what was upsampled beside the skip connection.
        (Conv::new(coarse, fine, 2, Slide::Up(2, 0), true, place), Block::new(2 * fine, fine, place))
    };
    let up = widths.windows(2).rev().map(rise).collect();
    let last = Conv::new(finest, 1, 1, Slide::Down(1, 0), true, place);
    Ok(Dae { loss: loss.clone(), noise: noise.clone(), vgg, down, up, last })
}

impl Dae {
    fn forward(&self, x: &Tensor) -> Result<Tensor, Error> {
        let (mut h, mut skips) = (x.shallow_clone(), Vec::new());
        for (i, block) in self.down.iter().enumerate() {
            if i > 0 {
                h = h.f_avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None)?;
            }
            h = block.forward(&h)?;
            skips.push(h.shallow_clone());
        }
        for ((up, block), skip) in self.up.iter().zip(skips.iter().rev().skip(1)) {
            h = block.forward(&Tensor::cat(&[up.forward(&h)?, skip.shallow_clone()], 1))?;
        }
        self.last.forward(&h)
    }
}

impl Method for Dae {
    fn parameters(&self) -> Vec<(String, Tensor)> {
        let mut out = Vec::new();
        for (i, block) in self.down.iter().enumerate() {
            block.parameters(&format!("down_path.{i}.block"), &mut out);
        }
        for (i, (up, block)) in self.up.iter().enumerate() {
            up.parameters(&format!("up_path.{i}.up"), &mut out);
            block.parameters(&format!("up_path.{i}.conv_block.block"), &mut out);
        }
        self.last.parameters("last", &mut out);
        out
    }

    fn buffers(&self) -> Vec<(String, Tensor)> {
        Vec::new()
    }

    fn step(&self, x: &Tensor, step: &mut Step<'_>) -> Result<Losses, Error> {
        let draws = &mut *step.draws;
        one_update(step.updates, || {
            let y = self.forward(&noisy(x, &self.noise, draws)?)?;
            let pixels = losses::reconstruction(self.loss.reconstruction, &y, x);
            losses::with_perceptual(pixels, "reconstruction", (&y, x), self.vgg.as_ref(), &self.loss.perceptual)
        })
    }

    fn outputs(&self, x: &Tensor, _: bool, _: &mut dyn Draws) -> Result<Vec<(&'static str, Tensor)>, Error> {
        Ok(vec![("y", tch::no_grad(|| self.forward(x))?)])
    }

    fn reconstruct(&self, x: &Tensor, _: &mut dyn Draws) -> Result<Reconstruction, Error> {
        Ok(Reconstruction::plain(tch::no_grad(|| self.forward(x))?))
    }

    fn graph(&self, graph: &mut Graph, x: &Value) -> Result<Outputs, Error> {
        let mut side = graph.side();
        let (mut h, mut skips) = (x.clone(), Vec::new());
        for (i, block) in self.down.iter().enumerate() {
            if i > 0 {
                h = graph.halve(&h);
                side /= 2;
            }
            h = block.graph(graph, &h, side)?;
            skips.push(h.clone());
        }
        for ((up, block), skip) in self.up.iter().zip(skips.iter().rev().skip(1)) {
            let risen = up.graph(graph, &h)?;
            side *= 2;
            let joined = graph.concat(&[&risen, skip]);
            h = block.graph(graph, &joined, side)?;
        }
        Ok(vec![("reconstruction", self.last.graph(graph, &h)?, 1)])
    }

    /// The pixel loss of each image, without noise.
    fn validation_score(&self, x: &Tensor, _: At, _: &mut dyn Draws) -> Result<Tensor, Error> {
        Ok(losses::per_image(self.loss.reconstruction, &tch::no_grad(|| self.forward(x))?, x))
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::{
        Recorded,
        tests::{Golden, apart},
    };

    #[test]
    fn groups_are_the_references() {
        for (channels, wanted) in [(8, 4), (16, 4), (32, 8), (64, 8), (128, 16), (256, 16), (512, 32)] {
            assert_eq!(groups(channels), wanted, "{channels}");
        }
    }

    #[test]
    fn filters_have_mean_zero_and_unit_deviation() {
        tch::manual_seed(1);
        let weight = Tensor::rand([5, 3, 3, 3], (Kind::Double, Device::Cpu));
        let filters = standardised(&weight).flatten(1, -1);
        assert!(filters.mean_dim([1i64].as_slice(), false, Kind::Double).abs().max().double_value(&[]) < 1e-12);
        let std = filters.std_dim([1i64].as_slice(), true, false);
        assert!((std - 1.0).abs().max().double_value(&[]) < 1e-3);
    }

    #[test]
    fn noise_and_standardised_convolutions_are_the_references() {
        crate::tests::one_thread();
        let Some(golden) = Golden::open("ops/misc.safetensors") else { return };
        let get = |name: &str| golden.get(name, Kind::Float);
        // The shift that the reference drew (ops.json: gaussian_noise).
        let drawn = [get("noise16"), Tensor::from(65i64), Tensor::from(50i64)];
        let noise = spec::Noise { std: 0.2, resolution: 16 };
        let mut recorded = Recorded::new(drawn);
        let y = noisy(&get("x"), &noise, &mut recorded).unwrap();
        assert!(apart(&y, &get("y")) < 1e-6 && recorded.left() == 0, "{:e}", apart(&y, &get("y")));

        let place = Place { device: Device::Cpu, kind: Kind::Float };
        let mut conv = Conv::new(3, 5, 3, Slide::Down(1, 0), true, place);
        (conv.weight, conv.bias) = (get("wn_w"), Some(get("wn_b")));
        let y = conv.with(&standardised(&conv.weight), &get("wn_x")).unwrap();
        assert!(apart(&y, &get("wn_y")) < 1e-5, "{:e}", apart(&y, &get("wn_y")));
    }

    #[test]
    fn the_background_gets_no_noise() {
        let x = Tensor::zeros([2, 1, 8, 8], (Kind::Double, Device::Cpu));
        let _ = x.narrow(3, 0, 4).fill_(0.5);
        let noise = spec::Noise { std: 0.2, resolution: 4 };
        let y = noisy(&x, &noise, &mut crate::Keyed::new(1, "x", 0..2)).unwrap();
        assert_eq!(y.narrow(3, 4, 4), x.narrow(3, 4, 4));
        assert!((y.narrow(3, 0, 4) - 0.5).abs().min().double_value(&[]) > 0.0);
    }
}
