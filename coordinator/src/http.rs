//! Pages for probes and for Prometheus, on the same port as gRPC: `/healthz`, `/readyz` and `/metrics`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Response, StatusCode, header::CONTENT_TYPE},
    routing::get,
};
use morph_telemetry::Push;
use serde_json::json;
use tokio::{sync::Mutex, task::spawn_blocking, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    core::Core,
    metrics::{Metrics, State},
    store::Database,
};

/// How long the core's loop may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long an answer is good for. The pages are open to all: however many ask, the core's loop and the database are asked no
/// more often than this.
const FRESH: Duration = Duration::from_millis(200);

/// What the pages need.
#[derive(Debug, Clone)]
pub(crate) struct Pages {
    pub(crate) core: Core,
    pub(crate) metrics: Arc<Metrics>,
    database: Database,
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    code: StatusCode,
    kind: &'static str,
    body: String,
}

impl Answer {
    /// `body` as JSON.
    pub(crate) fn json(code: StatusCode, body: &serde_json::Value) -> Self {
        Self { code, kind: "application/json", body: format!("{body}\n") }
    }

    /// As the web has it.
    pub(crate) fn response(self) -> Response<Body> {
        let mut response = Response::new(self.body.into());
        *response.status_mut() = self.code;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(self.kind));
        response
    }
}

/// The newest answer of a page, and when it was found out. Who asks meanwhile waits for it.
#[derive(Debug, Clone, Default)]
struct Newest(Arc<Mutex<Option<(Instant, Answer)>>>);

impl Newest {
    /// It, or that of `ask` when it is no longer good.
    async fn or(self, ask: impl Future<Output = Answer>) -> Response<Body> {
        let mut newest = self.0.lock().await;
        let answer = match &*newest {
            Some((at, answer)) if at.elapsed() < FRESH => answer.clone(),
            _ => {
                let answer = ask.await;
                *newest = Some((Instant::now(), answer.clone()));
                answer
            }
        };
        answer.response()
    }
}

impl Pages {
    pub(crate) fn new(core: Core, metrics: Arc<Metrics>, database: Database) -> Self {
        Self { core, metrics, database }
    }

    /// The routes.
    pub(crate) fn router(self) -> Router {
        let (health, ready, metrics) = (self.clone(), self.clone(), self);
        let [of_health, of_ready, of_metrics] = <[Newest; 3]>::default();
        Router::new()
            .route("/healthz", get(move || of_health.clone().or(health.clone().healthz())))
            .route("/readyz", get(move || of_ready.clone().or(ready.clone().readyz())))
            .route("/metrics", get(move || of_metrics.clone().or(metrics.clone().metrics())))
    }

    /// Whether this process lives: 200, or 503 when the core's loop does not answer and a restart would help.
    async fn healthz(self) -> Answer {
        match self.answered().await {
            Ok(_) => Answer::json(StatusCode::OK, &json!({ "status": "ok" })),
            Err(why) => {
                Answer::json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "failing", "reasons": [why] }))
            }
        }
    }

    /// Whether it takes work: 200, or 503 with all reasons why not.
    async fn readyz(self) -> Answer {
        let mut reasons = Vec::new();
        match self.answered().await {
            Ok(against) => reasons.extend(against),
            Err(why) => reasons.push(why),
        }
        let database = self.database.clone();
        match spawn_blocking(move || database.writable()).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => reasons.push(format!("the database cannot be written: {e}")),
            Err(e) => reasons.push(format!("the database cannot be asked: {e}")),
        }
        if reasons.is_empty() {
            Answer::json(StatusCode::OK, &json!({ "status": "ready" }))
        } else {
            not_ready(&reasons)
        }
    }

    async fn metrics(self) -> Answer {
        let body = self.text().await;
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        Answer { code: StatusCode::OK, kind, body }
    }

    /// Sends all metrics to a collector again and again if the environment names one, and a last time when `stop` comes.
    pub(crate) async fn push(self, stop: CancellationToken) {
        let mut push = match Push::wanted("morph-coordinator") {
            Ok(Some(push)) => push,
            Ok(None) => return,
            Err(why) => return tracing::warn!("{why}"),
        };
        let mut failing = false;
        while timeout(push.interval, stop.cancelled()).await.is_err() {
            match push.send(&self.text().await).await {
                Ok(()) => failing = false,
                // Said once: a collector that is away slows nothing.
                Err(why) if !std::mem::replace(&mut failing, true) => {
                    tracing::warn!("metrics could not be sent: {why}; this goes on being tried");
                }
                Err(_) => {}
            }
        }
        let last = self.text().await;
        // The loop that owns the core does not wait for a collector.
        drop(self);
        push.send(&last).await.ok();
    }

    /// All metrics in OpenMetrics' format.
    async fn text(&self) -> String {
        let state = timeout(PATIENCE, self.core.ask(State::of)).await;
        let state = state.ok().and_then(Result::ok);
        let database = self.database.clone();
        // What cannot be found out is left out.
        let size = spawn_blocking(move || database.size()).await.unwrap_or_default();
        self.metrics.text(state.as_ref(), self.core.waiting(), &size)
    }

    /// What speaks against taking work, if the core's loop answers at all.
    async fn answered(&self) -> Result<Vec<String>, String> {
        let question = self.core.ask(|view| {
            let draining = view.cluster.draining.as_ref().map(|why| format!("draining: {why}"));
            let reading = view.read_only.then(|| "open for reading only".to_owned());
            draining.into_iter().chain(reading).collect()
        });
        match timeout(PATIENCE, question).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(status)) => Err(format!("the core's loop has ended: {}", status.message())),
            Err(_) => Err(format!("the core's loop has not answered for {} s", PATIENCE.as_secs())),
        }
    }
}

/// 503 with all reasons.
pub(crate) fn not_ready(reasons: &[String]) -> Answer {
    Answer::json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "not ready", "reasons": reasons }))
}
