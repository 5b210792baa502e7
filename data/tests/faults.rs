//! What happens to a job when its source's storage fails, or another job has the same output.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, Once},
    time::Duration,
};

use morph_data::{
    Error, Progress, Samples, Silent, inspect,
    prepare::{self, Begun, Options, Plan, Report},
    readers::png,
};
use morph_objects::{NodeCache, Objects};
use morph_spec::{
    dataset::{Dataset, Slice},
    experiment::Subset,
};
use serde_json::json;
use tempfile::TempDir;
use zip::{ZipWriter, write::SimpleFileOptions};

fn spec(layout: &str, folder: &Path, out: &str) -> Dataset {
    serde_json::from_value(json!({
        "kind": "dataset", "name": "x", "output": folder.join(out),
        "source": {"layout": layout, "root": folder.join("raw")},
        "preprocess": {"size": 8}, "split": {"val": 0.0, "test": 0.0}, "shard_samples": 4,
    }))
    .unwrap()
}

async fn run(spec: &Dataset) -> Result<Report, Error> {
    prepare::prepare(spec, &Options::default(), &Silent).await
}

fn image(i: u8) -> Vec<u8> {
    png::write(9, 9, &[i; 81]).unwrap()
}

/// Twelve images of one class.
fn folders(folder: &Path) -> PathBuf {
    let images = folder.join("raw/Normal");
    fs::create_dir_all(&images).unwrap();
    (0..12).for_each(|i| fs::write(images.join(format!("{i}.png")), image(i)).unwrap());
    images
}

fn says(e: &Error, all: &[&str]) {
    let said = e.to_string();
    assert!(all.iter().all(|wanted| said.contains(wanted)), "it does not say {all:?}: {said}");
}

/// Does something once, when the first image of the second shard is done.
struct Then<F: Fn() + Send + Sync>(Once, std::sync::atomic::AtomicU64, F);

impl<F: Fn() + Send + Sync> Then<F> {
    fn new(what: F) -> Self {
        Self(Once::new(), 0.into(), what)
    }
}

impl<F: Fn() + Send + Sync> Progress for Then<F> {
    fn stage(&self, _: &str, _: u64) {}
    fn advance(&self, n: u64) {
        if self.1.fetch_add(n, std::sync::atomic::Ordering::SeqCst) >= 4 {
            self.0.call_once(&self.2);
        }
    }
    fn warn(&self, line: &str) {
        panic!("no file is to blame: {line}");
    }
}

/// One image after the other.
fn slow() -> Options {
    Options { jobs: 1, ..Options::default() }
}

/// Holds up the first image that is done until all others are; what it finds then.
#[derive(Default)]
struct HoldsUp(Mutex<u64>, Condvar);

impl Progress for HoldsUp {
    fn stage(&self, _: &str, _: u64) {}
    fn advance(&self, n: u64) {
        let mut done = self.0.lock().unwrap();
        *done += n;
        self.1.notify_all();
        if *done == 1 {
            let (done, waited) = self.1.wait_timeout_while(done, Duration::from_secs(60), |n| *n < 8).unwrap();
            assert!(!waited.timed_out(), "only {done} images were begun while one of the first four took its time");
        }
    }
    fn warn(&self, line: &str) {
        panic!("no file is to blame: {line}");
    }
}

#[tokio::test]
async fn no_core_waits_at_a_shards_end() {
    let folder = TempDir::new().unwrap();
    folders(folder.path());
    let spec = spec("folders", folder.path(), "out");
    let options = Options { jobs: 2, ..Options::default() };
    let report = prepare::prepare(&spec, &options, &HoldsUp::default()).await.unwrap();
    assert!(report.manifest.shards.len() > 1 && report.manifest.samples() >= 8, "{:?}", report.manifest.shards);
    // The order in which they came about does not show.
    let again = self::spec("folders", folder.path(), "again");
    assert_eq!(run(&again).await.unwrap().manifest.shards, report.manifest.shards);
}

#[tokio::test]
async fn a_file_system_that_goes_away_makes_no_bad_files() {
    let folder = TempDir::new().unwrap();
    let images = folders(folder.path());
    let wanted = run(&spec("folders", folder.path(), "alone")).await.unwrap();
    let (raw, away) = (folder.path().join("raw"), folder.path().join("away"));
    let spec = spec("folders", folder.path(), "out");
    for empty in [false, true] {
        let unmount = Then::new(|| {
            fs::rename(&raw, &away).unwrap();
            // Where it was mounted, an empty folder may remain.
            if empty {
                fs::create_dir_all(&images).unwrap();
            }
        });
        let error = prepare::prepare(&spec, &slow(), &unmount).await.unwrap_err();
        assert!(matches!(error, Error::Storage { .. }), "{error}");
        says(&error, &["Normal/", "still mounted", "goes on"]);
        assert!(!folder.path().join("out/manifest.json").exists());
        assert!(folder.path().join("out/train-00000.arrow").exists(), "what is done is kept");
        if empty {
            fs::remove_dir_all(&raw).unwrap();
        }
        fs::rename(&away, &raw).unwrap();
        fs::remove_file(folder.path().join("out/train-00000.part.json")).unwrap();
    }
    assert_eq!(run(&spec).await.unwrap().digest, wanted.digest);
}

#[tokio::test]
async fn a_zip_file_that_is_written_anew_makes_no_bad_files() {
    let folder = TempDir::new().unwrap();
    let zip = folder.path().join("raw/0.zip");
    fs::create_dir_all(zip.parent().unwrap()).unwrap();
    let mut table = "ImageID,ImageDir,PatientID,Labels\n".to_owned();
    let mut writer = ZipWriter::new(File::create(&zip).unwrap());
    for i in 0..12 {
        writer.start_file(format!("0/{i}.png"), SimpleFileOptions::default()).unwrap();
        writer.write_all(&image(i)).unwrap();
        table += &format!("{i}.png,0,p{i},['normal']\n");
    }
    writer.finish().unwrap();
    fs::write(folder.path().join("raw/PADCHEST.csv"), table).unwrap();
    let spec = spec("padchest", folder.path(), "out");
    let bytes = fs::read(&zip).unwrap();
    let begin_again = Then::new(|| fs::write(&zip, &bytes[..100]).unwrap());
    let error = prepare::prepare(&spec, &slow(), &begin_again).await.unwrap_err();
    assert!(matches!(error, Error::Storage { .. }), "{error}");
    says(&error, &["0.zip has changed since it was opened"]);
    assert!(!folder.path().join("out/manifest.json").exists());
    fs::write(&zip, &bytes).unwrap();
    assert_eq!(run(&spec).await.unwrap().manifest.samples(), 12);
}

async fn plan<'a>(spec: &'a Dataset) -> Box<Plan<'a>> {
    match prepare::begin(spec, false, &Silent).await.unwrap() {
        Begun::Plan(plan) => plan,
        Begun::Whole(_) => panic!("nothing is there yet"),
    }
}

/// Makes all shards, as others do, and takes them over.
async fn made<'a>(plan: Box<Plan<'a>>, out: &Objects) -> Box<Plan<'a>> {
    for chunk in plan.missing() {
        plan.work().make(out, &chunk.name, &Options::default(), &Silent).await.unwrap();
    }
    match plan.gather(&Silent).await.unwrap() {
        Begun::Plan(plan) => plan,
        Begun::Whole(_) => panic!("nothing is committed yet"),
    }
}

#[tokio::test]
async fn a_job_commits_nothing_that_another_has_written_over() {
    let folder = TempDir::new().unwrap();
    folders(folder.path());
    let first = spec("folders", folder.path(), "out");
    let mut second = first.clone();
    second.preprocess.size = 16;
    let wanted = run(&Dataset { output: folder.path().join("alone").display().to_string(), ..first.clone() }).await;
    let out = Objects::open(&first.output).unwrap();
    // The second removes the first's shards, or writes its own under their names.
    for writes in [false, true] {
        let ready = made(plan(&first).await, &out).await;
        let other = plan(&second).await;
        if writes {
            made(other, &out).await;
        }
        let error = ready.finish(&Options::default(), &Silent).await.unwrap_err();
        assert!(matches!(error, Error::Contested { .. }), "{error}");
        says(&error, &["train-00000.arrow", "same output", "nothing was committed"]);
        assert!(!folder.path().join("out/manifest.json").exists());
    }
    let report = run(&first).await.unwrap();
    assert_eq!(report.digest, wanted.unwrap().digest);
}

#[tokio::test]
async fn a_job_writes_nothing_over_what_another_has_committed() {
    let folder = TempDir::new().unwrap();
    folders(folder.path());
    let first = spec("folders", folder.path(), "out");
    let mut second = first.clone();
    second.preprocess.size = 16;
    let late = plan(&second).await;
    let twin = plan(&first).await;
    let report = run(&first).await.unwrap();
    let error = late.finish(&Options::default(), &Silent).await.unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    assert_eq!(twin.finish(&Options::default(), &Silent).await.unwrap().digest, report.digest, "the same bytes");
    assert!(inspect::verify(&report.url).await.unwrap().is_empty());
    assert!(run(&first).await.unwrap().reused);
}

#[tokio::test]
async fn another_plane_is_another_fingerprint() {
    let folder = TempDir::new().unwrap();
    let head = "{'descr': '|u1', 'fortran_order': False, 'shape': (3, 4, 4), }\n";
    let mut volume = b"\x93NUMPY\x01\0".to_vec();
    volume.extend((head.len() as u16).to_le_bytes());
    volume.extend(head.as_bytes());
    volume.extend((0..48).map(|v| v * 5));
    fs::create_dir_all(folder.path().join("raw/Normal")).unwrap();
    fs::write(folder.path().join("raw/Normal/a.npy"), volume).unwrap();
    let mut prints = BTreeMap::new();
    for slice in [0, 1].map(|index| Slice { axis: 0, index: Some(index) }) {
        let mut spec = spec("folders", folder.path(), &format!("{slice:?}"));
        spec.source.slice = Some(slice);
        prints.insert(run(&spec).await.unwrap().manifest.fingerprint, slice.index);
    }
    assert_eq!(prints.len(), 2);
}

#[tokio::test]
async fn subsets_that_do_not_fit_together_are_refused_together() {
    let folder = TempDir::new().unwrap();
    folders(folder.path());
    let mut spec = spec("folders", folder.path(), "out");
    spec.split.test = 0.5;
    let report = run(&spec).await.unwrap();
    let subset = |split: &str, labels: &[&str]| Subset {
        split: split.into(),
        labels: labels.iter().map(|label| (*label).to_owned()).collect(),
    };
    // One of them twice, under another label, too; and one of which nothing is there.
    let (train, test) = (subset("train", &[]), subset("test", &["Normal"]));
    let (again, none) = (subset("train", &["Normal"]), subset("train", &["Sick"]));
    let subsets = [&train, &test, &again, &none];
    let dataset = Objects::open(&report.url).unwrap();
    let bytes = |split: &str| report.manifest.split(split).map(|shard| shard.bytes).sum::<u64>();
    let both = bytes("train") + bytes("test");
    let cache = |name: &str, most| NodeCache::open(&folder.path().join(name), most).unwrap();
    let small = cache("small", both - 1);
    let refused =
        Samples::fetch(&dataset, &report.manifest, report.digest, &subsets, &small).await.unwrap_err().to_string();
    assert!(refused.contains(&format!("{both} bytes are wanted")), "{refused}");
    assert_eq!(fs::read_dir(folder.path().join("small/blake3")).unwrap().count(), 0, "before anything is fetched");
    assert!(small.sets().is_empty());
    let enough = cache("enough", both);
    let held = Samples::fetch(&dataset, &report.manifest, report.digest, &subsets, &enough).await.unwrap();
    assert_eq!(held.len(), report.manifest.shards.len(), "each once");
    assert_eq!(enough.sets(), [report.digest]);
    // What is held there needs the dataset no more.
    fs::remove_file(folder.path().join("out").join(&report.manifest.shards[0].file)).unwrap();
    for wanted in [&train, &test, &again] {
        assert!(Samples::open(&dataset, &report.manifest, wanted, &enough).await.is_ok());
    }
}
