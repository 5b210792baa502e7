//! Traces over OTLP/gRPC, off unless the standard variables of OpenTelemetry name an endpoint. Spans wait in a bounded queue and are
//! dropped when it is full: an endpoint that does not answer slows nothing.

use std::{
    collections::HashMap,
    env,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use opentelemetry::{propagation::TextMapPropagator, trace::TracerProvider};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use tokio::runtime::{Builder, Runtime};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

/// The target of spans that are traced. Others are for logs, and logs do not show these.
pub const TRACE: &str = "morph::trace";

/// The header of the W3C's recommendation Trace Context, and the key in gRPC's metadata.
const HEADER: &str = "traceparent";

/// How long an export may take, unless OTEL_EXPORTER_OTLP_TIMEOUT says otherwise.
const EXPORT: Duration = Duration::from_secs(3);

/// What sends spans, with the threads that it needs.
struct Sender {
    provider: SdkTracerProvider,
    runtime: Mutex<Option<Runtime>>,
}

static SENDER: OnceLock<Sender> = OnceLock::new();

pub(crate) fn set(name: &str) -> bool {
    env::var_os(name).is_some_and(|v| !v.is_empty())
}

/// Whether somebody wants `signal`, TRACES or METRICS.
pub(crate) fn wanted(signal: &str) -> bool {
    let off = |name: &str, word: &str| env::var(name).is_ok_and(|v| v.eq_ignore_ascii_case(word));
    (set("OTEL_EXPORTER_OTLP_ENDPOINT") || set(&format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")))
        && !off("OTEL_SDK_DISABLED", "true")
        && !off(&format!("OTEL_{signal}_EXPORTER"), "none")
}

/// Who sends: `program`, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES say otherwise.
fn who(program: &'static str) -> Resource {
    let builder = Resource::builder();
    if set("OTEL_SERVICE_NAME") { builder.build() } else { builder.with_service_name(program).build() }
}

/// [`who`] as names and values.
pub(crate) fn resource(program: &'static str) -> Vec<(String, String)> {
    who(program).iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

/// The layer that takes spans of [`TRACE`], if somebody wants traces; `program` is the service's name unless OTEL_SERVICE_NAME
/// is set.
///
/// # Errors
/// Why there can be no traces though they are wanted, in one line.
pub(crate) fn layer<S>(program: &'static str) -> Result<Option<impl Layer<S>>, String>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    if !wanted("TRACES") {
        return Ok(None);
    }
    let threads = Builder::new_multi_thread().worker_threads(1).thread_name("otlp").enable_all().build();
    let runtime = threads.map_err(|e| format!("no traces: {e}"))?;
    let exporter = {
        let _context = runtime.enter();
        let mut builder = SpanExporter::builder().with_tonic();
        if !set("OTEL_EXPORTER_OTLP_TIMEOUT") && !set("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT") {
            builder = builder.with_timeout(EXPORT);
        }
        builder.build().map_err(|e| format!("no traces: OTEL_EXPORTER_OTLP_ENDPOINT is of no use: {e}"))?
    };
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(who(program)).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("morph"));
    // A process has one.
    drop(SENDER.set(Sender { provider, runtime: Mutex::new(Some(runtime)) }));
    Ok(Some(layer.with_filter(filter_fn(|m| m.is_span() && m.target() == TRACE))))
}

/// Sends the spans that have ended, waits at most `limit` for that, and sends nothing more.
pub fn finish(limit: Duration) {
    let Some(Sender { provider, runtime }) = SENDER.get() else { return };
    // What could not be sent in time is lost: nobody is to wait for it.
    provider.shutdown_with_timeout(limit).ok();
    if let Some(runtime) = runtime.lock().unwrap_or_else(PoisonError::into_inner).take() {
        runtime.shutdown_background();
    }
}

/// The current span in the W3C's words, for whoever continues its trace; `None` without traces.
pub fn traceparent() -> Option<String> {
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&Span::current().context(), &mut carrier);
    carrier.remove(HEADER)
}

/// Makes `span`, which nobody has entered yet, a child of the span that `traceparent` names. What names none changes nothing.
pub fn continues(span: &Span, traceparent: &str) {
    if span.is_disabled() || traceparent.is_empty() {
        return;
    }
    let carrier = HashMap::from([(HEADER.to_owned(), traceparent.to_owned())]);
    // Without traces there is nothing to continue.
    span.set_parent(TraceContextPropagator::new().extract(&carrier)).ok();
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::{Registry, layer::SubscriberExt};

    use super::*;

    const REMOTE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_trace_goes_on_under_its_own_id() {
        let provider = SdkTracerProvider::builder().build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        tracing::subscriber::with_default(Registry::default().with(layer), || {
            assert_eq!(traceparent(), None, "outside of all spans");
            let span = tracing::info_span!(target: TRACE, "child");
            continues(&span, REMOTE);
            let own = span.in_scope(traceparent).unwrap();
            assert!(own.starts_with(&REMOTE[..35]) && own != REMOTE, "{own}");
            for nonsense in ["", "00-zz-1-01", "x"] {
                let span = tracing::info_span!(target: TRACE, "root");
                continues(&span, nonsense);
                let own = span.in_scope(traceparent).unwrap();
                assert!(!own.starts_with(&REMOTE[..35]), "{nonsense:?}: {own}");
            }
        });
    }

    #[test]
    fn without_traces_nothing_is_passed_on() {
        let span = tracing::info_span!(target: TRACE, "span");
        continues(&span, REMOTE);
        assert_eq!(span.in_scope(traceparent), None);
        finish(Duration::from_secs(1));
    }
}
