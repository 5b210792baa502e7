//! People's words for runs and sweeps: an id, a unique beginning of one, or a name.

use morph_spec::{RunId, SweepId, WorkerId};

use crate::{Cluster, Refusal, Target};

/// Beginnings of ids shorter than this are not looked up.
const PREFIX: usize = 4;

/// The run or sweep that `text` means.
///
/// # Errors
/// [`Refusal::NotFound`], also when several are meant: then it lists them.
pub fn find(cluster: &Cluster, text: &str) -> Result<Target, Refusal> {
    // The common case; the long way is for beginnings of ids, and for a run and a sweep of one name.
    match (cluster.index.run_names.get(text), cluster.index.sweep_names.get(text)) {
        (Some(run), None) => return Ok(Target::Run(*run)),
        (None, Some(sweep)) => return Ok(Target::Sweep(*sweep)),
        _ => {}
    }
    let runs = cluster.in_order().map(|r| (r.id.to_string(), r.name.as_str(), Target::Run(r.id)));
    let sweeps = cluster.sweeps.values().map(|s| (s.id.to_string(), s.name.as_str(), Target::Sweep(s.id)));
    one("run or sweep", text, runs.chain(sweeps))
}

/// The run that `text` means.
///
/// # Errors
/// As [`find`].
pub fn find_run(cluster: &Cluster, text: &str) -> Result<RunId, Refusal> {
    if let Some(run) = cluster.index.run_names.get(text) {
        return Ok(*run);
    }
    one("run", text, cluster.in_order().map(|r| (r.id.to_string(), r.name.as_str(), r.id)))
}

/// The sweep that `text` means.
///
/// # Errors
/// As [`find`].
pub fn find_sweep(cluster: &Cluster, text: &str) -> Result<SweepId, Refusal> {
    one("sweep", text, cluster.sweeps.values().map(|s| (s.id.to_string(), s.name.as_str(), s.id)))
}

/// The worker that `text` means: an id, a unique beginning of one, or a host.
///
/// # Errors
/// As [`find`].
pub fn find_worker(cluster: &Cluster, text: &str) -> Result<WorkerId, Refusal> {
    one("worker", text, cluster.workers.values().map(|w| (w.id.to_string(), w.host.as_str(), w.id)))
}

fn one<'a, T>(what: &str, text: &str, all: impl Iterator<Item = (String, &'a str, T)>) -> Result<T, Refusal> {
    let upper = text.to_uppercase();
    let mut exact = Vec::new();
    let mut begins = Vec::new();
    for (id, name, item) in all {
        if name == text || id == upper {
            exact.push((id, name, item));
        } else if text.len() >= PREFIX && id.starts_with(&upper) {
            begins.push((id, name, item));
        }
    }
    let mut found = if exact.is_empty() { begins } else { exact };
    match found.len() {
        1 => Ok(found.remove(0).2),
        0 => Err(Refusal::NotFound(format!(
            "there is no {what} {text:?}; list them with: morphctl get {}",
            match what {
                "worker" => "workers",
                "run" => "runs",
                "sweep" => "sweeps",
                _ => "runs, morphctl get sweeps",
            }
        ))),
        n => {
            let mut some: Vec<String> = found.iter().take(5).map(|(id, name, _)| format!("{name} ({id})")).collect();
            if n > some.len() {
                some.push("…".into());
            }
            Err(Refusal::NotFound(format!("{what} {text:?} is ambiguous: {}", some.join(", "))))
        }
    }
}
