//! The tables, and how older ones become them. Each version's database lies in `tests/fixtures` as SQL, and opens for ever.

use rusqlite::Connection;

/// Version of the tables that this build writes (`PRAGMA user_version`).
pub(super) const VERSION: i64 = 2;

const FIRST: &str = "
CREATE TABLE events (seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, kind TEXT NOT NULL, run TEXT, sweep TEXT, json TEXT NOT NULL) STRICT;
CREATE INDEX events_of_run ON events (run, seq);
CREATE INDEX events_of_sweep ON events (sweep, seq);
CREATE TABLE metrics (run TEXT NOT NULL, name TEXT NOT NULL, step INTEGER NOT NULL, at INTEGER NOT NULL, value REAL NOT NULL,
    PRIMARY KEY (run, name, step)) STRICT, WITHOUT ROWID;
CREATE TABLE logs (id INTEGER PRIMARY KEY, run TEXT NOT NULL, attempt INTEGER NOT NULL, rank INTEGER NOT NULL, seq INTEGER NOT NULL,
    at INTEGER NOT NULL, stream TEXT NOT NULL, text TEXT NOT NULL, UNIQUE (run, attempt, rank, seq)) STRICT;
CREATE INDEX logs_of_run ON logs (run, id);
CREATE TABLE acks (worker TEXT PRIMARY KEY, incarnation TEXT NOT NULL, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// What has to be known of metrics at a start, without reading all of them: of each its newest value and the sum of all.
/// And the traces that runs and sweeps were submitted under.
const SECOND: &str = "
CREATE TABLE traces (target TEXT PRIMARY KEY, traceparent TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE latest (run TEXT NOT NULL, name TEXT NOT NULL, step INTEGER NOT NULL, at INTEGER NOT NULL, value REAL NOT NULL,
    total REAL NOT NULL, PRIMARY KEY (run, name)) STRICT, WITHOUT ROWID;
INSERT INTO latest (run, name, step, at, value, total)
    SELECT run, name, max(step), at, value, sum(value) FROM metrics GROUP BY run, name;
";

/// Made by whoever needs it first, in a database of any version.
pub(super) const TOKENS: &str = "
CREATE TABLE IF NOT EXISTS tokens (id TEXT PRIMARY KEY, name TEXT NOT NULL, hash BLOB NOT NULL, scope TEXT NOT NULL, project TEXT,
    created_at INTEGER NOT NULL, expires_at INTEGER, revoked_at INTEGER) STRICT;
";

/// What makes a database of version `n` one of version `n + 1`.
const STEPS: [&str; VERSION as usize] = [FIRST, SECOND];

/// Stands in where an older database may only be read. SQLite takes the bare columns from the row that has the maximum.
const STAND_IN: &str = "
CREATE TEMP TABLE traces (target TEXT PRIMARY KEY, traceparent TEXT NOT NULL);
CREATE TEMP VIEW latest AS
    SELECT run, name, max(step) AS step, at, value, sum(value) AS total FROM metrics GROUP BY run, name;
";

pub(super) fn version(db: &Connection) -> rusqlite::Result<i64> {
    db.pragma_query_value(None, "user_version", |r| r.get(0))
}

/// Makes the tables of this version out of those that are there; all of it or nothing.
pub(super) fn migrate(db: &mut Connection) -> rusqlite::Result<()> {
    let found = version(db)?;
    for (n, step) in (0..VERSION).zip(STEPS).skip(usize::try_from(found).unwrap_or(0)) {
        let tx = db.transaction()?;
        tx.execute_batch(step)?;
        tx.pragma_update(None, "user_version", n + 1)?;
        tx.commit()?;
        if found > 0 {
            tracing::info!("the database is of version {} now", n + 1);
        }
    }
    Ok(())
}

/// As [`migrate`], for one that may only be read.
pub(super) fn stand_in(db: &Connection) -> rusqlite::Result<()> {
    if version(db)? < 2 { db.execute_batch(STAND_IN) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use morph_control::{Cluster, Policy, RunState, evolve};

    use super::{
        super::{Point, Reader, Sqlite},
        *,
    };

    fn fixture(sql: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        (dir, path)
    }

    #[test]
    fn a_database_of_version_1_is_read_as_it_is_and_becomes_one_of_today() {
        let (_dir, path) = fixture(include_str!("../../../tests/fixtures/v1.sql"));
        let look = |mut store: Sqlite| {
            let mut cluster = Cluster::new(Policy::default());
            store.replay(0, &mut |recorded| evolve(&mut cluster, &recorded.event)).unwrap();
            let runs: Vec<_> = cluster.in_order().collect();
            assert_eq!(runs.len(), 2);
            assert!(
                runs.iter().all(|r| matches!(r.state, RunState::Succeeded { .. }) && r.summary["opacity/auroc"] > 0.0)
            );
            let mut known: Vec<Vec<(Point, f64)>> = Vec::new();
            for run in &runs {
                known.push(Vec::new());
                let all = known.last_mut().unwrap();
                store.latest(Some(run.id), &mut |_, point, total| all.push((point, total))).unwrap();
            }
            let loss = known[0].iter().find(|(p, _)| p.name == "train/loss").unwrap();
            let points = store.metrics(runs[0].id, &["train/loss".into()]).unwrap();
            assert_eq!(&loss.0, points.last().unwrap());
            assert!((loss.1 - points.iter().map(|p| p.value).sum::<f64>()).abs() < 1e-12);
            known
        };
        let read = look(Sqlite::read(&path).unwrap());
        assert_eq!(version(&Connection::open(&path).unwrap()).unwrap(), 1, "who only reads changes nothing");
        let migrated = look(Sqlite::open(&path).unwrap());
        assert_eq!(version(&Connection::open(&path).unwrap()).unwrap(), VERSION);
        let again = look(Sqlite::read(&path).unwrap());
        assert_eq!((&read, &migrated), (&migrated, &again));
    }
}
