//! The real services and the real link of the agents, over gRPC as it is on the wire, in a network that fails: links go down
//! and come back, one way or both, messages are held or take long, machines vanish without a word. Time is virtual (turmoil),
//! and the network's dice are thrown with a seed.
//!
//! Of the programs only the ends are missing: ranks are tasks that count steps, and the coordinator's loop runs on its host's
//! own thread, so that it has virtual time, too.

mod agents;
mod calls;
/// What the agent makes of the wire's messages.
#[path = "../../../worker/src/agent/letters.rs"]
mod letters;
/// The agent's own link, in this network.
#[path = "../../../worker/src/agent/link.rs"]
mod link;
mod net;
mod peer;
mod tested;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, UNIX_EPOCH},
};

use morph_proto::v1::{self, coordinator_client::CoordinatorClient};
use morph_spec::Timestamp;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Server};
use turmoil::{Builder, Sim};

use self::net::dial;
use crate::{
    Options,
    auth::{layer::Limits, tokens::Tokens},
    clock::Source,
    core::{Loop, wait},
    http::Pages,
    serve, set_up,
    store::{self, Database},
};

/// The coordinator's machine.
const HEAD: &str = "head";
const URL: &str = "http://head:7070";
/// Where people sit.
const DESK: &str = "desk";
/// Requests that may be open at a time.
const OPEN: usize = 3;
/// How long an ordinary message takes at least.
const SOON: Duration = Duration::from_millis(10);
/// How long an agent may be silent or away.
const GRACE: Duration = Duration::from_secs(15);

/// The switch of a machine, in the hands of a test.
#[derive(Debug, Clone, Default)]
struct Power(Arc<Mutex<Vec<bool>>>);

impl Power {
    fn off(&self) {
        self.0.lock().unwrap().push(false);
    }

    fn on(&self) {
        self.0.lock().unwrap().push(true);
    }

    /// Lets `sim` run to its end; the switch is the coordinator's.
    fn run(&self, mut sim: Sim<'_>) {
        while !sim.step().unwrap() {
            for on in std::mem::take(&mut *self.0.lock().unwrap()) {
                if on { sim.bounce(HEAD) } else { sim.crash(HEAD) }
            }
        }
    }
}

/// Time in the network, since the Unix epoch.
fn running() -> Duration {
    turmoil::since_epoch().unwrap_or_default()
}

fn clock() -> Timestamp {
    Timestamp(u64::try_from(running().as_micros()).unwrap_or(u64::MAX))
}

/// A network with a coordinator, whose home outlives it. The network's dice are thrown with `seed`; messages take from `least`
/// to four times as long.
fn network<'a>(seed: u64, home: &Path, least: Duration) -> Sim<'a> {
    let mut sim = Builder::new()
        .rng_seed(seed)
        .epoch(UNIX_EPOCH + Duration::from_secs(1_700_000_000))
        .simulation_duration(Duration::from_secs(600))
        .tick_duration(Duration::from_millis(5))
        .min_message_latency(least)
        .max_message_latency(4 * least)
        .tcp_capacity(1 << 16)
        .build();
    std::fs::create_dir_all(home.join("data")).unwrap();
    std::fs::write(home.join("data/manifest.json"), manifest()).unwrap();
    let home = home.to_owned();
    sim.host(HEAD, move || coordinator(home.clone()));
    sim
}

/// Serves until the machine dies.
async fn coordinator(home: PathBuf) -> turmoil::Result {
    let heartbeat = Duration::from_secs(5);
    let limits = Limits { open: OPEN, ..Limits::default() };
    let options = Options { home: home.clone(), heartbeat, grace: GRACE, insecure: true, limits, ..Options::default() };
    let path = home.join("state.db");
    let (writer, database) = (store::open(&path)?, Database::sqlite(&path));
    let mut setup = set_up(&options, &database, Some(writer), format!("file://{}/runs", home.display()))?;
    setup.source = Source { running, wall: clock };
    let metrics = setup.metrics.clone();
    let (core, mut this, mut inbox) = Loop::new(setup);
    tokio::spawn(async move {
        this.begin().unwrap();
        let mut turn = Vec::new();
        while wait(this.patience(), &mut inbox, &mut turn).await {
            this.turn(&mut turn).unwrap();
        }
    });
    let tokens = Arc::new(Tokens::open(store::keyring(&path)?)?);
    let pages = Pages::new(core, metrics, database.clone());
    let stop = CancellationToken::new();
    let server = serve(&options, Server::builder(), net::incoming(7070).await?, pages, database, tokens, stop).await;
    server.await??;
    Ok(())
}

fn manifest() -> String {
    json!({
        "version": 1, "name": "tiny", "preprocess": {"size": 32}, "fingerprint": "0".repeat(64), "image_size": [32, 32],
        "counts": {"train": {"Normal": 80}, "val": {"Normal": 10}, "test": {"Normal": 10, "Lung Opacity": 20}},
        "shards": [], "patient_ids": "image", "synthetic": true, "skipped": {},
    })
    .to_string()
}

/// An order to train for `steps` steps.
fn order(home: &Path, key: &str, steps: u32) -> v1::SubmitRunRequest {
    // Epochs stand for steps here.
    let experiment = json!({
        "kind": "experiment", "name": "tiny", "dataset": {"url": format!("file://{}/data", home.display())},
        "model": {"method": "morphaeus", "image_size": 32, "channels": [4, 8, 8, 8]},
        "trainer": {"world_size": 1, "batch_size": 8, "epochs": steps},
    });
    v1::SubmitRunRequest {
        key: key.into(),
        experiment_json: experiment.to_string(),
        name: key.into(),
        ..Default::default()
    }
}

/// An order for a sweep: the run that [`order`] makes with each of `values` in `field`.
fn sweep(home: &Path, key: &str, field: &str, values: &[serde_json::Value]) -> v1::SubmitSweepRequest {
    let experiment: serde_json::Value = serde_json::from_str(&order(home, key, 10).experiment_json).unwrap();
    let sweep = json!({
        "kind": "sweep", "name": key, "experiment": experiment, "method": "grid",
        "metric": {"name": "val/score", "goal": "maximize"}, "parameters": {field: {"values": values}},
    });
    v1::SubmitSweepRequest { key: key.into(), sweep_json: sweep.to_string() }
}

/// People's end, from the machine that asks; it connects when it is used, and again when that has broken.
fn people() -> CoordinatorClient<Channel> {
    CoordinatorClient::new(net::lazily(URL))
}

/// Asks again and again, as people do, until there is an answer.
async fn persistently<T, F>(mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
{
    loop {
        match tokio::time::timeout(Duration::from_secs(2), ask()).await {
            Ok(Ok(answer)) => return answer.into_inner(),
            Ok(Err(status)) if status.code() != tonic::Code::Unavailable && status.code() != tonic::Code::Unknown => {
                panic!("refused: {status}")
            }
            Ok(Err(_)) | Err(_) => sleep(Duration::from_millis(200)).await,
        }
    }
}

/// The run of this name.
async fn run(name: &str) -> v1::Run {
    let request = || v1::GetRunRequest { run: name.to_owned() };
    persistently(async || people().get_run(request()).await).await.run.expect("a run")
}

/// Waits until the run of this name is as `wanted`, at most two minutes.
async fn wait_for(name: &str, what: &str, wanted: impl Fn(&v1::Run) -> bool) -> v1::Run {
    let since = Instant::now();
    loop {
        let run = run(name).await;
        if wanted(&run) {
            return run;
        }
        assert!(since.elapsed() < Duration::from_secs(120), "{name} is not {what}: {run:#?}");
        sleep(Duration::from_millis(300)).await;
    }
}

/// Waits until the run of this name has succeeded.
async fn succeeded(name: &str) -> v1::Run {
    let over = |r: &v1::Run| [v1::RunState::Succeeded, v1::RunState::Failed].contains(&r.state());
    let run = wait_for(name, "over", over).await;
    assert_eq!(run.state(), v1::RunState::Succeeded, "{run:#?}");
    run
}

/// Whether the value of every step of the run of this name is recorded, once, and is the right one.
async fn is_whole(name: &str, steps: u64) {
    let request = || v1::MetricsRequest { run: name.to_owned(), names: Vec::new() };
    let points = persistently(async || people().metrics(request()).await).await.points;
    let told: Vec<(u64, f64)> = points.iter().map(|p| (p.step, p.value)).collect();
    let right: Vec<(u64, f64)> = (1..=steps).map(|step| (step, peer::loss(step))).collect();
    assert_eq!(told, right);
}
