//! The variational auto-encoder as the paper has it from Zimmerer et al. (MICCAI 2019) (`vae_hahn`): 4×4 convolutions of stride
//! 2 without bias or normalisation, a code of `latent` numbers, no activation at the output.

use std::f64::consts::PI;

use morph_spec::experiment as spec;
use tch::{Kind, Tensor};

use super::Parts;
use crate::{
    At, Draws, Error, Losses, Method, Reconstruction, Step,
    graph::{Graph, Outputs, Value},
    layers::{Conv, Slide},
    losses,
    method::one_update,
    nn::leaky,
    vgg::Vgg,
};

/// torch's default slope of LeakyReLU.
const SLOPE: f64 = 0.01;

/// The network with its loss.
#[derive(Debug)]
pub struct Vae {
    model: spec::Model,
    loss: spec::Loss,
    vgg: Option<Vgg>,
    encoder: Vec<(String, Conv)>,
    decoder: Vec<(String, Conv)>,
}

/// What one forward pass gives: the mean of the code `[B, latent, 1, 1]`, its standard deviation, the reconstruction.
struct Forward {
    y: Tensor,
    mu: Tensor,
    std: Tensor,
}

pub(super) fn build(parts: Parts<'_>) -> Result<Vae, Error> {
    let Parts { model, loss, vgg, place, seed, .. } = parts;
    tch::manual_seed(seed as i64);
    let channels: Vec<i64> = model.channels.iter().map(|c| i64::from(*c)).collect();
    let latent = i64::from(model.latent);
    let (Some(finest), Some(coarsest)) = (channels.first().copied(), channels.last().copied()) else {
        return Err(Error::Torch("a VAE has channels".into()));
    };
    let side = i64::from(model.image_size) >> channels.len();
    if side < 1 {
        return Err(Error::Torch("an image of the VAE is halved once for each of its channels".into()));
    }
    let conv = |part: String, input, output, kernel, slide| (part, Conv::new(input, output, kernel, slide, false, place));
    let middle = |part: &str, i: usize| format!("{part}.middle_blocks.{i}.conv");
    let mut encoder = vec![conv("encoder.start.conv".into(), 1, finest, 4, Slide::Down(2, 1))];
    for (i, pair) in channels.windows(2).enumerate() {
        encoder.push(conv(middle("encoder", i), pair[0], pair[1], 4, Slide::Down(2, 1)));
    }
    encoder.push(conv("encoder.end.conv".into(), coarsest, 2 * latent, side, Slide::Down(1, 0)));
    let mut decoder = vec![conv("decoder.start.conv".into(), latent, coarsest, side, Slide::Up(1, 0))];
    for (i, pair) in channels.windows(2).rev().enumerate() {
        decoder.push(conv(middle("decoder", i), pair[1], pair[0], 4, Slide::Up(2, 1)));
    }
    decoder.push(conv("decoder.end.conv".into(), finest, 1, 4, Slide::Up(2, 1)));
    Ok(Vae { model: model.clone(), loss: loss.clone(), vgg, encoder, decoder })
}

/// Convolutions with LeakyReLU between them.
fn run(layers: &[(String, Conv)], x: &Tensor) -> Result<Tensor, Error> {
    let mut h = x.shallow_clone();
    for (i, (_, conv)) in layers.iter().enumerate() {
        h = conv.forward(&h)?;
        if i + 1 < layers.len() {
            h = leaky(&h, SLOPE);
        }
    }
    Ok(h)
}

/// As [`run`].
fn drawn(layers: &[(String, Conv)], graph: &mut Graph, x: &Value) -> Result<Value, Error> {
    let mut h = x.clone();
    for (i, (_, conv)) in layers.iter().enumerate() {
        h = conv.graph(graph, &h)?;
        if i + 1 < layers.len() {
            h = graph.leaky(&h, SLOPE);
        }
    }
    Ok(h)
}

impl Vae {
    fn forward(&self, x: &Tensor, training: bool, draws: &mut dyn Draws) -> Result<Forward, Error> {
        let latent = i64::from(self.model.latent);
        let code = run(&self.encoder, x)?;
        let (mu, std) = (code.narrow(1, 0, latent), code.narrow(1, latent, latent).exp());
        let z = if sampled(self.model.sampling, training) {
            &mu + &std * draws.normal(&[latent, 1, 1], 1.0, x)?
        } else {
            mu.shallow_clone()
        };
        Ok(Forward { y: run(&self.decoder, &z)?, mu, std })
    }

    /// −ELBO of each image `[B]`.
    fn elbo(&self, out: &Forward, x: &Tensor) -> Tensor {
        let sum = |t: Tensor| t.sum_dim_intlist([1i64, 2, 3].as_slice(), false, x.kind());
        let log_std = self.loss.vae.rec_log_std;
        let var = (2.0 * log_std).exp();
        let pixels = (&out.y - x).square() / (2.0 * var) + (log_std + (2.0 * PI).ln() / 2.0);
        let posterior = match self.loss.vae.posterior {
            spec::Posterior::Exponential => out.std.shallow_clone(),
            spec::Posterior::Twice => out.std.exp(),
        };
        let var = posterior.square();
        let divergence = (&var + out.mu.square() - 1.0 - var.log()) * 0.5;
        sum(divergence) + sum(pixels)
    }
}

/// Whether a code is drawn.
pub(super) fn sampled(sampling: spec::Sampling, training: bool) -> bool {
    match sampling {
        spec::Sampling::Always => true,
        spec::Sampling::Training => training,
        spec::Sampling::Never => false,
    }
}

impl Method for Vae {
    fn parameters(&self) -> Vec<(String, Tensor)> {
        let mut out = Vec::new();
        for (name, conv) in self.encoder.iter().chain(&self.decoder) {
            conv.parameters(name, &mut out);
        }
        out
    }

    fn buffers(&self) -> Vec<(String, Tensor)> {
        Vec::new()
    }

    fn step(&self, x: &Tensor, step: &mut Step<'_>) -> Result<Losses, Error> {
        let draws = &mut *step.draws;
        one_update(step.updates, || {
            let out = self.forward(x, true, draws)?;
            let elbo = self.elbo(&out, x).mean(x.kind());
            losses::with_perceptual(elbo, "elbo", (&out.y, x), self.vgg.as_ref(), &self.loss.perceptual)
        })
    }

    fn outputs(&self, x: &Tensor, training: bool, draws: &mut dyn Draws) -> Result<Vec<(&'static str, Tensor)>, Error> {
        let out = tch::no_grad(|| self.forward(x, training, draws))?;
        // The reference calls the standard deviation the logarithm of the variance.
        Ok(vec![("y", out.y), ("z_mu", out.mu), ("z_logvar", out.std)])
    }

    fn reconstruct(&self, x: &Tensor, draws: &mut dyn Draws) -> Result<Reconstruction, Error> {
        Ok(Reconstruction::plain(tch::no_grad(|| self.forward(x, false, draws))?.y))
    }

    fn graph(&self, graph: &mut Graph, x: &Value) -> Result<Outputs, Error> {
        let code = drawn(&self.encoder, graph, x)?;
        let mean = graph.first(&code, i64::from(self.model.latent));
        Ok(vec![("reconstruction", drawn(&self.decoder, graph, &mean)?, 1)])
    }

    /// −ELBO of each image.
    fn validation_score(&self, x: &Tensor, _: At, draws: &mut dyn Draws) -> Result<Tensor, Error> {
        tch::no_grad(|| Ok(self.elbo(&self.forward(x, false, draws)?, x).to_kind(Kind::Double)))
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::{
        layers::Place,
        tests::{Golden, facts},
    };

    #[test]
    fn the_bound_is_the_references() {
        let (Some(golden), Some(inputs), Some(facts)) =
            (Golden::open("ops/misc.safetensors"), Golden::open("inputs.safetensors"), facts())
        else {
            return;
        };
        let model: spec::Model =
            serde_json::from_value(serde_json::json!({"method": "vae", "image_size": 16, "channels": [2], "latent": 16}))
                .unwrap();
        let mut loss = spec::Loss::default();
        loss.vae.posterior = spec::Posterior::Twice;
        let place = Place { device: Device::Cpu, kind: Kind::Double };
        let noise = &spec::Noise::default();
        let vae = build(Parts { model: &model, loss: &loss, noise, vgg: None, place, seed: 1 }).unwrap();
        let get = |name: &str| golden.get(name, Kind::Double);
        let x = inputs.get("batches_u8", Kind::Double).get(1) / 255.0;
        let out = Forward { y: get("vae_xrec"), mu: get("vae_mu"), std: get("vae_std_out") };
        let (got, want) = (vae.elbo(&out, &x).mean(Kind::Double).double_value(&[]), facts["vae_loss"].as_f64().unwrap());
        assert!((got - want).abs() < 1e-6 * want, "{got} instead of {want}");
    }
}
