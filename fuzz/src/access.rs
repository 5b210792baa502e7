//! Who comes in, and where we are sent.

use std::{
    future::ready,
    str,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::{FutureExt, executor::block_on};
use http::{HeaderValue, Request, Response, Uri, header::AUTHORIZATION};
use morph_coordinator::auth::{
    certificate as certificates,
    layer::{Gate, Gates, Limits, Proof},
    secret,
    table::{Need, need},
    tokens::Tokens,
};
use morph_objects::{Objects, Options, Policy};
use morph_telemetry::openmetrics;
use tonic::body::Body;
use tower::{Layer, Service, service_fn};
use url::{Host, Url};

/// A request's path and Authorization header, with a line's end between. Behind the gate is nobody but who may.
pub fn gate(data: &[u8]) {
    let (path, header) = data.split_at(data.iter().position(|b| *b == b'\n').unwrap_or(data.len()));
    let header = header.strip_prefix(b"\n").unwrap_or_default();
    let Ok(uri) = Uri::try_from(path) else { return };
    if let Some((id, _)) = str::from_utf8(header).ok().and_then(secret::parse) {
        assert_eq!(id.len(), 16);
    }
    for proof in [Proof::Tokens, Proof::Tls] {
        let gates = Gates(Arc::new(Gate::new(Arc::new(Tokens::none()), proof, Limits::default())));
        let entered = Arc::new(AtomicBool::new(false));
        let inside = entered.clone();
        let mut service = gates.layer(service_fn(move |_: Request<Body>| {
            inside.store(true, Ordering::Relaxed);
            ready(Ok::<_, std::convert::Infallible>(Response::new(Body::empty())))
        }));
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = uri.clone();
        if let Ok(value) = HeaderValue::from_bytes(header) {
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        drop(block_on(service.call(request)));
        // There are no tokens, so none can be right.
        assert_eq!(entered.load(Ordering::Relaxed), need(uri.path()) == Need::Open, "{uri}");
    }
}

/// A certificate (DER), as the handshake hands it over.
pub fn certificate(data: &[u8]) {
    drop(certificates::identity(data));
}

/// For who submits from afar.
const STRICT: Policy = Policy { link_local: false, loopback: false, files: Some(Vec::new()) };

/// A location that somebody from afar has named. Where it leads when it is opened has been judged.
pub fn location(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    if matches!(Url::parse(text).map(|u| u.host().map(|h| h.to_owned())), Ok(Some(Host::Domain(_)))) {
        // Nobody is asked for names here; what is made of one is the resolver's to judge, at each connection.
        return judged(text);
    }
    // Without a name to look up there is nothing to wait for.
    let Some(Ok(())) = STRICT.check(text).now_or_never() else { return };
    judged(text);
}

/// Where `text` leads to, if it may be opened at all.
fn judged(text: &str) {
    let options = Options { policy: STRICT, ..Options::default() };
    let Ok(objects) = Objects::open_with(text, &options) else { return };
    let url = objects.url();
    let Ok(parsed) = Url::parse(&url) else { return };
    assert!(parsed.username().is_empty() && parsed.password().is_none(), "{url} shows who asks");
    if matches!(parsed.host(), Some(Host::Ipv4(_) | Host::Ipv6(_))) && parsed.scheme().starts_with("http") {
        let allowed = STRICT.check(&url).now_or_never();
        assert!(matches!(allowed, Some(Ok(()))), "{text:?} leads to {url}: {allowed:?}");
    }
}

/// Texts of telemetry: metrics, the headers for a collector, a trace that goes on.
pub fn telemetry(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    drop(openmetrics::metrics(text, openmetrics::Span { start: 1, now: 2 }));
    if let Ok(headers) = morph_telemetry::headers(text) {
        assert!(headers.iter().all(|(_, value)| value.is_sensitive()));
    }
    tracing::subscriber::with_default(tracing_subscriber::Registry::default(), || {
        morph_telemetry::continues(&tracing::info_span!(target: morph_telemetry::TRACE, "span"), text);
    });
}
