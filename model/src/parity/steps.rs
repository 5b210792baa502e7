//! The trainer's three steps: losses, first gradients, parameters and buffers after Adam, validation.
//!
//! In f64 nothing is noise, and bounds are tight. In f32 training amplifies rounding from step to step, so what another order
//! of summation would change is told apart by how far f32 is from f64: in the reference's two runs, as recorded, and in ours.

use std::collections::BTreeMap;

use morph_checkpoint::Tensors;
use serde_json::Value;
use tch::{Device, Kind, Tensor};

use super::{
    case::Case,
    report::{Report, Section},
};
use crate::{Adam, Error, Method, Morphaeus, from_data, nn::Norm};

const STEPS: usize = 3;
/// Gradients in f32 are compared where the reference's own f32 keeps this close to its f64 (README 2).
const NOISE: f64 = 1e-3;

/// Relative bound of losses in f64.
const DOUBLE: f64 = 1e-9;

/// The recorder's names of the loss terms, in its order, and ours.
const TERMS: [(&str, &str); 6] = [
    ("criterion_rec", "reconstruction"),
    ("criterion_PL", "perceptual"),
    ("deform_R", "regulariser"),
    ("ncc_loss", "ncc"),
    ("ncc_loss", "ncc_reversed"),
    ("backward", "loss"),
];

pub(super) fn replay(case: &Case, variant: &str, recorded: &Tensors, report: &mut Report) -> Result<(), Error> {
    let facts = &case.meta["steps"][variant];
    // The reference's f64 run may have ended early: what follows has nothing to be compared with.
    let companion = facts["losses_f64"].as_array().map_or(0, Vec::len).min(STEPS);
    let f32 = trained(case, variant, Kind::Float, STEPS)?;
    let f64 = trained(case, variant, Kind::Double, companion.max(1))?;
    report.sections.extend(losses(facts, variant, &f32, &f64)?.finish());
    report.sections.extend(double_losses(facts, variant, &f64).finish());
    report.sections.extend(gradients(facts, variant, recorded, &f32)?.finish());
    report.sections.extend(double_gradients(facts, variant, recorded, &f64)?.finish());
    report.sections.extend(parameters(case, variant, recorded, &f32, &f64)?.finish());
    if companion == STEPS {
        report.sections.extend(validation(case, facts, variant, &f32, &f64)?.finish());
    }
    Ok(())
}

struct Trained {
    model: Morphaeus,
    terms: Vec<Vec<(&'static str, f64)>>,
    gradients: BTreeMap<String, Tensor>,
    /// State after each step.
    after: Vec<BTreeMap<String, Tensor>>,
}

fn trained(case: &Case, variant: &str, kind: Kind, steps: usize) -> Result<Trained, Error> {
    let norm = if variant == "train" { Norm::Local } else { Norm::Running };
    let model = case.model(kind)?;
    let params = model.parameters();
    let mut adam = Adam::new(&params, &case.optimizer());
    let mut out = Trained { model, terms: Vec::new(), gradients: BTreeMap::new(), after: Vec::new() };
    for step in 0..steps {
        let losses = out.model.losses_with(&case.batch(step as i64, kind)?, case.epoch(), norm)?;
        adam.zero_grad();
        losses.total.f_backward()?;
        out.terms.push(losses.terms.iter().map(|(name, value)| (*name, value.double_value(&[]))).collect());
        if step == 0 {
            for (name, param) in &params {
                let gradient = param.grad();
                if gradient.defined() {
                    out.gradients.insert(name.clone(), gradient.copy());
                }
            }
        }
        adam.step()?;
        let named = out.model.parameters().into_iter().chain(out.model.buffers());
        out.after.push(named.map(|(name, t)| (name, t.detach().copy())).collect());
    }
    Ok(out)
}

fn pairs(value: &Value) -> Vec<(String, f64)> {
    let pair = |p: &Value| Some((p[0].as_str()?.to_owned(), p[1].as_f64()?));
    value.as_array().into_iter().flatten().filter_map(pair).collect()
}

/// README 1: rtol 1e-5, atol 2e-5; and no closer than ten times what f32 is from f64, in the reference's own two runs or in
/// ours: that is the noise which any other order of summation shows too, and which training amplifies from step to step.
fn bound(want: f64, noise: f64) -> f64 {
    (1e-5 * want.abs() + 2e-5).max(10.0 * noise)
}

const NO_COMPANION: &str = "the reference's f64 run ended before: how much of f32 is noise here is not known";

fn term(list: &[(&'static str, f64)], name: &str) -> Option<f64> {
    list.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
}

fn losses(facts: &Value, variant: &str, ours: &Trained, exact: &Trained) -> Result<Section, Error> {
    let mut section = Section::new(&format!("{variant}/losses"));
    for (step, terms) in ours.terms.iter().enumerate() {
        let (want, theirs) = (pairs(&facts["losses"][step]), pairs(&facts["losses_f64"][step]));
        if want.len() != TERMS.len() {
            return Err(Error::Golden(format!("step {} records {} loss terms", step + 1, want.len())));
        }
        // The total is as noisy as its terms together, even where their noise happens to cancel.
        let mut together = 0.0;
        for (i, (name, mine)) in TERMS.iter().enumerate() {
            let (found, value) = &want[i];
            if found != name {
                return Err(Error::Golden(format!("expected the loss term {name}, found {found}")));
            }
            let Some(got) = term(terms, mine) else {
                section.skip("the term's weight is 0, so it is not computed here");
                continue;
            };
            let exact = exact.terms.get(step).and_then(|terms| term(terms, mine));
            let (Some(double), Some((_, their_double))) = (exact, theirs.get(i)) else {
                section.skip(NO_COMPANION);
                continue;
            };
            let noise = (got - double).abs().max((value - their_double).abs());
            let noise = if *mine == "loss" { noise.max(together) } else { noise };
            together += noise;
            let abs = (got - value).abs();
            section.record(
                &format!("step {} {name}", step + 1),
                abs,
                abs / value.abs().max(1e-30),
                abs / bound(*value, noise),
            );
        }
    }
    Ok(section)
}

/// The same in f64, through all steps: the optimizer and every gradient before are right, too.
fn double_losses(facts: &Value, variant: &str, ours: &Trained) -> Section {
    let mut section = Section::new(&format!("{variant}/losses f64"));
    for (step, terms) in ours.terms.iter().enumerate() {
        let theirs = pairs(&facts["losses_f64"][step]);
        for ((name, mine), (_, want)) in TERMS.iter().zip(&theirs) {
            let Some(got) = term(terms, mine) else { continue };
            let abs = (got - want).abs();
            let rel = abs / want.abs().max(1e-30);
            section.record(&format!("step {} {name}", step + 1), abs, rel, rel / DOUBLE);
        }
    }
    section
}

/// The recorded values of `name` under `prefix`, and ours picked alike: tensors above 4096 elements are sampled.
fn picked(recorded: &Tensors, prefix: &str, name: &str, ours: &Tensor) -> Result<Option<(Tensor, Tensor)>, Error> {
    let flat = ours.detach().flatten(0, -1).to_kind(Kind::Double);
    if let Some(want) = recorded.get(&format!("{prefix}{name}")) {
        return Ok(Some((flat, from_data(want, Device::Cpu)?.flatten(0, -1).to_kind(Kind::Double))));
    }
    if let Some(want) = recorded.get(&format!("{prefix}{name}@sample512")) {
        let elements = flat.size()[0];
        let at: Vec<i64> = (0..512).map(|i| i * elements / 512).collect();
        return Ok(Some((
            flat.index_select(0, &Tensor::from_slice(&at)),
            from_data(want, Device::Cpu)?.to_kind(Kind::Double),
        )));
    }
    Ok(None)
}

fn noise(facts: &Value, name: &str) -> (f64, f64) {
    let g = &facts["grads_step1"][0][1][name];
    (g["rel_err_vs_f64"].as_f64().unwrap_or(f64::INFINITY), g["l2_f64"].as_f64().unwrap_or(0.0))
}

/// A convolution's bias right before a BatchNorm that takes the batch's mean: its true gradient is 0, and what f32 makes of
/// it is rounding alone.
fn vanishes(variant: &str, name: &str) -> bool {
    variant == "train" && name.ends_with(".bias") && {
        let block = ["conv__encode_", "conv__decode_", "ref__refine_"];
        block.iter().any(|b| name.contains(b)) && !name.contains("decode_final")
    }
}

const VANISHES: &str = "a bias before train-mode BatchNorm: its true gradient is 0";

fn norm(t: &Tensor) -> f64 {
    t.norm().double_value(&[])
}

fn gradients(facts: &Value, variant: &str, recorded: &Tensors, ours: &Trained) -> Result<Section, Error> {
    let mut section = Section::new(&format!("{variant}/gradients"));
    for (name, gradient) in &ours.gradients {
        let Some((got, want)) = picked(recorded, "grad1.optimizer.", name, gradient)? else {
            section.skip("not recorded");
            continue;
        };
        let (noise, _) = noise(facts, name);
        if vanishes(variant, name) {
            section.skip(VANISHES);
        } else if noise >= NOISE {
            section
                .skip("the reference's own f32 gradient is rounding noise (rel_err_vs_f64 >= 1e-3); see gradients f64");
        } else {
            let abs = (&got - &want).abs().max().double_value(&[]);
            let rel = norm(&(&got - &want)) / norm(&want).max(1e-30);
            section.record(name, abs, rel, rel / (10.0 * noise).max(1e-4));
        }
    }
    let recorded = recorded.keys().filter(|n| n.starts_with("grad1.optimizer.")).count();
    if recorded != ours.gradients.len() {
        let why = format!("{} parameters have a gradient, {recorded} are recorded", ours.gradients.len());
        section.failures.push(why);
    }
    Ok(section)
}

/// The same step in f64, where nothing is noise: stored as f32, so equal to f32's precision.
fn double_gradients(facts: &Value, variant: &str, recorded: &Tensors, ours: &Trained) -> Result<Section, Error> {
    let mut section = Section::new(&format!("{variant}/gradients f64"));
    let largest = ours.gradients.keys().map(|n| noise(facts, n).1).fold(0.0, f64::max);
    for (name, gradient) in &ours.gradients {
        let Some((got, want)) = picked(recorded, "grad1_f64.optimizer.", name, gradient)? else {
            section.skip("not recorded in f64");
            continue;
        };
        if vanishes(variant, name) || norm(&want) < 1e-12 * largest {
            section.skip(VANISHES);
            continue;
        }
        let abs = (&got - &want).abs().max().double_value(&[]);
        let rel = norm(&(&got - &want)) / norm(&want).max(1e-300);
        section.record(name, abs, rel, rel / 1e-5);
    }
    Ok(section)
}

/// README 3: of each tensor, 99 % of the elements have moved as recorded to 2 % of steps · lr; running statistics are close.
/// Where f32 and f64 part by more than that, in the reference's runs or in ours, Adam has made steps of rounding noise, and
/// f32 says nothing.
fn parameters(
    case: &Case,
    variant: &str,
    recorded: &Tensors,
    ours: &Trained,
    exact: &Trained,
) -> Result<Section, Error> {
    let mut section = Section::new(&format!("{variant}/after steps"));
    let lr = case.optimizer().lr;
    for (steps, prefix) in [(1usize, "after1."), (3, "after3.")] {
        let bound = 0.02 * steps as f64 * lr;
        let facts = &case.meta["steps"][variant]["params"][format!("after{steps}")];
        let beyond = |a: &Tensor, b: &Tensor| {
            let share = (a - b).abs().gt(bound).to_kind(Kind::Double).mean(Kind::Double);
            share.double_value(&[])
        };
        for (name, tensor) in &ours.after[steps - 1] {
            let Some((got, want)) = picked(recorded, prefix, name, tensor)? else { continue };
            if name.contains("running_") || name.ends_with("num_batches_tracked") {
                // Later statistics are of later weights, whose noise the bound on parameters allows for.
                if steps == 1 {
                    section.close(&format!("{prefix}{name}"), &got, &want, 1e-5, 2e-5);
                }
                continue;
            }
            if vanishes(variant, name) {
                section.skip(VANISHES);
                continue;
            }
            let theirs = facts[name]["maxabs_vs_f64"].as_f64();
            let (Some(theirs), Some(exact)) = (theirs, exact.after.get(steps - 1)) else {
                section.skip(NO_COMPANION);
                continue;
            };
            let double = picked(recorded, prefix, name, &exact[name])?.map(|(got, _)| got);
            if theirs > bound || double.is_some_and(|double| beyond(&got, &double) > 0.0) {
                section.skip("f32 is noise here: it parts from f64 by more than the bound, in the reference or here");
                continue;
            }
            let abs = (&got - &want).abs().max().double_value(&[]);
            section.record(&format!("{prefix}{name}"), abs, abs / (steps as f64 * lr), beyond(&got, &want) / 0.01);
        }
    }
    Ok(section)
}

/// The validation batch after the three steps, in f32 and in f64.
fn validation(case: &Case, facts: &Value, variant: &str, ours: &Trained, exact: &Trained) -> Result<Section, Error> {
    let mut section = Section::new(&format!("{variant}/validation"));
    let (want, theirs) = (pairs(&facts["val_calls"]), pairs(&facts["val_calls_f64"]));
    let (got, double) = (validated(case, ours, Kind::Float)?, validated(case, exact, Kind::Double)?);
    let value = |list: &[(String, f64)], name: &str| list.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
    let mse = facts["logged"]["Val/Val_loss_mse"].as_f64();
    for (name, recorded, companion) in [
        ("criterion_rec", value(&want, "criterion_rec"), value(&theirs, "criterion_rec")),
        ("criterion_PL", value(&want, "criterion_PL"), value(&theirs, "criterion_PL")),
        ("Val_loss_mse", mse, None),
    ] {
        let (Some(want), Some(got), Some(double)) = (recorded, got.get(name), double.get(name)) else { continue };
        let noise = (got - double).abs().max(companion.map_or(0.0, |e| (want - e).abs()));
        let abs = (got - want).abs();
        section.record(name, abs, abs / want.abs().max(1e-30), abs / bound(want, noise));
        if let Some(companion) = companion {
            let abs = (double - companion).abs();
            let rel = abs / companion.abs().max(1e-30);
            section.record(&format!("{name} f64"), abs, rel, rel / DOUBLE);
        }
    }
    Ok(section)
}

fn validated(case: &Case, trained: &Trained, kind: Kind) -> Result<BTreeMap<&'static str, f64>, Error> {
    let x = case.batch(STEPS as i64, kind)?;
    let prior = trained.model.reconstruct(&x)?.prior;
    let number = |t: &Tensor| t.mean(kind).double_value(&[]);
    let mut out = BTreeMap::from([
        ("criterion_rec", number(&(&prior - &x).square())),
        ("Val_loss_mse", number(&trained.model.validation_score(&x)?)),
    ]);
    if let Some(perceptual) = trained.model.perceptual(&x, &prior)? {
        out.insert("criterion_PL", number(&perceptual));
    }
    Ok(out)
}
