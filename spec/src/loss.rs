//! `trainer.loss`: what is minimised. A method reads the parts that the registry lists for it.

use serde::{Deserialize, Serialize};

/// What is minimised. MorphAEus: reconstruction + α·perceptual + δ·(NCC + β(epoch)·R), the last from `morph.start_epoch` on.
/// Plain auto-encoders and the denoising one: reconstruction + α·perceptual. The others have terms of their own below.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Loss {
    /// Between prior and image.
    pub reconstruction: Reconstruction,
    /// VGG-19 features between prior and image.
    pub perceptual: Perceptual,
    /// Deformation terms.
    pub morph: MorphLoss,
    /// The evidence lower bound of the VAE.
    pub vae: Vae,
    /// The capacity term of the β-VAE.
    pub capacity: Capacity,
    /// The weights of Soft-IntroVAE.
    pub intro: Intro,
}

/// Pixel losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reconstruction {
    /// Mean of squares.
    #[default]
    L2,
    /// Mean of absolutes.
    L1,
}

/// VGG-19 perceptual loss over relu1_1, relu2_1, relu3_1, relu4_1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Perceptual {
    /// α; 0 turns the term off (then no weights are needed).
    pub weight: f64,
    /// URL or path of torchvision's VGG-19 state dict (`.pth` or `.safetensors`), or `random` for seeded random
    /// weights, which is never the paper's loss. Required when `weight` is not 0.
    pub weights: Option<String>,
}

impl Default for Perceptual {
    fn default() -> Self {
        Self { weight: 0.0, weights: None }
    }
}

/// Deformation losses.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MorphLoss {
    /// δ.
    pub weight: f64,
    /// First epoch (from 0) in which these terms count. The paper's code: epoch > 10, so 11.
    pub start_epoch: u32,
    /// Side of NCC's window.
    pub ncc_window: u32,
    /// How NCC is computed.
    pub ncc: Ncc,
    /// β grows as clip(beta · epoch / beta_epochs, 1e-3, beta).
    pub beta: f64,
    /// Epochs until β is reached.
    pub beta_epochs: u32,
    /// The regulariser of the deformation.
    pub regulariser: Regulariser,
}

impl Default for MorphLoss {
    fn default() -> Self {
        Self {
            weight: 1.0,
            start_epoch: 11,
            ncc_window: 9,
            ncc: Ncc::Stable,
            beta: 3.0,
            beta_epochs: 200,
            regulariser: Regulariser::GradientL2,
        }
    }
}

/// Variants of local normalised cross-correlation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ncc {
    /// Window sums in f64: no cancellation.
    Stable,
    /// The reference's float32 sums (E[x²] − E[x]²), for parity.
    Reference,
}

/// Displacement regularisers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Regulariser {
    /// Mean squared gradient.
    GradientL2,
    /// Mean absolute gradient.
    GradientL1,
    /// Bending energy.
    Bending,
}

/// −log p(x|z) + KL(q(z|x) ‖ N(0, 1)), summed over pixels and latent numbers, mean over images.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Vae {
    /// Logarithm of the standard deviation of a pixel around its reconstruction.
    pub rec_log_std: f64,
    /// Which standard deviation of the posterior enters the divergence.
    pub posterior: Posterior,
}

/// The posterior's standard deviation in the divergence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Posterior {
    /// exp(log σ): the one that is sampled from.
    #[default]
    Exponential,
    /// exp(exp(log σ)): what the published code computes, which exponentiates twice.
    Twice,
}

/// MSE + β-term of the divergence (Higgins et al. 2017; Burgess et al. 2018).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Capacity {
    /// Which of the two papers' terms.
    pub form: CapacityForm,
    /// β of form `h`.
    pub beta: f64,
    /// γ of form `b`.
    pub gamma: f64,
    /// Scales the divergence of both forms.
    pub divergence_weight: f64,
    /// The capacity in nats that form `b` ends with.
    pub max: f64,
    /// Iterations over which it grows from 0.
    pub iterations: u64,
    /// Count batches of the validation as iterations too, as the published code does.
    pub count_validation: bool,
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            form: CapacityForm::B,
            beta: 4.0,
            gamma: 2.0,
            divergence_weight: 0.008,
            max: 50.0,
            iterations: 100_000,
            count_validation: false,
        }
    }
}

/// Forms of the β-VAE's loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapacityForm {
    /// β · KL.
    H,
    /// γ · |KL − C|, with a capacity C that grows.
    B,
}

/// Weights of Soft-IntroVAE's two losses (Daniel & Tamar 2021).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Intro {
    /// Of the divergence of real images.
    pub beta_kl: f64,
    /// Of reconstructions.
    pub beta_rec: f64,
    /// Of the divergence of generated images in the encoder's loss.
    pub beta_neg: f64,
    /// Of reconstructions of generated images in the decoder's loss.
    pub gamma_r: f64,
}

impl Default for Intro {
    fn default() -> Self {
        Self { beta_kl: 1.0, beta_rec: 1.0, beta_neg: 256.0, gamma_r: 1e-8 }
    }
}
