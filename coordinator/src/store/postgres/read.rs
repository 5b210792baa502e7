//! Questions.

use morph_control::Target;
use morph_spec::{Fence, RunId, WorkerId};
use postgres::{Error as Failure, Row, fallible_iterator::FallibleIterator, types::ToSql};

use super::{
    super::{Error, Line, Lines, Page, Point, Reader, Recorded, recorded},
    Server, Session, VERSION, signed, text,
};

/// A connection that is only read from.
#[derive(Debug)]
pub(in super::super) struct Reading {
    /// `None`: given back.
    session: Option<Session>,
    server: Server,
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            self.server.put_back(session);
        }
    }
}

/// PostgreSQL's integers are signed, ours here never negative.
fn unsigned(n: i64) -> u64 {
    n.max(0) as u64
}

/// As [`unsigned`], for those that are small.
fn small(n: i64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Reading {
    pub(super) fn new(session: Session, server: Server) -> Self {
        Self { session: Some(session), server }
    }

    fn ask<T>(&mut self, question: impl FnOnce(&mut postgres::Client) -> Result<T, Failure>) -> Result<T, Error> {
        let session = self.session.as_mut().expect("invariant: it is given back only when this is dropped");
        question(session.client()).map_err(self.server.fail("read"))
    }

    fn rows(&mut self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
        self.ask(|client| client.query(sql, values))
    }

    /// Whether the server takes writes, and its tables are there.
    pub(super) fn writable(&mut self) -> Result<(), Error> {
        let sql = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean, version FROM meta";
        let row = self.ask(|client| client.query_one(sql, &[]))?;
        let (read_only, found): (bool, i64) = (row.get(0), row.get(1));
        let server = || self.server.name().to_owned();
        if found > VERSION {
            return Err(Error::Newer { database: server(), found, known: VERSION });
        }
        if read_only {
            let why = "it is open for reading only: is that the primary?".to_owned();
            return Err(Error::Postgres { action: "write", server: server(), why });
        }
        Ok(())
    }

    /// Bytes of all tables.
    pub(super) fn size(&mut self) -> Result<u64, Error> {
        self.ask(|client| client.query_one("SELECT pg_database_size(current_database())", &[]))
            .map(|row| unsigned(row.get(0)))
    }
}

impl Reader for Reading {
    fn replay(&mut self, after: u64, fold: &mut (dyn FnMut(Recorded) + Send)) -> Result<(), Error> {
        let session = self.session.as_mut().expect("invariant: it is given back only when this is dropped");
        let server = &self.server;
        let fail = server.fail("read");
        let sql = "SELECT seq, json FROM events WHERE seq > $1 ORDER BY seq";
        let mut rows = session.client().query_raw(sql, [signed(after)]).map_err(&fail)?;
        super::super::folded(fold, |handover| {
            while let Some(row) = rows.next().map_err(&fail)? {
                handover.push(recorded(|| server.name().to_owned(), unsigned(row.get(0)), row.get(1))?);
            }
            Ok(())
        })
    }

    fn newest(&mut self) -> Result<u64, Error> {
        let rows = self.rows("SELECT coalesce(max(seq), 0) FROM events", &[])?;
        Ok(rows.first().map_or(0, |row| unsigned(row.get(0))))
    }

    fn history(&mut self, of: Option<Target>, page: Page) -> Result<Vec<Recorded>, Error> {
        let (which, id) = match of {
            None => ("$1 = ''", String::new()),
            Some(Target::Run(run)) => ("run = $1", run.to_string()),
            Some(Target::Sweep(sweep)) => (
                "(sweep = $1 OR run IN (SELECT run FROM events WHERE sweep = $1 AND run IS NOT NULL))",
                sweep.to_string(),
            ),
        };
        let limit = (page.limit > 0).then_some(i64::from(page.limit));
        let bytes = (page.bytes > 0).then_some(i64::from(page.bytes));
        let sql = format!(
            "SELECT seq, json FROM (
                 SELECT seq, json, sum(octet_length(json)) OVER (ORDER BY seq) - octet_length(json) AS before
                 FROM events WHERE {which} AND seq > $2 AND at >= $3 ORDER BY seq LIMIT $4
             ) AS page WHERE $5::bigint IS NULL OR before < $5 ORDER BY seq"
        );
        let rows = self.rows(&sql, &[&id, &signed(page.after), &signed(page.since), &limit, &bytes])?;
        let one = |row: &Row| recorded(|| self.server.name().to_owned(), unsigned(row.get(0)), row.get(1));
        rows.iter().map(one).collect()
    }

    fn metrics(&mut self, run: RunId, names: &[String]) -> Result<Vec<Point>, Error> {
        // By bytes, as everywhere else.
        let sql = "SELECT step, at, name, value FROM metrics WHERE run = $1 AND (cardinality($2::text[]) = 0 OR name = ANY($2))
                   ORDER BY name COLLATE \"C\", step";
        let names: Vec<String> = names.iter().map(|n| text(n)).collect();
        let rows = self.rows(sql, &[&run.to_string(), &names])?;
        let point =
            |r: &Row| Point { step: unsigned(r.get(0)), at: unsigned(r.get(1)), name: r.get(2), value: r.get(3) };
        Ok(rows.iter().map(point).collect())
    }

    fn latest(&mut self, of: Option<RunId>, each: &mut dyn FnMut(RunId, Point, f64)) -> Result<(), Error> {
        let sql = "SELECT run, name, step, at, value, total FROM latest WHERE $1::text IS NULL OR run = $1
                   ORDER BY run COLLATE \"C\", name COLLATE \"C\"";
        let session = self.session.as_mut().expect("invariant: it is given back only when this is dropped");
        let fail = self.server.fail("read");
        let mut rows = session.client().query_raw(sql, [of.map(|run| run.to_string())]).map_err(&fail)?;
        while let Some(r) = rows.next().map_err(&fail)? {
            // Only ids are written there.
            let Ok(run) = r.get::<_, &str>(0).parse() else { continue };
            let (step, at) = (unsigned(r.get(2)), unsigned(r.get(3)));
            each(run, Point { step, at, name: r.get(1), value: r.get(4) }, r.get(5));
        }
        Ok(())
    }

    fn traces(&mut self) -> Result<Vec<(Target, String)>, Error> {
        let rows = self.rows("SELECT target, traceparent FROM traces", &[])?;
        Ok(rows.iter().filter_map(|r| Some((serde_json::from_str(r.get(0)).ok()?, r.get(1)))).collect())
    }

    fn lines(&mut self, run: RunId, wanted: Lines) -> Result<(Vec<Line>, u64), Error> {
        let sql = "SELECT * FROM (SELECT attempt, rank, seq, at, stream, text, id FROM logs WHERE run = $1 AND id > $5
                     AND ($2::bigint IS NULL OR rank = $2) AND ($3::bigint IS NULL OR attempt = $3)
                     ORDER BY at DESC, attempt DESC, rank DESC, seq DESC LIMIT $4) AS newest
                   ORDER BY at, attempt, rank, seq";
        let limit = (wanted.tail > 0).then_some(i64::from(wanted.tail));
        let (rank, attempt) = (wanted.rank.map(i64::from), wanted.attempt.map(i64::from));
        let rows = self.rows(sql, &[&run.to_string(), &rank, &attempt, &limit, &signed(wanted.after)])?;
        let upto = rows.iter().map(|r| unsigned(r.get(6))).max().unwrap_or(0).max(wanted.after);
        let line = |r: &Row| Line {
            fence: Fence { run, attempt: small(r.get(0)) },
            rank: small(r.get(1)),
            seq: unsigned(r.get(2)),
            at: unsigned(r.get(3)),
            stream: r.get(4),
            text: r.get(5),
        };
        Ok((rows.iter().map(line).collect(), upto))
    }

    fn acks(&mut self) -> Result<Vec<(WorkerId, String, u64)>, Error> {
        let rows = self.rows("SELECT worker, incarnation, seq FROM acks", &[])?;
        let ack = |r: &Row| Some((r.get::<_, &str>(0).parse().ok()?, r.get(1), unsigned(r.get(2))));
        Ok(rows.iter().filter_map(ack).collect())
    }
}
