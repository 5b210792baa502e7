//! From the reference's classes and parameters to ours, and the recorder's names of loss terms and optimizers.

use morph_spec::experiment as spec;
use serde_json::Value;

use super::case::golden;
use crate::Error;

/// First epoch in which the reference adds the deformation terms (`epoch > 10`).
const START_EPOCH: u32 = 11;

/// How a recorded case reads here.
pub(super) struct Class {
    pub(super) model: spec::Model,
    pub(super) trainer: spec::Trainer,
    /// The recorder's names of a step's loss terms, in its order, and ours.
    pub(super) terms: &'static [(&'static str, &'static str)],
    /// The recorder's names of the optimizers, and ours.
    pub(super) optimizers: &'static [(&'static str, &'static str)],
    /// The recorded number that [`crate::Method::validation_score`] is the mean of.
    pub(super) score: &'static str,
}

const MORPHAEUS: &[(&str, &str)] = &[
    ("criterion_rec", "reconstruction"),
    ("criterion_PL", "perceptual"),
    ("deform_R", "regulariser"),
    ("ncc_loss", "ncc"),
    ("ncc_loss", "ncc_reversed"),
    ("backward", "loss"),
];
const PLAIN: &[(&str, &str)] =
    &[("criterion_rec", "reconstruction"), ("criterion_PL", "perceptual"), ("backward", "loss")];
const VAE: &[(&str, &str)] = &[("criterion_rec", "elbo"), ("criterion_PL", "perceptual"), ("backward", "loss")];
const CAPACITY: &[(&str, &str)] =
    &[("criterion_rec", "capacity"), ("criterion_PL", "perceptual"), ("backward", "loss")];
const ADVERSARIAL: &[(&str, &str)] = &[
    ("BCE_loss", "real"),
    ("BCE_loss", "fake"),
    ("backward", "discriminator"),
    ("BCE_loss", "generator"),
    ("backward", "generator"),
    ("BCE_loss", "real_code"),
    ("BCE_loss", "fake_code"),
    ("backward", "codes"),
    ("BCE_loss", "encoder"),
    ("backward", "autoencoder"),
    ("criterion_PL", "perceptual"),
];
const INTROSPECTIVE: &[(&str, &str)] = &[
    ("calc_reconstruction_loss", "encoder_reconstruction"),
    ("calc_kl", "real_kl"),
    ("backward", "encoder"),
    ("calc_reconstruction_loss", "reconstruction"),
    ("calc_reconstruction_loss", "rec_rec"),
    ("calc_reconstruction_loss", "fake_rec"),
    ("calc_kl", "rec_kl"),
    ("calc_kl", "fake_kl"),
    ("backward", "decoder"),
];
const FOUR: &[(&str, &str)] = &[
    ("D_optimizer", "discriminator"),
    ("G_optimizer", "generator"),
    ("ZD_optimizer", "codes"),
    ("GE_optimizer", "autoencoder"),
];
const TWO: &[(&str, &str)] = &[("optimizer_e", "encoder"), ("optimizer_d", "decoder")];
const ONE: &[(&str, &str)] = &[("optimizer", "adam")];

/// Shapes of the recorded tensors.
struct Shapes<'a>(&'a Value);

impl Shapes<'_> {
    fn of(&self, name: &str) -> Result<Vec<u32>, Error> {
        let shape = self.0[name].as_array().ok_or_else(|| golden(format!("meta.json lists no {name}")))?;
        Ok(shape.iter().filter_map(Value::as_u64).map(|d| d as u32).collect())
    }

    fn count(&self, prefix: &str, suffix: &str) -> u32 {
        let listed = self.0.as_object().into_iter().flat_map(|t| t.keys());
        listed.filter(|n| n.starts_with(prefix) && n.ends_with(suffix)).count() as u32
    }

    /// The first dimensions of `prefix` 0, 1, … `suffix`, while there are such.
    fn outputs(&self, levels: u32, name: impl Fn(u32) -> String) -> Result<Vec<u32>, Error> {
        (0..levels).map(|i| Ok(self.of(&name(i))?[0])).collect()
    }
}

/// Widths come from the tensors' shapes: a case may be narrower than its configuration says.
pub(super) fn read(meta: &Value, variant: &str, image_size: u32) -> Result<Class, Error> {
    let name = meta["name"].as_str().unwrap_or_default();
    let class = meta["model"]["class_name"].as_str().unwrap_or_default();
    let shapes = Shapes(&meta["tensors"]);
    let (params, options) = (&meta["model"]["params"], &meta["trainer"]["params"]);
    let method = match class {
        "MorphAEus" => spec::Method::Morphaeus,
        "ConvAutoEncoder" if params["deconv_mode"] == "trans" => spec::Method::AeS,
        "ConvAutoEncoder" => spec::Method::Baseline,
        "DenseConvAutoEncoderBaur" => spec::Method::AeD,
        "VAE" => spec::Method::Vae,
        "BetaVAE_H" => spec::Method::BetaVae,
        "UNet" => spec::Method::Dae,
        "AAE" => spec::Method::Aae,
        "SoftIntroVAE" => spec::Method::SiVae,
        _ => return Err(golden(format!("{name}: the method {class:?} is not implemented"))),
    };
    let mut out = Class {
        model: model(method, variant, image_size)?,
        trainer: trainer(options),
        terms: PLAIN,
        optimizers: ONE,
        score: "Val_loss_prec",
    };
    let m = &mut out.model;
    match method {
        spec::Method::Morphaeus => {
            convolutional(m, &shapes, params)?;
            m.refine_levels = shapes.count("deformer.deformerNN.ref__refine_", ".weight");
            m.refine_channels = shapes.of("deformer.deformerNN.ref__refine_0.weight")?[1];
            (out.terms, out.score) = (MORPHAEUS, "Val_loss_mse");
        }
        spec::Method::AeD => {
            convolutional(m, &shapes, params)?;
            m.latent = shapes.of("lin_lay_enc.weight")?[0];
        }
        spec::Method::Vae => {
            m.channels = vec![shapes.of("encoder.start.conv.weight")?[0]];
            let middle = shapes.count("encoder.middle_blocks.", ".weight");
            m.channels.extend(shapes.outputs(middle, |i| format!("encoder.middle_blocks.{i}.conv.weight"))?);
            m.latent = shapes.of("decoder.start.conv.weight")?[0];
            out.terms = VAE;
        }
        spec::Method::BetaVae => {
            m.latent = shapes.of("decoder.0.weight")?[1];
            m.sampling = spec::Sampling::Always;
            out.terms = CAPACITY;
        }
        spec::Method::Dae => {
            let levels = shapes.count("down_path.", ".block.1.weight");
            m.channels = shapes.outputs(levels, |i| format!("down_path.{i}.block.1.weight"))?;
        }
        spec::Method::Aae => {
            m.channels = vec![shapes.of("E.conv1_1.weight")?[0]];
            m.latent = shapes.of("E.conv4.weight")?[0];
            // Its trainer alone puts the networks into training mode, also as run.
            if variant != "eval" {
                m.norm_mode = spec::NormMode::Batch;
            }
            out.trainer.optimizer.betas = [0.5, 0.999];
            (out.terms, out.optimizers, out.score) = (ADVERSARIAL, FOUR, "Val_loss_rec");
        }
        spec::Method::SiVae => {
            m.channels = vec![shapes.of("encoder.main.0.weight")?[0]];
            for i in 1..params["channels"].as_array().map_or(0, Vec::len) as u32 {
                let side = image_size >> i;
                m.channels.push(shapes.of(&format!("encoder.main.res_in_{side}.conv1.weight"))?[0]);
            }
            m.latent = shapes.of("decoder.fc.0.weight")?[1];
            (m.sampling, m.expand_equal) = (spec::Sampling::Always, true);
            (out.terms, out.optimizers, out.score) = (INTROSPECTIVE, TWO, "Val_loss_mse");
        }
        _ => convolutional(m, &shapes, params)?,
    }
    Ok(out)
}

fn model(method: spec::Method, variant: &str, image_size: u32) -> Result<spec::Model, Error> {
    let norm_mode = if variant == "train" { "batch" } else { "frozen" };
    let model = serde_json::json!({
        "method": method, "image_size": image_size, "norm_mode": norm_mode, "sync": false,
        "sampling": if variant == "train" { "training" } else { "never" },
    });
    serde_json::from_value(model).map_err(|e| golden(e.to_string()))
}

fn trainer(options: &Value) -> spec::Trainer {
    let mut out = spec::Trainer::default();
    out.optimizer.lr = options["optimizer_params"]["lr"].as_f64().unwrap_or(5e-4);
    if options["lr_scheduler"] == "cosine" {
        // The reference then builds another optimizer (reference-spec, section 0.13).
        (out.optimizer.amsgrad, out.optimizer.weight_decay) = (true, 1e-5);
    }
    let loss = &mut out.loss;
    if options["loss"]["class_name"] == "L1" {
        loss.reconstruction = spec::Reconstruction::L1;
    }
    // The weights come from beside the case.
    loss.perceptual.weight = options["alfa"].as_f64().unwrap_or(0.0);
    loss.perceptual.weights = Some("recorded".into());
    let given = &options["loss"]["params"];
    let number = |of: &Value, name: &str, default: f64| of[name].as_f64().unwrap_or(default);
    loss.vae = spec::Vae { rec_log_std: number(given, "rec_log_std", 0.0), posterior: spec::Posterior::Twice };
    // The defaults of the reference's own class.
    loss.capacity = spec::Capacity {
        form: if given["loss_type"] == "H" { spec::CapacityForm::H } else { spec::CapacityForm::B },
        beta: number(given, "beta", 4.0),
        gamma: number(given, "gamma", 10.0),
        max: number(given, "max_capacity", 25.0),
        count_validation: true,
        ..spec::Capacity::default()
    };
    let noise = &options["transformer"]["params"];
    out.noise =
        spec::Noise { std: number(noise, "noise_std", 0.2), resolution: number(noise, "noise_res", 16.0) as u32 };
    loss.morph = spec::MorphLoss {
        weight: options["delta"].as_f64().unwrap_or(1.0),
        start_epoch: START_EPOCH,
        ncc: spec::Ncc::Reference,
        beta: options["beta"].as_f64().unwrap_or(3.0),
        beta_epochs: options["max_iter"].as_u64().unwrap_or(200) as u32,
        ..spec::MorphLoss::default()
    };
    out
}

fn convolutional(m: &mut spec::Model, shapes: &Shapes<'_>, params: &Value) -> Result<(), Error> {
    m.levels = shapes.count("encoder.conv__encode_", ".weight");
    m.channels = shapes.outputs(m.levels, |i| format!("encoder.conv__encode_{i}.weight"))?;
    if m.method != spec::Method::Morphaeus && params["channels"].as_array().is_some_and(|c| c.len() < m.channels.len())
    {
        m.channels.pop();
    }
    m.kernel_size = shapes.of("encoder.conv__encode_0.weight")?[2];
    if params["deconv_mode"] == "trans" {
        m.upsampling = spec::Upsampling::Transposed;
    }
    m.activation = match params["act"].as_str() {
        Some("swish") | None => spec::Activation::Swish,
        Some("relu") => spec::Activation::Relu,
        // `LeakyReLU(True)`.
        Some("leakyrelu") => {
            m.negative_slope = 1.0;
            spec::Activation::LeakyRelu
        }
        Some(other) => return Err(golden(format!("activation {other:?} is not implemented"))),
    };
    Ok(())
}
