//! Traces of real programs, collected by a real receiver of OTLP.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use morph_e2e::{Home, expect, job};
use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::any_value::Value,
    metrics::v1::{Metric, metric::Data, number_data_point::Value as Number},
    trace::v1::Span,
};
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// How long the exporter may take, which is far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// A span and the service that sent it.
#[derive(Debug, Clone)]
struct Sent {
    service: String,
    span: Span,
}

/// Takes spans and metrics in.
#[derive(Debug, Clone, Default)]
struct Collector(Arc<Mutex<Vec<Sent>>>, Arc<Mutex<Vec<Metric>>>);

#[tonic::async_trait]
impl MetricsService for Collector {
    /// The newest replace all earlier ones.
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        if request.metadata().get("x-lab").is_none_or(|value| value != "of chests") {
            return Err(Status::unauthenticated("x-lab"));
        }
        let scopes = request.into_inner().resource_metrics.into_iter().flat_map(|r| r.scope_metrics);
        *self.1.lock().unwrap_or_else(PoisonError::into_inner) = scopes.flat_map(|s| s.metrics).collect();
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.map(|r| r.attributes).unwrap_or_default();
            let name = attributes.into_iter().find(|a| a.key == "service.name").and_then(|a| a.value?.value);
            let Some(Value::StringValue(service)) = name else { return Err(Status::invalid_argument("service.name")) };
            let spans = resource.scope_spans.into_iter().flat_map(|s| s.spans);
            all.extend(spans.map(|span| Sent { service: service.clone(), span }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    fn start(&self, runtime: &Runtime) -> Result<SocketAddr> {
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let (traces, metrics) = (TraceServiceServer::new(self.clone()), MetricsServiceServer::new(self.clone()));
        let server = Server::builder().add_service(traces).add_service(metrics);
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Ok(address)
    }

    fn spans(&self) -> Vec<Sent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The value of `name` where its label is `label`.
    fn counted(&self, name: &str, label: &str) -> Option<f64> {
        let metrics = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        let points = match &metrics.iter().find(|m| m.name == name)?.data {
            Some(Data::Sum(sum)) => &sum.data_points,
            Some(Data::Gauge(gauge)) => &gauge.data_points,
            _ => return None,
        };
        let labelled = |value: &Option<Value>| matches!(value, Some(Value::StringValue(text)) if text == label);
        let found = points.iter().find(|p| p.attributes.iter().any(|a| a.value.iter().any(|v| labelled(&v.value))))?;
        match found.value {
            Some(Number::AsDouble(value)) => Some(value),
            _ => None,
        }
    }
}

/// Names of a span and of all above it.
fn path(by_id: &BTreeMap<&[u8], &Sent>, at: &Sent) -> Vec<String> {
    let mut names = vec![at.span.name.clone()];
    let mut above = &at.span.parent_span_id;
    while let Some(parent) = by_id.get(above.as_slice()) {
        names.push(parent.span.name.clone());
        above = &parent.span.parent_span_id;
    }
    names
}

fn train(home: &Home, endpoint: &str, file: &Path) -> Result<Command> {
    let mut command = home.morphctl()?;
    command.args(["train", "--local", "--slots", "2"]).arg(file);
    command.env("OTEL_EXPORTER_OTLP_HEADERS", "x-lab=of%20chests").env("OTEL_METRIC_EXPORT_INTERVAL", "300");
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
    Ok(command)
}

#[test]
fn a_submission_is_followed_into_the_ranks_steps() -> Result<()> {
    let runtime = Runtime::new()?;
    let collector = Collector::default();
    let address = collector.start(&runtime)?;
    let home = Home::new()?;
    job::dataset(&home, 40, 4)?;
    expect(&mut train(&home, &format!("http://{address}"), &job::experiment(&home, 2)?)?, 0)?;

    let spans = collector.spans();
    let root = spans.iter().find(|s| s.span.name == "morphctl train").context("morphctl's own span")?;
    ensure!(root.service == "morphctl" && root.span.parent_span_id.is_empty(), "{root:?}");
    let trace: Vec<&Sent> = spans.iter().filter(|s| s.span.trace_id == root.span.trace_id).collect();
    let by_id: BTreeMap<&[u8], &Sent> = trace.iter().map(|s| (s.span.span_id.as_slice(), *s)).collect();
    let path = |at: &Sent| path(&by_id, at);
    let submit = "morph.v1.Coordinator/SubmitRun";
    let rpc = trace.iter().find(|s| s.span.name == submit).context("the coordinator's span")?;
    ensure!(path(rpc) == [submit, "morphctl train"], "{:?}", path(rpc));
    let ranks = trace.iter().filter(|s| s.service == "morph-rank" && s.span.name == "rank");
    ensure!(ranks.count() == 2, "both ranks are in the trace");
    for name in ["prepare", "evaluate", "epoch"] {
        let span = trace.iter().find(|s| s.span.name == name).with_context(|| format!("a span {name}"))?;
        ensure!(path(span) == [name, "rank", "start_rank", submit, "morphctl train"], "{:?}", path(span));
    }
    let steps = trace.iter().find(|s| s.span.name == "steps").context("the steps")?;
    ensure!(path(steps)[..2] == ["steps", "epoch"] && path(steps).len() == 6, "{:?}", path(steps));
    let names: BTreeSet<&str> = trace.iter().map(|s| s.span.name.as_str()).collect();
    ensure!(names.contains("validate") && names.contains("save"), "{names:?}");
    ensure!(trace.iter().filter(|s| s.span.name == "steps").count() == 4, "a span an epoch and rank, not a step");

    // The last metrics are those of the end.
    ensure!(collector.counted("morph_events", "run_placed") == Some(1.0), "{:?}", collector.1);
    ensure!(collector.counted("morph_runs", "succeeded") == Some(1.0), "{:?}", collector.1);
    Ok(())
}

#[test]
fn an_endpoint_that_does_not_answer_slows_nothing() -> Result<()> {
    // It accepts and says nothing. Whoever waited for an answer, and not only for the moment that a program gives its last spans,
    // would wait for as long as the exporter may.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0")?;
    for endpoint in [&format!("http://{}", deaf.local_addr()?), "http://127.0.0.1:1"] {
        let home = Home::new()?;
        job::dataset(&home, 40, 4)?;
        let file = job::experiment(&home, 2)?;
        let since = Instant::now();
        let mut command = train(&home, endpoint, &file)?;
        let printed = expect(command.env("OTEL_EXPORTER_OTLP_TIMEOUT", PATIENCE.as_millis().to_string()), 0)?;
        ensure!(since.elapsed() < PATIENCE, "{endpoint} was waited for");
        ensure!(!printed.contains("traces"), "{printed}");
    }
    Ok(())
}

#[test]
fn ranks_log_json_with_run_attempt_and_rank_and_time_is_accounted_for() -> Result<()> {
    let home = Home::new()?;
    job::dataset(&home, 40, 4)?;
    let file = job::experiment(&home, 2)?;
    expect(home.morphctl()?.args(["--log-format", "json", "train", "--local", "--slots", "2"]).arg(file), 0)?;
    let run = job::runs(&home, &[])?.pop().context("a run")?;
    let id = run["id"].as_str().context("an id")?;
    let logs = home.morphctl()?.args(["logs", id, "-o", "json"]).output()?;
    let mut ranks = BTreeSet::new();
    for line in String::from_utf8(logs.stdout)?.lines() {
        let outer: serde_json::Value = serde_json::from_str(line)?;
        let text = outer["text"].as_str().context("text")?;
        if outer["stream"] == "stderr" && text.starts_with('{') {
            let inner: serde_json::Value = serde_json::from_str(text)?;
            ensure!(inner["run"] == id && inner["attempt"] == 1 && inner["rank"] == outer["rank"], "{text}");
            ranks.insert(inner["rank"].as_u64());
        }
    }
    ensure!(!ranks.is_empty(), "ranks log");
    let shown = home.morphctl()?.args(["describe", "run", id, "-o", "json"]).output()?;
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout)?;
    let time = shown["time"].as_object().context("time")?;
    for class in ["queued", "starting", "training", "data", "checkpointing", "evaluating"] {
        ensure!(time.get(class).and_then(serde_json::Value::as_f64) > Some(0.0), "{class}: {time:?}");
    }
    Ok(())
}
