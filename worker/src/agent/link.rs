//! The connection to the coordinator: opened again and again, for ever, with growing pauses.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

use morph_proto::v1::{SessionRequest, SessionResponse, agents_client::AgentsClient};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Endpoint};

/// First pause.
const FIRST: Duration = Duration::from_millis(100);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(5);
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
}

/// Keeps a session with the coordinator at `url` open and passes on what happens, until the receiver is gone.
///
/// # Errors
/// When `url` is no URL.
pub fn start(url: &str) -> Result<mpsc::Receiver<Event>, String> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|e| format!("{url:?} is no coordinator URL ({e}); it looks like http://host:7070"))?
        .connect_timeout(Duration::from_secs(5))
        // A connection whose other end vanished must be noticed: without this tonic waits on it for ever.
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    let (events, receiver) = mpsc::channel(256);
    let url = url.to_owned();
    tokio::spawn(async move {
        let mut pauses = Pauses::default();
        let mut mentioned: Option<Instant> = None;
        while !events.is_closed() {
            let mut welcomed = false;
            let why = match session(&endpoint, &events, &mut welcomed).await {
                Ok(()) => "it closed the connection".to_owned(),
                Err(status) if is_final(status.code()) => {
                    drop(events.send(Event::Refused(status.message().to_owned())).await);
                    return;
                }
                Err(status) => status.message().to_owned(),
            };
            if welcomed {
                pauses = Pauses::default();
                mentioned = None;
            }
            if events.send(Event::Down).await.is_err() {
                return;
            }
            if mentioned.is_none_or(|at| at.elapsed() >= MENTION) {
                tracing::warn!("no coordinator at {url}: {why}; trying again every few seconds, running ranks go on");
                mentioned = Some(Instant::now());
            }
            sleep(pauses.next()).await;
        }
    });
    Ok(receiver)
}

async fn session(endpoint: &Endpoint, events: &mpsc::Sender<Event>, welcomed: &mut bool) -> Result<(), Status> {
    let channel = endpoint.connect().await.map_err(|e| Status::unavailable(root(&e)))?;
    let (sender, requests) = mpsc::channel(64);
    if events.send(Event::Up(sender)).await.is_err() {
        return Ok(());
    }
    // A backlog of reports may be large; single messages are not, but manifests of big datasets may be.
    let mut client = AgentsClient::new(channel).max_decoding_message_size(256 << 20);
    let mut responses = client.session(ReceiverStream::new(requests)).await?.into_inner();
    while let Some(message) = responses.message().await? {
        *welcomed = true;
        if events.send(Event::Message(Box::new(message))).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Whether trying again is no use: versions that do not fit, no rights, no such service.
fn is_final(code: Code) -> bool {
    matches!(
        code,
        Code::FailedPrecondition
            | Code::InvalidArgument
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::Unimplemented
    )
}

fn root(e: &dyn std::error::Error) -> String {
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
    fn nonsense_is_no_url() {
        assert!(start("not a url").unwrap_err().contains("http://"));
    }
}
