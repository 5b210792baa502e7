//! Nothing is shared but a bucket: raw images, the dataset, checkpoints and scores lie there, and agents have only what is their own. The
//! server is a real one (s3s on files), over HTTP, with credentials.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use hyper::{Request, Response, body::Incoming};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use morph_e2e::{
    Home,
    cluster::{Cluster, Process},
    expect, job, run, wait_for,
};
use s3s::{Body, auth::SimpleAuth, service::S3ServiceBuilder};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);
const SECRET: &str = "a-secret-that-nobody-may-read";

/// A server of object storage, whose buckets are the folders below a root.
struct Server {
    address: SocketAddr,
    /// It answers that it has too much to do.
    busy: Arc<AtomicBool>,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    fn new(root: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).ok().context("a folder of buckets")?);
        builder.set_auth(SimpleAuth::from_single("key", SECRET));
        let (service, busy) = (builder.build(), Arc::new(AtomicBool::new(false)));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
        let (address, away) = (listener.local_addr()?, Arc::clone(&busy));
        runtime.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (service, away) = (service.clone(), Arc::clone(&away));
                let service = tower::service_fn(move |request: Request<Incoming>| {
                    let (mut service, away) = (service.clone(), away.load(Ordering::Relaxed));
                    async move {
                        if away {
                            let answer = Response::builder().status(503).body(Body::from("SlowDown".to_owned()));
                            return Ok(answer.unwrap_or_default());
                        }
                        tower::Service::call(&mut service, request).await
                    }
                });
                tokio::spawn(async move {
                    let http = Builder::new(TokioExecutor::new());
                    // A client that goes away in the middle is its own affair.
                    drop(http.serve_connection(TokioIo::new(socket), TowerToHyperService::new(service)).await);
                });
            }
        });
        Ok(Self { address, busy, _runtime: runtime })
    }

    fn settings(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", format!("http://{}", self.address)),
            ("AWS_ACCESS_KEY_ID", "key".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
        ]
    }
}

struct Lab {
    home: Home,
    cluster: Cluster,
    server: Server,
    /// Buckets are the folders in it.
    root: PathBuf,
}

impl Lab {
    /// With what `home` has as raw images in the bucket `xrays`.
    fn new(raw: &Path) -> Result<Self> {
        let home = Home::new()?;
        let root = home.path().join("server");
        for bucket in ["xrays", "runs"] {
            fs::create_dir_all(root.join(bucket))?;
        }
        fs::rename(raw, root.join("xrays/raw"))?;
        let server = Server::new(&root)?;
        let cluster = server.settings().into_iter().fold(Cluster::new(home.path())?, |c, (name, v)| c.seeing(name, v));
        Ok(Self { home, cluster, server, root })
    }

    fn morphctl(&self) -> Result<Command> {
        let mut command = self.home.morphctl()?;
        command.envs(self.server.settings());
        Ok(command)
    }

    fn ctl(&self, args: &[&str]) -> Result<Command> {
        let mut command = self.morphctl()?;
        command.args(args).args(["--coordinator", &self.cluster.url()]);
        Ok(command)
    }

    fn json(&self, args: &[&str]) -> Result<Value> {
        let out = run(&mut self.ctl(args)?)?;
        ensure!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        Ok(serde_json::from_slice(&out.stdout)?)
    }

    fn run(&self) -> Result<Value> {
        self.json(&["get", "runs", "-o", "json"])?.get(0).cloned().context("a run")
    }

    fn step(&self) -> Result<u64> {
        Ok(self.run()?["step"].as_u64().unwrap_or(0))
    }

    fn at_step(&self, step: u64) -> Result<()> {
        wait_for(&format!("step {step}"), LIMIT, || {
            let run = self.run()?;
            ensure!(run["state"] != "failed" && run["state"] != "succeeded", "it ended too early: {run:#}");
            Ok(run["state"] == "running" && run["step"].as_u64() >= Some(step))
        })
    }

    fn succeeded(&self) -> Result<Value> {
        wait_for("the run to end", LIMIT, || {
            let run = self.run()?;
            ensure!(run["state"] != "failed", "{run:#}");
            Ok(run["state"] == "succeeded")
        })?;
        self.run()
    }
}

/// Digests of the prepared dataset, and what a run comes to with all of it in folders.
struct Alone {
    digest: Value,
    raw: PathBuf,
    weights: Vec<u8>,
    metrics: job::Metrics,
    _home: Home,
}

const EPOCHS: u32 = 120;

fn alone() -> Result<Alone> {
    let home = Home::new()?;
    job::dataset(&home, 60, 8)?;
    let experiment = job::experiment(&home, EPOCHS)?;
    let report = run(home.morphctl()?.args(["data", "prepare", "-o", "json"]).arg(home.path().join("dataset.yaml")))?;
    let report: Value = serde_json::from_slice(&report.stdout)?;
    let cluster = Cluster::new(home.path())?;
    let _coordinator = cluster.coordinator()?;
    let _agent = cluster.agent("agent", 2)?;
    expect(home.morphctl()?.args(["train", "--coordinator", &cluster.url()]).arg(experiment), 0)?;
    let all = job::runs(&home, &["--coordinator", &cluster.url()])?;
    let id = all[0]["id"].as_str().context("a run has an id")?;
    Ok(Alone {
        digest: report["digest"].clone(),
        raw: home.path().join("raw"),
        weights: job::final_weights(&home, id)?,
        metrics: job::metrics(home.path(), id)?,
        _home: home,
    })
}

#[test]
fn nothing_is_shared_but_a_bucket_and_all_comes_to_the_same() -> Result<()> {
    let alone = alone()?;
    let lab = Lab::new(&alone.raw)?;
    let _coordinator = lab.cluster.coordinator_with(&["--objects", "s3://runs/morph"])?;
    let mut agents = [lab.cluster.agent("one", 1)?, lab.cluster.agent("two", 1)?];

    // Raw images out of the bucket, shards into it.
    let dataset = lab.home.write(
        "dataset.yaml",
        "kind: dataset\nname: tiny-phantom\nsource: {layout: rsna, root: s3://xrays/raw}\noutput: s3://xrays/tiny\n\
         preprocess: {size: 32}\nshard_samples: 16\nsplit: {val: 0.2, test: 0.2}\n",
    )?;
    let path = dataset.to_str().context("a path is text")?;
    let prepare = ["data", "prepare", path, "--workers", "2", "-o", "json"];
    let report = lab.json(&prepare)?;
    ensure!(report["digest"] == alone.digest && report["reused"] == false, "{report:#}");
    ensure!(lab.json(&prepare)?["reused"] == true, "what is there is made again");
    expect(lab.morphctl()?.args(["data", "verify", "s3://xrays/tiny"]), 0)?;

    let experiment = job::experiment(&lab.home, EPOCHS)?;
    let set = "dataset.url=s3://xrays/tiny";
    expect(lab.ctl(&["train", "--detach", "--set", set])?.arg(&experiment), 0)?;
    lab.at_step(5)?;
    // Checkpoints wait, and training does not fail.
    lab.server.busy.store(true, Ordering::Relaxed);
    sleep(Duration::from_millis(1500));
    lab.server.busy.store(false, Ordering::Relaxed);
    let step = lab.step()?;
    lab.at_step(step + 4)?;
    // Another, who has never seen anything of it, goes on.
    agents[0].kill9()?;
    agents[0] = lab.cluster.agent("three", 1)?;
    let done = lab.succeeded()?;
    ensure!(done["attempt"].as_u64() >= Some(2), "{done:#}");
    let id = done["id"].as_str().context("a run has an id")?;
    ensure!(job::final_weights_in(&lab.root.join("runs/morph"), id)? == alone.weights, "the weights differ");
    ensure!(job::metrics(lab.cluster.state(), id)? == alone.metrics, "the metrics differ");

    reads_back(&lab, id)?;
    no_secret_is_kept(lab.home.path())?;
    agents.iter_mut().try_for_each(|agent: &mut Process| {
        ensure!(agent.alive()?, "{}", agent.printed());
        Ok(())
    })
}

/// What is done with a run afterwards, with a coordinator and without.
fn reads_back(lab: &Lab, id: &str) -> Result<()> {
    let out = lab.home.path().join("weights.safetensors");
    expect(lab.ctl(&["export", id, "--format", "safetensors"])?.arg("--out").arg(&out), 0)?;
    ensure!(fs::metadata(&out)?.len() > 0, "nothing was exported");
    let scored = lab.json(&["evaluate", id, "-o", "json"])?;
    let folder = lab.root.join("runs/morph/runs").join(id).join("checkpoints");
    let names = fs::read_dir(&folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let newest = names.collect::<Result<Vec<_>>>()?.into_iter().filter(|name| name.starts_with("step-")).max();
    let checkpoint = format!("s3://runs/morph/runs/{id}/checkpoints/{}", newest.context("a checkpoint")?);
    let args = ["evaluate", &checkpoint, "--on", "s3://xrays/tiny", "-o", "json"];
    let alone = run(lab.morphctl()?.args(args))?;
    ensure!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stderr));
    let alone: Value = serde_json::from_slice(&alone.stdout)?;
    for scores in [&scored, &alone] {
        ensure!(scores.to_string().contains("auroc"), "{scores:#}");
    }
    let report = lab.home.path().join("report");
    expect(lab.ctl(&["report", id])?.arg("--out").arg(&report), 0)?;
    ensure!(report.join("index.html").is_file(), "there is no report");
    Ok(())
}

/// Neither database nor logs, nor what agents keep, nor objects have it.
fn no_secret_is_kept(home: &Path) -> Result<()> {
    let (mut looked_at, mut folders) = (Vec::new(), vec![home.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                folders.push(path);
            } else if let Ok(bytes) = fs::read(&path) {
                let found = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
                ensure!(!found, "{} holds the secret", path.display());
                looked_at.push(path);
            }
        }
    }
    for name in ["state.db", "coordinator.log", "one.log"] {
        ensure!(looked_at.iter().any(|path| path.ends_with(name)), "{name} was not looked at");
    }
    Ok(())
}
