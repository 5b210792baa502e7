//! How far apart two images look, by a network whose weights are given.

use morph_model::lpips::Lpips;
use morph_spec::Experiment;
use tch::Tensor;
use tokio::runtime::Runtime;

use crate::rank::{self, failure::Failure, group::Place};

/// LPIPS, as an experiment asks for it.
#[derive(Debug)]
pub struct Similarity {
    network: Lpips,
    rescale: bool,
}

impl Similarity {
    /// What `evaluation.lpips` names; `None`: nothing.
    ///
    /// # Errors
    /// When a file cannot be read, or they lack a tensor.
    pub fn load(experiment: &Experiment, place: Place, runtime: &Runtime) -> Result<Option<Self>, Failure> {
        let Some(lpips) = &experiment.evaluation.lpips else { return Ok(None) };
        let mut all = morph_checkpoint::Tensors::new();
        for location in &lpips.weights {
            all.extend(rank::weights(location, runtime)?);
        }
        let named = lpips.weights.join(", ");
        let network = Lpips::new(&all, place.device)
            .map_err(|e| Failure::User(format!("evaluation.lpips.weights ({named}): {e}")))?;
        Ok(Some(Self { network, rescale: lpips.rescale }))
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
