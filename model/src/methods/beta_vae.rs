//! The β-VAE (Higgins et al. 2017; Burgess et al. 2018): 32 channels a level, a code of `latent` numbers, no activation at the
//! output; a divergence that is held at a capacity which grows as training goes on.

use morph_spec::experiment as spec;
use tch::{Kind, Tensor};

use super::{Parts, vae::sampled};
use crate::{
    At, Draws, Error, Losses, Method, Reconstruction, Solo, Statistics, Step,
    graph::{Graph, Outputs, Value},
    layers::{Conv, Linear, Place, Slide},
    losses,
    method::one_update,
    vgg::Vgg,
};

const CHANNELS: i64 = 32;
const HIDDEN: i64 = 256;
/// Side of the image that becomes one pixel of `HIDDEN` channels.
const COARSEST: i64 = 4;

/// The network with its loss.
#[derive(Debug)]
pub struct BetaVae {
    model: spec::Model,
    loss: spec::Loss,
    vgg: Option<Vgg>,
    down: Vec<Conv>,
    to_code: Linear,
    from_code: Linear,
    up: Vec<Conv>,
}

struct Forward {
    y: Tensor,
    mu: Tensor,
    log_var: Tensor,
}

/// Weights by `kaiming_normal` and no bias, as the reference begins.
fn kaiming(weight: &Tensor, bias: Option<&Tensor>, place: Place) -> Result<(), Error> {
    let fan = (weight.numel() as i64 / weight.size()[0]) as f64;
    let drawn = place.leaf(&weight.size(), |t| drop(t.normal_(0.0, (2.0 / fan).sqrt())));
    tch::no_grad(|| {
        weight.shallow_clone().f_copy_(&drawn)?;
        if let Some(bias) = bias {
            let _ = bias.shallow_clone().f_zero_()?;
        }
        Ok(())
    })
}

pub(super) fn build(parts: Parts<'_>) -> Result<BetaVae, Error> {
    let Parts { model, loss, vgg, place, seed, .. } = parts;
    tch::manual_seed(seed as i64);
    let latent = i64::from(model.latent);
    let side = i64::from(model.image_size);
    if side < 2 * COARSEST || side.count_ones() != 1 {
        return Err(Error::Torch("an image of the β-VAE is halved until its side is 4".into()));
    }
    let levels = (side / COARSEST).trailing_zeros() as usize;
    let conv = |input, output, slide| Conv::new(input, output, 4, slide, true, place);
    let width = |i: usize| if i == 0 { 1 } else { CHANNELS };
    let mut down: Vec<Conv> = (0..levels).map(|i| conv(width(i), CHANNELS, Slide::Down(2, 1))).collect();
    down.push(conv(CHANNELS, HIDDEN, Slide::Down(1, 0)));
    let to_code = Linear::new(HIDDEN, 2 * latent, place);
    let from_code = Linear::new(latent, HIDDEN, place);
    // Transposed convolutions keep torch's default values: the reference's initialisation passes them by.
    let mut up = vec![conv(HIDDEN, CHANNELS, Slide::Up(1, 0))];
    up.extend((0..levels).rev().map(|i| conv(CHANNELS, width(i), Slide::Up(2, 1))));
    for conv in &down {
        kaiming(&conv.weight, conv.bias.as_ref(), place)?;
    }
    for linear in [&to_code, &from_code] {
        kaiming(&linear.weight, Some(&linear.bias), place)?;
    }
    Ok(BetaVae { model: model.clone(), loss: loss.clone(), vgg, down, to_code, from_code, up })
}

impl BetaVae {
    fn forward(&self, x: &Tensor, training: bool, draws: &mut dyn Draws) -> Result<Forward, Error> {
        let latent = i64::from(self.model.latent);
        let mut h = x.shallow_clone();
        for conv in &self.down {
            h = conv.forward(&h)?.relu();
        }
        let code = self.to_code.forward(&h.flatten(1, -1))?;
        let (mu, log_var) = (code.narrow(1, 0, latent), code.narrow(1, latent, latent));
        let z = if sampled(self.model.sampling, training) {
            &mu + (&log_var * 0.5).exp() * draws.normal(&[latent], 1.0, x)?
        } else {
            mu.shallow_clone()
        };
        h = self.from_code.forward(&z)?.f_reshape([-1, HIDDEN, 1, 1])?;
        for conv in &self.up {
            h = conv.forward(&h.relu())?;
        }
        Ok(Forward { y: h, mu, log_var })
    }

    /// The term of the divergence, whose mean is over the images of all ranks: |KL − C| of means is not the mean of |KL − C|.
    fn divergence(&self, out: &Forward, at: At, stats: &dyn Statistics) -> Result<Tensor, Error> {
        let each = (&out.log_var + 1.0 - out.mu.square() - out.log_var.exp())
            .sum_dim_intlist([1i64].as_slice(), false, out.mu.kind())
            * -0.5;
        let images = Tensor::full([1], each.size()[0], (each.kind(), each.device()));
        let sums = stats.all_reduce_sum(&Tensor::cat(&[each.sum(each.kind()).reshape([1]), images], 0))?;
        let mean = sums.get(0) / sums.get(1).detach();
        let c = &self.loss.capacity;
        Ok(match c.form {
            spec::CapacityForm::H => mean * (c.beta * c.divergence_weight),
            spec::CapacityForm::B => {
                let counted = at.step + 1 + if c.count_validation { at.validated } else { 0 };
                let capacity = (c.max / c.iterations as f64 * counted as f64).clamp(0.0, c.max);
                (mean - capacity).abs() * (c.gamma * c.divergence_weight)
            }
        })
    }
}

impl Method for BetaVae {
    fn parameters(&self) -> Vec<(String, Tensor)> {
        let mut out = Vec::new();
        // Numbers of a `Sequential` in which each convolution has an activation of its own, and one is for the change of shape.
        for (i, conv) in self.down.iter().enumerate() {
            conv.parameters(&format!("encoder.{}", 2 * i), &mut out);
        }
        self.to_code.parameters(&format!("encoder.{}", 2 * self.down.len() + 1), &mut out);
        self.from_code.parameters("decoder.0", &mut out);
        for (i, conv) in self.up.iter().enumerate() {
            conv.parameters(&format!("decoder.{}", 2 * i + 3), &mut out);
        }
        out
    }

    fn buffers(&self) -> Vec<(String, Tensor)> {
        Vec::new()
    }

    fn step(&self, x: &Tensor, step: &mut Step<'_>) -> Result<Losses, Error> {
        let (at, stats, draws) = (step.at, step.stats, &mut *step.draws);
        one_update(step.updates, || {
            let out = self.forward(x, true, draws)?;
            let pixels = losses::reconstruction(spec::Reconstruction::L2, &out.y, x);
            let divergence = self.divergence(&out, at, stats)?;
            let watched = [("reconstruction", pixels.detach()), ("divergence", divergence.detach())];
            let bound = pixels + divergence;
            let mut losses =
                losses::with_perceptual(bound, "capacity", (&out.y, x), self.vgg.as_ref(), &self.loss.perceptual)?;
            losses.terms.extend(watched);
            Ok(losses)
        })
    }

    fn outputs(&self, x: &Tensor, training: bool, draws: &mut dyn Draws) -> Result<Vec<(&'static str, Tensor)>, Error> {
        let out = tch::no_grad(|| self.forward(x, training, draws))?;
        Ok(vec![("y", out.y), ("z_mu", out.mu), ("z_logvar", out.log_var)])
    }

    fn reconstruct(&self, x: &Tensor, draws: &mut dyn Draws) -> Result<Reconstruction, Error> {
        Ok(Reconstruction::plain(tch::no_grad(|| self.forward(x, false, draws))?.y))
    }

    fn graph(&self, graph: &mut Graph, x: &Value) -> Result<Outputs, Error> {
        let mut h = x.clone();
        for conv in &self.down {
            let y = conv.graph(graph, &h)?;
            h = graph.op("Relu", &[&y]);
        }
        let flat = graph.flatten(&h);
        let code = self.to_code.graph(graph, &flat)?;
        let mean = graph.first(&code, i64::from(self.model.latent));
        let back = self.from_code.graph(graph, &mean)?;
        h = graph.reshape(&back, &[-1, HIDDEN, 1, 1]);
        for conv in &self.up {
            let y = graph.op("Relu", &[&h]);
            h = conv.graph(graph, &y)?;
        }
        Ok(vec![("reconstruction", h, 1)])
    }

    /// The MSE of each image; to all of them is added the same term of the divergence, that of `x` as a whole, as in the reference.
    fn validation_score(&self, x: &Tensor, at: At, draws: &mut dyn Draws) -> Result<Tensor, Error> {
        tch::no_grad(|| {
            let out = self.forward(x, false, draws)?;
            let pixels = losses::per_image(spec::Reconstruction::L2, &out.y, x);
            // Ranks validate different batches, each alone.
            Ok((pixels + self.divergence(&out, at, &Solo)?).to_kind(Kind::Double))
        })
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::tests::{Golden, facts};

    #[test]
    fn the_loss_of_each_call_is_the_references() {
        let (Some(golden), Some(inputs), Some(facts)) =
            (Golden::open("ops/misc.safetensors"), Golden::open("inputs.safetensors"), facts())
        else {
            return;
        };
        let model: spec::Model =
            serde_json::from_value(serde_json::json!({"method": "b-vae", "image_size": 32, "latent": 32})).unwrap();
        let (loss, noise) = (&spec::Loss::default(), &spec::Noise::default());
        let place = Place { device: Device::Cpu, kind: Kind::Double };
        let vae = build(Parts { model: &model, loss, noise, vgg: None, place, seed: 1 }).unwrap();
        let get = |name: &str| golden.get(name, Kind::Double);
        let x = inputs.get("batches_u8", Kind::Double).get(1) / 255.0;
        let out = Forward { y: get("vae_xrec"), mu: get("b_mu"), log_var: get("b_logvar") };
        let pixels = losses::reconstruction(spec::Reconstruction::L2, &out.y, &x).double_value(&[]);
        let calls = facts["bvae_loss_by_call"].as_array().unwrap();
        assert_eq!(calls.len(), 5);
        for (step, want) in (0..).zip(calls) {
            let at = At { step, ..At::default() };
            let got = pixels + vae.divergence(&out, at, &Solo).unwrap().double_value(&[]);
            let want = want.as_f64().unwrap();
            assert!((got - want).abs() < 1e-6, "call {step}: {got} instead of {want}");
        }
    }
}
