//! The same cases in every run: without them nothing can be compared in pairs.

use std::collections::{BTreeMap, BTreeSet};

use morph_scores::cases::{Case, Persons};

use super::{gather::Scored, groups::Group, table::key};

/// How many missing cases are named.
const NAMED: usize = 5;
const CLASSES: [&str; 2] = ["healthy", "pathology"];

/// The cases of a comparison, in one order for all runs.
#[derive(Debug)]
pub struct Pairs<'a> {
    name: String,
    sets: [&'a str; 2],
    /// Healthy and pathological, as the first run has them.
    cases: [Vec<&'a Case>; 2],
    patients: Option<[Vec<u64>; 2]>,
    /// What a reader must know.
    pub notes: Vec<String>,
}

/// The cases of one class of the comparison `name`, as `run` has them.
fn own<'a>(run: &'a Scored, name: &str, class: usize) -> Vec<&'a Case> {
    let Some(pair) = run.evaluation.design.comparisons.get(name) else { return Vec::new() };
    run.cases.set(if class == 0 { &pair.healthy } else { &pair.pathology }).collect()
}

impl<'a> Pairs<'a> {
    /// The comparison.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Names of its healthy and its pathological set, as the first run has them.
    pub fn sets(&self) -> [&'a str; 2] {
        self.sets
    }

    /// The person of each case as a number, where all are known.
    pub fn patients(&self) -> Option<[&[u64]; 2]> {
        self.patients.as_ref().map(|p| [p[0].as_slice(), p[1].as_slice()])
    }

    /// The cases of comparison `name`, if all runs have scored the same ones.
    ///
    /// # Errors
    /// Which cases are missing where.
    pub fn new(groups: &[Group<'a>], name: &str) -> Result<Self, String> {
        let runs: Vec<&'a Scored> = groups.iter().flat_map(|g| g.runs.iter().copied()).collect();
        let first = *runs.first().ok_or("there are no runs to compare")?;
        let cases = [own(first, name, 0), own(first, name, 1)];
        let mut missing = Vec::new();
        for other in &runs[1..] {
            for (class, of_first) in cases.iter().enumerate() {
                let of_other = own(other, name, class);
                missing.extend(absent(CLASSES[class], of_first, first, &of_other, other));
                missing.extend(absent(CLASSES[class], &of_other, other, of_first, first));
            }
        }
        if !missing.is_empty() {
            return Err(format!(
                "{name}: the runs did not score the same cases, so they cannot be compared in pairs\n  {}",
                missing.join("\n  ")
            ));
        }
        let mut notes = Vec::new();
        let of_these: BTreeSet<&str> = cases.iter().flatten().map(|c| c.dataset.as_str()).collect();
        let digests = |s: &Scored| {
            let own = s.evaluation.datasets.iter().filter(|d| of_these.contains(d.name.as_str()));
            own.map(|d| d.digest.clone()).collect::<BTreeSet<String>>()
        };
        if let Some(other) = runs.iter().find(|s| digests(s) != digests(first)) {
            notes.push(format!(
                "Run {} was scored on another preparation of the dataset than run {}: the same cases, but not the same pixels.",
                other.run.name, first.run.name
            ));
        }
        // Numbered as in the evaluation, so that resamples are the same ones.
        let persons = Persons::of(first.cases.cases());
        let numbers = |class: usize| persons.numbers(cases[class].iter().copied());
        let patients = numbers(0).zip(numbers(1)).map(<[Vec<u64>; 2]>::from);
        let pair = first.evaluation.design.comparisons.get(name);
        let sets = pair.map_or([""; 2], |pair| [pair.healthy.as_str(), pair.pathology.as_str()]);
        Ok(Self { name: name.to_owned(), sets, cases, patients, notes })
    }

    /// Numbers of cases.
    pub fn counts(&self) -> [usize; 2] {
        [self.cases[0].len(), self.cases[1].len()]
    }

    /// Numbers of what is drawn of each class when cases are resampled: persons where all are known, else cases.
    pub fn drawn(&self) -> [usize; 2] {
        let persons = |of: &Vec<u64>| of.iter().collect::<BTreeSet<_>>().len();
        self.patients.as_ref().map_or_else(|| self.counts(), |[healthy, sick]| [persons(healthy), persons(sick)])
    }

    /// Names of the datasets that the cases are of.
    pub fn datasets(&self) -> Vec<String> {
        let all: BTreeSet<&str> = self.cases.iter().flatten().map(|c| c.dataset.as_str()).collect();
        all.into_iter().map(ToOwned::to_owned).collect()
    }

    /// How many persons there are, where all are known.
    pub fn persons(&self) -> Option<usize> {
        let all = self.patients.as_ref()?.iter().flatten().collect::<BTreeSet<_>>();
        Some(all.len())
    }

    /// `[healthy, pathology]` numbers of `column` in `run`.
    ///
    /// # Errors
    /// When a case has no such number.
    pub fn values(&self, run: &Scored, column: &str) -> Result<[Vec<f64>; 2], String> {
        let at = run.cases.column(column).ok_or_else(|| format!("run {} has no score {column:?}", run.run.name))?;
        let of = |class: usize| -> Result<Vec<f64>, String> {
            let theirs: BTreeMap<_, _> = own(run, &self.name, class).into_iter().map(|c| (key(c), c)).collect();
            let value = |case: &&Case| {
                theirs.get(&key(case)).and_then(|c| c.scores[at]).ok_or_else(|| {
                    format!("case {} of dataset {} has no {column} in run {}", case.id, case.dataset, run.run.name)
                })
            };
            self.cases[class].iter().map(value).collect()
        };
        Ok([of(0)?, of(1)?])
    }
}

/// What `theirs` lacks of `ours`, in a line.
fn absent(class: &str, ours: &[&Case], of_ours: &Scored, theirs: &[&Case], of_theirs: &Scored) -> Option<String> {
    let have: BTreeSet<_> = theirs.iter().map(|c| key(c)).collect();
    let missing: Vec<&str> = ours.iter().filter(|c| !have.contains(&key(c))).map(|c| c.id.as_str()).collect();
    if missing.is_empty() {
        return None;
    }
    let more = if missing.len() > NAMED { ", …" } else { "" };
    Some(format!(
        "{class}: {} cases of run {} are not in run {}: {}{more}",
        missing.len(),
        of_ours.run.name,
        of_theirs.run.name,
        missing[..missing.len().min(NAMED)].join(", ")
    ))
}
