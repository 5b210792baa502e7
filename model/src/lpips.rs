//! Learned perceptual similarity (LPIPS; Zhang et al. 2018), version 0.1 on AlexNet, as the package `lpips` computes it with
//! `net="alex"`: five taps, normalised over channels, weighted squared differences, their mean over the image.

use morph_checkpoint::Tensors;
use morph_spec::evaluation as spec;
use tch::{Device, Kind, Tensor};

use crate::{Error, from_data};

/// A convolution of AlexNet's: its index among torchvision's `features`, (channels out, channels in, window), stride, padding, and
/// whether max-pooling stands before it. After each comes a ReLU, and there is a tap.
struct Conv {
    index: u8,
    shape: [i64; 3],
    stride: i64,
    padding: i64,
    pool_before: bool,
}

const CONVS: [Conv; 5] = [
    Conv { index: 0, shape: [64, 3, 11], stride: 4, padding: 2, pool_before: false },
    Conv { index: 3, shape: [192, 64, 5], stride: 1, padding: 2, pool_before: true },
    Conv { index: 6, shape: [384, 192, 3], stride: 1, padding: 1, pool_before: true },
    Conv { index: 8, shape: [256, 384, 3], stride: 1, padding: 1, pool_before: false },
    Conv { index: 10, shape: [256, 256, 3], stride: 1, padding: 1, pool_before: false },
];
/// The package's `scaling_layer`: ImageNet's mean and deviation for inputs in -1..1.
const SHIFT: [f32; 3] = [-0.030, -0.088, -0.188];
const SCALE: [f32; 3] = [0.458, 0.448, 0.450];
/// Added to lengths that are divided by.
const EPSILON: f64 = 1e-10;

/// The network.
#[derive(Debug)]
pub struct Lpips {
    convs: Vec<(Tensor, Tensor)>,
    /// Weights of each tap's channels.
    linear: Vec<Tensor>,
    shift: Tensor,
    scale: Tensor,
}

impl Lpips {
    /// From the package's whole state dict (`net.slice1.0.weight`, `lin0.model.1.weight`), or from torchvision's AlexNet
    /// (`features.0.weight`) and the package's `alex.pth` (`lin0.model.1.weight`) together.
    ///
    /// # Errors
    /// Names the first tensor that is missing or of another shape.
    pub fn new(weights: &Tensors, device: Device) -> Result<Self, Error> {
        let get = |names: &[String], shape: &[i64]| {
            let found = names.iter().find_map(|name| weights.get(name).map(|data| (name, data)));
            let (name, data) =
                found.ok_or_else(|| Error::Similarity(format!("the weights have no {}", names.join(" or "))))?;
            let tensor = from_data(data, device)?.to_kind(Kind::Float);
            if tensor.size() != shape {
                return Err(Error::Similarity(format!("{name} is {:?}, LPIPS-Alex's is {shape:?}", tensor.size())));
            }
            Ok(tensor)
        };
        let (mut convs, mut linear) = (Vec::new(), Vec::new());
        for (tap, Conv { index, shape: [output, input, window], .. }) in CONVS.iter().enumerate() {
            let names =
                |what: &str| [format!("net.slice{}.{index}.{what}", tap + 1), format!("features.{index}.{what}")];
            let weight = get(&names("weight"), &[*output, *input, *window, *window])?;
            convs.push((weight, get(&names("bias"), &[*output])?));
            let names = [format!("lin{tap}.model.1.weight"), format!("lins.{tap}.model.1.weight")];
            linear.push(get(&names, &[1, *output, 1, 1])?);
        }
        let layer = |name: &str, values: [f32; 3]| {
            let name = format!("scaling_layer.{name}");
            if weights.contains_key(&name) {
                return get(&[name], &[1, 3, 1, 1]);
            }
            Ok(Tensor::from_slice(&values).reshape([1, 3, 1, 1]).to_device(device))
        };
        Ok(Self { convs, linear, shift: layer("shift", SHIFT)?, scale: layer("scale", SCALE)? })
    }

    /// The taps' features of `x`, each of length 1 at every pixel.
    fn features(&self, x: &Tensor) -> Result<Vec<Tensor>, Error> {
        let mut h = (x - &self.shift) / &self.scale;
        let mut taps = Vec::new();
        for (conv, (weight, bias)) in CONVS.iter().zip(&self.convs) {
            if conv.pool_before {
                h = h.f_max_pool2d([3, 3], [2, 2], [0, 0], [1, 1], false)?;
            }
            h = h.f_conv2d(weight, Some(bias), [conv.stride; 2], [conv.padding; 2], [1, 1], 1)?.relu();
            let length = h.square().sum_dim_intlist([1i64].as_slice(), true, Kind::Float).sqrt();
            taps.push(&h / (length + EPSILON));
        }
        Ok(taps)
    }

    /// How far apart `a` and `b` look, `[B]`; both `[B, 1, H, W]`, grey. The package expects values in -1..1; the paper's code
    /// gives it 0..1.
    ///
    /// # Errors
    /// When the images are smaller than [`spec::Lpips::LEAST_SIDE`]; libtorch's.
    pub fn distance(&self, a: &Tensor, b: &Tensor) -> Result<Tensor, Error> {
        if let Some(side) = a.size().iter().skip(2).find(|side| **side < i64::from(spec::Lpips::LEAST_SIDE)) {
            return Err(Error::Similarity(format!(
                "images of {side} pixels a side are too small, {} are the least",
                spec::Lpips::LEAST_SIDE
            )));
        }
        tch::no_grad(|| {
            let (a, b) = (self.features(&a.to_kind(Kind::Float))?, self.features(&b.to_kind(Kind::Float))?);
            let mut total = Tensor::zeros([a[0].size()[0]], (Kind::Float, self.shift.device()));
            for ((a, b), weight) in a.iter().zip(&b).zip(&self.linear) {
                let apart = ((a - b).square() * weight).sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
                total += apart.mean_dim([1i64, 2].as_slice(), false, Kind::Float);
            }
            Ok(total)
        })
    }
}
