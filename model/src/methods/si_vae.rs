//! Soft-IntroVAE (Daniel & Tamar, CVPR 2021): residual encoder and decoder that play against each other. The encoder holds
//! generated images away from the prior, the decoder makes images that the encoder holds for real; they update in turn.

use morph_spec::experiment as spec;
use tch::{Kind, Tensor};

use super::{Parts, vae::sampled};
use crate::{
    At, Draws, Error, Group, Losses, Method, Reconstruction, Solo, Step,
    graph::{Graph, Outputs, Value},
    layers::{Conv, Linear, Place, Slide},
    losses,
    nn::{BatchNorm, Norm, leaky},
};

const SLOPE: f64 = 0.2;
/// Side of the coarsest level.
const COARSEST: i64 = 4;
/// Integers up to this are one object each in the interpreter that ran the reference.
const SMALL_INTEGER: i64 = 256;

/// Two 3×3 convolutions with BatchNorm beside a shortcut.
#[derive(Debug)]
struct Residual {
    name: String,
    expand: Option<Conv>,
    first: (Conv, BatchNorm),
    second: (Conv, BatchNorm),
}

impl Residual {
    fn new(name: String, input: i64, output: i64, expand: bool, place: Place) -> Self {
        let conv = |input, kernel: i64| Conv::new(input, output, kernel, Slide::Down(1, kernel / 2), false, place);
        let norm = || BatchNorm::new(output, place.kind, place.device);
        let expand = expand.then(|| conv(input, 1));
        Self { name, expand, first: (conv(input, 3), norm()), second: (conv(output, 3), norm()) }
    }

    fn forward(&self, x: &Tensor, norm: Norm<'_>) -> Result<Tensor, Error> {
        let shortcut = match &self.expand {
            Some(conv) => conv.forward(x)?,
            None => x.shallow_clone(),
        };
        let h = leaky(&self.first.1.forward(&self.first.0.forward(x)?, norm)?, SLOPE);
        let h = self.second.1.forward(&self.second.0.forward(&h)?, norm)?;
        Ok(leaky(&(h + shortcut), SLOPE))
    }

    fn graph(&self, graph: &mut Graph, x: &Value) -> Result<Value, Error> {
        let shortcut = match &self.expand {
            Some(conv) => conv.graph(graph, x)?,
            None => x.clone(),
        };
        let y = self.first.0.graph(graph, x)?;
        let y = self.first.1.graph(graph, &y)?;
        let h = graph.leaky(&y, SLOPE);
        let y = self.second.0.graph(graph, &h)?;
        let y = self.second.1.graph(graph, &y)?;
        let sum = graph.op("Add", &[&y, &shortcut]);
        Ok(graph.leaky(&sum, SLOPE))
    }

    fn parameters(&self, out: &mut Vec<(String, Tensor)>) {
        let name = &self.name;
        self.expand.iter().for_each(|conv| conv.parameters(&format!("{name}.conv_expand"), out));
        for (i, (conv, norm)) in [&self.first, &self.second].into_iter().enumerate() {
            conv.parameters(&format!("{name}.conv{}", i + 1), out);
            norm.parameters(&format!("{name}.bn{}", i + 1), out);
        }
    }

    fn norms(&self) -> [(String, &BatchNorm); 2] {
        [(format!("{}.bn1", self.name), &self.first.1), (format!("{}.bn2", self.name), &self.second.1)]
    }
}

/// Both networks.
#[derive(Debug)]
pub struct SoftIntroVae {
    model: spec::Model,
    loss: spec::Intro,
    stem: (Conv, BatchNorm),
    down: Vec<Residual>,
    to_code: Linear,
    from_code: Linear,
    up: Vec<Residual>,
    predict: Conv,
}

/// A code's distribution `[B, latent]`, and the code.
struct Code {
    mu: Tensor,
    log_var: Tensor,
    z: Tensor,
}

#[expect(clippy::needless_pass_by_value, reason = "all methods are built alike")]
pub(super) fn build(parts: Parts<'_>) -> Result<SoftIntroVae, Error> {
    let Parts { model, loss, place, seed, .. } = parts;
    tch::manual_seed(seed as i64);
    let channels: Vec<i64> = model.channels.iter().map(|c| i64::from(*c)).collect();
    let latent = i64::from(model.latent);
    let side = i64::from(model.image_size);
    let (Some(finest), Some(coarsest)) = (channels.first().copied(), channels.last().copied()) else {
        return Err(Error::Torch("Soft-IntroVAE has channels".into()));
    };
    if side != COARSEST << channels.len() {
        return Err(Error::Torch("an image of Soft-IntroVAE is halved to 4 pixels, once for each of its channels".into()));
    }
    // `inc is not outc`: between two entries of a list large integers are different objects, even if equal.
    let differ = |a: i64, b: i64| a != b || (model.expand_equal && a > SMALL_INTEGER);
    let block = |part: &str, side: i64, input, output, expand| {
        Residual::new(format!("{part}.main.res_in_{side}"), input, output, expand, place)
    };
    let stem =
        (Conv::new(1, finest, 5, Slide::Down(1, 2), false, place), BatchNorm::new(finest, place.kind, place.device));
    let mut at = side / 2;
    let mut down = Vec::new();
    for pair in channels.windows(2) {
        down.push(block("encoder", at, pair[0], pair[1], differ(pair[0], pair[1])));
        at /= 2;
    }
    down.push(block("encoder", at, coarsest, coarsest, false));
    let features = coarsest * COARSEST * COARSEST;
    let to_code = Linear::new(features, 2 * latent, place);
    let from_code = Linear::new(latent, features, place);
    let mut up = vec![block("decoder", at, coarsest, coarsest, false)];
    for pair in channels.windows(2).rev() {
        at *= 2;
        up.push(block("decoder", at, pair[1], pair[0], differ(pair[1], pair[0])));
    }
    up.push(block("decoder", at * 2, finest, finest, false));
    let predict = Conv::new(finest, 1, 5, Slide::Down(1, 2), true, place);
    let net = SoftIntroVae {
        model: model.clone(),
        loss: loss.intro.clone(),
        stem,
        down,
        to_code,
        from_code,
        up,
        predict,
    };
    // The reference measures its encoder with one black image in training mode, and the statistics remember it.
    for (_, norm) in net.norms().into_iter().filter(|(name, _)| name.starts_with("encoder.")) {
        norm.remember_nothing()?;
    }
    Ok(net)
}

/// KL(N(mu, exp(log_var)) ‖ N(0, 1)) of each image `[B]`.
fn divergence(code: &Code) -> Tensor {
    (&code.log_var + 1.0 - code.log_var.exp() - code.mu.square())
        .sum_dim_intlist([1i64].as_slice(), false, code.mu.kind())
        * -0.5
}

/// The sum of squares over each image's pixels `[B]`.
fn squares(x: &Tensor, y: &Tensor) -> Tensor {
    (y - x).square().sum_dim_intlist([1i64, 2, 3].as_slice(), false, x.kind())
}

impl SoftIntroVae {
    fn encode(&self, x: &Tensor, norm: Norm<'_>) -> Result<(Tensor, Tensor), Error> {
        let halve = |h: &Tensor| h.f_avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None);
        let mut h = halve(&leaky(&self.stem.1.forward(&self.stem.0.forward(x)?, norm)?, SLOPE))?;
        for (i, block) in self.down.iter().enumerate() {
            h = block.forward(&h, norm)?;
            if i + 1 < self.down.len() {
                h = halve(&h)?;
            }
        }
        let code = self.to_code.forward(&h.flatten(1, -1))?;
        let latent = i64::from(self.model.latent);
        Ok((code.narrow(1, 0, latent), code.narrow(1, latent, latent)))
    }

    fn code(&self, x: &Tensor, norm: Norm<'_>, draw: bool, draws: &mut dyn Draws) -> Result<Code, Error> {
        let (mu, log_var) = self.encode(x, norm)?;
        let z = if draw {
            draws.normal(&[i64::from(self.model.latent)], 1.0, x)? * (&log_var * 0.5).exp() + &mu
        } else {
            mu.shallow_clone()
        };
        Ok(Code { mu, log_var, z })
    }

    fn decode(&self, z: &Tensor, norm: Norm<'_>) -> Result<Tensor, Error> {
        let channels = self.from_code.bias.numel() as i64 / (COARSEST * COARSEST);
        let mut h = self.from_code.forward(z)?.relu().f_reshape([-1, channels, COARSEST, COARSEST])?;
        for (i, block) in self.up.iter().enumerate() {
            if i > 0 {
                let [.., height, width] = h.size()[..] else {
                    return Err(Error::Torch("an image has four dimensions".into()));
                };
                h = h.f_upsample_nearest2d([height * 2, width * 2], None, None)?;
            }
            h = block.forward(&h, norm)?;
        }
        Ok(self.predict.forward(&h)?.sigmoid())
    }

    fn norms(&self) -> Vec<(String, &BatchNorm)> {
        let stem = ("encoder.main.1".to_owned(), &self.stem.1);
        std::iter::once(stem).chain(self.down.iter().chain(&self.up).flat_map(Residual::norms)).collect()
    }

    fn encoder_parameters(&self) -> Vec<(String, Tensor)> {
        let mut out = Vec::new();
        self.stem.0.parameters("encoder.main.0", &mut out);
        self.stem.1.parameters("encoder.main.1", &mut out);
        self.down.iter().for_each(|block| block.parameters(&mut out));
        self.to_code.parameters("encoder.fc", &mut out);
        out
    }

    fn decoder_parameters(&self) -> Vec<(String, Tensor)> {
        let mut out = Vec::new();
        self.from_code.parameters("decoder.fc.0", &mut out);
        self.up.iter().for_each(|block| block.parameters(&mut out));
        self.predict.parameters("decoder.main.predict", &mut out);
        out
    }

    /// 1 / pixels of an image: losses do not depend on its size.
    fn scale(&self) -> f64 {
        1.0 / f64::from(self.model.image_size).powi(2)
    }

    /// mean(exp(−2 · scale · (β_rec · squares + β_neg · KL))): how much of the prior a generated image claims.
    fn expelbo(&self, squares: &Tensor, divergence: &Tensor) -> Tensor {
        let elbo = squares * self.loss.beta_rec + divergence * self.loss.beta_neg;
        (elbo * (-2.0 * self.scale())).exp().mean(squares.kind())
    }
}

impl Method for SoftIntroVae {
    fn parameters(&self) -> Vec<(String, Tensor)> {
        let mut out = self.encoder_parameters();
        out.extend(self.decoder_parameters());
        out
    }

    fn buffers(&self) -> Vec<(String, Tensor)> {
        let mut out = Vec::new();
        self.norms().into_iter().for_each(|(name, norm)| norm.buffers(&name, &mut out));
        out
    }

    fn groups(&self) -> Vec<Group> {
        vec![
            Group { name: "encoder", published: "optimizer_e_weights", parameters: self.encoder_parameters() },
            Group { name: "decoder", published: "optimizer_d_weights", parameters: self.decoder_parameters() },
        ]
    }

    fn step(&self, x: &Tensor, step: &mut Step<'_>) -> Result<Losses, Error> {
        let norm = Norm::of(&self.model, step.stats);
        let (draws, updates) = (&mut *step.draws, &mut *step.updates);
        let (scale, w, kind) = (self.scale(), &self.loss, x.kind());
        let draw = sampled(self.model.sampling, true);
        let mut terms: Vec<(&'static str, Tensor)> = Vec::new();
        let noise = draws.normal(&[i64::from(self.model.latent)], 1.0, x)?;
        let mut z = None;

        updates.update("encoder", &mut || {
            let fake = self.decode(&noise, norm)?;
            let real = self.code(x, norm, draw, draws)?;
            let rec = self.decode(&real.z, norm)?;
            let pixels = squares(x, &rec).mean(kind);
            let real_kl = divergence(&real).mean(kind);
            // The target of each is as it was generated; what the encoder makes of it is another graph.
            let mut again = |made: &Tensor| -> Result<(Tensor, Tensor), Error> {
                let code = self.code(&made.detach(), norm, draw, draws)?;
                Ok((squares(made, &self.decode(&code.z, norm)?), divergence(&code)))
            };
            let (rec_squares, rec_kl) = again(&rec)?;
            let (fake_squares, fake_kl) = again(&fake)?;
            let (rec_claim, fake_claim) =
                (self.expelbo(&rec_squares, &rec_kl), self.expelbo(&fake_squares, &fake_kl));
            let loss = (&pixels * w.beta_rec + &real_kl * w.beta_kl) * scale + (&rec_claim + &fake_claim) * 0.25;
            terms.extend([
                ("encoder_reconstruction", pixels.detach()),
                ("real_kl", real_kl.detach()),
                ("expelbo_rec", rec_claim.detach()),
                ("expelbo_fake", fake_claim.detach()),
                ("encoder", loss.detach()),
            ]);
            z = Some(real.z.detach());
            Ok(loss)
        })?;
        let z = z.ok_or_else(|| Error::Torch("the encoder's update was not carried out".into()))?;
        updates.update("decoder", &mut || {
            let fake = self.decode(&noise, norm)?;
            let rec = self.decode(&z, norm)?;
            let pixels = squares(x, &rec).mean(kind);
            let rec_code = self.code(&rec, norm, draw, draws)?;
            let fake_code = self.code(&fake, norm, draw, draws)?;
            let rec_rec = self.decode(&rec_code.z.detach(), norm)?;
            let fake_rec = self.decode(&fake_code.z.detach(), norm)?;
            let rec_squares = squares(&rec.detach(), &rec_rec).mean(kind);
            let fake_squares = squares(&fake.detach(), &fake_rec).mean(kind);
            let (rec_kl, fake_kl) = (divergence(&rec_code).mean(kind), divergence(&fake_code).mean(kind));
            let loss = (&pixels * w.beta_rec
                + (&rec_kl + &fake_kl) * (0.5 * w.beta_kl)
                + (&rec_squares + &fake_squares) * (w.gamma_r * 0.5 * w.beta_rec))
                * scale;
            terms.extend([
                ("reconstruction", pixels.detach()),
                ("rec_rec", rec_squares.detach()),
                ("fake_rec", fake_squares.detach()),
                ("rec_kl", rec_kl.detach()),
                ("fake_kl", fake_kl.detach()),
                ("decoder", loss.detach()),
            ]);
            Ok(loss)
        })?;
        let sum = terms.iter().filter(|(name, _)| ["encoder", "decoder"].contains(name)).map(|(_, t)| t.shallow_clone());
        let total = sum.reduce(|a, b| a + b).ok_or_else(|| Error::Torch("no update was carried out".into()))?;
        Ok(Losses { total, terms })
    }

    fn outputs(&self, x: &Tensor, training: bool, draws: &mut dyn Draws) -> Result<Vec<(&'static str, Tensor)>, Error> {
        let norm = if training { Norm::of(&self.model, &Solo) } else { Norm::Running };
        tch::no_grad(|| {
            let code = self.code(x, norm, sampled(self.model.sampling, training), draws)?;
            let y = self.decode(&code.z, norm)?;
            Ok(vec![("y", y), ("z_mu", code.mu), ("z_logvar", code.log_var), ("z", code.z)])
        })
    }

    fn reconstruct(&self, x: &Tensor, draws: &mut dyn Draws) -> Result<Reconstruction, Error> {
        tch::no_grad(|| {
            let code = self.code(x, Norm::Running, sampled(self.model.sampling, false), draws)?;
            Ok(Reconstruction::plain(self.decode(&code.z, Norm::Running)?))
        })
    }

    fn graph(&self, graph: &mut Graph, x: &Value) -> Result<Outputs, Error> {
        let begun = self.stem.0.graph(graph, x)?;
        let normed = self.stem.1.graph(graph, &begun)?;
        let active = graph.leaky(&normed, SLOPE);
        let mut h = graph.halve(&active);
        for (i, block) in self.down.iter().enumerate() {
            h = block.graph(graph, &h)?;
            if i + 1 < self.down.len() {
                h = graph.halve(&h);
            }
        }
        let flat = graph.flatten(&h);
        let code = self.to_code.graph(graph, &flat)?;
        let mean = graph.first(&code, i64::from(self.model.latent));
        let back = self.from_code.graph(graph, &mean)?;
        let back = graph.op("Relu", &[&back]);
        let channels = self.from_code.bias.numel() as i64 / (COARSEST * COARSEST);
        h = graph.reshape(&back, &[-1, channels, COARSEST, COARSEST]);
        for (i, block) in self.up.iter().enumerate() {
            if i > 0 {
                h = graph.twice_nearest(&h);
            }
            h = block.graph(graph, &h)?;
        }
        let last = self.predict.graph(graph, &h)?;
        Ok(vec![("reconstruction", graph.op("Sigmoid", &[&last]), 1)])
    }

    /// The MSE of each image.
    fn validation_score(&self, x: &Tensor, _: At, draws: &mut dyn Draws) -> Result<Tensor, Error> {
        let y = self.reconstruct(x, draws)?.reconstruction;
        Ok(losses::per_image(spec::Reconstruction::L2, &y, x).to_kind(Kind::Double))
    }
}
