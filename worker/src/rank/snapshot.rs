//! From a trainer's tensors to a snapshot and back: the same bits.

use std::collections::BTreeMap;

use morph_checkpoint::{Dtype, Snapshot, State, TensorData, Tensors};
use morph_collective::native;
use morph_model::{Method, Optimizers};
use morph_scores::evaluation::Input;
use morph_spec::{Digest, Experiment};

use crate::{
    evaluate::inputs,
    rank::{failure::Failure, progress::Position, schedule},
};

const MODEL: &str = "model/";
const OPTIMIZER: &str = "optimizer/";
const RNG: &str = "rng/cpu";

/// A network and the optimizers that train it.
pub struct Net {
    /// The method.
    pub method: Box<dyn Method>,
    /// One optimizer for each of the method's groups.
    pub optimizers: Optimizers,
    /// Files of weights that its loss is made of.
    pub inputs: Vec<Input>,
    /// BLAKE3 of the file of weights that training began with, where `model.weights` names one.
    pub begun: Option<Digest>,
}

impl Net {
    /// All files of weights that it depends on, for the record of `experiment`.
    pub fn files(&self, experiment: &Experiment) -> Vec<Input> {
        let begun = experiment.model.weights.as_deref().zip(self.begun);
        let begun = begun.map(|(url, digest)| inputs::file("model.weights", url, digest));
        self.inputs.iter().cloned().chain(begun).collect()
    }
}

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Net").field("optimizers", &self.optimizers.iter().count()).finish_non_exhaustive()
    }
}

/// What a checkpoint says besides where training stands.
#[derive(Debug, Clone)]
pub struct Provenance {
    /// The experiment's canonical JSON.
    pub experiment: serde_json::Value,
    /// BLAKE3 of the dataset's manifest.
    pub dataset: Digest,
    /// Number of ranks.
    pub world: u32,
}

/// The checkpoint at `url`, and the experiment that it is of.
///
/// # Errors
/// When it cannot be read or its experiment is none.
pub async fn read(url: &str) -> Result<(Snapshot, Experiment), Failure> {
    let snapshot = morph_checkpoint::load(url, None).await?;
    let experiment = serde_json::from_value(snapshot.state.experiment.clone())
        .map_err(|e| Failure::User(format!("{url}: its experiment cannot be read: {e}")))?;
    Ok((snapshot, experiment))
}

/// Everything needed to go on exactly from `at`.
///
/// # Errors
/// When libtorch cannot copy its tensors.
pub fn take(net: &Net, at: &Position, provenance: &Provenance) -> Result<Snapshot, Failure> {
    let mut tensors = prefixed(MODEL, morph_model::state_dict(net.method.as_ref())?);
    let mut optimizer_steps = BTreeMap::new();
    for (name, adam) in net.optimizers.iter() {
        let (moments, steps) = adam.state()?;
        tensors.extend(prefixed(&format!("{OPTIMIZER}{name}/"), moments));
        optimizer_steps.extend(steps.into_iter().map(|(parameter, n)| (format!("{name}/{parameter}"), n)));
    }
    let rng = native::rng_state()?;
    tensors.insert(RNG.to_owned(), TensorData { dtype: Dtype::U8, shape: vec![rng.len() as u64], bytes: rng });
    Ok(Snapshot {
        tensors,
        state: State {
            step: at.step,
            epoch: at.epoch,
            batch: at.batch,
            world_size: provenance.world,
            early_stopping: at.early_stopping,
            optimizer_steps,
            sums: at.sums.clone(),
            best: at.best.clone(),
            schedulers: serde_json::to_value(at.schedule)
                .map_err(|e| Failure::Infra(format!("write the schedule's state: {e}")))?,
            experiment: provenance.experiment.clone(),
            dataset: provenance.dataset,
            weights: net.begun,
        },
    })
}

/// Puts `net` and the generator into the state that `snapshot` holds; where training stands.
///
/// # Errors
/// When the checkpoint is of another network or dataset.
pub fn restore(net: &mut Net, snapshot: &Snapshot, provenance: &Provenance) -> Result<Position, Failure> {
    let state = &snapshot.state;
    if state.dataset != provenance.dataset {
        return Err(Failure::User(format!(
            "the checkpoint was trained on the dataset with manifest {}, this run's is {}",
            state.dataset, provenance.dataset
        )));
    }
    if state.world_size != provenance.world {
        tracing::warn!(
            "going on with {} ranks instead of {}: sums will round differently",
            provenance.world,
            state.world_size
        );
    }
    load_model(net.method.as_ref(), snapshot)?;
    load_optimizers(net, snapshot)?;
    if let Some(rng) = snapshot.tensors.get(RNG) {
        native::set_rng_state(&rng.bytes)?;
    }
    net.begun = state.weights;
    position(state)
}

/// Puts `net`'s optimizers into the state that `snapshot` holds.
///
/// # Errors
/// When they are another network's.
pub fn load_optimizers(net: &mut Net, snapshot: &Snapshot) -> Result<(), Failure> {
    for (name, adam) in net.optimizers.iter_mut() {
        let moments = unprefixed(&format!("{OPTIMIZER}{name}/"), &snapshot.tensors);
        let prefix = format!("{name}/");
        let steps = snapshot
            .state
            .optimizer_steps
            .iter()
            .filter_map(|(k, n)| k.strip_prefix(&prefix).map(|parameter| (parameter.to_owned(), *n)))
            .collect();
        adam.load_state(&moments, &steps)?;
    }
    Ok(())
}

/// Where training stood.
///
/// # Errors
/// When the schedule's state is none.
pub fn position(state: &State) -> Result<Position, Failure> {
    Ok(Position {
        step: state.step,
        epoch: state.epoch,
        batch: state.batch,
        sums: state.sums.clone(),
        early_stopping: state.early_stopping,
        best: state.best.clone(),
        schedule: schedule(&state.schedulers)?,
    })
}

/// Checkpoints of before there were schedules hold none.
fn schedule(state: &serde_json::Value) -> Result<schedule::State, Failure> {
    if state.is_null() {
        return Ok(schedule::State::default());
    }
    serde_json::from_value(state.clone()).map_err(|e| Failure::User(format!("the checkpoint's schedule: {e}")))
}

/// Loads only the weights and buffers of `snapshot`.
///
/// # Errors
/// When they are another network's.
pub fn load_model(method: &dyn Method, snapshot: &Snapshot) -> Result<(), Failure> {
    Ok(morph_model::load_state_dict(method, &unprefixed(MODEL, &snapshot.tensors))?)
}

fn prefixed(prefix: &str, tensors: Tensors) -> Tensors {
    tensors.into_iter().map(|(name, t)| (format!("{prefix}{name}"), t)).collect()
}

fn unprefixed(prefix: &str, tensors: &Tensors) -> Tensors {
    tensors.iter().filter_map(|(name, t)| Some((name.strip_prefix(prefix)?.to_owned(), t.clone()))).collect()
}
