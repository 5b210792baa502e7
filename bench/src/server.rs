//! The program under test.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use morph_proto::v1::coordinator_client::CoordinatorClient;
use serde_json::json;
use tonic::transport::{Channel, Endpoint};

/// A coordinator that runs; killed when this is dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Where it listens.
    pub url: String,
}

impl Server {
    /// Starts `program` on `home`, or on `database`, and waits until it says where it listens; how long that took.
    pub fn start(program: &Path, home: &Path, database: Option<&str>) -> Result<(Self, Duration)> {
        let announced = home.join("coordinator.json");
        fs::remove_file(&announced).ok();
        let start = Instant::now();
        let log = fs::File::create(home.join("coordinator.log"))?;
        let mut command = Command::new(program);
        if let Some(url) = database {
            command.env("MORPH_DATABASE", url).arg("--objects").arg(home.join("objects"));
        } else {
            command.env_remove("MORPH_DATABASE");
        }
        let mut child = command
            .args(["--listen", "127.0.0.1:0", "--insecure", "--requests", "1000000", "--home"])
            .arg(home)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}: build it with cargo build --release", program.display()))?;
        let url = loop {
            if let Some(status) = child.try_wait()? {
                bail!("the coordinator ended: {status}\n{}", fs::read_to_string(home.join("coordinator.log"))?);
            }
            if let Some(serving) = morph_coordinator::serving(home) {
                break serving.url();
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        Ok((Self { child, url }, start.elapsed()))
    }

    /// A connection.
    pub async fn connect(&self) -> Result<Channel> {
        Ok(Endpoint::from_shared(self.url.clone())?.tcp_nodelay(true).connect().await?)
    }

    /// A client for people.
    pub async fn client(&self) -> Result<CoordinatorClient<Channel>> {
        Ok(CoordinatorClient::new(self.connect().await?).max_decoding_message_size(1 << 30))
    }

    /// Processor time that it has used.
    pub fn cpu(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let rest = stat.rsplit(") ").next().unwrap_or_default();
        let ticks = |n: usize| rest.split(' ').nth(n).and_then(|t| t.parse::<u64>().ok()).context("/proc/PID/stat");
        // User and system time in hundredths of a second, which Linux has on all machines that matter.
        Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 10))
    }

    /// Main memory that it holds, MB.
    pub fn memory(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024.0 / 1e6)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Writes a dataset's manifest to `home` and returns the dataset's URL.
pub fn dataset(home: &Path) -> Result<String> {
    let folder = home.join("dataset");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("manifest.json"), serde_json::to_vec(&manifest())?)?;
    Ok(folder.display().to_string())
}

/// What a small dataset says of itself.
pub fn manifest() -> serde_json::Value {
    let zero = "0".repeat(64);
    json!({
        "version": 1, "name": "bench", "preprocess": {"size": 32}, "fingerprint": zero, "image_size": [32, 32], "shards": [],
        "counts": {"train": {"Normal": 80}, "val": {"Normal": 10}, "test": {"Normal": 10, "Lung Opacity": 20}},
        "patient_ids": "image", "synthetic": true, "skipped": {},
    })
}

/// An experiment on the dataset at `url`, with one rank.
pub fn experiment(url: &str) -> serde_json::Value {
    json!({
        "kind": "experiment", "name": "bench", "dataset": {"url": url},
        "model": {"method": "morphaeus", "image_size": 32, "channels": [4, 8, 8, 8]},
        "trainer": {"world_size": 1, "batch_size": 8},
    })
}
