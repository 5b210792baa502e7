//! Layers of the other methods, with torch's default initial values.

use tch::{Device, Kind, Tensor};

use crate::{
    Error,
    graph::{Graph, Value},
    nn::channels_last,
};

/// Where tensors live, of which element type.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) device: Device,
    pub(crate) kind: Kind,
}

impl Place {
    /// A trainable leaf with values that are drawn in f32 whatever the kind, so that f64 tests start from the same network.
    pub(crate) fn leaf(self, shape: &[i64], fill: impl FnOnce(&mut Tensor)) -> Tensor {
        let mut t = Tensor::empty(shape, (Kind::Float, Device::Cpu));
        fill(&mut t);
        t.to_kind(self.kind).to_device(self.device).set_requires_grad(true)
    }

    /// Uniform in ±1/√fan.
    fn uniform(self, shape: &[i64], fan: f64) -> Tensor {
        self.leaf(shape, |t| drop(t.uniform_(-1.0 / fan.sqrt(), 1.0 / fan.sqrt())))
    }
}

pub(crate) fn push(out: &mut Vec<(String, Tensor)>, prefix: &str, weight: &Tensor, bias: Option<&Tensor>) {
    out.push((format!("{prefix}.weight"), weight.shallow_clone()));
    out.extend(bias.map(|b| (format!("{prefix}.bias"), b.shallow_clone())));
}

/// How a convolution slides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slide {
    /// `Conv2d` with stride and padding.
    Down(i64, i64),
    /// `ConvTranspose2d` with stride and padding.
    Up(i64, i64),
}

/// A convolution with or without bias.
#[derive(Debug)]
pub(crate) struct Conv {
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
    slide: Slide,
}

impl Conv {
    /// kaiming_uniform(a = √5), bias uniform in ±1/√fan_in; for a transposed one torch takes the outputs for the fan.
    pub(crate) fn new(input: i64, output: i64, kernel: i64, slide: Slide, bias: bool, place: Place) -> Self {
        let shape = match slide {
            Slide::Down(..) => [output, input, kernel, kernel],
            Slide::Up(..) => [input, output, kernel, kernel],
        };
        let fan = (shape[1] * kernel * kernel) as f64;
        let weight = place.uniform(&shape, fan);
        Self { weight, bias: bias.then(|| place.uniform(&[output], fan)), slide }
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, Error> {
        self.with(&self.weight, x)
    }

    /// With another weight than its own.
    pub(crate) fn with(&self, weight: &Tensor, x: &Tensor) -> Result<Tensor, Error> {
        let (x, bias) = (channels_last(x), self.bias.as_ref());
        Ok(match self.slide {
            Slide::Down(stride, pad) => x.f_conv2d(weight, bias, [stride, stride], [pad, pad], [1, 1], 1)?,
            Slide::Up(stride, pad) => {
                x.f_conv_transpose2d(weight, bias, [stride, stride], [pad, pad], [0, 0], 1, [1, 1])?
            }
        })
    }

    pub(crate) fn graph(&self, graph: &mut Graph, x: &Value) -> Result<Value, Error> {
        let weights = (&self.weight, self.bias.as_ref());
        match self.slide {
            Slide::Down(stride, pad) => graph.conv(x, weights, stride, pad),
            Slide::Up(stride, pad) => graph.conv_transpose(x, weights, stride, pad, 0),
        }
    }

    pub(crate) fn parameters(&self, prefix: &str, out: &mut Vec<(String, Tensor)>) {
        push(out, prefix, &self.weight, self.bias.as_ref());
    }
}

/// A fully connected layer with bias.
#[derive(Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Tensor,
    pub(crate) bias: Tensor,
}

impl Linear {
    /// Weight and bias uniform in ±1/√inputs.
    pub(crate) fn new(input: i64, output: i64, place: Place) -> Self {
        let fan = input as f64;
        let weight = place.uniform(&[output, input], fan);
        Self { weight, bias: place.uniform(&[output], fan) }
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, Error> {
        Ok(x.f_linear(&self.weight, Some(&self.bias))?)
    }

    pub(crate) fn graph(&self, graph: &mut Graph, x: &Value) -> Result<Value, Error> {
        graph.linear(x, &self.weight, &self.bias)
    }

    pub(crate) fn parameters(&self, prefix: &str, out: &mut Vec<(String, Tensor)>) {
        push(out, prefix, &self.weight, Some(&self.bias));
    }
}
