//! The adversarial auto-encoder of Pidhorskyi et al. (NeurIPS 2018): encoder E, generator G, a discriminator of images D and
//! one of codes ZD, with four optimizers that take turns. Layers and order: reference-spec, section 2.

use morph_spec::experiment as spec;
use tch::{Kind, Tensor};

use super::Parts;
use crate::{
    At, Draws, Error, Group, Losses, Method, Reconstruction, Solo, Statistics, Step,
    graph::{Graph, Outputs, Value},
    layers::{Conv, Linear, Place, Slide},
    nn::{BatchNorm, Norm, leaky},
};

const SLOPE: f64 = 0.2;
/// Weight of the reconstruction, and of the discriminator of codes.
const TWICE: f64 = 2.0;
/// Side in pixels that the network without its extra layers takes.
const SMALLEST: i64 = 32;

/// A convolution and the BatchNorm behind it, with the names of both.
#[derive(Debug)]
struct Layer {
    conv: (String, Conv),
    norm: Option<(String, BatchNorm)>,
    /// At sizes that do without it, a layer belongs to the state dict and to nothing else.
    used: bool,
}

/// The five-layer networks E, D and G.
#[derive(Debug)]
struct Net(Vec<Layer>);

/// What follows a layer that is not the last.
#[derive(Clone, Copy)]
enum Between {
    Relu,
    Leaky,
}

impl Net {
    fn forward(&self, x: &Tensor, norm: Norm<'_>, between: Between) -> Result<Tensor, Error> {
        let mut h = x.shallow_clone();
        for (i, layer) in self.0.iter().enumerate().filter(|(_, l)| l.used) {
            h = layer.conv.1.forward(&h)?;
            if let Some((_, batch)) = &layer.norm {
                h = batch.forward(&h, norm)?;
            }
            if i + 1 < self.0.len() {
                h = match between {
                    Between::Relu => h.relu(),
                    Between::Leaky => leaky(&h, SLOPE),
                };
            }
        }
        Ok(h)
    }

    fn graph(&self, graph: &mut Graph, x: &Value, between: Between) -> Result<Value, Error> {
        let mut h = x.clone();
        for (i, layer) in self.0.iter().enumerate().filter(|(_, l)| l.used) {
            h = layer.conv.1.graph(graph, &h)?;
            if let Some((_, norm)) = &layer.norm {
                h = norm.graph(graph, &h)?;
            }
            if i + 1 < self.0.len() {
                h = match between {
                    Between::Relu => graph.op("Relu", &[&h]),
                    Between::Leaky => graph.leaky(&h, SLOPE),
                };
            }
        }
        Ok(h)
    }

    fn parameters(&self, out: &mut Vec<(String, Tensor)>) {
        for layer in &self.0 {
            layer.conv.1.parameters(&layer.conv.0, out);
            layer.norm.iter().for_each(|(name, norm)| norm.parameters(name, out));
        }
    }

    fn buffers(&self, out: &mut Vec<(String, Tensor)>) {
        self.0.iter().filter_map(|l| l.norm.as_ref()).for_each(|(name, norm)| norm.buffers(name, out));
    }
}

/// The networks.
#[derive(Debug)]
pub struct Aae {
    model: spec::Model,
    encoder: Net,
    generator: Net,
    discriminator: Net,
    codes: [Linear; 3],
}

#[expect(clippy::needless_pass_by_value, reason = "all methods are built alike")]
pub(super) fn build(parts: Parts<'_>) -> Result<Aae, Error> {
    let Parts { model, place, seed, .. } = parts;
    tch::manual_seed(seed as i64);
    let d = i64::from(model.channels.first().copied().unwrap_or(1));
    let latent = i64::from(model.latent);
    let extra = match i64::from(model.image_size) / SMALLEST {
        1 => 0,
        2 => 1,
        4 => 2,
        _ => return Err(Error::Torch("an image of the AAE has 32, 64 or 128 pixels a side".into())),
    };
    let layer = |net: &str, conv: &str, norm: Option<&str>, (input, output): (i64, i64), slide, used| Layer {
        conv: (format!("{net}.{conv}"), Conv::new(input, output, 4, slide, true, place)),
        norm: norm.map(|n| (format!("{net}.{n}"), BatchNorm::new(output, place.kind, place.device))),
        used,
    };
    let half = Slide::Down(2, 1);
    let down = |net: &str, second: i64, last: i64| {
        Net(vec![
            layer(net, "conv1_1", None, (1, d), half, true),
            layer(net, "conv1_2", Some("conv1_bn2"), (d, d), half, extra > 0),
            layer(net, "conv1_3", Some("conv1_bn3"), (d, d), half, extra > 1),
            layer(net, "conv2", Some("conv2_bn"), (d, second), half, true),
            layer(net, "conv3", Some("conv3_bn"), (second, 4 * d), half, true),
            layer(net, "conv4", None, (4 * d, last), Slide::Down(1, 0), true),
        ])
    };
    let twice = Slide::Up(2, 1);
    let encoder = down("E", 4 * d, latent);
    let generator = Net(vec![
        layer("G", "deconv1_1", Some("deconv1_1_bn"), (latent, 4 * d), Slide::Up(1, 0), true),
        layer("G", "deconv2", Some("deconv2_bn"), (4 * d, 4 * d), twice, true),
        layer("G", "deconv3", Some("deconv3_bn"), (4 * d, 2 * d), twice, true),
        layer("G", "deconv3_1", Some("deconv3_bn1"), (2 * d, 2 * d), twice, extra > 0),
        layer("G", "deconv3_2", Some("deconv3_bn2"), (2 * d, 2 * d), twice, extra > 1),
        layer("G", "deconv4", None, (2 * d, 1), twice, true),
    ]);
    let codes = [
        normal_linear(latent, 2 * d, place)?,
        normal_linear(2 * d, 2 * d, place)?,
        normal_linear(2 * d, 1, place)?,
    ];
    let discriminator = down("D", 2 * d, 1);
    Ok(Aae { model: model.clone(), encoder, generator, discriminator, codes })
}

/// Weights from N(0, 0.02²) and no bias: the only layers that the reference's initialisation reaches.
fn normal_linear(input: i64, output: i64, place: Place) -> Result<Linear, Error> {
    let linear = Linear::new(input, output, place);
    tch::no_grad(|| {
        let _ = linear.weight.shallow_clone().f_normal_(0.0, 0.02)?;
        let _ = linear.bias.shallow_clone().f_zero_()?;
        Ok(linear)
    })
}

/// Binary cross-entropy of probabilities `p` against one label, mean over all; logarithms end at −100, as torch's do.
fn against(label: f64, p: &Tensor) -> Result<Tensor, Error> {
    let labels = Tensor::full(p.size(), label, (p.kind(), p.device()));
    Ok(p.f_binary_cross_entropy(&labels, None::<&Tensor>, tch::Reduction::Mean)?)
}

impl Aae {
    /// The code `[B, latent, 1, 1]`.
    fn encode(&self, x: &Tensor, norm: Norm<'_>) -> Result<Tensor, Error> {
        self.encoder.forward(x, norm, Between::Leaky)
    }

    fn generate(&self, z: &Tensor, norm: Norm<'_>) -> Result<Tensor, Error> {
        Ok(self.generator.forward(z, norm, Between::Relu)?.tanh() * 0.5 + 0.5)
    }

    /// How likely each image is real `[B]`.
    fn judge(&self, x: &Tensor, norm: Norm<'_>) -> Result<Tensor, Error> {
        Ok(self.discriminator.forward(x, norm, Between::Leaky)?.sigmoid().flatten(0, -1))
    }

    /// How likely each code is drawn from the prior `[B]`.
    fn judge_code(&self, z: &Tensor) -> Result<Tensor, Error> {
        let [first, second, third] = &self.codes;
        let h = leaky(&first.forward(&z.flatten(1, -1))?, SLOPE);
        let h = leaky(&second.forward(&h)?, SLOPE);
        Ok(third.forward(&h)?.sigmoid().flatten(0, -1))
    }

    fn code_parameters(&self) -> Vec<(String, Tensor)> {
        let mut out = Vec::new();
        for (i, linear) in self.codes.iter().enumerate() {
            linear.parameters(&format!("ZD.linear{}", i + 1), &mut out);
        }
        out
    }

    fn of(nets: &[&Net]) -> Vec<(String, Tensor)> {
        let mut out = Vec::new();
        nets.iter().for_each(|net| net.parameters(&mut out));
        out
    }
}

impl Method for Aae {
    fn parameters(&self) -> Vec<(String, Tensor)> {
        let mut out = Self::of(&[&self.encoder, &self.generator]);
        out.extend(self.code_parameters());
        self.discriminator.parameters(&mut out);
        out
    }

    fn buffers(&self) -> Vec<(String, Tensor)> {
        let mut out = Vec::new();
        [&self.encoder, &self.generator, &self.discriminator].iter().for_each(|net| net.buffers(&mut out));
        out
    }

    fn groups(&self) -> Vec<Group> {
        let group = |name, published, parameters| Group { name, published, parameters };
        vec![
            group("discriminator", "optimizer_D_weights", Self::of(&[&self.discriminator])),
            group("generator", "optimizer_G_weights", Self::of(&[&self.generator])),
            group("codes", "optimizer_ZD_weights", self.code_parameters()),
            group("autoencoder", "optimizer_E_weights", Self::of(&[&self.encoder, &self.generator])),
        ]
    }

    /// Where images are small, some layers are idle.
    fn partial(&self, _: u32) -> bool {
        self.encoder.0.iter().any(|layer| !layer.used)
    }

    fn step(&self, x: &Tensor, step: &mut Step<'_>) -> Result<Losses, Error> {
        let stats: &dyn Statistics = step.stats;
        let norm = Norm::of(&self.model, stats);
        let latent = i64::from(self.model.latent);
        let mut terms: Vec<(&'static str, Tensor)> = Vec::new();
        let (draws, updates) = (&mut *step.draws, &mut *step.updates);

        updates.update("discriminator", &mut || {
            let real = against(1.0, &self.judge(x, norm)?)?;
            let z = draws.normal(&[latent], 1.0, x)?.view([-1, latent, 1, 1]);
            let made = tch::no_grad(|| self.generate(&z, norm))?;
            let fake = against(0.0, &self.judge(&made, norm)?)?;
            let loss = &real + &fake;
            terms.extend([("real", real.detach()), ("fake", fake.detach()), ("discriminator", loss.detach())]);
            Ok(loss)
        })?;
        updates.update("generator", &mut || {
            let z = draws.normal(&[latent], 1.0, x)?.view([-1, latent, 1, 1]);
            let loss = against(1.0, &self.judge(&self.generate(&z, norm)?, norm)?)?;
            terms.push(("generator", loss.detach()));
            Ok(loss)
        })?;
        updates.update("codes", &mut || {
            let real = against(1.0, &self.judge_code(&draws.normal(&[latent], 1.0, x)?)?)?;
            let z = tch::no_grad(|| self.encode(x, norm))?;
            let fake = against(0.0, &self.judge_code(&z)?)?;
            let loss = (&real + &fake) * TWICE;
            terms.extend([("real_code", real.detach()), ("fake_code", fake.detach()), ("codes", loss.detach())]);
            Ok(loss)
        })?;
        updates.update("autoencoder", &mut || {
            let z = self.encode(x, norm)?;
            let y = self.generate(&z, norm)?;
            let deceived = against(1.0, &self.judge_code(&z)?)?;
            let pixels = y.f_binary_cross_entropy(x, None::<&Tensor>, tch::Reduction::Mean)? * TWICE;
            let loss = &pixels + &deceived;
            terms.extend([
                ("encoder", deceived.detach()),
                ("reconstruction", pixels.detach()),
                ("autoencoder", loss.detach()),
            ]);
            Ok(loss)
        })?;
        let own = ["discriminator", "generator", "codes", "autoencoder"];
        let sum = terms.iter().filter(|(name, _)| own.contains(name)).map(|(_, t)| t.shallow_clone());
        let total = sum.reduce(|a, b| a + b).ok_or_else(|| Error::Torch("no update was carried out".into()))?;
        Ok(Losses { total, terms })
    }

    fn outputs(&self, x: &Tensor, training: bool, _: &mut dyn Draws) -> Result<Vec<(&'static str, Tensor)>, Error> {
        let norm = if training { Norm::of(&self.model, &Solo) } else { Norm::Running };
        tch::no_grad(|| {
            let z = self.encode(x, norm)?;
            Ok(vec![("y", self.generate(&z, norm)?), ("z", z)])
        })
    }

    fn reconstruct(&self, x: &Tensor, _: &mut dyn Draws) -> Result<Reconstruction, Error> {
        let y = tch::no_grad(|| self.generate(&self.encode(x, Norm::Running)?, Norm::Running))?;
        Ok(Reconstruction::plain(y))
    }

    fn graph(&self, graph: &mut Graph, x: &Value) -> Result<Outputs, Error> {
        let code = self.encoder.graph(graph, x, Between::Leaky)?;
        let made = self.generator.graph(graph, &code, Between::Relu)?;
        let squashed = graph.op("Tanh", &[&made]);
        let half = graph.with("Mul", &squashed, 0.5);
        Ok(vec![("reconstruction", graph.with("Add", &half, 0.5), 1)])
    }

    /// Twice the binary cross-entropy of each image's pixels.
    fn validation_score(&self, x: &Tensor, _: At, draws: &mut dyn Draws) -> Result<Tensor, Error> {
        let y = self.reconstruct(x, draws)?.reconstruction;
        let pixels = y.f_binary_cross_entropy(x, None::<&Tensor>, tch::Reduction::None)?;
        Ok((pixels.mean_dim([1i64, 2, 3].as_slice(), false, x.kind()) * TWICE).to_kind(Kind::Double))
    }
}
