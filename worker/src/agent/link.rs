//! The connection to the coordinator: opened again and again, for ever, with growing pauses. `coordinator/src/transport` has
//! this very file in a network that fails.

use std::{
    error::Error,
    fmt, fs,
    hash::{BuildHasher, Hasher, RandomState},
    path::PathBuf,
    time::Duration,
};

use morph_proto::v1::{SessionRequest, SessionResponse, agents_client::AgentsClient};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};

use super::dial::dial;

/// First pause.
const FIRST: Duration = Duration::from_millis(100);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(5);
/// How long a coordinator may take for its first word: one that is stuck takes connections and says nothing.
const WELCOME: Duration = Duration::from_secs(20);
/// How often a coordinator that stays away is mentioned.
const MENTION: Duration = Duration::from_secs(30);

/// What happens on the link.
#[derive(Debug)]
pub enum Event {
    /// A connection is there: say Hello first.
    Up(mpsc::Sender<SessionRequest>),
    /// The coordinator said something.
    Message(Box<SessionResponse>),
    /// The connection is gone; another try follows.
    Down,
    /// The coordinator will never take this agent: its words.
    Refused(String),
    /// Another agent with this one's id has joined since: the coordinator's words.
    Replaced(String),
}

/// How this agent proves who it is.
#[derive(Clone, Default)]
pub struct Proof {
    /// A token of scope agent, where the coordinator has no TLS.
    pub token: Option<String>,
    /// Certificates, where it has.
    pub tls: Option<Tls>,
}

/// Files in PEM. They are read at each try to connect, so that new ones need no restart.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Certificates of the authorities that vouch for the coordinator.
    pub ca: PathBuf,
    /// This agent's certificate, of kind agent.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Tls {
    fn config(&self) -> Result<ClientTlsConfig, String> {
        let read = |option, path: &PathBuf| fs::read(path).map_err(|e| format!("{option} {}: {e}", path.display()));
        let identity = Identity::from_pem(read("--cert", &self.cert)?, read("--key", &self.key)?);
        Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("--ca", &self.ca)?)).identity(identity))
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proof").field("token", &self.token.as_ref().map(|_| "…")).field("tls", &self.tls).finish()
    }
}

impl Proof {
    fn bearer(&self) -> Result<Option<MetadataValue<Ascii>>, String> {
        let Some(token) = &self.token else { return Ok(None) };
        let value = format!("Bearer {}", token.trim()).parse::<MetadataValue<Ascii>>();
        let mut value = value.map_err(|_| "the token has characters that no token has: copy it again".to_owned())?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// Keeps a session with the coordinator open and passes on what happens, until the receiver is gone. `urls`: where it may be,
/// with commas between; of several one serves, and the others stand by.
///
/// # Errors
/// When one of `urls` is no URL, or `proof` is of no use.
pub fn start(urls: &str, proof: &Proof) -> Result<mpsc::Receiver<Event>, String> {
    let bearer = proof.bearer()?;
    let all: Vec<Place> = urls.split(',').map(|url| Place::new(url.trim(), proof)).collect::<Result<_, _>>()?;
    let (events, receiver) = mpsc::channel(256);
    let urls = urls.to_owned();
    tokio::spawn(async move {
        let mut known = false;
        let mut pauses = Pauses::default();
        let mut mentioned: Option<Instant> = None;
        // Who served and fell silent is asked last: a machine that is stuck takes connections and says nothing.
        let mut at = 0;
        let mut tried = 0;
        while !events.is_closed() {
            let mut welcomed = false;
            let why = match session(&all[at], bearer.as_ref(), &events, &mut welcomed).await {
                Ok(()) => "it closed the connection".to_owned(),
                Err(status) if status.code() == Code::Aborted => {
                    drop(events.send(Event::Replaced(status.message().to_owned())).await);
                    return;
                }
                Err(status) if is_final(status.code(), known || welcomed) => {
                    drop(events.send(Event::Refused(status.message().to_owned())).await);
                    return;
                }
                // A certificate that the coordinator does not take is a cause deep below "transport error".
                Err(status) if status.source().is_some() => root(&status),
                Err(status) => status.message().to_owned(),
            };
            if events.send(Event::Down).await.is_err() {
                return;
            }
            known |= welcomed;
            if welcomed {
                (pauses, mentioned, tried) = (Pauses::default(), None, 0);
            }
            tried += 1;
            at = (at + 1) % all.len();
            if tried % all.len() != 0 {
                continue;
            }
            if mentioned.is_none_or(|at| at.elapsed() >= MENTION) {
                tracing::warn!("no coordinator at {urls}: {why}; trying again every few seconds, running ranks go on");
                mentioned = Some(Instant::now());
            }
            sleep(pauses.next()).await;
        }
    });
    Ok(receiver)
}

/// Where a coordinator may be.
#[derive(Debug)]
struct Place {
    endpoint: Endpoint,
    tls: Option<Tls>,
}

impl Place {
    fn new(url: &str, proof: &Proof) -> Result<Self, String> {
        let endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|e| format!("{url:?} is no coordinator URL ({e}); it looks like http://host:7070"))?
            .connect_timeout(Duration::from_secs(5))
            // A connection whose other end vanished must be noticed: without this tonic waits on it for ever.
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true)
            .tcp_nodelay(true);
        if proof.token.is_some() && in_clear(endpoint.uri()) {
            return Err(format!(
                "{url}: the token would travel in clear; use https:// and a certificate (--ca, --cert, --key)"
            ));
        }
        let tls = match (endpoint.uri().scheme_str(), &proof.tls) {
            (Some("https"), None) => {
                return Err(format!(
                    "{url}: say --ca, --cert and --key: the authority's certificate, and this agent's (morphctl certs issue --kind agent)"
                ));
            }
            (Some("https"), Some(tls)) => {
                // What is wrong from the start is said at once.
                tls.config()?;
                Some(tls.clone())
            }
            _ => None,
        };
        Ok(Self { endpoint, tls })
    }
}

/// Whether what is sent to `uri` can be read on its way.
fn in_clear(uri: &tonic::transport::Uri) -> bool {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let here = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    uri.scheme_str() != Some("https") && !here
}

async fn session(
    place: &Place,
    bearer: Option<&MetadataValue<Ascii>>,
    events: &mpsc::Sender<Event>,
    welcomed: &mut bool,
) -> Result<(), Status> {
    let endpoint = match &place.tls {
        Some(tls) => {
            let config = tls.config().map_err(Status::unavailable)?;
            place.endpoint.clone().tls_config(config).map_err(|e| Status::unavailable(root(&e)))?
        }
        None => place.endpoint.clone(),
    };
    let channel = dial(&endpoint).await.map_err(|e| Status::unavailable(root(&e)))?;
    let (sender, requests) = mpsc::channel(64);
    if events.send(Event::Up(sender)).await.is_err() {
        return Ok(());
    }
    // A backlog of reports may be large; single messages are not, but manifests of big datasets may be.
    let mut client = AgentsClient::new(channel).max_decoding_message_size(256 << 20);
    let mut request = Request::new(ReceiverStream::new(requests));
    if let Some(bearer) = bearer {
        request.metadata_mut().insert("authorization", bearer.clone());
    }
    let silent = |_| Status::unavailable("it takes connections and says nothing");
    let mut responses = timeout(WELCOME, client.session(request)).await.map_err(silent)??.into_inner();
    loop {
        let next = responses.message();
        let message = if *welcomed { next.await? } else { timeout(WELCOME, next).await.map_err(silent)?? };
        let Some(message) = message else { break };
        *welcomed = true;
        if events.send(Event::Message(Box::new(message))).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Whether trying again is no use: versions that do not fit; no rights, or no such service, unless the coordinator has `known` this
/// agent. For those are also the words of what stands before it while it is replaced (404, 403), and of a token that has run out: no
/// cause to end ranks.
fn is_final(code: Code, known: bool) -> bool {
    match code {
        Code::FailedPrecondition | Code::InvalidArgument => true,
        Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented => !known,
        _ => false,
    }
}

fn root(e: &dyn Error) -> String {
    let mut e = e;
    while let Some(source) = e.source() {
        e = source;
    }
    e.to_string()
}

/// Growing pauses with jitter, so that a thousand agents do not come back in the same instant.
#[derive(Debug)]
struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Pauses {
    fn next(&mut self) -> Duration {
        let full = self.0;
        self.0 = (full * 2).min(LONGEST);
        let random = RandomState::new().build_hasher().finish();
        full.mul_f64(0.5 + (random >> 11) as f64 / (1u64 << 54) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_vary() {
        let mut pauses = Pauses::default();
        let all: Vec<Duration> = (0..20).map(|_| pauses.next()).collect();
        assert!(all[0] >= FIRST / 2 && all[0] <= FIRST);
        assert!(all[19] >= LONGEST / 2 && all[19] <= LONGEST, "{all:?}");
        assert!(all[10..].windows(2).any(|w| w[0] != w[1]));
    }

    #[test]
    fn a_token_is_not_sent_in_clear_and_not_shown() {
        let proof = Proof { token: Some("morph_secret".into()), tls: None };
        assert!(!format!("{proof:?}").contains("secret"));
        let refused = start("http://10.0.0.7:7070", &proof).unwrap_err();
        assert!(refused.contains("in clear") && !refused.contains("secret"), "{refused}");
    }

    #[test]
    fn who_was_welcome_is_not_sent_away_by_what_stands_before_the_coordinator() {
        for code in [Code::Unauthenticated, Code::PermissionDenied, Code::Unimplemented] {
            assert!(is_final(code, false) && !is_final(code, true), "{code:?}");
        }
        assert!(is_final(Code::FailedPrecondition, true) && is_final(Code::InvalidArgument, true));
        assert!(!is_final(Code::Unavailable, false));
    }

    #[test]
    fn nonsense_is_no_url() {
        assert!(start("not a url", &Proof::default()).unwrap_err().contains("http://"));
    }
}
