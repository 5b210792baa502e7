//! From phantoms in RSNA's layout to samples, and everything that can go wrong on the way.

#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

use morph_data::{
    Error, Progress, Samples, Silent, diff, inspect,
    layouts::{Root, rsna},
    manifest, phantom,
    prepare::{self, Options, Report},
    readers::{self, Grey},
    resize, synth,
};
use morph_objects::{NodeCache, Objects};
use morph_spec::{
    Digest,
    dataset::{Dataset, Filter, Kind, Layout, Others, Preprocess, Privacy, Resize, Source, Split},
    experiment::Subset,
    manifest::PatientIds,
};
use tempfile::TempDir;

const SEED: u64 = 7;
const SIZE: u32 = 48;

/// Phantoms in `raw`; datasets go beside it.
struct House(TempDir);

impl House {
    fn new(healthy: u32, opacity: u32) -> Self {
        let house = Self(TempDir::new().unwrap());
        synth::write(&options(&house.raw(), healthy, opacity), &Silent).unwrap();
        house
    }

    fn raw(&self) -> PathBuf {
        self.0.path().join("raw")
    }

    fn out(&self) -> PathBuf {
        self.0.path().join("out")
    }

    fn spec(&self) -> Dataset {
        spec(Layout::Rsna, &self.raw(), &self.out())
    }

    /// The raw images, by name.
    fn images(&self) -> Vec<PathBuf> {
        files(&self.raw().join("stage_2_train_images")).into_keys().collect()
    }
}

fn options(root: &Path, healthy: u32, opacity: u32) -> synth::Options {
    synth::Options { root: root.to_owned(), seed: SEED, healthy, opacity, other: 2, size: SIZE }
}

fn spec(layout: Layout, root: &Path, out: &Path) -> Dataset {
    Dataset {
        kind: Kind::Dataset,
        name: "phantoms".into(),
        source: Source::new(layout, root.display().to_string()),
        output: out.display().to_string(),
        preprocess: Preprocess { size: 16, ..Preprocess::default() },
        split: Split { val: 0.25, test: 0.25, ..Split::default() },
        filter: Filter::default(),
        classes: Vec::new(),
        privacy: Privacy::default(),
        labels: BTreeMap::new(),
        only_labels: Vec::new(),
        shard_samples: 8,
    }
}

async fn run(spec: &Dataset) -> Result<Report, Error> {
    prepare::prepare(spec, &Options::default(), &Silent).await
}

/// Every file below `folder` with its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.append(&mut files(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

/// What is in `folder`, under names that do not depend on where it is.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    files(folder).into_iter().map(|(path, bytes)| (path.strip_prefix(folder).unwrap().to_owned(), bytes)).collect()
}

fn says(e: &Error, all: &[&str]) {
    let said = e.to_string();
    for wanted in all {
        assert!(said.contains(wanted), "it does not say {wanted:?}: {said}");
    }
}

#[test]
fn synth_writes_the_same_bytes_on_any_number_of_threads() {
    let folder = TempDir::new().unwrap();
    let [one, many] = ["one", "many"].map(|name| folder.path().join(name));
    for (root, threads) in [(&one, 1), (&many, 3)] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let written = pool.install(|| synth::write(&options(root, 5, 3), &Silent)).unwrap();
        assert_eq!((written.images, written.reused), (10, false));
    }
    assert_eq!(content(&one), content(&many));
    assert!(synth::write(&options(&one, 5, 3), &Silent).unwrap().reused);
    says(&synth::write(&options(&one, 6, 3), &Silent).unwrap_err(), &["other phantoms", "synth.json"]);
}

#[test]
fn synth_never_touches_what_it_did_not_write() {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("thesis.tex"), "years of work").unwrap();
    says(&synth::write(&options(folder.path(), 1, 1), &Silent).unwrap_err(), &["not empty", "thesis.tex"]);
    assert_eq!(files(folder.path()).len(), 1);
    for (healthy, size) in [(0, SIZE), (1, 8), (1, 100_000)] {
        let wrong = synth::Options { size, other: 0, ..options(&folder.path().join("new"), healthy, 0) };
        assert!(synth::write(&wrong, &Silent).is_err());
        assert!(!wrong.root.exists());
    }
}

#[test]
fn an_interrupted_synth_is_done_again() {
    let (whole, broken) = (House::new(3, 1), House::new(3, 1));
    let images = broken.raw().join("stage_2_train_images");
    fs::remove_file(broken.raw().join("synth.json")).unwrap();
    fs::write(images.join(".synth-in-progress"), "").unwrap();
    fs::write(images.join("of-another-seed.dcm"), "half").unwrap();
    assert!(!synth::write(&options(&broken.raw(), 3, 1), &Silent).unwrap().reused);
    assert_eq!(content(&whole.raw()), content(&broken.raw()));
}

#[test]
fn phantoms_come_back_from_their_files() {
    let house = House::new(4, 6);
    let listing = rsna::list(&Root::folder(house.raw()), None).unwrap();
    assert!(listing.skipped.is_empty() && listing.items.len() == 12 && !listing.persons);
    let count = |label: &str| listing.items.iter().filter(|i| i.label == label).count();
    assert_eq!((count("Normal"), count("Lung Opacity"), count("No Lung Opacity / Not Normal")), (4, 6, 2));
    let mut found = BTreeSet::new();
    for item in &listing.items {
        let (grey, facts) = readers::dicom::read(&item.place.read().unwrap()).unwrap();
        assert_eq!(facts.id.as_ref(), Some(&item.id));
        let label = match &*item.label {
            "Normal" => phantom::Label::Healthy,
            "Lung Opacity" => phantom::Label::Opacity,
            _ => phantom::Label::Other,
        };
        // Which one it is only shows in its pixels: JPEG and film grain leave some grey levels of difference.
        let distance = |case: &phantom::Case| {
            let sum: f64 =
                case.image.iter().zip(&grey.pixels).map(|(a, b)| f64::from((a * 255.0 - f32::from(*b)).abs())).sum();
            sum / f64::from(SIZE * SIZE)
        };
        let cases = (0..12).map(|index| (index, phantom::case(SEED, index, label, SIZE as usize)));
        let best = cases.min_by(|(_, a), (_, b)| distance(a).total_cmp(&distance(b)));
        let (index, case) = best.unwrap();
        assert!(distance(&case) < 4.0, "{} grey levels from phantom {index}", distance(&case));
        assert!(found.insert(index), "phantom {index} comes twice");
        assert_eq!(facts.view.as_deref(), Some(case.view));
        assert_eq!((facts.sex, facts.age), (Some(case.sex.to_string()), Some(case.age)));
        assert_eq!(item.boxes.len(), if label == phantom::Label::Opacity { case.boxes.len() } else { 0 });
        for (written, drawn) in item.boxes.iter().zip(&case.boxes) {
            assert!(written.iter().zip(drawn).all(|(w, d)| (w - d * 1024.0).abs() <= 0.5), "{written:?} {drawn:?}");
        }
    }
}

#[tokio::test]
async fn every_image_becomes_the_sample_that_it_should() {
    let house = House::new(24, 6);
    let report = run(&house.spec()).await.unwrap();
    assert!(!report.reused && report.skipped.is_empty());
    let m = &report.manifest;
    assert_eq!((m.samples(), m.patient_ids, m.synthetic), (32, PatientIds::Image, true));
    assert_eq!(m.counts["test"]["Lung Opacity"], 6);
    assert!(m.counts["train"].keys().chain(m.counts["val"].keys()).all(|label| label == "Normal"), "{:?}", m.counts);
    assert!(m.shards.iter().all(|s| s.samples <= 8));

    let listing = rsna::list(&Root::folder(house.raw()), None).unwrap();
    let items: BTreeMap<_, _> = listing.items.iter().map(|i| (i.id.clone(), i)).collect();
    let dataset = Objects::open(&report.url).unwrap();
    let cache = NodeCache::open(&house.0.path().join("cache"), 1 << 30).unwrap();
    let mut seen = BTreeMap::new();
    for split in ["train", "val", "test"] {
        let subset = Subset { split: split.into(), labels: Vec::new() };
        let samples = Samples::open(&dataset, m, &subset, &cache).await.unwrap();
        assert_eq!(samples.image_size(), [16, 16]);
        for i in 0..samples.len() {
            let meta = samples.meta(i);
            let item = items[&meta.id];
            let bytes = item.place.read().unwrap();
            let (grey, facts) = readers::dicom::read(&bytes).unwrap();
            assert_eq!(samples.image(i), resize::pillow_bilinear(&grey, 16, 16).pixels);
            assert_eq!((meta.digest, &meta.source), (Digest::of(&bytes), &item.source));
            assert_eq!((&meta.label, meta.view, meta.age), (&item.label, facts.view, facts.age));
            let pixels: Vec<[f32; 4]> = meta.boxes.iter().map(|b| b.map(|v| v * 1024.0)).collect();
            assert_eq!(pixels, item.boxes);
            assert_eq!(seen.insert(meta.patient, split), None, "each patient once");
        }
    }
    assert_eq!(seen.len(), 32);
}

#[tokio::test]
async fn the_same_bytes_whatever_the_number_of_jobs_and_reused_after_that() {
    let house = House::new(16, 4);
    let mut digests = Vec::new();
    for (name, jobs) in [("one", 1), ("three", 3)] {
        let spec = Dataset { output: house.0.path().join(name).display().to_string(), ..house.spec() };
        let options = Options { jobs, ..Options::default() };
        let report = prepare::prepare(&spec, &options, &Silent).await.unwrap();
        digests.push(report.digest);
        let again = prepare::prepare(&spec, &options, &Silent).await.unwrap();
        assert!(again.reused && again.digest == report.digest && again.manifest == report.manifest);
    }
    assert_eq!(digests[0], digests[1]);
}

#[tokio::test]
async fn shards_that_others_made_are_taken_and_what_is_damaged_is_made_again() {
    let house = House::new(16, 4);
    let wanted = run(&Dataset { output: house.0.path().join("alone").display().to_string(), ..house.spec() }).await;
    let (spec, options) = (house.spec(), Options::default());
    let prepare::Begun::Plan(plan) = prepare::begin(&spec, false, &Silent).await.unwrap() else { panic!("a plan") };
    let (out, other) = (Objects::open(&spec.output).unwrap(), prepare::Work::list(&spec).unwrap());
    assert_eq!(other.key(), plan.work().key());
    let missing = plan.missing();
    assert_eq!(missing.iter().map(|chunk| chunk.images).sum::<u64>(), 22);
    for chunk in missing.iter().chain(&missing[..1]) {
        other.make(&out, &chunk.name, &options, &Silent).await.unwrap();
    }
    assert!(other.make(&out, "train-99999", &options, &Silent).await.is_err());
    let shard = house.out().join("train-00000.arrow");
    fs::write(&shard, &fs::read(&shard).unwrap()[1..]).unwrap();
    let prepare::Begun::Plan(plan) = plan.gather(&Silent).await.unwrap() else { panic!("no manifest yet") };
    assert_eq!(plan.missing().iter().map(|chunk| &*chunk.name).collect::<Vec<_>>(), ["train-00000"]);
    let report = plan.finish(&options, &Silent).await.unwrap();
    assert_eq!((report.digest, report.resumed), (wanted.unwrap().digest, 0));
}

#[tokio::test]
async fn another_dataset_is_only_replaced_when_asked() {
    let house = House::new(16, 4);
    run(&house.spec()).await.unwrap();
    let before = files(&house.out());
    let other =
        Dataset { preprocess: Preprocess { size: 24, ..Preprocess::default() }, shard_samples: 64, ..house.spec() };
    says(&run(&other).await.unwrap_err(), &["another dataset", "overwrite"]);
    assert_eq!(files(&house.out()), before, "it was not touched");

    fs::write(house.out().join("notes.txt"), "mine").unwrap();
    let options = Options { overwrite: true, ..Options::default() };
    let report = prepare::prepare(&other, &options, &Silent).await.unwrap();
    assert_eq!((report.manifest.image_size, report.reused), ([24, 24], false));
    let names: BTreeSet<String> = content(&house.out()).into_keys().map(|p| p.to_string_lossy().into_owned()).collect();
    let wanted = report.manifest.shards.iter().map(|s| s.file.clone());
    let beside = ["manifest.json", "notes.txt", "prepare.json", "skipped.csv"].map(str::to_owned);
    assert_eq!(names, wanted.chain(beside).collect(), "old shards are gone, foreign files are not");
}

/// Hears what is said.
#[derive(Default)]
struct Ear(Mutex<Vec<String>>);

impl Progress for Ear {
    fn stage(&self, _: &str, _: u64) {}
    fn advance(&self, _: u64) {}
    fn warn(&self, line: &str) {
        self.0.lock().unwrap().push(line.to_owned());
    }
}

#[tokio::test]
async fn damaged_shards_are_named_and_made_again() {
    let house = House::new(16, 4);
    let report = run(&house.spec()).await.unwrap();
    let good = files(&house.out());
    assert!(inspect::verify(&report.url).await.unwrap().is_empty());
    let shard = house.out().join("train-00000.arrow");
    let flipped = {
        let mut bytes = good[&shard].clone();
        bytes[600] ^= 1;
        bytes
    };
    for bad in [Some(good[&shard][..good[&shard].len() - 100].to_vec()), Some(flipped), None] {
        match &bad {
            Some(bytes) => fs::write(&shard, bytes).unwrap(),
            None => fs::remove_file(&shard).unwrap(),
        }
        let damage = inspect::verify(&report.url).await.unwrap();
        assert_eq!(damage.iter().map(|d| &*d.file).collect::<Vec<_>>(), ["train-00000.arrow"]);
        says(&inspect::inspect(&report.url).await.unwrap_err(), &["train-00000.arrow"]);
        let cache = TempDir::new().unwrap();
        let cache = NodeCache::open(cache.path(), 1 << 30).unwrap();
        let subset = Subset { split: "train".into(), labels: Vec::new() };
        let dataset = Objects::open(&report.url).unwrap();
        let opened = Samples::open(&dataset, &report.manifest, &subset, &cache).await;
        says(&opened.unwrap_err(), &["train-00000.arrow"]);

        let ear = Ear::default();
        let again = prepare::prepare(&house.spec(), &Options::default(), &ear).await.unwrap();
        assert!(!again.reused && again.digest == report.digest);
        assert!(ear.0.lock().unwrap().iter().any(|l| l.contains("train-00000.arrow") && l.contains("again")));
        assert_eq!(files(&house.out()), good);
    }
}

#[tokio::test]
async fn bad_files_are_reported_and_left_out() {
    let house = House::new(20, 4);
    let images = house.images();
    let whole = fs::read(&images[1]).unwrap();
    fs::write(&images[0], "this is no DICOM").unwrap();
    fs::write(&images[1], &whole[..whole.len() * 6 / 10]).unwrap();
    fs::remove_file(&images[2]).unwrap();
    fs::copy(&images[4], &images[3]).unwrap();
    fs::write(house.raw().join("stage_2_train_images/unlisted.dcm"), whole).unwrap();
    let ear = Ear::default();
    let report = prepare::prepare(&house.spec(), &Options::default(), &ear).await.unwrap();
    assert_eq!(report.manifest.samples(), 22);
    assert_eq!(report.manifest.skipped.values().sum::<u64>(), 5);
    assert_eq!(ear.0.lock().unwrap().len(), 3, "what is wrong inside of files is told as it is found");
    let table = fs::read_to_string(house.out().join("skipped.csv")).unwrap();
    for (path, reason) in [
        (&*images[0], "no readable DICOM"),
        (&images[1], ""),
        (&images[2], "file is missing"),
        (&images[3], "PatientID is not the one"),
        (Path::new("unlisted.dcm"), "not in stage_2_detailed_class_info.csv"),
    ] {
        let name = path.file_name().unwrap().to_str().unwrap();
        let line = table.lines().find(|l| l.contains(name)).unwrap_or_else(|| panic!("no {name} in\n{table}"));
        assert!(line.contains(reason), "{line}");
    }
    assert!(run(&house.spec()).await.unwrap().reused, "bad files are no reason to begin again");
}

#[tokio::test]
async fn nothing_is_left_behind_when_nothing_can_be_made() {
    let house = House::new(6, 2);
    let typo = Dataset { split: Split { healthy: vec!["normal".into()], ..Split::default() }, ..house.spec() };
    says(&run(&typo).await.unwrap_err(), &["\"train\"", "\"normal\"", "6 \"Normal\""]);
    let none = Dataset { only_labels: vec!["Healthy".into()], ..house.spec() };
    says(&run(&none).await.unwrap_err(), &["no image is left", "only_labels"]);
    let lost = Dataset { source: Source { root: "no/such/folder".into(), ..house.spec().source }, ..house.spec() };
    says(&run(&lost).await.unwrap_err(), &["no/such/folder", "source.root"]);
    for image in house.images() {
        fs::write(image, "this is no DICOM").unwrap();
    }
    says(&run(&house.spec()).await.unwrap_err(), &["no image is left", "10 were skipped", "no readable DICOM"]);
    assert_eq!(files(&house.out()), BTreeMap::new());
}

#[tokio::test]
async fn a_failing_store_costs_no_finished_shard() {
    let house = House::new(16, 4);
    // A folder where a file should go: the write fails when all shards are there already.
    let squatter = house.out().join("skipped.csv/squatter");
    fs::create_dir_all(squatter.parent().unwrap()).unwrap();
    fs::write(&squatter, "").unwrap();
    says(&run(&house.spec()).await.unwrap_err(), &["skipped.csv"]);
    assert!(!house.out().join("manifest.json").exists());
    fs::remove_dir_all(squatter.parent().unwrap()).unwrap();
    // What somebody else left is no obstacle, and does not stay; nor is what is no longer whole believed.
    fs::write(house.out().join("val-00099.arrow"), "half").unwrap();
    fs::write(house.out().join("train-00000.arrow"), "half").unwrap();
    let report = run(&house.spec()).await.unwrap();
    assert_eq!(report.resumed, report.manifest.shards.len() - 1);
    let whole = Dataset { output: house.0.path().join("whole").display().to_string(), ..house.spec() };
    run(&whole).await.unwrap();
    let but_record = |folder: &Path| {
        let mut all = content(folder);
        // It names the output.
        all.remove(Path::new("prepare.json"));
        all
    };
    assert_eq!(but_record(&house.out()), but_record(&house.0.path().join("whole")));
    // Other options make other shards.
    fs::remove_file(house.out().join("manifest.json")).unwrap();
    let other = Dataset { preprocess: Preprocess { size: 24, ..Preprocess::default() }, ..house.spec() };
    assert_eq!(run(&other).await.unwrap().resumed, 0);
}

/// Where the child of [`a_killed_job_goes_on_where_it_was`] works.
const CHILD: &str = "MORPH_TEST_PREPARE_IN";

fn slow(folder: &Path, out: &str) -> Dataset {
    let split = Split { val: 0.0, test: 0.0, ..Split::default() };
    Dataset { shard_samples: 4, split, ..spec(Layout::Folders, &folder.join("raw"), &folder.join(out)) }
}

/// Not a test of its own: what is killed.
#[tokio::test]
async fn prepare_in_a_process_of_its_own() {
    let Some(folder) = std::env::var_os(CHILD) else { return };
    let options = Options { jobs: 1, ..Options::default() };
    prepare::prepare(&slow(Path::new(&folder), "out"), &options, &Silent).await.unwrap();
}

#[tokio::test]
async fn a_killed_job_goes_on_where_it_was() {
    let folder = TempDir::new().unwrap();
    let images = folder.path().join("raw/Normal");
    fs::create_dir_all(&images).unwrap();
    let pixels: Vec<u8> = (0..1024 * 1024u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let file = readers::png::write(1024, 1024, &pixels).unwrap();
    (0..80).for_each(|i| fs::write(images.join(format!("{i}.png")), &file).unwrap());
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "prepare_in_a_process_of_its_own"])
        .env(CHILD, folder.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let out = folder.path().join("out");
    let parts = || files(&out).into_keys().filter(|p| p.to_string_lossy().ends_with(".part.json")).count();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    while parts() < 3 {
        assert!(std::time::Instant::now() < deadline && child.try_wait().unwrap().is_none(), "it should be at work");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!out.join("manifest.json").exists(), "it was killed too late to try anything");
    let report = run(&slow(folder.path(), "out")).await.unwrap();
    assert!(report.resumed >= 3 && report.resumed < 20, "{} of 20 shards were there", report.resumed);
    let whole = run(&slow(folder.path(), "whole")).await.unwrap();
    assert_eq!((report.digest, report.manifest), (whole.digest, whole.manifest));
    assert_eq!(parts(), 0, "nothing of it is left");
}

#[tokio::test]
async fn what_names_a_patient_stays_here() {
    let house = House::new(16, 4);
    let images = house.images();
    fs::write(&images[0], "this is no DICOM").unwrap();
    let ids: Vec<String> = images.iter().map(|p| p.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    let hidden = |salt: &str, out: &str| Dataset {
        privacy: Privacy { hash_ids: true, salt: salt.into(), ..Privacy::default() },
        output: house.0.path().join(out).display().to_string(),
        ..house.spec()
    };
    let report = run(&hidden("pepper", "a")).await.unwrap();
    assert_eq!((report.manifest.samples(), report.skipped.len()), (21, 1));
    for (path, bytes) in files(&house.0.path().join("a")) {
        let text = String::from_utf8_lossy(&bytes);
        for secret in ids.iter().map(|id| &**id).chain(["pepper", "19010101"]) {
            assert!(!text.contains(secret), "{} holds {secret:?}", path.display());
        }
    }
    let ids = async |name: &str| {
        let cache = NodeCache::open(&house.0.path().join("cache"), 1 << 30).unwrap();
        let dataset = Objects::open(&house.0.path().join(name).display().to_string()).unwrap();
        let (manifest, _) = manifest::read(&dataset).await.unwrap();
        let subset = Subset { split: "test".into(), labels: Vec::new() };
        let samples = Samples::open(&dataset, &manifest, &subset, &cache).await.unwrap();
        (0..samples.len()).map(|i| samples.meta(i).id).collect::<BTreeSet<_>>()
    };
    run(&hidden("pepper", "b")).await.unwrap();
    run(&hidden("salt", "c")).await.unwrap();
    assert_eq!(ids("a").await, ids("b").await, "the same key gives the same ids");
    assert!(ids("a").await.is_disjoint(&ids("c").await));
}

#[tokio::test]
async fn a_person_is_in_one_split_and_another_map_is_another_dataset() {
    let house = House::new(24, 6);
    let map = house.0.path().join("persons.csv");
    let ids: Vec<String> = house.images().iter().map(|p| p.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    let write = |persons: usize| {
        let rows: String = ids.iter().enumerate().map(|(i, id)| format!("{id},person-{}\n", i % persons)).collect();
        fs::write(&map, format!("patientId,person\n{rows}")).unwrap();
    };
    write(20);
    let mut spec = house.spec();
    spec.source.patient_map = Some(map.display().to_string());
    spec.split.others = Others::Split;
    let report = run(&spec).await.unwrap();
    assert_eq!(report.manifest.patient_ids, PatientIds::Person);
    let dataset = Objects::open(&report.url).unwrap();
    let cache = NodeCache::open(&house.0.path().join("cache"), 1 << 30).unwrap();
    let mut splits: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for split in ["train", "val", "test"] {
        let subset = Subset { split: split.into(), labels: Vec::new() };
        let samples = Samples::open(&dataset, &report.manifest, &subset, &cache).await.unwrap();
        for i in 0..samples.len() {
            splits.entry(samples.meta(i).patient).or_default().insert(split);
        }
    }
    assert_eq!(splits.len(), 20);
    assert!(splits.values().all(|s| s.len() == 1), "{splits:?}");
    write(10);
    says(&run(&spec).await.unwrap_err(), &["another dataset"]);
}

#[tokio::test]
async fn a_dataset_may_be_for_tests_only() {
    let house = House::new(4, 3);
    for healthy in [vec!["Normal".to_owned()], vec![]] {
        let spec = Dataset { split: Split { val: 0.0, test: 1.0, healthy, ..Split::default() }, ..house.spec() };
        let over = Options { overwrite: true, ..Options::default() };
        let report = prepare::prepare(&spec, &over, &Silent).await.unwrap();
        assert_eq!(report.manifest.counts["test"].values().sum::<u64>(), report.manifest.samples());
    }
}

#[tokio::test]
async fn class_folders_of_png_files() {
    let folder = TempDir::new().unwrap();
    let (raw, out) = (folder.path().join("raw"), folder.path().join("out"));
    let image = |i: u8| Grey { width: 30, height: 20, pixels: (0..600).map(|p| (p % 251) as u8 ^ i).collect() };
    for (label, n) in [("Normal", 20), ("Lung_Opacity", 5)] {
        // As COVID-19 Radiography has it, with masks beside the images that are no images.
        for inner in ["images", "masks"] {
            fs::create_dir_all(raw.join(label).join(inner)).unwrap();
            for i in 0..n {
                let file = readers::png::write(30, 20, &image(i).pixels).unwrap();
                fs::write(raw.join(label).join(inner).join(format!("{label}-{i}.png")), file).unwrap();
            }
        }
    }
    fs::write(raw.join("Normal.metadata.xlsx"), "").unwrap();
    fs::write(raw.join("Normal/images/Normal-3.png"), "cut off").unwrap();
    let mut spec = spec(Layout::Folders, &raw, &out);
    spec.labels = [("Lung_Opacity".into(), "Lung Opacity".into())].into();
    let report = run(&spec).await.unwrap();
    assert_eq!((report.manifest.samples(), report.skipped.len()), (24, 1));
    assert_eq!(report.manifest.counts["test"]["Lung Opacity"], 5);
    assert!(!report.manifest.synthetic);
    let dataset = Objects::open(&report.url).unwrap();
    let cache = NodeCache::open(&folder.path().join("cache"), 1 << 30).unwrap();
    let subset = Subset { split: "test".into(), labels: vec!["Lung Opacity".into()] };
    let samples = Samples::open(&dataset, &report.manifest, &subset, &cache).await.unwrap();
    assert_eq!(samples.len(), 5);
    for i in 0..5 {
        assert_eq!(samples.meta(i).source, format!("Lung_Opacity/images/Lung_Opacity-{i}.png"));
        assert_eq!(samples.image(i), resize::pillow_bilinear(&image(i as u8), 16, 16).pixels);
    }
}

#[tokio::test]
async fn how_two_datasets_differ() {
    let house = House::new(16, 4);
    let at = |name: &str| house.0.path().join(name).display().to_string();
    run(&Dataset { output: at("a"), ..house.spec() }).await.unwrap();
    run(&Dataset { output: at("b"), shard_samples: 3, ..house.spec() }).await.unwrap();
    let same = diff::diff(&at("a"), &at("b")).await.unwrap();
    assert!(same.is_empty(), "how samples lie in shards is no difference: {same:?}");
    let other = Dataset {
        output: at("c"),
        preprocess: Preprocess { resize: Resize::TorchBilinear, ..house.spec().preprocess },
        labels: [("Lung Opacity".to_owned(), "Opacity".to_owned())].into(),
        ..house.spec()
    };
    fs::write(&house.images()[0], "this is no DICOM").unwrap();
    run(&other).await.unwrap();
    let found = diff::diff(&at("a"), &at("c")).await.unwrap();
    let lost = house.images()[0].file_stem().unwrap().to_string_lossy().into_owned();
    assert_eq!((found.removed, found.added.len(), found.moved.len(), found.other_files.len()), (vec![lost], 0, 0, 0));
    assert!(found.relabelled.len() >= 3 && found.relabelled.iter().all(|r| r[1..] == ["Lung Opacity", "Opacity"]));
    assert_eq!(found.other_pixels.len(), 21, "another resize makes other pixels");
    let lines = diff::diff(&at("c"), &at("a")).await.unwrap().lines().join("\n");
    for wanted in ["torch-bilinear", "1 only in the second", "(Opacity → Lung Opacity)", "and 11 more"] {
        assert!(lines.contains(wanted), "{wanted}:\n{lines}");
    }
}

#[tokio::test]
async fn a_look_at_a_dataset() {
    let house = House::new(20, 5);
    let report = run(&house.spec()).await.unwrap();
    let summary = inspect::inspect(&report.url).await.unwrap();
    assert_eq!((summary.digest, &summary.manifest), (report.digest, &report.manifest));
    for by in ["view", "sex", "age"] {
        let all: u64 = summary.groups.values().map(|split| split[by].values().sum::<u64>()).sum();
        assert_eq!(all, 27, "everybody has one {by}");
    }
    let sheet = readers::png::read(&inspect::contact_sheet(&report.url, "train", 6).await.unwrap()).unwrap();
    assert_eq!((sheet.width, sheet.height), (32, 48), "2 columns, 3 rows of 16 pixels");
    let (manifest, _) = manifest::read(&Objects::open(&report.url).unwrap()).await.unwrap();
    assert_eq!(manifest, report.manifest);
    says(&inspect::contact_sheet(&report.url, "holdout", 6).await.unwrap_err(), &["\"holdout\"", "\"train\""]);
    says(&inspect::inspect(&house.0.path().join("none").display().to_string()).await.unwrap_err(), &["manifest.json"]);
}
