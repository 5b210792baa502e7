//! The numbers of scikit-learn, scikit-image and scipy, recorded by `fixtures/make.py`.
#![allow(clippy::unwrap_used)]

use std::{fs, path::PathBuf};

use morph_scores as scores;
use scores::{Cases, Detection, Found, Gaussian, Isotonic, Plan, Ranked, Reference};
use serde_json::Value;

fn cases(name: &str) -> Vec<Value> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}.json"));
    let file: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let cases = file["cases"].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn number(v: &Value) -> f64 {
    match v.as_str() {
        Some("inf") => f64::INFINITY,
        Some("-inf") => f64::NEG_INFINITY,
        _ => v.as_f64().unwrap_or_else(|| panic!("{v} is no number")),
    }
}

fn list(v: &Value) -> Vec<f64> {
    v.as_array().unwrap().iter().map(number).collect()
}

/// splitmix64, as `make.py` has it.
fn noise(seed: u64, n: usize) -> Vec<f64> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ z >> 31) >> 11) as f64 / (1u64 << 53) as f64
    };
    (0..n).map(next).collect()
}

#[track_caller]
fn near(what: &str, got: f64, wanted: f64, tolerance: f64) {
    let fits = got == wanted || (got - wanted).abs() <= tolerance * wanted.abs().max(1.0);
    assert!(fits, "{what} is {got}, recorded {wanted}");
}

#[test]
fn detection_and_curves_are_sklearns() {
    for case in cases("detection") {
        let name = case["name"].as_str().unwrap();
        let (healthy, sick) = if case["healthy"].is_array() {
            (list(&case["healthy"]), list(&case["pathology"]))
        } else {
            let levels = number(&case["levels"]);
            let level = |v: f64| if levels > 0.0 { (v * levels).floor() } else { v };
            let sick = noise(12, 30_000).into_iter().map(|v| level(0.9 * v + 0.2)).collect();
            (noise(11, 20_000).into_iter().map(level).collect(), sick)
        };
        let ranked = Ranked::new(&healthy, &sick).unwrap();
        let all = Detection::of(&ranked);
        let check = |key: &str, got: f64| near(&format!("{name}: {key}"), got, number(&case[key]), 1e-12);
        check("auroc", all.auroc);
        check("ap", all.average_precision);
        check("sens90", all.sensitivity_at_90_specificity);
        check("sens95", all.sensitivity_at_95_specificity);
        for (key, tpr) in [("at95", 0.95), ("at99", 0.99)] {
            let p = ranked.at_tpr(tpr).unwrap();
            let wanted = list(&case[key]);
            assert_eq!(p.threshold, wanted[2], "{name}: threshold {key}");
            near(name, p.fpr, wanted[0], 1e-15);
            near(name, p.tpr, wanted[1], 1e-15);
        }
        for drop in [false, true] {
            let Some(roc) = case[format!("roc_{drop}")].as_array() else { continue };
            let points = ranked.roc(drop);
            let columns: [Vec<f64>; 3] = [0, 1, 2].map(|k| list(&roc[k]));
            assert_eq!(points.len(), columns[0].len(), "{name}: points of the ROC curve, drop {drop}");
            for (i, p) in points.iter().enumerate() {
                assert_eq!([p.fpr, p.tpr, p.threshold], [0, 1, 2].map(|k| columns[k][i]), "{name}: point {i}");
            }
            let pr = case[format!("pr_{drop}")].as_array().unwrap();
            let mut columns: [Vec<f64>; 3] = [0, 1, 2].map(|k| list(&pr[k]));
            columns[2].push(f64::INFINITY);
            let points = ranked.precision_recall(drop);
            assert_eq!(points.len(), columns[0].len(), "{name}: points of the PR curve, drop {drop}");
            for (i, p) in points.iter().enumerate() {
                assert_eq!([p.recall, p.precision, p.threshold], [0, 1, 2].map(|k| columns[k][i]), "{name}: point {i}");
            }
        }
    }
}

#[test]
fn delong_is_its_definition() {
    for case in cases("delong") {
        let name = case["name"].as_str().unwrap();
        let method = |key: &str| [list(&case[key][0]), list(&case[key][1])];
        let (a, b) = (method("a"), method("b"));
        near(name, scores::delong_variance(&a[0], &a[1]).unwrap(), number(&case["variance"]), 1e-14);
        let ci = scores::delong_ci(&a[0], &a[1], 0.95).unwrap();
        near(name, ci.value, number(&case["auc"][0]), 1e-13);
        near(name, ci.low, number(&case["ci"][0]), 1e-12);
        near(name, ci.high, number(&case["ci"][1]), 1e-12);
        let test = scores::delong_test([&a[0], &a[1]], [&b[0], &b[1]]).unwrap();
        near(name, test.second, number(&case["auc"][1]), 1e-13);
        near(name, test.z, number(&case["z"]), 1e-9);
        near(name, test.p, number(&case["p"]), 1e-9);
    }
}

#[test]
fn the_bootstrap_is_scipys_but_for_chance() {
    for case in cases("bootstrap") {
        let (healthy, sick) = (list(&case["healthy"]), list(&case["pathology"]));
        let plan = Plan { resamples: 20_000, ..Plan::default() };
        let all = scores::bootstrap_detection(&Cases { healthy: &healthy, pathology: &sick, patients: None }, plan);
        let auroc = all.unwrap().auroc;
        near("low", auroc.low, number(&case["low"]), 0.002);
        near("high", auroc.high, number(&case["high"]), 0.002);
    }
}

#[test]
fn fidelity_is_skimages() {
    for (i, case) in cases("images").iter().enumerate() {
        let (h, w) = (number(&case["height"]) as usize, number(&case["width"]) as usize);
        let k = i as u64 / 4;
        let (mut x, mut y) = (noise(100 + k, h * w), noise(200 + k, h * w));
        match case["kind"].as_str().unwrap() {
            "near" => y = x.iter().zip(&y).map(|(x, y)| 0.9 * x + 0.1 * y).collect(),
            "constant" => (x, y) = (vec![0.25; h * w], vec![0.5; h * w]),
            "equal" => y.clone_from(&x),
            _ => {}
        }
        let f = scores::fidelity(&x, &y, h, w).unwrap();
        for (key, got) in [("ssim", f.ssim), ("mse", f.mse), ("l1", f.l1), ("psnr", f.psnr)] {
            near(&format!("case {i}: {key}"), got, number(&case[key]), 1e-11);
        }
    }
}

#[test]
fn smoothing_and_regions_are_ndimages() {
    for (k, case) in cases("maps").iter().enumerate() {
        let (h, w) = (number(&case["height"]) as usize, number(&case["width"]) as usize);
        let map = scores::gaussian_smooth(&noise(300 + k as u64, h * w), h, w, number(&case["sigma"])).unwrap();
        for (at, wanted) in list(&case["probe"]).iter().zip(list(&case["smooth"])) {
            near(&format!("map {k}, pixel {at}"), map[*at as usize], wanted, 1e-12);
        }
        near("sum of squares", map.iter().map(|v| v * v).sum(), number(&case["sum_of_squares"]), 1e-12);
        // The recorded threshold lies between two pixels, so the last digits of the smoothing decide nothing.
        let found = scores::regions(&map, h, w, number(&case["threshold"]), 1).unwrap();
        let wanted = case["regions"].as_array().unwrap();
        assert_eq!(found.len(), wanted.len(), "map {k}");
        for (region, wanted) in found.iter().zip(wanted) {
            let wanted = list(wanted);
            let [x, y, rw, rh] = region.rect;
            near("score", region.score, wanted[0], 1e-12);
            for (got, wanted) in
                [x * w as f64, y * h as f64, (x + rw) * w as f64, (y + rh) * h as f64].into_iter().zip(&wanted[1..5])
            {
                near("corner", got, *wanted, 1e-9);
            }
            assert_eq!(region.area as f64, wanted[5]);
        }
    }
}

#[test]
fn calibration_and_drift_are_scipys_and_sklearns() {
    for case in cases("calibration") {
        let name = case["name"].as_str().unwrap();
        let (healthy, sick) = (list(&case["healthy"]), list(&case["pathology"]));
        let drift = Reference::new(&healthy).unwrap().drift(&sick).unwrap();
        near(name, drift.statistic, number(&case["ks"]), 1e-14);
        let p = number(&case["ks_p"]);
        assert!((drift.p - p).abs() <= 1e-9 * p, "{name}: p {}, scipy says {p}", drift.p);

        let isotonic = Isotonic::fit(&healthy, &sick).unwrap();
        for (score, wanted) in list(&case["query"]).iter().zip(list(&case["isotonic"])) {
            near(&format!("{name}: probability of {score}"), isotonic.probability(*score).unwrap(), wanted, 1e-12);
        }
        let platt = scores::Platt::fit(&healthy, &sick).unwrap();
        near(name, platt.slope, number(&case["platt"][0]), 1e-7);
        near(name, platt.offset, number(&case["platt"][1]), 1e-7);

        let probability = list(&case["probability"]);
        let labels: Vec<bool> = (0..probability.len()).map(|i| i >= healthy.len()).collect();
        near(name, scores::brier(&probability, &labels).unwrap(), number(&case["brier"]), 1e-13);
        let ece = scores::expected_calibration_error(&probability, &labels, 8).unwrap();
        near(name, ece, number(&case["ece"]), 1e-13);
        let bins = scores::reliability(&probability, &labels, 8).unwrap();
        let (observed, predicted) = (list(&case["observed"]), list(&case["predicted"]));
        assert_eq!(bins.len(), observed.len(), "{name}");
        for (bin, (observed, predicted)) in bins.iter().zip(observed.iter().zip(predicted)) {
            near(name, bin.observed, *observed, 1e-13);
            near(name, bin.predicted, predicted, 1e-13);
        }
        for pair in case["quantiles"].as_array().unwrap() {
            near(name, scores::quantile_of(&healthy, number(&pair[0])).unwrap(), number(&pair[1]), 1e-14);
        }
    }
}

#[test]
fn the_frechet_distance_is_that_by_scipys_square_root() {
    for (k, case) in cases("frechet").iter().enumerate() {
        let [n1, n2, d] = ["n1", "n2", "d"].map(|key| number(&case[key]) as usize);
        let x: Vec<f64> = noise(400 + k as u64, n1 * d)
            .into_iter()
            .enumerate()
            .map(|(i, v)| v * (1.0 + (i % d) as f64 / d as f64))
            .collect();
        // Times the identity plus 0.3 of its columns rolled by one.
        let y: Vec<f64> = noise(500 + k as u64, n2 * d)
            .chunks_exact(d)
            .flat_map(|row| (0..d).map(|j| row[j] + 0.2 + 0.3 * (row[(j + d - 1) % d] + 0.2)).collect::<Vec<f64>>())
            .collect();
        let (a, b) = (Gaussian::fit(&x, d).unwrap(), Gaussian::fit(&y, d).unwrap());
        near("distance", scores::frechet_distance(&a, &b).unwrap(), number(&case["value"]), 1e-9);
    }
}

#[test]
fn precision_of_boxes_is_its_definition() {
    for case in cases("boxes") {
        let rects = |v: &Value| -> Vec<scores::Rect> {
            v.as_array().unwrap().iter().map(|r| list(r).try_into().unwrap()).collect()
        };
        let found: Vec<Found> = case["images"]
            .as_array()
            .unwrap()
            .iter()
            .map(|image| Found {
                detections: rects(&image["found"]).into_iter().zip(list(&image["score"])).collect(),
                truth: rects(&image["truth"]),
            })
            .collect();
        let (each, _) = scores::box_average_precisions(&found, &scores::HEAT_MAP_IOUS).unwrap();
        for (k, (got, wanted)) in each.iter().zip(list(&case["ap"])).enumerate() {
            near("AP", *got, wanted, 1e-12);
            let challenge = scores::challenge_score(&found, &scores::HEAT_MAP_IOUS[k..=k]).unwrap();
            near("challenge", challenge, number(&case["challenge"][k]), 1e-12);
        }
    }
}

#[test]
fn proportions_are_scipys() {
    for case in cases("proportions") {
        let [k, n] = ["k", "n"].map(|key| number(&case[key]) as u64);
        let e = scores::wilson(k, n).unwrap();
        near("low", e.low, number(&case["low"]), 1e-12);
        near("high", e.high, number(&case["high"]), 1e-12);
    }
}
