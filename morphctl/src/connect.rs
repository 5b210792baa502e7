//! Whom to ask: a coordinator elsewhere, one that serves the home now, or one in this process.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use morph_coordinator::auth::secret::Secret;
use morph_coordinator::{Handle, Options};
use morph_proto::v1::{self, access_client::AccessClient, coordinator_client::CoordinatorClient};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::{
    cli::Global,
    fail::{self, NOT_FOUND, UNREACHABLE, USAGE, coded},
};

/// A connection that says who asks.
pub type Wire = InterceptedService<Channel, Bearer>;
/// The client of a coordinator.
pub type Client = CoordinatorClient<Wire>;

/// Adds the token to every request, and the trace that it belongs to.
#[derive(Debug, Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        if let Some(Ok(trace)) = morph_telemetry::traceparent().map(|t| t.parse()) {
            request.metadata_mut().insert("traceparent", trace);
        }
        Ok(request)
    }
}

/// The run that is called `id`, with everything.
///
/// # Errors
/// When there is none.
pub async fn run(client: &mut Client, id: &str) -> Result<v1::Run> {
    let request = v1::GetRunRequest { run: id.to_owned() };
    Ok(client.get_run(request).await.map_err(|s| fail::status(&s))?.into_inner().run.unwrap_or_default())
}

/// How long a coordinator that has taken the home may take to say where it listens.
const STARTING: Duration = Duration::from_secs(5);
/// Time between two looks for a coordinator that went away.
const AGAIN: Duration = Duration::from_secs(1);
/// Said while nobody serves.
pub const AWAY: &str = "the coordinator is away; waiting for it (running ranks go on)";
/// Largest answer taken.
const LARGEST: usize = 256 << 20;

/// A connection, and the coordinator itself when it lives in this process.
pub struct Connection {
    /// To ask.
    pub client: Client,
    wire: Wire,
    embedded: Option<Handle>,
}

/// What the embedded coordinator may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Answer questions about what is recorded.
    Ask,
    /// Change what is recorded.
    Change,
}

/// The home folder, absolute.
///
/// # Errors
/// When there is no working folder, or the home is no folder.
pub fn home(global: &Global) -> Result<PathBuf> {
    let home = match &global.home {
        Some(home) => home.clone(),
        None if !Path::new("morph-home").exists() && Path::new("morph-demo").exists() => PathBuf::from("morph-demo"),
        None => PathBuf::from("morph-home"),
    };
    if home.exists() && !home.is_dir() {
        return Err(coded(USAGE, format!("--home {}: that is a file, not a folder", home.display())));
    }
    std::path::absolute(&home).with_context(|| format!("find {}", home.display()))
}

/// A token that its owner gave: MORPH_TOKEN, or the file that --token-file or MORPH_TOKEN_FILE names.
///
/// # Errors
/// Exit code 2 when the file cannot be read, or others can read it.
fn given(global: &Global) -> Result<Option<Secret>> {
    if let Some(text) = std::env::var("MORPH_TOKEN").ok().filter(|t| !t.trim().is_empty()) {
        return Ok(Some(Secret::new(text.trim())));
    }
    let Some(path) = &global.token_file else { return Ok(None) };
    let bad = |why: String| coded(USAGE, format!("--token-file {}: {why}", path.display()));
    let mode = std::fs::metadata(path).map_err(|e| bad(e.to_string()))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(bad(format!(
            "others can read it (mode {:o}): chmod 600 it, and have the token replaced",
            mode & 0o777
        )));
    }
    let text = std::fs::read_to_string(path).map_err(|e| bad(e.to_string()))?;
    Ok(Some(Secret::new(text.trim())))
}

/// Whether what is sent to `uri` can be read on its way.
fn in_clear(uri: &tonic::transport::Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let here = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    uri.scheme_str() != Some("https") && !here
}

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(60);

/// How the coordinator and this client prove to each other who they are, as `global` says.
///
/// # Errors
/// Exit code 2 when a file is missing or cannot be read.
fn encryption(url: &str, global: &Global) -> Result<Option<ClientTlsConfig>> {
    if !url.starts_with("https://") {
        return Ok(None);
    }
    let read = |option: &str, path: &Path| {
        std::fs::read(path).map_err(|e| coded(USAGE, format!("{option} {}: {e}", path.display())))
    };
    let Some(ca) = &global.ca else {
        let why = format!(
            "{url}: say with --ca FILE (or MORPH_CA) whose certificate to believe: the ca.crt of the coordinator's authority"
        );
        return Err(coded(USAGE, why));
    };
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("--ca", ca)?));
    if let (Some(cert), Some(key)) = (&global.cert, &global.key) {
        tls = tls.identity(Identity::from_pem(read("--cert", cert)?, read("--key", key)?));
    }
    Ok(Some(tls))
}

/// Connects to `url`; `token` says who asks.
///
/// # Errors
/// Exit code 6 when nobody answers, 2 when it is no URL or the token would travel in clear.
pub async fn wire(url: &str, token: Option<&Secret>, tls: Option<ClientTlsConfig>) -> Result<Wire> {
    if !url.contains("://") {
        return Err(coded(USAGE, format!("{url:?} is no coordinator's URL; it looks like http://host:7070")));
    }
    let mut endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|e| coded(USAGE, format!("{url:?} is no coordinator's URL ({e}); it looks like http://host:7070")))?
        .connect_timeout(Duration::from_secs(5))
        // Until an answer begins; a watch goes on. A coordinator that waits for its disk answers pings, but no questions.
        .timeout(ANSWER)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .tcp_nodelay(true);
    if let Some(tls) = tls {
        let bad = |e| coded(USAGE, format!("--ca, --cert or --key is of no use: {}", root(&e)));
        endpoint = endpoint.tls_config(tls).map_err(bad)?;
    }
    if token.is_some() && in_clear(endpoint.uri()) {
        let why =
            format!("{url}: the token would travel in clear; use https://, or unset MORPH_TOKEN and MORPH_TOKEN_FILE");
        return Err(coded(USAGE, why));
    }
    let bearer = |secret: &Secret| {
        let mut value: MetadataValue<Ascii> = format!("Bearer {}", secret.expose()).parse()?;
        value.set_sensitive(true);
        anyhow::Ok(value)
    };
    let bearer = token.map(bearer).transpose();
    let bearer = bearer.map_err(|_| coded(USAGE, "the token has characters that no token has: copy it again"))?;
    let silent = |e| coded(UNREACHABLE, format!("no coordinator answers at {url}: {}", root(&e)));
    let channel = endpoint.connect().await.map_err(silent)?;
    Ok(InterceptedService::new(channel, Bearer(bearer)))
}

/// `wire`, if who is at its other end serves; of several coordinators one does, and the others stand by.
async fn serves(url: &str, wire: Wire) -> Result<Wire> {
    let service = v1::coordinator_server::SERVICE_NAME.to_owned();
    match HealthClient::new(wire.clone()).check(HealthCheckRequest { service }).await {
        Ok(_) => Ok(wire),
        Err(status) if status.code() == Code::Unavailable => {
            Err(coded(UNREACHABLE, format!("{url}: {}", status.message())))
        }
        // What else is wrong with it, the question itself will say.
        Err(_) => Ok(wire),
    }
}

/// Whether it was the coordinator, or the way to it, that failed, and not the question.
pub fn is_away(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled)
}

/// What an error is about in the end.
fn root(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// The client at the other end of `wire`.
pub fn client(wire: Wire) -> Client {
    CoordinatorClient::new(wire).max_decoding_message_size(LARGEST).max_encoding_message_size(LARGEST)
}

impl Connection {
    /// Connects to whoever knows about the home.
    ///
    /// # Errors
    /// When nobody answers, or the home cannot be read.
    pub async fn open(global: &Global, purpose: Purpose) -> Result<Self> {
        if let Some(wire) = Self::serving(global).await? {
            return Ok(Self { client: client(wire.clone()), wire, embedded: None });
        }
        let home = home(global)?;
        let read_only = purpose == Purpose::Ask;
        if !home.join("state.db").exists() {
            let nothing = format!("nothing has run yet in {}", home.display());
            if purpose == Purpose::Change {
                return Err(coded(NOT_FOUND, nothing));
            }
            if !global.quiet {
                say!("{nothing}");
            }
        }
        Self::embed(global, Options { home, read_only, ..Options::default() }).await
    }

    /// Connects to whoever administers the home: when nobody serves it, this process does, and makes it if need be.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn administer(global: &Global) -> Result<Self> {
        if let Some(wire) = Self::serving(global).await? {
            return Ok(Self { client: client(wire.clone()), wire, embedded: None });
        }
        Self::embed(global, Options { home: home(global)?, ..Options::default() }).await
    }

    /// Serves the home in this process. If another one has just begun to, that is asked as soon as it says where it listens.
    async fn embed(global: &Global, options: Options) -> Result<Self> {
        let patience = Instant::now() + STARTING;
        let handle = loop {
            match morph_coordinator::start(options.clone()).await {
                Err(morph_coordinator::Error::HomeInUse { .. }) if Instant::now() < patience => {
                    if let Some(wire) = Self::serving(global).await? {
                        return Ok(Self { client: client(wire.clone()), wire, embedded: None });
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                started => break started?,
            }
        };
        let wire = wire(&handle.url(), Some(handle.owner()), None).await?;
        Ok(Self { client: client(wire.clone()), wire, embedded: Some(handle) })
    }

    /// The client for tokens.
    pub fn access(&self) -> AccessClient<Wire> {
        AccessClient::new(self.wire.clone())
    }

    /// A coordinator that runs now: the one that was named, or the home's.
    ///
    /// # Errors
    /// When the one that was named does not answer.
    pub async fn live(global: &Global) -> Result<Option<Client>> {
        Ok(Self::serving(global).await?.map(client))
    }

    async fn serving(global: &Global) -> Result<Option<Wire>> {
        let given = given(global)?;
        let home = home(global)?;
        // Its token is in what it has yet to say.
        let patience = Instant::now() + STARTING;
        while given.is_none() && morph_coordinator::starting(&home) && Instant::now() < patience {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let serving = morph_coordinator::serving(&home);
        let Some(urls) = &global.coordinator else {
            let Some(serving) = serving else { return Ok(None) };
            let (url, token) = (serving.url(), given.as_ref().or(serving.token.as_ref()));
            return wire(&url, token, encryption(&url, global)?).await.map(Some);
        };
        let mut all = urls.split(',').map(str::trim).peekable();
        let mut silent = Vec::new();
        while let Some(url) = all.next() {
            // The one that was named may well be the home's.
            let own = serving.as_ref().filter(|s| s.url() == url.trim_end_matches('/')).and_then(|s| s.token.as_ref());
            let found = async {
                let wire = wire(url, given.as_ref().or(own), encryption(url, global)?).await?;
                if urls.contains(',') { serves(url, wire).await } else { Ok(wire) }
            };
            match found.await {
                Ok(wire) => return Ok(Some(wire)),
                Err(e) if fail::code(&e) != UNREACHABLE => return Err(e),
                Err(e) if silent.is_empty() && all.peek().is_none() => return Err(e),
                Err(e) => silent.push(e.to_string()),
            }
        }
        Err(coded(UNREACHABLE, silent.join("; ")))
    }

    /// Waits until a coordinator serves again: the one that was there, or another that is named.
    ///
    /// # Errors
    /// When it would not let this client in.
    pub async fn again(global: &Global) -> Result<Client> {
        loop {
            tokio::time::sleep(AGAIN).await;
            match Self::live(global).await {
                Ok(Some(client)) => return Ok(client),
                Ok(None) => {}
                Err(e) if fail::code(&e) == UNREACHABLE => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Ends the coordinator in this process, if there is one.
    pub async fn close(self) {
        drop((self.client, self.wire));
        if let Some(handle) = self.embedded {
            handle.stop().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_and_tls_keep_a_token_to_themselves() {
        for (url, clear) in [
            ("http://127.0.0.1:7070", false),
            ("http://[::1]:7070", false),
            ("http://localhost:7070", false),
            ("https://head:7070", false),
            ("http://head:7070", true),
            ("http://10.0.0.7:7070", true),
            ("http://127.0.0.1.example.org", true),
            ("http://localhost.example.org", true),
        ] {
            assert_eq!(in_clear(&url.parse().unwrap()), clear, "{url}");
        }
    }
}
