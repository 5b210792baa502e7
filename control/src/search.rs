//! Grid and random search. Stateless: the `i`-th point is a function of the sweep alone, and what was chosen is written
//! into the event of the run that it made.

use std::collections::BTreeMap;

use morph_spec::{
    Experiment, Rng, Sweep,
    sweep::{Distribution, EXPERIMENT, MOST_RUNS, Method, Parameter},
};
use serde_json::{Number, Value};

/// Dotted field of the experiment → its value; of several experiments also [`EXPERIMENT`] → the name of the one.
pub type Params = BTreeMap<String, Value>;

/// A search space that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A parameter is wrong.
    #[error("parameters.{name}: {why}")]
    Parameter {
        /// Its dotted name.
        name: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// A point at which the experiment makes no sense.
    #[error("parameters.{0}")]
    Point(String),
    /// The search would never end, or not in a lifetime.
    #[error("{0}")]
    Size(String),
}

fn bad(name: &str, why: impl Into<String>) -> Error {
    Error::Parameter { name: name.to_owned(), why: why.into() }
}

/// More parameters are none: an experiment has fewer fields.
const MOST_PARAMETERS: usize = 256;

/// How many runs the sweep makes.
///
/// # Errors
/// When that is unknown, none or more than [`MOST_RUNS`], or there are more than 256 parameters.
pub fn total(sweep: &Sweep) -> Result<u32, Error> {
    if sweep.parameters.len() > MOST_PARAMETERS {
        let has = sweep.parameters.len();
        return Err(Error::Size(format!("{has} parameters: an experiment has no {MOST_PARAMETERS} fields")));
    }
    let points = match sweep.method {
        Method::Grid => {
            let mut points = u64::from(sweep.experiment.count());
            for (name, parameter) in &sweep.parameters {
                points = points.saturating_mul(choices(name, parameter)?.len());
            }
            points.min(sweep.run_cap.map_or(u64::MAX, u64::from))
        }
        Method::Random => u64::from(
            sweep
                .run_cap
                .ok_or_else(|| Error::Size("run_cap: random search never ends by itself, say how many runs".into()))?,
        ),
    };
    match points {
        0 => Err(Error::Size("the search has no point: run_cap must be 1 or more".into())),
        1..=MOST_RUNS => Ok(points as u32),
        _ => Err(Error::Size(format!(
            "the search has {points} points, at most {MOST_RUNS} are allowed: set run_cap or fewer values"
        ))),
    }
}

/// The next `n` points (or fewer, at the end) after the first `already`.
///
/// # Errors
/// When the space makes no sense.
pub fn ask(sweep: &Sweep, already: u32, n: u32) -> Result<Vec<Params>, Error> {
    let end = total(sweep)?.min(already.saturating_add(n));
    (already..end).map(|i| point(sweep, i)).collect()
}

fn point(sweep: &Sweep, index: u32) -> Result<Params, Error> {
    let mut params = Params::new();
    // Experiments take turns, so that what has been seen at any time is a fair comparison, and each meets the same points.
    let experiments = u64::from(sweep.experiment.count());
    let index = u64::from(index);
    if experiments > 1 {
        let turn = sweep.experiment.iter().nth((index % experiments) as usize);
        params.extend(turn.map(|e| (EXPERIMENT.to_owned(), Value::from(e.name.clone()))));
    }
    let index = index / experiments;
    let mut rest = index;
    // The last parameter turns fastest, as nested loops would have it.
    for (name, parameter) in sweep.parameters.iter().rev() {
        let value = match sweep.method {
            Method::Grid => {
                let choices = choices(name, parameter)?;
                let value = choices.get(rest % choices.len());
                rest /= choices.len();
                value
            }
            Method::Random => draw(name, parameter, &mut Rng::keyed(sweep.seed, name, index))?,
        };
        params.insert(name.clone(), value);
    }
    Ok(params)
}

/// All values of a parameter that has finitely many; at least one.
#[derive(Debug)]
enum Choices<'a> {
    Listed(&'a [Value]),
    /// The lowest, and how many.
    Whole(i64, u64),
}

impl Choices<'_> {
    fn len(&self) -> u64 {
        match self {
            Self::Listed(values) => values.len() as u64,
            Self::Whole(_, len) => *len,
        }
    }

    fn get(&self, i: u64) -> Value {
        match self {
            Self::Listed(values) => values[i as usize].clone(),
            Self::Whole(min, _) => Value::from(min.wrapping_add_unsigned(i)),
        }
    }
}

fn choices<'a>(name: &str, p: &'a Parameter) -> Result<Choices<'a>, Error> {
    match (&p.value, &p.values, p.distribution) {
        (Some(_), Some(_), _) => Err(bad(name, "give value or values, not both")),
        (Some(value), None, _) => Ok(Choices::Listed(std::slice::from_ref(value))),
        (None, Some(values), _) if values.is_empty() => Err(bad(name, "values is empty")),
        (None, Some(values), _) => Ok(Choices::Listed(values)),
        (None, None, None | Some(Distribution::IntUniform)) => {
            let (min, max) =
                integers(name, p).map_err(|_| bad(name, "grid search needs value, values or integer min and max"))?;
            if max.abs_diff(min) >= MOST_RUNS {
                return Err(bad(name, format!("{min}..{max} has too many values for a grid")));
            }
            Ok(Choices::Whole(min, max.abs_diff(min) + 1))
        }
        (None, None, Some(_)) => Err(bad(name, "grid search needs value, values or integer min and max")),
    }
}

fn draw(name: &str, p: &Parameter, rng: &mut Rng) -> Result<Value, Error> {
    if p.value.is_some() || p.values.is_some() {
        let choices = choices(name, p)?;
        return Ok(choices.get(rng.below(choices.len())));
    }
    let whole = |n: &Option<Number>| n.as_ref().is_some_and(Number::is_i64);
    let distribution = p.distribution.unwrap_or(if whole(&p.min) && whole(&p.max) {
        Distribution::IntUniform
    } else {
        Distribution::Uniform
    });
    let value = match distribution {
        Distribution::Constant => return Err(bad(name, "constant needs value")),
        Distribution::Categorical => return Err(bad(name, "categorical needs values")),
        Distribution::IntUniform => {
            let (min, max) = integers(name, p)?;
            // The widest range has 2^64 values, which `below` cannot take.
            let drawn = match max.abs_diff(min).checked_add(1) {
                Some(n) => rng.below(n),
                None => rng.next_u64(),
            };
            return Ok(Value::from(min.wrapping_add(drawn as i64)));
        }
        Distribution::Uniform => {
            let (min, max) = reals(name, p)?;
            min + (max - min) * rng.uniform()
        }
        Distribution::LogUniform => {
            let (min, max) = reals(name, p)?;
            (min + (max - min) * rng.uniform()).exp()
        }
        Distribution::LogUniformValues => {
            let (min, max) = reals(name, p)?;
            if min <= 0.0 {
                return Err(bad(name, "log_uniform_values needs min and max above 0"));
            }
            (min.ln() + (max.ln() - min.ln()) * rng.uniform()).exp().clamp(min, max)
        }
    };
    let number = Number::from_f64(value).ok_or_else(|| bad(name, "the range gives numbers that are not finite"))?;
    Ok(Value::Number(number))
}

fn integers(name: &str, p: &Parameter) -> Result<(i64, i64), Error> {
    let (min, max) = (p.min.as_ref().and_then(Number::as_i64), p.max.as_ref().and_then(Number::as_i64));
    match (min, max) {
        (Some(min), Some(max)) if min <= max => Ok((min, max)),
        (Some(_), Some(_)) => Err(bad(name, "min is above max")),
        _ => Err(bad(name, "int_uniform needs integer min and max")),
    }
}

fn reals(name: &str, p: &Parameter) -> Result<(f64, f64), Error> {
    let (min, max) = (p.min.as_ref().and_then(Number::as_f64), p.max.as_ref().and_then(Number::as_f64));
    match (min, max) {
        (Some(min), Some(max)) if min <= max => Ok((min, max)),
        (Some(_), Some(_)) => Err(bad(name, "min is above max")),
        _ => Err(bad(name, "needs value, values, or min and max")),
    }
}

/// The sweep's experiment with `params` filled in, and valid.
///
/// # Errors
/// When there is no such experiment or field, or one does not take its value or no longer fits the others.
pub fn with(sweep: &Sweep, params: &Params) -> Result<Experiment, Error> {
    let mut params = params.clone();
    let experiment = match params.remove(EXPERIMENT) {
        None => Some(sweep.experiment.first()),
        Some(name) => sweep.experiment.iter().find(|e| Some(e.name.as_str()) == name.as_str()),
    };
    let none = || Error::Point(format!("{EXPERIMENT}: the sweep has no experiment of that name"));
    experiment.ok_or_else(none)?.with(&params).map_err(Error::Point)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tests::sweep;

    fn grid() -> Sweep {
        sweep(json!({"trainer.optimizer.lr": {"values": [1e-3, 1e-4]}, "trainer.seed": {"min": 1, "max": 3}}))
    }

    #[test]
    fn a_grid_is_every_combination_once_in_order() {
        let points = ask(&grid(), 0, 100).unwrap();
        assert_eq!(points.len(), 6);
        assert_eq!(
            points[1],
            BTreeMap::from([("trainer.optimizer.lr".into(), json!(1e-3)), ("trainer.seed".into(), json!(2))])
        );
        assert_eq!(points[3]["trainer.optimizer.lr"], json!(1e-4));
        assert_eq!(ask(&grid(), 4, 1).unwrap()[0], points[4]);
        assert!(ask(&grid(), 6, 1).unwrap().is_empty());
        let capped = Sweep { run_cap: Some(4), ..grid() };
        assert_eq!(total(&capped), Ok(4));
    }

    #[test]
    fn random_points_do_not_depend_on_how_they_are_asked_for() {
        let all = Sweep {
            method: Method::Random,
            run_cap: Some(50),
            ..sweep(json!({
                "trainer.optimizer.lr": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-2},
                "trainer.optimizer.weight_decay": {"min": 0.0, "max": 0.5},
                "trainer.loss.morph.weight": {"distribution": "log_uniform", "min": -2, "max": 2},
                "trainer.seed": {"min": 1, "max": 3},
                "trainer.loss.reconstruction": {"values": ["l1", "l2"]},
            }))
        };
        let points = ask(&all, 0, 50).unwrap();
        assert_eq!(points[17..19], ask(&all, 17, 2).unwrap());
        for p in &points {
            let real = |name: &str| p[name].as_f64().unwrap();
            assert!((1e-5..=1e-2).contains(&real("trainer.optimizer.lr")));
            assert!((0.0..0.5).contains(&real("trainer.optimizer.weight_decay")));
            assert!(((-2f64).exp()..2f64.exp()).contains(&real("trainer.loss.morph.weight")));
            assert!((1..=3).contains(&p["trainer.seed"].as_i64().unwrap()));
            with(&all, p).unwrap();
        }
        assert_ne!(points[0], points[1]);
        let other = Sweep { seed: 1, ..all };
        assert_ne!(ask(&other, 0, 50).unwrap(), points);
    }

    #[test]
    fn several_experiments_take_turns_at_the_same_points() {
        let other = |name: &str, lr: f64| {
            let mut experiment = grid().experiment.first().clone();
            experiment.name = name.to_owned();
            experiment.trainer.optimizer.lr = lr;
            serde_json::to_value(experiment).unwrap()
        };
        let sweep = |method: &str, parameters: Value| -> Sweep {
            let mut json = serde_json::to_value(grid()).unwrap();
            json["experiment"] = json!([other("a", 0.5), other("b", 0.25)]);
            json["method"] = json!(method);
            json["parameters"] = parameters;
            json["run_cap"] = if method == "random" { json!(4) } else { Value::Null };
            serde_json::from_value(json).unwrap()
        };
        let seeds = sweep("grid", json!({"trainer.seed": {"min": 1, "max": 3}}));
        let points = ask(&seeds, 0, 100).unwrap();
        let shown = |p: &Params| format!("{}{}", p[EXPERIMENT].as_str().unwrap(), p["trainer.seed"]);
        assert_eq!(points.iter().map(shown).collect::<Vec<_>>(), ["a1", "b1", "a2", "b2", "a3", "b3"]);
        let made = with(&seeds, &points[3]).unwrap();
        assert_eq!((made.name.as_str(), made.trainer.seed, made.trainer.optimizer.lr), ("b", 2, 0.25));
        let drawn = ask(&sweep("random", json!({"trainer.optimizer.lr": {"min": 0.1, "max": 0.9}})), 0, 9).unwrap();
        assert_eq!(drawn.len(), 4);
        assert_eq!(drawn[0]["trainer.optimizer.lr"], drawn[1]["trainer.optimizer.lr"]);
        assert_ne!(drawn[0]["trainer.optimizer.lr"], drawn[2]["trainer.optimizer.lr"]);
        let alone = ask(&sweep("grid", json!({})), 0, 9).unwrap();
        assert_eq!(alone.iter().map(|p| p[EXPERIMENT].clone()).collect::<Vec<_>>(), [json!("a"), json!("b")]);
        let unknown = BTreeMap::from([(EXPERIMENT.to_owned(), json!("c"))]);
        assert!(with(&seeds, &unknown).unwrap_err().to_string().contains("no experiment of that name"));
    }

    #[test]
    fn nonsense_is_named() {
        let says = |parameters, what: &str| {
            let text = total(&sweep(parameters)).unwrap_err().to_string();
            assert!(text.contains(what), "{text}");
        };
        says(json!({"trainer.seed": {"values": []}}), "parameters.trainer.seed: values is empty");
        says(json!({"trainer.seed": {"min": 3, "max": 1}}), "grid search needs");
        says(json!({"trainer.seed": {"value": 1, "values": [1]}}), "not both");
        says(json!({"a": {"min": 1, "max": 9000}, "b": {"min": 1, "max": 9000}}), "81000000 points");
        let many = (0..300).map(|i| (format!("p{i}"), json!({"value": i}))).collect::<serde_json::Map<_, _>>();
        says(many.into(), "300 parameters");
        let endless = Sweep { method: Method::Random, ..grid() };
        assert!(total(&endless).unwrap_err().to_string().contains("run_cap"));
    }

    #[test]
    fn a_field_that_is_not_there_is_named() {
        let with = |name: &str, value| with(&grid(), &BTreeMap::from([(name.to_owned(), value)]));
        assert_eq!(with("trainer.seed", json!(7)).unwrap().trainer.seed, 7);
        let text = with("trainer.optimiser.lr", json!(1)).unwrap_err().to_string();
        assert!(text.contains("parameters.trainer.optimiser.lr") && text.contains("optimiser"), "{text}");
        assert!(with("trainer.seed", json!("x")).unwrap_err().to_string().contains("trainer.seed"));
    }
}
