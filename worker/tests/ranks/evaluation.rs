//! An evaluation of two datasets with boxes, persons, twins and masks: the same bytes with two ranks as with one; what leaks is
//! refused, and what is no number is named.

use std::{env, path::Path};

use morph_checkpoint::{TensorData, Tensors, weights::to_safetensors};
use morph_data::{Meta, readers::png, truth::Kind};
use morph_model::Keyed;
use morph_objects::Objects;
use morph_scores::{
    cases::Cases,
    columns,
    evaluation::{Evaluation, Fid, Scored},
};
use morph_spec::{Digest, Experiment, Rng, experiment::Score, manifest::PatientIds};
use morph_worker::{
    evaluate::{self, Scene, Similarity, checkpoint, leakage},
    rank::{
        self,
        failure::Failure,
        group::{Group, Place},
        images::{Dataset, Sets, tensor, values},
        orders::Orders,
        progress::Position,
        snapshot::{self, Provenance},
    },
};
use serde_json::json;
use tch::{Device, Kind as Element};
use tokio::runtime::Runtime;

use crate::{
    both, group,
    resume::{SIDE, Split, store},
};

const PLACE: Place = Place { device: Device::Cpu, kind: Element::Float };

fn experiment(folder: &Path) -> Experiment {
    let at = |name: &str| folder.join(name).display().to_string();
    let experiment: Experiment = serde_json::from_value(json!({
        "kind": "experiment", "name": "t", "dataset": {"url": at("data")},
        "model": {"method": "morphaeus", "image_size": SIDE, "channels": [4, 8, 8, 8], "refine_channels": 8},
        "evaluation": {
            "batch_size": 3, "panel_cases": 1, "resamples": 100, "score": "top5_masked", "truth": at("truth"),
            "lpips": {"weights": [at("weights/alexnet.safetensors"), at("weights/linear.safetensors")], "rescale": true},
            "calibration": {
                "dataset": at("labelled"),
                "healthy": {"split": "test", "labels": ["Normal"]},
                "pathology": {"split": "test", "labels": ["Lung Opacity"]},
            },
            "comparisons": {"covid": {
                "dataset": at("other"),
                "healthy": {"split": "test", "labels": ["Normal"]},
                "pathology": {"split": "test", "labels": ["COVID"]},
            }},
        },
    }))
    .unwrap();
    assert_eq!(experiment.validate(), Ok(()));
    experiment
}

/// Images of noise; sick ones have a bright box, two images are of one person.
fn split(rng: &mut Rng, name: &str, count: u32, sick: Option<&str>) -> Split {
    let image = |i: u32| {
        let ill = sick.filter(|_| i % 2 == 1);
        let mut pixels: Vec<u8> = (0..SIDE * SIDE).map(|_| (rng.next_u64() % 180) as u8).collect();
        if ill.is_some() {
            (0..64).for_each(|k| pixels[((8 + k / 8) * SIDE + 16 + k % 8) as usize] = 250);
        }
        let meta = Meta {
            id: format!("{name}-{i}"),
            patient: format!("{name}-{}", i / 2),
            label: ill.unwrap_or("Normal").into(),
            view: [Some("AP".into()), Some("PA".into()), None][i as usize % 3].clone(),
            sex: Some("F".into()),
            age: Some(30 + i),
            boxes: if ill == Some("Lung Opacity") { vec![[0.5, 0.25, 0.25, 0.25]] } else { Vec::new() },
            source: format!("{name}/{i}.dcm"),
            digest: Digest::of(&pixels),
        };
        (pixels, meta)
    };
    (0..count).map(image).collect()
}

/// AlexNet and the weights of its taps, all drawn; by file.
fn similarity(rng: &mut Rng) -> [(&'static str, Tensors); 2] {
    let mut drawn = |shape: &[u64]| {
        let inputs = shape[1..].iter().product::<u64>().max(1) as f64;
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|_| ((rng.uniform() - 0.4) * 3.0 / inputs.sqrt()) as f32).collect();
        TensorData { shape: shape.to_vec(), ..TensorData::from_f32(&values) }
    };
    let (mut alexnet, mut linear) = (Tensors::new(), Tensors::new());
    let convs: [(u8, [u64; 4]); 5] = [
        (0, [64, 3, 11, 11]),
        (3, [192, 64, 5, 5]),
        (6, [384, 192, 3, 3]),
        (8, [256, 384, 3, 3]),
        (10, [256, 256, 3, 3]),
    ];
    for (tap, (index, shape)) in convs.into_iter().enumerate() {
        alexnet.insert(format!("features.{index}.weight"), drawn(&shape));
        alexnet.insert(format!("features.{index}.bias"), drawn(&shape[..1]));
        linear.insert(format!("lin{tap}.model.1.weight"), drawn(&[1, shape[0], 1, 1]));
    }
    [("alexnet.safetensors", alexnet), ("linear.safetensors", linear)]
}

/// InceptionV3 with drawn weights: its tensors' names, shapes and spread are those that the model's golden vectors are recorded with.
fn inception(rng: &mut Rng) -> Tensors {
    let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/golden/inception.json");
    let recorded: serde_json::Value = serde_json::from_slice(&std::fs::read(recorded).unwrap()).unwrap();
    let mut all = Tensors::new();
    for (name, of) in recorded["tensors"].as_object().unwrap() {
        let (middle, reach) = (of[0].as_f64().unwrap(), of[1].as_f64().unwrap());
        let shape: Vec<u64> = of[2].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).collect();
        let value = |_| (middle + reach * (2.0 * rng.uniform() - 1.0)) as f32;
        let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
        all.insert(name.clone(), TensorData { shape, ..TensorData::from_f32(&values) });
    }
    all.insert(
        "fc.weight".into(),
        TensorData { shape: vec![1008, 2048], ..TensorData::from_f32(&vec![0.0; 1008 * 2048]) },
    );
    all
}

/// Two datasets and what is known of the first; with `leak`, a test image is a training image under another name.
async fn write(folder: &Path, leak: bool) {
    let open = |name: &str| Objects::open(&folder.join(name).display().to_string()).unwrap();
    let mut rng = Rng::keyed(8, "evaluation", 0);
    let train = split(&mut rng, "train", 6, None);
    let mut test = split(&mut rng, "test", 13, Some("Lung Opacity"));
    if leak {
        let (pixels, meta) = &train[2];
        test[4].0.clone_from(pixels);
        test[6].1.patient.clone_from(&meta.patient);
    }
    let weights = open("weights");
    for (name, tensors) in similarity(&mut rng) {
        weights.put(name, to_safetensors(&tensors).unwrap().into()).await.unwrap();
    }
    let truth = open("truth");
    for (pixels, meta) in &test {
        let mut files: Vec<(Kind, Vec<u8>)> =
            vec![(Kind::Mask, (0..SIDE * SIDE).map(|i| if i % SIDE < 24 { 255 } else { 0 }).collect())];
        if !meta.boxes.is_empty() {
            let healthy = pixels.iter().map(|p| if *p == 250 { 90 } else { *p }).collect();
            let lesion = pixels.iter().map(|p| if *p == 250 { 255 } else { 0 }).collect();
            files.extend([(Kind::Twin, healthy), (Kind::Lesion, lesion)]);
        }
        for (kind, pixels) in files {
            let bytes = png::write(SIDE as usize, SIDE as usize, &pixels).unwrap();
            truth.put(&kind.key(&meta.id), bytes.into()).await.unwrap();
        }
    }
    let val = split(&mut rng, "val", 7, None);
    // The other images have no mask; those of the first dataset all have.
    let other = split(&mut rng, "other", 9, Some("COVID"));
    let labelled = split(&mut rng, "labelled", 8, Some("Lung Opacity"));
    for (_, meta) in val.iter().chain(&other).chain(&labelled) {
        let bytes = png::write(2, 2, &[255; 4]).unwrap();
        truth.put(&Kind::Mask.key(&meta.id), bytes.into()).await.unwrap();
    }
    let splits = vec![("train", train), ("val", val), ("test", test)];
    store(&open("data"), "noise", splits, PatientIds::Person).await;
    store(&open("other"), "covid-noise", vec![("test", other)], PatientIds::Image).await;
    store(&open("labelled"), "labelled-noise", vec![("test", labelled)], PatientIds::Person).await;
    // It was made smaller by another rule.
    let (folder, file) = (open("other"), morph_spec::manifest::FILE);
    let mut manifest: serde_json::Value = serde_json::from_slice(&folder.get(file).await.unwrap()).unwrap();
    manifest["preprocess"]["resize"] = json!("torch-bilinear");
    folder.put(file, manifest.to_string().into()).await.unwrap();
}

fn sets(experiment: &Experiment, folder: &Path, runtime: &Runtime) -> (Sets, Digest) {
    let cache = folder.join("cache");
    let dataset = runtime.block_on(Dataset::open(&experiment.dataset.url, None, &cache, 1 << 30)).unwrap();
    (runtime.block_on(dataset.sets(experiment)).unwrap(), dataset.digest)
}

/// In a rank's process: the scores by both ranks are those by this one alone.
fn scored(group: &Group) -> String {
    let folder = env::var_os("T_FOLDER").unwrap();
    let folder = Path::new(&folder);
    rank::set_up(1, Device::Cpu).unwrap();
    let (mut experiment, runtime, orders) = (experiment(folder), rank::runtime().unwrap(), Orders::default());
    let weights = folder.join("weights/inception.safetensors").display().to_string();
    experiment.evaluation.fid = Some(morph_spec::evaluation::Fid { weights });
    let (sets, _) = sets(&experiment, folder, &runtime);
    let net = rank::build(&experiment, PLACE, &runtime).unwrap();
    // A flow that moves something, where a fresh one is next to nothing.
    for (_, flow) in net.method.parameters().into_iter().filter(|(name, _)| name == "deformer.flow.weight") {
        tch::no_grad(|| drop(flow.shallow_clone().f_mul_scalar_(3e4).unwrap()));
    }
    let lpips = Similarity::load(&experiment, PLACE, &runtime).unwrap();
    let fid = evaluate::inception(&experiment, PLACE, &runtime).unwrap();
    let inputs = evaluate::weights(&net.inputs, lpips.as_ref(), fid.as_ref());
    let score = |group| {
        let scene = Scene {
            experiment: &experiment,
            test: &sets.test,
            validation: &sets.validation,
            leakage: None,
            lpips: lpips.as_ref(),
            fid: fid.as_ref().map(|(network, _)| network),
            inputs: &inputs,
            group,
            place: PLACE,
            orders: &orders,
            runtime: &runtime,
        };
        evaluate::score(&scene, net.method.as_ref(), Scored::default()).unwrap().unwrap()
    };
    let shared = score(group);
    let alone = score(&Group::solo()).unwrap();
    assert_eq!(shared.is_some(), group.rank() == 0);
    if let Some(shared) = shared {
        assert_eq!(shared.files().unwrap(), alone.files().unwrap(), "every artifact, byte by byte");
    }
    // What is measured is how far the prior was moved, and not the velocity field that moved it.
    let x = tensor(&sets.test.sets[0].samples, [0], PLACE);
    let made = net.method.reconstruct(&x, &mut Keyed::new(0, "none", 0..1)).unwrap();
    let measured = |field: Option<tch::Tensor>| {
        let side = SIDE as usize;
        let [rows, columns] = [0, 1].map(|k| values(&field.as_ref().unwrap().select(1, k)).unwrap());
        morph_scores::deformation(&rows, &columns, side, side).unwrap().mean
    };
    let found = alone.cases.values(&sets.test.sets[0].name, "displacement").unwrap()[0];
    let (moved, velocity) = (measured(made.displacement), measured(made.deformation));
    assert!(
        (found - moved).abs() < 1e-4 * moved && (velocity - moved).abs() > 1e-3 * moved,
        "{found}: {moved}, {velocity}"
    );
    let e = &alone.evaluation;
    assert_eq!(
        e.sets.keys().collect::<Vec<_>>(),
        ["calibration", "calibration/healthy", "covid", "covid/healthy", "healthy", "opacity", "validation"]
    );
    let (opacity, covid) = (&e.comparisons["opacity"], &e.comparisons["covid"]);
    assert_eq!((opacity.by_person, covid.by_person), (true, false));
    assert_eq!((covid.healthy_cases, covid.pathology_cases), (5, 4));
    assert!(opacity.localisation.is_some() && covid.localisation.is_none(), "COVID has no boxes");
    let means = &e.sets["opacity"].means;
    for column in columns::ALL.iter().filter(|c| c.name != "psnr" && c.name != "twin_psnr") {
        assert!(means.contains_key(column.name), "no {} of {:?}", column.name, means.keys());
    }
    // An untrained network restores nothing: what it makes is farther from health than what it was given.
    let of = |fid: &Option<Fid>| fid.clone().map(|f| (f.images, f.against, f.network)).unwrap();
    assert_eq!(of(&opacity.healthy_fid), (6, 7, "pytorch-fid".to_owned()));
    assert_eq!(of(&covid.untouched_fid), (4, 5, "pytorch-fid".to_owned()));
    let (restored, untouched) =
        (opacity.healthy_fid.clone().unwrap().value, opacity.untouched_fid.clone().unwrap().value);
    assert!(restored > 2.0 * untouched && untouched > 0.0, "{restored}, {untouched}");
    let sets: Vec<bool> = e.sets.values().map(|set| set.fid.as_ref().is_some_and(|f| f.value > 0.0)).collect();
    assert_eq!(
        sets,
        [true, true, true, true, true, true, false],
        "of all but the validation set, which is no test set"
    );
    let (text, summary) = (e.text(), e.summary());
    assert!(text.contains("FID against 7 healthy images") && text.contains("lpips"), "{text}");
    assert_eq!(summary["opacity/healthy_fid"].to_bits(), restored.to_bits());
    assert!(summary.contains_key("healthy/fid") && e.notes.iter().any(|n| n.contains("than Inception has features")));
    assert!(opacity.scores["top5_masked"].operating.is_some() && covid.scores["l1"].drift.is_some());
    assert!(e.notes.iter().any(|n| n.contains("phantoms")), "{:?}", e.notes);
    // Whose contents the numbers depend on: three files of weights; masks of all 29 images, twins and lesions of the six sick ones.
    let named: Vec<(&str, u64)> = e.inputs.iter().map(|input| (input.field.as_str(), input.files)).collect();
    let (lpips, fid) = ("evaluation.lpips.weights", "evaluation.fid.weights");
    assert_eq!(named, [(lpips, 1), (lpips, 1), (fid, 1), ("evaluation.truth", 29 + 8 + 12)]);
    // Images beside the test sets that make the score a probability, and are no comparison.
    let calibrated = opacity.calibration.as_ref().unwrap();
    assert_eq!((calibrated.healthy_cases, calibrated.pathology_cases, e.comparisons.len()), (4, 4, 2));
    assert!(calibrated.platt.brier > 0.0 && covid.calibration.is_some());
    assert_eq!(opacity.predictive.iter().map(|p| p.prevalence).collect::<Vec<_>>(), [0.01, 0.05, 0.2]);

    let bytes = std::fs::read(folder.join("weights/alexnet.safetensors")).unwrap();
    assert_eq!(e.inputs[0].blake3, Digest::of(&bytes).to_string());
    let otherwise =
        "covid-noise was prepared otherwise than noise (resize: \"torch-bilinear\" instead of \"pillow-bilinear\")";
    assert!(e.notes.iter().any(|n| n.contains(otherwise)), "{:?}", e.notes);
    Digest::of(&alone.files().unwrap()[3].1).to_string()
}

#[test]
fn two_ranks_measure_what_one_does() {
    if let Some(group) = group() {
        println!("<{}>", scored(&group));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    rank::runtime().unwrap().block_on(write(folder.path(), false));
    let inception = to_safetensors(&inception(&mut Rng::keyed(8, "inception", 0))).unwrap();
    std::fs::write(folder.path().join("weights/inception.safetensors"), inception).unwrap();
    let said = both("evaluation::two_ranks_measure_what_one_does", &[("T_FOLDER", folder.path().to_str().unwrap())]);
    assert_eq!(said[0], said[1]);
}

/// Saves an untrained network as a checkpoint; its URL.
fn save(experiment: &Experiment, folder: &Path, runtime: &Runtime, damage: bool) -> String {
    let net = rank::build(experiment, PLACE, runtime).unwrap();
    if damage {
        let (_, mut weight) = net.method.parameters().remove(0);
        tch::no_grad(|| drop(weight.fill_(f64::NAN)));
    }
    let (_, dataset) = sets(experiment, folder, runtime);
    let provenance = Provenance { experiment: serde_json::to_value(experiment).unwrap(), dataset, world: 1 };
    let taken = snapshot::take(&net, &Position::default(), &provenance).unwrap();
    let name = if damage { "damaged" } else { "whole" };
    let checkpoints = Objects::open(&folder.join("checkpoints").display().to_string()).unwrap();
    runtime.block_on(morph_checkpoint::save(&checkpoints, name, &taken)).unwrap();
    checkpoints.at(name).url_of(morph_checkpoint::MANIFEST)
}

#[test]
fn a_checkpoint_is_scored_alone_and_on_other_data() {
    let (folder, runtime) = (tempfile::tempdir().unwrap(), rank::runtime().unwrap());
    let folder = folder.path();
    rank::set_up(1, Device::Cpu).unwrap();
    runtime.block_on(write(folder, false));
    let experiment = experiment(folder);
    let request = |url: String| checkpoint::Request { url, ..checkpoint::Request::default() };
    let whole = request(save(&experiment, folder, &runtime, false));
    let evaluate = |request: &checkpoint::Request| checkpoint::evaluate(request, &folder.join("cache"), 1 << 30);

    let heatmaps = folder.join("maps");
    let asked = checkpoint::Request { score: Some(Score::L1), heatmaps: Some(heatmaps.clone()), ..whole.clone() };
    let outcome = evaluate(&asked).unwrap();
    for (set, id, n) in [("opacity", "test-1", 6), ("healthy", "test-0", 7), ("covid/healthy", "other-0", 5)] {
        let pictures: Vec<_> = std::fs::read_dir(heatmaps.join(set)).unwrap().collect();
        assert_eq!(pictures.len(), n, "{set}");
        let picture = png::read(&std::fs::read(heatmaps.join(set).join(format!("{id}.png"))).unwrap()).unwrap();
        assert!(picture.width == 512 && picture.height > 512, "an image large enough to look at, and its caption");
    }
    assert_eq!(outcome.evaluation.design.score, "l1");
    let leakage = outcome.evaluation.leakage.clone().unwrap();
    assert_eq!((leakage.persons_known, leakage.persons, leakage.images, leakage.allowed), (true, 0, 0, false));
    let [csv, ..] = outcome.files().unwrap();
    assert_eq!(Cases::from_csv("cases.csv", &csv.1).unwrap(), outcome.cases, "the table is what was evaluated");
    let again = morph_scores::evaluation::evaluate(&outcome.cases, &outcome.evaluation.design).unwrap();
    assert_eq!(again.comparisons["covid"], outcome.evaluation.comparisons["covid"], "the table has all that it takes");

    let damaged = evaluate(&request(save(&experiment, folder, &runtime, true))).unwrap_err().to_string();
    assert!(damaged.contains("case val-0 of set \"validation\"") && damaged.contains("NaN"), "{damaged}");

    // Elsewhere: what is there has no opacities, but something else that can be named.
    let other = folder.join("other").display().to_string();
    let on = checkpoint::Request { on: vec![other], ..whole };
    let said = evaluate(&on).unwrap_err().to_string();
    assert!(said.contains("Lung Opacity") && said.contains("COVID"), "{said}");
    let covid = "evaluation.pathology={covid: {split: test, labels: [COVID]}}";
    let set = |all: &[&str]| checkpoint::Request { set: all.iter().map(|s| (*s).to_owned()).collect(), ..on.clone() };
    let e = evaluate(&set(&["evaluation.resamples=150", covid])).unwrap().evaluation;
    assert_eq!(e.sets.keys().collect::<Vec<_>>(), ["covid", "healthy", "validation"]);
    assert_eq!((e.comparisons["covid"].healthy_cases, e.comparisons["covid"].pathology_cases), (5, 4));
    assert_eq!((e.design.bootstrap.resamples, e.sets["covid"].datasets[0].as_str()), (150, "covid-noise"));
    for (wrong, why) in [
        ("trainer.seed=3", "only how a network is scored"),
        ("evaluation.pathology={}", "has none"),
        (
            "evaluation.comparisons.x={healthy: {split: val}, pathology: {split: test, labels: [COVID]}}",
            "leave one of both out",
        ),
        ("evaluation.pathologies={}", "pathology"),
    ] {
        let said = evaluate(&set(&[wrong])).unwrap_err().to_string();
        assert!(said.contains(why), "{wrong}: {said}");
    }

    // The data that it was trained on is not there: nobody knows what it has seen.
    let data = folder.join("data");
    let moved = folder.join("moved");
    std::fs::rename(&data, &moved).unwrap();
    let on = checkpoint::Request { on: vec![moved.display().to_string()], ..on };
    let refused = evaluate(&on).unwrap_err();
    assert!(matches!(refused, Failure::Refused(_)));
    let said = refused.to_string();
    assert!(
        said.contains("cannot be read") && said.contains("--allow-leakage") && said.contains("dataset.url"),
        "{said}"
    );
    let found = checkpoint::Request { set: vec![format!("dataset.url={}", moved.display())], ..on.clone() };
    let leakage = evaluate(&found).unwrap().evaluation.leakage.unwrap();
    assert_eq!((leakage.unchecked.as_str(), leakage.allowed), ("", false));
    let e: Evaluation = evaluate(&checkpoint::Request { allow_leakage: true, ..on }).unwrap().evaluation;
    assert_eq!(e.sets.keys().collect::<Vec<_>>(), ["healthy", "opacity", "validation"]);
    let leakage = e.leakage.unwrap();
    assert!(leakage.allowed && leakage.unchecked.contains("cannot be read"));
    assert!(leakage.text().contains("not checked, ALLOWED"), "{}", leakage.text());
    assert!(e.notes.iter().any(|n| n.contains("not of the data trained on")), "{:?}", e.notes);
}

/// A DICOM file, explicit little endian, of 8 bit.
fn dicom(width: u16, height: u16, pixels: &[u8]) -> Vec<u8> {
    fn put(to: &mut Vec<u8>, tag: [u16; 2], vr: &str, value: &[u8]) {
        tag.iter().for_each(|part| to.extend(part.to_le_bytes()));
        to.extend(vr.bytes());
        let value = [value, if value.len() % 2 == 1 { &[0][..] } else { &[] }].concat();
        if vr == "OB" {
            to.extend([0, 0]);
            to.extend((value.len() as u32).to_le_bytes());
        } else {
            to.extend((value.len() as u16).to_le_bytes());
        }
        to.extend(value);
    }
    let image = b"1.2.840.10008.5.1.4.1.1.7";
    let mut meta = Vec::new();
    put(&mut meta, [2, 1], "OB", &[0, 1]);
    put(&mut meta, [2, 2], "UI", image);
    put(&mut meta, [2, 3], "UI", b"1.2.3.4");
    put(&mut meta, [2, 0x10], "UI", b"1.2.840.10008.1.2.1");
    let mut out = [&[0; 128][..], b"DICM"].concat();
    put(&mut out, [2, 0], "UL", &(meta.len() as u32).to_le_bytes());
    out.extend(meta);
    put(&mut out, [8, 0x16], "UI", image);
    put(&mut out, [8, 0x18], "UI", b"1.2.3.4");
    put(&mut out, [0x10, 0x20], "LO", b"p-7");
    put(&mut out, [0x20, 0xd], "UI", b"1.2.3");
    let short = |to: &mut Vec<u8>, tag, value: u16| put(to, tag, "US", &value.to_le_bytes());
    short(&mut out, [0x28, 2], 1);
    put(&mut out, [0x28, 4], "CS", b"MONOCHROME2");
    for (element, value) in [(0x10, height), (0x11, width), (0x100, 8), (0x101, 8), (0x102, 7), (0x103, 0)] {
        short(&mut out, [0x28, element], value);
    }
    put(&mut out, [0x7fe0, 0x10], "OB", pixels);
    out
}

#[test]
fn colours_lie_where_the_prepared_square_was_cut_out_of_the_file() {
    const WIDTH: usize = 80;
    const HEIGHT: usize = 48;
    let (folder, runtime) = (tempfile::tempdir().unwrap(), rank::runtime().unwrap());
    let folder = folder.path();
    rank::set_up(1, Device::Cpu).unwrap();
    runtime.block_on(write(folder, false));
    // The first healthy test image, wider than high, of which the middle was taken.
    let pixels: Vec<u8> = (0..WIDTH * HEIGHT).map(|i| (40 + i % WIDTH) as u8).collect();
    let file = dicom(WIDTH as u16, HEIGHT as u16, &pixels);
    std::fs::create_dir_all(folder.join("raw/test")).unwrap();
    std::fs::write(folder.join("raw/test/0.dcm"), &file).unwrap();
    let mut rng = Rng::keyed(9, "evaluation", 0);
    let mut test = split(&mut rng, "test", 6, Some("Lung Opacity"));
    test[0].1.digest = Digest::of(&file);
    test[1..].iter_mut().for_each(|(_, meta)| meta.source = meta.source.replace(".dcm", ".png"));
    let cropped = Objects::open(&folder.join("cropped").display().to_string()).unwrap();
    runtime.block_on(store(&cropped, "cropped", vec![("test", test)], PatientIds::Person));
    let manifest = folder.join("cropped").join(morph_spec::manifest::FILE);
    let mut value: serde_json::Value = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
    value["preprocess"]["aspect"] = json!("crop");
    std::fs::write(&manifest, value.to_string()).unwrap();

    let experiment = experiment(folder);
    let maps = folder.join("maps");
    let request = checkpoint::Request {
        url: save(&experiment, folder, &runtime, false),
        on: vec![folder.join("cropped").display().to_string()],
        score: Some(Score::L1),
        heatmaps: Some(maps.clone()),
        source: Some(folder.join("raw")),
        ..checkpoint::Request::default()
    };
    checkpoint::evaluate(&request, &folder.join("cache"), 1 << 30).unwrap();
    let mut reader = ::png::Decoder::new(std::io::Cursor::new(std::fs::read(maps.join("healthy/test-0.png")).unwrap()))
        .read_info()
        .unwrap();
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut rgb).unwrap();
    assert_eq!(info.width as usize, WIDTH, "drawn over the file itself");
    let coloured = |x: usize| {
        let column = (0..HEIGHT).map(|y| &rgb[(y * WIDTH + x) * 3..][..3]);
        column.filter(|p| **p != [(40 + x) as u8; 3]).count()
    };
    // 80 − 48 = 32 columns were cut off, half of them on each side.
    assert_eq!(
        (0..16).chain(64..WIDTH).map(coloured).sum::<usize>(),
        0,
        "what the network has not seen stays as it is"
    );
    assert!((16..64).map(coloured).min() > Some(HEIGHT / 2), "and noise that it cannot restore is coloured everywhere");
    let capture = std::fs::read(maps.join("healthy/test-0.dcm")).unwrap();
    assert!(capture.windows(rgb.len()).any(|part| part == rgb), "the DICOM file shows the same picture");
    assert!(
        !maps.join("opacity/test-1.dcm").exists() && maps.join("opacity/test-1.png").exists(),
        "its source is none"
    );
}

#[test]
fn what_is_scored_is_what_lay_there_at_submission() {
    let (folder, runtime) = (tempfile::tempdir().unwrap(), rank::runtime().unwrap());
    let folder = folder.path();
    runtime.block_on(write(folder, false));
    let mut experiment = experiment(folder);
    let other = folder.join("other").display().to_string();
    let manifest = std::fs::read(folder.join("other/manifest.json")).unwrap();
    experiment.evaluation.digests.insert(other.clone(), Digest::of(&manifest));
    let sets = |e: &Experiment| {
        let dataset = runtime.block_on(Dataset::open(&e.dataset.url, None, &folder.join("cache"), 1 << 30)).unwrap();
        runtime.block_on(dataset.sets(e))
    };
    sets(&experiment).unwrap();
    std::fs::write(folder.join("other/manifest.json"), [&manifest[..], b" "].concat()).unwrap();
    let said = sets(&experiment).unwrap_err();
    assert!(matches!(said, Failure::User(_)));
    let said = said.to_string();
    assert!(said.contains(&other) && said.contains("has changed since the run was submitted"), "{said}");
    experiment.evaluation = experiment.evaluation.on(&[("covid-noise".into(), other)]);
    let said = sets(&experiment).unwrap_err().to_string();
    assert!(said.contains("Lung Opacity"), "named anew, it is what is there now, and has other labels: {said}");
}

#[test]
fn who_was_trained_on_is_not_tested_on() {
    let (folder, runtime) = (tempfile::tempdir().unwrap(), rank::runtime().unwrap());
    let folder = folder.path();
    runtime.block_on(write(folder, true));
    let mut experiment = experiment(folder);
    let (sets, _) = sets(&experiment, folder, &runtime);
    let look = |e: &Experiment| leakage::look(e, &sets.train, &sets.validation, &sets.test);
    let found = look(&experiment);
    assert_eq!((found.persons, found.images, found.allowed), (1, 1, false));
    let examples: Vec<_> =
        found.examples.iter().map(|s| (s.case.as_str(), s.other.as_str(), s.split.as_str())).collect();
    assert_eq!(examples, [("test-6", "train-2", "train"), ("test-4", "train-2", "train")]);
    let refused = leakage::refuse(&found).unwrap_err();
    assert!(matches!(refused, Failure::Refused(_)));
    let said = refused.to_string();
    assert!(said.contains("test-6 of set \"healthy\"") && said.contains("evaluation.leakage: allow"), "{said}");
    experiment.evaluation.leakage = morph_spec::experiment::Leakage::Allow;
    let found = look(&experiment);
    assert!(found.allowed && found.text().contains("ALLOWED"));
    leakage::refuse(&found).unwrap();
}

/// Two preparations of one source may have two names; two sources may both have a patient 12.
#[test]
fn persons_are_known_again_under_another_datasets_name_if_their_ids_can_be_nobody_elses() {
    let (folder, runtime) = (tempfile::tempdir().unwrap(), rank::runtime().unwrap());
    let folder = folder.path();
    runtime.block_on(write(folder, false));
    let experiment = experiment(folder);
    let of = |patients: [&str; 2], digit: u64| {
        let mut rng = Rng::keyed(digit, "renamed", 0);
        let mut all = split(&mut rng, "renamed", 4, Some("COVID"));
        let mut training = split(&mut rng, "again", 4, None);
        all[1].1.patient = patients[0].into();
        training[2].1.patient = patients[1].into();
        let open = |name: &str| Objects::open(&folder.join(name).display().to_string()).unwrap();
        std::fs::remove_dir_all(folder.join("other")).unwrap();
        std::fs::remove_dir_all(folder.join("data")).unwrap();
        let sick = split(&mut rng, "test", 6, Some("Lung Opacity"));
        let val = split(&mut rng, "val", 3, None);
        let splits = vec![("train", training), ("val", val), ("test", sick)];
        runtime.block_on(store(&open("data"), "rsna", splits, PatientIds::Person));
        runtime.block_on(store(&open("other"), "rsna-again", vec![("test", all)], PatientIds::Person));
        let (sets, _) = sets(&experiment, folder, &runtime);
        leakage::look(&experiment, &sets.train, &sets.validation, &sets.test)
    };
    let uid = "1.2.826.0.1.3680043.8.498";
    let found = of([uid, uid], 1);
    assert_eq!((found.persons, found.namesakes, found.images), (1, 0, 0), "{found:?}");
    assert!(leakage::refuse(&found).unwrap_err().to_string().contains(uid));
    let found = of(["12", "12"], 2);
    assert_eq!((found.persons, found.namesakes, found.images, found.validation), (0, 1, 0, 0), "{found:?}");
    leakage::refuse(&found).unwrap();
    assert!(found.text().contains("the same persons if both datasets are of one source"), "{}", found.text());
    let found = of(["12", "13"], 3);
    assert_eq!((found.persons, found.namesakes), (0, 0), "{found:?}");
    assert!(!found.text().contains("one source"));
}

#[test]
fn images_on_two_sides_are_said() {
    let (folder, runtime) = (tempfile::tempdir().unwrap(), rank::runtime().unwrap());
    let folder = folder.path();
    runtime.block_on(write(folder, false));
    std::fs::remove_dir_all(folder.join("data")).unwrap();
    let mut rng = Rng::keyed(5, "sides", 0);
    let (train, mut val) = (split(&mut rng, "train", 4, None), split(&mut rng, "val", 5, None));
    val[1].1.patient = train[2].1.patient.clone();
    val[3].0 = train[0].0.clone();
    let (healthy, mut sick) = (split(&mut rng, "test", 7, None), split(&mut rng, "sick", 6, Some("Lung Opacity")));
    sick[3].0 = healthy[2].0.clone();
    let splits = vec![("train", train), ("val", val), ("test", [healthy, sick].concat())];
    let open = Objects::open(&folder.join("data").display().to_string()).unwrap();
    runtime.block_on(store(&open, "rsna", splits, PatientIds::Person));
    let experiment = experiment(folder);
    let (sets, _) = sets(&experiment, folder, &runtime);
    let found = leakage::look(&experiment, &sets.train, &sets.validation, &sets.test);
    assert_eq!((found.persons, found.images, found.validation), (0, 0, 2), "{found:?}");
    assert!(found.text().contains("2 healthy validation images have a part in training"), "{}", found.text());
    let pair = sets.test.comparisons.iter().find(|(name, _)| name.as_str() == "opacity").unwrap().1;
    let said = evaluate::on_both_sides(&sets.test, "opacity", pair).unwrap();
    assert!(said.contains("1 images") && said.contains("(test-2 is sick-3)"), "{said}");
}
