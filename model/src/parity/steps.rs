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
    class::Class,
    report::{Report, Section},
};
use crate::{At, Error, Method, Optimizers, Recorded, Solo, Step, Updates, from_data};

/// Steps that are recorded.
pub(super) const STEPS: usize = 3;
/// Gradients in f32 are compared where the reference's own f32 keeps this close to its f64 (README 2).
const NOISE: f64 = 1e-3;

/// By how much of themselves weights are moved to see what rounding does: what f32 loses in a sum of some hundred numbers, as
/// each output of a convolution is.
const BESIDE: f64 = 2e-6;

/// Relative bound of losses in f64.
const DOUBLE: f64 = 1e-9;

/// Where a replay starts.
#[derive(Clone, Copy)]
enum Start {
    /// The recorded weights.
    Recorded,
    /// Weights that are moved at random, with this seed, by up to [`BESIDE`] of themselves.
    Beside(i64),
}

pub(super) fn replay(
    case: &Case,
    variant: &str,
    recorded: &Tensors,
    steps: usize,
    report: &mut Report,
) -> Result<(), Error> {
    let run = Run { facts: &case.meta["steps"][variant], variant, recorded, class: case.class(variant)? };
    // The reference's f64 run may have ended early: what follows has nothing to be compared with.
    let companion = run.facts["losses_f64"].as_array().map_or(0, Vec::len).min(STEPS);
    let f32 = trained(case, &run, Kind::Float, steps, Start::Recorded)?;
    // Of full-size cases there is none at all, and what is recorded for it repeats f32. How much of f32 is noise is then told by
    // a second run in f32 that starts from weights beside these.
    let f64 = if run.companion() {
        trained(case, &run, Kind::Double, companion.max(1).min(steps), Start::Recorded)?
    } else {
        trained(case, &run, Kind::Float, steps, Start::Beside(1))?
    };
    report.sections.extend(losses(&run, &f32, &f64)?.finish());
    if run.companion() {
        report.sections.extend(double_losses(&run, &f64).finish());
    }
    for (theirs, ours) in run.class.optimizers {
        report.sections.extend(gradients(&run, (theirs, ours), &f32, &f64)?.finish());
        if run.companion() {
            report.sections.extend(double_gradients(&run, (theirs, ours), &f64)?.finish());
        }
    }
    report.sections.extend(parameters(case, &run, &f32, &f64)?.finish());
    if companion == STEPS && steps == STEPS {
        report.sections.extend(validation(case, &run, f32, f64)?.finish());
    }
    Ok(())
}

/// One recorded variant.
struct Run<'a> {
    facts: &'a Value,
    variant: &'a str,
    recorded: &'a Tensors,
    class: Class,
}

impl Run<'_> {
    /// Whether the reference ran in f64, too.
    fn companion(&self) -> bool {
        self.facts["f64_run"] != false
    }

    /// What is recorded of one optimizer's gradients.
    fn gradient_facts(&self, optimizer: &str) -> &Value {
        let listed = self.facts["grads_step1"].as_array().into_iter().flatten();
        listed.into_iter().find(|g| g[0] == optimizer).map_or(&Value::Null, |g| &g[1])
    }

    /// Whether a BatchNorm takes the batch's statistics.
    fn variant_has_batch_norm(&self) -> bool {
        self.class.model.norm_mode == morph_spec::experiment::NormMode::Batch
    }

    fn noise(&self, optimizer: &str, name: &str) -> (f64, f64) {
        let g = &self.gradient_facts(optimizer)[name];
        (g["rel_err_vs_f64"].as_f64().unwrap_or(f64::INFINITY), g["l2_f64"].as_f64().unwrap_or(0.0))
    }
}

type Gradients = BTreeMap<String, Tensor>;

struct Trained {
    kind: Kind,
    method: Box<dyn Method>,
    terms: Vec<Vec<(&'static str, f64)>>,
    /// Of the first step, by optimizer, at the moment of its update.
    gradients: BTreeMap<String, Gradients>,
    /// State after each step.
    after: Vec<BTreeMap<String, Tensor>>,
    draws: Recorded,
}

/// Updates that keep the gradients of the first of each.
struct Watched<'a> {
    optimizers: Optimizers,
    method: &'a dyn Method,
    seen: BTreeMap<String, Gradients>,
}

impl Updates for Watched<'_> {
    fn update(&mut self, name: &str, loss: &mut dyn FnMut() -> Result<Tensor, Error>) -> Result<(), Error> {
        let mut gradients = Gradients::new();
        self.optimizers.update(name, loss, &mut |loss| {
            loss.f_backward()?;
            for group in self.method.groups().into_iter().filter(|g| g.name == name) {
                for (parameter, tensor) in group.parameters.into_iter().filter(|(_, t)| t.grad().defined()) {
                    gradients.insert(parameter, tensor.grad().copy().to_device(Device::Cpu));
                }
            }
            Ok(())
        })?;
        self.seen.entry(name.to_owned()).or_insert(gradients);
        Ok(())
    }
}

/// The first steps in `kind`.
fn trained(case: &Case, run: &Run<'_>, kind: Kind, steps: usize, start: Start) -> Result<Trained, Error> {
    let method = case.method(run.variant, kind)?;
    if let Start::Beside(seed) = start {
        tch::manual_seed(seed);
        tch::no_grad(|| -> Result<(), Error> {
            for (_, mut parameter) in method.parameters() {
                let factor = (parameter.f_rand_like()? * 2.0 - 1.0) * BESIDE + 1.0;
                let _ = parameter.f_mul_(&factor)?;
            }
            Ok(())
        })?;
    }
    let optimizers = Optimizers::new(method.as_ref(), &run.class.trainer.optimizer);
    let mut updates = Watched { optimizers, method: method.as_ref(), seen: BTreeMap::new() };
    let mut draws = case.draws(run.recorded, "")?;
    let (mut terms, mut after) = (Vec::new(), Vec::new());
    for step in 0..steps {
        let x = case.batch(step as i64, kind)?;
        let at = At { epoch: case.epoch(), step: step as u64, validated: 0 };
        let losses = method.step(&x, &mut Step { at, stats: &Solo, draws: &mut draws, updates: &mut updates })?;
        terms.push(losses.terms.iter().map(|(name, value)| (*name, value.double_value(&[]))).collect());
        let named = method.parameters().into_iter().chain(method.buffers());
        after.push(named.map(|(name, t)| (name, t.detach().copy().to_device(Device::Cpu))).collect());
    }
    let gradients = updates.seen;
    Ok(Trained { kind, method, terms, gradients, after, draws })
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

fn losses(run: &Run<'_>, ours: &Trained, exact: &Trained) -> Result<Section, Error> {
    let mut section = Section::new(&format!("{}/losses", run.variant));
    let names = run.class.terms;
    for (step, terms) in ours.terms.iter().enumerate() {
        let (want, theirs) = (pairs(&run.facts["losses"][step]), pairs(&run.facts["losses_f64"][step]));
        if want.len() != names.len() {
            return Err(Error::Golden(format!("step {} records {} loss terms", step + 1, want.len())));
        }
        // A sum is as noisy as its terms together, even where their noise happens to cancel.
        let mut together = 0.0;
        // Terms share their weights' noise. One alone may look quiet by chance, so where there is but our own second run to tell,
        // the noisiest counts for all; not in the first step, whose weights are given.
        let shared =
            |name: &str, got: f64| exact.terms.get(step).and_then(|t| term(t, name)).map(|e| ((got - e) / got).abs());
        let noisiest =
            terms.iter().filter_map(|(name, got)| shared(name, *got)).filter(|n| n.is_finite()).fold(0.0, f64::max);
        let noisiest = if step > 0 && !run.companion() { noisiest } else { 0.0 };
        for (i, (name, mine)) in names.iter().enumerate() {
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
            let noise = (got - double).abs().max((value - their_double).abs()).max(noisiest * value.abs());
            let noise = if *name == "backward" { noise.max(std::mem::take(&mut together)) } else { noise };
            together += noise;
            let abs = (got - value).abs();
            let rel = abs / value.abs().max(1e-30);
            section.record(&format!("step {} {mine}", step + 1), abs, rel, abs / bound(*value, noise));
        }
    }
    Ok(section)
}

/// The same in f64, through all steps: the optimizer and every gradient before are right, too.
fn double_losses(run: &Run<'_>, ours: &Trained) -> Section {
    let mut section = Section::new(&format!("{}/losses f64", run.variant));
    for (step, terms) in ours.terms.iter().enumerate() {
        let theirs = pairs(&run.facts["losses_f64"][step]);
        for ((_, mine), (_, want)) in run.class.terms.iter().zip(&theirs) {
            let Some(got) = term(terms, mine) else { continue };
            let abs = (got - want).abs();
            let rel = abs / want.abs().max(1e-30);
            section.record(&format!("step {} {mine}", step + 1), abs, rel, rel / DOUBLE);
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

/// What has no gradient but rounding: a convolution's bias right before a BatchNorm that takes the batch's mean. Ours in f64
/// is nothing beside the largest, and the recorded one in f32 is but noise.
fn vanishing(run: &Run<'_>, exact: &Trained) -> Vec<String> {
    let mut out = Vec::new();
    for (theirs, ours) in run.class.optimizers {
        let Some(gradients) = exact.gradients.get(*ours) else { continue };
        let recorded = |name: &String| run.gradient_facts(theirs)[name]["l2"].as_f64().unwrap_or(0.0);
        let largest = gradients.values().map(norm).fold(0.0, f64::max);
        let largest_recorded = gradients.keys().map(recorded).fold(0.0, f64::max);
        let bias = |name: &String| name.ends_with(".bias") && run.variant_has_batch_norm();
        let gone = |(name, g): &(&String, &Tensor)| {
            bias(name) && norm(g) < 1e-12 * largest && recorded(name) < 1e-4 * largest_recorded
        };
        out.extend(gradients.iter().filter(gone).map(|(name, _)| name.clone()));
    }
    out
}

const VANISHES: &str = "a bias before train-mode BatchNorm: its true gradient is 0";

fn norm(t: &Tensor) -> f64 {
    t.norm().double_value(&[])
}

/// How far two gradients are apart, relative to the second.
fn off(got: &Tensor, want: &Tensor) -> f64 {
    norm(&(got - want)) / norm(want).max(1e-300)
}

fn gradients(run: &Run<'_>, (theirs, mine): (&str, &str), ours: &Trained, exact: &Trained) -> Result<Section, Error> {
    let mut section = Section::new(&format!("{}/gradients{}", run.variant, of(theirs)));
    let (empty, vanishing) = (Gradients::new(), vanishing(run, exact));
    let (found, doubles) = (ours.gradients.get(mine).unwrap_or(&empty), exact.gradients.get(mine).unwrap_or(&empty));
    for (name, gradient) in found {
        let Some((got, want)) = picked(run.recorded, &format!("grad1.{theirs}."), name, gradient)? else {
            section.skip("not recorded");
            continue;
        };
        // Without a companion the noise of f32 is what it is here.
        let noise = match doubles.get(name) {
            Some(double) if !run.companion() => off(&gradient.to_kind(Kind::Double), double),
            _ => run.noise(theirs, name).0,
        };
        if vanishing.contains(name) {
            section.skip(VANISHES);
        } else if noise >= NOISE {
            section.skip("the f32 gradient is rounding noise (it is off from f64 by 1e-3 or more); see gradients f64");
        } else {
            let abs = (&got - &want).abs().max().double_value(&[]);
            let rel = off(&got, &want);
            section.record(name, abs, rel, rel / (10.0 * noise).max(1e-4));
        }
    }
    let recorded = run.recorded.keys().filter(|n| n.starts_with(&format!("grad1.{theirs}."))).count();
    if recorded != found.len() {
        section.failures.push(format!("{} parameters have a gradient, {recorded} are recorded", found.len()));
    }
    Ok(section)
}

/// Which optimizer, where there are several.
fn of(optimizer: &str) -> String {
    if optimizer == "optimizer" { String::new() } else { format!(" {optimizer}") }
}

/// The same step in f64, where nothing is noise: stored as f32, so equal to f32's precision.
fn double_gradients(run: &Run<'_>, (theirs, mine): (&str, &str), ours: &Trained) -> Result<Section, Error> {
    let mut section = Section::new(&format!("{}/gradients f64{}", run.variant, of(theirs)));
    let empty = Gradients::new();
    let found = ours.gradients.get(mine).unwrap_or(&empty);
    let vanishing = vanishing(run, ours);
    let largest = found.keys().map(|n| run.noise(theirs, n).1).fold(0.0, f64::max);
    for (name, gradient) in found {
        let Some((got, want)) = picked(run.recorded, &format!("grad1_f64.{theirs}."), name, gradient)? else {
            section.skip("not recorded in f64");
            continue;
        };
        if vanishing.contains(name) || norm(&want) < 1e-12 * largest {
            section.skip(VANISHES);
            continue;
        }
        let abs = (&got - &want).abs().max().double_value(&[]);
        let rel = off(&got, &want);
        section.record(name, abs, rel, rel / 1e-5);
    }
    Ok(section)
}

/// README 3: of each tensor, 99 % of the elements have moved as recorded to 2 % of steps · lr; running statistics are close.
/// Where f32 and f64 part by more than that, in the reference's runs or in ours, Adam has made steps of rounding noise, and
/// f32 says nothing.
fn parameters(case: &Case, run: &Run<'_>, ours: &Trained, exact: &Trained) -> Result<Section, Error> {
    let mut section = Section::new(&format!("{}/after steps", run.variant));
    let (lr, vanishing) = (run.class.trainer.optimizer.lr, vanishing(run, exact));
    for (steps, prefix) in [(1usize, "after1."), (3, "after3.")].into_iter().filter(|(n, _)| *n <= ours.after.len()) {
        let bound = 0.02 * steps as f64 * lr;
        let facts = &case.meta["steps"][run.variant]["params"][format!("after{steps}")];
        // Without a companion the reference's noise is taken to be like ours: each may have half of the bound.
        let own = if run.companion() { bound } else { bound / 2.0 };
        let beyond = |a: &Tensor, b: &Tensor, bound: f64| {
            let share = (a - b).abs().gt(bound).to_kind(Kind::Double).mean(Kind::Double);
            share.double_value(&[])
        };
        for (name, tensor) in &ours.after[steps - 1] {
            let Some((got, want)) = picked(run.recorded, prefix, name, tensor)? else { continue };
            if name.contains("running_") || name.ends_with("num_batches_tracked") {
                // Later statistics are of later weights, whose noise the bound on parameters allows for.
                if steps == 1 {
                    let exact = exact.after[0][name].flatten(0, -1).to_kind(Kind::Double);
                    let noise = (tensor.flatten(0, -1).to_kind(Kind::Double) - exact).abs().max().double_value(&[]);
                    section.close(&format!("{prefix}{name}"), &got, &want, 1e-5, (10.0 * noise).max(2e-5));
                }
                continue;
            }
            if vanishing.contains(name) {
                section.skip(VANISHES);
                continue;
            }
            let theirs = facts[name]["maxabs_vs_f64"].as_f64();
            let (Some(theirs), Some(exact)) = (theirs, exact.after.get(steps - 1)) else {
                section.skip(NO_COMPANION);
                continue;
            };
            let double = picked(run.recorded, prefix, name, &exact[name])?.map(|(got, _)| got);
            if theirs > bound || double.is_some_and(|double| beyond(&got, &double, own) > 0.0) {
                section.skip("f32 is noise here: it parts from f64 by more than the bound, in the reference or here");
                continue;
            }
            let abs = (&got - &want).abs().max().double_value(&[]);
            section.record(
                &format!("{prefix}{name}"),
                abs,
                abs / (steps as f64 * lr),
                beyond(&got, &want, bound) / 0.01,
            );
        }
    }
    Ok(section)
}

/// The validation batch after the three steps, in f32 and in f64.
fn validation(case: &Case, run: &Run<'_>, mut ours: Trained, mut exact: Trained) -> Result<Section, Error> {
    let mut section = Section::new(&format!("{}/validation", run.variant));
    let score = |t: &mut Trained| -> Result<f64, Error> {
        let at = At { epoch: case.epoch(), step: STEPS as u64, validated: 0 };
        let scores = t.method.validation_score(&case.batch(STEPS as i64, t.kind)?, at, &mut t.draws)?;
        Ok(scores.mean(Kind::Double).double_value(&[]))
    };
    let (got, double) = (score(&mut ours)?, score(&mut exact)?);
    let name = run.class.score;
    let logged = run.facts["logged"][format!("Val/{name}")].as_f64();
    let want = logged.ok_or_else(|| Error::Golden(format!("no {name} is recorded")))?;
    let abs = (got - want).abs();
    section.record(name, abs, abs / want.abs().max(1e-30), abs / bound(want, (got - double).abs()));
    // In f64 only calls of the criterion are recorded.
    let companion = pairs(&run.facts["val_calls_f64"]).into_iter().find(|(n, _)| n == "criterion_rec");
    if let Some((_, want)) = companion.filter(|_| run.companion() && name == "Val_loss_prec") {
        let abs = (double - want).abs();
        let rel = abs / want.abs().max(1e-30);
        section.record(&format!("{name} f64"), abs, rel, rel / DOUBLE);
    }
    for trained in [&ours, &exact] {
        if trained.draws.left() != 0 {
            section.failures.push(format!("{} recorded draws were not asked for", trained.draws.left()));
        }
    }
    Ok(section)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At the third step of Soft-IntroVAE's training with batch statistics, at full size, `rec_rec` has been seen beyond its bound:
    /// what other roundings make of it is as far away. Each of four replays starts 2e-6 beside the recorded weights.
    #[test]
    #[ignore = "20 minutes"]
    fn rounding_carries_si_vae_farther_than_the_reference_is() {
        let Some(dir) = crate::tests::path("si-vae_full") else { return };
        let case = Case::read(&dir, Device::Cpu).unwrap();
        let recorded = case.tensors("steps_train.safetensors").unwrap().unwrap();
        let class = case.class("train").unwrap();
        let run = Run { facts: &case.meta["steps"]["train"], variant: "train", recorded: &recorded, class };
        let at = run.class.terms.iter().position(|(_, mine)| *mine == "rec_rec").unwrap();
        let mine = run.class.terms[at].1;
        let starts = [Start::Recorded, Start::Beside(1), Start::Beside(2), Start::Beside(3), Start::Beside(4)];
        let mut found = vec![Vec::new(); STEPS];
        for start in starts {
            let trained = trained(&case, &run, Kind::Float, STEPS, start).unwrap();
            for (step, terms) in trained.terms.iter().enumerate() {
                found[step].push(term(terms, mine).unwrap());
            }
        }
        for (step, ours) in found.iter().enumerate() {
            let want = pairs(&run.facts["losses"][step])[at].1;
            let off: Vec<f64> = ours.iter().map(|v| (v - want) / want).collect();
            let spread = ours.iter().fold(0.0f64, |far, v| far.max(((v - ours[0]) / want).abs()));
            eprintln!(
                "step {}: recorded {want}, ours {ours:?}, off by {off:?}, apart from each other by {spread:e}",
                step + 1
            );
            assert!(step == 0 || off[0].abs() <= 3.0 * spread, "step {}: {off:?}, {spread}", step + 1);
        }
    }
}
