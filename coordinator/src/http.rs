//! Pages for probes and for Prometheus, on the same port as gRPC: `/healthz`, `/readyz` and `/metrics`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Response, StatusCode, header::CONTENT_TYPE},
    routing::get,
};
use serde_json::json;
use tokio::time::timeout;

use crate::{
    core::Core,
    metrics::{Metrics, State},
    store::Store,
};

/// How long the core's loop may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the pages need.
#[derive(Debug, Clone)]
pub(crate) struct Pages {
    pub(crate) core: Core,
    pub(crate) metrics: Arc<Metrics>,
    /// The database.
    pub(crate) db: PathBuf,
}

impl Pages {
    /// The routes.
    pub(crate) fn router(self) -> Router {
        let (health, ready, metrics) = (self.clone(), self.clone(), self);
        Router::new()
            .route("/healthz", get(move || health.clone().healthz()))
            .route("/readyz", get(move || ready.clone().readyz()))
            .route("/metrics", get(move || metrics.clone().metrics()))
    }

    /// Whether this process lives: 200, or 503 when the core's loop does not answer and a restart would help.
    async fn healthz(self) -> Response<Body> {
        match self.answered().await {
            Ok(_) => page(StatusCode::OK, &json!({ "status": "ok" })),
            Err(why) => page(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "failing", "reasons": [why] })),
        }
    }

    /// Whether it takes work: 200, or 503 with all reasons why not.
    async fn readyz(self) -> Response<Body> {
        let mut reasons = Vec::new();
        match self.answered().await {
            Ok(against) => reasons.extend(against),
            Err(why) => reasons.push(why),
        }
        let db = self.db.clone();
        let writable = tokio::task::spawn_blocking(move || Store::writable(&db)).await;
        match writable {
            Ok(Ok(())) => {}
            Ok(Err(e)) => reasons.push(format!("the database cannot be written: {e}")),
            Err(e) => reasons.push(format!("the database cannot be asked: {e}")),
        }
        if reasons.is_empty() {
            page(StatusCode::OK, &json!({ "status": "ready" }))
        } else {
            page(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "not ready", "reasons": reasons }))
        }
    }

    async fn metrics(self) -> Response<Body> {
        let state = timeout(PATIENCE, self.core.ask(State::of)).await;
        let state = state.ok().and_then(Result::ok);
        let text = self.metrics.text(state.as_ref(), self.core.waiting(), &self.db);
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        response(StatusCode::OK, kind, text)
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

fn page(code: StatusCode, body: &serde_json::Value) -> Response<Body> {
    response(code, "application/json", format!("{body}\n"))
}

fn response(code: StatusCode, kind: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
