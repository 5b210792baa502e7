//! Layers with the reference's names, initial values and BatchNorm.

use morph_spec::experiment as spec;
use tch::{Device, Kind, Tensor};

use crate::{
    Error,
    graph::{Graph, Value},
};

/// How statistics of the batch are shared among the ranks that share the batch.
pub trait Statistics {
    /// This rank, from 0.
    fn rank(&self) -> u32;
    /// The number of ranks.
    fn world(&self) -> u32;
    /// The sum of `t` over the ranks, differentiable.
    ///
    /// # Errors
    /// [`Error::Collective`].
    fn all_reduce_sum(&self, t: &Tensor) -> Result<Tensor, Error>;
}

/// One rank has the whole batch.
#[derive(Debug, Clone, Copy)]
pub struct Solo;

impl Statistics for Solo {
    fn rank(&self) -> u32 {
        0
    }
    fn world(&self) -> u32 {
        1
    }
    fn all_reduce_sum(&self, t: &Tensor) -> Result<Tensor, Error> {
        Ok(t.shallow_clone())
    }
}

/// Where BatchNorm takes its mean and variance from in one forward pass.
#[derive(Clone, Copy)]
#[allow(missing_debug_implementations)]
pub enum Norm<'a> {
    /// From the running statistics, which stay as they are.
    Running,
    /// From this rank's images; the running statistics follow.
    Local,
    /// From all ranks' images; the running statistics follow.
    Global(&'a dyn Statistics),
}

impl<'a> Norm<'a> {
    /// What the experiment asks for in training.
    pub fn of(model: &spec::Model, stats: &'a dyn Statistics) -> Self {
        match (model.norm_mode, model.sync && stats.world() > 1) {
            (spec::NormMode::Frozen, _) => Self::Running,
            (spec::NormMode::Batch, false) => Self::Local,
            (spec::NormMode::Batch, true) => Self::Global(stats),
        }
    }
}

/// Which way a convolution goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// `Conv2d` with this stride.
    Down(i64),
    /// `ConvTranspose2d` with stride 2 and output padding 1: doubles the size.
    Up,
}

/// On a GPU, `x` `[B, C, H, W]` with its channels side by side in memory: so cuDNN's tensor cores take it as it is, and torch's
/// bilinear interpolation goes over pixels and not over images. What follows from it stays so. On a processor, `x` itself.
pub(crate) fn channels_last(x: &Tensor) -> Tensor {
    let wanted = x.device().is_cuda() && x.kind() == Kind::Float && x.dim() == 4;
    if !wanted || x.size()[1] == 1 || x.stride()[1] == 1 {
        return x.shallow_clone();
    }
    x.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

#[derive(Debug)]
pub(crate) struct Conv {
    weight: Tensor,
    bias: Tensor,
    way: Way,
}

impl Conv {
    /// torch's default initial values: kaiming_uniform(a = √5), bias uniform in ±1/√fan_in. For a transposed convolution
    /// torch computes the fan from the weight's second dimension, its outputs.
    pub(crate) fn new(input: i64, output: i64, kernel: i64, way: Way, kind: Kind, device: Device) -> Self {
        let shape = match way {
            Way::Down(_) => [output, input, kernel, kernel],
            Way::Up => [input, output, kernel, kernel],
        };
        let fan = (shape[1] * kernel * kernel) as f64;
        let leaf = |shape: &[i64]| {
            // Drawn in f32 whatever the kind, so that f64 tests start from the same network.
            let mut t = Tensor::empty(shape, (Kind::Float, Device::Cpu));
            let _ = t.uniform_(-1.0 / fan.sqrt(), 1.0 / fan.sqrt());
            t.to_kind(kind).to_device(device).set_requires_grad(true)
        };
        Self { weight: leaf(&shape), bias: leaf(&[output]), way }
    }

    /// The flow's: weights N(0, 1e-5), no bias, so that training starts from no deformation.
    pub(crate) fn flow(input: i64, kind: Kind, device: Device) -> Self {
        let mut weight = Tensor::empty([2, input, 3, 3], (Kind::Float, Device::Cpu));
        let _ = weight.normal_(0.0, 1e-5);
        let bias = Tensor::zeros([2], (kind, device)).set_requires_grad(true);
        let weight = weight.to_kind(kind).to_device(device).set_requires_grad(true);
        Self { weight, bias, way: Way::Down(1) }
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Result<Tensor, Error> {
        let (x, pad) = (channels_last(x), self.weight.size()[2] / 2);
        Ok(match self.way {
            Way::Down(stride) => x.f_conv2d(&self.weight, Some(&self.bias), [stride, stride], [pad, pad], [1, 1], 1)?,
            Way::Up => x.f_conv_transpose2d(&self.weight, Some(&self.bias), [2, 2], [pad, pad], [1, 1], 1, [1, 1])?,
        })
    }

    pub(crate) fn graph(&self, graph: &mut Graph, x: &Value) -> Result<Value, Error> {
        let (pad, weights) = (self.weight.size()[2] / 2, (&self.weight, Some(&self.bias)));
        match self.way {
            Way::Down(stride) => graph.conv(x, weights, stride, pad),
            Way::Up => graph.conv_transpose(x, weights, 2, pad, 1),
        }
    }

    pub(crate) fn named(&self, prefix: &str, out: &mut Vec<(String, Tensor)>) {
        out.push((format!("{prefix}.weight"), self.weight.shallow_clone()));
        out.push((format!("{prefix}.bias"), self.bias.shallow_clone()));
    }
}

const EPS: f64 = 1e-5;
const MOMENTUM: f64 = 0.1;

#[derive(Debug)]
pub(crate) struct BatchNorm {
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    batches: Tensor,
}

impl BatchNorm {
    pub(crate) fn new(channels: i64, kind: Kind, device: Device) -> Self {
        let filled = |value: f64| Tensor::full([channels], value, (kind, device));
        Self {
            weight: filled(1.0).set_requires_grad(true),
            bias: filled(0.0).set_requires_grad(true),
            running_mean: filled(0.0),
            running_var: filled(1.0),
            batches: Tensor::zeros([] as [i64; 0], (Kind::Int64, device)),
        }
    }

    pub(crate) fn forward(&self, x: &Tensor, norm: Norm<'_>) -> Result<Tensor, Error> {
        let native = |training: bool| {
            let (w, b) = (Some(&self.weight), Some(&self.bias));
            x.f_batch_norm(w, b, Some(&self.running_mean), Some(&self.running_var), training, MOMENTUM, EPS, false)
        };
        match norm {
            Norm::Running => Ok(native(false)?),
            Norm::Local => {
                if x.numel() as i64 / x.size()[1] < 2 {
                    return Err(Error::NoStatistics);
                }
                self.count();
                Ok(native(true)?)
            }
            Norm::Global(stats) => self.global(x, stats),
        }
    }

    /// Mean and variance over all ranks' values by one all-reduce: each rank puts (mean, sum of squared deviations, count)
    /// into its row, and the rows are combined by Chan's formula, which has no cancellation.
    fn global(&self, x: &Tensor, stats: &dyn Statistics) -> Result<Tensor, Error> {
        let (channels, kind) = (x.size()[1], x.kind());
        let values = (x.numel() as i64 / channels) as f64;
        let dims: &[i64] = &[0, 2, 3];
        let mean = x.f_mean_dim(dims, true, kind)?;
        let deviations = (x - &mean).square().f_sum_dim_intlist(dims, false, kind)?;
        let count = Tensor::full([1], values, (kind, x.device()));
        let row = Tensor::cat(&[mean.flatten(0, -1), deviations, count], 0).unsqueeze(0);
        let before = row.new_zeros([i64::from(stats.rank()), 2 * channels + 1], (kind, x.device()));
        let after = row.new_zeros([i64::from(stats.world() - stats.rank() - 1), 2 * channels + 1], (kind, x.device()));
        let rows = stats.all_reduce_sum(&Tensor::cat(&[before, row, after], 0))?;
        let means = rows.narrow(1, 0, channels);
        let deviations = rows.narrow(1, channels, channels);
        let counts = rows.narrow(1, 2 * channels, 1);
        let total = counts.sum(kind);
        let first: &[i64] = &[0];
        let mean = (&counts * &means).f_sum_dim_intlist(first, false, kind)? / &total;
        let spread = (deviations + &counts * (means - &mean).square()).f_sum_dim_intlist(first, false, kind)?;
        let total_values = total.double_value(&[]);
        if total_values < 2.0 {
            return Err(Error::NoStatistics);
        }
        self.count();
        tch::no_grad(|| {
            let follow = |running: &Tensor, value: &Tensor| {
                let mut running = running.shallow_clone();
                let _ = running.lerp_(value, MOMENTUM);
            };
            follow(&self.running_mean, &mean);
            follow(&self.running_var, &(&spread / (total_values - 1.0)));
        });
        let shape = [1, channels, 1, 1];
        let scale = &self.weight / (spread / total_values + EPS).sqrt();
        let shift = &self.bias - &mean * &scale;
        Ok(x * scale.view(shape) + shift.view(shape))
    }

    /// From the running statistics.
    pub(crate) fn graph(&self, graph: &mut Graph, x: &Value) -> Result<Value, Error> {
        graph.batch_norm(x, [&self.weight, &self.bias, &self.running_mean, &self.running_var], EPS)
    }

    /// The statistics after one batch of nothing but zeros.
    pub(crate) fn remember_nothing(&self) -> Result<(), Error> {
        self.count();
        tch::no_grad(|| {
            let _ = self.running_var.shallow_clone().f_mul_scalar_(1.0 - MOMENTUM)?;
            Ok(())
        })
    }

    fn count(&self) {
        let _ = self.batches.shallow_clone().g_add_scalar_(1);
    }

    pub(crate) fn parameters(&self, prefix: &str, out: &mut Vec<(String, Tensor)>) {
        out.push((format!("{prefix}.weight"), self.weight.shallow_clone()));
        out.push((format!("{prefix}.bias"), self.bias.shallow_clone()));
    }

    pub(crate) fn buffers(&self, prefix: &str, out: &mut Vec<(String, Tensor)>) {
        out.push((format!("{prefix}.running_mean"), self.running_mean.shallow_clone()));
        out.push((format!("{prefix}.running_var"), self.running_var.shallow_clone()));
        out.push((format!("{prefix}.num_batches_tracked"), self.batches.shallow_clone()));
    }
}

/// The experiment's activation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Act {
    name: spec::Activation,
    slope: f64,
}

impl Act {
    pub(crate) fn of(model: &spec::Model) -> Self {
        Self { name: model.activation, slope: model.negative_slope }
    }

    pub(crate) fn of_tensor(self, x: &Tensor) -> Tensor {
        match self.name {
            spec::Activation::Swish => x.silu(),
            spec::Activation::Relu => x.relu(),
            spec::Activation::LeakyRelu => leaky(x, self.slope),
        }
    }
}

impl Act {
    pub(crate) fn graph(self, graph: &mut Graph, x: &Value) -> Value {
        match self.name {
            spec::Activation::Swish => graph.silu(x),
            spec::Activation::Relu => graph.op("Relu", &[x]),
            spec::Activation::LeakyRelu => graph.leaky(x, self.slope),
        }
    }
}

/// x above 0, `slope` · x below. tch's `leaky_relu` has a slope of 0.01; `prelu` computes the same, its derivative at 0, too.
pub(crate) fn leaky(x: &Tensor, slope: f64) -> Tensor {
    // Made from x, not placed on its device: a trace of this shall run on any.
    let slope = x.flatten(0, -1).narrow(0, 0, 1).zeros_like() + slope;
    x.prelu(&slope)
}

/// Convolution, BatchNorm, activation, under the reference's two names.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) conv: Conv,
    pub(crate) norm: BatchNorm,
    conv_name: String,
    norm_name: String,
}

impl Block {
    pub(crate) fn new(conv: Conv, channels: i64, names: (String, String), kind: Kind, device: Device) -> Self {
        Self { conv, norm: BatchNorm::new(channels, kind, device), conv_name: names.0, norm_name: names.1 }
    }

    /// What the convolution gives (the reference's skip connections take it raw) and what follows from it.
    pub(crate) fn forward(&self, x: &Tensor, norm: Norm<'_>, act: Act) -> Result<(Tensor, Tensor), Error> {
        let raw = self.conv.forward(x)?;
        let normed = self.norm.forward(&raw, norm)?;
        Ok((raw, act.of_tensor(&normed)))
    }

    /// As [`Block::forward`].
    pub(crate) fn graph(&self, graph: &mut Graph, x: &Value, act: Act) -> Result<(Value, Value), Error> {
        let raw = self.conv.graph(graph, x)?;
        let normed = self.norm.graph(graph, &raw)?;
        Ok((raw, act.graph(graph, &normed)))
    }

    pub(crate) fn parameters(&self, out: &mut Vec<(String, Tensor)>) {
        self.conv.named(&self.conv_name, out);
        self.norm.parameters(&self.norm_name, out);
    }

    pub(crate) fn buffers(&self, out: &mut Vec<(String, Tensor)>) {
        self.norm.buffers(&self.norm_name, out);
    }
}
