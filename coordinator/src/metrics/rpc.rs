//! Calls of gRPC methods, counted and traced from outside of all services.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use morph_telemetry::{TRACE, continues};
use prometheus_client::{
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};
use tracing::Instrument;

use super::{Label, Metrics, short};
use crate::auth::table;

/// Bytes of a status' message, as it is sent.
const LONGEST: usize = 6 << 10;
/// `…`, as it is sent.
const ELLIPSIS: &[u8] = b"%E2%80%A6";

/// Families of what is counted.
pub(super) struct Calls {
    started: Family<[Label; 2], Counter>,
    handled: Family<[Label; 3], Counter>,
    took: Family<[Label; 2], Histogram, fn() -> Histogram>,
}

impl Calls {
    pub(super) fn new(r: &mut Registry) -> Self {
        let calls =
            Self { started: Family::default(), handled: Family::default(), took: Family::new_with_constructor(short) };
        r.register("rpc_started", "Calls begun, by method", calls.started.clone());
        r.register("rpc_handled", "Calls ended, by method and gRPC status", calls.handled.clone());
        let help = "Time of calls that are no streams, until their last byte was taken";
        r.register_with_unit("rpc", help, Unit::Seconds, calls.took.clone());
        calls
    }
}

/// One call, from its beginning to its end. One that nobody ends was cancelled.
struct Call {
    metrics: Arc<Metrics>,
    service: &'static str,
    method: &'static str,
    since: Instant,
    ended: bool,
}

impl Call {
    fn begin(metrics: &Arc<Metrics>, path: &str) -> Self {
        let (service, method) = table::known(path).unwrap_or(("unknown", "unknown"));
        metrics.rpc.started.get_or_create(&[("service", service), ("method", method)]).inc();
        Self { metrics: metrics.clone(), service, method, since: Instant::now(), ended: false }
    }

    fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let calls = &self.metrics.rpc;
        let by = [("service", self.service), ("method", self.method)];
        calls.handled.get_or_create(&[by[0], by[1], ("code", word(code))]).inc();
        if !table::is_stream(self.service, self.method) {
            let took = self.since.elapsed().as_secs_f64();
            calls.took.get_or_create(&by).observe(took);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

fn status(headers: &HeaderMap) -> Option<Code> {
    headers.get("grpc-status").map(|value| Code::from_bytes(value.as_bytes()))
}

/// Cuts a message that clients would not take: headers of more than some 16 KiB end a connection for them, and what a request says may
/// stand in its refusal.
fn cut(headers: &mut HeaderMap) {
    let Some(message) = headers.get("grpc-message").map(HeaderValue::as_bytes).filter(|m| m.len() > LONGEST) else {
        return;
    };
    // It is percent-encoded: no byte is cut in two, and no character.
    let mut end = LONGEST;
    while let Some(at) = message[end - 2..end].iter().position(|b| *b == b'%') {
        end = end - 2 + at;
    }
    let byte = |end: usize| {
        let hex = message[..end].last_chunk::<3>().filter(|encoded| encoded[0] == b'%')?;
        u8::from_str_radix(std::str::from_utf8(&hex[1..]).ok()?, 16).ok()
    };
    while byte(end).is_some_and(|b| b & 0xc0 == 0x80) {
        end -= 3;
    }
    if byte(end).is_some_and(|b| b >= 0xc0) {
        end -= 3;
    }
    let kept = [&message[..end], ELLIPSIS].concat();
    if let Ok(kept) = HeaderValue::from_bytes(&kept) {
        headers.insert("grpc-message", kept);
    }
}

/// The name of `code` in gRPC's specification.
fn word(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Counts what passes.
#[derive(Debug, Clone)]
pub struct Counting(pub Arc<Metrics>);

impl<S> Layer<S> for Counting {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, metrics: self.0.clone() }
    }
}

/// A service whose calls are counted.
#[derive(Debug, Clone)]
pub struct Counted<S> {
    inner: S,
    metrics: Arc<Metrics>,
}

impl<S> Service<http::Request<Body>> for Counted<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path();
        if table::PAGES.contains(&path) {
            return Box::pin(self.inner.call(request));
        }
        let mut call = Call::begin(&self.metrics, path);
        let span = tracing::info_span!(
            target: TRACE,
            "rpc",
            otel.name = %format_args!("{}/{}", call.service, call.method),
            otel.kind = "server",
            rpc.system = "grpc",
            rpc.service = call.service,
            rpc.method = call.method,
        );
        let parent = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
        continues(&span, parent.unwrap_or_default());
        let response = self.inner.call(request).instrument(span);
        Box::pin(async move {
            let mut response = response.await?;
            cut(response.headers_mut());
            if let Some(code) = status(response.headers()) {
                call.end(code);
                return Ok(response);
            }
            Ok(response.map(|inner| Body::new(Watched { inner, call })))
        })
    }
}

/// A response's body, watched for the status in its trailers.
struct Watched {
    inner: Body,
    call: Call,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut frame = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            cut(trailers);
            self.call.end(status(trailers).unwrap_or(Code::Unknown));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_between_characters() {
        for (said, shift) in [("x", 0), ("ä", 0), ("ä", 1), ("…", 1), ("…", 2), ("𝄞", 3), ("%", 1)] {
            let long = format!("{}{}", "x".repeat(shift), said.repeat(20_000));
            let mut headers = Status::not_found(&long).into_http::<()>().headers().clone();
            cut(&mut headers);
            let bytes = headers["grpc-message"].len();
            assert!((LONGEST - 12..=LONGEST + ELLIPSIS.len()).contains(&bytes), "{bytes}");
            let status = Status::from_header_map(&headers).unwrap();
            let kept = status.message().strip_suffix('…').unwrap();
            assert!(status.code() == Code::NotFound && long.starts_with(kept), "{said}: {kept:?}");
        }
        let mut short = Status::not_found("short").into_http::<()>().headers().clone();
        cut(&mut short);
        assert_eq!(short["grpc-message"], "short");
    }
}
