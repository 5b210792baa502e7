//! Checks of a sweep: its search space, and that the experiment takes every value of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Number, Value, json};

use super::{Checks, FieldProblem, fields};
use crate::{
    Experiment, Sweep,
    evaluation::{MEASURES, PLAIN},
    nearest::{nearest, suggest},
    sweep::{Distribution, EXPERIMENT, MOST_RUNS, Method, Parameter},
};

/// Of larger grids the values are checked one by one, but not all their combinations.
const COMBINATIONS: usize = 1000;

impl Sweep {
    /// Looks at the experiment, the search space, and every value in it.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn validate(&self) -> Result<(), Vec<FieldProblem>> {
        let mut c = Checks::default();
        c.name(&self.name, "name");
        let bases = self.check_experiments(&mut c);
        let sound = bases.iter().all(Vec::is_empty);
        self.check_metric(&mut c);
        c.that(
            !self.parameters.is_empty() || self.experiment.count() > 1,
            "parameters",
            "there is nothing to vary",
            "name at least one field of the experiment: `parameters: {trainer.optimizer.lr: {values: [1e-3, 1e-4]}}`",
        );
        if self.run_cap == Some(0) {
            c.problem("run_cap", "0 runs are no sweep", "take 1 or more, or leave it out");
        }
        if self.method == Method::Random && self.run_cap.is_none() {
            c.problem("method", "random search never ends by itself", "say how many runs: `run_cap: 20`");
        }
        // What is not in all of them cannot be varied in all of them.
        let mut known = fields(self.experiment.first());
        for other in self.experiment.iter().skip(1).map(fields) {
            known.retain(|field| other.contains(field));
        }
        let before = c.0.len();
        let mut good = Vec::new();
        for (name, parameter) in &self.parameters {
            if known.contains(name) {
                let so_far = c.0.len();
                self.check_parameter(&mut c, name, parameter);
                good.extend((c.0.len() == so_far).then_some((name, parameter)));
            } else {
                let help =
                    nearest(name, known.iter().map(String::as_str)).or_else(|| by_last_part(name, &known)).map_or_else(
                        || "fields are dotted names, as in `trainer.optimizer.lr`".to_owned(),
                        |k| format!("did you mean `{k}`?"),
                    );
                c.problem(format!("parameters.{name}"), format!("the experiment has no field `{name}`"), help);
            }
        }
        let points = if good.len() == self.parameters.len() && sound { self.points() } else { Vec::new() };
        self.check_values(&mut c, &good, &bases, &points);
        if c.0.len() == before && sound {
            self.check_size(&mut c);
            check_points(&mut c, points);
        }
        c.done()
    }

    /// Each experiment by itself; what is wrong with each.
    fn check_experiments(&self, c: &mut Checks) -> Vec<Vec<FieldProblem>> {
        let mut bases = Vec::new();
        for (i, experiment) in self.experiment.iter().enumerate() {
            let field = self.experiment.field(i);
            let base = experiment.validate().err().unwrap_or_default();
            c.0.extend(base.iter().map(|p| FieldProblem { field: format!("{field}.{}", p.field), ..p.clone() }));
            bases.push(base);
            let namesake = self.experiment.iter().take(i).any(|e| e.name == experiment.name);
            c.that(
                !namesake,
                &format!("{field}.name"),
                format!("another experiment of this sweep is called {:?}, too", experiment.name),
                "runs are told apart by it: give each a name of its own",
            );
        }
        bases
    }

    fn check_metric(&self, c: &mut Checks) {
        let name = self.metric.name.as_str();
        // A metric that only some runs have cannot compare them.
        let names = |e: &Experiment| -> BTreeSet<String> {
            e.evaluation.pathology.keys().chain(e.evaluation.comparisons.keys()).cloned().collect()
        };
        let in_all = |name: &&String| self.experiment.iter().all(|e| names(e).contains(*name));
        let all: Vec<String> = names(self.experiment.first())
            .iter()
            .filter(in_all)
            .flat_map(|p| MEASURES.iter().map(move |m| format!("{p}/{m}")))
            .chain(PLAIN.iter().map(|m| (*m).to_owned()))
            .collect();
        if !all.iter().any(|m| m == name) {
            let known: Vec<&str> = all.iter().map(String::as_str).collect();
            c.problem("metric.name", format!("no run will have a metric {name:?}"), suggest(name, &known));
        }
    }

    fn check_parameter(&self, c: &mut Checks, name: &str, p: &Parameter) {
        let field = format!("parameters.{name}");
        let range = p.min.is_some() || p.max.is_some();
        let ways = [p.value.is_some(), p.values.is_some(), range].iter().filter(|given| **given).count();
        if ways != 1 {
            let message = if ways == 0 { "it has no values" } else { "it has its values in more than one way" };
            c.problem(field, message, "give one of `value`, `values`, or `min` with `max`");
            return;
        }
        let list = p.value.is_some() || p.values.is_some();
        let fits = match p.distribution {
            None => true,
            Some(Distribution::Constant) => p.value.is_some(),
            Some(Distribution::Categorical) => p.values.is_some(),
            Some(_) => range,
        };
        c.that(
            fits,
            &format!("{field}.distribution"),
            "the distribution does not go with how the values are given",
            "constant takes `value`, categorical `values`, all others `min` and `max`",
        );
        if let Some(values) = &p.values {
            c.that(!values.is_empty(), &format!("{field}.values"), "there is no value", "");
            for (i, value) in values.iter().enumerate() {
                let repeated = values[..i].contains(value);
                c.that(!repeated, &format!("{field}.values.{i}"), format!("{value} is there twice"), "leave one out");
            }
        }
        if !list && fits {
            self.check_range(c, name, p);
        }
    }

    fn check_range(&self, c: &mut Checks, name: &str, p: &Parameter) {
        let field = format!("parameters.{name}");
        let (Some(low), Some(high)) = (&p.min, &p.max) else {
            let (missing, given) = if p.min.is_none() { ("min", "max") } else { ("max", "min") };
            c.problem(&field, format!("`{given}` without `{missing}`"), "a range has both");
            return;
        };
        let whole = whole(low).is_some() && whole(high).is_some();
        let (min, max) = (low.as_f64().unwrap_or(f64::NAN), high.as_f64().unwrap_or(f64::NAN));
        // Not `min > max`: what cannot be compared is wrong as well.
        let ordered = min <= max && (max - min).is_finite();
        c.that(ordered, &format!("{field}.min"), format!("min {low} is above max {high}"), "exchange them");
        match p.distribution {
            Some(Distribution::IntUniform) => {
                c.that(whole, &format!("{field}.min"), "int_uniform needs whole numbers", "or use uniform");
            }
            Some(Distribution::LogUniformValues) => {
                c.that(min > 0.0, &format!("{field}.min"), format!("{low} has no logarithm"), "min must be above 0");
            }
            Some(Distribution::LogUniform) => c.that(
                min >= -100.0 && max <= 100.0,
                &format!("{field}.max"),
                "with log_uniform min and max are exponents of e, as in W&B",
                "use log_uniform_values to give the values themselves",
            ),
            _ => {}
        }
        if self.method == Method::Grid && !(whole && matches!(p.distribution, None | Some(Distribution::IntUniform))) {
            c.problem(&field, "a grid cannot go through a continuous range", "list `values`, or use `method: random`");
        }
    }

    /// The number of points of a grid.
    fn check_size(&self, c: &mut Checks) {
        let points = match self.method {
            Method::Random => u64::from(self.run_cap.unwrap_or(0)),
            Method::Grid => {
                let experiments = u64::from(self.experiment.count());
                let grid = self.parameters.values().map(count).fold(experiments, u64::saturating_mul);
                self.run_cap.map_or(grid, |cap| grid.min(cap.into()))
            }
        };
        let field = if self.method == Method::Random || self.run_cap.is_some() { "run_cap" } else { "parameters" };
        c.that(
            points <= MOST_RUNS,
            field,
            format!("{points} runs: a sweep has at most {MOST_RUNS}"),
            "set run_cap, or list fewer values",
        );
    }

    /// Every value by itself, in each experiment; `bases` is what is wrong with these anyway.
    fn check_values(
        &self,
        c: &mut Checks,
        good: &[(&String, &Parameter)],
        bases: &[Vec<FieldProblem>],
        points: &[Point],
    ) {
        for (name, parameter) in good {
            for (place, value) in samples(parameter) {
                let problem = |i| self.check_value(i, name, &value, &bases[i], points);
                if let Some(mut p) = (0..bases.len()).find_map(problem) {
                    p.field = format!("parameters.{name}{place}");
                    c.0.push(p);
                }
            }
        }
    }

    /// What is wrong with `value` of the parameter `name` in the `index`-th experiment.
    fn check_value(
        &self,
        index: usize,
        name: &str,
        value: &Value,
        base: &[FieldProblem],
        points: &[Point],
    ) -> Option<FieldProblem> {
        let experiment = self.experiment.iter().nth(index)?;
        // A value that no experiment takes is not the fault of the one that is looked at.
        let told = |message: String| match self.experiment.count() {
            1 => message,
            _ => format!("with {EXPERIMENT}={}: {message}", experiment.name),
        };
        let changed = match experiment.filled(&BTreeMap::from([(name.to_owned(), value.clone())])) {
            Ok(changed) => changed,
            Err(p) => return Some(p),
        };
        let own = |p: &FieldProblem| p.field == name || p.field.starts_with(&format!("{name}."));
        // Another parameter may make good what this value alone would break.
        let made_good = |p: &FieldProblem| {
            let here = |point: &&Point| point.experiment == index && point.values.get(name) == Some(value);
            points.iter().filter(here).any(|point| point.problems.iter().all(|q| q.field != p.field))
        };
        let blamed = changed.validate().err().unwrap_or_default().into_iter().find(|p| {
            (own(p) || self.parameters.len() == 1) && base.iter().all(|q| q.field != p.field) && !made_good(p)
        })?;
        let message = if own(&blamed) { blamed.message } else { format!("{}: {}", blamed.field, blamed.message) };
        Some(FieldProblem { message: told(message), ..blamed })
    }

    /// The points of the space (of a continuous one its corners) and what is wrong with each; none when there are many.
    fn points(&self) -> Vec<Point> {
        let list = |p| match self.method {
            Method::Grid => all(p),
            Method::Random => samples(p).into_iter().map(|(_, v)| v).collect(),
        };
        let lists: Vec<(&String, Vec<Value>)> = self.parameters.iter().map(|(name, p)| (name, list(p))).collect();
        let points = lists.iter().map(|(_, l)| l.len()).fold(1, usize::saturating_mul);
        if points.saturating_mul(self.experiment.iter().len()) > COMBINATIONS {
            return Vec::new();
        }
        let values = |mut index: usize| {
            let mut values = BTreeMap::new();
            for (name, list) in &lists {
                values.insert((*name).clone(), list[index % list.len()].clone());
                index /= list.len();
            }
            values
        };
        let point = |(experiment, e): (usize, &Experiment), index: usize| {
            let values = values(index);
            let problems = e.filled(&values).map_or_else(|_| Vec::new(), |e| e.validate().err().unwrap_or_default());
            let several = self.experiment.count() > 1;
            Point { experiment, name: several.then(|| e.name.clone()), values, problems }
        };
        let experiments = self.experiment.iter().enumerate();
        experiments.flat_map(|e| (0..points).map(move |index| (e, index))).map(|(e, index)| point(e, index)).collect()
    }
}

/// A point of the search space.
struct Point {
    /// Which experiment.
    experiment: usize,
    /// Its name, where there are several.
    name: Option<String>,
    values: BTreeMap<String, Value>,
    /// What is wrong with the experiment there.
    problems: Vec<FieldProblem>,
}

fn check_points(c: &mut Checks, points: Vec<Point>) {
    let mut seen = BTreeSet::new();
    for Point { name, values, problems, .. } in points {
        for p in problems {
            if seen.insert(p.field.clone()) {
                let name = name.iter().map(|name| format!("{EXPERIMENT}={name}"));
                let said: Vec<String> = name.chain(values.iter().map(|(k, v)| format!("{k}={v}"))).collect();
                let message = format!("with {}: {}: {}", said.join(" "), p.field, p.message);
                c.problem("parameters", message, p.help.unwrap_or_default());
            }
        }
    }
}

/// A field whose last part is that of `name`, which may have been given without what is before it.
fn by_last_part<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let last = name.rsplit('.').next().unwrap_or(name);
    known.iter().map(String::as_str).find(|k| k.rsplit('.').next() == Some(last))
}

/// A whole number, however it is written.
fn whole(n: &Number) -> Option<i64> {
    n.as_i64()
}

/// How many values a grid takes from `p`.
fn count(p: &Parameter) -> u64 {
    match (&p.values, &p.min, &p.max) {
        (Some(values), ..) => values.len() as u64,
        (None, Some(min), Some(max)) => {
            whole(max).zip(whole(min)).map_or(1, |(max, min)| max.abs_diff(min).saturating_add(1))
        }
        _ => 1,
    }
}

/// All values that a grid takes from `p`, or one too many of them.
fn all(p: &Parameter) -> Vec<Value> {
    match (&p.value, &p.values, &p.min, &p.max) {
        (Some(value), ..) => vec![value.clone()],
        (_, Some(values), ..) => values.clone(),
        (.., Some(min), Some(max)) => whole(min)
            .zip(whole(max))
            .map_or_else(Vec::new, |(min, max)| (min..=max).take(COMBINATIONS + 1).map(Value::from).collect()),
        _ => Vec::new(),
    }
}

/// The values by which a parameter is judged, each with its place: all that are listed, or the ends of the range.
fn samples(p: &Parameter) -> Vec<(String, Value)> {
    if let Some(value) = &p.value {
        return vec![(".value".to_owned(), value.clone())];
    }
    if let Some(values) = &p.values {
        return values.iter().enumerate().map(|(i, v)| (format!(".values.{i}"), v.clone())).collect();
    }
    let (Some(min), Some(max)) = (&p.min, &p.max) else { return Vec::new() };
    let ints = whole(min).is_some() && whole(max).is_some();
    let drawn = |n: &Number| match p.distribution {
        Some(Distribution::LogUniform) => n.as_f64().map_or(Value::Null, |x| json!(x.exp())),
        None | Some(Distribution::IntUniform) if ints => Value::Number(n.clone()),
        // A draw from a continuous range is no whole number, even where its end is one.
        _ => n.as_f64().map_or(Value::Null, |x| json!(x)),
    };
    vec![(".min".to_owned(), drawn(min)), (".max".to_owned(), drawn(max))]
}
