//! The database: one SQLite file. Events are the truth; metrics and log lines lie beside them because they are many.
//!
//! Everything that one turn of the core's loop brings is one transaction with `synchronous=FULL`: after [`Store::commit`]
//! it survives a power cut. One process writes; others may read at the same time (WAL).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::mpsc::sync_channel,
    time::Duration,
};

use morph_control::{Event, Target};
use morph_spec::{Fence, RunId, WorkerId};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Transaction, params};

mod tables;
use tables::VERSION;

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
    /// A newer morph wrote it.
    #[error("read {}: its format is version {found}, this morph knows {VERSION}; use the newer morph", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// An event that makes no sense.
    #[error("read {}: event {seq}: {why}", path.display())]
    Event {
        /// The file.
        path: PathBuf,
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

/// The database.
#[derive(Debug)]
pub struct Store {
    db: Connection,
    path: PathBuf,
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
}

/// A row of the history.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// Position, from 1.
    pub seq: u64,
    /// What happened.
    pub event: Event,
}

impl Store {
    /// Opens `path` for writing; makes it when it is not there.
    ///
    /// # Errors
    /// When it cannot be used, or a newer morph wrote it.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let fail = |action| move |source| Error::Sqlite { action, path: path.to_owned(), source };
        let mut db = Connection::open(path).map_err(fail("open"))?;
        db.busy_timeout(Duration::from_secs(5)).map_err(fail("open"))?;
        db.pragma_update(None, "journal_mode", "WAL").map_err(fail("open"))?;
        db.pragma_update(None, "synchronous", "FULL").map_err(fail("open"))?;
        let store = |db| Self { db, path: path.to_owned() };
        let found = tables::version(&db).map_err(fail("read"))?;
        if found < VERSION {
            tables::migrate(&mut db).map_err(fail("create tables in"))?;
        }
        store(db).checked()
    }

    /// Opens `path` for reading only; it must be there.
    ///
    /// # Errors
    /// When it cannot be read, or a newer morph wrote it.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let fail = |source| Error::Sqlite { action: "open", path: path.to_owned(), source };
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags).map_err(fail)?;
        db.busy_timeout(Duration::from_secs(5)).map_err(fail)?;
        tables::stand_in(&db).map_err(fail)?;
        Self { db, path: path.to_owned() }.checked()
    }

    fn checked(self) -> Result<Self, Error> {
        let found = tables::version(&self.db).map_err(self.fail("read"))?;
        if found > VERSION { Err(Error::Newer { path: self.path, found }) } else { Ok(self) }
    }

    fn fail(&self, action: &'static str) -> impl Fn(rusqlite::Error) -> Error + '_ {
        move |source| Error::Sqlite { action, path: self.path.clone(), source }
    }

    /// Makes all of `batch` durable, or nothing of it.
    ///
    /// # Errors
    /// When SQLite fails (a full disk, …).
    pub fn commit(&mut self, batch: &Batch) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let path = &self.path;
        let fail = |source| Error::Sqlite { action: "write", path: path.clone(), source };
        let tx = self.db.transaction().map_err(fail)?;
        write(&tx, batch).map_err(fail)?;
        tx.commit().map_err(fail)
    }

    /// Hands all events to `fold`, oldest first, on a thread of its own: while it folds, the next ones are read.
    ///
    /// # Errors
    /// When the file cannot be read or holds what is no event; what came before was handed over.
    pub fn replay(&self, mut fold: impl FnMut(Recorded) + Send) -> Result<(), Error> {
        let fail = self.fail("read");
        let mut query = self.db.prepare("SELECT seq, json FROM events ORDER BY seq").map_err(&fail)?;
        let mut rows = query.query([]).map_err(&fail)?;
        std::thread::scope(|scope| {
            let (sender, chunks) = sync_channel::<Vec<Recorded>>(8);
            scope.spawn(move || chunks.into_iter().flatten().for_each(&mut fold));
            let mut chunk = Vec::with_capacity(CHUNK);
            while let Some(row) = rows.next().map_err(&fail)? {
                chunk.push(self.recorded(row.get(0).map_err(&fail)?, row.get_ref(1).map_err(&fail)?.as_str())?);
                if chunk.len() == CHUNK
                    && sender.send(std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK))).is_err()
                {
                    break;
                }
            }
            // Nobody takes it only when folding has panicked, which the scope passes on.
            sender.send(chunk).ok();
            Ok(())
        })
    }

    fn recorded(&self, seq: u64, json: Result<&str, impl std::fmt::Display>) -> Result<Recorded, Error> {
        let bad = |why: String| Error::Event { path: self.path.clone(), seq, why };
        let json = json.map_err(|e| bad(e.to_string()))?;
        Ok(Recorded { seq, event: Event::from_json(json).map_err(|e| bad(e.to_string()))? })
    }

    /// Events of `of` (a sweep's: also its runs'; `None`: all), oldest first.
    ///
    /// # Errors
    /// As [`Self::events`].
    pub fn history(&self, of: Option<Target>, page: Page) -> Result<Vec<Recorded>, Error> {
        let (which, id) = match of {
            None => ("?1 = ''", String::new()),
            Some(Target::Run(run)) => ("run = ?1", run.to_string()),
            Some(Target::Sweep(sweep)) => (
                "(sweep = ?1 OR run IN (SELECT run FROM events WHERE sweep = ?1 AND run IS NOT NULL))",
                sweep.to_string(),
            ),
        };
        let limit = if page.limit == 0 { -1 } else { i64::from(page.limit) };
        let sql = format!("SELECT seq, json FROM events WHERE {which} AND seq > ?2 AND at >= ?3 ORDER BY seq LIMIT ?4");
        // A time or position beyond SQLite's integers lies in the future.
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.select(&sql, params![id, signed(page.after), signed(page.since), limit])
    }

    fn select(&self, sql: &str, values: impl rusqlite::Params) -> Result<Vec<Recorded>, Error> {
        let fail = self.fail("read");
        let mut query = self.db.prepare_cached(sql).map_err(&fail)?;
        let rows = query.query_map(values, |r| Ok((r.get::<_, u64>(0)?, r.get::<_, String>(1)?))).map_err(&fail)?;
        rows.map(|row| {
            let (seq, json) = row.map_err(&fail)?;
            self.recorded(seq, Ok::<_, Error>(&json))
        })
        .collect()
    }

    /// Metrics of a run by name, then step; only those in `names` unless that is empty.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn metrics(&self, run: RunId, names: &[String]) -> Result<Vec<Point>, Error> {
        let fail = self.fail("read");
        let mut query = self
            .db
            .prepare_cached("SELECT step, at, name, value FROM metrics WHERE run = ?1 ORDER BY name, step")
            .map_err(&fail)?;
        let point =
            |r: &rusqlite::Row<'_>| Ok(Point { step: r.get(0)?, at: r.get(1)?, name: r.get(2)?, value: r.get(3)? });
        let rows = query.query_map([run.to_string()], point).map_err(&fail)?;
        let wanted = |p: &Point| names.is_empty() || names.contains(&p.name);
        rows.filter(|p| p.as_ref().map_or(true, wanted)).collect::<Result<_, _>>().map_err(&fail)
    }

    /// The newest value of each metric of a run, and the sum of all its values.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn latest(&self, run: RunId) -> Result<Vec<(Point, f64)>, Error> {
        let fail = self.fail("read");
        let sql = "SELECT name, step, at, value, total FROM latest WHERE run = ?1 ORDER BY name";
        let mut query = self.db.prepare_cached(sql).map_err(&fail)?;
        query.query_map([run.to_string()], |r| newest(r, 0)).map_err(&fail)?.collect::<Result<_, _>>().map_err(&fail)
    }

    /// Traces that runs and sweeps were submitted under.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn traces(&self) -> Result<Vec<(Target, String)>, Error> {
        let fail = self.fail("read");
        let mut query = self.db.prepare_cached("SELECT target, traceparent FROM traces").map_err(&fail)?;
        let rows = query.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get(1)?))).map_err(&fail)?;
        let known = |(target, trace): (String, String)| Some((serde_json::from_str(&target).ok()?, trace));
        let all: Vec<_> = rows.collect::<Result<_, _>>().map_err(&fail)?;
        Ok(all.into_iter().filter_map(known).collect())
    }

    /// Hands [`Self::latest`] of all runs to `each`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn all_latest(&self, mut each: impl FnMut(RunId, Point, f64)) -> Result<(), Error> {
        let fail = self.fail("read");
        let mut query = self.db.prepare("SELECT run, name, step, at, value, total FROM latest").map_err(&fail)?;
        let mut rows = query.query([]).map_err(&fail)?;
        let mut last: Option<(String, RunId)> = None;
        while let Some(row) = rows.next().map_err(&fail)? {
            let text = row.get_ref(0).and_then(|t| Ok(t.as_str()?)).map_err(&fail)?;
            if last.as_ref().is_none_or(|(known, _)| known != text) {
                // Only ids are written there.
                last = text.parse().ok().map(|id| (text.to_owned(), id));
            }
            if let Some((_, run)) = last {
                let (point, total) = newest(row, 1).map_err(&fail)?;
                each(run, point, total);
            }
        }
        Ok(())
    }

    /// Lines of a run in the order of time, and the position up to which they were read: lines that are recorded later lie
    /// after it.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn lines(&self, run: RunId, wanted: Lines) -> Result<(Vec<Line>, u64), Error> {
        let fail = self.fail("read");
        let mut query = self
            .db
            .prepare_cached(
                "SELECT * FROM (SELECT attempt, rank, seq, at, stream, text, id FROM logs WHERE run = ?1 AND id > ?5
                   AND (?2 IS NULL OR rank = ?2) AND (?3 IS NULL OR attempt = ?3)
                   ORDER BY at DESC, attempt DESC, rank DESC, seq DESC LIMIT ?4)
                 ORDER BY at, attempt, rank, seq",
            )
            .map_err(&fail)?;
        let limit = if wanted.tail == 0 { -1 } else { i64::from(wanted.tail) };
        let line = |r: &rusqlite::Row<'_>| {
            let fence = Fence { run, attempt: r.get(0)? };
            let line =
                Line { fence, rank: r.get(1)?, seq: r.get(2)?, at: r.get(3)?, stream: r.get(4)?, text: r.get(5)? };
            Ok((line, r.get::<_, u64>(6)?))
        };
        let values = params![run.to_string(), wanted.rank, wanted.attempt, limit, wanted.after];
        let mut upto = wanted.after;
        let mut lines = Vec::new();
        for row in query.query_map(values, line).map_err(&fail)? {
            let (line, id) = row.map_err(&fail)?;
            upto = upto.max(id);
            lines.push(line);
        }
        Ok((lines, upto))
    }

    /// Whether `path` can be written now, without writing anything.
    ///
    /// # Errors
    /// When it cannot: gone, read only, held by somebody else.
    pub fn writable(path: &Path) -> Result<(), Error> {
        let fail = |source| Error::Sqlite { action: "write", path: path.to_owned(), source };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags).map_err(fail)?;
        // The core's own transactions take milliseconds.
        db.busy_timeout(Duration::from_secs(1)).map_err(fail)?;
        db.execute_batch("BEGIN IMMEDIATE; ROLLBACK").map_err(fail)
    }

    /// The highest durable report of `incarnation` of `worker`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn acked(&self, worker: WorkerId, incarnation: &str) -> Result<u64, Error> {
        self.db
            .prepare_cached("SELECT seq FROM acks WHERE worker = ?1 AND incarnation = ?2")
            .and_then(|mut q| q.query_row(params![worker.to_string(), incarnation], |r| r.get(0)).optional())
            .map(Option::unwrap_or_default)
            .map_err(self.fail("read"))
    }
}

/// A row of `latest`, from column `from` on.
fn newest(row: &rusqlite::Row<'_>, from: usize) -> rusqlite::Result<(Point, f64)> {
    let (name, step, at, value) = (row.get(from)?, row.get(from + 1)?, row.get(from + 2)?, row.get(from + 3)?);
    Ok((Point { step, at, name, value }, row.get(from + 4)?))
}

/// Writes points of metrics, and what is kept of them beside.
fn write_metrics(tx: &Transaction<'_>, metrics: &[(RunId, Point)]) -> rusqlite::Result<()> {
    let mut metric = tx.prepare_cached("INSERT OR IGNORE INTO metrics VALUES (?1, ?2, ?3, ?4, ?5)")?;
    let mut fresh: BTreeMap<(RunId, &str), (&Point, f64)> = BTreeMap::new();
    for (run, p) in metrics {
        // A step that is done again says the same again.
        if metric.execute(params![run.to_string(), p.name, p.step, p.at, p.value])? == 1 {
            let (newest, total) = fresh.entry((*run, &p.name)).or_insert((p, 0.0));
            *total += p.value;
            if p.step > newest.step {
                *newest = p;
            }
        }
    }
    let mut latest = tx.prepare_cached(
        "INSERT INTO latest (run, name, step, at, value, total) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT (run, name) DO UPDATE SET
             at = iif(excluded.step > step, excluded.at, at), value = iif(excluded.step > step, excluded.value, value),
             step = max(excluded.step, step), total = total + excluded.total",
    )?;
    for ((run, name), (p, total)) in fresh {
        latest.execute(params![run.to_string(), name, p.step, p.at, p.value, total])?;
    }
    Ok(())
}

fn write(tx: &Transaction<'_>, batch: &Batch) -> rusqlite::Result<()> {
    let mut event = tx.prepare_cached("INSERT INTO events (at, kind, run, sweep, json) VALUES (?1, ?2, ?3, ?4, ?5)")?;
    for e in &batch.events {
        let json = serde_json::to_string(e).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
        let sweep = match &e.what {
            morph_control::What::RunSubmitted { sweep, .. } => *sweep,
            _ => e.sweep(),
        };
        event.execute(params![e.at.0, e.kind(), e.run().map(|r| r.to_string()), sweep.map(|s| s.to_string()), json])?;
    }
    write_metrics(tx, &batch.metrics)?;
    let mut line = tx.prepare_cached(
        "INSERT OR IGNORE INTO logs (run, attempt, rank, seq, at, stream, text) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?;
    for l in &batch.lines {
        line.execute(params![l.fence.run.to_string(), l.fence.attempt, l.rank, l.seq, l.at, l.stream, l.text])?;
    }
    for (target, trace) in &batch.traces {
        let target = serde_json::to_string(target).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
        tx.execute("INSERT OR REPLACE INTO traces VALUES (?1, ?2)", params![target, trace])?;
    }
    let mut ack = tx.prepare_cached("INSERT OR REPLACE INTO acks VALUES (?1, ?2, ?3)")?;
    for (worker, incarnation, seq) in &batch.acks {
        ack.execute(params![worker.to_string(), incarnation, seq])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use morph_control::What;
    use morph_spec::{Rng, Timestamp};

    use super::*;

    fn ids() -> (RunId, WorkerId) {
        let mut rng = Rng::keyed(1, "test", 0);
        (RunId::new(Timestamp(5), &mut rng), WorkerId::new(Timestamp(5), &mut rng))
    }

    fn line(run: RunId, attempt: u32, rank: u32, seq: u64, at: u64) -> Line {
        Line {
            fence: Fence { run, attempt },
            rank,
            seq,
            at,
            stream: "stderr".into(),
            text: format!("{attempt}.{rank}.{seq}"),
        }
    }

    fn point(step: u64, value: f64) -> Point {
        Point { step, at: step, name: "train/loss".into(), value }
    }

    #[test]
    fn what_was_committed_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let (run, worker) = ids();
        let event = Event::new(Timestamp(7), What::RunCancelled { run });
        let batch = Batch {
            events: vec![event.clone()],
            metrics: vec![(run, point(1, 0.1)), (run, point(2, 0.2)), (run, point(1, 9.0))],
            lines: vec![line(run, 1, 0, 0, 10), line(run, 1, 1, 0, 5), line(run, 1, 0, 0, 99), line(run, 2, 0, 0, 20)],
            acks: vec![(worker, "a".into(), 3)],
            traces: vec![(Target::Run(run), "00-1-2-01".into())],
        };
        Store::open(&path).unwrap().commit(&batch).unwrap();
        let store = Store::read(&path).unwrap();
        assert_eq!(store.traces().unwrap(), [(Target::Run(run), "00-1-2-01".to_owned())]);
        let all = std::sync::Mutex::new(Vec::new());
        store.replay(|recorded| all.lock().unwrap().push(recorded)).unwrap();
        assert_eq!(all.into_inner().unwrap(), [Recorded { seq: 1, event }]);
        assert_eq!(store.history(Some(Target::Run(run)), Page::default()).unwrap().len(), 1);
        assert_eq!(store.metrics(run, &[]).unwrap(), [point(1, 0.1), point(2, 0.2)], "the first value stays");
        let (newest, total) = store.latest(run).unwrap().remove(0);
        assert!(newest == point(2, 0.2) && (total - 0.3).abs() < 1e-12, "what was said again counts once: {total}");
        assert!(store.metrics(run, &["other".into()]).unwrap().is_empty());
        let texts = |w| store.lines(run, w).unwrap().0.into_iter().map(|l| l.text).collect::<Vec<_>>();
        assert_eq!(texts(Lines::default()), ["1.1.0", "1.0.0", "2.0.0"]);
        assert_eq!(texts(Lines { tail: 1, ..Lines::default() }), ["2.0.0"]);
        assert_eq!(texts(Lines { rank: Some(0), attempt: Some(1), ..Lines::default() }), ["1.0.0"]);
        let (_, upto) = store.lines(run, Lines::default()).unwrap();
        assert!(texts(Lines { after: upto, ..Lines::default() }).is_empty());
        assert_eq!((store.acked(worker, "a").unwrap(), store.acked(worker, "b").unwrap()), (3, 0));
    }

    #[test]
    fn a_history_is_read_in_pages() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&dir.path().join("state.db")).unwrap();
        let (run, worker) = ids();
        let at = |n, what| Event::new(Timestamp(n), what);
        let events = vec![
            at(1, What::CoordinatorStarted {}),
            at(2, What::RunPaused { run }),
            at(3, What::WorkerAway { worker }),
            at(4, What::RunResumed { run }),
            at(5, What::RunCancelled { run }),
        ];
        store.commit(&Batch { events, ..Batch::default() }).unwrap();
        let seqs = |of, page| store.history(of, page).unwrap().iter().map(|r| r.seq).collect::<Vec<_>>();
        let of_run = Some(Target::Run(run));
        assert_eq!(seqs(None, Page::default()), [1, 2, 3, 4, 5]);
        assert_eq!(seqs(of_run, Page::default()), [2, 4, 5]);
        assert_eq!(seqs(of_run, Page { limit: 2, ..Page::default() }), [2, 4]);
        assert_eq!(seqs(of_run, Page { limit: 2, after: 4, ..Page::default() }), [5]);
        assert_eq!(seqs(None, Page { since: 3, limit: 1, ..Page::default() }), [3]);
        assert!(seqs(None, Page { since: u64::MAX, ..Page::default() }).is_empty());
    }

    #[test]
    fn a_newer_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        drop(Store::open(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", VERSION + 1).unwrap();
        let text = Store::open(&path).unwrap_err().to_string();
        assert!(text.contains("state.db") && text.contains("newer morph"), "{text}");
    }

    #[test]
    fn what_is_no_database_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        std::fs::write(&path, vec![b'x'; 5000]).unwrap();
        assert!(Store::open(&path).unwrap_err().to_string().contains("state.db"));
    }
}
