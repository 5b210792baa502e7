//! Detection within parts of a test set: a confound (RSNA's AP views are of sicker patients) shows where groups are looked
//! at one by one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Cases, Detection, Error, Estimate, Plan,
    bootstrap::{Places, Stratum},
    bootstrap_detection,
};

/// Cases that each class of a group must have: below, an AUROC says nothing.
pub const MIN_CASES: usize = 20;

/// One scored case.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case<'a> {
    /// Its part of the test set: a sex, an age band, a view, a dataset. Unknown ones are a group of their own.
    pub group: &'a str,
    /// Whether it is pathological.
    pub sick: bool,
    /// Its score.
    pub score: f64,
    /// The person, where persons are known.
    pub patient: Option<u64>,
}

/// One row of a table of subgroups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subgroup {
    /// Its name.
    pub group: String,
    /// Healthy cases (n−).
    pub healthy: usize,
    /// Pathological cases (n+).
    pub pathology: usize,
    /// Mean score of the healthy: where it differs between groups, one threshold is several.
    pub mean_healthy_score: Option<f64>,
    /// Detection with intervals; `None` when either class has fewer than [`MIN_CASES`] cases ("insufficient n").
    pub detection: Option<Detection<Estimate>>,
}

/// The table of subgroups, in the order of their names. Persons are drawn whole where each case of the group has one.
///
/// # Errors
/// When there are no cases, a score is not finite (its position in `cases` is named), or the plan does not fit.
pub fn subgroups(cases: &[Case<'_>], plan: Plan) -> Result<Vec<Subgroup>, Error> {
    const WHAT: &str = "subgroups";
    let scores: Vec<f64> = cases.iter().map(|c| c.score).collect();
    crate::checked(WHAT, "cases", &scores)?;
    let mut groups = BTreeMap::<&str, Vec<&Case<'_>>>::new();
    cases.iter().for_each(|c| groups.entry(c.group).or_default().push(c));
    groups.into_iter().map(|(group, cases)| row(group, &cases, plan)).collect()
}

fn row(group: &str, cases: &[&Case<'_>], plan: Plan) -> Result<Subgroup, Error> {
    let scores = |sick| cases.iter().filter(|c| c.sick == sick).map(|c| c.score).collect::<Vec<f64>>();
    let patients = |sick| cases.iter().filter(|c| c.sick == sick).map(|c| c.patient).collect::<Option<Vec<u64>>>();
    let (healthy, pathology) = (scores(false), scores(true));
    let persons = patients(false).zip(patients(true));
    let persons = persons.as_ref().map(|(healthy, pathology)| [healthy.as_slice(), pathology.as_slice()]);
    let enough = healthy.len() >= MIN_CASES && pathology.len() >= MIN_CASES;
    let detection = enough
        .then(|| bootstrap_detection(&Cases { healthy: &healthy, pathology: &pathology, patients: persons }, plan))
        .transpose()?;
    Ok(Subgroup {
        group: group.to_owned(),
        healthy: healthy.len(),
        pathology: pathology.len(),
        mean_healthy_score: (!healthy.is_empty()).then(|| healthy.iter().sum::<f64>() / healthy.len() as f64),
        detection,
    })
}

/// AUROC over pairs of one group only: the chance that a sick case scores higher than a healthy one *of its own group*. With
/// views as groups, what a score owes to the view is gone ("view-matched"). Every such pair counts once, so large groups weigh
/// more; groups without one class do not take part.
///
/// # Errors
/// When a score is not finite (its position in `cases` is named), or no group has both classes.
pub fn matched_auroc(cases: &[Case<'_>]) -> Result<f64, Error> {
    const WHAT: &str = "matched AUROC";
    let scores: Vec<f64> = cases.iter().map(|c| c.score).collect();
    crate::checked(WHAT, "cases", &scores)?;
    let mut groups = BTreeMap::<&str, [Vec<f64>; 2]>::new();
    cases.iter().for_each(|c| groups.entry(c.group).or_default()[usize::from(c.sick)].push(c.score));
    let (mut wins, mut pairs) = (0.0, 0.0);
    for [healthy, pathology] in groups.values().filter(|g| g.iter().all(|class| !class.is_empty())) {
        let count = healthy.len() as f64 * pathology.len() as f64;
        wins += crate::auroc(healthy, pathology)? * count;
        pairs += count;
    }
    if pairs > 0.0 { Ok(wins / pairs) } else { Err(Error::Empty { what: WHAT, set: "groups with both classes" }) }
}

/// [`matched_auroc`] with its interval: healthy and sick are drawn apart, over all groups, persons whole where every case has
/// one.
///
/// # Errors
/// As [`matched_auroc`], and when the plan does not fit.
pub fn bootstrap_matched_auroc(cases: &[Case<'_>], plan: Plan) -> Result<Estimate, Error> {
    let value = matched_auroc(cases)?;
    let plan = plan.checked()?;
    let class = |sick: bool| cases.iter().filter(move |c| c.sick == sick);
    let persons = |sick| class(sick).map(|c| c.patient).collect::<Option<Vec<u64>>>();
    let persons = persons(false).zip(persons(true));
    let healthy = Stratum::new(class(false).count(), persons.as_ref().map(|p| p.0.as_slice()))?;
    let pathology = Stratum::new(class(true).count(), persons.as_ref().map(|p| p.1.as_slice()))?;
    // Of each group its cases' positions within their class.
    let mut groups = BTreeMap::<&str, [Vec<usize>; 2]>::new();
    let mut next = [0, 0];
    for case in cases {
        let k = usize::from(case.sick);
        groups.entry(case.group).or_default()[k].push(next[k]);
        next[k] += 1;
    }
    let scores = [false, true].map(|sick| class(sick).map(|c| c.score).collect::<Vec<f64>>());
    let pick = |k: usize, at: &[usize]| at.iter().map(|i| scores[k][*i]).collect::<Vec<f64>>();
    let mut places = Vec::new();
    for at in groups.into_values().filter(|g| g.iter().all(|class| !class.is_empty())) {
        places.push((Places::new(&pick(0, &at[0]), &pick(1, &at[1]))?.0, at));
    }
    let mut times = [Vec::new(), Vec::new()];
    let mut resampled = Vec::new();
    for i in 0..plan.resamples {
        let mut rng = plan.rng(i);
        healthy.draw(&mut rng, &mut times[0]);
        pathology.draw(&mut rng, &mut times[1]);
        let (mut wins, mut pairs) = (0.0, 0.0);
        for (places, at) in &mut places {
            let drawn = [0, 1].map(|k| at[k].iter().map(|i| times[k][*i]).collect::<Vec<u64>>());
            let count = drawn[0].iter().sum::<u64>() as f64 * drawn[1].iter().sum::<u64>() as f64;
            if count > 0.0 {
                wins += places.auroc(&drawn[0], &drawn[1]) * count;
                pairs += count;
            }
        }
        // A small sample's resample may have no group with both classes: it says nothing.
        if pairs > 0.0 {
            resampled.push(wins / pairs);
        }
    }
    if resampled.is_empty() {
        return Err(Error::Empty { what: "matched AUROC", set: "resamples with both classes in a group" });
    }
    Ok(Estimate::percentile(value, resampled, plan.level))
}

/// The age band of a table: `<40`, `40–59`, `60–79`, `80+`; `unknown` without an age and where it is no person's (RSNA has
/// some of 148 to 155 years).
pub fn age_band(years: Option<u32>) -> &'static str {
    match years {
        Some(0..40) => "<40",
        Some(40..60) => "40–59",
        Some(60..80) => "60–79",
        Some(80..=120) => "80+",
        _ => "unknown",
    }
}

/// The baseline that knows no image: 1 for AP (taken of lying, sicker patients), 0 for PA, ½ where the view is another or
/// unknown. On RSNA it alone reaches an AUROC of 0.706 for opacities against all the rest.
pub fn view_score(view: Option<&str>) -> f64 {
    match view {
        Some("AP") => 1.0,
        Some("PA") => 0.0,
        _ => 0.5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_groups_have_counts_but_no_number() {
        let case =
            |group, i: u32, sick| Case { group, sick, score: f64::from(i * 7 % 30), patient: Some(u64::from(i / 2)) };
        let mut cases: Vec<Case<'_>> = (0..50).flat_map(|i| [case("PA", i, false), case("PA", i + 9, true)]).collect();
        cases.extend((0..19).map(|i| case("AP", i, true)));
        cases.extend((0..25).map(|i| case("AP", i, false)));
        cases.push(case("unknown", 3, true));
        let plan = Plan { resamples: 100, ..Plan::default() };
        let table = subgroups(&cases, plan).unwrap();
        let counts: Vec<_> =
            table.iter().map(|r| (r.group.as_str(), r.healthy, r.pathology, r.detection.is_some())).collect();
        assert_eq!(counts, [("AP", 25, 19, false), ("PA", 50, 50, true), ("unknown", 0, 1, false)]);
        assert_eq!(table[2].mean_healthy_score, None);
        cases[7].score = f64::NAN;
        assert!(subgroups(&cases, plan).unwrap_err().to_string().contains("value 7 of the cases"));
        assert!(subgroups(&[], plan).is_err());
    }

    #[test]
    fn a_score_that_only_knows_the_view_is_chance_within_views() {
        let case = |view, sick| Case { group: view, sick, score: view_score(Some(view)), patient: None };
        let cases =
            [("AP", true), ("AP", true), ("AP", false), ("PA", true), ("PA", false), ("PA", false), ("LL", true)];
        let cases = cases.map(|(view, sick)| case(view, sick));
        assert_eq!(matched_auroc(&cases), Ok(0.5));
        assert!(crate::auroc(&[1.0, 0.0, 0.0], &[1.0, 1.0, 0.0]).unwrap() > 0.6);
        let sick = |score| Case { group: "AP", sick: true, score, patient: None };
        let weighted = [sick(2.0), sick(2.0), sick(2.0), Case { sick: false, ..sick(1.0) }, cases[3], cases[4]];
        assert_eq!(matched_auroc(&weighted), Ok(3.5 / 4.0), "three pairs won, one tied");
        let plan = Plan { resamples: 100, ..Plan::default() };
        let sure = bootstrap_matched_auroc(&cases, plan).unwrap();
        assert_eq!((sure.value, sure.low, sure.high), (0.5, 0.5, 0.5), "it is chance in every resample");
        let one = cases.map(|c| Case { group: "all", score: if c.sick { 1.0 } else { 0.0 }, ..c });
        assert_eq!(matched_auroc(&one), Ok(1.0));
        assert!(matched_auroc(&cases[..2]).unwrap_err().to_string().contains("both classes"));
        assert!(matched_auroc(&[Case { score: f64::NAN, ..cases[0] }]).is_err());
    }

    #[test]
    fn ages_that_nobody_reaches_are_unknown() {
        let bands = [Some(0), Some(39), Some(40), Some(79), Some(80), Some(150), None].map(age_band);
        assert_eq!(bands, ["<40", "<40", "40–59", "60–79", "80+", "unknown", "unknown"]);
        assert_eq!([Some("AP"), Some("PA"), None].map(view_score), [1.0, 0.0, 0.5]);
    }
}
