//! Which images are taken, under which label, in which split.

use std::collections::{BTreeMap, BTreeSet};

use morph_spec::dataset::{Class, Dataset, Filter, Unknown};

use super::{Skipped, split};
use crate::{Error, layouts::Item, readers::Facts};

/// Images with their labels, by split.
pub(super) type Splits = BTreeMap<&'static str, Vec<(Item, String)>>;

/// Sorts `items` into splits.
///
/// Labels, findings and origins are looked at before the split is drawn; views, sexes, ages and columns after it, so that a patient
/// stays in the same split when one asks for other views.
///
/// # Errors
/// When tables put a patient into two splits.
pub(super) fn assign(spec: &Dataset, items: Vec<Item>) -> Result<(Splits, Vec<Skipped>), Error> {
    let mut skipped = Vec::new();
    let mut labelled = Vec::new();
    for item in items {
        match label(spec, &item) {
            Ok(label) => labelled.push((item, label)),
            Err(reason) => skipped.push(Skipped { source: item.source, reason }),
        }
    }
    let given = given(&labelled)?;
    let chosen = match given {
        Some(given) => given,
        None => split::of_patients(&spec.split, labelled.iter().map(|(i, label)| (i.patient.as_str(), label.as_str()))),
    };
    let mut splits = Splits::new();
    for ((item, label), split) in labelled.into_iter().zip(chosen) {
        let reason = match split {
            None => Some(format!("split.others drops {label:?}")),
            Some(_) => {
                refused_by_table(&spec.filter, &item).or_else(|| refused(&spec.filter, &item.facts, Known::SoFar))
            }
        };
        match (split, reason) {
            (Some(split), None) => splits.entry(split).or_default().push((item, label)),
            (_, reason) => skipped.push(Skipped { source: item.source, reason: reason.unwrap_or_default() }),
        }
    }
    Ok((splits, skipped))
}

/// The label of an image, or why it is left out.
fn label(spec: &Dataset, item: &Item) -> Result<String, String> {
    let label = if spec.classes.is_empty() {
        spec.labels.get(&item.label).unwrap_or(&item.label).clone()
    } else {
        let class = spec.classes.iter().find(|class| takes(class, &item.findings));
        class.map(|class| class.label.clone()).ok_or("none of `classes` takes its findings")?
    };
    if !spec.only_labels.is_empty() && !spec.only_labels.contains(&label) {
        return Err(format!("its label {label:?} is not in only_labels"));
    }
    let filter = &spec.filter;
    let has = |finding: &String| item.findings.contains(&finding.to_lowercase());
    if !filter.findings.is_empty() && !filter.findings.iter().any(has) {
        return Err("it has none of filter.findings".to_owned());
    }
    if let Some(finding) = filter.without_findings.iter().find(|f| has(f)) {
        return Err(format!("filter.without_findings leaves out {finding:?}"));
    }
    if item.origin.is_none() && !filter.without_origins.is_empty() && filter.unknown == Unknown::Drop {
        return Err("its origin is not known, and `filter` asks for it".to_owned());
    }
    let from = |place: &&String| item.origin.as_ref().is_some_and(|origin| origin.contains(place.as_str()));
    match filter.without_origins.iter().find(from) {
        Some(origin) => Err(format!("filter.without_origins leaves out {origin:?}")),
        None => Ok(label),
    }
}

fn takes(class: &Class, findings: &BTreeSet<String>) -> bool {
    let lower = |all: &[String]| all.iter().map(|f| f.to_lowercase()).collect::<BTreeSet<_>>();
    if !class.exactly.is_empty() {
        return lower(&class.exactly) == *findings;
    }
    let any = lower(&class.any);
    (any.is_empty() || !any.is_disjoint(findings)) && lower(&class.none).is_disjoint(findings)
}

/// Why `filter.columns` leaves out an image.
fn refused_by_table(filter: &Filter, item: &Item) -> Option<String> {
    filter.columns.iter().find_map(|(name, wanted)| match item.columns.get(name) {
        None => {
            (filter.unknown == Unknown::Drop).then(|| format!("its {name:?} is not known, and `filter` asks for it"))
        }
        Some(value) if wanted.iter().any(|w| w.eq_ignore_ascii_case(value)) => None,
        // What is in the column is not said: it may name somebody.
        Some(_) => Some(format!("its {name:?} is none of those in filter.columns")),
    })
}

/// What is known when the filter is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// What tables say; the file may say more.
    SoFar,
    /// All that there is.
    All,
}

/// Why `filter` leaves out an image of which `facts` are known.
pub(super) fn refused(filter: &Filter, facts: &Facts, known: Known) -> Option<String> {
    let unknown = |what: &str| {
        let drop = known == Known::All && filter.unknown == Unknown::Drop;
        drop.then(|| format!("its {what} is not known, and `filter` asks for it"))
    };
    let word = |what: &str, wanted: &[String], value: &Option<String>| match value {
        _ if wanted.is_empty() => None,
        None => unknown(what),
        Some(value) if wanted.iter().any(|w| w.eq_ignore_ascii_case(value)) => None,
        Some(value) => {
            Some(format!("its {what} {value:?} is not in filter.{}", if what == "view" { "views" } else { what }))
        }
    };
    word("view", &filter.views, &facts.view).or_else(|| word("sex", &filter.sex, &facts.sex)).or_else(|| {
        if filter.min_age.is_none() && filter.max_age.is_none() {
            return None;
        }
        match facts.age {
            None => unknown("age"),
            Some(age) if age < filter.min_age.unwrap_or(0) => {
                Some("it is of somebody younger than filter.min_age".to_owned())
            }
            Some(age) if age > filter.max_age.unwrap_or(u32::MAX) => {
                Some("it is of somebody older than filter.max_age".to_owned())
            }
            Some(_) => None,
        }
    })
}

/// The splits that tables give, when they give any.
fn given(items: &[(Item, String)]) -> Result<Option<Vec<Option<&'static str>>>, Error> {
    if items.iter().all(|(item, _)| item.split.is_none()) {
        return Ok(None);
    }
    let mut of: BTreeMap<&str, (&'static str, &str)> = BTreeMap::new();
    for (item, _) in items {
        let bad = |why: String| Error::Source { path: item.source.clone(), why };
        let split =
            item.split.ok_or_else(|| bad("other images have a split in their table, this one has none".to_owned()))?;
        let (first, source) = *of.entry(&item.patient).or_insert((split, &item.source));
        if first != split {
            return Err(bad(format!(
                "it is in {split}, and {source} of the same patient in {first}: nothing of what is tested may be trained on"
            )));
        }
    }
    Ok(Some(items.iter().map(|(item, _)| item.split).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(all: &[&str]) -> BTreeSet<String> {
        all.iter().map(|s| (*s).to_owned()).collect()
    }

    fn list(all: &[&str]) -> Vec<String> {
        all.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn classes_are_whole_findings() {
        let class = |exactly: &[&str], any: &[&str], none: &[&str]| Class {
            label: "x".into(),
            exactly: list(exactly),
            any: list(any),
            none: list(none),
        };
        assert!(takes(&class(&["Normal"], &[], &[]), &set(&["normal"])));
        assert!(!takes(&class(&["normal"], &[], &[]), &set(&["normal", "pneumonia"])));
        assert!(takes(&class(&[], &["pneumonia"], &[]), &set(&["pneumonia", "scoliosis"])));
        assert!(!takes(&class(&[], &["pneumonia"], &[]), &set(&["atypical pneumonia"])), "no part of a finding is one");
        assert!(!takes(&class(&[], &["pneumonia"], &["scoliosis"]), &set(&["pneumonia", "scoliosis"])));
        assert!(takes(&class(&[], &[], &["normal"]), &set(&["anything"])));
    }

    #[test]
    fn filters_of_views_sexes_and_ages() {
        let filter = Filter { views: list(&["PA"]), sex: list(&["F"]), min_age: Some(18), ..Filter::default() };
        let facts = |view: Option<&str>, sex: Option<&str>, age| Facts {
            view: view.map(str::to_owned),
            sex: sex.map(str::to_owned),
            age,
            ..Facts::default()
        };
        let says = |f: &Facts, known| refused(&filter, f, known);
        assert_eq!(says(&facts(Some("PA"), Some("F"), Some(18)), Known::All), None);
        assert!(says(&facts(Some("AP"), None, None), Known::SoFar).unwrap().contains("\"AP\" is not in filter.views"));
        assert!(says(&facts(Some("PA"), Some("M"), None), Known::SoFar).unwrap().contains("filter.sex"));
        assert!(says(&facts(Some("PA"), Some("F"), Some(17)), Known::SoFar).unwrap().contains("younger"));
        assert_eq!(says(&Facts::default(), Known::SoFar), None, "the file may know more");
        assert!(says(&facts(Some("PA"), Some("F"), None), Known::All).unwrap().contains("age is not known"));
        let lenient = Filter { unknown: Unknown::Keep, ..filter.clone() };
        assert_eq!(refused(&lenient, &Facts::default(), Known::All), None);
        assert_eq!(refused(&Filter::default(), &Facts::default(), Known::All), None);
    }
}
