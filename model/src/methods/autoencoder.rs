//! The convolutional auto-encoder of the paper (`ConvAutoEncoder`, and `DenseConvAutoEncoderBaur` with its dense bottleneck):
//! blocks of convolution, BatchNorm, activation; a 1×1 convolution and a sigmoid at the end.

use morph_spec::experiment as spec;
use tch::Tensor;

use super::Parts;
use crate::{
    At, Draws, Error, Losses, Method, Reconstruction, Solo, Step,
    graph::{Graph, Outputs, Value},
    layers::{self, Linear, Place, Slide},
    losses,
    method::one_update,
    nn::{Act, Block, Conv, Norm, Statistics, Way},
    vgg::Vgg,
};

/// Channels of the dense bottleneck's image.
const SQUEEZED: i64 = 16;

/// The network with its loss: reconstruction + α · perceptual.
#[derive(Debug)]
pub struct Autoencoder {
    model: spec::Model,
    loss: spec::Loss,
    vgg: Option<Vgg>,
    encoder: Vec<Block>,
    dense: Option<Dense>,
    decoder: Vec<Block>,
    last: Conv,
}

/// A code of a few numbers: 1×1 convolution to 16 channels, fully connected to the code and back, 1×1 convolution.
#[derive(Debug)]
struct Dense {
    squeeze: layers::Conv,
    encode: Linear,
    decode: Linear,
    widen: layers::Conv,
}

impl Dense {
    fn new(channels: i64, side: i64, code: i64, place: Place) -> Self {
        let numbers = SQUEEZED * side * side;
        Self {
            squeeze: layers::Conv::new(channels, SQUEEZED, 1, Slide::Down(1, 0), true, place),
            encode: Linear::new(numbers, code, place),
            decode: Linear::new(code, numbers, place),
            widen: layers::Conv::new(SQUEEZED, channels, 1, Slide::Down(1, 0), true, place),
        }
    }

    /// The code `[B, latent]` and what the decoder begins with.
    fn forward(&self, h: &Tensor) -> Result<(Tensor, Tensor), Error> {
        let squeezed = self.squeeze.forward(h)?;
        let code = self.encode.forward(&squeezed.flatten(1, -1))?;
        // The size of the batch is left open, so that a trace does for any.
        let shape = [&[-1], &squeezed.size()[1..]].concat();
        let widened = self.widen.forward(&self.decode.forward(&code)?.f_reshape(&shape)?)?;
        Ok((code, widened))
    }

    fn parameters(&self, out: &mut Vec<(String, Tensor)>) {
        self.squeeze.parameters("lin_enc", out);
        self.encode.parameters("lin_lay_enc", out);
        self.decode.parameters("lin_lay_dec", out);
        self.widen.parameters("lin_dec", out);
    }
}

impl Autoencoder {
    /// The network that `parts` describe; with a dense bottleneck of `model.latent` numbers if `dense`.
    pub(super) fn new(parts: Parts<'_>, dense: bool) -> Result<Self, Error> {
        let Parts { model, loss, vgg, place, seed, .. } = parts;
        tch::manual_seed(seed as i64);
        let channels: Vec<i64> = model.channels.iter().map(|c| i64::from(*c)).collect();
        let (Some(finest), Some(coarsest)) = (channels.first().copied(), channels.last().copied()) else {
            return Err(Error::Torch("an auto-encoder has channels".into()));
        };
        let levels = model.levels() as usize;
        let kernel = i64::from(model.kernel_size);
        let block = |input, output, way, part: &str, verb: &str, i: usize| {
            let names = (format!("{part}.conv__{verb}_{i}"), format!("{part}.conv__batch_{i}"));
            let conv = Conv::new(input, output, kernel, way, place.kind, place.device);
            Block::new(conv, output, names, place.kind, place.device)
        };
        // Level i of the encoder has `channels[i]` outputs, one beyond them the last again; the decoder likewise.
        let widths = |mut list: Vec<i64>, beyond| {
            list.resize(levels.min(list.len() + 1), beyond);
            list
        };
        let chain = |first: i64, outputs: &[i64]| -> Vec<(i64, i64)> {
            std::iter::once(first).chain(outputs.iter().copied()).zip(outputs.iter().copied()).collect()
        };
        let down = chain(1, &widths(channels.clone(), coarsest));
        let up = chain(coarsest, &widths(channels.iter().rev().copied().collect(), finest));
        let encoder =
            down.iter().enumerate().map(|(i, (a, b))| block(*a, *b, Way::Down(2), "encoder", "encode", i)).collect();
        let way = match model.upsampling {
            spec::Upsampling::Bilinear => Way::Down(1),
            spec::Upsampling::Transposed => Way::Up,
        };
        let decoder = up.iter().enumerate().map(|(i, (a, b))| block(*a, *b, way, "decoder", "decode", i)).collect();
        let last = Conv::new(up.last().map_or(finest, |(_, b)| *b), 1, 1, Way::Down(1), place.kind, place.device);
        let side = i64::from(model.image_size) >> levels;
        let dense = dense.then(|| Dense::new(coarsest, side, i64::from(model.latent), place));
        Ok(Self { model: model.clone(), loss: loss.clone(), vgg, encoder, dense, decoder, last })
    }

    /// Reconstruction and code.
    fn forward(&self, x: &Tensor, norm: Norm<'_>) -> Result<(Tensor, Tensor), Error> {
        let act = Act::of(&self.model);
        let mut h = x.shallow_clone();
        for block in &self.encoder {
            h = block.forward(&h, norm, act)?.1;
        }
        let mut code = h.shallow_clone();
        if let Some(dense) = &self.dense {
            (code, h) = dense.forward(&h)?;
        }
        for block in &self.decoder {
            if self.model.upsampling == spec::Upsampling::Bilinear {
                let [.., height, width] = h.size()[..] else {
                    return Err(Error::Torch("an image has four dimensions".into()));
                };
                h = h.f_upsample_bilinear2d([height * 2, width * 2], true, None, None)?;
            }
            h = block.forward(&h, norm, act)?.1;
        }
        Ok((self.last.forward(&h)?.sigmoid(), code))
    }

    fn losses(&self, x: &Tensor, stats: &dyn Statistics) -> Result<Losses, Error> {
        let (y, _) = self.forward(x, Norm::of(&self.model, stats))?;
        let reconstruction = losses::reconstruction(self.loss.reconstruction, &y, x);
        losses::with_perceptual(reconstruction, "reconstruction", (&y, x), self.vgg.as_ref(), &self.loss.perceptual)
    }
}

impl Method for Autoencoder {
    fn parameters(&self) -> Vec<(String, Tensor)> {
        let mut out = Vec::new();
        self.encoder.iter().chain(&self.decoder).for_each(|block| block.parameters(&mut out));
        self.last.named("decoder.conv__decode_final", &mut out);
        self.dense.iter().for_each(|dense| dense.parameters(&mut out));
        out
    }

    fn buffers(&self) -> Vec<(String, Tensor)> {
        let mut out = Vec::new();
        self.encoder.iter().chain(&self.decoder).for_each(|block| block.buffers(&mut out));
        out
    }

    fn step(&self, x: &Tensor, step: &mut Step<'_>) -> Result<Losses, Error> {
        let stats = step.stats;
        one_update(step.updates, || self.losses(x, stats))
    }

    fn outputs(&self, x: &Tensor, training: bool, _: &mut dyn Draws) -> Result<Vec<(&'static str, Tensor)>, Error> {
        let norm = if training { Norm::of(&self.model, &Solo) } else { Norm::Running };
        let (y, z) = tch::no_grad(|| self.forward(x, norm))?;
        Ok(vec![("y", y), ("z", z)])
    }

    fn reconstruct(&self, x: &Tensor, _: &mut dyn Draws) -> Result<Reconstruction, Error> {
        Ok(Reconstruction::plain(tch::no_grad(|| self.forward(x, Norm::Running))?.0))
    }

    fn graph(&self, graph: &mut Graph, x: &Value) -> Result<Outputs, Error> {
        let act = Act::of(&self.model);
        let mut h = x.clone();
        for block in &self.encoder {
            h = block.graph(graph, &h, act)?.1;
        }
        if let Some(dense) = &self.dense {
            let squeezed = dense.squeeze.graph(graph, &h)?;
            let flat = graph.flatten(&squeezed);
            let code = dense.encode.graph(graph, &flat)?;
            let decoded = dense.decode.graph(graph, &code)?;
            let side = i64::from(self.model.image_size) >> self.encoder.len();
            let shaped = graph.reshape(&decoded, &[-1, SQUEEZED, side, side]);
            h = dense.widen.graph(graph, &shaped)?;
        }
        for block in &self.decoder {
            if self.model.upsampling == spec::Upsampling::Bilinear {
                h = graph.twice_bilinear(&h);
            }
            h = block.graph(graph, &h, act)?.1;
        }
        let last = self.last.graph(graph, &h)?;
        Ok(vec![("reconstruction", graph.op("Sigmoid", &[&last]), 1)])
    }

    /// The pixel loss of each image.
    fn validation_score(&self, x: &Tensor, _: At, _: &mut dyn Draws) -> Result<Tensor, Error> {
        let (y, _) = tch::no_grad(|| self.forward(x, Norm::Running))?;
        Ok(losses::per_image(self.loss.reconstruction, &y, x))
    }
}
