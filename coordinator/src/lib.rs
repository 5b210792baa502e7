//! The shell around [`morph_control`]: one loop that owns the core, an SQLite file that remembers what happened, and the
//! gRPC services of `morph.v1`.
//!
//! Contract:
//! 1. An event is durable before anybody hears of it and before anything is done about it.
//! 2. A restart folds the events into the same state and repeats the orders that still hold.
//! 3. Nothing here is in the way of training: agents and ranks go on while the coordinator is away.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod auth;
mod clock;
mod core;
mod error;
mod fold;
mod home;
mod http;
mod metrics;
mod options;
mod orders;
pub mod parse;
pub mod restore;
mod seats;
mod services;
mod standby;
pub mod store;
mod tls;
#[cfg(test)]
mod transport;
pub mod upkeep;
mod view;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use morph_control::{Cluster, Command, Event, Policy, Project, WHOLE, What};
use morph_objects::Objects;
use morph_proto::v1::{
    access_server::AccessServer, agents_server::AgentsServer, coordinator_server::CoordinatorServer,
};
use morph_spec::{RunId, Timestamp};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::oneshot,
    task::JoinHandle,
};
use tokio_stream::{Stream, StreamExt, wrappers::TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{Server, server::Connected},
};

pub use error::Error;
pub use home::{Serving, serving, starting};
pub use options::{Options, Postgres, Tls};

use crate::{
    auth::{
        Scope,
        layer::{Gate, Gates, Proof},
        secret::Secret,
        tokens::Tokens,
    },
    clock::Source,
    core::{Core, Message, Setup},
    home::Lock,
    metrics::{Metrics, rpc::Counting},
    store::{Database, Keyring, Writer},
    view::Live,
};

/// The database of a home.
const DATABASE: &str = "state.db";
/// Largest message taken: an experiment or a batch of log lines is far below it.
const LARGEST: usize = 64 << 20;
/// Largest message taken from an agent, which keeps what its ranks say in one breath far below it. Two bytes on the wire can be
/// a hundred in memory.
const LARGEST_OF_AGENTS: usize = 8 << 20;
/// Requests open at a time on one connection.
const STREAMS: u32 = 1024;
/// How long open streams may take to end.
const FAREWELL: Duration = Duration::from_secs(2);

/// A coordinator that serves.
#[derive(Debug)]
pub struct Handle {
    address: SocketAddr,
    tls: bool,
    core: Core,
    stop: CancellationToken,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    /// Sends metrics to a collector.
    push: Option<JoinHandle<()>>,
    /// `None`: the loop has failed, and it was told.
    death: Option<oneshot::Receiver<store::Error>>,
    owner: Secret,
    tokens: Arc<Tokens>,
    /// Held as long as this serves.
    _lock: Option<Lock>,
}

/// Starts a coordinator; it listens when this returns.
///
/// # Errors
/// See [`Error`]; then nothing is left running or lying about.
pub async fn start(options: Options) -> Result<Handle, Error> {
    if !options.listen.ip().is_loopback() && options.tls.is_none() && !options.insecure {
        return Err(Error::NotLoopback { address: options.listen });
    }
    let mut builder = Server::builder();
    if let Some(files) = &options.tls {
        builder = builder.tls_config(tls::config(files)?).map_err(|e| tls::unusable(files, &e))?;
    }
    let listener = listen(options.listen).await?;
    let address = listener.local_addr().map_err(|source| Error::Listen { address: options.listen, source })?;
    let lock = if options.read_only { None } else { Some(Lock::take(&options.home)?) };
    let objects = options.objects.clone().unwrap_or_else(|| options.home.join("objects").display().to_string());
    let outputs = Objects::open(&objects)?.at("runs").url();

    let store = match &options.postgres {
        Some(postgres) => standby::until_ours(postgres, &builder, &listener, options.connections).await?,
        None => open(&options)?,
    };
    let database = store.database.clone();
    let (options, started) = waiting(move || {
        let started = begin(&options, store, outputs);
        (options, started)
    })
    .await;
    let Begun { core, death, metrics, tokens } = started?;
    let tokens = Arc::new(tokens);
    let owner = tokens.passing("owner", Scope::Admin)?;
    let stop = CancellationToken::new();
    if !options.read_only {
        let (home, policy, every) = (options.home.clone(), policy(&options), options.snapshot_every);
        tokio::spawn(fold::keep(home, database.clone(), policy, every, stop.clone()));
    }
    let pages = http::Pages::new(core.clone(), metrics, database.clone());
    let push = (!options.read_only).then(|| tokio::spawn(pages.clone().push(stop.clone())));
    // What the builder is told of sockets counts only for those that it opens itself.
    let incoming = TcpListenerStream::new(listener).map(|peer| peer.inspect(|peer| drop(peer.set_nodelay(true))));
    let incoming = seats::seated(incoming, options.connections, seats::SILENCE);
    let server = serve(&options, builder, incoming, pages, database, tokens.clone(), stop.clone()).await;
    if let Some(lock) = &lock {
        let (address, pid) = (address.to_string(), std::process::id());
        let token = (!options.insecure).then(|| owner.clone());
        lock.announce(&Serving {
            address,
            pid,
            version: env!("CARGO_PKG_VERSION").into(),
            tls: options.tls.is_some(),
            token,
        })?;
    }
    let tls = options.tls.is_some();
    Ok(Handle { address, tls, core, stop, server, push, death: Some(death), owner, tokens, _lock: lock })
}

async fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => Error::PortInUse { address },
        _ => Error::Listen { address, source },
    })
}

/// Does on a thread that may wait what waits for the disk or the network.
async fn waiting<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(job).await {
        Ok(done) => done,
        // It is never aborted.
        Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
    }
}

/// What remembers.
struct Opened {
    database: Database,
    /// `None`: read only.
    writer: Option<(Box<dyn Writer>, Box<dyn Keyring>)>,
}

/// The database of the home.
fn open(options: &Options) -> Result<Opened, Error> {
    let path = options.home.join(DATABASE);
    let writer = if options.read_only { None } else { Some((store::open(&path)?, store::keyring(&path)?)) };
    Ok(Opened { database: Database::sqlite(&path), writer })
}

/// What runs before anything is served.
struct Begun {
    core: Core,
    death: oneshot::Receiver<store::Error>,
    metrics: Arc<Metrics>,
    tokens: Tokens,
}

fn begin(options: &Options, opened: Opened, outputs: String) -> Result<Begun, Error> {
    let (writer, tokens) = match opened.writer {
        Some((writer, keyring)) => (Some(writer), Tokens::open(keyring)?),
        None => (None, Tokens::none()),
    };
    let setup = set_up(options, &opened.database, writer, outputs)?;
    let metrics = setup.metrics.clone();
    let (core, death) =
        core::start(setup).map_err(|source| Error::Home { action: "serve", path: options.home.clone(), source })?;
    Ok(Begun { core, death, metrics, tokens })
}

/// The state, folded from the database.
fn set_up(
    options: &Options,
    database: &Database,
    store: Option<Box<dyn Writer>>,
    outputs: String,
) -> Result<Setup, Error> {
    let mut cluster = Cluster::new(policy(options));
    let mut live: BTreeMap<RunId, Live> = BTreeMap::new();
    let (mut traces, mut acks, mut at) = (BTreeMap::new(), BTreeMap::new(), Timestamp(0));
    // Who only looks at a home in which nothing has run yet sees nothing.
    if database.exists() {
        let mut reader = database.read()?;
        let fold = fold::load(&options.home, reader.as_mut(), &cluster.policy)?;
        (cluster, at) = (fold.cluster, fold.at);
        live.extend(fold.ledgers.into_iter().map(|(run, ledger)| (run, Live { ledger, ..Live::default() })));
        if options.read_only {
            // Not recorded: whoever was connected when the last coordinator went is not now.
            morph_control::evolve(&mut cluster, &Event::new(at, What::CoordinatorStarted {}));
        }
        reader.latest(None, &mut |run, point, total| {
            // Only of runs that are known; a database that was mended by hand may have others.
            if let Some(known) = live.get_mut(&run) {
                known.seconds(&point.name, total);
                known.step = known.step.max(point.step);
                known.latest.insert(point.name, (point.step, point.value));
            }
        })?;
        traces.extend(reader.traces()?);
        acks.extend(reader.acks()?.into_iter().map(|(worker, incarnation, seq)| (worker, (incarnation, seq))));
    }
    Ok(Setup {
        cluster,
        store,
        acks,
        live,
        outputs,
        heartbeat: options.heartbeat,
        metrics: Arc::default(),
        traces,
        at,
        source: Source::default(),
    })
}

/// The limits of the core.
fn policy(options: &Options) -> Policy {
    let limits = Policy { grace: options.grace, stop_timeout: options.stop_timeout, ..Policy::default() };
    let Some(cluster) = &options.cluster else { return limits };
    let project = |p: &morph_spec::cluster::Project| Project {
        weight: p.weight,
        slots: p.slots.map(|slots| (slots * f64::from(WHOLE)) as u64),
        runs: p.runs,
        max_priority: p.max_priority,
    };
    let policy = &cluster.policy;
    Policy {
        aging: policy.aging.0,
        preemption: policy.preemption,
        backfill: policy.backfill as usize,
        backoff: policy.backoff.0,
        backoff_max: policy.backoff_max.0,
        losses: policy.losses,
        worker_breaker: policy.worker_breaker,
        sweep_breaker: policy.sweep_breaker,
        projects: cluster.projects.iter().map(|(name, p)| (name.clone(), project(p))).collect(),
        ..limits
    }
}

/// Serves whoever comes in.
async fn serve<IO>(
    options: &Options,
    builder: Server,
    incoming: impl Stream<Item = io::Result<IO>> + Send + 'static,
    pages: http::Pages,
    database: Database,
    tokens: Arc<Tokens>,
    stop: CancellationToken,
) -> JoinHandle<Result<(), tonic::transport::Error>>
where
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let (core, metrics) = (pages.core.clone(), pages.metrics.clone());
    let agents = services::agents::Agents {
        core: core.clone(),
        patience: options.grace.max(options.heartbeat * 3),
        read_only: options.read_only,
        stop: stop.clone(),
    };
    let people = services::coordinator::Coordinator {
        core,
        database,
        urls: options.urls(),
        stop: stop.clone(),
        gallery: Arc::default(),
    };
    let agents = AgentsServer::new(agents).max_decoding_message_size(LARGEST_OF_AGENTS);
    let people = CoordinatorServer::new(people).max_decoding_message_size(LARGEST);
    let access = AccessServer::new(services::access::Access { tokens: tokens.clone(), core: pages.core.clone() });
    let proof = match (&options.tls, options.insecure) {
        (_, true) => Proof::None,
        (Some(_), false) => Proof::Tls,
        (None, false) => Proof::Tokens,
    };
    let gates = Gates(Arc::new(Gate::new(tokens, proof, options.limits)));
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<AgentsServer<services::agents::Agents>>().await;
    reporter.set_serving::<CoordinatorServer<services::coordinator::Coordinator>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(morph_proto::FILE_DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("invariant: the descriptors were made by the build");
    let mut routes = Routes::builder();
    routes.add_service(health).add_service(reflection).add_service(access).add_service(agents).add_service(people);
    let routes = Routes::from(routes.routes().into_axum_router().merge(pages.router()));
    let server = builder
        // For curl and Prometheus; gRPC needs HTTP/2 in any case.
        .accept_http1(true)
        .layer(Counting(metrics))
        .layer(gates)
        .max_concurrent_streams(STREAMS)
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .add_routes(routes);
    tokio::spawn(server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()))
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Attempts that had not stopped when time was up.
    pub unfinished: usize,
}

impl Handle {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://host:port` or `https://host:port`.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }

    /// A token of scope admin that ends with this coordinator.
    pub fn owner(&self) -> &Secret {
        &self.owner
    }

    /// A new token for an agent, which ends with this coordinator.
    ///
    /// # Errors
    /// When the kernel has no randomness to give.
    pub fn agent_token(&self) -> Result<Secret, Error> {
        Ok(self.tokens.passing("local-agent", Scope::Agent)?)
    }

    /// Waits until the coordinator cannot go on: its database failed, or its loop.
    pub async fn failed(&mut self) -> Error {
        let Some(death) = &mut self.death else { return std::future::pending().await };
        let death = death.await;
        self.death = None;
        // The loop ends without a word only when nobody can speak to it any more, and this handle can; or in a panic.
        death.map_or(Error::Loop, Into::into)
    }

    /// Stops all attempts with a checkpoint, so that their runs are queued again, waits at most `limit` for that, and tells
    /// all agents to leave.
    pub async fn drain(&self, limit: Duration) -> Drained {
        let until = Instant::now() + limit;
        let reason = "the coordinator is stopping".to_owned();
        // Each step below is best effort: when the loop is gone there is nothing left to stop.
        self.core.command(Command::Drain { reason: reason.clone() }).await.ok();
        let unfinished = self.wait(until, |v| v.cluster.live().count()).await;
        self.core.send(Message::Dismiss(reason)).await.ok();
        self.wait(Instant::now() + FAREWELL, |v| v.connected).await;
        Drained { unfinished }
    }

    /// Waits until `count` is 0; what it is in the end.
    async fn wait(&self, until: Instant, count: impl Fn(&view::View<'_>) -> usize + Send + Copy + 'static) -> usize {
        loop {
            let left = self.core.ask(count).await.unwrap_or(0);
            if left == 0 || Instant::now() >= until {
                return left;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops serving. Running ranks go on and their agents wait for the next coordinator.
    pub async fn stop(self) {
        self.stop.cancel();
        let abort = self.server.abort_handle();
        if tokio::time::timeout(FAREWELL, self.server).await.is_err() {
            abort.abort();
        }
        // The loop ends when nobody can speak to it any more, and gives up its right to write.
        drop(self.core);
        if let Some(death) = self.death {
            tokio::time::timeout(FAREWELL, death).await.ok();
        }
        if let Some(push) = self.push {
            tokio::time::timeout(FAREWELL, push).await.ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_loop_that_panics_is_no_coordinator_any_more() {
        let home = tempfile::tempdir().unwrap();
        let options = Options { home: home.path().to_owned(), ..Options::default() };
        let mut handle = start(options).await.unwrap();
        let still = tokio::time::timeout(Duration::from_millis(200), handle.failed()).await;
        assert!(still.is_err(), "{still:?}");
        let broken: core::Question = Box::new(|_| panic!("on purpose"));
        handle.core.send(Message::Ask(broken)).await.unwrap();
        let error = tokio::time::timeout(Duration::from_secs(20), handle.failed()).await.unwrap();
        assert!(matches!(error, Error::Loop), "{error}");
        handle.stop().await;
    }
}
