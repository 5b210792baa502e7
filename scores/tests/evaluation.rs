//! A table of cases as a run would leave it, evaluated: each number is that of the function that docs/scores.md names.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use morph_scores::{
    Confusion, Found, Isotonic, PixelHistogram, Plan, Platt, Ranked, Reference, bootstrap_detection, brier,
    cases::{Case, Cases, Role},
    columns::P_VALUE,
    evaluation::{Design, Evaluation, Evidence, Localisation, Pair, SCHEMA, evaluate, p_values},
    expected_calibration_error, reliability, threshold_at_specificity,
};
use morph_spec::Rng;

const NAMES: [&str; 6] = ["l1", "top5", "view_score", "intensity", "ssim", "pointing"];

/// 60 validation, 80 healthy and 50 sick cases of 2 images a person; sick ones score higher.
fn table(persons: bool) -> Cases {
    let mut rng = Rng::keyed(3, "cases", 0);
    let mut cases = Cases::new(NAMES).unwrap();
    for (set, role, n, shift) in [
        ("validation", Role::Validation, 60, 0.0),
        ("healthy", Role::Healthy, 80, 0.05),
        ("opacity", Role::Pathology, 50, 0.6),
    ] {
        for i in 0..n {
            let view = ["PA", "AP"][usize::from(rng.uniform() < 0.4)];
            let sick = role == Role::Pathology;
            let scores = [
                Some(rng.uniform() + shift),
                Some(rng.uniform() + 0.9 * shift),
                Some(morph_scores::view_score(Some(view))),
                Some(rng.uniform()),
                Some(0.9 + 0.1 * rng.uniform()),
                (sick && i % 2 == 0).then_some(f64::from(u32::from(i % 4 == 0))),
            ];
            let case = Case {
                dataset: "rsna".into(),
                set: set.into(),
                role,
                id: format!("{set}-{i}"),
                patient: persons.then(|| format!("{set}-{}", i / 2)),
                label: if sick { "Lung Opacity" } else { "Normal" }.into(),
                view: Some(view.into()),
                sex: (i % 3 > 0).then(|| ["M", "F"][i % 2].into()),
                age: Some(20 + (i as u32 * 7) % 75),
                source: None,
                scores: scores.to_vec(),
            };
            cases.push(case).unwrap();
        }
    }
    cases
}

fn design(score: &str) -> Design {
    let pair = Pair { healthy: "healthy".into(), pathology: "opacity".into() };
    Design {
        score: score.into(),
        specificity: 0.95,
        bootstrap: Plan { resamples: 200, ..Plan::default() },
        comparisons: BTreeMap::from([("opacity".into(), pair)]),
        prevalences: vec![0.01, 0.2],
        calibration: None,
    }
}

/// Labelled images beside the test set: theirs are the probabilities, and no test image may be among them.
#[test]
fn a_score_becomes_a_probability_by_images_beside_the_test_set() {
    let mut cases = table(true);
    let again: Vec<Case> = cases.cases().to_vec();
    for case in again.into_iter().filter(|c| c.role != Role::Validation) {
        let set = if case.role == Role::Healthy { "calibration/healthy" } else { "calibration" };
        let patient = case.patient.as_ref().map(|p| format!("other-{p}"));
        // Another hospital's, where all score a little lower.
        let scores = case.scores.iter().map(|s| s.map(|s| 0.98 * s)).collect();
        cases.push(Case { set: set.into(), id: format!("other-{}", case.id), patient, scores, ..case }).unwrap();
    }
    let pair = Pair { healthy: "calibration/healthy".into(), pathology: "calibration".into() };
    let calibrated = Design { calibration: Some(pair), ..design("l1") };
    let e = evaluate(&cases, &calibrated).unwrap();
    let c = &e.comparisons["opacity"];
    let of = |set: &str| cases.values(set, "l1").unwrap();
    let (healthy, sick) = (of("healthy"), of("opacity"));
    let truth: Vec<bool> = (0..130).map(|i| i >= 80).collect();
    let found = c.calibration.as_ref().unwrap();
    assert_eq!((found.healthy_cases, found.pathology_cases), (80, 50));
    let platt = Platt::fit(&of("calibration/healthy"), &of("calibration")).unwrap();
    let all: Vec<f64> = healthy.iter().chain(&sick).map(|s| platt.probability(*s).unwrap()).collect();
    assert_eq!(found.platt.brier, brier(&all, &truth).unwrap());
    assert_eq!(found.platt.reliability, reliability(&all, &truth, 10).unwrap());
    assert_eq!(found.platt.expected_calibration_error, expected_calibration_error(&all, &truth, 10).unwrap());
    let isotonic = Isotonic::fit(&of("calibration/healthy"), &of("calibration")).unwrap();
    let all: Vec<f64> = healthy.iter().chain(&sick).map(|s| isotonic.probability(*s).unwrap()).collect();
    assert_eq!(found.isotonic.brier, brier(&all, &truth).unwrap());
    assert!(found.platt.brier < found.constant_brier && found.isotonic.brier < found.constant_brier, "{found:?}");
    let text = e.text();
    assert!(text.contains("fitted to 80 healthy and 50 sick images beside the test set: Platt Brier"), "{text}");
    assert_eq!(Evaluation::from_json("e", e.to_json().as_bytes()).unwrap(), e);

    let without = evaluate(&cases, &design("l1")).unwrap();
    assert!(without.comparisons["opacity"].calibration.is_none());
    // A test image, and another image of a test image's person.
    for (id, patient) in [("healthy-3", "nobody"), ("new", "opacity-4")] {
        let mut leaking = cases.clone();
        let like = leaking.set("calibration").next().unwrap().clone();
        leaking.push(Case { id: id.into(), patient: Some(patient.into()), ..like }).unwrap();
        let said = evaluate(&leaking, &calibrated).unwrap_err().to_string();
        assert!(said.contains("beside the test sets") && said.contains("in the calibration set, too"), "{said}");
    }
}

#[test]
fn every_number_is_that_of_its_function() {
    let cases = table(true);
    let e = evaluate(&cases, &design("top5")).unwrap();
    let c = &e.comparisons["opacity"];
    assert_eq!((c.healthy_cases, c.pathology_cases, c.prevalence, c.by_person), (80, 50, 50.0 / 130.0, true));
    assert_eq!(c.scores.keys().collect::<Vec<_>>(), ["l1", "top5"]);
    assert_eq!(c.baselines.keys().collect::<Vec<_>>(), ["intensity", "view_score"], "SSIM is no anomaly score");
    for (name, separation) in c.scores.iter().chain(&c.baselines) {
        let of = |set: &str| cases.values(set, name).unwrap();
        let (healthy, sick, validation) = (of("healthy"), of("opacity"), of("validation"));
        let ranked = Ranked::new(&healthy, &sick).unwrap();
        let persons = [80u64, 50].map(|n| (0..n).map(|i| i / 2).collect::<Vec<u64>>());
        let samples =
            morph_scores::Cases { healthy: &healthy, pathology: &sick, patients: Some([&persons[0], &persons[1]]) };
        assert_eq!(separation.detection, bootstrap_detection(&samples, e.design.bootstrap).unwrap(), "{name}");
        assert_eq!(separation.thresholds.fpr_at_95_tpr, ranked.at_tpr(0.95).unwrap().threshold);
        let o = separation.operating.unwrap();
        assert_eq!(o.threshold, threshold_at_specificity(&validation, 0.95).unwrap());
        assert_eq!(o.confusion, Confusion::at(o.threshold, &healthy, &sick).unwrap());
        assert!(o.validation_specificity >= 0.95 && o.validation_cases == 60);
        assert_eq!(separation.drift, Some(Reference::new(&validation).unwrap().drift(&healthy).unwrap()));
    }
    let o = c.scores["top5"].operating.unwrap();
    let at = |p: &morph_scores::evaluation::Predictive| (p.prevalence, p.ppv, p.npv);
    let of = |p: f64| (p, o.confusion.ppv_at(p).unwrap(), o.confusion.npv_at(p).unwrap());
    assert_eq!(c.predictive.iter().map(at).collect::<Vec<_>>(), [of(0.01), of(0.2)]);
    let [rare, common] = [0, 1].map(|i| [c.predictive[i].ppv, c.predictive[i].npv].map(|e| e.unwrap().value));
    assert!(rare[0] < common[0] && rare[1] > common[1]);
    let (persons, pointing) = (&e.sets["opacity"].persons, &e.sets["opacity"].means["pointing"]);
    assert_eq!((*persons, pointing.cases, pointing.estimate.value), (Some(25), 25, 13.0 / 25.0));
    assert!(!e.sets["healthy"].means.contains_key("pointing"), "no healthy case has it");
    let few = |t: &morph_scores::Subgroup| t.healthy < 20 || t.pathology < 20;
    for (division, groups) in &c.subgroups {
        assert!(groups.iter().all(|g| g.detection.is_none() == few(g)), "{division}");
        assert_eq!(groups.iter().map(|g| g.healthy + g.pathology).sum::<usize>(), 130, "{division}");
    }
    assert_eq!(c.subgroups.keys().collect::<Vec<_>>(), ["age", "dataset", "sex", "view"]);
    let matched = c.view_matched_auroc.unwrap();
    assert!(matched.low < matched.value && matched.value < matched.high && matched.value > 0.7);
}

#[test]
fn the_report_survives_its_file_and_says_what_it_must() {
    let cases = table(false);
    let mut e = evaluate(&cases, &design("l1")).unwrap();
    let said = e.text();
    for wanted in ["prevalence 0.385", "l1*", "baseline view_score", "insufficient n", "persons are not known"] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    assert!(said.contains("against the 0.95 that was asked"), "{said}");
    assert!(said.contains("where this share of images is sick: 0.01: PPV 0."), "{said}");
    assert!(!e.comparisons["opacity"].by_person);
    let summary = e.summary();
    assert_eq!(summary["opacity/auroc"], e.comparisons["opacity"].scores["l1"].detection.auroc.value);
    assert!(!summary.contains_key("mean/auroc"), "the mean of one is that one");
    let mut two = design("l1");
    let other = Pair { healthy: "healthy".into(), pathology: "opacity".into() };
    two.comparisons.insert("other".into(), other);
    assert_eq!(evaluate(&cases, &two).unwrap().summary()["mean/auroc"], summary["opacity/auroc"]);
    for name in ["opacity/auroc_top5", "opacity/auroc_view", "healthy/ssim", "opacity/pointing", "opacity/sensitivity"]
    {
        assert!(summary.contains_key(name), "{name}: {summary:?}");
    }
    let mut pixels = PixelHistogram::new(64, 1.0).unwrap();
    pixels.add(&[0.9, 0.1, 0.2, 0.3], 2, 2, &[[0.0, 0.0, 0.5, 0.5]]).unwrap();
    let found =
        |score: f64| Found { detections: vec![([0.0, 0.0, 0.5, 0.5], score)], truth: vec![[0.0, 0.0, 0.5, 0.5]] };
    let (sick, healthy) = ([found(0.9)], [Found { truth: Vec::new(), ..found(0.95) }]);
    let evidence =
        Evidence { pixels: &pixels, sick: &sick, persons: None, healthy: &healthy, region_threshold: 0.5, sigma: 0.02 };
    let l = Localisation::of(&evidence, e.design.bootstrap).unwrap();
    assert_eq!((l.images, l.boxes, l.pixel_auroc, l.pixel_prevalence, l.oracle.dice), (1, 1, 1.0, 0.25, 1.0));
    // The healthy image's region is surer than the hit: one of two images has a false region.
    assert_eq!((l.mean_box_ap.value, l.challenge), (1.0, 0.5));
    assert_eq!(l.froc.iter().map(|p| p.sensitivity).collect::<Vec<_>>(), [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
    e.comparisons.get_mut("opacity").unwrap().localisation = Some(l);
    assert!(e.text().contains("pointing game") && e.summary().contains_key("opacity/box_ap"));
    assert_eq!(Evaluation::from_json("e.json", e.to_json().as_bytes()).unwrap(), e, "to the bit");
    let newer = e.to_json().replacen(&format!("\"schema\": {SCHEMA}"), "\"schema\": 99", 1);
    assert!(Evaluation::from_json("e.json", newer.as_bytes()).unwrap_err().contains("schema is 99"));
    assert!(Evaluation::from_json("e.json", b"{}").unwrap_err().contains("no evaluation"));
}

#[test]
fn p_values_are_of_healthy_validation() {
    let cases = p_values(&table(true), "l1").unwrap();
    let reference = Reference::new(&cases.values("validation", "l1").unwrap()).unwrap();
    for set in ["healthy", "opacity"] {
        let p = cases.values(set, P_VALUE).unwrap();
        let scores = cases.values(set, "l1").unwrap();
        assert!(scores.iter().zip(&p).all(|(s, p)| reference.p_value(*s) == Ok(*p)));
    }
    let sick = cases.values("opacity", P_VALUE).unwrap();
    assert!(sick.iter().filter(|p| **p < 0.05).count() > 20, "sick images are improbable ones");
}

#[test]
fn what_cannot_be_compared_is_named() {
    let said = |cases: &Cases, design: &Design| evaluate(cases, design).unwrap_err().to_string();
    let cases = table(true);
    assert!(said(&cases, &design("l2")).contains("no score \"l2\"; there are l1, top5"));
    assert!(said(&cases, &design("pointing")).contains("case healthy-0 of set \"healthy\" has no pointing"));
    let mut other = design("l1");
    let set = |design: &mut Design, healthy: &str| {
        design.comparisons.get_mut("opacity").unwrap().healthy = healthy.into();
    };
    set(&mut other, "nobody");
    assert!(said(&cases, &other).contains("there is no such set"));
    set(&mut other, "opacity");
    assert!(said(&cases, &other).contains("it is a pathology set"));
    // A constant score is no error: it is chance, and its thresholds call all or nothing.
    let constant = cases.with_column("l1", |_| Some(0.25)).unwrap();
    let e = evaluate(&constant, &design("l1")).unwrap();
    let d = &e.comparisons["opacity"].scores["l1"];
    assert_eq!((d.detection.auroc.value, d.detection.auroc.low, d.detection.fpr_at_95_tpr.value), (0.5, 0.5, 1.0));
    assert_eq!((d.thresholds.sensitivity_at_95_specificity, d.operating.unwrap().sensitivity.value), (None, 0.0));
    assert_eq!(Evaluation::from_json("e", e.to_json().as_bytes()).unwrap(), e);
    // Without validation images there is no threshold to use.
    let mut test_only = Cases::new(NAMES).unwrap();
    let tests = cases.cases().iter().filter(|c| c.role != Role::Validation);
    tests.for_each(|c| test_only.push(c.clone()).unwrap());
    let e = evaluate(&test_only, &design("l1")).unwrap();
    assert!(e.comparisons["opacity"].scores["l1"].operating.is_none());
    assert!(e.notes.iter().any(|n| n.contains("no threshold that could be used")));
    assert_eq!(p_values(&test_only, "l1").unwrap(), test_only);
}
