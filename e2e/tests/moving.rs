//! From a file to PostgreSQL: everything or nothing, and the cluster goes on there.

use std::{collections::BTreeSet, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use morph_control::{Event, Target, What};
use morph_coordinator::store::{self, Batch, Line, Lines, Page, Point, Token};
use morph_e2e::{Home, cluster::Cluster, expect, lab::Lab, postgres::Postgres, program, run};
use morph_spec::{Fence, Rng, RunId, Timestamp, WorkerId};

/// `morph-coordinator copy`, from `state` into `postgres`.
fn copy(state: &Path, postgres: &Postgres) -> Result<Command> {
    let mut command = Command::new(program("morph-coordinator")?);
    command.arg("copy").arg("--from").arg(state).args(["--to", &postgres.url()]);
    Ok(command)
}

/// What each table of the file has: its columns.
fn tables(state: &Path) -> Result<BTreeSet<(String, String)>> {
    let db = rusqlite::Connection::open(state)?;
    let sql = "SELECT t.name, c.name FROM sqlite_schema t, pragma_table_info(t.name) c WHERE t.type = 'table'";
    let mut query = db.prepare(sql)?;
    Ok(query.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<rusqlite::Result<_>>()?)
}

#[test]
fn everything_that_a_file_holds_is_in_the_server_afterwards_or_nothing() -> Result<()> {
    let Some(postgres) = Postgres::start(&["fsync=off"])? else { return Ok(()) };
    let home = Home::new()?;
    let state = home.path().join("state.db");
    let (run_id, worker) = (
        RunId::new(Timestamp(5), &mut Rng::keyed(1, "run", 0)),
        WorkerId::new(Timestamp(5), &mut Rng::keyed(1, "worker", 0)),
    );
    let odd = "a\0b'\"\\\u{1b}[31m\u{10ffff}\n{}";
    let mut writer = store::open(&state)?;
    for n in 1..=20_u64 {
        let point = |name: &str| (run_id, Point { step: n, at: n, name: name.into(), value: 1.0 / n as f64 });
        let fence = Fence { run: run_id, attempt: u32::MAX };
        writer.commit(&Batch {
            events: vec![Event::new(Timestamp(n), What::DrainBegan { reason: format!("{n} {odd}") })],
            metrics: vec![point("train/loss"), point(odd), point("🫁")],
            lines: vec![Line { fence, rank: 1, seq: n, at: n, stream: "stderr".into(), text: odd.into() }],
            acks: vec![(worker, odd.into(), n)],
            traces: vec![(Target::Run(run_id), "00-1-2-01".into())],
        })?;
    }
    let point = |n: u64| (run_id, Point { step: n, at: n, name: "many".into(), value: -0.0 });
    writer.commit(&Batch { metrics: (0..20_000).map(point).collect(), ..Batch::default() })?;
    let token = Token {
        id: "t".into(),
        name: "me".into(),
        hash: vec![0, 255, 7],
        scope: "admin".into(),
        project: None,
        created_at: 1,
        expires_at: Some(u64::MAX),
        revoked_at: None,
    };
    store::keyring(&state)?.add(&token)?;
    writer.close();

    // Whoever adds a table, or a column, adds it to the copy.
    let columns = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'morph'
                   AND table_name NOT IN ('meta', 'lease')";
    let said = expect(&mut copy(&state, &postgres)?, 0)?;
    for (table, rows) in
        [("events", 20), ("metrics", 20_060), ("latest", 4), ("logs", 20), ("acks", 1), ("traces", 1), ("tokens", 1)]
    {
        ensure!(said.lines().any(|l| l.split_whitespace().eq([table, &rows.to_string(), "rows"])), "{table}: {said}");
        ensure!(postgres.ask(&format!("SELECT count(*) FROM morph.{table}"))? == rows.to_string());
    }
    let theirs: BTreeSet<(String, String)> = postgres
        .ask(columns)?
        .lines()
        .filter_map(|l| l.split_once('|').map(|(table, column)| (table.to_owned(), column.to_owned())))
        .collect();
    ensure!(theirs == tables(&state)?, "{theirs:?}");

    // A second time there is something there.
    let refused = expect(&mut copy(&state, &postgres)?, 1)?;
    ensure!(refused.contains("there are events in it already"), "{refused}");

    // What both say is the same.
    let server = store::postgres::Server::new(&postgres.url(), None)?;
    let (mut here, mut there) =
        (store::Database::sqlite(&state).read()?, store::Database::Postgres(server.clone()).read()?);
    ensure!(here.history(None, Page::default())? == there.history(None, Page::default())?);
    ensure!(here.metrics(run_id, &["many".into()])? == there.metrics(run_id, &["many".into()])?);
    let lines =
        |lines: (Vec<Line>, u64)| (lines.0.into_iter().map(|l| (l.seq, l.at, l.rank)).collect::<Vec<_>>(), lines.1);
    ensure!(lines(here.lines(run_id, Lines::default())?) == lines(there.lines(run_id, Lines::default())?));
    ensure!(here.traces()? == there.traces()?);

    // And it goes on there: numbers follow.
    let store::postgres::Taken::Ours(mut writer, mut keys) = server.take("test", Duration::from_secs(10))? else {
        anyhow::bail!("the copy has kept the lease")
    };
    ensure!(keys.all()? == [Token { expires_at: Some(i64::MAX as u64), ..token }]);
    let fence = Fence { run: run_id, attempt: 1 };
    let line = Line { fence, rank: 1, seq: 1, at: 99, stream: "stderr".into(), text: "more".into() };
    let event = Event::new(Timestamp(99), What::CoordinatorStarted {});
    writer.commit(&Batch { events: vec![event], lines: vec![line], ..Batch::default() })?;
    ensure!(postgres.ask("SELECT max(seq) FROM morph.events")? == "21");
    ensure!(postgres.ask("SELECT max(id) FROM morph.logs")? == "21");

    // Somebody serves with it; and a file that is no database; and a server that breaks in the middle keeps nothing.
    let other = home.path().join("other.db");
    drop(store::open(&other)?);
    let refused = expect(&mut copy(&other, &postgres)?, 1)?;
    ensure!(refused.contains("test serves with it"), "{refused}");
    writer.close();
    postgres.ask("DROP SCHEMA morph CASCADE")?;
    let refused = expect(&mut copy(&home.write("text.db", &"x".repeat(5000))?, &postgres)?, 1)?;
    ensure!(refused.contains("text.db"), "{refused}");
    rusqlite::Connection::open(&state)?
        .execute_batch("INSERT INTO acks VALUES ('a' || char(0), 'x', 1), ('a\u{2400}', 'x', 2)")?;
    let refused = expect(&mut copy(&state, &postgres)?, 1)?;
    ensure!(refused.contains("copy into PostgreSQL at 127.0.0.1"), "{refused}");
    ensure!(postgres.ask("SELECT to_regclass('morph.events') IS NULL")? == "t", "nothing is kept");
    let secret = postgres.url().replace("morph@", "morph:hunter2@");
    let mut said = Command::new(program("morph-coordinator")?);
    let refused = expect(said.arg("copy").arg("--from").arg(&other).args(["--to", &secret]), 1)?;
    ensure!(refused.contains("MORPH_DATABASE") && !refused.contains("hunter2"), "{refused}");
    Ok(())
}

#[test]
fn a_cluster_moves_while_its_ranks_train_on() -> Result<()> {
    let Some(postgres) = Postgres::start(&["fsync=off"])? else { return Ok(()) };
    let lab = Lab::with(20, |home| Cluster::new(home.path()))?;
    let state = lab.home.path().join("state.db");
    let mut coordinator = lab.cluster.coordinator()?;
    let agent = lab.cluster.agent("agent", 2)?;
    lab.train("x", &[])?;
    lab.wait("x", "running", 3)?;

    // While it is served it can be backed up, and not copied.
    let refused = expect(&mut copy(&state, &postgres)?, 1)?;
    ensure!(refused.contains(&format!("already served by pid {}", coordinator.pid())), "{refused}");
    let backup = lab.home.path().join("backup.db");
    let mut command = Command::new(program("morph-coordinator")?);
    expect(command.arg("backup").arg("--home").arg(lab.home.path()).arg("--to").arg(&backup), 0)?;
    let saved = rusqlite::Connection::open(&backup)?;
    ensure!(saved.query_row("SELECT count(*) FROM metrics", [], |r| r.get::<_, u64>(0))? > 0);
    let mut pg = Command::new(program("morph-coordinator")?);
    let other = lab.home.path().join("other.db");
    let said = run(pg.arg("backup").arg("--to").arg(&other).env("MORPH_DATABASE", postgres.url()))?;
    ensure!(String::from_utf8_lossy(&said.stderr).contains("pg_dump") && !other.exists());

    expect(Command::new("kill").arg("-TERM").arg(coordinator.pid().to_string()), 0)?;
    ensure!(coordinator.ended()? == 0, "{}", coordinator.printed());
    expect(&mut copy(&state, &postgres)?, 0)?;
    std::fs::rename(&state, lab.home.path().join("moved.db"))?;

    let objects = lab.home.path().join("objects").to_str().context("a path is text")?.to_owned();
    let _coordinator = lab.cluster.coordinator_with(&["--database", &postgres.url(), "--objects", &objects])?;
    let x = lab.wait("x", "succeeded", 1)?;
    ensure!(x["attempt"] == 1, "its ranks never noticed: {x:#}\n{}", agent.printed());
    let steps = postgres.ask("SELECT count(*), min(step), max(step) FROM morph.metrics WHERE name = 'train/loss'")?;
    let last = x["step"].as_u64().context("a step")?;
    ensure!(steps == format!("{last}|1|{last}"), "{steps} of {last}");
    // The agent's token, which the file knew, opens the door to new work.
    lab.train("y", &["--set", "trainer.epochs=1"])?;
    lab.wait("y", "succeeded", 1)?;
    ensure!(!state.exists(), "the file is not needed any more");
    Ok(())
}
