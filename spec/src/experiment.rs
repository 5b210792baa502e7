//! `kind: experiment`: dataset + model + trainer + evaluation.

use serde::{Deserialize, Serialize};

use crate::{Augment, Scheduling, dataset::Preprocess};
pub use crate::{
    evaluation::{Comparison, Evaluation, Leakage, Part, Score, TestPlan, TestSet},
    loss::{
        Capacity, CapacityForm, Intro, Loss, MorphLoss, Ncc, Perceptual, Posterior, Reconstruction, Regulariser, Vae,
    },
    method::{Activation, Method, Model, NormMode, Sampling, Upsampling},
    schedule::{Argument, Schedule, ScheduleName},
};

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

/// A place that an experiment names, and that ranks read for whoever submits it.
#[derive(Debug)]
pub struct Place<'a> {
    /// The field, dotted.
    pub field: String,
    /// URL or path.
    pub location: &'a mut String,
    /// A folder; else a file.
    pub is_folder: bool,
}

impl Experiment {
    /// Every place that is read, datasets first. There is no other list of them: who may not be led somewhere is kept from it here.
    pub fn places(&mut self) -> Vec<Place<'_>> {
        let folder = |field: String, location| Place { field, location, is_folder: true };
        let file = |field: &str, location| Place { field: field.to_owned(), location, is_folder: false };
        let mut places = vec![folder("dataset.url".to_owned(), &mut self.dataset.url)];
        let Evaluation { comparisons, calibration, truth, lpips, fid, .. } = &mut self.evaluation;
        let compared = comparisons.iter_mut().map(|(name, c)| (format!("comparisons.{name}"), c));
        for (name, c) in compared.chain(calibration.iter_mut().map(|c| ("calibration".to_owned(), c))) {
            let parts = [
                ("dataset", &mut c.dataset),
                ("healthy.dataset", &mut c.healthy.dataset),
                ("pathology.dataset", &mut c.pathology.dataset),
            ];
            let named = parts.into_iter().filter_map(|(part, url)| Some((part, url.as_mut()?)));
            places.extend(named.map(|(part, url)| folder(format!("evaluation.{name}.{part}"), url)));
        }
        places.extend(truth.as_mut().map(|url| folder("evaluation.truth".to_owned(), url)));
        let lpips = lpips.iter_mut().flat_map(|l| l.weights.iter_mut().enumerate());
        places.extend(lpips.map(|(i, url)| file(&format!("evaluation.lpips.weights.{i}"), url)));
        places.extend(fid.as_mut().map(|fid| file("evaluation.fid.weights", &mut fid.weights)));
        places.extend(self.model.weights.as_mut().map(|url| file("model.weights", url)));
        let perceptual = self.trainer.loss.perceptual.weights.as_mut().filter(|w| *w != "random");
        places.extend(perceptual.map(|url| file("trainer.loss.perceptual.weights", url)));
        places
    }
}

/// A prepared dataset and which of its samples are for what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetRef {
    /// Folder that holds `manifest.json`: URL or path; `${VAR}` is replaced from the environment.
    pub url: String,
    /// How its images must have been made: a dataset that was prepared otherwise is refused. Without it any is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preprocess: Option<Preprocess>,
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
    /// Whether a sample may be in both, of the same dataset.
    pub fn may_share(&self, other: &Self) -> bool {
        let all = self.labels.is_empty() || other.labels.is_empty();
        self.split == other.split && (all || self.labels.iter().any(|label| other.labels.contains(label)))
    }

    fn train() -> Self {
        Self { split: "train".into(), labels: vec!["Normal".into()] }
    }
    fn val() -> Self {
        Self { split: "val".into(), labels: vec!["Normal".into()] }
    }
}

/// How training goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Trainer {
    /// Passes over the training samples; 0: none, `model.weights` are scored as they are.
    pub epochs: u32,
    /// Take the optimizers' state and the epoch from `model.weights`, too, and go on after that epoch.
    pub resume: bool,
    /// Images per optimizer step over all ranks.
    pub batch_size: u32,
    /// Number of ranks.
    pub world_size: u32,
    /// CPU threads per rank.
    pub threads: u32,
    /// Seed of weights, sample order, augmentation and noise.
    pub seed: u64,
    /// Leave out the last, smaller batch of an epoch.
    pub drop_last: bool,
    /// Where it computes.
    pub device: Device,
    /// How exactly a GPU multiplies in training.
    pub precision: Precision,
    /// Where the images are kept from which batches are made; results do not depend on it.
    pub residency: Residency,
    /// How training images are varied.
    pub augment: Augment,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// How the learning rate changes over the epochs.
    pub schedule: Schedule,
    /// The loss.
    pub loss: Loss,
    /// The noise that a denoising method is trained to remove.
    pub noise: Noise,
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
            resume: false,
            batch_size: 64,
            world_size: 1,
            threads: 1,
            seed: 2109,
            drop_last: true,
            device: Device::Auto,
            precision: Precision::Float32,
            residency: Residency::Auto,
            augment: Augment::default(),
            optimizer: Optimizer::default(),
            schedule: Schedule::default(),
            loss: Loss::default(),
            noise: Noise::default(),
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

/// How exactly a GPU multiplies in training. Validation and scores are in float32 always.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// IEEE 754 single precision, as a CPU does.
    #[default]
    Float32,
    /// Convolutions and matrix products round their factors to TF32, 10 bits of mantissa; the rest is float32. PyTorch's own
    /// default lets convolutions do so, and by that the published code's, on GPUs since Ampere.
    Tf32,
}

/// Where images are kept, one byte a pixel, while a run trains.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Residency {
    /// `device` on a GPU with room for twice the images, else `mmap`; training images that are varied (`augment`) always `mmap`.
    #[default]
    Auto,
    /// In the node's cache on disk, mapped: the kernel keeps in memory, once for all ranks, what there is room for.
    Mmap,
    /// The same, read and locked into memory before training begins.
    Ram,
    /// A copy on the rank's device.
    Device,
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

/// Coarse Gaussian noise on the foreground (Kascenas et al. 2022).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Noise {
    /// Its standard deviation; images are in 0..1.
    pub std: f64,
    /// Side in pixels of the grid on which it is drawn before it is interpolated to the image's size.
    pub resolution: u32,
}

impl Default for Noise {
    fn default() -> Self {
        Self { std: 0.2, resolution: 16 }
    }
}

/// Early stopping on the validation score (lower is better).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EarlyStopping {
    /// Epochs without improvement after which training ends; 0: never.
    pub patience: u32,
    /// What counts as an improvement.
    pub min_delta: f64,
    /// Judge anew from the first epoch in which all of the network is trained (MorphAEus: `loss.morph.start_epoch`): networks of
    /// before are no candidates for the best any more, and patience starts again. `false`: as the published code, whose best may
    /// be one that never learned to deform.
    pub anew: bool,
}

impl Default for EarlyStopping {
    fn default() -> Self {
        Self { patience: 25, min_delta: 1e-8, anew: true }
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
