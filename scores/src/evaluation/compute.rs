//! From the table of cases to the evaluation.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Cases as Samples, Confusion, Detection, Error, Estimate, Plan, Ranked, Reference, age_band, bootstrap_detection,
    bootstrap_matched_auroc, bootstrap_mean,
    cases::{Case, Cases, Persons, Role},
    columns::{self, Kind},
    evaluation::{
        Comparison, Design, Evaluation, Mean, Operating, Pair, Predictive, SCHEMA, Separation, Set, Thresholds,
        probability::Fitted,
    },
    subgroup, subgroups, threshold_at_specificity,
};

const WHAT: &str = "evaluation";

/// Everything that the table says. What it does not know (the network, datasets, boxes) is left empty for others to fill in.
///
/// A score is compared where every case of both sets has it. Persons are drawn whole where all cases of both sets have one.
///
/// # Errors
/// When a set is missing or has another role than its comparison says, a case lacks the primary score (it is named), or the
/// plan does not fit.
pub fn evaluate(cases: &Cases, design: &Design) -> Result<Evaluation, Error> {
    let persons = Persons::of(cases.cases());
    if cases.column(&design.score).is_none() {
        let why = format!("there is no score {:?}; there are {}", design.score, cases.names().join(", "));
        return Err(Error::Shape { what: WHAT, why });
    }
    let mut sets = BTreeMap::new();
    for (name, role) in cases.sets() {
        sets.insert(name.to_owned(), set(cases, name, role, &persons, design.bootstrap)?);
    }
    let fitted = Fitted::of(cases, design)?;
    let mut comparisons = BTreeMap::new();
    for (name, pair) in &design.comparisons {
        comparisons.insert(name.clone(), compare(cases, design, pair, &persons, fitted.as_ref())?);
    }
    Ok(Evaluation {
        schema: SCHEMA,
        model: Default::default(),
        design: design.clone(),
        datasets: Vec::new(),
        inputs: Vec::new(),
        notes: notes(cases, design, &comparisons),
        sets,
        comparisons,
        residual_scale: None,
        leakage: None,
    })
}

/// The table with each case's p-value by `score`, against the healthy validation images; without those, as it is. A validation
/// image's own is against all of them, itself included.
///
/// # Errors
/// When a validation case lacks the score.
pub fn p_values(cases: &Cases, score: &str) -> Result<Cases, Error> {
    let Some(values) = validation(cases, score)? else { return Ok(cases.clone()) };
    let reference = Reference::new(&values)?;
    let at = cases.column(score);
    cases
        .with_column(columns::P_VALUE, |case| at.and_then(|at| case.scores[at]).and_then(|v| reference.p_value(v).ok()))
}

/// The scores of the healthy validation images; `None` when there are no such cases.
fn validation(cases: &Cases, score: &str) -> Result<Option<Vec<f64>>, Error> {
    let set = cases.sets().into_iter().find(|(_, role)| *role == Role::Validation);
    set.map(|(name, _)| cases.values(name, score)).transpose()
}

fn set(cases: &Cases, name: &str, role: Role, persons: &Persons<'_>, plan: Plan) -> Result<Set, Error> {
    let mut labels = BTreeMap::new();
    let mut datasets = BTreeSet::new();
    for case in cases.set(name) {
        if case.role != role {
            let why = format!("set {name:?} is {} in one case, {} in case {}", role.name(), case.role.name(), case.id);
            return Err(Error::Shape { what: WHAT, why });
        }
        *labels.entry(case.label.clone()).or_default() += 1;
        datasets.insert(case.dataset.clone());
    }
    let mut means = BTreeMap::new();
    for (at, column) in cases.names().iter().enumerate() {
        let having: Vec<&Case> = cases.set(name).filter(|c| c.scores[at].is_some()).collect();
        let values: Vec<f64> = having.iter().filter_map(|c| c.scores[at]).collect();
        if !values.is_empty() {
            let who = persons.numbers(having);
            let estimate = bootstrap_mean(&values, who.as_deref(), plan)?;
            means.insert(column.clone(), Mean { estimate, cases: values.len() });
        }
    }
    let who = persons.numbers(cases.set(name)).map(|who| who.into_iter().collect::<BTreeSet<u64>>().len());
    let datasets = datasets.into_iter().collect();
    Ok(Set { role, datasets, cases: cases.set(name).count(), persons: who, labels, means, fid: None })
}

fn compare(
    cases: &Cases,
    design: &Design,
    pair: &Pair,
    persons: &Persons<'_>,
    fitted: Option<&Fitted>,
) -> Result<Comparison, Error> {
    for (name, role) in [(&pair.healthy, Role::Healthy), (&pair.pathology, Role::Pathology)] {
        let found = cases.sets().into_iter().find(|(set, _)| set == name).map(|(_, role)| role);
        if found != Some(role) {
            let is = found.map_or("there is no such set".to_owned(), |r| format!("it is a {} set", r.name()));
            let why = format!("set {name:?} cannot be the {} of a comparison: {is}", role.name());
            return Err(Error::Shape { what: WHAT, why });
        }
    }
    // The primary score must be there; the others are compared where all cases have them.
    let primary = [cases.values(&pair.healthy, &design.score)?, cases.values(&pair.pathology, &design.score)?];
    let who = persons.numbers(cases.set(&pair.healthy)).zip(persons.numbers(cases.set(&pair.pathology)));
    let mut by = [BTreeMap::new(), BTreeMap::new()];
    for name in cases.names() {
        let place = match columns::kind(name) {
            _ if *name == design.score => 0,
            Some(Kind::Anomaly) => 0,
            Some(Kind::Baseline) => 1,
            _ => continue,
        };
        let (Ok(healthy), Ok(pathology)) = (cases.values(&pair.healthy, name), cases.values(&pair.pathology, name))
        else {
            continue;
        };
        let patients = who.as_ref().map(|(h, p)| [h.as_slice(), p.as_slice()]);
        let samples = Samples { healthy: &healthy, pathology: &pathology, patients };
        let reference = validation(cases, name).ok().flatten();
        by[place].insert(name.clone(), separation(&samples, reference.as_deref(), design)?);
    }
    let [scores, baselines] = by;
    let operating = scores.get(&design.score).and_then(|s: &Separation| s.operating.as_ref());
    let predictive = Predictive::of(operating, &design.prevalences)?;
    let (n, p) = (cases.set(&pair.healthy).count(), cases.set(&pair.pathology).count());
    Ok(Comparison {
        sets: pair.clone(),
        healthy_cases: n,
        pathology_cases: p,
        prevalence: p as f64 / (n + p) as f64,
        by_person: who.is_some(),
        predictive,
        calibration: fitted.map(|f| f.judge(&primary[0], &primary[1])).transpose()?,
        scores,
        baselines,
        subgroups: tables(cases, design, pair, persons)?,
        view_matched_auroc: view_matched(cases, design, pair, persons)?,
        localisation: None,
        healthy_fid: None,
        untouched_fid: None,
    })
}

fn separation(samples: &Samples<'_>, validation: Option<&[f64]>, design: &Design) -> Result<Separation, Error> {
    let ranked = Ranked::new(samples.healthy, samples.pathology)?;
    let finite = |threshold: f64| threshold.is_finite().then_some(threshold);
    let thresholds = Thresholds {
        fpr_at_95_tpr: ranked.at_tpr(0.95)?.threshold,
        fpr_at_99_tpr: ranked.at_tpr(0.99)?.threshold,
        sensitivity_at_90_specificity: finite(ranked.at_specificity(0.90)?.threshold),
        sensitivity_at_95_specificity: finite(ranked.at_specificity(0.95)?.threshold),
    };
    let detection: Detection<Estimate> = bootstrap_detection(samples, design.bootstrap)?;
    let (operating, drift) = match validation {
        None => (None, None),
        Some(values) => {
            (operating(samples, values, design.specificity)?, Some(Reference::new(values)?.drift(samples.healthy)?))
        }
    };
    Ok(Separation { detection, thresholds, operating, drift })
}

fn operating(samples: &Samples<'_>, validation: &[f64], specificity: f64) -> Result<Option<Operating>, Error> {
    let threshold = threshold_at_specificity(validation, specificity)?;
    let confusion = Confusion::at(threshold, samples.healthy, samples.pathology)?;
    let spared = validation.iter().filter(|v| **v < threshold).count();
    Ok(confusion.sensitivity().zip(confusion.specificity()).map(|(sensitivity, specificity)| Operating {
        threshold,
        validation_cases: validation.len(),
        validation_specificity: spared as f64 / validation.len() as f64,
        confusion,
        sensitivity,
        specificity,
        ppv: confusion.ppv(),
        npv: confusion.npv(),
    }))
}

type Of = for<'c> fn(&'c Case) -> &'c str;

/// What a test set is divided by.
const DIVISIONS: [(&str, Of); 4] = [
    ("view", |c| c.view.as_deref().unwrap_or("unknown")),
    ("sex", |c| c.sex.as_deref().unwrap_or("unknown")),
    ("age", |c| age_band(c.age)),
    ("dataset", |c| &c.dataset),
];

/// The cases of a comparison as groups take them.
fn grouped<'c>(
    cases: &'c Cases,
    design: &Design,
    pair: &'c Pair,
    persons: &Persons<'_>,
    group: Of,
) -> Vec<subgroup::Case<'c>> {
    let at = cases.column(&design.score);
    let of = |set: &'c str, sick: bool| {
        cases.set(set).filter_map(move |c| {
            let score = at.and_then(|at| c.scores[at])?;
            Some(subgroup::Case { group: group(c), sick, score, patient: persons.number(c) })
        })
    };
    of(&pair.healthy, false).chain(of(&pair.pathology, true)).collect()
}

fn tables(
    cases: &Cases,
    design: &Design,
    pair: &Pair,
    persons: &Persons<'_>,
) -> Result<BTreeMap<String, Vec<crate::Subgroup>>, Error> {
    DIVISIONS
        .iter()
        .map(|(name, group)| {
            let mut table = subgroups(&grouped(cases, design, pair, persons, *group), design.bootstrap)?;
            // By name `<40` would come last.
            table.sort_by_key(|row| !row.group.starts_with('<'));
            Ok(((*name).to_owned(), table))
        })
        .collect()
}

fn view_matched(cases: &Cases, design: &Design, pair: &Pair, persons: &Persons<'_>) -> Result<Option<Estimate>, Error> {
    let known = |c: &subgroup::Case<'_>| c.group != "unknown";
    let cases: Vec<_> = grouped(cases, design, pair, persons, DIVISIONS[0].1).into_iter().filter(known).collect();
    match bootstrap_matched_auroc(&cases, design.bootstrap) {
        Ok(estimate) => Ok(Some(estimate)),
        Err(Error::Empty { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// What a reader must know that the table itself tells.
fn notes(cases: &Cases, design: &Design, comparisons: &BTreeMap<String, Comparison>) -> Vec<String> {
    let mut notes = Vec::new();
    fn datasets<'a>(cases: &'a Cases, set: &'a str) -> BTreeSet<&'a str> {
        cases.set(set).map(|c| c.dataset.as_str()).collect()
    }
    for (name, comparison) in comparisons {
        let sets = &comparison.sets;
        let (healthy, sick) = (datasets(cases, &sets.healthy), datasets(cases, &sets.pathology));
        if healthy.is_disjoint(&sick) {
            notes.push(format!(
                "{name}: healthy and pathological images come from different datasets, so whatever tells the datasets apart \
                 tells the classes apart, too"
            ));
        }
        if !comparison.by_person {
            notes.push(format!(
                "{name}: persons are not known of all cases; images of one person count as independent, so intervals are too \
                 narrow where persons have several"
            ));
        }
        let few = comparison.healthy_cases.min(comparison.pathology_cases);
        if few < subgroup::MIN_CASES {
            notes.push(format!("{name}: {few} cases of one class say little; intervals from so few are unreliable"));
        }
        let operating = comparison.scores.get(&design.score).and_then(|s| s.operating.as_ref());
        let needed = (1.0 / (1.0 - design.specificity)).ceil() as usize;
        match operating {
            None => {
                notes.push(format!("{name}: there are no healthy validation images, so no threshold that could be used"));
            }
            Some(o) if o.validation_cases < needed => notes.push(format!(
                "{name}: {} healthy validation images are too few for a threshold of specificity {}, which takes {needed}",
                o.validation_cases, design.specificity
            )),
            Some(_) => {}
        }
    }
    notes
}
