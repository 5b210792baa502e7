//! What a method is: parameters, named optimizers, a training step, a reconstruction.

use tch::Tensor;

use crate::{
    Draws, Error, Optimizers, Statistics,
    graph::{Graph, Outputs, Value},
};

/// What a training step computed.
#[derive(Debug)]
pub struct Losses {
    /// What the log calls the loss: a scalar, mean over the given images; the sum over the step's updates.
    pub total: Tensor,
    /// Its terms by name, for the log: scalars without graph.
    pub terms: Vec<(&'static str, Tensor)>,
}

/// What a method makes of images, without graph.
#[derive(Debug)]
pub struct Reconstruction {
    /// The pseudo-healthy prior `[B, 1, H, W]`.
    pub prior: Tensor,
    /// What is compared with the image: the prior, fitted to the patient where the method can `[B, 1, H, W]`.
    pub reconstruction: Tensor,
    /// What the reference returns as the deformation: the velocity field `[B, 2, H, W]` in pixels; channel 0 is rows, 1 columns.
    pub deformation: Option<Tensor>,
    /// How far from each pixel of the reconstruction its value lay in the prior: the integral of that field, shaped as it.
    pub displacement: Option<Tensor>,
    /// The image, deformed back to the prior `[B, 1, H, W]`.
    pub reversed: Option<Tensor>,
}

impl Reconstruction {
    /// Of a method that does not deform: `y` is both.
    pub(crate) fn plain(y: Tensor) -> Self {
        Self { prior: y.shallow_clone(), reconstruction: y, deformation: None, displacement: None, reversed: None }
    }
}

/// Where training stands: what schedules within losses go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct At {
    /// Epochs done.
    pub epoch: u32,
    /// Steps taken.
    pub step: u64,
    /// Batches validated, as the published code counts them.
    pub validated: u64,
}

/// Carries out updates: over one rank or many.
pub trait Updates {
    /// One step of the optimizer `name` on the scalar that `loss` computes, a mean over the given images. Only that optimizer's
    /// parameters get gradients; all others are constants while `loss` runs.
    ///
    /// # Errors
    /// What `loss` says, libtorch's, lost peers.
    fn update(&mut self, name: &str, loss: &mut dyn FnMut() -> Result<Tensor, Error>) -> Result<(), Error>;
}

/// What a step may use.
#[allow(missing_debug_implementations)]
pub struct Step<'a> {
    /// Where training stands.
    pub at: At,
    /// Sums over the ranks.
    pub stats: &'a dyn Statistics,
    /// Random numbers.
    pub draws: &'a mut dyn Draws,
    /// Who carries out updates.
    pub updates: &'a mut dyn Updates,
}

/// The parameters of one optimizer.
#[derive(Debug)]
pub struct Group {
    /// Its name, in checkpoints and in [`Updates::update`].
    pub name: &'static str,
    /// The key of its state in the files of the published code.
    pub published: &'static str,
    /// By state-dict name, in the order of [`Method::parameters`].
    pub parameters: Vec<(String, Tensor)>,
}

/// A method of the paper.
pub trait Method {
    /// Trainable leaves by state-dict name, in the order in which the published code registers them, by which `torch.optim` numbers
    /// its state; it is nearly that of the forward pass, which is what gradients' buckets want.
    fn parameters(&self) -> Vec<(String, Tensor)>;

    /// What belongs to the state dict and is not trained: running statistics, grids.
    fn buffers(&self) -> Vec<(String, Tensor)>;

    /// The optimizers, each with its parameters; one may have several.
    fn groups(&self) -> Vec<Group> {
        vec![Group { name: "adam", published: "optimizer_weights", parameters: self.parameters() }]
    }

    /// Whether in epoch `epoch` (from 0) some parameter of an updated group gets no gradient.
    fn partial(&self, _epoch: u32) -> bool {
        false
    }

    /// One training step on `x [B, 1, H, W]`, in training mode as the experiment's `norm_mode` has it: one update or several. All
    /// ranks call it together, each with its share of the batch.
    ///
    /// # Errors
    /// [`Error::Collective`] when a peer is gone.
    fn step(&self, x: &Tensor, step: &mut Step<'_>) -> Result<Losses, Error>;

    /// Everything that one forward pass gives, by the reference's names, in training mode or not; without graph.
    ///
    /// # Errors
    /// libtorch's.
    fn outputs(&self, x: &Tensor, training: bool, draws: &mut dyn Draws) -> Result<Vec<(&'static str, Tensor)>, Error>;

    /// What the method makes of `x`, in evaluation mode: no image depends on another.
    ///
    /// # Errors
    /// libtorch's.
    fn reconstruct(&self, x: &Tensor, draws: &mut dyn Draws) -> Result<Reconstruction, Error>;

    /// What [`Method::reconstruct`] computes of the images `x`, as nodes of ONNX, codes as the means of their distributions.
    ///
    /// # Errors
    /// [`Error::Graph`] of a method that has none.
    fn graph(&self, _graph: &mut Graph, _x: &Value) -> Result<Outputs, Error> {
        Err(Error::Graph)
    }

    /// The score that early stopping and model selection go by, one number an image `[B]`; lower is better.
    ///
    /// # Errors
    /// libtorch's.
    fn validation_score(&self, x: &Tensor, at: At, draws: &mut dyn Draws) -> Result<Tensor, Error>;
}

/// The step of a method that has one optimizer and one loss.
pub(crate) fn one_update(
    updates: &mut dyn Updates,
    mut losses: impl FnMut() -> Result<Losses, Error>,
) -> Result<Losses, Error> {
    let mut computed = None;
    updates.update("adam", &mut || {
        let losses = losses()?;
        let total = losses.total.shallow_clone();
        computed = Some(losses);
        Ok(total)
    })?;
    let losses: Losses = computed.ok_or_else(|| Error::Torch("the update was not carried out".into()))?;
    Ok(Losses { total: losses.total.detach(), terms: losses.terms })
}

/// Updates by one process that has the whole batch.
#[derive(Debug)]
pub struct Alone<'a>(pub &'a mut Optimizers);

impl Updates for Alone<'_> {
    fn update(&mut self, name: &str, loss: &mut dyn FnMut() -> Result<Tensor, Error>) -> Result<(), Error> {
        self.0.update(name, loss, &mut |loss| Ok(loss.f_backward()?))
    }
}
