//! The tables, in the schema `morph`, and how older ones become them. They say the same as SQLite's. Each version's database lies in
//! `tests/fixtures` as `pg_dump` has it, and opens for ever (`e2e/tests/store.rs`).

use postgres::{Error, Transaction};

/// Version of the tables that this build writes (`morph.meta`).
pub(super) const VERSION: i64 = 1;

/// Whether [`GROUND`] is there.
pub(super) const IS_GROUND: &str =
    "SELECT to_regclass('morph.meta') IS NOT NULL AND to_regclass('morph.lease') IS NOT NULL";

/// What must be there before the lease can be asked for. Two who begin at the same time wait for each other at the lock.
pub(super) const GROUND: &str = "
SELECT pg_advisory_xact_lock(7805901);
CREATE SCHEMA IF NOT EXISTS morph;
CREATE TABLE IF NOT EXISTS morph.meta (one boolean PRIMARY KEY DEFAULT true CHECK (one), version bigint NOT NULL);
INSERT INTO morph.meta (version) VALUES (0) ON CONFLICT DO NOTHING;
CREATE TABLE IF NOT EXISTS morph.lease (one boolean PRIMARY KEY DEFAULT true CHECK (one), epoch bigint NOT NULL,
    holder text NOT NULL, until timestamptz NOT NULL, free boolean NOT NULL);
";

const FIRST: &str = "
CREATE TABLE events (seq bigint PRIMARY KEY, at bigint NOT NULL, kind text NOT NULL, run text, sweep text, json text NOT NULL);
CREATE INDEX events_of_run ON events (run, seq);
CREATE INDEX events_of_sweep ON events (sweep, seq);
CREATE TABLE metrics (run text NOT NULL, name text NOT NULL, step bigint NOT NULL, at bigint NOT NULL,
    value double precision NOT NULL, PRIMARY KEY (run, name, step));
CREATE TABLE latest (run text NOT NULL, name text NOT NULL, step bigint NOT NULL, at bigint NOT NULL,
    value double precision NOT NULL, total double precision NOT NULL, PRIMARY KEY (run, name));
CREATE TABLE logs (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, run text NOT NULL, attempt bigint NOT NULL,
    rank bigint NOT NULL, seq bigint NOT NULL, at bigint NOT NULL, stream text NOT NULL, text text NOT NULL,
    UNIQUE (run, attempt, rank, seq));
CREATE INDEX logs_of_run ON logs (run, id);
CREATE TABLE acks (worker text PRIMARY KEY, incarnation text NOT NULL, seq bigint NOT NULL);
CREATE TABLE traces (target text PRIMARY KEY, traceparent text NOT NULL);
CREATE TABLE tokens (id text PRIMARY KEY, name text NOT NULL, hash bytea NOT NULL, scope text NOT NULL, project text,
    created_at bigint NOT NULL, expires_at bigint, revoked_at bigint);
";

/// What makes tables of version `n` those of version `n + 1`.
const STEPS: [&str; VERSION as usize] = [FIRST];

/// The version that is there.
pub(super) fn version(tx: &mut Transaction<'_>) -> Result<i64, Error> {
    Ok(tx.query_one("SELECT version FROM meta", &[])?.get(0))
}

/// Makes the tables of this version out of those of version `found`.
pub(super) fn migrate(tx: &mut Transaction<'_>, found: i64) -> Result<(), Error> {
    for (n, step) in (0..VERSION).zip(STEPS).skip(usize::try_from(found).unwrap_or(0)) {
        tx.batch_execute(step)?;
        tx.execute("UPDATE meta SET version = $1", &[&(n + 1)])?;
        if found > 0 {
            tracing::info!("the database is of version {} now", n + 1);
        }
    }
    Ok(())
}
