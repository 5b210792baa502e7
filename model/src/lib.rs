//! The networks of the paper and their losses, exact to the reference (shared reference-spec; every statement there was
//! checked by running the paper's own code).
//!
//! Images are `[B, 1, H, W]`, f32 (f64 in tests of equality), in 0..1.
#![cfg_attr(test, allow(clippy::unwrap_used))]
#![allow(clippy::assign_op_pattern, reason = "`+=` changes a tensor in place, for all who hold it")]

mod error;
pub mod losses;
mod morphaeus;
mod nn;
mod optim;
pub mod parity;
mod tensors;
#[cfg(test)]
mod tests;
pub mod vgg;

use std::collections::BTreeMap;

use morph_checkpoint::Tensors;
use morph_spec::experiment as spec;
use tch::{Device, Kind, Tensor};

pub use error::Error;
pub use morphaeus::{Integration, Morphaeus};
pub use nn::{Norm, Solo, Statistics};
pub use optim::Adam;
pub use tensors::{from_data, to_data};

/// What a training step computed.
#[derive(Debug)]
pub struct Losses {
    /// What is differentiated; a scalar, mean over the given images.
    pub total: Tensor,
    /// Its terms by name, for the log: scalars without graph.
    pub terms: Vec<(&'static str, Tensor)>,
}

/// What a method makes of images, without graph.
#[derive(Debug)]
pub struct Reconstruction {
    /// The pseudo-healthy prior `[B, 1, H, W]`.
    pub prior: Tensor,
    /// What is compared with the image: the prior, fitted to the patient `[B, 1, H, W]`.
    pub reconstruction: Tensor,
    /// The deformation `[B, 2, H, W]` in pixels; channel 0 is rows, 1 columns.
    pub deformation: Option<Tensor>,
    /// The image, deformed back to the prior `[B, 1, H, W]`.
    pub reversed: Option<Tensor>,
}

/// A method of the paper: parameters, one training step's losses, a reconstruction.
pub trait Method {
    /// Trainable leaves by state-dict name, in the order of the forward pass.
    fn parameters(&self) -> Vec<(String, Tensor)>;

    /// What belongs to the state dict and is not trained: running statistics, grids.
    fn buffers(&self) -> Vec<(String, Tensor)>;

    /// The losses of epoch `epoch` (from 0) on `x`, in training mode as the experiment's `norm_mode` has it. All ranks call
    /// it together: statistics of the batch go through `stats`.
    ///
    /// # Errors
    /// [`Error::Collective`] when a peer is gone.
    fn losses(&self, x: &Tensor, epoch: u32, stats: &dyn Statistics) -> Result<Losses, Error>;

    /// What the method makes of `x`, in evaluation mode: no image depends on another.
    ///
    /// # Errors
    /// libtorch's.
    fn reconstruct(&self, x: &Tensor) -> Result<Reconstruction, Error>;

    /// The score that early stopping and model selection go by, one number an image `[B]`; lower is better.
    ///
    /// # Errors
    /// libtorch's.
    fn validation_score(&self, x: &Tensor) -> Result<Tensor, Error>;
}

/// Builds the method that `model` names, its weights drawn from `seed`. `perceptual` holds VGG-19's state dict; it is needed
/// when the loss has a perceptual term with weights other than `random`.
///
/// # Errors
/// When the perceptual weights are missing or do not fit.
pub fn build(
    model: &spec::Model,
    loss: &spec::Loss,
    perceptual: Option<&Tensors>,
    device: Device,
    kind: Kind,
    seed: u64,
) -> Result<Box<dyn Method>, Error> {
    // The one place where a method's name becomes a method.
    match model.method {
        spec::Method::Morphaeus => {
            let vgg = vgg::of_spec(&loss.perceptual, perceptual, device, kind, seed)?;
            Ok(Box::new(Morphaeus::new(model, loss.clone(), vgg, device, kind, seed)))
        }
    }
}

fn named(method: &dyn Method) -> BTreeMap<String, Tensor> {
    method.parameters().into_iter().chain(method.buffers()).collect()
}

/// Parameters and buffers under the names of the paper's state dict.
///
/// # Errors
/// When a tensor cannot be read.
pub fn state_dict(method: &dyn Method) -> Result<Tensors, Error> {
    named(method).into_iter().map(|(name, tensor)| Ok((name, to_data(&tensor)?))).collect()
}

/// Puts a state dict into the method.
///
/// # Errors
/// [`Error::StateDict`] lists what is missing, unexpected or of another shape; then nothing was changed.
pub fn load_state_dict(method: &dyn Method, state: &Tensors) -> Result<(), Error> {
    let own = named(method);
    // The grids hold no information: files without them, as the recorded ones, are whole.
    let derived = |name: &str| name.ends_with(".grid");
    let missing: Vec<String> = own.keys().filter(|n| !state.contains_key(*n) && !derived(n)).cloned().collect();
    let unexpected: Vec<String> = state.keys().filter(|n| !own.contains_key(*n)).cloned().collect();
    let mut misshapen = Vec::new();
    let mut loads = Vec::new();
    for (name, to) in &own {
        let Some(data) = state.get(name) else { continue };
        let from = from_data(data, to.device())?;
        if from.size() == to.size() {
            loads.push((to, from));
        } else {
            misshapen.push(format!("{name}: {:?} instead of {:?}", from.size(), to.size()));
        }
    }
    if !(missing.is_empty() && unexpected.is_empty() && misshapen.is_empty()) {
        return Err(Error::StateDict { missing, unexpected, misshapen });
    }
    tch::no_grad(|| {
        for (to, from) in loads {
            to.shallow_clone().f_copy_(&from)?;
        }
        Ok(())
    })
}
