//! Standing by: while another coordinator holds the lease of a shared database, this one listens and says who serves, and
//! asks for the lease again and again.

use std::time::{Duration, Instant};

use axum::{
    Router,
    body::Body,
    http::{Request, Response, StatusCode},
    routing::get,
};
use serde_json::json;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    time::sleep,
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Status, service::Routes, transport::Server};

use crate::{
    Error, FAREWELL, Opened,
    http::{Answer, not_ready},
    options::Postgres,
    seats::{SILENCE, seated},
    store::{
        Database,
        postgres::{Mark, Taken},
    },
    waiting,
};

/// Longest pause between two requests for the lease.
const PAUSE: Duration = Duration::from_secs(1);

/// Waits until the lease is ours. Meanwhile whoever connects to `listener` is told who serves, so many at a time.
pub(crate) async fn until_ours(
    postgres: &Postgres,
    builder: &Server,
    listener: &TcpListener,
    seats: usize,
) -> Result<Opened, Error> {
    let mut door: Option<Door> = None;
    let mut seen: Option<(Mark, Instant)> = None;
    loop {
        let asked = postgres.clone();
        // The server's clock may have been set back: what nobody has renewed for so long by this machine's own has run out.
        let dead = seen.filter(|(_, since)| since.elapsed() > postgres.lease).map(|(mark, _)| mark);
        let taken = waiting(move || asked.server.take_from(&asked.name, asked.lease, dead)).await;
        if let Ok(Taken::Held { mark, .. }) = &taken {
            seen = seen.filter(|(known, _)| known == mark).or(Some((*mark, Instant::now())));
        }
        match (taken, &door) {
            (Ok(Taken::Ours(writer, keyring)), _) => {
                if let Some(door) = door {
                    tracing::info!("the lease is ours: serving");
                    door.close().await;
                }
                let database = Database::Postgres(postgres.server.clone());
                return Ok(Opened { database, writer: Some((writer, keyring)) });
            }
            (Ok(Taken::Held { holder, .. }), None) => {
                tracing::info!("standing by: {holder} serves with {}", postgres.server.name());
                door = Some(Door::open(builder, listener, holder, seats)?);
            }
            (Ok(Taken::Held { holder, .. }), Some(door)) => door.say(holder),
            // Who stands by waits for a server that is away, as who serves does. At a start something else is wrong.
            (Err(e), Some(_)) => tracing::warn!("{e}; trying again"),
            (Err(e), None) => return Err(e.into()),
        }
        sleep(PAUSE.min(postgres.lease / 4)).await;
    }
}

/// What is heard at the port of a coordinator that stands by.
struct Door {
    holder: watch::Sender<String>,
    shut: oneshot::Sender<()>,
    server: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Door {
    fn open(builder: &Server, listener: &TcpListener, holder: String, seats: usize) -> Result<Self, Error> {
        // Both have the same queue of connections: none is lost when this one goes.
        let socket = std::os::fd::AsFd::as_fd(listener).try_clone_to_owned().map(std::net::TcpListener::from);
        let listener = socket.and_then(TcpListener::from_std).map_err(|source| {
            let address = listener.local_addr().unwrap_or_else(|_| ([0, 0, 0, 0], 0).into());
            Error::Listen { address, source }
        })?;
        let (holder, who) = watch::channel(holder);
        let why = move || format!("this coordinator stands by, {} serves", *who.borrow());
        let (ready, all) = (why.clone(), why);
        let routes = Router::new()
            .route("/healthz", get(async || Answer::json(StatusCode::OK, &json!({ "status": "ok" })).response()))
            .route("/readyz", get(move || async move { not_ready(&[ready()]).response() }))
            .fallback(move |_: Request<Body>| async move { closed(&all()) });
        let (shut, shutting) = oneshot::channel::<()>();
        let server = builder.clone().accept_http1(true).add_routes(Routes::from(routes));
        let incoming = seated(TcpListenerStream::new(listener), seats, SILENCE);
        let server = tokio::spawn(server.serve_with_incoming_shutdown(incoming, async {
            // Dropped or sent, it means the same.
            shutting.await.ok();
        }));
        Ok(Self { holder, shut, server })
    }

    fn say(&self, holder: String) {
        self.holder.send_if_modified(|known| {
            let other = *known != holder;
            *known = holder;
            other
        });
    }

    async fn close(self) {
        drop(self.shut);
        let abort = self.server.abort_handle();
        if tokio::time::timeout(FAREWELL, self.server).await.is_err() {
            abort.abort();
        }
    }
}

/// To whoever speaks gRPC: try another address, or later.
fn closed(why: &str) -> Response<Body> {
    Status::unavailable(why).into_http()
}
