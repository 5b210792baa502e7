//! Scores a trained network: healthy against each pathology, with baselines that see no pathology at all.
//!
//! Contract:
//! 1. Scores do not depend on the number of ranks, bit for bit: images are computed in fixed batches, and what is added
//!    over ranks is a number and zeros.
//! 2. Nothing is chosen by looking at the test set: the panel's scale is the validation set's, its cases are evenly spaced.

pub mod font;
pub mod panel;
pub mod report;
pub mod table;

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use morph_checkpoint::Snapshot;
use morph_data::Samples;
use morph_model::{Keyed, Method};
use morph_objects::Objects;
use morph_spec::Experiment;
use tch::Tensor;
use tokio::runtime::Runtime;

use crate::{
    evaluate::{
        panel::Case,
        report::{Report, Scored},
        table::{COLUMNS, Row},
    },
    rank::{
        self,
        events::Events,
        failure::Failure,
        group::{Group, Place},
        images::{Dataset, TestSets, tensor, values},
        orders::Orders,
        progress::Position,
        snapshot,
    },
    wire::Event,
};

/// Bins of the histogram of residuals, which lie in 0..1.
const BINS: usize = 2048;
/// Share of the validation set's residuals that the panel shows darker than white.
const SHARE: f64 = 0.995;
/// Rounds of batches between two votes on stopping.
const ROUNDS: usize = 4;

/// What is scored, by whom.
#[derive(Debug)]
pub struct Scene<'a> {
    /// The experiment.
    pub experiment: &'a Experiment,
    /// The sets that are scored.
    pub test: &'a TestSets,
    /// The set that gives the panel's scale.
    pub validation: &'a Samples,
    /// The ranks.
    pub group: &'a Group,
    /// Where tensors live.
    pub place: Place,
    /// Orders.
    pub orders: &'a Orders,
}

/// The scores and the files of an evaluation.
#[derive(Debug)]
pub struct Outcome {
    /// The scores.
    pub report: Report,
    /// Per-image scores.
    pub csv: String,
    /// The picture of some cases.
    pub panel: Vec<u8>,
}

/// The last act of an attempt: scores the best checkpoint; rank 0 writes the artifacts and reports. `false` when ordered to
/// stop before the end.
///
/// # Errors
/// I/O, lost peers, scores that are not numbers.
pub fn attempt(
    scene: &Scene<'_>,
    method: &dyn Method,
    at: &Position,
    output: &Objects,
    runtime: &Runtime,
    events: &Arc<Events>,
) -> Result<bool, Failure> {
    load_best(scene.group, method, at, runtime)?;
    let best = at.best.as_ref().map(|b| (b.step, Some(b.score))).unwrap_or((at.step, None));
    let Some(outcome) = score(scene, method, best)? else { return Ok(false) };
    let Some(Outcome { report, csv, panel }) = outcome else { return Ok(true) };
    let text = serde_json::to_string_pretty(&report).map_err(|e| Failure::Infra(format!("write the report: {e}")))?;
    let folder = output.at("artifacts");
    let files = [
        ("scores.csv", Bytes::from(csv)),
        ("panel.png", Bytes::from(panel)),
        ("summary.json", Bytes::from(text.clone())),
    ];
    let mut artifacts = Vec::new();
    for (name, bytes) in files {
        runtime.block_on(folder.put(name, bytes))?;
        artifacts.push(folder.url_of(name));
    }
    tracing::info!("scores:\n{}", report.text());
    events.say(&Event::Evaluated { summary: report.summary(), report: text, artifacts });
    Ok(true)
}

/// Rank 0 loads the best checkpoint's weights and gives them to all.
fn load_best(group: &Group, method: &dyn Method, at: &Position, runtime: &Runtime) -> Result<(), Failure> {
    let Some(best) = &at.best else { return Ok(()) };
    if best.step != at.step {
        let mut loading = (group.rank() == 0).then(|| {
            let url = best.url.clone();
            runtime.spawn(async move { morph_checkpoint::load(&url, None).await })
        });
        let mut loaded = None;
        group.wait_for(|| {
            let Some(task) = &mut loading else { return Ok(true) };
            match runtime.block_on(async { tokio::time::timeout(Duration::from_secs(1), task).await }) {
                Err(_) => Ok(false),
                Ok(done) => {
                    loading = None;
                    loaded = Some(done.map_err(|e| Failure::Infra(format!("load the best checkpoint: {e}")))??);
                    Ok(true)
                }
            }
        })?;
        if let Some(snapshot) = &loaded {
            snapshot::load_model(method, snapshot)?;
        }
    }
    let tensors: Vec<Tensor> = method.parameters().into_iter().chain(method.buffers()).map(|(_, t)| t).collect();
    group.broadcast(&tensors)
}

/// Scores all sets: `None` when ordered to stop; `Some(None)` on all ranks but 0.
///
/// # Errors
/// Lost peers, scores that are not numbers.
pub fn score(
    scene: &Scene<'_>,
    method: &dyn Method,
    best: (u64, Option<f64>),
) -> Result<Option<Option<Outcome>>, Failure> {
    let Some(healthy) = rows(scene, method, &scene.test.healthy)? else { return Ok(None) };
    let mut sick = Vec::new();
    for (_, samples) in &scene.test.pathology {
        let Some(rows) = rows(scene, method, samples)? else { return Ok(None) };
        sick.push(rows);
    }
    let residual_scale = residual_scale(scene, method)?;
    if scene.group.rank() != 0 {
        return Ok(Some(None));
    }
    let sets: Vec<(&str, Scored<'_>)> =
        std::iter::once(("healthy", Scored { samples: &scene.test.healthy, rows: &healthy }))
            .chain(
                scene
                    .test
                    .pathology
                    .iter()
                    .zip(&sick)
                    .map(|((name, samples), rows)| (name.as_str(), Scored { samples, rows })),
            )
            .collect();
    let (healthy_ssim, healthy_l1) = report::fidelity(&healthy);
    let report = Report {
        step: best.0,
        val_score: best.1,
        healthy_samples: healthy.len(),
        healthy_ssim,
        healthy_l1,
        pathology: report::pathologies(sets[0].1, sets[1..].iter().copied())?,
        residual_scale,
    };
    let csv = table::csv(sets.iter().map(|(name, s)| (*name, s.samples, s.rows)));
    let mut cases = Vec::new();
    for (name, set) in &sets {
        cases.extend(picture(scene, method, name, *set)?);
    }
    let side = scene.test.healthy.image_size()[0] as usize;
    let panel =
        panel::draw(&cases, side, residual_scale).map_err(|e| Failure::Infra(format!("draw the panel: {e}")))?;
    Ok(Some(Some(Outcome { report, csv, panel })))
}

/// The scores of every image of `samples`, on all ranks; `None` when ordered to stop.
fn rows(scene: &Scene<'_>, method: &dyn Method, samples: &Samples) -> Result<Option<Vec<Row>>, Failure> {
    let mut flat = vec![0.0; samples.len() * COLUMNS];
    let complete = batches(scene, samples, |range, x| {
        let r = method.reconstruct(x, &mut draws(scene, range.clone()))?;
        let scored = table::score(x, &r)?;
        flat[range.start * COLUMNS..range.end * COLUMNS].copy_from_slice(scored.as_flattened());
        Ok(())
    })?;
    if !complete {
        return Ok(None);
    }
    scene.group.sum(&mut flat)?;
    let rows: Vec<Row> = flat.as_chunks().0.to_vec();
    match rows.iter().flatten().find(|v| !v.is_finite()) {
        Some(v) => Err(Failure::User(format!("an image's score is {v}: the network's output is not a number"))),
        None => Ok(Some(rows)),
    }
}

/// Calls `each` for this rank's batches of `samples`; whether it got to the end.
fn batches(
    scene: &Scene<'_>,
    samples: &Samples,
    mut each: impl FnMut(std::ops::Range<usize>, &Tensor) -> Result<(), Failure>,
) -> Result<bool, Failure> {
    let size = scene.experiment.evaluation.batch_size.max(1) as usize;
    let (rank, world) = (scene.group.rank() as usize, scene.group.world() as usize);
    let count = samples.len().div_ceil(size);
    for (i, round) in (0..count).step_by(world).enumerate() {
        if i % ROUNDS == 0 && scene.group.any(scene.orders.stop_requested())? {
            return Ok(false);
        }
        let start = (round + rank) * size;
        if start < samples.len() {
            let range = start..samples.len().min(start + size);
            each(range.clone(), &tensor(samples, range.map(|i| i as u64), scene.place))?;
        }
    }
    Ok(true)
}

/// The random numbers of images `images` of a set, for methods that draw in scoring, too.
fn draws(scene: &Scene<'_>, images: std::ops::Range<usize>) -> Keyed {
    Keyed::new(scene.experiment.trainer.seed, "evaluation", images.map(|i| i as u64))
}

/// The residual below which [`SHARE`] of the validation set's are, priors' and reconstructions' together.
fn residual_scale(scene: &Scene<'_>, method: &dyn Method) -> Result<f64, Failure> {
    let mut histogram = vec![0.0; BINS];
    batches(scene, scene.validation, |range, x| {
        let r = method.reconstruct(x, &mut draws(scene, range))?;
        for y in [&r.prior, &r.reconstruction] {
            for v in values(&(x - y).abs())? {
                histogram[((v * BINS as f64) as usize).min(BINS - 1)] += 1.0;
            }
        }
        Ok(())
    })?;
    scene.group.sum(&mut histogram)?;
    Ok(quantile(&histogram, SHARE))
}

/// The upper edge of the bin in which `share` of all counts is reached.
fn quantile(histogram: &[f64], share: f64) -> f64 {
    let wanted = histogram.iter().sum::<f64>() * share;
    let mut seen = 0.0;
    let bin = histogram.iter().position(|n| {
        seen += n;
        seen >= wanted
    });
    (bin.unwrap_or(0) + 1) as f64 / histogram.len() as f64
}

/// Evenly spaced cases of one set.
fn picture(scene: &Scene<'_>, method: &dyn Method, name: &str, set: Scored<'_>) -> Result<Vec<Case>, Failure> {
    let wanted = (scene.experiment.evaluation.panel_cases as usize).min(set.samples.len());
    let mut cases = Vec::new();
    for i in (0..wanted).map(|i| (2 * i + 1) * set.samples.len() / (2 * wanted)) {
        let x = tensor(set.samples, [i as u64], scene.place);
        let r = method.reconstruct(&x, &mut draws(scene, i..i + 1))?;
        let meta = set.samples.meta(i);
        let plane = |t: &Tensor| Ok::<_, Failure>(values(t)?.into_iter().map(|v| v as f32).collect::<Vec<f32>>());
        let displacement = match &r.deformation {
            Some(field) => Some([plane(&field.select(1, 0))?, plane(&field.select(1, 1))?]),
            None => None,
        };
        cases.push(Case {
            title: format!("{name} {}  |x-x'| {:.4}", meta.id, set.rows[i][table::Column::Residual as usize]),
            input: plane(&x)?,
            prior: plane(&r.prior)?,
            reconstruction: plane(&r.reconstruction)?,
            displacement,
            boxes: meta.boxes,
        });
    }
    Ok(cases)
}

/// Scores the checkpoint at `url` in this process; `dataset` in place of the experiment's.
///
/// # Errors
/// When either cannot be read, or they do not fit.
pub fn checkpoint(url: &str, dataset: Option<&str>, cache: &Path, cache_bytes: u64) -> Result<Outcome, Failure> {
    let runtime = rank::runtime()?;
    let snapshot: Snapshot = runtime.block_on(morph_checkpoint::load(url, None))?;
    let experiment: Experiment = serde_json::from_value(snapshot.state.experiment.clone())
        .map_err(|e| Failure::User(format!("{url}: its experiment cannot be read: {e}")))?;
    rank::set_up(experiment.trainer.threads)?;
    let place = Place { device: crate::device::pick(experiment.trainer.device, 0)?, kind: tch::Kind::Float };
    let location = dataset.unwrap_or(&experiment.dataset.url);
    let expected = dataset.is_none().then_some(snapshot.state.dataset);
    let dataset = runtime.block_on(Dataset::open(location, expected, cache, cache_bytes))?;
    let sets = runtime.block_on(dataset.sets(&experiment))?;
    let net = rank::build(&experiment, place, &runtime)?;
    snapshot::load_model(net.method.as_ref(), &snapshot)?;
    let (group, orders) = (Group::solo(), Orders::default());
    let scene = Scene {
        experiment: &experiment,
        test: &sets.test,
        validation: &sets.validation,
        group: &group,
        place,
        orders: &orders,
    };
    let val_score = snapshot.state.best.as_ref().filter(|b| b.step == snapshot.state.step).map(|b| b.score);
    score(&scene, net.method.as_ref(), (snapshot.state.step, val_score))?
        .flatten()
        .ok_or_else(|| Failure::Infra("the evaluation was stopped".into()))
}

#[cfg(test)]
mod tests {
    use super::quantile;

    #[test]
    fn a_quantile_is_the_edge_of_its_bin() {
        let mut histogram = vec![0.0; 10];
        histogram[0] = 99.0;
        histogram[7] = 1.0;
        assert_eq!(quantile(&histogram, 0.5), 0.1);
        assert_eq!(quantile(&histogram, 0.995), 0.8);
        assert_eq!(quantile(&[0.0; 4], 0.5), 0.25);
    }
}
