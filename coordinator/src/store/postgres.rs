//! The database as a PostgreSQL server that several coordinators share: one writes, the others stand by.
//!
//! Who writes holds the lease, a row with an epoch and a time by the server's clock. Every transaction asks for the epoch and
//! moves the time; who takes over raises the epoch. So whatever a coordinator that was thought dead still sends is refused
//! by the database itself, whether it was stopped, cut off, or its clock is wrong.
//!
//! Its tables lie in the schema `morph`, one cluster in a database. Nothing here may be called from within a runtime.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use postgres::{
    Client, Config,
    config::{Host, SslMode},
};

use super::{
    Error, Keyring, Writer,
    copy::{Put, Table},
};

mod connect;
mod fill;
mod keys;
mod read;
mod tables;
mod write;

use tables::VERSION;

/// Connections that are kept for the next reader.
const IDLE: usize = 4;

/// Which server, and how one gets there; cheap to clone.
#[derive(Clone)]
pub struct Server {
    config: Arc<Config>,
    tls: Arc<rustls::ClientConfig>,
    /// Without secrets.
    name: Arc<str>,
    idle: Arc<Mutex<Vec<Session>>>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").field(&self.name).finish()
    }
}

/// Why a server cannot be used as it is given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BadServer {
    /// The URL.
    #[error("the database's URL: {0}; it looks like postgresql://user@host:5432/morph")]
    Url(String),
    /// The authority's certificate.
    #[error("--database-ca {}: {why}", path.display())]
    Ca {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// What comes of asking for the lease.
#[derive(Debug)]
pub enum Taken {
    /// This coordinator writes now.
    Ours(Box<dyn Writer>, Box<dyn Keyring>),
    /// Somebody else does.
    Held {
        /// Who.
        holder: String,
        /// The lease as it is now: whoever holds it changes it again and again.
        mark: Mark,
    },
}

/// A lease at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    epoch: i64,
    /// Microseconds by the server's clock, which may have been set since.
    until: i64,
}

/// A connection. Ending one waits for the network, so that is done by a thread on which waiting is allowed.
struct Session(Option<Client>);

impl Session {
    fn client(&mut self) -> &mut Client {
        self.0.as_mut().expect("invariant: it is taken out only when it is dropped")
    }

    fn closed(&self) -> bool {
        self.0.as_ref().is_none_or(Client::is_closed)
    }

    /// Whether the server answers on it: a connection that rested does not know that it broke.
    fn works(&mut self) -> bool {
        self.client().is_valid(Duration::from_secs(2)).is_ok()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Session")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let client = self.0.take();
        // Where no thread is to be had, the server notices by itself.
        drop(thread::Builder::new().name("goodbye".into()).spawn(move || drop(client)));
    }
}

impl Server {
    /// The server at `url` (`postgresql://user@host:5432/morph`). `ca`: whose certificates to believe; `None`: those that
    /// this machine believes.
    ///
    /// # Errors
    /// When that makes no sense.
    pub fn new(url: &str, ca: Option<&Path>) -> Result<Self, BadServer> {
        let (config, name) = connect::config(url).map_err(BadServer::Url)?;
        let tls =
            connect::tls(ca).map_err(|why| BadServer::Ca { path: ca.map(Path::to_owned).unwrap_or_default(), why })?;
        Ok(Self { config: config.into(), tls: tls.into(), name: name.into(), idle: Arc::default() })
    }

    /// Host, port and database.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn fail(&self, action: &'static str) -> impl Fn(postgres::Error) -> Error + '_ {
        move |e| Error::Postgres { action, server: self.name.to_string(), why: connect::explain(&e) }
    }

    /// A new connection; `patience`: how long the other end may be silent on it.
    fn connect(&self, patience: Duration) -> Result<Session, postgres::Error> {
        let mut config = Config::clone(&self.config);
        config
            .application_name("morph")
            .connect_timeout(patience)
            .tcp_user_timeout(patience)
            .keepalives_idle(patience)
            // Whole seconds, to the kernel.
            .keepalives_interval((patience / 4).max(Duration::from_secs(1)))
            .keepalives_retries(3);
        let tls = tokio_postgres_rustls::MakeRustlsConnect::new(rustls::ClientConfig::clone(&self.tls));
        let mut client = config.connect(tls)?;
        client.batch_execute("SET search_path TO morph; SET client_min_messages TO warning")?;
        Ok(Session(Some(client)))
    }

    /// Asks for the right to write, in the name of `holder`, for `lease` at a time. Makes the tables when they are not there.
    ///
    /// # Errors
    /// When the server cannot be used, or a newer morph wrote the tables.
    pub fn take(&self, holder: &str, lease: Duration) -> Result<Taken, Error> {
        self.take_from(holder, lease, None)
    }

    /// As [`Self::take`], also when the lease is still as `dead`: nobody has changed it for so long that its holder must be gone,
    /// whatever the server's clock says.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn take_from(&self, holder: &str, lease: Duration, dead: Option<Mark>) -> Result<Taken, Error> {
        write::take(self, holder, lease, dead)
    }

    /// Fills it, when it holds nothing, with what `rows` hands over of each table; how many rows each has. All of it, or
    /// none.
    pub(super) fn fill(
        &self,
        holder: &str,
        rows: &mut dyn FnMut(&Table, &mut Put<'_>) -> Result<(), Error>,
    ) -> Result<Vec<(&'static str, u64)>, Error> {
        fill::fill(self, holder, rows)
    }

    /// Opens it for reading only.
    pub(super) fn read(&self) -> Result<read::Reading, Error> {
        let mut known = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let session = match known.take_if(|session| session.works()) {
            Some(session) => session,
            None => self.connect(Duration::from_secs(10)).map_err(self.fail("connect to"))?,
        };
        Ok(read::Reading::new(session, self.clone()))
    }

    /// Takes back what a reader no longer needs.
    fn put_back(&self, session: Session) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE && !session.closed() {
            idle.push(session);
        }
    }

    pub(super) fn writable(&self) -> Result<(), Error> {
        self.read()?.writable()
    }

    pub(super) fn size(&self) -> Option<u64> {
        self.read().ok()?.size().ok()
    }
}

/// Whether `host` is this machine.
fn here(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(host) => host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
    }
}

/// What PostgreSQL's text cannot hold is shown instead: U+2400 for NUL.
pub(super) fn text(text: &str) -> String {
    text.replace('\0', "\u{2400}")
}

/// PostgreSQL's integers are signed; what is beyond lies in the future.
fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
