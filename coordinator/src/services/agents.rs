//! The agents' side: one session stream per agent.

use std::{
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use morph_proto::v1::{SessionRequest, SessionResponse, agents_server, session_request::Message as Said};
use morph_spec::WorkerId;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    auth::certificate,
    core::{Core, End, Message, preparing::Preparing},
    parse,
};

/// How long an agent may take to introduce itself.
const INTRODUCTION: Duration = Duration::from_secs(10);
/// How many orders may wait for an agent that does not read.
const ORDERS: usize = 4096;

/// Silence is counted in so many parts: one in which this process itself was stopped counts as one, however long it took. What agents
/// said meanwhile is read after it.
const SLICES: u32 = 8;

static SESSIONS: AtomicU64 = AtomicU64::new(1);

/// The service.
#[derive(Debug, Clone)]
pub struct Agents {
    /// The loop.
    pub core: Core,
    /// Longest silence.
    pub patience: Duration,
    /// No agent is let in.
    pub read_only: bool,
    /// Ends all sessions.
    pub stop: CancellationToken,
}

#[tonic::async_trait]
impl agents_server::Agents for Agents {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<SessionResponse, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        if self.read_only {
            return Err(Status::failed_precondition(
                "this coordinator only answers questions, it has no work for agents",
            ));
        }
        let certificate = certified(&request);
        let mut requests = request.into_inner();
        let first = timeout(INTRODUCTION, requests.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the agent did not say hello"))??;
        let Some(Said::Hello(hello)) = first.and_then(|m| m.message) else {
            return Err(Status::invalid_argument("the first message of a session must be hello"));
        };
        fits(&hello.version)?;
        let hello = parse::hello(&hello, certificate).map_err(Status::invalid_argument)?;
        let (orders, stream) = mpsc::channel(ORDERS);
        let worker = hello.worker;
        let session = SESSIONS.fetch_add(1, Ordering::Relaxed);
        self.core.send(Message::Opened { hello: Box::new(hello), session, orders }).await?;
        let listener = self.clone();
        tokio::spawn(async move {
            let end = tokio::select! {
                end = listener.listen(&mut requests, worker, session) => end,
                () = listener.stop.cancelled() => Some(End::Broken),
            };
            if let Some(end) = end {
                // Without a loop there is nobody to tell.
                listener.core.send(Message::Closed { worker, session, end }).await.ok();
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

impl Agents {
    /// Passes on what the agent says, until the session ends; `None` when the loop has.
    async fn listen(&self, requests: &mut Streaming<SessionRequest>, worker: WorkerId, session: u64) -> Option<End> {
        let slice = self.patience / SLICES;
        let mut silent = 0;
        loop {
            let message = match timeout(slice, requests.message()).await {
                Err(_) if silent + 1 >= SLICES => return Some(End::Silent),
                Err(_) => {
                    silent += 1;
                    continue;
                }
                Ok(Err(status)) => {
                    tracing::debug!(%worker, "session: {status}");
                    return Some(End::Broken);
                }
                Ok(Ok(None)) => return Some(End::Clean),
                Ok(Ok(Some(message))) => message,
            };
            silent = 0;
            let message = match message.message {
                Some(Said::Report(report)) => {
                    if let Err(why) = parse::seq(&report) {
                        tracing::warn!(%worker, "an agent does not count as agents do; its session is closed: {why}");
                        return Some(End::Broken);
                    }
                    let said = match report.report.map(parse::report) {
                        Some(Ok(said)) => said,
                        Some(Err(why)) => {
                            tracing::warn!(%worker, seq = report.seq, "a report makes no sense and is dropped: {why}");
                            parse::Said::Nothing
                        }
                        None => parse::Said::Nothing,
                    };
                    Message::Said { worker, session, seq: report.seq, said: Box::new(said) }
                }
                Some(Said::Shard(report)) => match parse::shard(report) {
                    Ok((key, shard, said, notes)) => {
                        Message::Preparing(Box::new(Preparing::Said { worker, session, key, shard, said, notes }))
                    }
                    Err(why) => {
                        tracing::warn!(%worker, "a report of a shard makes no sense and is dropped: {why}");
                        Message::Heard(worker)
                    }
                },
                Some(Said::Heartbeat(_)) | Some(Said::Hello(_)) | None => Message::Heard(worker),
            };
            self.core.send(message).await.ok()?;
        }
    }
}

/// The name in the certificate of the connection; empty: it has none.
fn certified<T>(request: &Request<T>) -> String {
    let certificates = request.peer_certs();
    let leaf = certificates.as_ref().and_then(|all| all.first());
    leaf.and_then(|leaf| certificate::identity(leaf)).map(|(_, name)| name).unwrap_or_default()
}

/// Whether an agent of `version` can work with this coordinator.
fn fits(version: &str) -> Result<(), Status> {
    let own = env!("CARGO_PKG_VERSION");
    let series = |v: &str| v.splitn(3, '.').take(2).map(str::to_owned).collect::<Vec<_>>();
    if series(version) == series(own) {
        return Ok(());
    }
    let why =
        format!("the agent's version {version:?} does not fit the coordinator's {own}: install the same morph on both");
    Err(Status::failed_precondition(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_one_series_fit() {
        let own = env!("CARGO_PKG_VERSION");
        assert!(fits(own).is_ok());
        assert!(fits(&format!("{}.99", own.rsplit_once('.').unwrap().0)).is_ok());
        assert!(fits(&format!("{own}+0123456789ab.dirty")).is_ok(), "of one version, whatever the commit");
        assert!(fits("99.0.0").unwrap_err().message().contains("99.0.0"));
        assert!(fits("").is_err());
    }
}
