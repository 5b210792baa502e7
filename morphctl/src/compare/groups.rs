//! Which runs are one method: those that differ in the seed only.

use morph_spec::{Experiment, sweep::EXPERIMENT};
use serde_json::Value;

use super::gather::Scored;

/// A row of the table: a method, trained once or with several seeds.
#[derive(Debug, Clone)]
pub struct Group<'a> {
    /// For people; no two groups have the same.
    pub label: String,
    /// Its runs.
    pub runs: Vec<&'a Scored>,
}

/// The runs as methods, in the order in which they come.
pub fn groups(runs: &[Scored]) -> Vec<Group<'_>> {
    let mut kinds: Vec<(Value, Group<'_>)> = Vec::new();
    for run in runs {
        let kind = without_seed(&run.experiment);
        match kinds.iter_mut().find(|(k, _)| *k == kind) {
            Some((_, group)) => group.runs.push(run),
            None => kinds.push((kind, Group { label: String::new(), runs: vec![run] })),
        }
    }
    let mut groups: Vec<Group<'_>> = kinds.into_iter().map(|(_, group)| group).collect();
    // The shortest of these that tells them apart.
    let names: [fn(&Group<'_>) -> String; 4] = [
        |g| g.runs[0].experiment.model.method.name().to_owned(),
        |g| g.runs[0].experiment.name.clone(),
        |g| format!("{} {}", g.runs[0].experiment.model.method.name(), choices(g.runs[0])).trim().to_owned(),
        |g| g.runs[0].run.name.clone(),
    ];
    let unique = |name: &fn(&Group<'_>) -> String| {
        let labels: Vec<String> = groups.iter().map(name).collect();
        labels.iter().enumerate().all(|(i, label)| !labels[..i].contains(label))
    };
    // Names of runs are unique.
    let name = names.iter().find(|n| unique(n)).unwrap_or(&names[3]);
    let labels: Vec<String> = groups.iter().map(name).collect();
    groups.iter_mut().zip(labels).for_each(|(group, label)| group.label = label);
    groups
}

/// What of an experiment makes a method: all but the seed, names, and how it is scheduled.
fn without_seed(experiment: &Experiment) -> Value {
    let mut plain = experiment.clone();
    plain.trainer.seed = 0;
    plain.description.clear();
    plain.scheduling = Default::default();
    // Whatever it was called.
    plain.name.clear();
    serde_json::to_value(plain).unwrap_or_default()
}

/// What the sweep chose for a run, but for the seed and the experiment.
fn choices(run: &Scored) -> String {
    let Ok(Value::Object(mut map)) = serde_json::from_str(&run.run.params_json) else { return String::new() };
    map.remove("trainer.seed");
    map.remove(EXPERIMENT);
    crate::text::params(&Value::Object(map).to_string())
}
