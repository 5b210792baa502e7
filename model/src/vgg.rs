//! The perceptual loss: VGG-19 (Simonyan & Zisserman 2015) up to relu4_1, four taps, no ImageNet normalisation, grey
//! repeated to three channels (reference-spec, section 0.7).

use morph_checkpoint::Tensors;
use morph_spec::experiment as spec;
use tch::{Device, Kind, Tensor};

use crate::{Error, from_data, nn::channels_last};

/// Convolutions of `vgg19.features[:21]`: index, input and output channels.
const CONVS: [(usize, i64, i64); 9] = [
    (0, 3, 64),
    (2, 64, 64),
    (5, 64, 128),
    (7, 128, 128),
    (10, 128, 256),
    (12, 256, 256),
    (14, 256, 256),
    (16, 256, 256),
    (19, 256, 512),
];
/// Max-pooling stands before these convolutions.
const POOL_BEFORE: [usize; 3] = [5, 10, 19];
/// After the ReLU of these convolutions features are compared: relu1_1, relu2_1, relu3_1, relu4_1.
const TAPS: [usize; 4] = [0, 5, 10, 19];

/// The frozen network.
#[derive(Debug)]
pub struct Vgg {
    convs: Vec<(Tensor, Tensor)>,
}

/// The network that the experiment's perceptual loss needs: none when its weight is 0.
///
/// # Errors
/// When weights are needed and missing, or wrong.
pub fn of_spec(
    loss: &spec::Perceptual,
    weights: Option<&Tensors>,
    device: Device,
    kind: Kind,
    seed: u64,
) -> Result<Option<Vgg>, Error> {
    if loss.weight == 0.0 {
        return Ok(None);
    }
    match (loss.weights.as_deref(), weights) {
        (Some("random"), _) => Ok(Some(Vgg::random(device, kind, seed))),
        (Some(_), Some(weights)) => Vgg::new(weights, device, kind).map(Some),
        (Some(file), None) => Err(Error::Perceptual(format!("the weights of {file} were not loaded"))),
        (None, _) => Err(Error::Perceptual(
            "its weight is not 0, so trainer.loss.perceptual.weights must name torchvision's VGG-19 state dict, or be `random`".into(),
        )),
    }
}

impl Vgg {
    /// From torchvision's state dict (`features.0.weight`) or the bare indices (`0.weight`).
    ///
    /// # Errors
    /// Names the first tensor that is missing or of another shape.
    pub fn new(weights: &Tensors, device: Device, kind: Kind) -> Result<Self, Error> {
        let get = |name: String, shape: &[i64]| {
            let data = weights.get(&format!("features.{name}")).or_else(|| weights.get(&name)).ok_or_else(|| {
                Error::Perceptual(format!("the weights file has no features.{name}: is it torchvision's vgg19?"))
            })?;
            let tensor = from_data(data, device)?.to_kind(kind);
            if tensor.size() != shape {
                let found = tensor.size();
                return Err(Error::Perceptual(format!("features.{name} is {found:?}, vgg19's is {shape:?}")));
            }
            Ok(tensor)
        };
        let convs = CONVS
            .iter()
            .map(|(i, input, output)| {
                Ok((get(format!("{i}.weight"), &[*output, *input, 3, 3])?, get(format!("{i}.bias"), &[*output])?))
            })
            .collect::<Result<_, Error>>()?;
        Ok(Self { convs })
    }

    /// He-initialised weights: the loss then compares random features, which is not the paper's loss.
    pub fn random(device: Device, kind: Kind, seed: u64) -> Self {
        tch::manual_seed(seed as i64);
        let convs = CONVS
            .iter()
            .map(|(_, input, output)| {
                let std = (2.0 / (*output * 9) as f64).sqrt();
                let weight = Tensor::randn([*output, *input, 3, 3], (Kind::Float, Device::Cpu)) * std;
                (weight.to_kind(kind).to_device(device), Tensor::zeros([*output], (kind, device)))
            })
            .collect();
        Self { convs }
    }

    fn features(&self, x: &Tensor) -> Result<Vec<Tensor>, Error> {
        let mut h = channels_last(&x.expand([-1, 3, -1, -1], false));
        let mut taps = Vec::new();
        for ((index, ..), (weight, bias)) in CONVS.iter().zip(&self.convs) {
            if POOL_BEFORE.contains(index) {
                h = h.f_max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false)?;
            }
            h = h.f_conv2d(weight, Some(bias), [1, 1], [1, 1], [1, 1], 1)?.relu();
            if TAPS.contains(index) {
                taps.push(h.shallow_clone());
            }
        }
        Ok(taps)
    }

    /// The sum over the taps of the mean squared difference between `y`'s and `x`'s features; both `[B, 1, H, W]`.
    ///
    /// # Errors
    /// libtorch's.
    pub fn loss(&self, y: &Tensor, x: &Tensor) -> Result<Tensor, Error> {
        let target = tch::no_grad(|| self.features(x))?;
        let mut total = Tensor::zeros([] as [i64; 0], (x.kind(), x.device()));
        for (a, b) in self.features(y)?.iter().zip(&target) {
            total = total + (a - b).square().mean(x.kind());
        }
        Ok(total)
    }
}
