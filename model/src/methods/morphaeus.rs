//! MorphAEus (Bercea, Rueckert, Schnabel; MICCAI 2023): a convolutional auto-encoder draws the prior, a deformer on the
//! skip connections of the finest levels estimates a dense deformation that fits the prior to the image.
//! Layers, names and quirks: reference-spec, section 2.

use morph_spec::experiment as spec;
use tch::{Device, Kind, Tensor};

use crate::{
    At, Draws, Error, Losses, Method, Reconstruction, Solo, Step,
    graph::{Graph, Outputs, Value},
    losses::{self, Ncc},
    method::one_update,
    nn::{Act, Block, Conv, Norm, Statistics, Way},
    vgg::Vgg,
};
use super::Parts;

/// The network with its losses.
#[derive(Debug)]
pub struct Morphaeus {
    model: spec::Model,
    loss: spec::Loss,
    vgg: Option<Vgg>,
    encoder: Vec<Block>,
    decoder: Vec<Block>,
    last: Conv,
    refine: Vec<Block>,
    flow: Conv,
    grid: Tensor,
}

/// What one forward pass gives.
#[derive(Debug)]
pub(crate) struct Forward {
    pub(crate) y: Tensor,
    pub(crate) prior: Tensor,
    pub(crate) velocity: Tensor,
    pub(crate) displacement: Tensor,
    pub(crate) reversed: Tensor,
}

pub(super) fn build(parts: Parts<'_>) -> Result<Morphaeus, Error> {
    Ok(Morphaeus::new(parts.model, parts.loss.clone(), parts.vgg, parts.place.device, parts.place.kind, parts.seed))
}

impl Morphaeus {
    /// A network with weights drawn from `seed`.
    pub fn new(model: &spec::Model, loss: spec::Loss, vgg: Option<Vgg>, device: Device, kind: Kind, seed: u64) -> Self {
        tch::manual_seed(seed as i64);
        let channels: Vec<i64> = model.channels.iter().map(|c| i64::from(*c)).collect();
        let kernel = i64::from(model.kernel_size);
        let block = |input, output, kernel, way, names: (String, String)| {
            Block::new(Conv::new(input, output, kernel, way, kind, device), output, names, kind, device)
        };
        let encode = |(i, output): (usize, &i64)| {
            let input = if i == 0 { 1 } else { channels[i - 1] };
            let names = (format!("encoder.conv__encode_{i}"), format!("encoder.conv__batch_{i}"));
            block(input, *output, kernel, Way::Down(2), names)
        };
        let encoder = channels.iter().enumerate().map(encode).collect();
        let reversed: Vec<i64> = channels.iter().rev().copied().collect();
        let decode = |(i, output): (usize, &i64)| {
            let input = if i == 0 { *output } else { reversed[i - 1] };
            let names = (format!("decoder.conv__decode_{i}"), format!("decoder.conv__batch_{i}"));
            block(input, *output, kernel, Way::Down(1), names)
        };
        let decoder = reversed.iter().enumerate().map(decode).collect();
        let last = Conv::new(channels[0], 1, 1, Way::Down(1), kind, device);
        let (levels, width) = (model.refine_levels as usize, i64::from(model.refine_channels));
        let refine = (0..levels)
            .map(|i| {
                let (enc, dec) = skips(channels.len(), levels, i);
                let carried = if i == 0 { 0 } else { width };
                let names =
                    (format!("deformer.deformerNN.ref__refine_{i}"), format!("deformer.deformerNN.ref__batch_{i}"));
                block(channels[enc] + reversed[dec] + carried, width, 3, Way::Up, names)
            })
            .collect();
        let size = i64::from(model.image_size);
        let grid = identity(size, size, kind, device);
        let flow = Conv::flow(width, kind, device);
        Self { model: model.clone(), loss, vgg, encoder, decoder, last, refine, flow, grid }
    }

    pub(crate) fn forward(&self, x: &Tensor, norm: Norm<'_>, deform_in_graph: bool) -> Result<Forward, Error> {
        let act = Act::of(&self.model);
        let (mut h, mut encoded, mut decoded) = (x.shallow_clone(), Vec::new(), Vec::new());
        for block in &self.encoder {
            let (raw, out) = block.forward(&h, norm, act)?;
            encoded.push(raw);
            h = out;
        }
        for block in &self.decoder {
            let [.., height, width] = h.size()[..] else {
                return Err(Error::Torch("an image has four dimensions".into()));
            };
            let up = h.f_upsample_bilinear2d([height * 2, width * 2], true, None, None)?;
            let (raw, out) = block.forward(&up, norm, act)?;
            decoded.push(raw);
            h = out;
        }
        let prior = self.last.forward(&h)?.sigmoid();
        let deform = || self.deform(x, &prior, &encoded, &decoded, norm);
        let (y, velocity, displacement, reversed) = if deform_in_graph { deform()? } else { tch::no_grad(deform)? };
        Ok(Forward { y, prior, velocity, displacement, reversed })
    }

    fn deform(
        &self,
        x: &Tensor,
        prior: &Tensor,
        encoded: &[Tensor],
        decoded: &[Tensor],
        norm: Norm<'_>,
    ) -> Result<(Tensor, Tensor, Tensor, Tensor), Error> {
        let mut h: Option<Tensor> = None;
        for (i, block) in self.refine.iter().enumerate() {
            let (enc, dec) = skips(encoded.len(), self.refine.len(), i);
            let mut parts = vec![encoded[enc].shallow_clone(), decoded[dec].shallow_clone()];
            parts.extend(h.take());
            h = Some(block.forward(&Tensor::cat(&parts, 1), norm, Act::of(&self.model))?.1);
        }
        let h = h.ok_or_else(|| Error::Torch("the deformer has no level".into()))?;
        let velocity = self.flow.forward(&h)?;
        let displacement = integrate(&velocity, &self.grid, self.model.integration_steps)?;
        let backward = integrate(&-&velocity, &self.grid, self.model.integration_steps)?;
        let y = warp(prior, &displacement, &self.grid)?;
        let reversed = warp(x, &backward, &self.grid)?;
        Ok((y, velocity, displacement, reversed))
    }

    /// The losses of epoch `epoch` (from 0) on `x`, in training mode as the experiment's `norm_mode` has it.
    ///
    /// # Errors
    /// [`Error::Collective`] when a peer is gone.
    pub fn losses(&self, x: &Tensor, epoch: u32, stats: &dyn Statistics) -> Result<Losses, Error> {
        self.losses_with(x, epoch, Norm::of(&self.model, stats))
    }

    pub(crate) fn losses_with(&self, x: &Tensor, epoch: u32, norm: Norm<'_>) -> Result<Losses, Error> {
        let morph = &self.loss.morph;
        let counts = epoch >= morph.start_epoch && morph.weight != 0.0;
        let out = self.forward(x, norm, counts)?;
        let reconstruction = losses::reconstruction(self.loss.reconstruction, &out.prior, x);
        let mut terms = vec![("reconstruction", reconstruction.detach())];
        let mut total = reconstruction;
        if let Some(vgg) = &self.vgg {
            let perceptual = vgg.loss(&out.prior, x)?;
            terms.push(("perceptual", perceptual.detach()));
            total = total + perceptual * self.loss.perceptual.weight;
        }
        let deformation = || -> Result<(Tensor, Tensor, Tensor), Error> {
            let ncc = Ncc { window: i64::from(morph.ncc_window), variant: morph.ncc };
            let regulariser = losses::regulariser(morph.regulariser, &out.velocity)?;
            Ok((regulariser, ncc.loss(x, &out.y)?, ncc.loss(&out.prior, &out.reversed)?))
        };
        // Before they count, these terms are only watched.
        let (regulariser, forward, backward) = if counts { deformation()? } else { tch::no_grad(deformation)? };
        terms.push(("regulariser", regulariser.detach()));
        terms.push(("ncc", forward.detach()));
        terms.push(("ncc_reversed", backward.detach()));
        if counts {
            let beta = losses::beta(morph.beta, morph.beta_epochs, epoch);
            total = total + ((forward + backward) / 2.0 + regulariser * beta) * morph.weight;
        }
        terms.push(("loss", total.detach()));
        Ok(Losses { total, terms })
    }

    fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.encoder.iter().chain(&self.decoder).chain(&self.refine)
    }
}

impl Method for Morphaeus {
    fn parameters(&self) -> Vec<(String, Tensor)> {
        let mut out = Vec::new();
        for block in self.encoder.iter().chain(&self.decoder) {
            block.parameters(&mut out);
        }
        self.last.named("decoder.conv__decode_final", &mut out);
        for block in &self.refine {
            block.parameters(&mut out);
        }
        self.flow.named("deformer.flow", &mut out);
        out
    }

    fn buffers(&self) -> Vec<(String, Tensor)> {
        let mut out = Vec::new();
        for block in self.blocks() {
            block.buffers(&mut out);
        }
        for name in ["deformer.integrate.transformer.grid", "deformer.transformer.grid"] {
            out.push((name.to_owned(), self.grid.shallow_clone()));
        }
        out
    }

    /// Before the deformation terms count, the deformer gets no gradient.
    fn partial(&self, epoch: u32) -> bool {
        epoch < self.loss.morph.start_epoch || self.loss.morph.weight == 0.0
    }

    fn step(&self, x: &Tensor, step: &mut Step<'_>) -> Result<Losses, Error> {
        let (at, stats) = (step.at, step.stats);
        one_update(step.updates, || self.losses(x, at.epoch, stats))
    }

    fn outputs(&self, x: &Tensor, training: bool, _: &mut dyn Draws) -> Result<Vec<(&'static str, Tensor)>, Error> {
        let norm = if training { Norm::of(&self.model, &Solo) } else { Norm::Running };
        let out = tch::no_grad(|| self.forward(x, norm, false))?;
        Ok(vec![
            ("y", out.y),
            ("x_prior", out.prior),
            ("deformation", out.velocity),
            ("x_reversed", out.reversed),
            ("registration.deformation", out.displacement),
        ])
    }

    fn reconstruct(&self, x: &Tensor, _: &mut dyn Draws) -> Result<Reconstruction, Error> {
        let out = tch::no_grad(|| self.forward(x, Norm::Running, false))?;
        Ok(Reconstruction {
            prior: out.prior,
            reconstruction: out.y,
            deformation: Some(out.velocity),
            displacement: Some(out.displacement),
            reversed: Some(out.reversed),
        })
    }

    fn graph(&self, graph: &mut Graph, x: &Value) -> Result<Outputs, Error> {
        let act = Act::of(&self.model);
        let (mut h, mut encoded, mut decoded) = (x.clone(), Vec::new(), Vec::new());
        for block in &self.encoder {
            let (raw, out) = block.graph(graph, &h, act)?;
            encoded.push(raw);
            h = out;
        }
        for block in &self.decoder {
            let up = graph.twice_bilinear(&h);
            let (raw, out) = block.graph(graph, &up, act)?;
            decoded.push(raw);
            h = out;
        }
        let last = self.last.graph(graph, &h)?;
        let prior = graph.op("Sigmoid", &[&last]);
        let mut h: Option<Value> = None;
        for (i, block) in self.refine.iter().enumerate() {
            let (enc, dec) = skips(encoded.len(), self.refine.len(), i);
            let parts: Vec<&Value> = [&encoded[enc], &decoded[dec]].into_iter().chain(&h).collect();
            let joined = graph.concat(&parts);
            h = Some(block.graph(graph, &joined, act)?.1);
        }
        let h = h.ok_or_else(|| Error::Torch("the deformer has no level".into()))?;
        let velocity = self.flow.graph(graph, &h)?;
        let grid = graph.tensor(&self.grid)?;
        let steps = self.model.integration_steps;
        let displacement = graph.integrate(&velocity, &grid, steps);
        let backward = graph.op("Neg", &[&velocity]);
        let backward = graph.integrate(&backward, &grid, steps);
        Ok(vec![
            ("reconstruction", graph.warp(&prior, &displacement, &grid), 1),
            ("prior", prior, 1),
            ("deformation", velocity, 2),
            ("reversed", graph.warp(x, &backward, &grid), 1),
        ])
    }

    /// (MSE(prior, x) + MSE(y, x)) / 2 of each image: the reference's `_loss_mse`.
    fn validation_score(&self, x: &Tensor, _: At, _: &mut dyn Draws) -> Result<Tensor, Error> {
        let out = tch::no_grad(|| self.forward(x, Norm::Running, false))?;
        let l2 = |y: &Tensor| losses::per_image(spec::Reconstruction::L2, y, x);
        Ok((l2(&out.prior) + l2(&out.y)) / 2.0)
    }
}

/// Which encoder and decoder levels refinement `i` of `refinements` sees, in a network of `levels`.
fn skips(levels: usize, refinements: usize, i: usize) -> (usize, usize) {
    (refinements - 1 - i, levels - 1 - refinements + i)
}

/// `src` sampled at `grid + flow`, bilinear, zero outside. `src [B, C, H, W]`, `flow [B, 2, H, W]` in pixels.
pub(crate) fn warp(src: &Tensor, flow: &Tensor, grid: &Tensor) -> Result<Tensor, Error> {
    let (height, width) = (flow.size()[2] as f64, flow.size()[3] as f64);
    let at = grid + flow;
    let normalised = |channel: i64, size: f64| (at.select(1, channel) / (size - 1.0) - 0.5) * 2.0;
    // grid_sample wants (x, y): columns first.
    let places = Tensor::stack(&[normalised(1, width), normalised(0, height)], -1);
    Ok(src.f_grid_sampler(&places, 0, 0, true)?)
}

/// The displacement of the stationary velocity field, by scaling and squaring.
pub(crate) fn integrate(velocity: &Tensor, grid: &Tensor, steps: u32) -> Result<Tensor, Error> {
    let mut flow = velocity * 0.5f64.powi(steps as i32);
    for _ in 0..steps {
        flow = &flow + warp(&flow, &flow, grid)?;
    }
    Ok(flow)
}

/// The identity grid `[1, 2, H, W]` of pixel positions.
pub(crate) fn identity(height: i64, width: i64, kind: Kind, device: Device) -> Tensor {
    let rows = Tensor::arange(height, (kind, device)).view([height, 1]).expand([height, width], false);
    let columns = Tensor::arange(width, (kind, device)).view([1, width]).expand([height, width], false);
    Tensor::stack(&[rows, columns], 0).unsqueeze(0)
}
