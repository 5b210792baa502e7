//! How far apart images look, by networks whose weights are given.

use morph_model::{inception::Inception, lpips::Lpips};
use morph_scores::evaluation::Input;
use morph_spec::Experiment;
use tch::Tensor;
use tokio::runtime::Runtime;

use crate::rank::{self, failure::Failure, group::Place};

/// LPIPS, as an experiment asks for it.
#[derive(Debug)]
pub struct Similarity {
    network: Lpips,
    rescale: bool,
    /// The files that hold its weights.
    pub inputs: Vec<Input>,
}

impl Similarity {
    /// What `evaluation.lpips` names; `None`: nothing.
    ///
    /// # Errors
    /// When a file cannot be read, or they lack a tensor.
    pub fn load(experiment: &Experiment, place: Place, runtime: &Runtime) -> Result<Option<Self>, Failure> {
        let Some(lpips) = &experiment.evaluation.lpips else { return Ok(None) };
        let mut all = morph_checkpoint::Tensors::new();
        let mut inputs = Vec::new();
        for location in &lpips.weights {
            let (tensors, input) = rank::weights("evaluation.lpips.weights", location, runtime)?;
            all.extend(tensors);
            inputs.push(input);
        }
        let named = lpips.weights.join(", ");
        let network = Lpips::new(&all, place.device)
            .map_err(|e| Failure::User(format!("evaluation.lpips.weights ({named}): {e}")))?;
        Ok(Some(Self { network, rescale: lpips.rescale, inputs }))
    }

    /// How far each image of `a` looks from its counterpart in `b`, `[B]`; both `[B, 1, H, W]` in 0..1.
    ///
    /// # Errors
    /// libtorch's.
    pub fn apart(&self, a: &Tensor, b: &Tensor) -> Result<Tensor, Failure> {
        let scaled = |x: &Tensor| if self.rescale { x * 2.0 - 1.0 } else { x.shallow_clone() };
        Ok(self.network.distance(&scaled(a), &scaled(b))?)
    }
}

/// The network that `evaluation.fid` names, with the file that holds it; `None`: nothing.
///
/// # Errors
/// When the file cannot be read, or is not InceptionV3's.
pub fn inception(
    experiment: &Experiment,
    place: Place,
    runtime: &Runtime,
) -> Result<Option<(Inception, Input)>, Failure> {
    let Some(fid) = &experiment.evaluation.fid else { return Ok(None) };
    let (tensors, input) = rank::weights("evaluation.fid.weights", &fid.weights, runtime)?;
    let network = Inception::new(&tensors, place.device)
        .map_err(|e| Failure::User(format!("evaluation.fid.weights ({}): {e}", fid.weights)))?;
    Ok(Some((network, input)))
}
