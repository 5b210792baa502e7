//! Weights from elsewhere to begin with: the paper's files, state dicts, safetensors, another run's checkpoint.

use morph_checkpoint::{MANIFEST, weights};
use morph_model::paper;
use morph_spec::{Digest, Experiment};
use tokio::runtime::Runtime;

use crate::rank::{failure::Failure, progress::Position, schedule, snapshot, snapshot::Net, split_location};

/// Puts the weights that the experiment names into `net`, and with `trainer.resume` the state of its optimizers; where training
/// stands then. An experiment that names none begins at the beginning, with the weights that were drawn.
///
/// # Errors
/// When the file cannot be read, or is of another network; all that does not fit is listed.
pub fn begin(net: &mut Net, experiment: &Experiment, runtime: &Runtime) -> Result<Position, Failure> {
    let Some(location) = experiment.model.weights.as_deref() else { return Ok(Position::default()) };
    let resume = experiment.trainer.resume;
    let misfit = |e: morph_model::Error| match e {
        morph_model::Error::Torch(why) => Failure::Crashed(why),
        e => Failure::User(format!("model.weights {location} ({}): {e}", experiment.model.method.name())),
    };
    let (folder, key) = split_location(location)?;
    let bytes = runtime.block_on(folder.get(&key))?;
    let digest = Digest::of(&bytes);
    net.begun = Some(digest);
    let at = if key == MANIFEST {
        let snapshot = runtime.block_on(morph_checkpoint::load(&folder.url_of(&key), Some(digest)))?;
        morph_model::load_state_dict(net.method.as_ref(), &weights::state_dict(&snapshot.tensors)).map_err(misfit)?;
        if !resume {
            return begun(location, Position::default());
        }
        if snapshot.state.batch > 0 {
            return Err(Failure::User(format!(
                "model.weights {location}: a checkpoint of the middle of an epoch, which only its own run resumes; take one of an \
                 epoch's end"
            )));
        }
        snapshot::load_optimizers(net, &snapshot)?;
        Position { best: None, ..snapshot::position(&snapshot.state)? }
    } else {
        let document = weights::read_document(&bytes, location)?;
        morph_model::load_state_dict(net.method.as_ref(), &weights::state_dict(&document.tensors)).map_err(misfit)?;
        if !resume {
            return begun(location, Position::default());
        }
        paper::load_optimizers(&document, net.method.as_ref(), &mut net.optimizers).map_err(misfit)?;
        let last = paper::epoch(&document)
            .ok_or_else(|| Failure::User(format!("model.weights {location}: it does not say of which epoch it is")))?;
        let epoch = last.saturating_add(1);
        Position { epoch, schedule: schedule::State { epochs: epoch, ..Default::default() }, ..Position::default() }
    };
    begun(location, at)
}

fn begun(location: &str, at: Position) -> Result<Position, Failure> {
    tracing::info!(epoch = at.epoch, "beginning with the weights of {location}");
    Ok(at)
}
