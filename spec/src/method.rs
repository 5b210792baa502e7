//! `model`: the methods that there are, and what they are made of.

use serde::{Deserialize, Serialize};

/// The registry: calls `$callback!` with one line per method, `Variant "name" module [fields] "title";`. The lines become
/// [`Method`] here and, in `morph-model`, the modules and the place where a name becomes a network. `fields` are those of
/// `model`, `trainer.loss` and `trainer` that only some methods have and this one uses; others must keep their default.
#[macro_export]
macro_rules! methods {
    ($callback:ident) => {
        $callback! {
            Morphaeus "morphaeus" morphaeus [channels kernel_size activation negative_slope refine_levels refine_channels integration_steps reconstruction perceptual morph] "MorphAEus (Bercea et al., MICCAI 2023)";
            Baseline "baseline" baseline [channels levels kernel_size activation negative_slope upsampling reconstruction perceptual] "MorphAEus without deformation, and the auto-encoders of the depth study";
            AeS "ae-s" ae_s [channels levels kernel_size activation negative_slope upsampling reconstruction perceptual] "spatial auto-encoder (Baur et al. 2021)";
            AeD "ae-d" ae_d [channels levels kernel_size activation negative_slope upsampling latent reconstruction perceptual] "dense auto-encoder (Baur et al. 2021)";
            Vae "vae" vae [channels latent sampling perceptual vae] "variational auto-encoder (Zimmerer et al. 2019)";
            BetaVae "b-vae" beta_vae [latent sampling perceptual capacity] "β-VAE (Higgins et al. 2017)";
            Dae "dae" dae [channels reconstruction perceptual noise] "denoising auto-encoder (Kascenas et al. 2022)";
            Aae "aae" aae [channels latent] "adversarial auto-encoder (Pidhorskyi et al. 2018)";
            SiVae "si-vae" si_vae [channels latent sampling expand_equal intro] "Soft-IntroVAE (Daniel & Tamar 2021)";
        }
    };
}

macro_rules! define {
    ($($variant:ident $name:literal $module:ident [$($field:ident)*] $title:literal;)*) => {
        /// The methods that there are.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Method {
            $(
                #[doc = $title]
                #[serde(rename = $name)]
                $variant,
            )*
        }

        impl Method {
            /// All of them, in the registry's order.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name in YAML.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// What it is, in a line.
            pub fn title(self) -> &'static str {
                match self { $(Self::$variant => $title),* }
            }

            /// The fields that only some methods have and this one uses.
            pub fn fields(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$(stringify!($field)),*]),* }
            }
        }
    };
}

methods!(define);

impl Method {
    /// The nine of the paper's comparison, which there is published code of. Others may be added; these are held against it.
    pub const PAPER: [Self; 9] = [
        Self::Morphaeus,
        Self::Baseline,
        Self::AeS,
        Self::AeD,
        Self::Vae,
        Self::BetaVae,
        Self::Dae,
        Self::Aae,
        Self::SiVae,
    ];
}

/// The network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Which method.
    pub method: Method,
    /// Weights to begin with, instead of drawing them from `trainer.seed`: URL or path of a `.pt`, `.pth` or `.safetensors` file, or
    /// of a checkpoint's `manifest.json`. Names and shapes must be this network's, all of them.
    #[serde(default)]
    pub weights: Option<String>,
    /// Side of the (square) input in pixels; must equal the dataset's.
    #[serde(default = "default_image_size")]
    pub image_size: u32,
    /// Channels of the encoder's levels, finest first.
    #[serde(default = "default_channels")]
    pub channels: Vec<u32>,
    /// Levels of stride 2; 0: as many as `channels`. With one more than `channels` the encoder repeats its last width and the
    /// decoder its first, as AE-S and AE-D do.
    #[serde(default)]
    pub levels: u32,
    /// Side of the convolutions' kernels; odd.
    #[serde(default = "default_kernel_size")]
    pub kernel_size: u32,
    /// Numbers in the latent code.
    #[serde(default = "default_latent")]
    pub latent: u32,
    /// How many of the finest levels the deformer refines over (`nr_ref_channels`).
    #[serde(default = "default_refine_levels")]
    pub refine_levels: u32,
    /// Channels of each refinement.
    #[serde(default = "default_refine_channels")]
    pub refine_channels: u32,
    /// Scaling-and-squaring steps of the velocity's integration.
    #[serde(default = "default_integration_steps")]
    pub integration_steps: u32,
    /// Activation of encoder, decoder and refinement.
    #[serde(default)]
    pub activation: Activation,
    /// The slope of `leaky_relu` below 0. The published AE-S and AE-D say `LeakyReLU(True)`, a slope of 1: the identity.
    #[serde(default = "default_negative_slope")]
    pub negative_slope: f64,
    /// How the decoder doubles its size.
    #[serde(default)]
    pub upsampling: Upsampling,
    /// When a latent code is drawn from its distribution; otherwise it is the distribution's mean.
    #[serde(default)]
    pub sampling: Sampling,
    /// Soft-IntroVAE: a 1×1 convolution on the shortcut of a block with as many inputs as outputs, too, where they are more than
    /// 256 and from different levels. The published code has it by accident (`is not` between integers).
    #[serde(default)]
    pub expand_equal: bool,
    /// How BatchNorm behaves in training.
    #[serde(default)]
    pub norm_mode: NormMode,
    /// With `norm_mode: batch`: take statistics over the global batch (`true`), so that the number of ranks does not
    /// change the method, or over each rank's share.
    #[serde(default = "yes")]
    pub sync: bool,
}

impl Model {
    /// Levels of stride 2.
    pub fn levels(&self) -> u32 {
        if self.levels == 0 { self.channels.len() as u32 } else { self.levels }
    }
}

fn default_image_size() -> u32 {
    128
}
fn default_channels() -> Vec<u32> {
    vec![16, 32, 64, 128, 256, 256, 256]
}
fn default_kernel_size() -> u32 {
    3
}
fn default_latent() -> u32 {
    128
}
fn default_refine_levels() -> u32 {
    3
}
fn default_refine_channels() -> u32 {
    32
}
fn default_integration_steps() -> u32 {
    7
}
fn default_negative_slope() -> f64 {
    0.01
}
fn yes() -> bool {
    true
}

/// Non-linearities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x · sigmoid(x).
    #[default]
    Swish,
    /// max(0, x).
    Relu,
    /// x above 0, `negative_slope` · x below.
    LeakyRelu,
}

/// How a decoder doubles its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Upsampling {
    /// Bilinear interpolation (corners aligned), then a convolution.
    #[default]
    Bilinear,
    /// Transposed convolutions.
    Transposed,
}

/// When latent codes are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// In training; validation and scores take the mean.
    #[default]
    Training,
    /// Never, as the published VAE, whose network is in evaluation mode throughout.
    Never,
    /// In validation and scoring, too, as the published β-VAE and Soft-IntroVAE.
    Always,
}

/// BatchNorm in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormMode {
    /// Statistics of the batch; running statistics are kept for evaluation.
    #[default]
    Batch,
    /// Running statistics are used and never change: what the published code does (reference-spec, section 0.1).
    Frozen,
}
