//! The database as one SQLite file, with `synchronous=FULL`. One process writes; others may read at the same time (WAL).

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use morph_control::Target;
use morph_spec::{Fence, RunId, WorkerId};
use rusqlite::{Connection, OpenFlags, Row, Transaction, params, types::Value};

use super::{
    Batch, Error, Keyring, Line, Lines, Page, Point, Reader, Recorded, Token, Writer,
    copy::{Put, Table},
};

mod tables;
use tables::VERSION;

/// An open file.
#[derive(Debug)]
pub(super) struct Sqlite {
    db: Connection,
    path: PathBuf,
}

impl Sqlite {
    /// Opens `path` for writing; makes it when it is not there.
    ///
    /// # Errors
    /// When it cannot be used, or a newer morph wrote it.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let fail = |action| move |source| Error::Sqlite { action, path: path.to_owned(), source };
        let mut db = Connection::open(path).map_err(fail("open"))?;
        db.busy_timeout(Duration::from_secs(5)).map_err(fail("open"))?;
        if path.is_file() && tables::version(&db).map_err(fail("read"))? == 0 {
            // Hashes of tokens will be in it. What SQLite puts beside it has the same mode.
            let private = fs::set_permissions(path, Permissions::from_mode(0o600));
            private.map_err(|source| Error::Private { path: path.to_owned(), source })?;
        }
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
    pub(super) fn read(path: &Path) -> Result<Self, Error> {
        let fail = |source| Error::Sqlite { action: "open", path: path.to_owned(), source };
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags).map_err(fail)?;
        db.busy_timeout(Duration::from_secs(5)).map_err(fail)?;
        tables::stand_in(&db).map_err(fail)?;
        Self { db, path: path.to_owned() }.checked()
    }

    fn checked(self) -> Result<Self, Error> {
        let found = tables::version(&self.db).map_err(self.fail("read"))?;
        if found > VERSION {
            Err(Error::Newer { database: self.path.display().to_string(), found, known: VERSION })
        } else {
            Ok(self)
        }
    }

    fn fail(&self, action: &'static str) -> impl Fn(rusqlite::Error) -> Error + '_ {
        move |source| Error::Sqlite { action, path: self.path.clone(), source }
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Events, until there are so many `bytes` of them.
    fn select(&self, sql: &str, values: impl rusqlite::Params, bytes: usize) -> Result<Vec<Recorded>, Error> {
        let fail = self.fail("read");
        let mut query = self.db.prepare_cached(sql).map_err(&fail)?;
        let rows = query.query_map(values, |r| Ok((r.get::<_, u64>(0)?, r.get::<_, String>(1)?))).map_err(&fail)?;
        let (mut found, mut taken) = (Vec::new(), 0);
        for row in rows {
            let (seq, json) = row.map_err(&fail)?;
            found.push(super::recorded(|| self.name(), seq, &json)?);
            taken += json.len();
            if taken >= bytes {
                break;
            }
        }
        Ok(found)
    }
}

impl Sqlite {
    /// Hands all rows of `table` to `put`, in no order.
    pub(super) fn rows(&self, table: &Table, put: &mut Put<'_>) -> Result<(), Error> {
        let fail = self.fail("read");
        // Who never made a token has no table of them.
        if table.name == "tokens" && !self.db.table_exists(None, table.name).map_err(&fail)? {
            return Ok(());
        }
        let mut query = self.db.prepare(&format!("SELECT {} FROM {}", table.list(), table.name)).map_err(&fail)?;
        let mut rows = query.query([]).map_err(&fail)?;
        while let Some(row) = rows.next().map_err(&fail)? {
            let values = (0..table.columns.len()).map(|n| row.get::<_, Value>(n));
            put(values.collect::<Result<_, _>>().map_err(&fail)?)?;
        }
        Ok(())
    }
}

/// See [`super::backup`].
pub(super) fn backup(from: &Path, to: &Path) -> Result<(), Error> {
    let fail = |action, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Sqlite { action, path: path.clone(), source }
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(from, flags).map_err(fail("open", from))?;
    db.busy_timeout(Duration::from_secs(5)).map_err(fail("open", from))?;
    db.execute("VACUUM INTO ?1", [to.to_string_lossy()]).map_err(fail("copy", from))?;
    let copy = Connection::open_with_flags(to, flags).map_err(fail("open", to))?;
    copy.query_row("PRAGMA quick_check(1)", [], |row| match row.get_ref(0)?.as_str()? {
        "ok" => Ok(()),
        why => Err(rusqlite::Error::ToSqlConversionFailure(why.to_owned().into())),
    })
    .map_err(fail("check", to))
}

impl Writer for Sqlite {
    fn commit(&mut self, batch: &Batch) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let path = &self.path;
        let fail = |source| Error::Sqlite { action: "write", path: path.clone(), source };
        let tx = self.db.transaction().map_err(fail)?;
        write(&tx, batch).map_err(fail)?;
        tx.commit().map_err(fail)
    }
}

impl Reader for Sqlite {
    fn replay(&mut self, after: u64, fold: &mut (dyn FnMut(Recorded) + Send)) -> Result<(), Error> {
        let fail = self.fail("read");
        let sql = "SELECT seq, json FROM events WHERE seq > ?1 ORDER BY seq";
        let mut query = self.db.prepare(sql).map_err(&fail)?;
        let mut rows = query.query([clamp(after)]).map_err(&fail)?;
        super::folded(fold, |handover| {
            while let Some(row) = rows.next().map_err(&fail)? {
                let seq = row.get(0).map_err(&fail)?;
                let json = row.get_ref(1).and_then(|json| Ok(json.as_str()?)).map_err(&fail)?;
                handover.push(super::recorded(|| self.name(), seq, json)?);
            }
            Ok(())
        })
    }

    fn newest(&mut self) -> Result<u64, Error> {
        let sql = "SELECT coalesce(max(seq), 0) FROM events";
        self.db.query_row(sql, [], |r| r.get(0)).map_err(self.fail("read"))
    }

    fn history(&mut self, of: Option<Target>, page: Page) -> Result<Vec<Recorded>, Error> {
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
        let bytes = if page.bytes == 0 { usize::MAX } else { page.bytes as usize };
        // A time or position beyond SQLite's integers lies in the future.
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.select(&sql, params![id, signed(page.after), signed(page.since), limit], bytes)
    }

    fn metrics(&mut self, run: RunId, names: &[String]) -> Result<Vec<Point>, Error> {
        let fail = self.fail("read");
        let mut query = self
            .db
            .prepare_cached("SELECT step, at, name, value FROM metrics WHERE run = ?1 ORDER BY name, step")
            .map_err(&fail)?;
        let point = |r: &Row<'_>| Ok(Point { step: r.get(0)?, at: r.get(1)?, name: r.get(2)?, value: r.get(3)? });
        let rows = query.query_map([run.to_string()], point).map_err(&fail)?;
        let wanted = |p: &Point| names.is_empty() || names.contains(&p.name);
        rows.filter(|p| p.as_ref().map_or(true, wanted)).collect::<Result<_, _>>().map_err(&fail)
    }

    fn latest(&mut self, of: Option<RunId>, each: &mut dyn FnMut(RunId, Point, f64)) -> Result<(), Error> {
        let fail = self.fail("read");
        let which = if of.is_some() { "run = ?1" } else { "?1 = ''" };
        let sql = format!("SELECT run, name, step, at, value, total FROM latest WHERE {which} ORDER BY run, name");
        let mut query = self.db.prepare(&sql).map_err(&fail)?;
        let mut rows = query.query([of.map(|run| run.to_string()).unwrap_or_default()]).map_err(&fail)?;
        let mut last: Option<(String, RunId)> = None;
        while let Some(row) = rows.next().map_err(&fail)? {
            let text = row.get_ref(0).and_then(|t| Ok(t.as_str()?)).map_err(&fail)?;
            if last.as_ref().is_none_or(|(known, _)| known != text) {
                // Only ids are written there.
                last = text.parse().ok().map(|id| (text.to_owned(), id));
            }
            if let Some((_, run)) = last {
                let (point, total) = newest(row).map_err(&fail)?;
                each(run, point, total);
            }
        }
        Ok(())
    }

    fn traces(&mut self) -> Result<Vec<(Target, String)>, Error> {
        let fail = self.fail("read");
        let mut query = self.db.prepare_cached("SELECT target, traceparent FROM traces").map_err(&fail)?;
        let rows = query.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get(1)?))).map_err(&fail)?;
        let known = |(target, trace): (String, String)| Some((serde_json::from_str(&target).ok()?, trace));
        let all: Vec<_> = rows.collect::<Result<_, _>>().map_err(&fail)?;
        Ok(all.into_iter().filter_map(known).collect())
    }

    fn lines(&mut self, run: RunId, wanted: Lines) -> Result<(Vec<Line>, u64), Error> {
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
        let line = |r: &Row<'_>| {
            let fence = Fence { run, attempt: r.get(0)? };
            let line =
                Line { fence, rank: r.get(1)?, seq: r.get(2)?, at: r.get(3)?, stream: r.get(4)?, text: r.get(5)? };
            Ok((line, r.get::<_, u64>(6)?))
        };
        let values = params![run.to_string(), wanted.rank, wanted.attempt, limit, clamp(wanted.after)];
        let mut upto = wanted.after;
        let mut lines = Vec::new();
        for row in query.query_map(values, line).map_err(&fail)? {
            let (line, id) = row.map_err(&fail)?;
            upto = upto.max(id);
            lines.push(line);
        }
        Ok((lines, upto))
    }

    fn acks(&mut self) -> Result<Vec<(WorkerId, String, u64)>, Error> {
        let fail = self.fail("read");
        let mut query = self.db.prepare("SELECT worker, incarnation, seq FROM acks").map_err(&fail)?;
        let rows = query.query_map([], |r| Ok((r.get::<_, String>(0)?, r.get(1)?, r.get(2)?))).map_err(&fail)?;
        let all: Vec<(String, String, u64)> = rows.collect::<Result<_, _>>().map_err(&fail)?;
        Ok(all.into_iter().filter_map(|(worker, i, seq)| Some((worker.parse().ok()?, i, seq))).collect())
    }
}

/// Whether `path` can be written now, without writing anything.
///
/// # Errors
/// When it cannot: gone, read only, held by somebody else.
pub(super) fn writable(path: &Path) -> Result<(), Error> {
    let fail = |source| Error::Sqlite { action: "write", path: path.to_owned(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(fail)?;
    // The core's own transactions take milliseconds.
    db.busy_timeout(Duration::from_secs(1)).map_err(fail)?;
    db.execute_batch("BEGIN IMMEDIATE; ROLLBACK").map_err(fail)
}

/// Bytes of the file and of its log.
pub(super) fn size(path: &Path) -> Vec<(&'static str, u64)> {
    let bytes = |(part, suffix)| {
        let mut path = path.as_os_str().to_owned();
        path.push(suffix);
        // A log that is not there is empty.
        (part, fs::metadata(path).map_or(0, |m| m.len()))
    };
    [("data", ""), ("wal", "-wal")].map(bytes).into()
}

/// A row of `latest`, after its run.
fn newest(row: &Row<'_>) -> rusqlite::Result<(Point, f64)> {
    let (name, step, at, value) = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?);
    Ok((Point { step, at, name, value }, row.get(5)?))
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
        let (json, sweep) = super::row(e);
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

/// The table of tokens, through a connection of its own.
#[derive(Debug)]
pub(super) struct Keys {
    db: Connection,
    path: PathBuf,
}

impl Keys {
    /// Makes the table when it is not there.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let fail = |action| move |source| Error::Sqlite { action, path: path.to_owned(), source };
        let db = Connection::open(path).map_err(fail("open"))?;
        db.busy_timeout(Duration::from_secs(5)).map_err(fail("open"))?;
        db.pragma_update(None, "synchronous", "FULL").map_err(fail("open"))?;
        db.execute_batch(tables::TOKENS).map_err(fail("create tables in"))?;
        Ok(Self { db, path: path.to_owned() })
    }

    fn fail(&self, action: &'static str) -> impl Fn(rusqlite::Error) -> Error + '_ {
        move |source| Error::Sqlite { action, path: self.path.clone(), source }
    }
}

/// SQLite's integers are signed.
fn clamp(at: u64) -> u64 {
    at.min(i64::MAX as u64)
}

impl Keyring for Keys {
    fn all(&mut self) -> Result<Vec<Token>, Error> {
        let fail = self.fail("read");
        let sql =
            "SELECT id, name, hash, scope, project, created_at, expires_at, revoked_at FROM tokens ORDER BY created_at";
        let mut query = self.db.prepare(sql).map_err(&fail)?;
        let token = |r: &Row<'_>| {
            Ok(Token {
                id: r.get(0)?,
                name: r.get(1)?,
                hash: r.get(2)?,
                scope: r.get(3)?,
                project: r.get(4)?,
                created_at: r.get(5)?,
                expires_at: r.get(6)?,
                revoked_at: r.get(7)?,
            })
        };
        query.query_map([], token).map_err(&fail)?.collect::<Result<_, _>>().map_err(&fail)
    }

    fn add(&mut self, t: &Token) -> Result<(), Error> {
        let sql = "INSERT INTO tokens (id, name, hash, scope, project, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        let values = params![t.id, t.name, t.hash, t.scope, t.project, t.created_at, t.expires_at.map(clamp)];
        self.db.execute(sql, values).map(drop).map_err(self.fail("write"))
    }

    fn revoke(&mut self, id: &str, at: u64) -> Result<(), Error> {
        let done = self.db.execute("UPDATE tokens SET revoked_at = ?2 WHERE id = ?1", params![id, at]);
        done.map(drop).map_err(self.fail("write"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        drop(Sqlite::open(&path).unwrap());
        Connection::open(&path).unwrap().pragma_update(None, "user_version", VERSION + 1).unwrap();
        let text = Sqlite::open(&path).unwrap_err().to_string();
        assert!(text.contains("state.db") && text.contains("newer morph"), "{text}");
    }

    #[test]
    fn hashes_of_tokens_are_for_their_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let _open = Sqlite::open(&dir.path().join("state.db")).unwrap();
        let files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(Result::unwrap).collect();
        assert!(files.len() >= 2, "the log beside it, too: {files:?}");
        for file in files {
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
        }
    }

    #[test]
    fn what_is_no_database_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        fs::write(&path, vec![b'x'; 5000]).unwrap();
        assert!(Sqlite::open(&path).unwrap_err().to_string().contains("state.db"));
    }
}
