//! Azure's protocol, spoken to Microsoft's emulator over HTTP, and Google's. `scripts/test` installs the emulator; without it its test says
//! that it is left out.
#![allow(clippy::print_stderr, reason = "that a test is left out must be seen")]

use std::{
    env,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use bytes::Bytes;
use morph_objects::{Committed, Error, NodeCache, Objects, Options};
use morph_spec::Digest;

use crate::common::{self, Fault, body};

/// A server that ends with the test.
struct Emulator {
    child: Child,
    options: Options,
    line: Line,
}

/// The line to the server: it can be made to break.
#[derive(Clone)]
struct Line {
    host: String,
    /// How often it still breaks.
    breaks: Arc<AtomicUsize>,
}

/// Bytes of answers after which a line that is to break does.
const LASTS: usize = 300_000;

impl Line {
    /// A line to what listens at the address that is sent.
    fn new() -> (Self, mpsc::Sender<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (sender, server) = mpsc::channel::<String>();
        let breaks = Arc::new(AtomicUsize::new(0));
        let line = Self { host: listener.local_addr().unwrap().to_string(), breaks: Arc::clone(&breaks) };
        std::thread::spawn(move || {
            let Ok(server) = server.recv() else { return };
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&server) else { continue };
                let (mut up, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || {
                    std::io::copy(&mut up, &mut to).ok();
                    to.shutdown(Shutdown::Write).ok();
                });
                let breaks = Arc::clone(&breaks);
                std::thread::spawn(move || answer(server, client, &breaks));
            }
        });
        (line, sender)
    }
}

fn answer(mut server: TcpStream, mut client: TcpStream, breaks: &AtomicUsize) {
    let (mut buffer, mut passed) = ([0; 16 << 10], 0);
    while let Ok(n @ 1..) = server.read(&mut buffer) {
        if client.write_all(&buffer[..n]).is_err() {
            break;
        }
        passed += n;
        let less = |left: usize| left.checked_sub(1);
        if passed > LASTS && breaks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
            break;
        }
    }
    for end in [server, client] {
        end.shutdown(Shutdown::Both).ok();
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Azurite, which `scripts/test` puts below `target/servers`.
fn installed() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let target = env::var_os("CARGO_TARGET_DIR").map_or(target, PathBuf::from);
    let found = target.join("servers/azurite/node_modules/azurite/dist/src/blob/main.js");
    if found.exists() {
        return Some(found);
    }
    eprintln!("left out: Azurite is not installed (scripts/test does it, where there are npm and its registry)");
    None
}

fn options(settings: &[(&str, String)]) -> Options {
    Options {
        retries: 2,
        retry_for: Duration::from_secs(10),
        timeout: Duration::from_secs(20),
        settings: settings.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        ..Options::default()
    }
}

/// The account that Azurite knows; the key is published with it.
const ACCOUNT: &str = "devstoreaccount1";
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Makes the container `xrays`, which object_store cannot.
const MAKE: &str = r#"
const [url, account, key] = process.argv.slice(1);
const date = new Date().toUTCString(), version = "2023-11-03";
const text = ["PUT", ...Array(11).fill(""), `x-ms-date:${date}`, `x-ms-version:${version}`,
  `/${account}/${account}/xrays`, "restype:container"].join("\n");
const sign = require("crypto").createHmac("sha256", Buffer.from(key, "base64")).update(text).digest("base64");
const headers = { "x-ms-date": date, "x-ms-version": version, Authorization: `SharedKey ${account}:${sign}`, "Content-Length": "0" };
const request = require("http").request(`${url}/xrays?restype=container`, { method: "PUT", headers }, (answer) => {
  answer.pipe(process.stderr);
  process.exitCode = answer.statusCode === 201 ? 0 : 1;
});
request.end();
"#;

fn azurite() -> Option<Emulator> {
    let program = installed()?;
    let mut child = Command::new("node")
        .arg(program)
        .args(["--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence", "--skipApiVersionCheck"])
        .args(["--disableTelemetry"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let url = lines.find_map(|line| Some(line.ok()?.split_once("listens on ")?.1.trim().to_owned())).unwrap();
    // It must not wait for us when it has more to say.
    std::thread::spawn(move || lines.for_each(drop));
    let (line, server) = Line::new();
    server.send(url.trim_end_matches('/').split_once("://").unwrap().1.to_owned()).unwrap();
    let url = format!("http://{}/{ACCOUNT}", line.host);
    let made = Command::new("node").args(["-e", MAKE, &url, ACCOUNT, KEY]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let settings = [
        ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT.to_owned()),
        ("AZURE_STORAGE_ACCOUNT_KEY", KEY.to_owned()),
        ("AZURE_STORAGE_ENDPOINT", url),
    ];
    Some(Emulator { child, options: options(&settings), line })
}

/// What every store must do.
async fn keeps_the_contract(url: &str, emulator: &Emulator) {
    let objects = Objects::open_with(url, &emulator.options).unwrap();
    assert!(matches!(objects.get("nothing").await, Err(Error::NotFound { .. })));
    objects.put("a/b 1.arrow", Bytes::from_static(b"first")).await.unwrap();
    objects.put("a/b 1.arrow", Bytes::from_static(b"bytes")).await.unwrap();
    assert_eq!(objects.get("a/b 1.arrow").await.unwrap(), "bytes");
    assert!(matches!(objects.get_up_to("a/b 1.arrow", 4).await, Err(Error::TooLarge { .. })));
    assert_eq!(objects.commit("manifest.json", Bytes::from_static(b"1")).await.unwrap(), Committed::Created);
    assert_eq!(objects.commit("manifest.json", Bytes::from_static(b"1")).await.unwrap(), Committed::AlreadySame);
    let other = objects.commit("manifest.json", Bytes::from_static(b"2")).await;
    assert!(matches!(other, Err(Error::Conflict { .. })), "{other:?}");
    assert_eq!(objects.get("manifest.json").await.unwrap(), "1");
    let keys: Vec<_> = objects.list("").await.unwrap().into_iter().map(|e| (e.key, e.bytes)).collect();
    assert_eq!(keys, [("a/b 1.arrow".to_owned(), 5), ("manifest.json".to_owned(), 1)]);
    assert_eq!(objects.at("a").list("").await.unwrap().len(), 1);
    let large = body(9, 33 << 20);
    objects.put("large", large.clone()).await.unwrap();
    let breaks = &emulator.line.breaks;
    breaks.store(3, Ordering::SeqCst);
    let folder = tempfile::tempdir().unwrap();
    let cache = NodeCache::open(folder.path(), 1 << 30).unwrap();
    let file = cache.fetch(&objects, "large", large.len() as u64, Digest::of(&large)).await.unwrap();
    assert!(std::fs::read(file.path()).unwrap() == large, "sent in parts, and read in the ranges that were left");
    assert_eq!(breaks.load(Ordering::SeqCst), 0, "the line did break");
    objects.delete_all("").await.unwrap();
    assert!(objects.list("").await.unwrap().is_empty());
}

#[tokio::test]
async fn azure() {
    let Some(emulator) = azurite() else { return };
    keeps_the_contract("az://xrays/some folder/x", &emulator).await;
    let mut wrong = emulator.options.clone();
    wrong.settings.insert("AZURE_STORAGE_ACCOUNT_KEY".into(), "d3Jvbmcga2V5IHRoYXQgbm9ib2R5IGtub3dz".into());
    let error = Objects::open_with("az://xrays/x", &wrong).unwrap().get("k").await.unwrap_err();
    assert!(matches!(error, Error::Denied { .. }), "{error:?}");
    assert!(!format!("{error:?}").contains("d3Jvbmcg"), "{error:?}");
}

/// No emulator that could be had speaks the XML protocol by which object_store writes to Google. That protocol is S3's but for its
/// create-only writes, so an S3 server shows the rest: the endpoint's setting, reading on after a cut, listing.
#[tokio::test]
async fn google_cloud_but_for_create_only() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("xrays")).unwrap();
    let server = common::serve_open(dir.path()).await;
    let host = server.url.trim_start_matches("http://").to_owned();
    let objects = Objects::open_with("gs://xrays/x", &options(&[("STORAGE_EMULATOR_HOST", host)])).unwrap();
    let bytes = body(3, 1 << 20);
    objects.put("a/b.arrow", bytes.clone()).await.unwrap();
    server.plan(|seen| if seen.is_get() && seen.nth < 2 { Fault::Cut(300_000) } else { Fault::None });
    assert!(objects.get("a/b.arrow").await.unwrap() == bytes);
    assert_eq!(server.gets().iter().map(|s| s.from).collect::<Vec<_>>(), [None, Some(300_000), Some(600_000)]);
    assert!(matches!(objects.get("nothing").await, Err(Error::NotFound { .. })));
    let keys: Vec<_> = objects.list("").await.unwrap().into_iter().map(|e| (e.key, e.bytes)).collect();
    assert_eq!(keys, [("a/b.arrow".to_owned(), 1 << 20)]);
    objects.delete_all("").await.unwrap();
    assert!(objects.list("").await.unwrap().is_empty());
}
