//! The database: one SQLite file, or a PostgreSQL that several coordinators share, of which one at a time may write. Events
//! are the truth; metrics and log lines lie beside them because they are many.
//!
//! Everything that one turn of the core's loop brings is one transaction: after [`Writer::commit`] it survives a power cut.

use std::{
    fmt::Debug,
    path::{Path, PathBuf},
    sync::mpsc::{SyncSender, sync_channel},
};

use morph_control::{Event, Target};
use morph_spec::{Fence, RunId, WorkerId};

mod copy;
pub mod postgres;
mod sqlite;

pub use copy::copy;

/// Events that are handed over at a time when all are read.
const CHUNK: usize = 2048;

/// A failed operation on the database.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// SQLite failed.
    #[error("{action} {}: {source}", path.display())]
    Sqlite {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: rusqlite::Error,
    },
    /// A new file cannot be kept from others.
    #[error("make {} readable by its owner only: {source}", path.display())]
    Private {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// PostgreSQL failed.
    #[error("{action} {server}: {why}")]
    Postgres {
        /// What was attempted.
        action: &'static str,
        /// Which, without secrets.
        server: String,
        /// The cause.
        why: String,
    },
    /// Another coordinator writes now.
    #[error("{server}: {holder} has taken over; this coordinator changes nothing any more")]
    Lost {
        /// Which, without secrets.
        server: String,
        /// Who.
        holder: String,
    },
    /// A newer morph wrote it.
    #[error("read {database}: its format is version {found}, this morph knows {known}; use the newer morph")]
    Newer {
        /// Which.
        database: String,
        /// Its version.
        found: i64,
        /// The newest that this build knows.
        known: i64,
    },
    /// An event that makes no sense.
    #[error("read {database}: event {seq}: {why}")]
    Event {
        /// Which database.
        database: String,
        /// Which.
        seq: u64,
        /// What is wrong.
        why: String,
    },
}

/// One value of one metric of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Optimizer steps taken.
    pub step: u64,
    /// Microseconds since the Unix epoch.
    pub at: u64,
    /// `train/loss`, …
    pub name: String,
    /// Finite.
    pub value: f64,
}

/// One line that a rank, or its agent about it, printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The attempt that printed it.
    pub fence: Fence,
    /// The rank.
    pub rank: u32,
    /// Position among the rank's lines.
    pub seq: u64,
    /// Microseconds since the Unix epoch.
    pub at: u64,
    /// `stdout`, `stderr` or `agent`.
    pub stream: String,
    /// The line.
    pub text: String,
}

/// What one turn of the loop has to make durable.
#[derive(Debug, Default)]
pub struct Batch {
    /// In order.
    pub events: Vec<Event>,
    /// Of a name and step of a run the first value stays.
    pub metrics: Vec<(RunId, Point)>,
    /// Said twice, kept once.
    pub lines: Vec<Line>,
    /// Highest report of each agent's incarnation that is in here.
    pub acks: Vec<(WorkerId, String, u64)>,
    /// Traces that runs and sweeps were submitted under.
    pub traces: Vec<(Target, String)>,
}

impl Batch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.metrics.is_empty() && self.lines.is_empty() && self.acks.is_empty()
    }
}

/// Which lines of a run are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lines {
    /// One rank only.
    pub rank: Option<u32>,
    /// One attempt only.
    pub attempt: Option<u32>,
    /// Only the last so many; 0: all.
    pub tail: u32,
    /// Only those that were recorded after this position (see [`Store::lines`]).
    pub after: u64,
}

/// Which part of a history is wanted; by default all of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Page {
    /// Only events after this position.
    pub after: u64,
    /// Only events from this time on, in microseconds since the Unix epoch.
    pub since: u64,
    /// No more than so many; 0: all.
    pub limit: u32,
    /// No more once there are so many bytes of them, but at least one; 0: all.
    pub bytes: u32,
}

/// A row of the history.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// Position, from 1.
    pub seq: u64,
    /// What happened.
    pub event: Event,
}

/// A durable token: not its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Public.
    pub id: String,
    /// Unique among those that are not revoked.
    pub name: String,
    /// Of its secret.
    pub hash: Vec<u8>,
    /// What it allows, as a word.
    pub scope: String,
    /// The only project that it is for.
    pub project: Option<String>,
    /// Microseconds since the Unix epoch, as all times here.
    pub created_at: u64,
    /// `None`: never.
    pub expires_at: Option<u64>,
    /// `None`: it holds.
    pub revoked_at: Option<u64>,
}

/// Who reads a database. Its methods wait for the disk or the network: call them where that is allowed.
pub trait Reader: Send + Debug {
    /// Hands all events after position `after` to `fold`, oldest first, on a thread of its own: while it folds, the next ones
    /// are read.
    ///
    /// # Errors
    /// When the database cannot be read or holds what is no event; what came before was handed over.
    fn replay(&mut self, after: u64, fold: &mut (dyn FnMut(Recorded) + Send)) -> Result<(), Error>;

    /// Position of the newest event; 0: there is none.
    ///
    /// # Errors
    /// When the database cannot be read.
    fn newest(&mut self) -> Result<u64, Error>;

    /// Events of `of` (a sweep's: also its runs'; `None`: all), oldest first.
    ///
    /// # Errors
    /// As [`Self::replay`].
    fn history(&mut self, of: Option<Target>, page: Page) -> Result<Vec<Recorded>, Error>;

    /// Metrics of a run by name, then step; only those in `names` unless that is empty.
    ///
    /// # Errors
    /// When the database cannot be read.
    fn metrics(&mut self, run: RunId, names: &[String]) -> Result<Vec<Point>, Error>;

    /// The newest value of each metric of `of` (`None`: of all runs), and the sum of all its values, by run and name.
    ///
    /// # Errors
    /// When the database cannot be read.
    fn latest(&mut self, of: Option<RunId>, each: &mut dyn FnMut(RunId, Point, f64)) -> Result<(), Error>;

    /// Traces that runs and sweeps were submitted under.
    ///
    /// # Errors
    /// When the database cannot be read.
    fn traces(&mut self) -> Result<Vec<(Target, String)>, Error>;

    /// Lines of a run in the order of time, and the position up to which they were read: lines that are recorded later lie
    /// after it.
    ///
    /// # Errors
    /// When the database cannot be read.
    fn lines(&mut self, run: RunId, wanted: Lines) -> Result<(Vec<Line>, u64), Error>;

    /// The highest durable report of each worker, and of which incarnation.
    ///
    /// # Errors
    /// When the database cannot be read.
    fn acks(&mut self) -> Result<Vec<(WorkerId, String, u64)>, Error>;
}

/// Who writes to a database; there is one.
pub trait Writer: Send + Debug {
    /// Makes all of `batch` durable, or nothing of it. An empty one keeps up the right to write where that must be kept up:
    /// see [`Self::pace`].
    ///
    /// # Errors
    /// When it cannot be written (a full disk, …), or another coordinator writes now. It must not be used again.
    fn commit(&mut self, batch: &Batch) -> Result<(), Error>;

    /// How often [`Self::commit`] must be called at least, with nothing if there is nothing.
    fn pace(&self) -> Option<std::time::Duration> {
        None
    }

    /// Gives up the right to write, so that the next one need not wait.
    fn close(self: Box<Self>) {}
}

/// Where tokens lie.
pub trait Keyring: Send + Debug {
    /// All, oldest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    fn all(&mut self) -> Result<Vec<Token>, Error>;

    /// Records a new one.
    ///
    /// # Errors
    /// When the database cannot be written.
    fn add(&mut self, token: &Token) -> Result<(), Error>;

    /// Records that `id` is revoked.
    ///
    /// # Errors
    /// When the database cannot be written.
    fn revoke(&mut self, id: &str, at: u64) -> Result<(), Error>;
}

/// Which database; cheap to clone.
#[derive(Debug, Clone)]
pub enum Database {
    /// An SQLite file.
    Sqlite(PathBuf),
    /// A PostgreSQL server.
    Postgres(postgres::Server),
}

impl Database {
    /// The SQLite file at `path`.
    pub fn sqlite(path: &Path) -> Self {
        Self::Sqlite(path.to_owned())
    }

    /// Whether there is anything to read; a server's is made by whoever takes its lease.
    pub fn exists(&self) -> bool {
        match self {
            Self::Sqlite(path) => path.exists(),
            Self::Postgres(_) => true,
        }
    }

    /// Opens it for reading only; it must be there.
    ///
    /// # Errors
    /// When it cannot be read, or a newer morph wrote it.
    pub fn read(&self) -> Result<Box<dyn Reader>, Error> {
        Ok(match self {
            Self::Sqlite(path) => Box::new(sqlite::Sqlite::read(path)?),
            Self::Postgres(server) => Box::new(server.read()?),
        })
    }

    /// Whether it can be written now, without writing anything.
    ///
    /// # Errors
    /// When it cannot: gone, read only, held by somebody else.
    pub fn writable(&self) -> Result<(), Error> {
        match self {
            Self::Sqlite(path) => sqlite::writable(path),
            Self::Postgres(server) => server.writable(),
        }
    }

    /// Bytes that it takes, by part.
    pub fn size(&self) -> Vec<(&'static str, u64)> {
        match self {
            Self::Sqlite(path) => sqlite::size(path),
            // What cannot be found out now is left out.
            Self::Postgres(server) => server.size().map(|bytes| ("data", bytes)).into_iter().collect(),
        }
    }
}

/// Opens the SQLite file `path` for writing; makes it when it is not there.
///
/// # Errors
/// When it cannot be used, or a newer morph wrote it.
pub fn open(path: &Path) -> Result<Box<dyn Writer>, Error> {
    Ok(Box::new(sqlite::Sqlite::open(path)?))
}

/// The tokens of the SQLite file `path`.
///
/// # Errors
/// When it cannot be used.
pub fn keyring(path: &Path) -> Result<Box<dyn Keyring>, Error> {
    Ok(Box::new(sqlite::Keys::open(path)?))
}

/// Writes all that the SQLite file `from` holds, as it is at this moment, into the file `to`, which must be empty or not there.
/// Whoever writes to `from` meanwhile is not disturbed.
///
/// # Errors
/// When either cannot be used, or the copy is not whole.
pub fn backup(from: &Path, to: &Path) -> Result<(), Error> {
    sqlite::backup(from, to)
}

/// Runs `produce`, which hands over events, while `fold` takes them on a thread of its own.
fn folded(
    fold: &mut (dyn FnMut(Recorded) + Send),
    produce: impl FnOnce(&mut Handover) -> Result<(), Error>,
) -> Result<(), Error> {
    std::thread::scope(|scope| {
        let (sender, chunks) = sync_channel::<Vec<Recorded>>(8);
        scope.spawn(move || chunks.into_iter().flatten().for_each(fold));
        let mut handover = Handover { sender, chunk: Vec::with_capacity(CHUNK) };
        let done = produce(&mut handover);
        handover.flush();
        done
    })
}

/// Hands events over, many at a time.
struct Handover {
    sender: SyncSender<Vec<Recorded>>,
    chunk: Vec<Recorded>,
}

impl Handover {
    fn push(&mut self, recorded: Recorded) {
        self.chunk.push(recorded);
        if self.chunk.len() == CHUNK {
            self.flush();
        }
    }

    fn flush(&mut self) {
        // Nobody takes it only when folding has panicked, which the scope passes on.
        self.sender.send(std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK))).ok();
    }
}

/// The event at position `seq`.
fn recorded(database: impl FnOnce() -> String, seq: u64, json: &str) -> Result<Recorded, Error> {
    match Event::from_json(json) {
        Ok(event) => Ok(Recorded { seq, event }),
        Err(e) => Err(Error::Event { database: database(), seq, why: e.to_string() }),
    }
}

/// `event` as it is recorded, and the sweep that it is found under.
pub(crate) fn row(event: &Event) -> (String, Option<morph_spec::SweepId>) {
    let json = serde_json::to_string(event).expect("invariant: events are plain values with text keys");
    let sweep = match &event.what {
        morph_control::What::RunSubmitted { sweep, .. } => *sweep,
        _ => event.sweep(),
    };
    (json, sweep)
}
