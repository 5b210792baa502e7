//! How fast an empty cache is filled from S3, for `scripts/bench data cold`: a real server (s3s on files) in a process of its own, over
//! loopback, and beside it plain GETs of the same objects, which keep nothing. Prints one JSON object a line.
//!
//!     bench_cold FOLDER [MIB]     writes that many MiB of shards (512) into FOLDER/server, and removes FOLDER at the end
//!     bench_cold serve FOLDER     the server; says its URL, and ends with whoever started it
#![allow(clippy::print_stdout, reason = "that is how a bench speaks")]

use std::{
    error::Error,
    fs,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Instant,
};

use futures::{StreamExt, TryStreamExt, stream};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use morph_data::{Meta, Samples, manifest, sampler::Sampler, shard::Writer};
use morph_objects::{NodeCache, Objects, Options};
use morph_spec::{
    Digest, Manifest, Rng,
    dataset::Preprocess,
    experiment::Subset,
    manifest::{PatientIds, Shard, VERSION},
};
use s3s::service::S3ServiceBuilder;
use serde_json::json;
use tokio::{net::TcpListener, runtime};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A side of an image in pixels.
const SIDE: u32 = 128;
/// Images of a shard: 16 MiB.
const EACH: u32 = 1024;
/// Requests at a time, as many as the cache makes.
const AT_ONCE: usize = 6;
const ROUNDS: usize = 3;
const BATCH: u32 = 64;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["serve", folder] => serve(Path::new(folder)),
        [folder] => measure(Path::new(folder), 512),
        [folder, mib] => measure(Path::new(folder), mib.parse()?),
        _ => Err("usage: bench_cold FOLDER [MIB]".into()),
    }
}

fn serve(folder: &Path) -> Result<()> {
    let service = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder).map_err(|e| format!("{e:?}"))?).build();
    let runtime = runtime::Builder::new_multi_thread().enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    println!("http://{}", listener.local_addr()?);
    runtime.spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                // A client that goes away in the middle is its own affair.
                drop(Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(socket), service).await);
            });
        }
    });
    // Whoever started it holds the other end.
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// The server's process.
struct Server(Child, String);

impl Server {
    fn start(folder: &Path) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.arg("serve").arg(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut url = String::new();
        BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut url)?;
        Ok(Self(child, url.trim().to_owned()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill().and_then(|()| self.0.wait()));
    }
}

/// Writes shards of noise and their manifest.
async fn write(data: &Objects, mib: u32) -> Result<Manifest> {
    let mut rng = Rng::keyed(7, "bench", 0);
    let mut shards = Vec::new();
    for number in 0..mib.div_ceil((EACH * SIDE * SIDE) >> 20) {
        let mut writer = Writer::new(SIDE, SIDE);
        for i in 0..EACH {
            let id = format!("{:08}", number * EACH + i);
            let pixels: Vec<u8> = (0..SIDE * SIDE / 8).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
            let meta = Meta {
                patient: id.clone(),
                source: format!("{id}.png"),
                digest: Digest::of(id.as_bytes()),
                id,
                label: "Normal".into(),
                view: None,
                sex: None,
                age: None,
                boxes: Vec::new(),
            };
            writer.push(&pixels, meta);
        }
        let (labels, samples, file) = (writer.labels(), writer.len() as u64, format!("train-{number:05}.arrow"));
        let bytes = writer.finish()?;
        let (blake3, size) = (Digest::of(&bytes), bytes.len() as u64);
        data.put(&file, bytes.into()).await?;
        shards.push(Shard { file, split: "train".into(), samples, bytes: size, blake3, labels });
    }
    let counts = [("train".to_owned(), [("Normal".to_owned(), shards.iter().map(|s| s.samples).sum())].into())].into();
    let manifest = Manifest {
        version: VERSION,
        name: "bench".into(),
        preprocess: Preprocess { size: SIDE, ..Preprocess::default() },
        fingerprint: Digest::of(b"bench"),
        image_size: [SIDE, SIDE],
        shards,
        counts,
        patient_ids: PatientIds::Image,
        synthetic: true,
        skipped: Default::default(),
    };
    manifest::commit(data, &manifest).await?;
    Ok(manifest)
}

/// Seconds of processor time that this process has had.
fn processor() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = stat.rsplit(')').next().unwrap_or("").split_whitespace().skip(11).take(2);
    ticks.filter_map(|n| n.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn measure(folder: &Path, mib: u32) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder.join("server/xrays"))?;
    let server = Server::start(&folder.join("server"))?;
    // As a rank has it: one thread for the network, and the one that waits.
    let runtime = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let settings = [("AWS_ENDPOINT_URL", &*server.1), ("AWS_REGION", "us-east-1"), ("AWS_SKIP_SIGNATURE", "true")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let data = Objects::open_with("s3://xrays/set", &Options { settings, ..Options::default() })?;
    let manifest = runtime.block_on(write(&data, mib))?;
    let megabytes = manifest.bytes() as f64 / 1e6;
    let mut rates = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        let (began, cpu) = (Instant::now(), processor());
        runtime.block_on(plain(&server.1, &manifest))?;
        let (seconds, cpu) = (began.elapsed().as_secs_f64(), processor() - cpu);
        let rate = megabytes / seconds;
        rates[0].push(rate);
        println!("{}", json!({"what": "plain GET", "mb": megabytes, "mb_per_second": rate, "cpu_seconds": cpu}));

        let (began, cpu) = (Instant::now(), processor());
        let (filled, first) = runtime.block_on(cold(&data, &folder.join(format!("cache-{round}")), began))?;
        let (rate, cpu) = (megabytes / filled, processor() - cpu);
        rates[1].push(rate);
        println!(
            "{}",
            json!({"what": "cold cache", "mb": megabytes, "mb_per_second": rate, "cpu_seconds": cpu, "first_batch_seconds": first})
        );
        fs::remove_dir_all(folder.join(format!("cache-{round}")))?;
    }
    let [plain, cold] = rates.map(|all| all.into_iter().fold(0.0, f64::max));
    println!("{}", json!({"what": "cold cache to plain GET, best of each", "times": cold / plain}));
    drop(server);
    Ok(fs::remove_dir_all(folder)?)
}

/// Every shard once, kept nowhere.
async fn plain(url: &str, manifest: &Manifest) -> Result<()> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let gets = manifest.shards.iter().map(|shard| {
        let (client, url) = (client.clone(), format!("{url}/xrays/set/{}", shard.file));
        async move {
            let mut answer = client.get(url).send().await?.error_for_status()?;
            let mut bytes = 0;
            while let Some(chunk) = answer.chunk().await? {
                bytes += chunk.len() as u64;
            }
            if bytes == shard.bytes { Ok(()) } else { Err(Box::<dyn Error>::from("another size")) }
        }
    });
    stream::iter(gets).buffer_unordered(AT_ONCE).try_collect().await
}

/// From nothing to all shards in the cache, and to the images of the first batch; seconds.
async fn cold(data: &Objects, cache: &Path, began: Instant) -> Result<(f64, f64)> {
    let (manifest, _) = manifest::read(data).await?;
    let cache = NodeCache::open(cache, 1 << 40)?;
    let subset = Subset { split: "train".into(), labels: Vec::new() };
    let samples = Arc::new(Samples::open(data, &manifest, &subset, &cache).await?);
    let filled = began.elapsed().as_secs_f64();
    let sampler = Sampler { samples: samples.len() as u64, batch_size: BATCH, seed: 1, drop_last: true };
    let batch = sampler.batch(0, 0).into_iter().map(|i| samples.image(usize::try_from(i).unwrap_or(0)));
    let pixels: Vec<u8> = batch.flatten().copied().collect();
    assert_eq!(pixels.len() as u32, BATCH * SIDE * SIDE);
    Ok((filled, began.elapsed().as_secs_f64()))
}
