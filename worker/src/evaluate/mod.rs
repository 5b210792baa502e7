//! Scores a trained network: every image of every set, healthy against each pathology, with baselines that see no pathology at
//! all. docs/scores.md says what each number means.
//!
//! Contract:
//! 1. Scores do not depend on the number of ranks, bit for bit: images are computed in fixed batches, and what is added
//!    over ranks is a number and zeros, or counts.
//! 2. Nothing is chosen by looking at the test set: thresholds and scales are the healthy validation images', the panel's cases
//!    evenly spaced.
//! 3. Everything but localisation and FID follows from the table of cases; rank 0 computes it.

pub mod checkpoint;
mod gather;
pub mod heatmaps;
pub mod inputs;
pub mod leakage;
mod likeness;
pub mod measure;
pub mod panel;
pub mod parquet;
mod passes;
mod similarity;
pub mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

pub use similarity::{Similarity, inception};

use bytes::Bytes;
use morph_data::{
    Samples,
    duplicates::{Known, Same},
};
use morph_model::{Method, inception::Inception};
use morph_objects::Objects;
use morph_scores::{
    Found, Plan,
    cases::{Cases, Role},
    evaluation::{self, Design, Evaluation, Evidence, Input, Leakage, Localisation, Pair, Scored, VALIDATION_SET},
};
use morph_spec::Experiment;
use tch::Tensor;
use tokio::runtime::Runtime;

use crate::{
    evaluate::{
        measure::{Row, SIGMA},
        panel::Case,
        passes::{Pass, boxes, draws, measure_set, validate},
        table::Measured,
    },
    rank::{
        events::Events,
        failure::Failure,
        group::{Group, Place},
        images::{TestSamples, TestSets, tensor, values},
        orders::Orders,
        progress::Position,
        snapshot,
    },
    wire::Event,
};

/// What is scored, by whom.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// The experiment.
    pub experiment: &'a Experiment,
    /// The sets that are scored.
    pub test: &'a TestSets,
    /// The set that gives thresholds and scales.
    pub validation: &'a Samples,
    /// What test images share with training, if somebody looked.
    pub leakage: Option<&'a Leakage>,
    /// By what images are compared as people see them, if anybody asked for that.
    pub lpips: Option<&'a Similarity>,
    /// By what sets of images are compared, if anybody asked for that.
    pub fid: Option<&'a Inception>,
    /// Files of weights that the numbers depend on, for the record.
    pub inputs: &'a [Input],
    /// The ranks.
    pub group: &'a Group,
    /// Where tensors live.
    pub place: Place,
    /// Orders.
    pub orders: &'a Orders,
    /// For what is fetched meanwhile.
    pub runtime: &'a Runtime,
}

/// The scores and the files of an evaluation.
#[derive(Debug)]
pub struct Outcome {
    /// What was found.
    pub evaluation: Evaluation,
    /// Every image's numbers.
    pub cases: Cases,
    /// The picture of some cases.
    pub panel: Vec<u8>,
}

impl Outcome {
    /// The artifacts: name and bytes.
    ///
    /// # Errors
    /// When the table is too large for Parquet.
    pub fn files(&self) -> Result<[(&'static str, Bytes); 4], Failure> {
        let table = parquet::write(&self.cases).map_err(|e| Failure::Infra(format!("write cases.parquet: {e}")))?;
        Ok([
            ("cases.csv", Bytes::from(self.cases.to_csv())),
            ("cases.parquet", Bytes::from(table)),
            ("panel.png", Bytes::from(self.panel.clone())),
            // Last: whoever sees it sees all.
            ("evaluation.json", Bytes::from(self.evaluation.to_json())),
        ])
    }
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
    events: &Arc<Events>,
) -> Result<bool, Failure> {
    load_best(scene.group, method, at, scene.runtime)?;
    let best = at.best.as_ref();
    let model = Scored {
        checkpoint: best.map(|b| b.url.clone()).filter(|url| !url.is_empty()),
        step: best.map_or(at.step, |b| b.step),
        validation_score: best.map(|b| b.score),
        ..described(scene.experiment)
    };
    let Some(outcome) = score(scene, method, model)? else { return Ok(false) };
    let Some(outcome) = outcome else { return Ok(true) };
    let folder = output.at("artifacts");
    let mut artifacts = Vec::new();
    for (name, bytes) in outcome.files()? {
        scene.runtime.block_on(folder.put(name, bytes))?;
        artifacts.push(folder.url_of(name));
    }
    let evaluation = &outcome.evaluation;
    tracing::info!("scores:\n{}", evaluation.text());
    events.say(&Event::Evaluated { summary: evaluation.summary(), report: evaluation.to_json(), artifacts });
    Ok(true)
}

/// Every file of weights that an evaluation depends on: those of training, then those that only scoring needs.
pub fn weights(training: &[Input], lpips: Option<&Similarity>, fid: Option<&(Inception, Input)>) -> Vec<Input> {
    let lpips = lpips.map_or(&[][..], |l| &l.inputs);
    training.iter().chain(lpips).chain(fid.map(|(_, input)| input)).cloned().collect()
}

/// What an experiment says of the network that it trains.
pub fn described(experiment: &Experiment) -> Scored {
    Scored {
        experiment: experiment.name.clone(),
        method: experiment.model.method.name().to_owned(),
        seed: experiment.trainer.seed,
        ..Scored::default()
    }
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
/// Lost peers, and images whose scores are not numbers: they are named.
pub fn score(scene: &Scene<'_>, method: &dyn Method, model: Scored) -> Result<Option<Option<Outcome>>, Failure> {
    let places = places(scene.test);
    let Some(validated) = validate(scene, method, !places.is_empty())? else { return Ok(None) };
    let mut passes = Vec::new();
    for set in &scene.test.sets {
        let threshold = places.contains(set.name.as_str()).then_some(validated.regions);
        let Some(pass) = measure_set(scene, method, set, threshold)? else { return Ok(None) };
        passes.push(pass);
    }
    if scene.group.rank() != 0 {
        return Ok(Some(None));
    }
    let own = &scene.test.datasets[0];
    let mut measured = vec![Measured {
        name: VALIDATION_SET,
        role: Role::Validation,
        dataset: &own.name,
        persons_known: own.persons_known,
        samples: scene.validation,
        rows: &validated.rows,
    }];
    measured.extend(scene.test.sets.iter().zip(&passes).map(|(set, pass)| {
        let dataset = &scene.test.datasets[set.dataset];
        Measured {
            name: &set.name,
            role: if set.sick { Role::Pathology } else { Role::Healthy },
            dataset: &dataset.name,
            persons_known: dataset.persons_known,
            samples: &set.samples,
            rows: &pass.rows,
        }
    }));
    let settings = &scene.experiment.evaluation;
    let cases = evaluation::p_values(&table::cases(&measured)?, settings.score.name())?;
    let mut evaluation = Evaluation {
        model,
        datasets: scene.test.datasets.clone(),
        inputs: scene.inputs.to_vec(),
        residual_scale: Some(validated.scale),
        leakage: scene.leakage.cloned(),
        ..evaluation::evaluate(&cases, &design(scene))?
    };
    for (name, [healthy, sick]) in &scene.test.comparisons {
        let place = localise(scene, &passes, healthy, sick, validated.regions)?;
        if let Some(comparison) = evaluation.comparisons.get_mut(name) {
            comparison.localisation = place;
        }
    }
    if !likeness::fill(scene, &passes, &mut evaluation)? {
        return Ok(None);
    }
    evaluation.notes.extend(notes(scene, &cases));
    if let Some(url) = &settings.truth {
        let mut files = validated.truth;
        passes.iter().for_each(|pass| files.merge(&pass.truth));
        evaluation.inputs.push(files.input("evaluation.truth", url));
    }
    let mut pictured = Vec::new();
    for (set, pass) in scene.test.sets.iter().zip(&passes).filter(|(set, _)| !scene.test.calibrates(set)) {
        pictured.extend(picture(scene, method, set, &pass.rows)?);
    }
    let side = scene.validation.image_size()[0] as usize;
    let panel = panel::draw(&pictured, side).map_err(|e| Failure::Infra(format!("draw the panel: {e}")))?;
    Ok(Some(Some(Outcome { evaluation, cases, panel })))
}

fn design(scene: &Scene<'_>) -> Design {
    let settings = &scene.experiment.evaluation;
    let pair = |[healthy, pathology]: &[String; 2]| Pair { healthy: healthy.clone(), pathology: pathology.clone() };
    Design {
        score: settings.score.name().to_owned(),
        specificity: settings.specificity,
        bootstrap: Plan { resamples: settings.resamples, ..Plan::default() },
        comparisons: scene.test.comparisons.iter().map(|(name, sets)| (name.clone(), pair(sets))).collect(),
        prevalences: settings.prevalences.clone(),
        calibration: scene.test.calibration.as_ref().map(pair),
    }
}

/// The names of the sets in which findings are looked for: pathologies with boxes, and the healthy sets beside them.
fn places(test: &TestSets) -> BTreeSet<&str> {
    let boxed = |name: &str| {
        let set = test.sets.iter().find(|s| s.name == name);
        set.is_some_and(|s| (0..s.samples.len()).any(|i| !boxes(&s.samples, i).is_empty()))
    };
    let with = test.comparisons.values().filter(|[_, sick]| boxed(sick));
    with.flat_map(|[healthy, sick]| [healthy.as_str(), sick.as_str()]).collect()
}

/// Where the findings of one comparison are; `None` where no image has boxes.
fn localise(
    scene: &Scene<'_>,
    passes: &[Pass],
    healthy: &str,
    sick: &str,
    threshold: f64,
) -> Result<Option<Localisation>, Failure> {
    let of = |name: &str| scene.test.sets.iter().zip(passes).find(|(s, _)| s.name == name);
    let Some(((_, no_finding), (sick, finding))) = of(healthy).zip(of(sick)) else { return Ok(None) };
    let (mut found, mut patients) = (Vec::new(), Vec::new());
    for (i, regions) in finding.regions.iter().enumerate() {
        let truth = boxes(&sick.samples, i);
        if !truth.is_empty() {
            found.push(Found::new(regions, &truth));
            patients.push(sick.samples.meta(i).patient);
        }
    }
    if found.is_empty() {
        return Ok(None);
    }
    let numbers: BTreeMap<String, u64> = patients.iter().cloned().zip(0..).collect();
    let known = scene.test.datasets[sick.dataset].persons_known;
    let persons: Option<Vec<u64>> = known.then(|| patients.iter().map(|p| numbers[p]).collect());
    let false_alarms: Vec<Found> = no_finding.regions.iter().map(|r| Found::new(r, &[])).collect();
    let evidence = Evidence {
        pixels: &finding.pixels,
        sick: &found,
        persons: persons.as_deref(),
        healthy: &false_alarms,
        region_threshold: threshold,
        sigma: SIGMA,
    };
    Ok(Some(Localisation::of(&evidence, design(scene).bootstrap)?))
}

/// What a reader must know of the datasets.
fn notes(scene: &Scene<'_>, cases: &Cases) -> Vec<String> {
    let mut notes = Vec::new();
    for dataset in scene.test.datasets.iter().filter(|d| d.synthetic) {
        notes.push(format!("{} holds phantoms: these numbers say nothing about patients", dataset.name));
    }
    notes.extend(scene.test.comparisons.iter().filter_map(|(name, sets)| on_both_sides(scene.test, name, sets)));
    let first = scene.test.datasets.first();
    notes.extend(scene.test.datasets.iter().filter_map(|d| d.remark(first?)));
    if let Some(url) = &scene.experiment.evaluation.truth {
        let any = ["twin_l1", "l1_masked"].iter().any(|name| cases.column(name).is_some());
        if !any {
            notes.push(format!("nothing is known of any image in evaluation.truth, {url}"));
        }
    }
    notes
}

/// That comparison `name` has images that are healthy and sick, if it has: then its labels, or the dataset's, are wrong.
pub fn on_both_sides(test: &TestSets, name: &str, [healthy, sick]: &[String; 2]) -> Option<String> {
    let of = |name: &str| test.sets.iter().find(|set| set.name == name).map(|set| &set.samples);
    let (healthy, sick) = of(healthy).zip(of(sick))?;
    let alike = Known::new(healthy).find(sick);
    let mut same = alike.iter().filter(|d| !matches!(d.same, Same::Nearly(_))).peekable();
    let first = same.peek()?;
    let (one, other) = (healthy.meta(first.known).id, sick.meta(first.image).id);
    Some(format!(
        "{name}: {} images are in the healthy and in the pathological set, by their pixels ({one} is {other}): one of two labels is wrong",
        same.count()
    ))
}

/// Evenly spaced cases of one set.
fn picture(scene: &Scene<'_>, method: &dyn Method, set: &TestSamples, rows: &[Row]) -> Result<Vec<Case>, Failure> {
    let wanted = (scene.experiment.evaluation.panel_cases as usize).min(set.samples.len());
    let mut cases = Vec::new();
    for i in (0..wanted).map(|i| (2 * i + 1) * set.samples.len() / (2 * wanted)) {
        let x = tensor(&set.samples, [i as u64], scene.place);
        let r = method.reconstruct(&x, &mut draws(scene, i..i + 1))?;
        let meta = set.samples.meta(i);
        let plane = |t: &Tensor| Ok::<_, Failure>(values(t)?.into_iter().map(|v| v as f32).collect::<Vec<f32>>());
        let displacement = match &r.displacement {
            Some(field) => Some([plane(&field.select(1, 0))?, plane(&field.select(1, 1))?]),
            None => None,
        };
        // The first column is the paper's score.
        let l1 = rows[i][0].unwrap_or_default();
        cases.push(Case {
            title: format!("{} {}  |x-x'| {l1:.4}", set.name, meta.id),
            input: plane(&x)?,
            prior: plane(&r.prior)?,
            reconstruction: plane(&r.reconstruction)?,
            displacement,
            boxes: meta.boxes,
        });
    }
    Ok(cases)
}
