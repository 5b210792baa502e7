//! `/healthz`, `/readyz` and `/metrics` of a coordinator, as probes and Prometheus meet them.
#![allow(clippy::unwrap_used)]

mod openmetrics;

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use morph_coordinator::{Handle, Options};
use morph_proto::v1::{
    self, SessionRequest, SessionResponse, agents_client::AgentsClient, report::Report, session_request::Message,
    session_response::Message as Order,
};
use openmetrics::Page;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{runtime::Runtime, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;

const EXPERIMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/phantom/morphaeus.yaml");
const DATASET: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/datasets/rsna-phantom.yaml");

struct World {
    home: TempDir,
    runtime: Runtime,
    handle: Handle,
}

impl World {
    fn new(options: Options) -> Self {
        let runtime = Runtime::new().unwrap();
        let home = tempfile::tempdir().unwrap();
        let options = Options { home: home.path().to_owned(), ..options };
        let handle = runtime.block_on(morph_coordinator::start(options)).unwrap();
        Self { home, runtime, handle }
    }

    /// Status and body of `path`, over HTTP/1.1 and without any token.
    fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.handle.address()).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
        assert!(!chunked, "{head}");
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// What is asked again at once is not found out again.
    fn metrics(&self) -> Page {
        std::thread::sleep(Duration::from_millis(210));
        let (code, text) = self.get("/metrics");
        assert_eq!(code, 200);
        openmetrics::parse(&text)
    }

    fn run(&self, args: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_morphctl"));
        for name in ["MORPH_COORDINATOR", "MORPH_TOKEN", "MORPH_TOKEN_FILE"] {
            command.env_remove(name);
        }
        let out = command.env("MORPH_HOME", self.home.path()).current_dir(Path::new("/")).args(args).output().unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
}

/// The sum of the samples of `name` that have all `labels`.
fn value(page: &Page, name: &str, labels: &[(&str, &str)]) -> f64 {
    let samples = page.values().flat_map(|f| &f.samples).filter(|s| s.name == name);
    samples.filter(|s| labels.iter().all(|(k, v)| s.labels.get(*k).is_some_and(|l| l == v))).map(|s| s.value).sum()
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let since = Instant::now();
    while !holds() {
        assert!(since.elapsed() < Duration::from_secs(60), "gave up waiting for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_coordinator_that_serves_is_healthy_and_ready_without_a_token() {
    let world = World::new(Options::default());
    for (path, word) in [("/healthz", "ok"), ("/readyz", "ready")] {
        let (code, body) = world.get(path);
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((code, body["status"].as_str()), (200, Some(word)));
    }
    let (_, body) = world.get("/healthz/../metrics");
    assert!(!body.contains("morph_runs"), "only these pages are open: {body}");
}

#[test]
fn why_it_is_not_ready_is_said() {
    let world = World::new(Options::default());
    // Its first event is recorded then: it will not write again by itself.
    eventually("the first turn", || world.get("/readyz").0 == 200);
    let db = rusqlite::Connection::open(world.home.path().join("state.db")).unwrap();
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut said = (0, String::new());
    let mut ready = |expected| {
        eventually("another answer", || {
            said = world.get("/readyz");
            said.0 == expected
        });
        said.1.clone()
    };
    let body = ready(503);
    assert!(body.contains("the database cannot be written"), "{body}");
    assert_eq!(world.get("/healthz").0, 200, "a restart would not help");
    db.execute_batch("ROLLBACK").unwrap();
    ready(200);
    world.runtime.block_on(world.handle.drain(Duration::from_secs(1)));
    let body = ready(503);
    assert!(body.contains("draining: the coordinator is stopping"), "{body}");
    let reading = World::new(Options { read_only: true, ..Options::default() });
    let (code, body) = reading.get("/readyz");
    assert!(code == 503 && body.contains("reading only"), "{code} {body}");
}

/// An agent of two slots that does as the test says.
struct Agent {
    say: mpsc::Sender<SessionRequest>,
    orders: tonic::Streaming<SessionResponse>,
    seq: u64,
}

impl Agent {
    async fn join(handle: &Handle) -> Self {
        let channel = tonic::transport::Endpoint::from_shared(handle.url()).unwrap().connect().await.unwrap();
        let bearer = format!("Bearer {}", handle.agent_token().unwrap().expose()).parse().unwrap();
        let mut client = AgentsClient::with_interceptor(channel, move |mut r: tonic::Request<()>| {
            r.metadata_mut().insert("authorization", tonic::metadata::MetadataValue::clone(&bearer));
            Ok(r)
        });
        let (say, requests) = mpsc::channel(16);
        let hello = v1::Hello {
            worker: "01J00000000000000000000001".into(),
            incarnation: "a".into(),
            host: "here".into(),
            slots: 2,
            version: env!("CARGO_PKG_VERSION").into(),
            ..v1::Hello::default()
        };
        say.send(SessionRequest { message: Some(Message::Hello(hello)) }).await.unwrap();
        let orders = client.session(ReceiverStream::new(requests)).await.unwrap().into_inner();
        Self { say, orders, seq: 0 }
    }

    /// Waits for a rank to start.
    async fn start(&mut self) -> v1::StartRank {
        loop {
            let order = tokio::time::timeout(Duration::from_secs(10), self.orders.message()).await;
            if let Some(Order::Start(start)) = order.unwrap().unwrap().unwrap().message {
                return start;
            }
        }
    }

    async fn report(&mut self, report: Report) {
        self.seq += 1;
        let report = v1::Report { seq: self.seq, report: Some(report) };
        self.say.send(SessionRequest { message: Some(Message::Report(report)) }).await.unwrap();
    }
}

#[test]
fn what_happens_is_counted_and_read_by_a_strict_parser() {
    let world = World::new(Options::default());
    let home = world.home.path();
    let raw = home.join("raw/rsna-phantom");
    let raw = raw.to_str().unwrap();
    world.run(&["data", "synth", "--healthy", "40", "--opacity", "4", "--other", "2", "--size", "64", raw]);
    world.run(&["data", "prepare", DATASET]);
    let set = format!("dataset.url={}", home.join("datasets/rsna-phantom").display());
    let train = |name| {
        let world_size = "trainer.world_size=1";
        world.run(&["train", EXPERIMENT, "--detach", "--name", name, "--set", &set, "--set", world_size]);
    };
    train("one");
    let before = world.metrics();
    assert_eq!(value(&before, "morph_runs", &[("state", "queued")]), 1.0);
    assert_eq!(value(&before, "morph_slots", &[]), 0.0);
    assert_eq!(value(&before, "morph_placement_seconds_count", &[]), 0.0);

    let mut agent = world.runtime.block_on(Agent::join(&world.handle));
    world.runtime.block_on(async {
        let fence = agent.start().await.fence;
        let point = |step| v1::MetricPoint { step, at: 1, name: "train/loss".into(), value: 0.5 };
        agent.report(Report::Metrics(v1::Metrics { fence: fence.clone(), points: vec![point(1), point(2)] })).await;
        let v1::Fence { run, attempt } = fence.clone().unwrap();
        let line = v1::LogLine { run, attempt, text: "twelve bytes".into(), ..v1::LogLine::default() };
        agent.report(Report::Logs(v1::Logs { lines: vec![line] })).await;
        agent.say.send(SessionRequest { message: Some(Message::Heartbeat(v1::Heartbeat { at: 1 })) }).await.unwrap();
        let exited = v1::RankExited { fence, exit: v1::Exit::User.into(), ..v1::RankExited::default() };
        agent.report(Report::Exited(exited)).await;
    });
    train("two");
    world.runtime.block_on(agent.start());
    eventually("the failed run", || value(&world.metrics(), "morph_runs", &[("state", "failed")]) == 1.0);
    let page = world.metrics();
    for (name, labels, expected) in [
        ("morph_runs", &[("state", "starting")][..], 1.0),
        ("morph_workers", &[("state", "ready")], 1.0),
        ("morph_slots", &[("state", "used")], 1.0),
        ("morph_slots", &[("state", "free")], 1.0),
        ("morph_agent_sessions", &[], 1.0),
        ("morph_core_answers", &[], 1.0),
        ("morph_events_total", &[("kind", "run_placed")], 2.0),
        ("morph_rank_exits_total", &[("cause", "user")], 1.0),
        ("morph_attempts_ended_total", &[("outcome", "failed")], 1.0),
        ("morph_placement_seconds_count", &[("after", "submit")], 2.0),
        ("morph_metric_points_total", &[], 2.0),
        ("morph_log_lines_total", &[], 1.0),
        ("morph_log_bytes_total", &[], 12.0),
        ("morph_heartbeats_total", &[], 1.0),
        ("morph_rpc_handled_total", &[("method", "SubmitRun"), ("code", "OK")], 2.0),
        ("morph_rpc_seconds_count", &[("method", "SubmitRun")], 2.0),
        ("morph_rpc_started_total", &[("method", "Session")], 1.0),
        ("morph_rpc_handled_total", &[("method", "Session")], 0.0),
        ("morph_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0),
    ] {
        assert_eq!(value(&page, name, labels), expected, "{name} {labels:?}");
    }
    let (queued, all) = ([("class", "queued")], value(&page, "morph_run_time_seconds", &[]));
    assert!(value(&page, "morph_run_time_seconds", &queued) > 0.0 && all < 60.0, "{all}");
    assert!(value(&page, "morph_database_bytes", &[("file", "data")]) > 0.0);
    assert!(value(&page, "morph_commit_seconds_count", &[]) >= 4.0);
    assert!(value(&page, "morph_command_seconds_count", &[]) >= 3.0);

    let (_, text) = world.get("/metrics");
    assert!(!text.contains("\"one\"") && !text.contains("01J"), "no label is somebody's name: {text}");
    official(&text);
    dashboard(&page);
    drop(agent);
    let left = || value(&world.metrics(), "morph_rpc_handled_total", &[("method", "Session")]) == 1.0;
    eventually("the session's end", left);
}

#[test]
fn calls_that_are_refused_are_counted_too() {
    let world = World::new(Options::default());
    world.runtime.block_on(async {
        let channel = tonic::transport::Endpoint::from_shared(world.handle.url()).unwrap().connect().await.unwrap();
        let mut client = v1::coordinator_client::CoordinatorClient::new(channel);
        assert!(client.list_runs(v1::ListRunsRequest::default()).await.is_err());
    });
    assert_eq!(world.get("/morph.v1.Coordinator/Frobnicate").0, 200, "a gRPC answer");
    let page = world.metrics();
    let refused = [("code", "UNAUTHENTICATED"), ("service", "morph.v1.Coordinator"), ("method", "ListRuns")];
    assert_eq!(value(&page, "morph_rpc_handled_total", &refused), 1.0);
    assert_eq!(value(&page, "morph_rpc_handled_total", &[("method", "unknown")]), 1.0);
}

/// What Grafana's dashboard asks for is there, with the labels that it asks for; and docs/observability.md lists all that is there.
fn dashboard(page: &Page) {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let json = std::fs::read_to_string(repository.join("k8s/grafana/morph.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&json).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|p| p["targets"].as_array().into_iter().flatten());
    let queries: Vec<&str> = targets.map(|t| t["expr"].as_str().unwrap()).collect();
    assert!(queries.len() > 20, "{queries:?}");
    let samples: Vec<_> = page.values().flat_map(|f| &f.samples).collect();
    for query in queries {
        let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
        let asked: Vec<&str> = query.split(word).filter(|w| w.starts_with("morph_")).collect();
        assert!(!asked.is_empty(), "{query}");
        for name in asked {
            let known = samples.iter().filter(|s| s.name == name).collect::<Vec<_>>();
            assert!(!known.is_empty(), "{name} is in no /metrics: {query}");
            let by = query.split("by (").nth(1).and_then(|rest| rest.split(')').next()).unwrap_or_default();
            for label in by.split(", ").filter(|l| !l.is_empty() && *l != "job") {
                assert!(known.iter().all(|s| s.labels.contains_key(label)), "{name} has no label {label}: {query}");
            }
        }
    }
    let docs = std::fs::read_to_string(repository.join("docs/observability.md")).unwrap();
    for (name, family) in page {
        let suffix = match family.kind.as_str() {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        assert!(docs.contains(&format!("`{name}{suffix}`")), "docs/observability.md does not explain {name}{suffix}");
    }
}

/// Has Prometheus' own Python library read `text`, where it is installed.
fn official(text: &str) {
    let python = std::env::var_os("MORPH_PYTHON").unwrap_or_else(|| "python3".into());
    let there = Command::new(&python).args(["-c", "import prometheus_client"]).stderr(Stdio::null()).status();
    if !there.is_ok_and(|s| s.success()) {
        eprintln!(
            "skipped: Python has no prometheus_client; install it, or set MORPH_PYTHON, to have it read /metrics"
        );
        return;
    }
    let program = "import sys; from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse
print(len(list(parse(sys.stdin.read()))))";
    let mut child = Command::new(&python)
        .args(["-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let families: usize = String::from_utf8_lossy(&out.stdout).trim().parse().unwrap();
    assert_eq!(families, openmetrics::parse(text).len());
}
