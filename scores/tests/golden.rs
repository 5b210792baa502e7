//! scikit-learn's and scikit-image's own numbers, recorded from the paper's evaluation code (the project's golden vectors).
#![allow(clippy::unwrap_used)]

use std::{env, fs, path::PathBuf};

use morph_scores::{auroc, average_precision, fpr_at_tpr, l1, roc_curve, ssim};
use safetensors::SafeTensors;
use serde_json::Value;

fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn ops() -> Value {
    serde_json::from_slice(&fs::read(here().join("ops.json")).unwrap()).unwrap()
}

fn tensor(bytes: &[u8], name: &str) -> Vec<f64> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let data = file.tensor(name).unwrap().data().to_vec();
    data.as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect()
}

fn scores(case: &Value) -> (Vec<f64>, Vec<f64>) {
    if let Some(file) = case["file"].as_str() {
        let bytes = fs::read(here().join(format!("{file}.safetensors"))).unwrap();
        return (tensor(&bytes, "normal"), tensor(&bytes, "abnormal"));
    }
    let list = |name: &str| case[name].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    (list("normal"), list("abnormal"))
}

#[test]
fn detection_is_sklearns() {
    let ops = ops();
    let cases = ops["detection"].as_array().unwrap();
    assert_eq!(cases.len(), 10);
    for (i, case) in cases.iter().enumerate() {
        let (healthy, sick) = scores(case);
        let near = |name: &str, value: f64| {
            let wanted = case[name].as_f64().unwrap();
            assert!((value - wanted).abs() < 1e-12, "case {i}: {name} is {value}, sklearn says {wanted}");
        };
        near("auroc", auroc(&healthy, &sick).unwrap());
        near("auprc", average_precision(&healthy, &sick).unwrap());
        for (rate, name, threshold, whole) in
            [(0.95, "fpr95", "th95", "fpr95_no_drop"), (0.99, "fpr99", "th99", "fpr99_no_drop")]
        {
            near(name, fpr_at_tpr(&healthy, &sick, rate).unwrap());
            let first = |drop| roc_curve(&healthy, &sick, drop).unwrap().into_iter().find(|p| p.tpr >= rate).unwrap();
            near(threshold, first(true).threshold);
            near(whole, first(false).fpr);
        }
    }
}

#[test]
fn ssim_is_skimages() {
    let golden = env::var_os("MORPH_GOLDEN")
        .map_or_else(|| here().join("../../../../shared/golden"), PathBuf::from)
        .join("ops/ssim.safetensors");
    let Ok(bytes) = fs::read(&golden) else {
        eprintln!("skipped: no golden vectors at {} (set MORPH_GOLDEN)", golden.display());
        return;
    };
    for (i, case) in ops()["ssim"].as_array().unwrap().iter().enumerate() {
        let (x, y) = (tensor(&bytes, &format!("{i}.x")), tensor(&bytes, &format!("{i}.rec")));
        let near = |name: &str, value: f64, tolerance: f64| {
            let wanted = case[name].as_f64().unwrap();
            assert!((value - wanted).abs() < tolerance, "case {i}: {name} is {value}, skimage says {wanted}");
        };
        near("ssim_f64", ssim(&x, &y, 128, 128).unwrap(), 1e-9);
        // skimage on float32 images, as the paper's code calls it.
        near("ssim_f32", ssim(&x, &y, 128, 128).unwrap(), 1e-6);
        near("L1", l1(&x, &y).unwrap(), 1e-6);
        near("score_np_mean", l1(&x, &y).unwrap(), 1e-6);
    }
}
