//! Metrics over OTLP/gRPC, off unless the standard variables of OpenTelemetry name an endpoint.

use std::{
    env,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::{ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    metrics::v1::{ResourceMetrics, ScopeMetrics},
    resource::v1::Resource,
};
use percent_encoding::percent_decode_str;
use tonic::{
    Request,
    metadata::{Ascii, MetadataKey, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use crate::{
    openmetrics::{self, Span},
    otel::{resource, set, wanted},
};

/// How long an export may take, unless OTEL_EXPORTER_OTLP_TIMEOUT says otherwise.
const EXPORT: Duration = Duration::from_secs(3);
/// Time between two exports, unless OTEL_METRIC_EXPORT_INTERVAL says otherwise.
const INTERVAL: Duration = Duration::from_secs(60);

/// Name and value.
pub type Header = (MetadataKey<Ascii>, MetadataValue<Ascii>);

/// Sends metrics to a collector.
#[derive(Debug)]
pub struct Push {
    client: MetricsServiceClient<Channel>,
    headers: Vec<Header>,
    resource: Resource,
    start: u64,
    /// How often [`Push::send`] is to be called.
    pub interval: Duration,
}

/// What is set first of `OTEL_EXPORTER_OTLP_METRICS_<name>` and `OTEL_EXPORTER_OTLP_<name>`.
fn option(name: &str) -> Option<String> {
    let names = [format!("OTEL_EXPORTER_OTLP_METRICS_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")];
    names.iter().find(|name| set(name)).and_then(|name| env::var(name).ok())
}

fn millis(text: Option<String>) -> Option<Duration> {
    text?.parse().ok().filter(|ms| *ms > 0).map(Duration::from_millis)
}

impl Push {
    /// What sends the metrics of `program`, if somebody wants them. Call it within a Tokio runtime; it connects later.
    ///
    /// # Errors
    /// Why there can be none though they are wanted, in one line.
    pub fn wanted(program: &'static str) -> Result<Option<Self>, String> {
        if !wanted("METRICS") {
            return Ok(None);
        }
        let bad = |what: &str, why: &dyn std::fmt::Display| format!("no metrics: OTEL_EXPORTER_OTLP_{what}: {why}");
        let url = option("ENDPOINT").unwrap_or_default();
        let secure = url.starts_with("https://");
        let timeout = millis(option("TIMEOUT")).unwrap_or(EXPORT);
        let endpoint = Endpoint::from_shared(url).map_err(|e| bad("ENDPOINT", &e))?;
        let mut endpoint = endpoint.timeout(timeout).connect_timeout(timeout);
        if secure {
            let mut tls = ClientTlsConfig::new().with_enabled_roots();
            if let Some(file) = option("CERTIFICATE") {
                let pem = std::fs::read(&file).map_err(|e| bad("CERTIFICATE", &format!("{file}: {e}")))?;
                tls = tls.ca_certificate(Certificate::from_pem(pem));
            }
            endpoint = endpoint.tls_config(tls).map_err(|e| bad("ENDPOINT", &e))?;
        }
        let value = |text: String| Some(AnyValue { value: Some(Value::StringValue(text)) });
        let attribute = |(key, text): (String, String)| KeyValue { key, value: value(text), ..KeyValue::default() };
        Ok(Some(Self {
            client: MetricsServiceClient::new(endpoint.connect_lazy()),
            headers: headers(&option("HEADERS").unwrap_or_default()).map_err(|e| bad("HEADERS", &e))?,
            resource: Resource {
                attributes: resource(program).into_iter().map(attribute).collect(),
                ..Resource::default()
            },
            start: now(),
            interval: millis(env::var("OTEL_METRIC_EXPORT_INTERVAL").ok()).unwrap_or(INTERVAL),
        }))
    }

    /// Sends `text`, metrics in OpenMetrics' format.
    ///
    /// # Errors
    /// When the collector does not answer in time, or does not take them.
    pub async fn send(&mut self, text: &str) -> Result<(), String> {
        let scope = InstrumentationScope {
            name: "morph".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..InstrumentationScope::default()
        };
        let metrics = openmetrics::metrics(text, Span { start: self.start, now: now() });
        let scope = ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() };
        let resource = Some(self.resource.clone());
        let resource = ResourceMetrics { resource, scope_metrics: vec![scope], ..ResourceMetrics::default() };
        let mut request = Request::new(ExportMetricsServiceRequest { resource_metrics: vec![resource] });
        for (name, value) in &self.headers {
            request.metadata_mut().insert(name.clone(), value.clone());
        }
        self.client.export(request).await.map(drop).map_err(|status| status.message().to_owned())
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// `name=value,…`; values may be percent-encoded.
///
/// # Errors
/// The pair that is none. Values are secrets more often than not, so errors do not show them.
pub fn headers(text: &str) -> Result<Vec<Header>, String> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').ok_or("expected name=value pairs with commas between")?;
            let name = name.trim().to_ascii_lowercase();
            let bad = format!("{name:?} is no header, or its value is none");
            let key = MetadataKey::from_bytes(name.as_bytes()).map_err(|_| bad.clone())?;
            let value = percent_decode_str(value.trim()).decode_utf8_lossy();
            let mut value: MetadataValue<Ascii> = value.parse().map_err(|_| bad)?;
            value.set_sensitive(true);
            Ok((key, value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_pairs_and_errors_keep_their_values() {
        let all = headers("Authorization=Bearer%20abc, x-team=lab ,").unwrap();
        let texts: Vec<_> = all.iter().map(|(k, v)| (k.as_str(), v.to_str().unwrap())).collect();
        assert_eq!(texts, [("authorization", "Bearer abc"), ("x-team", "lab")]);
        assert!(all[0].1.is_sensitive());
        for text in ["secret", "a b=secret", "a=%00secret"] {
            let why = headers(text).unwrap_err();
            assert!(!why.contains("secret"), "{why}");
        }
        assert_eq!(headers("a=100%25 %zz %4").unwrap()[0].1, "100% %zz %4");
    }
}
