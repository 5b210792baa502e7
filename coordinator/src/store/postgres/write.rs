//! The lease, and what only its holder may do.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use morph_control::Event;
use morph_spec::WorkerId;
use postgres::{Error as Failure, Statement, Transaction, types::ToSql};

use super::{
    super::{Batch, Error, Writer, row},
    Mark, Server, Session, Taken, VERSION, connect, keys, signed, tables, text,
};

/// How long a server that went away is waited for, at least: one that restarts is back by then.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// What was answered must survive a power cut of the server, whatever its owner set.
pub(super) const DURABLE: &str =
    "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";

/// All of a turn in one statement, which is a transaction: the lease's epoch must be ours, or nothing is written.
const COMMIT: &str = "
WITH held AS (
    UPDATE lease SET until = clock_timestamp() + $1::bigint * interval '1 microsecond'
    WHERE epoch = $2 AND NOT free RETURNING epoch),
new_events AS (
    INSERT INTO events (seq, at, kind, run, sweep, json)
    SELECT e.* FROM held, unnest($3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[]) AS e),
fresh AS (
    INSERT INTO metrics (run, name, step, at, value)
    SELECT run, name, step, at, value
    FROM held, unnest($9::text[], $10::text[], $11::bigint[], $12::bigint[], $13::float8[])
        WITH ORDINALITY AS m (run, name, step, at, value, n)
    ORDER BY n ON CONFLICT DO NOTHING RETURNING run, name, step, at, value),
newest AS (
    INSERT INTO latest (run, name, step, at, value, total)
    SELECT run, name, max(step), (array_agg(at ORDER BY step DESC))[1], (array_agg(value ORDER BY step DESC))[1], sum(value)
    FROM fresh GROUP BY run, name
    ON CONFLICT (run, name) DO UPDATE SET
        at = CASE WHEN excluded.step > latest.step THEN excluded.at ELSE latest.at END,
        value = CASE WHEN excluded.step > latest.step THEN excluded.value ELSE latest.value END,
        step = greatest(excluded.step, latest.step), total = latest.total + excluded.total),
new_lines AS (
    INSERT INTO logs (run, attempt, rank, seq, at, stream, text)
    SELECT run, attempt, rank, seq, at, stream, text
    FROM held, unnest($14::text[], $15::bigint[], $16::bigint[], $17::bigint[], $18::bigint[], $19::text[], $20::text[])
        WITH ORDINALITY AS l (run, attempt, rank, seq, at, stream, text, n)
    ORDER BY n ON CONFLICT DO NOTHING),
new_acks AS (
    INSERT INTO acks (worker, incarnation, seq)
    SELECT a.* FROM held, unnest($21::text[], $22::text[], $23::bigint[]) AS a
    ON CONFLICT (worker) DO UPDATE SET incarnation = excluded.incarnation, seq = excluded.seq),
new_traces AS (
    INSERT INTO traces (target, traceparent)
    SELECT t.* FROM held, unnest($24::text[], $25::text[]) AS t
    ON CONFLICT (target) DO UPDATE SET traceparent = excluded.traceparent)
SELECT count(*) FROM held";

/// The right to write.
#[derive(Debug)]
struct Lease {
    epoch: i64,
    length: Duration,
    /// When it was last known to be ours, by a clock that does not jump.
    renewed: Instant,
}

/// A connection of the lease's holder.
struct Writing {
    server: Server,
    /// `None`: it broke.
    session: Option<(Session, Statement)>,
    lease: Lease,
    /// Position of the next event.
    next: i64,
}

impl std::fmt::Debug for Writing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writing").field("server", &self.server).field("lease", &self.lease).finish_non_exhaustive()
    }
}

/// See [`Server::take_from`].
pub(super) fn take(server: &Server, holder: &str, length: Duration, dead: Option<Mark>) -> Result<Taken, Error> {
    let fail = server.fail("write");
    let asked = Instant::now();
    let mut session = server.connect(length).map_err(server.fail("connect to"))?;
    let client = session.client();
    let mut tx = client.transaction().map_err(&fail)?;
    let epoch = match acquire(&mut tx, server, holder, length, dead)? {
        Ok(epoch) => epoch,
        Err((holder, mark)) => return Ok(Taken::Held { holder, mark }),
    };
    let last: Option<i64> = tx.query_one("SELECT max(seq) FROM events", &[]).map_err(&fail)?.get(0);
    tx.commit().map_err(&fail)?;
    let session = prepared(session).map_err(&fail)?;
    let lease = Lease { epoch, length, renewed: asked };
    let writing = Writing { server: server.clone(), session: Some(session), lease, next: last.unwrap_or(0) + 1 };
    Ok(Taken::Ours(Box::new(writing), Box::new(keys::Keys::new(server.clone(), epoch))))
}

/// Takes the lease in `tx`, and makes the tables what they are today: its epoch, or who holds it.
pub(super) fn acquire(
    tx: &mut Transaction<'_>,
    server: &Server,
    holder: &str,
    length: Duration,
    dead: Option<Mark>,
) -> Result<Result<i64, (String, Mark)>, Error> {
    let fail = server.fail("write");
    // Who may not make schemas may use one that was made for it.
    let there: bool = tx.query_one(tables::IS_GROUND, &[]).map_err(&fail)?.get(0);
    if !there {
        tx.batch_execute(tables::GROUND).map_err(&fail)?;
    }
    let sql = "
        INSERT INTO lease (epoch, holder, until, free)
        VALUES (1, $1, clock_timestamp() + $2::bigint * interval '1 microsecond', false)
        ON CONFLICT (one) DO UPDATE SET epoch = lease.epoch + 1, holder = excluded.holder, until = excluded.until, free = false
        WHERE lease.free OR lease.until < clock_timestamp()
            OR (lease.epoch = $3 AND (extract(epoch FROM lease.until) * 1000000)::bigint = $4) RETURNING epoch";
    let micros = signed(length.as_micros().try_into().unwrap_or(u64::MAX));
    let (epoch, until) = dead.map(|mark| (mark.epoch, mark.until)).unzip();
    let taken = tx.query_opt(sql, &[&text(holder), &micros, &epoch, &until]).map_err(&fail)?;
    let Some(taken) = taken else {
        let sql = "SELECT holder, epoch, (extract(epoch FROM until) * 1000000)::bigint FROM lease";
        let row = tx.query_one(sql, &[]).map_err(&fail)?;
        return Ok(Err((row.get(0), Mark { epoch: row.get(1), until: row.get(2) })));
    };
    let found = tables::version(tx).map_err(&fail)?;
    if found > VERSION {
        // Not committed: the lease is not taken.
        return Err(Error::Newer { database: server.name().to_owned(), found, known: VERSION });
    }
    tables::migrate(tx, found).map_err(&fail)?;
    Ok(Ok(taken.get(0)))
}

/// A connection that can commit.
fn prepared(mut session: Session) -> Result<(Session, Statement), Failure> {
    let client = session.client();
    client.batch_execute(DURABLE)?;
    let statement = client.prepare(COMMIT)?;
    Ok((session, statement))
}

/// A batch, column by column, in the order of [`COMMIT`]'s parameters from the third on.
struct Columns {
    /// Position of the first event, if there are any.
    first: Option<i64>,
    events: i64,
    values: Vec<Column>,
}

type Column = Box<dyn ToSql + Sync>;

fn column<T>(items: impl Iterator<Item = T>) -> Column
where
    Vec<T>: ToSql + Sync + 'static,
{
    Box::new(items.collect::<Vec<T>>())
}

impl Columns {
    fn of(batch: &Batch, first: i64) -> Self {
        let (events, metrics, lines) = (&batch.events, &batch.metrics, &batch.lines);
        // A statement changes a row once only.
        let acks: BTreeMap<WorkerId, _> = batch.acks.iter().map(|(w, i, seq)| (*w, (i, *seq))).collect();
        let target = |t| serde_json::to_string(t).expect("invariant: a target is plain");
        let traces: BTreeMap<String, _> = batch.traces.iter().map(|(t, trace)| (target(t), trace)).collect();
        let (json, sweeps): (Vec<_>, Vec<_>) = events.iter().map(row).unzip();
        let values = vec![
            column((first..).zip(events).map(|(seq, _)| seq)),
            column(events.iter().map(|e| signed(e.at.0))),
            column(events.iter().map(Event::kind)),
            column(events.iter().map(|e| e.run().map(|r| r.to_string()))),
            column(sweeps.into_iter().map(|sweep| sweep.map(|s| s.to_string()))),
            column(json.into_iter()),
            column(metrics.iter().map(|(run, _)| run.to_string())),
            column(metrics.iter().map(|(_, p)| text(&p.name))),
            column(metrics.iter().map(|(_, p)| signed(p.step))),
            column(metrics.iter().map(|(_, p)| signed(p.at))),
            column(metrics.iter().map(|(_, p)| p.value)),
            column(lines.iter().map(|l| l.fence.run.to_string())),
            column(lines.iter().map(|l| i64::from(l.fence.attempt))),
            column(lines.iter().map(|l| i64::from(l.rank))),
            column(lines.iter().map(|l| signed(l.seq))),
            column(lines.iter().map(|l| signed(l.at))),
            column(lines.iter().map(|l| text(&l.stream))),
            column(lines.iter().map(|l| text(&l.text))),
            column(acks.keys().map(ToString::to_string)),
            column(acks.values().map(|(incarnation, _)| text(incarnation))),
            column(acks.values().map(|(_, seq)| signed(*seq))),
            column(traces.keys().cloned()),
            column(traces.values().map(|trace| text(trace))),
        ];
        Self { first: (!events.is_empty()).then_some(first), events: events.len() as i64, values }
    }
}

impl Writing {
    /// Sends it once. `false`: the lease is no longer ours.
    fn send(&mut self, columns: &Columns) -> Result<bool, Failure> {
        if self.session.is_none() {
            self.session = Some(prepared(self.server.connect(self.lease.length)?)?);
            // What was sent on the connection that broke may have arrived.
            if let (Some(first), Some((session, _))) = (&columns.first, &mut self.session) {
                let sql = "SELECT count(*) FROM events, lease WHERE seq = $1 AND epoch = $2";
                let arrived: i64 = session.client().query_one(sql, &[first, &self.lease.epoch])?.get(0);
                if arrived > 0 {
                    return Ok(true);
                }
            }
        }
        let Some((session, statement)) = &mut self.session else { return Ok(false) };
        let micros = signed(self.lease.length.as_micros().try_into().unwrap_or(u64::MAX));
        let mut values: Vec<&(dyn ToSql + Sync)> = vec![&micros, &self.lease.epoch];
        values.extend(columns.values.iter().map(|column| &**column));
        let held: i64 = session.client().query_one(statement, &values)?.get(0);
        Ok(held == 1)
    }

    fn lost(&mut self) -> Error {
        let sql = "SELECT holder FROM lease";
        let holder = self.session.as_mut().and_then(|(s, _)| s.client().query_one(sql, &[]).ok());
        let holder = holder.map_or_else(|| "another coordinator".to_owned(), |row| row.get(0));
        Error::Lost { server: self.server.name().to_owned(), holder }
    }
}

impl Writer for Writing {
    fn commit(&mut self, batch: &Batch) -> Result<(), Error> {
        if batch.is_empty() && self.lease.renewed.elapsed() < self.lease.length / 3 {
            return Ok(());
        }
        let columns = Columns::of(batch, self.next);
        let until = Instant::now() + PATIENCE.max(self.lease.length);
        loop {
            let sent = Instant::now();
            match self.send(&columns) {
                Ok(true) => {
                    self.lease.renewed = sent;
                    self.next += columns.events;
                    return Ok(());
                }
                Ok(false) => return Err(self.lost()),
                Err(e) if connect::passing(&e) && Instant::now() < until => {
                    if self.session.take().is_some() {
                        tracing::warn!("{} went away: {}; trying again", self.server.name(), connect::explain(&e));
                    }
                    thread::sleep(PAUSE);
                }
                Err(e) => return Err(self.server.fail("write")(e)),
            }
        }
    }

    fn pace(&self) -> Option<Duration> {
        Some(self.lease.length / 3)
    }

    fn close(mut self: Box<Self>) {
        let epoch = self.lease.epoch;
        if let Some((session, _)) = &mut self.session {
            // Who cannot say goodbye is waited for.
            drop(session.client().execute("UPDATE lease SET free = true WHERE epoch = $1", &[&epoch]));
        }
    }
}
