//! Sources in a bucket: every layout gives the bytes that it gives from a folder. The server is a real one (s3s on files), over HTTP; who
//! reads from it is a process of its own, for settings of object storage come from the environment.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output},
    sync::{Arc, Mutex},
};

use hyper::{Method, Request, Response, StatusCode, body::Incoming, service::Service};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use morph_data::{
    Silent,
    prepare::{self, Options},
    readers::png,
    synth,
};
use morph_spec::{Rng, dataset::Dataset};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use serde_json::json;
use tempfile::TempDir;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

const CHILD: &str = "MORPH_TEST_BUCKET";
/// `.zip`: in zip files.
const LAYOUTS: [&str; 6] = ["rsna", "folders", "padchest", "covid19-radiography", "csv", "padchest.zip"];

/// The dataset of `layout` whose raw files lie below `raw`.
fn spec(layout: &str, raw: &str, out: &Path) -> Dataset {
    let mut spec = json!({
        "kind": "dataset", "name": layout, "output": out,
        "source": {"layout": layout.trim_end_matches(".zip"), "root": format!("{raw}/{layout}")},
        "preprocess": {"size": 16}, "split": {"val": 0.25, "test": 0.25}, "shard_samples": 8,
    });
    if layout == "csv" {
        spec["source"]["tables"] = json!([{"file": "tables/all.csv", "label": "Normal"}]);
        spec["source"]["bad_images"] = json!("bad.txt");
    }
    serde_json::from_value(spec).unwrap()
}

/// Raw files of every layout.
fn write(raw: &Path) {
    let options = synth::Options { root: raw.join("rsna"), seed: 7, healthy: 20, opacity: 4, other: 2, size: 64 };
    synth::write(&options, &Silent).unwrap();
    let image = |path: &Path, i: u8| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let pixels: Vec<u8> = (0..=255u8).map(|p| p.wrapping_mul(i | 1)).collect();
        fs::write(path, png::write(16, 16, &pixels).unwrap()).unwrap();
    };
    let mut padchest = "ImageID,ImageDir,PatientID,Labels\n".to_owned();
    let mut table = "filename\n".to_owned();
    for i in 0..24u8 {
        let label = if i % 6 == 0 { "Sick" } else { "Normal" };
        image(&raw.join(format!("folders/{label}/{i}.png")), i);
        image(&raw.join(format!("covid19-radiography/{label}/images/{label}-{i}.png")), i);
        image(&raw.join(format!("covid19-radiography/{label}/masks/{label}-{i}.png")), i);
        image(&raw.join(format!("padchest/{}/{i}.png", i % 2)), i);
        padchest += &format!("{i}.png,{},p{i},\"['{}']\"\n", i % 2, label.to_lowercase());
        image(&raw.join(format!("csv/a/b c/{i}.png")), i);
        table += &format!("a/b c/{i}.png\n");
    }
    fs::write(raw.join("padchest/PADCHEST_labels.csv"), &padchest).unwrap();
    fs::create_dir(raw.join("padchest.zip")).unwrap();
    for (part, method) in [("0", CompressionMethod::Stored), ("1", CompressionMethod::Deflated)] {
        let mut zip = ZipWriter::new(fs::File::create(raw.join("padchest.zip").join(format!("{part}.zip"))).unwrap());
        let options = SimpleFileOptions::default().compression_method(method);
        let mut add = |name: &str, bytes: &[u8]| {
            zip.start_file(format!("{part}/{name}"), options).unwrap();
            zip.write_all(bytes).unwrap();
        };
        for entry in fs::read_dir(raw.join("padchest").join(part)).unwrap().flatten() {
            add(entry.file_name().to_str().unwrap(), &fs::read(entry.path()).unwrap());
        }
        // Fetched in several parts; noise is not made smaller.
        let mut rng = Rng::keyed(3, part, 0);
        let noise: Vec<u8> = (0..2048 * 2048).map(|_| rng.next_u64() as u8).collect();
        add(&format!("large{part}.png"), &png::write(2048, 2048, &noise).unwrap());
        padchest += &format!("large{part}.png,{part},large{part},\"['normal']\"\n");
        zip.finish().unwrap();
    }
    fs::write(raw.join("padchest.zip/PADCHEST_labels.csv"), padchest).unwrap();
    fs::create_dir(raw.join("csv/tables")).unwrap();
    fs::write(raw.join("csv/tables/all.csv"), table + "gone.png\n").unwrap();
    fs::write(raw.join("csv/bad.txt"), "3.png\n").unwrap();
}

/// What the server does not give.
#[derive(Default)]
struct Faults {
    /// So many objects are given; from then on credentials have expired.
    left: Option<usize>,
    /// An object that has gone since it was listed: its path ends so.
    gone: Option<String>,
}

impl Faults {
    /// The answer instead of an object.
    fn answer(&mut self, request: &Request<Incoming>) -> Option<Response<s3s::Body>> {
        if request.method() != Method::GET || request.uri().query().is_some_and(|q| q.contains("list-type")) {
            return None;
        }
        let (status, code) = match (&mut self.left, &self.gone) {
            (Some(0), _) => (StatusCode::FORBIDDEN, "AccessDenied"),
            (_, Some(gone)) if request.uri().path().ends_with(gone) => (StatusCode::NOT_FOUND, "NoSuchKey"),
            (Some(left), _) => {
                *left -= 1;
                return None;
            }
            (None, _) => return None,
        };
        let mut answer = Response::new(s3s::Body::from(format!("<Error><Code>{code}</Code></Error>")));
        *answer.status_mut() = status;
        Some(answer)
    }
}

async fn serve(root: &Path, faults: Arc<Mutex<Faults>>) -> String {
    let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
    builder.set_auth(SimpleAuth::from_single("key", "the-secret"));
    let service = builder.build();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (inner, faults) = (TowerToHyperService::new(service.clone()), Arc::clone(&faults));
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let (inner, answer) = (inner.clone(), faults.lock().unwrap().answer(&request));
                async move {
                    match answer {
                        Some(answer) => Ok(answer),
                        None => inner.call(request).await,
                    }
                }
            });
            tokio::spawn(async move {
                // A client that goes away in the middle is its own affair.
                drop(Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await);
            });
        }
    });
    url
}

/// Where raw files lie, for who reads them from the bucket.
const RAW: &str = "s3://xrays/some raw";

/// Not a test of its own: who reads from the bucket. It says what became of each dataset in its folder.
#[tokio::test]
async fn prepare_from_a_bucket() {
    let Some(out) = std::env::var_os(CHILD) else { return };
    let mut all = String::new();
    let specs = fs::read(Path::new(&out).with_extension("specs")).unwrap();
    let (jobs, specs): (usize, Vec<Dataset>) = serde_json::from_slice(&specs).unwrap();
    for spec in specs {
        let said = match prepare::prepare(&spec, &Options { jobs, ..Options::default() }, &Silent).await {
            Ok(report) if report.resumed > 0 => format!("{} resumed {}", report.digest, report.skipped.len()),
            Ok(report) => format!("{} {} {}", report.digest, report.reused, report.skipped.len()),
            Err(e) => format!("failed: {e}"),
        };
        all += &format!("{said}\n");
    }
    fs::write(Path::new(&out).with_extension("said"), all).unwrap();
}

/// What becomes of `specs`, for somebody who works beside `out` and reads so many images at a time.
async fn child(url: &str, out: &Path, jobs: usize, specs: &[Dataset]) -> Vec<String> {
    fs::write(out.with_extension("specs"), serde_json::to_vec(&(jobs, specs)).unwrap()).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "prepare_from_a_bucket"]).env(CHILD, out);
    command.envs([
        ("AWS_ENDPOINT_URL", url),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "the-secret"),
        ("AWS_REGION", "us-east-1"),
    ]);
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(status.success(), "{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    let said = fs::read_to_string(out.with_extension("said")).unwrap();
    said.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_layout_gives_the_same_from_a_bucket_as_from_a_folder() {
    let folder = TempDir::new().unwrap();
    let raw = folder.path().join("server/xrays/some raw");
    write(&raw);
    let mut wanted = Vec::new();
    for layout in LAYOUTS {
        let spec = spec(layout, raw.to_str().unwrap(), &folder.path().join("alone").join(layout));
        let report = prepare::prepare(&spec, &Options::default(), &Silent).await.unwrap();
        assert!(report.manifest.samples() > 20 && report.manifest.synthetic == (layout == "rsna"));
        wanted.push((report.digest, report.skipped.len()));
    }
    let url = serve(&folder.path().join("server"), Arc::default()).await;
    let out = folder.path().join("spread");
    let specs = LAYOUTS.map(|layout| spec(layout, RAW, &out.join(layout)));
    let all =
        |reused: bool| -> Vec<String> { wanted.iter().map(|(d, skipped)| format!("{d} {reused} {skipped}")).collect() };
    assert_eq!(child(&url, &out, 2, &specs).await, all(false));
    assert_eq!(child(&url, &out, 2, &specs).await, all(true), "nothing has changed in the bucket");
    // What changes there is seen, and an object that has gone.
    fs::write(raw.join("folders/Normal/1.png"), png::write(16, 16, &[7; 256]).unwrap()).unwrap();
    fs::remove_file(raw.join("padchest/1/1.png")).unwrap();
    let said = child(&url, &out, 2, &specs).await;
    let kept = |i: usize| said[i] == all(true)[i];
    assert!([0, 3, 4, 5].into_iter().all(kept), "{said:?}");
    assert!([1, 2].into_iter().all(|i| said[i].contains("another dataset is there")), "{said:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_that_expire_end_the_job_and_the_next_goes_on() {
    let folder = TempDir::new().unwrap();
    let raw = folder.path().join("server/xrays/some raw");
    write(&raw);
    let faults = Arc::<Mutex<Faults>>::default();
    let url = serve(&folder.path().join("server"), Arc::clone(&faults)).await;
    for (layout, given) in [("folders", 12), ("padchest.zip", 24)] {
        let alone = spec(layout, raw.to_str().unwrap(), &folder.path().join("alone").join(layout));
        let wanted = prepare::prepare(&alone, &Options::default(), &Silent).await.unwrap();
        let out = folder.path().join("spread");
        let specs = [spec(layout, RAW, &out.join(layout))];
        // One at a time: when they end, the first shard has had all of its images.
        faults.lock().unwrap().left = Some(given);
        let said = child(&url, &out, 1, &specs).await.remove(0);
        assert!(said.starts_with("failed: ") && said.contains("denied") && said.contains("goes on"), "{said}");
        assert!(!out.join(layout).join("manifest.json").exists(), "files that were not given are no bad files");
        faults.lock().unwrap().left = None;
        let said = child(&url, &out, 2, &specs).await.remove(0);
        assert_eq!(said, format!("{} resumed {}", wanted.digest, wanted.skipped.len()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_names_a_patient_stays_in_the_bucket() {
    let folder = TempDir::new().unwrap();
    let raw = folder.path().join("server/xrays/some raw");
    write(&raw);
    let names = fs::read_dir(raw.join("rsna/stage_2_train_images")).unwrap().flatten();
    let names: Vec<String> = names.map(|entry| entry.file_name().into_string().unwrap()).collect();
    let faults = Faults { gone: Some(names[0].clone()), ..Faults::default() };
    let url = serve(&folder.path().join("server"), Arc::new(Mutex::new(faults))).await;
    let out = folder.path().join("spread");
    let mut spec = spec("rsna", RAW, &out.join("rsna"));
    (spec.privacy.hash_ids, spec.privacy.salt) = (true, "pepper".into());
    let said = child(&url, &out, 2, &[spec]).await.remove(0);
    assert!(said.ends_with(" false 1"), "{said}");
    for entry in fs::read_dir(out.join("rsna")).unwrap().flatten() {
        let bytes = fs::read(entry.path()).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let ids = names.iter().map(|name| name.trim_end_matches(".dcm"));
        for secret in ids.chain(["s3://", "some raw", "pepper"]) {
            assert!(!text.contains(secret), "{} holds {secret:?}", entry.path().display());
        }
    }
    let table = fs::read_to_string(out.join("rsna/skipped.csv")).unwrap();
    assert!(table.contains("not there any more"), "{table}");
}
