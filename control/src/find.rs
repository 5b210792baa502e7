//! People's words for runs and sweeps: an id, a unique beginning of one, or a name.

use std::{collections::BTreeMap, fmt::Display, str::FromStr};

use morph_spec::{Experiment, RunId, SweepId, WorkerId};

use crate::{Cluster, Refusal, Sweep, Target};

/// Beginnings of ids shorter than this are not looked up.
const PREFIX: usize = 4;
/// As many are named when several are meant.
const NAMED: usize = 5;
/// Bytes of what was said that are said again.
const QUOTED: usize = 200;
/// Characters of an id.
const WHOLE: usize = 26;

/// What somebody said, in quotes; of what is long only the beginning.
pub fn quoted(text: &str) -> String {
    if text.len() <= QUOTED {
        format!("{text:?}")
    } else {
        format!("{:?}…", &text[..text.floor_char_boundary(QUOTED)])
    }
}

/// The run or sweep that `text` means, of those of project `within` if one is given: of others nothing is told, nor do they make
/// a text mean several.
///
/// # Errors
/// [`Refusal::NotFound`], also when several are meant: then it lists them.
pub fn find(cluster: &Cluster, text: &str, within: Option<&str>) -> Result<Target, Refusal> {
    let mut meant = runs(cluster, text, within).map(Target::Run);
    meant.extend(sweeps(cluster, text, within).map(Target::Sweep));
    meant.one("run or sweep", text, within)
}

/// The run that `text` means.
///
/// # Errors
/// As [`find`].
pub fn find_run(cluster: &Cluster, text: &str, within: Option<&str>) -> Result<RunId, Refusal> {
    runs(cluster, text, within).one("run", text, within)
}

/// The sweep that `text` means.
///
/// # Errors
/// As [`find`].
pub fn find_sweep(cluster: &Cluster, text: &str, within: Option<&str>) -> Result<SweepId, Refusal> {
    sweeps(cluster, text, within).one("sweep", text, within)
}

/// The worker that `text` means: an id, a unique beginning of one, or a host.
///
/// # Errors
/// As [`find`].
pub fn find_worker(cluster: &Cluster, text: &str) -> Result<WorkerId, Refusal> {
    let named = cluster.workers.values().filter(|w| w.host == text).map(|w| w.id);
    Meant::new(&cluster.workers, text, named, |w| &w.host, |_| true).one("worker", text, None)
}

fn runs(cluster: &Cluster, text: &str, within: Option<&str>) -> Meant<RunId> {
    let named = cluster.index.run_names.get(text).copied();
    Meant::new(&cluster.runs, text, named, |r| &r.name, |r| is_within(&r.experiment, within))
}

fn sweeps(cluster: &Cluster, text: &str, within: Option<&str>) -> Meant<SweepId> {
    let named = cluster.index.sweep_names.get(text).copied();
    Meant::new(&cluster.sweeps, text, named, |s| &s.name, |s| cluster.has_within(s, within))
}

impl Cluster {
    /// Whether all of `sweep` is of project `within`, if one is given: a parameter may put a run into another project than its experiment.
    pub fn has_within(&self, sweep: &Sweep, within: Option<&str>) -> bool {
        let mut runs = sweep.runs.iter().filter_map(|id| self.runs.get(id));
        within.is_none()
            || sweep.spec.experiment.iter().all(|e| is_within(e, within))
                && runs.all(|r| is_within(&r.experiment, within))
    }
}

fn is_within(experiment: &Experiment, within: Option<&str>) -> bool {
    within.is_none_or(|project| experiment.scheduling.project == project)
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
        seen: impl Fn(&V) -> bool,
    ) -> Self {
        let upper = text.to_uppercase();
        let label = |id: T| (id, format!("{} ({id})", all.get(&id).map_or("", |v| name(v))));
        let mut exact: Vec<T> = named.into_iter().filter(|id| all.get(id).is_some_and(&seen)).collect();
        // Ids sort as their texts do: those that begin alike lie side by side.
        let padded = |filler: &str| format!("{upper}{}", filler.repeat(WHOLE.saturating_sub(upper.len()))).parse::<T>();
        let mut begins = Vec::new();
        if let (PREFIX..=WHOLE, Ok(first), Ok(last)) = (upper.len(), padded("0"), padded("Z")) {
            let alike = all
                .range(first..=last)
                .filter(|(_, v)| seen(v))
                .map(|(id, _)| *id)
                .filter(|id| id.to_string().starts_with(&upper));
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

    fn one(self, what: &str, text: &str, within: Option<&str>) -> Result<T, Refusal> {
        let mut found = if self.exact.is_empty() { self.begins } else { self.exact };
        match found.len() {
            1 => Ok(found.remove(0).0),
            0 => Err(Refusal::NotFound(format!(
                "there is no {what} {}{}; list them with: morphctl get {}",
                quoted(text),
                within.map(|project| format!(" in project {project}")).unwrap_or_default(),
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
                Err(Refusal::NotFound(format!("{what} {} is ambiguous: {}", quoted(text), some.join(", "))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use morph_spec::{Rng, Timestamp};

    use super::*;
    use crate::{Event, Policy, evolve};

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
            let meant = Meant::new(&all, &text, named, |name| name, |_| true);
            let found: Vec<RunId> =
                if meant.exact.is_empty() { &meant.begins } else { &meant.exact }.iter().map(|(id, _)| *id).collect();
            let expected = slowly(&all, &text);
            assert_eq!(found, expected[..expected.len().min(NAMED + 1)], "{text:?}");
        }
    }

    #[test]
    fn what_is_not_seen_is_neither_named_nor_in_the_way() {
        let mut cluster = Cluster::new(Policy::default());
        for line in include_str!("../tests/golden/events.jsonl").lines() {
            let event = Event::from_json(line).unwrap();
            if event.kind() != "worker_forgotten" {
                evolve(&mut cluster, &event);
            }
        }
        let template = cluster.runs.values().next().unwrap().clone();
        let mut rng = Rng::keyed(4, "find", 0);
        // In the same millisecond: beginnings of ten characters mean both.
        for (name, project) in [("own", "brain"), ("secret", "thorax")] {
            let mut run = template.clone();
            run.id = RunId::new(Timestamp(1_900_000_000_000_000), &mut rng);
            run.name = name.into();
            Arc::make_mut(&mut run.experiment).scheduling.project = project.into();
            cluster.index.name_run(name, run.id);
            cluster.runs.insert(run.id, run);
        }
        let id = |name: &str| cluster.index.run_names[name];
        let both = &id("own").to_string()[..10];
        let said = find(&cluster, both, None).unwrap_err().to_string();
        assert!(said.contains("ambiguous") && said.contains("own") && said.contains("secret"), "{said}");
        assert_eq!(find(&cluster, both, Some("brain")), Ok(Target::Run(id("own"))));
        assert_eq!(find_run(&cluster, both, Some("brain")), Ok(id("own")));
        for text in ["secret", both, &id("secret").to_string()] {
            let said = find(&cluster, text, Some("lung")).unwrap_err().to_string();
            let tells = |word: &str| !text.contains(word) && said.contains(word);
            assert!(said.contains("in project lung"), "{said}");
            assert!(!tells("secret") && !tells("thorax") && !tells(&id("secret").to_string()), "{said}");
        }
        let sweep = cluster.sweeps.values().next().unwrap();
        let project = sweep.spec.experiment.first().scheduling.project.clone();
        assert_eq!(find_sweep(&cluster, &sweep.name, Some(&project)), Ok(sweep.id));
        assert!(find_sweep(&cluster, &sweep.name, Some("lung")).is_err());
    }

    #[test]
    fn no_more_is_said_again_than_tells_what_was_said() {
        assert_eq!(quoted("a\n"), r#""a\n""#);
        let cluster = Cluster::new(Policy::default());
        let said = find(&cluster, &"ä".repeat(10_000), None).unwrap_err().to_string();
        assert!(said.len() < 400 && said.contains("ää\"…; list them"), "{said}");
    }
}
