//! `kind: experiment`: dataset + model + trainer + evaluation.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Scheduling;

/// An experiment YAML. Its canonical JSON is what travels and is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// Must be `experiment`.
    pub kind: Kind,
    /// Name of the experiment; runs are named after it.
    pub name: String,
    /// A sentence for people.
    #[serde(default)]
    pub description: String,
    /// What is trained on.
    pub dataset: DatasetRef,
    /// What is trained.
    pub model: Model,
    /// How it is trained.
    #[serde(default)]
    pub trainer: Trainer,
    /// How it is scored.
    #[serde(default)]
    pub evaluation: Evaluation,
    /// How it is scheduled.
    #[serde(default)]
    pub scheduling: Scheduling,
}

/// The word in `kind:`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// `experiment`
    Experiment,
}

/// A prepared dataset and which of its samples are for what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetRef {
    /// Folder that holds `manifest.json`: URL or path; `${VAR}` is replaced from the environment.
    pub url: String,
    /// Training samples.
    #[serde(default = "Subset::train")]
    pub train: Subset,
    /// Samples for early stopping and model selection.
    #[serde(default = "Subset::val")]
    pub validation: Subset,
}

/// A split, narrowed to labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subset {
    /// `train`, `val` or `test`.
    pub split: String,
    /// Only these labels; empty: all in the split.
    #[serde(default)]
    pub labels: Vec<String>,
}

impl Subset {
    fn train() -> Self {
        Self { split: "train".into(), labels: vec!["Normal".into()] }
    }
    fn val() -> Self {
        Self { split: "val".into(), labels: vec!["Normal".into()] }
    }
}

/// The network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Which method.
    pub method: Method,
    /// Side of the (square) input in pixels; must equal the dataset's.
    #[serde(default = "default_image_size")]
    pub image_size: u32,
    /// Channels of the encoder's stride-2 levels; `image_size` must be divisible by 2 to their number.
    #[serde(default = "default_channels")]
    pub channels: Vec<u32>,
    /// Side of the convolutions' kernels; odd.
    #[serde(default = "default_kernel_size")]
    pub kernel_size: u32,
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
    /// How BatchNorm behaves in training.
    #[serde(default)]
    pub norm_mode: NormMode,
    /// With `norm_mode: batch`: take statistics over the global batch (`true`), so that the number of ranks does not
    /// change the method, or over each rank's share.
    #[serde(default = "yes")]
    pub sync: bool,
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
fn default_refine_levels() -> u32 {
    3
}
fn default_refine_channels() -> u32 {
    32
}
fn default_integration_steps() -> u32 {
    7
}
fn yes() -> bool {
    true
}

/// Methods of the paper that are implemented.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// MorphAEus (Bercea et al., MICCAI 2023).
    Morphaeus,
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

/// How training goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trainer {
    /// Passes over the training samples.
    pub epochs: u32,
    /// Images per optimizer step over all ranks.
    pub batch_size: u32,
    /// Number of ranks.
    pub world_size: u32,
    /// CPU threads per rank.
    pub threads: u32,
    /// Seed of weights, sample order and noise.
    pub seed: u64,
    /// Leave out the last, smaller batch of an epoch.
    pub drop_last: bool,
    /// Where it computes.
    pub device: Device,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// The loss.
    pub loss: Loss,
    /// When to stop early.
    pub early_stopping: EarlyStopping,
    /// When to save and what to keep.
    pub checkpoint: Checkpointing,
    /// Seconds after which a collective that does not finish is an error.
    pub collective_timeout_s: u32,
    /// Seconds after which a rank 0 that has said nothing is taken for hung and killed; the run goes on from its checkpoint.
    /// 0: never. It says something with every few steps, but nothing while data is fetched or scores are computed.
    pub stall_timeout_s: u32,
}

impl Default for Trainer {
    fn default() -> Self {
        Self {
            epochs: 500,
            batch_size: 64,
            world_size: 1,
            threads: 1,
            seed: 2109,
            drop_last: true,
            device: Device::Auto,
            optimizer: Optimizer::default(),
            loss: Loss::default(),
            early_stopping: EarlyStopping::default(),
            checkpoint: Checkpointing::default(),
            collective_timeout_s: 60,
            stall_timeout_s: 1800,
        }
    }
}

/// Where tensors live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// CUDA when there is one, else CPU.
    Auto,
    /// CPU.
    Cpu,
    /// CUDA; an error when there is none.
    Cuda,
}

/// Adam (Kingma & Ba), as `torch.optim.Adam`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Optimizer {
    /// Which one.
    pub name: OptimizerName,
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first and second moment.
    pub betas: [f64; 2],
    /// Added to the denominator.
    pub eps: f64,
    /// L2 penalty (added to the gradient, not decoupled).
    pub weight_decay: f64,
    /// Use the maximum of past second moments.
    pub amsgrad: bool,
}

impl Default for Optimizer {
    fn default() -> Self {
        Self { name: OptimizerName::Adam, lr: 5e-4, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0, amsgrad: false }
    }
}

/// Optimizers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerName {
    /// Adam.
    Adam,
}

/// L = reconstruction + α·perceptual + δ·(NCC + β(epoch)·R), the last from `morph.start_epoch` on.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Loss {
    /// Between prior and image.
    pub reconstruction: Reconstruction,
    /// VGG-19 features between prior and image.
    pub perceptual: Perceptual,
    /// Deformation terms.
    pub morph: MorphLoss,
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

/// Early stopping on the validation score (lower is better).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EarlyStopping {
    /// Epochs without improvement after which training ends; 0: never.
    pub patience: u32,
    /// What counts as an improvement.
    pub min_delta: f64,
}

impl Default for EarlyStopping {
    fn default() -> Self {
        Self { patience: 25, min_delta: 1e-8 }
    }
}

/// When checkpoints are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpointing {
    /// Every this many epochs (and at the end); 0: only at the end.
    pub every_epochs: u32,
    /// Also every this many steps; 0: no.
    pub every_steps: u32,
    /// How many of the newest to keep; the best is kept besides.
    pub keep_last: u32,
}

impl Default for Checkpointing {
    fn default() -> Self {
        Self { every_epochs: 1, every_steps: 0, keep_last: 2 }
    }
}

/// What is scored after training, with the best checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Evaluation {
    /// The negative set.
    pub healthy: Subset,
    /// Positive sets by name; each is compared with `healthy`.
    pub pathology: BTreeMap<String, Subset>,
    /// Images per forward pass. Fixed, so that scores do not depend on the number of ranks.
    pub batch_size: u32,
    /// Cases of each set shown in the panel picture.
    pub panel_cases: u32,
}

impl Default for Evaluation {
    fn default() -> Self {
        Self {
            healthy: Subset { split: "test".into(), labels: vec!["Normal".into()] },
            pathology: BTreeMap::from([(
                "opacity".into(),
                Subset { split: "test".into(), labels: vec!["Lung Opacity".into()] },
            )]),
            batch_size: 16,
            panel_cases: 3,
        }
    }
}
