//! Writes a checkpoint in formats that need the network itself: the order of its parameters, or what it computes.

use std::path::Path;

use morph_checkpoint::{Snapshot, file};
use morph_model::{graph, paper, script};
use morph_spec::{Experiment, experiment::Sampling};
use tch::{Device, Kind};
use tokio::runtime::Runtime;

use crate::rank::{
    self,
    failure::Failure,
    group::Place,
    snapshot::{self, Net},
};

/// Formats that are written here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `{model_weights, optimizer_weights, epoch}` as the published code writes it.
    Paper,
    /// What the method makes of images, as TorchScript.
    TorchScript,
    /// The same as ONNX.
    Onnx,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// For people: what one must know to use the file.
    pub notes: Vec<String>,
}

/// Writes the checkpoint whose manifest lies at `url` to `to`, as `format`; with `force` in place of what is there.
///
/// # Errors
/// When the checkpoint cannot be read, the file not be written, or what it computes is not what the network does.
pub fn checkpoint(url: &str, format: Format, to: &Path, force: bool) -> Result<Exported, Failure> {
    let io = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::AlreadyExists => {
            Failure::User(format!("{}: is there already; --force overwrites", to.display()))
        }
        _ => Failure::User(format!("write {}: {e}", to.display())),
    };
    file::is_free(to, force).map_err(io)?;
    let runtime = rank::runtime()?;
    let (snapshot, experiment) = runtime.block_on(snapshot::read(url))?;
    rank::set_up(experiment.trainer.threads, Device::Cpu)?;
    let half = file::beside(to);
    let written = match format {
        Format::Paper => as_paper(&snapshot, &experiment, &runtime)
            .and_then(|(bytes, exported)| std::fs::write(&half, bytes).map(|()| exported).map_err(io)),
        Format::TorchScript => as_script(&snapshot, experiment, &half, &runtime),
        Format::Onnx => as_onnx(&snapshot, experiment, &runtime)
            .and_then(|(bytes, exported)| std::fs::write(&half, bytes).map(|()| exported).map_err(io)),
    };
    let exported = written.inspect_err(|_| drop(std::fs::remove_file(&half)))?;
    file::publish(&half, to, force).map_err(io)?;
    Ok(exported)
}

/// The checkpoint's network, without the one of the perceptual loss, which no export needs.
fn network(snapshot: &Snapshot, experiment: &Experiment, runtime: &Runtime) -> Result<Net, Failure> {
    let mut experiment = experiment.clone();
    experiment.trainer.loss.perceptual.weight = 0.0;
    let net = rank::build(&experiment, Place { device: Device::Cpu, kind: Kind::Float }, runtime)?;
    snapshot::load_model(net.method.as_ref(), snapshot)?;
    Ok(net)
}

fn as_paper(snapshot: &Snapshot, experiment: &Experiment, runtime: &Runtime) -> Result<(Vec<u8>, Exported), Failure> {
    let mut net = network(snapshot, experiment, runtime)?;
    snapshot::load_optimizers(&mut net, snapshot)?;
    let settings = &experiment.trainer;
    let at = snapshot::position(&snapshot.state)?;
    let lr = at.schedule.rate(settings.optimizer.lr, &settings.schedule);
    let mut notes = Vec::new();
    // The published code counts the epoch that has just ended, from 0.
    let epoch = at.epoch.saturating_sub(1);
    if at.batch > 0 {
        notes.push(format!(
            "the checkpoint is of the middle of an epoch: who resumes the file trains epoch {} anew",
            at.epoch
        ));
    } else if at.epoch == 0 {
        notes.push("not one epoch has been trained; the file says epoch 0 all the same".to_owned());
    }
    Ok((paper::write(net.method.as_ref(), &net.optimizers, &settings.optimizer, lr, epoch)?, Exported { notes }))
}

/// A file draws no numbers.
fn means(experiment: &mut Experiment) -> Vec<String> {
    if experiment.model.sampling != Sampling::Always {
        return Vec::new();
    }
    experiment.model.sampling = Sampling::Training;
    vec!["model.sampling is `always`, but a file draws no numbers: it takes the mean of the code".to_owned()]
}

fn as_onnx(snapshot: &Snapshot, mut experiment: Experiment, runtime: &Runtime) -> Result<(Vec<u8>, Exported), Failure> {
    let mut notes = means(&mut experiment);
    let net = network(snapshot, &experiment, runtime)?;
    let side = experiment.model.image_size;
    let facts = [
        ("morph.method", experiment.model.method.name().to_owned()),
        ("morph.experiment", experiment.name.clone()),
        ("morph.step", snapshot.state.step.to_string()),
        ("morph.epoch", snapshot.state.epoch.to_string()),
        ("morph.dataset", snapshot.state.dataset.to_string()),
    ];
    let facts = facts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let (bytes, names) = graph::write(net.method.as_ref(), i64::from(side), &facts)?;
    notes.push(format!("takes image [batch, 1, {side}, {side}] in 0..1, gives {}", names.join(", ")));
    Ok((bytes, Exported { notes }))
}

fn as_script(
    snapshot: &Snapshot,
    mut experiment: Experiment,
    half: &Path,
    runtime: &Runtime,
) -> Result<Exported, Failure> {
    let mut notes = means(&mut experiment);
    let net = network(snapshot, &experiment, runtime)?;
    let side = experiment.model.image_size;
    let planes = script::write(net.method.as_ref(), i64::from(side), half)?;
    notes.push(format!(
        "takes images [B, 1, {side}, {side}] in 0..1, gives [B, {}, {side}, {side}]: {}",
        planes.len(),
        planes.join(", ")
    ));
    Ok(Exported { notes })
}
