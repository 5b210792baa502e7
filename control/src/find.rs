//! People's words for runs and sweeps: an id, a unique beginning of one, or a name.

use std::{collections::BTreeMap, fmt::Display, str::FromStr};

use morph_spec::{RunId, SweepId, WorkerId};

use crate::{Cluster, Refusal, Target};

/// Beginnings of ids shorter than this are not looked up.
const PREFIX: usize = 4;
/// As many are named when several are meant.
const NAMED: usize = 5;
/// Characters of an id.
const WHOLE: usize = 26;

/// The run or sweep that `text` means.
///
/// # Errors
/// [`Refusal::NotFound`], also when several are meant: then it lists them.
pub fn find(cluster: &Cluster, text: &str) -> Result<Target, Refusal> {
    let mut meant = runs(cluster, text).map(Target::Run);
    meant.extend(sweeps(cluster, text).map(Target::Sweep));
    meant.one("run or sweep", text)
}

/// The run that `text` means.
///
/// # Errors
/// As [`find`].
pub fn find_run(cluster: &Cluster, text: &str) -> Result<RunId, Refusal> {
    runs(cluster, text).one("run", text)
}

/// The sweep that `text` means.
///
/// # Errors
/// As [`find`].
pub fn find_sweep(cluster: &Cluster, text: &str) -> Result<SweepId, Refusal> {
    sweeps(cluster, text).one("sweep", text)
}

/// The worker that `text` means: an id, a unique beginning of one, or a host.
///
/// # Errors
/// As [`find`].
pub fn find_worker(cluster: &Cluster, text: &str) -> Result<WorkerId, Refusal> {
    let named = cluster.workers.values().filter(|w| w.host == text).map(|w| w.id);
    Meant::new(&cluster.workers, text, named, |w| &w.host).one("worker", text)
}

fn runs(cluster: &Cluster, text: &str) -> Meant<RunId> {
    Meant::new(&cluster.runs, text, cluster.index.run_names.get(text).copied(), |r| &r.name)
}

fn sweeps(cluster: &Cluster, text: &str) -> Meant<SweepId> {
    Meant::new(&cluster.sweeps, text, cluster.index.sweep_names.get(text).copied(), |s| &s.name)
}

/// What a text may mean; each with the words by which people know it.
struct Meant<T> {
    /// Its name or its whole id.
    exact: Vec<(T, String)>,
    /// What begins with it; not many more than are named.
    begins: Vec<(T, String)>,
}

impl<T: Copy + Ord + Display + FromStr> Meant<T> {
    fn new<V>(
        all: &BTreeMap<T, V>,
        text: &str,
        named: impl IntoIterator<Item = T>,
        name: impl Fn(&V) -> &String,
    ) -> Self {
        let upper = text.to_uppercase();
        let label = |id: T| (id, format!("{} ({id})", all.get(&id).map_or("", |v| name(v))));
        let mut exact: Vec<T> = named.into_iter().collect();
        // Ids sort as their texts do: those that begin alike lie side by side.
        let padded = |filler: &str| format!("{upper}{}", filler.repeat(WHOLE.saturating_sub(upper.len()))).parse::<T>();
        let mut begins = Vec::new();
        if let (PREFIX..=WHOLE, Ok(first), Ok(last)) = (upper.len(), padded("0"), padded("Z")) {
            let alike = all.range(first..=last).map(|(id, _)| *id).filter(|id| id.to_string().starts_with(&upper));
            begins.extend(alike.take(NAMED + 1));
        }
        if upper.len() == WHOLE {
            exact.append(&mut begins);
            exact.sort_unstable();
            exact.dedup();
        }
        Self { exact: exact.into_iter().map(label).collect(), begins: begins.into_iter().map(label).collect() }
    }
}

impl<T> Meant<T> {
    fn map<U>(self, f: impl Fn(T) -> U) -> Meant<U> {
        let all = |items: Vec<(T, String)>| items.into_iter().map(|(item, label)| (f(item), label)).collect();
        Meant { exact: all(self.exact), begins: all(self.begins) }
    }

    fn extend(&mut self, other: Self) {
        self.exact.extend(other.exact);
        self.begins.extend(other.begins);
    }

    fn one(self, what: &str, text: &str) -> Result<T, Refusal> {
        let mut found = if self.exact.is_empty() { self.begins } else { self.exact };
        match found.len() {
            1 => Ok(found.remove(0).0),
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
                let mut some: Vec<String> = found.into_iter().take(NAMED).map(|(_, label)| label).collect();
                if n > some.len() {
                    some.push("…".into());
                }
                Err(Refusal::NotFound(format!("{what} {text:?} is ambiguous: {}", some.join(", "))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use morph_spec::{Rng, Timestamp};

    use super::*;

    /// As [`Meant`], by looking at everything.
    fn slowly(all: &BTreeMap<RunId, String>, text: &str) -> Vec<RunId> {
        let upper = text.to_uppercase();
        let those = |fits: &dyn Fn(&RunId, &String) -> bool| -> Vec<RunId> {
            all.iter().filter(|(id, name)| fits(id, name)).map(|(id, _)| *id).collect()
        };
        let exact = those(&|id, name| name == text || id.to_string() == upper);
        let begins = those(&|id, _| text.len() >= PREFIX && id.to_string().starts_with(&upper));
        if exact.is_empty() { begins } else { exact }
    }

    #[test]
    fn beginnings_are_found_as_if_all_were_looked_at() {
        let mut rng = Rng::keyed(3, "find", 0);
        let mut all = BTreeMap::new();
        for n in 0..300_u64 {
            // Ages from seconds to decades apart, so that beginnings of all lengths are shared.
            all.insert(RunId::new(Timestamp((1 << (n % 50)) * 1000), &mut rng), format!("demo-{n}"));
        }
        let ids: Vec<String> = all.keys().map(ToString::to_string).collect();
        let mut texts: Vec<String> = ids.iter().flat_map(|id| (1..=26).map(|n| id[..n].to_owned())).collect();
        texts.extend(texts.clone().iter().map(|t| t.to_lowercase()));
        texts.extend(["", "demo-7", "demo", "OOOO", "ZZZZ", "0I00", "0L00", "00U0", "01ÄÖ", "0000-"].map(String::from));
        texts.extend(ids.iter().map(|id| format!("{id}0")));
        for text in texts {
            let named = all.iter().filter(|(_, name)| **name == text).map(|(id, _)| *id);
            let meant = Meant::new(&all, &text, named, |name| name);
            let found: Vec<RunId> =
                if meant.exact.is_empty() { &meant.begins } else { &meant.exact }.iter().map(|(id, _)| *id).collect();
            let expected = slowly(&all, &text);
            assert_eq!(found, expected[..expected.len().min(NAMED + 1)], "{text:?}");
        }
    }
}
