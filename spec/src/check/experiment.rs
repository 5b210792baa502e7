//! Checks of an experiment, and experiments with other values filled in.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Checks, FieldProblem, method};
use crate::{
    Experiment,
    evaluation::Lpips,
    experiment::{Argument, Comparison, Device, Part, Precision, Residency, ScheduleName, Trainer},
    load,
    nearest::nearest,
    scheduling::HIGHEST_PRIORITY,
};

/// The names under which other metrics are recorded and other sets are kept, which no comparison may have.
const RESERVED: [&str; 7] = ["calibration", "healthy", "mean", "perf", "train", "val", "validation"];

impl Experiment {
    /// Looks at bounds, and at fields that must agree with each other.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn validate(&self) -> Result<(), Vec<FieldProblem>> {
        let mut c = Checks::default();
        c.name(&self.name, "name");
        c.not_empty(&self.dataset.url, "dataset.url", "the folder that `morphctl data prepare` has written");
        c.split(&self.dataset.train.split, "dataset.train.split");
        c.split(&self.dataset.validation.split, "dataset.validation.split");
        c.that(
            !self.dataset.validation.may_share(&self.dataset.train),
            "dataset.validation",
            "samples that are trained on are among these, and by them checkpoints and thresholds are chosen",
            "validate on `val`",
        );
        method::check(&mut c, self);
        trainer(&mut c, &self.trainer);
        weights(&mut c, self);
        locations(&mut c, self);
        evaluation(&mut c, self);
        scheduling(&mut c, self);
        c.done()
    }

    /// This experiment with other values: dotted field → value. The result is validated.
    ///
    /// # Errors
    /// The field that does not exist, does not take its value, or no longer fits the others.
    pub fn with(&self, params: &BTreeMap<String, Value>) -> Result<Self, String> {
        let changed = self.filled(params).map_err(|p| p.to_string())?;
        let all = |problems: Vec<FieldProblem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        changed.validate().map_err(all)?;
        Ok(changed)
    }

    /// [`Experiment::with`] without looking at the whole.
    pub(crate) fn filled(&self, params: &BTreeMap<String, Value>) -> Result<Self, FieldProblem> {
        let wrong = |field: &str, message: String, help: Option<String>| FieldProblem {
            field: field.to_owned(),
            message,
            help,
        };
        let mut tree = as_json(self);
        for (name, value) in params {
            let unknown = || {
                let known = fields(self);
                let help = nearest(name, known.iter().map(String::as_str)).map(|k| format!("did you mean `{k}`?"));
                wrong(name, "the experiment has no such field".to_owned(), help)
            };
            if name == "kind" {
                return Err(wrong(name, "it cannot be varied".to_owned(), None));
            }
            let mut at = &mut tree;
            for part in name.split('.') {
                at = match at {
                    Value::Object(entries) => entries.get_mut(part),
                    Value::Array(items) => part.parse::<usize>().ok().and_then(|i| items.get_mut(i)),
                    _ => None,
                }
                .ok_or_else(unknown)?;
            }
            *at = value.clone();
        }
        load::from_json(&tree)
    }
}

fn as_json(experiment: &Experiment) -> Value {
    serde_json::to_value(experiment).expect("invariant: an experiment has text keys only and is JSON")
}

/// All dotted fields of an experiment, branches and leaves.
pub(crate) fn fields(experiment: &Experiment) -> Vec<String> {
    fn collect(value: &Value, prefix: &str, out: &mut Vec<String>) {
        let Value::Object(entries) = value else { return };
        for (key, value) in entries {
            let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            collect(value, &name, out);
            out.push(name);
        }
    }
    let mut out = Vec::new();
    collect(&as_json(experiment), "", &mut out);
    out.retain(|f| f != "kind");
    out
}

/// The experiment that says nothing: for the names of its fields.
pub(crate) fn blank() -> Experiment {
    serde_json::from_value(
        json!({"kind": "experiment", "name": "x", "dataset": {"url": "x"}, "model": {"method": "morphaeus"}}),
    )
    .expect("invariant: everything else has a default")
}

fn scheduling(c: &mut Checks, e: &Experiment) {
    let s = &e.scheduling;
    c.name(&s.project, "scheduling.project");
    c.that(
        (-HIGHEST_PRIORITY..=HIGHEST_PRIORITY).contains(&s.priority),
        "scheduling.priority",
        format!("{} is out of bounds", s.priority),
        &format!("from -{HIGHEST_PRIORITY} to {HIGHEST_PRIORITY}"),
    );
    c.that(
        s.slot_share > 0.0 && s.slot_share <= 1.0,
        "scheduling.slot_share",
        format!("{} is no part of a slot", s.slot_share),
        "above 0, up to 1",
    );
    c.that(
        s.min_world_size <= e.trainer.world_size,
        "scheduling.min_world_size",
        format!("{} is more than trainer.world_size, which is {}", s.min_world_size, e.trainer.world_size),
        "",
    );
    for (label, value) in &s.nodes {
        let field = format!("scheduling.nodes.{label}");
        c.not_empty(label, &field, "a label of nodes");
        c.not_empty(value, &field, "the label's value");
    }
    for (i, name) in s.after.iter().enumerate() {
        c.not_empty(name, &format!("scheduling.after.{i}"), "name or id of a run or sweep");
    }
}

fn trainer(c: &mut Checks, t: &Trainer) {
    c.at_least(1, t.batch_size.into(), "trainer.batch_size");
    c.at_most(65_536, t.batch_size.into(), "trainer.batch_size");
    c.at_least(1, t.world_size.into(), "trainer.world_size");
    c.at_least(1, t.threads.into(), "trainer.threads");
    c.at_most(1024, t.threads.into(), "trainer.threads");
    c.at_least(1, t.collective_timeout_s.into(), "trainer.collective_timeout_s");
    c.that(
        t.device != Device::Cpu || t.precision == Precision::Float32,
        "trainer.precision",
        "a CPU has no TF32".to_owned(),
        "float32, or trainer.device auto or cuda",
    );
    if t.batch_size > 0 {
        c.that(
            t.batch_size >= t.world_size,
            "trainer.world_size",
            format!("{} ranks share a batch of {}: some would have no image", t.world_size, t.batch_size),
            "trainer.batch_size counts the images of all ranks together; it must be at least trainer.world_size",
        );
    }
    let o = &t.optimizer;
    c.positive(o.lr, "trainer.optimizer.lr");
    for (i, beta) in o.betas.iter().enumerate() {
        let ok = (0.0..1.0).contains(beta);
        c.that(ok, &format!("trainer.optimizer.betas.{i}"), format!("{beta} must be 0 or more and below 1"), "");
    }
    c.not_negative(o.eps, "trainer.optimizer.eps");
    c.not_negative(o.weight_decay, "trainer.optimizer.weight_decay");
    augment(c, t);
    schedule(c, t);
    c.not_negative(t.early_stopping.min_delta, "trainer.early_stopping.min_delta");
    c.that(
        t.checkpoint.keep_last >= 1,
        "trainer.checkpoint.keep_last",
        "0 keeps nothing to go on from",
        "keep 1 or more; the best is kept besides",
    );
}

/// What is submitted is recorded, and shown to all who may read.
fn locations(c: &mut Checks, e: &Experiment) {
    for place in e.clone().places() {
        let rest = place.location.split_once("://").map_or("", |(_, rest)| rest);
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        c.that(
            !host.contains('@'),
            &place.field,
            "its URL names a user, or a password, and would be recorded and shown",
            "leave that out; credentials of object storage come from the environment of those who read (docs/streaming.md)",
        );
    }
}

fn augment(c: &mut Checks, t: &Trainer) {
    let a = &t.augment;
    // Beyond these nothing is left of an image, or nothing more is gained.
    for (name, amount, most) in [
        ("flip", a.flip, 1.0),
        ("rotate", a.rotate, 180.0),
        ("translate", a.translate, 0.5),
        ("scale", a.scale, 0.5),
        ("gamma", a.gamma, 4.0),
        ("contrast", a.contrast, 1.0),
        ("brightness", a.brightness, 1.0),
        ("noise", a.noise, 1.0),
    ] {
        c.that(
            (0.0..=most).contains(&amount),
            &format!("trainer.augment.{name}"),
            format!("{amount} is out of bounds"),
            &format!("from 0, which is none, to {most}"),
        );
    }
    c.that(
        a.is_none() || t.residency != Residency::Device,
        "trainer.residency",
        "images are varied before they go to the device (trainer.augment)",
        "take auto, mmap or ram",
    );
}

/// What needs weights to begin with.
fn weights(c: &mut Checks, e: &Experiment) {
    let (given, t) = (e.model.weights.as_deref(), &e.trainer);
    if let Some(location) = given {
        c.not_empty(location, "model.weights", "URL or path of a weights file");
    }
    c.that(
        t.epochs > 0 || given.is_some(),
        "trainer.epochs",
        "0 is too small: it must be 1 or more",
        "0 scores model.weights as they are, but there are none",
    );
    c.that(
        !t.resume || given.is_some(),
        "trainer.resume",
        "there is nothing to resume",
        "model.weights names the file that holds the optimizers' state",
    );
    c.that(
        !t.resume || t.epochs > 0,
        "trainer.resume",
        "no epoch is to be trained",
        "leave it out, or set trainer.epochs to how many there shall have been at the end",
    );
}

fn schedule(c: &mut Checks, t: &Trainer) {
    let s = &t.schedule;
    c.positive(s.factor, "trainer.schedule.factor");
    c.that(s.factor <= 1.0, "trainer.schedule.factor", format!("{} makes the rate grow", s.factor), "1 or less");
    c.that(
        (0.0..1.0).contains(&s.threshold),
        "trainer.schedule.threshold",
        format!("{} must be 0 or more and below 1", s.threshold),
        "torch's is 1e-4",
    );
    c.at_least(1, s.epochs.into(), "trainer.schedule.epochs");
    c.not_negative(s.min_lr, "trainer.schedule.min_lr");
    c.that(
        s.min_lr == 0.0 || s.min_lr <= t.optimizer.lr,
        "trainer.schedule.min_lr",
        format!("{} is above trainer.optimizer.lr, which is {}", s.min_lr, t.optimizer.lr),
        "",
    );
    let steps = s.name == ScheduleName::MultiStep;
    c.that(
        !steps || !s.milestones.is_empty(),
        "trainer.schedule.milestones",
        "a multi-step schedule without milestones is none",
        "name the epochs that begin with a lower rate: [350]",
    );
    c.that(
        s.milestones.windows(2).all(|pair| pair[0] < pair[1]),
        "trainer.schedule.milestones",
        "they are not in rising order",
        "",
    );
    c.that(
        s.argument == Argument::Epoch || steps || s.name == ScheduleName::Cosine,
        "trainer.schedule.argument",
        "only cosine and multi-step take a number of the epoch",
        "leave it out",
    );
}

/// What to do where a sample would be healthy and sick.
const APART: &str = "name the pathology's labels, all of them, and none of the healthy set's";

fn evaluation(c: &mut Checks, e: &Experiment) {
    let v = &e.evaluation;
    c.split(&v.healthy.split, "evaluation.healthy.split");
    c.that(
        v.healthy.split != e.dataset.train.split || v.healthy.split != "train",
        "evaluation.healthy.split",
        "the network is trained on these images: a score on them says nothing",
        "evaluate on `test`",
    );
    for (name, subset) in &v.pathology {
        let field = format!("evaluation.pathology.{name}");
        c.split(&subset.split, &format!("{field}.split"));
        comparison_name(c, name, &field);
        c.that(!subset.may_share(&v.healthy), &field, "samples of evaluation.healthy are among these", APART);
    }
    for (name, comparison) in &v.comparisons {
        let field = format!("evaluation.comparisons.{name}");
        comparison_name(c, name, &field);
        c.that(
            !v.pathology.contains_key(name),
            &field,
            "evaluation.pathology has a comparison of this name",
            "call one of them something else",
        );
        comparison_parts(c, e, comparison, &field);
    }
    c.that(
        v.specificity > 0.0 && v.specificity < 1.0,
        "evaluation.specificity",
        format!("{} is no share of healthy images that a threshold can spare", v.specificity),
        "above 0 and below 1; 0.95 is usual",
    );
    for (i, prevalence) in v.prevalences.iter().enumerate() {
        c.that(
            *prevalence > 0.0 && *prevalence < 1.0,
            &format!("evaluation.prevalences.{i}"),
            format!("{prevalence} is no share of sick images"),
            "above 0 and below 1",
        );
    }
    if let Some(calibration) = &v.calibration {
        comparison_parts(c, e, calibration, "evaluation.calibration");
        let plan = v.plan();
        let tested = |name: &String| plan.comparisons.values().flatten().any(|set| set == name);
        c.that(
            !plan.calibration.iter().flatten().any(tested),
            "evaluation.calibration",
            "these are images of a test set, too",
            "take labelled images of another split or dataset: what is fitted to a test set flatters it",
        );
    }
    c.at_least(100, v.resamples.into(), "evaluation.resamples");
    c.at_most(1_000_000, v.resamples.into(), "evaluation.resamples");
    c.that(
        !v.score.is_masked() || v.truth.is_some(),
        "evaluation.score",
        format!("{} looks within a mask, and there is none", v.score.name()),
        "name the folder that holds masks/: `evaluation.truth`",
    );
    if let Some(truth) = &v.truth {
        c.not_empty(truth, "evaluation.truth", "a folder with twins/, lesions/ or masks/; or leave it out");
    }
    if let Some(lpips) = &v.lpips {
        c.that(
            !lpips.weights.is_empty(),
            "evaluation.lpips.weights",
            "it names no file",
            "name the state dict of the package lpips, or torchvision's AlexNet and the package's alex.pth",
        );
        for (i, file) in lpips.weights.iter().enumerate() {
            c.not_empty(file, &format!("evaluation.lpips.weights.{i}"), "a file of weights");
        }
        c.that(
            e.model.image_size >= Lpips::LEAST_SIDE,
            "evaluation.lpips",
            format!("images of {} pixels a side are too small for AlexNet", e.model.image_size),
            &format!("a model.image_size of at least {}, or leave it out", Lpips::LEAST_SIDE),
        );
    }
    if let Some(fid) = &v.fid {
        c.not_empty(&fid.weights, "evaluation.fid.weights", "InceptionV3's state dict, of pytorch-fid or torchvision");
    }
    c.at_least(1, v.batch_size.into(), "evaluation.batch_size");
    c.at_most(65_536, v.batch_size.into(), "evaluation.batch_size");
    c.at_most(64, v.panel_cases.into(), "evaluation.panel_cases");
}

fn comparison_name(c: &mut Checks, name: &str, field: &str) {
    c.name(name, field);
    c.that(
        !RESERVED.contains(&name),
        field,
        format!("{name:?} is taken: metrics or sets of another kind are called so"),
        "call the comparison something else",
    );
}

fn comparison_parts(c: &mut Checks, e: &Experiment, comparison: &Comparison, field: &str) {
    let own = |part: &Part| part.dataset.is_none() && comparison.dataset.is_none();
    let dataset = std::iter::once((&comparison.dataset, format!("{field}.dataset")));
    let parts = [("healthy", &comparison.healthy), ("pathology", &comparison.pathology)];
    let datasets = dataset.chain(parts.map(|(name, part)| (&part.dataset, format!("{field}.{name}.dataset"))));
    for (url, at) in datasets {
        if let Some(url) = url {
            c.not_empty(url, &at, "the folder that `morphctl data prepare` has written; or leave it out");
        }
    }
    for (name, part) in parts {
        c.split(&part.split, &format!("{field}.{name}.split"));
    }
    c.that(
        !own(&comparison.healthy) || comparison.healthy.split != e.dataset.train.split,
        &format!("{field}.healthy.split"),
        "the network is trained on these images: a score on them says nothing",
        "evaluate on `test`",
    );
    let lies = |part: &Part| part.dataset.clone().or_else(|| comparison.dataset.clone());
    let [healthy, sick] = [&comparison.healthy, &comparison.pathology];
    c.that(
        lies(healthy) != lies(sick) || !sick.subset().may_share(&healthy.subset()),
        &format!("{field}.pathology"),
        "samples of the healthy set are among these",
        APART,
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(params: Value) -> Result<Experiment, String> {
        blank().with(&serde_json::from_value(params).unwrap())
    }

    fn comparison(name: &str, healthy: &Value, pathology: &Value) -> Value {
        json!({"evaluation.comparisons": {name: {"healthy": healthy, "pathology": pathology}}})
    }

    #[test]
    fn other_datasets_may_be_scored_whole() {
        let train = json!({"split": "train", "dataset": "/other"});
        with(comparison("a", &train, &json!({"split": "test", "dataset": "/third"}))).unwrap();
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(blank().validate(), Ok(()));
        assert_eq!(with(json!({})).unwrap(), blank());
    }

    #[test]
    fn fields_are_replaced() {
        let e =
            with(json!({"trainer.optimizer.lr": 1, "model.channels": [8, 8, 16], "model.refine_levels": 2})).unwrap();
        assert_eq!((e.trainer.optimizer.lr, e.model.channels), (1.0, vec![8, 8, 16]));
        assert_eq!(with(json!({"trainer.optimizer.betas.0": 0.5})).unwrap().trainer.optimizer.betas, [0.5, 0.999]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (params, wanted) in [
            (json!({"trainer.optimiser.lr": 1}), "did you mean `trainer.optimizer.lr`"),
            (json!({"trainer.seed": "x"}), "trainer.seed: "),
            (json!({"trainer.epochs": 1.5}), "whole number"),
            (json!({"trainer.epochs": 0}), "model.weights as they are, but there are none"),
            (json!({"trainer.resume": true}), "nothing to resume"),
            (json!({"trainer.resume": true, "model.weights": "a.pt", "trainer.epochs": 0}), "no epoch"),
            (json!({"model.weights": " "}), "model.weights: it is empty"),
            (json!({"kind": "sweep"}), "kind"),
            (json!({"model.image_size": 100}), "multiple of 128"),
            (json!({"model.kernel_size": 4}), "odd"),
            (json!({"model.refine_levels": 7}), "model.refine_levels"),
            (json!({"trainer.world_size": 65}), "trainer.world_size"),
            (json!({"trainer.optimizer.lr": 0}), "above 0"),
            (json!({"trainer.optimizer.betas": [0.9, 1.0]}), "trainer.optimizer.betas.1"),
            (json!({"trainer.loss.perceptual.weight": 0.05}), "trainer.loss.perceptual.weights"),
            (json!({"trainer.checkpoint.keep_last": 0}), "keep_last"),
            (json!({"trainer.batch_size": 1}), "single value"),
            (json!({"trainer.batch_size": 2, "trainer.world_size": 2, "model.sync": false}), "model.sync"),
            (json!({"evaluation.healthy.split": "tset"}), "did you mean `test`"),
            (json!({"evaluation.healthy.split": "train"}), "trained on"),
            (json!({"evaluation.pathology": {"val": {"split": "test"}}}), "taken"),
            (json!({"evaluation.pathology": {"mean": {"split": "test"}}}), "taken"),
            (json!({"evaluation.specificity": 95}), "evaluation.specificity"),
            (json!({"evaluation.resamples": 5}), "evaluation.resamples"),
            (json!({"evaluation.prevalences": [0.1, 1.0]}), "evaluation.prevalences.1"),
            (json!({"evaluation.pathology": {"calibration": {"split": "test"}}}), "taken"),
            (
                json!({"evaluation.calibration": {
                    "healthy": {"split": "test", "labels": ["Normal"]}, "pathology": {"split": "val", "labels": ["Lung Opacity"]},
                }}),
                "images of a test set, too",
            ),
            (json!({"evaluation.score": "top5_masked"}), "evaluation.truth"),
            (json!({"evaluation.score": "l2"}), "evaluation.score"),
            (json!({"evaluation.lpips": {"weights": []}}), "evaluation.lpips.weights: it names no file"),
            (json!({"evaluation.lpips": {"weights": ["a", ""]}}), "evaluation.lpips.weights.1: it is empty"),
            (json!({"evaluation.lpips": {"weights": ["a"]}, "model.image_size": 16}), "too small for AlexNet"),
            (json!({"evaluation.fid": {"weights": " "}}), "evaluation.fid.weights: it is empty"),
            (json!({"evaluation.truth": " "}), "evaluation.truth: it is empty"),
            (comparison("a", &json!({"split": "tset"}), &json!({"split": "test"})), "did you mean `test`"),
            (comparison("a", &json!({"split": "train"}), &json!({"split": "test"})), "trained on"),
            (comparison("a", &json!({"split": "test"}), &json!({"split": "test"})), "of the healthy set are among"),
            (
                comparison(
                    "a",
                    &json!({"split": "val", "labels": ["A", "B"]}),
                    &json!({"split": "val", "labels": ["B"]}),
                ),
                "of the healthy set are among",
            ),
            (json!({"evaluation.pathology": {"abnormal": {"split": "test"}}}), "of evaluation.healthy are among"),
            (
                json!({"evaluation.pathology": {"abnormal": {"split": "test", "labels": ["Lung Opacity", "Normal"]}}}),
                "of evaluation.healthy are among",
            ),
            (json!({"evaluation.healthy.labels": []}), "of evaluation.healthy are among"),
            (json!({"dataset.validation.split": "train"}), "dataset.validation: samples that are trained on"),
            (
                comparison("opacity", &json!({"split": "val"}), &json!({"split": "test"})),
                "has a comparison of this name",
            ),
            (comparison("healthy", &json!({"split": "val"}), &json!({"split": "test"})), "taken"),
            (
                comparison("a", &json!({"split": "test", "dataset": ""}), &json!({"split": "test"})),
                "evaluation.comparisons.a.healthy.dataset: it is empty",
            ),
            (json!({"name": "a/b"}), "no name"),
            (json!({"trainer.schedule.name": "multi-step"}), "milestones"),
            (json!({"trainer.schedule.name": "multistep"}), "trainer.schedule.name"),
            (json!({"trainer.schedule.milestones": [9, 3]}), "rising"),
            (json!({"trainer.schedule.factor": 2}), "grow"),
            (json!({"trainer.schedule.min_lr": 1}), "trainer.optimizer.lr"),
            (json!({"trainer.schedule.argument": "score"}), "cosine"),
            (json!({"dataset.url": "https://me:word@host/x"}), "dataset.url: its URL names a user"),
            (json!({"evaluation.truth": "http://me@host"}), "evaluation.truth: its URL"),
            (json!({"trainer.augment.flip": 1.5}), "trainer.augment.flip: 1.5 is out of bounds"),
            (json!({"trainer.augment.rotate": -1}), "trainer.augment.rotate"),
            (json!({"trainer.augment.blur": 1}), "no such field"),
            (json!({"trainer.augment.noise": 0.1, "trainer.residency": "device"}), "trainer.residency"),
            (json!({"trainer.device": "cpu", "trainer.precision": "tf32"}), "trainer.precision"),
        ] {
            let text = with(params.clone()).unwrap_err();
            assert!(text.contains(wanted), "{params}: {text}");
        }
    }

    #[test]
    fn every_place_is_listed_and_can_be_moved() {
        let mut e = with(json!({
            "dataset.url": "there/a", "model.weights": "there/b", "evaluation.truth": "there/c",
            "evaluation.comparisons": {"other": {
                "dataset": "there/d",
                "healthy": {"dataset": "there/e", "split": "test"},
                "pathology": {"dataset": "there/f", "split": "test"},
            }},
            "evaluation.calibration": {
                "dataset": "there/k",
                "healthy": {"dataset": "there/l", "split": "test"},
                "pathology": {"dataset": "there/m", "split": "test"},
            },
            "evaluation.lpips": {"weights": ["there/h", "there/i"]},
            "evaluation.fid": {"weights": "there/j"},
        }))
        .unwrap();
        e.trainer.loss.perceptual.weights = Some("there/g".into());
        let named = |e: &Experiment| serde_json::to_string(e).unwrap().matches("there/").count();
        assert_eq!((named(&e), e.places().len()), (13, 13));
        let files: Vec<String> = e.places().into_iter().filter(|p| !p.is_folder).map(|p| p.field).collect();
        let scored = ["evaluation.lpips.weights.0", "evaluation.lpips.weights.1", "evaluation.fid.weights"];
        assert_eq!(files[..3], scored);
        assert_eq!(files[3..], ["model.weights", "trainer.loss.perceptual.weights"]);
        e.places().into_iter().for_each(|p| *p.location = "here".into());
        assert_eq!(named(&e), 0);
        e.trainer.loss.perceptual.weights = Some("random".into());
        assert_eq!(e.places().len(), 12, "no place, but weights that are drawn");
    }

    #[test]
    fn given_weights_may_be_scored_as_they_are_or_resumed() {
        with(json!({"model.weights": "a.pt", "trainer.epochs": 0})).unwrap();
        with(json!({"model.weights": "a.pt", "trainer.resume": true})).unwrap();
    }

    #[test]
    fn a_frozen_network_takes_single_images() {
        with(json!({"trainer.batch_size": 1, "model.norm_mode": "frozen"})).unwrap();
    }
}
