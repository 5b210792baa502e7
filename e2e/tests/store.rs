//! The contract of the coordinator's database, asked of both that there are.

use std::{sync::Mutex, thread::sleep, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use morph_control::{Cluster, Event, Policy, RunState, Target, What, evolve};
use morph_coordinator::store::{
    self, Batch, Database, Error, Keyring, Line, Lines, Page, Point, Reader, Recorded, Token, Writer,
    postgres::{Server, Taken},
};
use morph_e2e::postgres::Postgres;
use morph_spec::{Fence, Rng, RunId, SweepId, Timestamp, WorkerId};

/// A database, empty at first, that is opened again and again.
trait Place {
    fn write(&self) -> Result<(Box<dyn Writer>, Box<dyn Keyring>)>;
    fn database(&self) -> Result<Database>;
}

struct File(tempfile::TempDir);

impl Place for File {
    fn write(&self) -> Result<(Box<dyn Writer>, Box<dyn Keyring>)> {
        let path = self.0.path().join("state.db");
        Ok((store::open(&path)?, store::keyring(&path)?))
    }

    fn database(&self) -> Result<Database> {
        Ok(Database::sqlite(&self.0.path().join("state.db")))
    }
}

const LEASE: Duration = Duration::from_secs(2);

impl Place for Postgres {
    fn write(&self) -> Result<(Box<dyn Writer>, Box<dyn Keyring>)> {
        match Server::new(&self.url(), None)?.take("test", LEASE)? {
            Taken::Ours(writer, keyring) => Ok((writer, keyring)),
            Taken::Held { holder, .. } => bail!("held by {holder}"),
        }
    }

    fn database(&self) -> Result<Database> {
        Ok(Database::Postgres(Server::new(&self.url(), None)?))
    }
}

fn everywhere(contract: impl Fn(&dyn Place) -> Result<()>) -> Result<()> {
    contract(&File(tempfile::tempdir()?)).context("SQLite")?;
    if let Some(postgres) = Postgres::start(&["fsync=off"])? {
        contract(&postgres).context("PostgreSQL")?;
    }
    Ok(())
}

fn id<T>(n: u64, new: impl Fn(Timestamp, &mut Rng) -> T) -> T {
    new(Timestamp(5), &mut Rng::keyed(n, "test", 0))
}

fn line(run: RunId, attempt: u32, rank: u32, seq: u64, at: u64) -> Line {
    let text = format!("{attempt}.{rank}.{seq}");
    Line { fence: Fence { run, attempt }, rank, seq, at, stream: "stderr".into(), text }
}

fn point(step: u64, value: f64) -> Point {
    Point { step, at: step, name: "train/loss".into(), value }
}

fn latest(reader: &mut dyn Reader, of: Option<RunId>) -> Result<Vec<(RunId, Point, f64)>> {
    let mut all = Vec::new();
    reader.latest(of, &mut |run, point, total| all.push((run, point, total)))?;
    Ok(all)
}

fn all(reader: &mut dyn Reader) -> Result<Vec<Recorded>> {
    let all = Mutex::new(Vec::new());
    reader.replay(0, &mut |recorded| all.lock().expect("nobody panicked").push(recorded))?;
    Ok(all.into_inner().expect("nobody panicked"))
}

#[test]
fn what_was_committed_is_there_after_opening_again() -> Result<()> {
    everywhere(|place| {
        let (run, other, worker) = (id(1, RunId::new), id(2, RunId::new), id(1, WorkerId::new));
        let event = Event::new(Timestamp(7), What::RunCancelled { run });
        let batch = Batch {
            events: vec![event.clone()],
            metrics: vec![(run, point(1, 0.1)), (run, point(2, 0.2)), (other, point(1, 5.0)), (run, point(1, 9.0))],
            lines: vec![line(run, 1, 0, 0, 10), line(run, 1, 1, 0, 5), line(run, 1, 0, 0, 99), line(run, 2, 0, 0, 20)],
            acks: vec![(worker, "a".into(), 3), (worker, "a".into(), 4)],
            traces: vec![(Target::Run(run), "00-0-0-00".into()), (Target::Run(run), "00-1-2-01".into())],
        };
        let (mut writer, _) = place.write()?;
        writer.commit(&batch)?;
        // Said again, and one more.
        writer.commit(&Batch { metrics: vec![(run, point(2, 7.0)), (run, point(3, 0.3))], ..Batch::default() })?;
        let mut reader = place.database()?.read()?;
        ensure!(reader.traces()? == [(Target::Run(run), "00-1-2-01".to_owned())]);
        ensure!(all(&mut *reader)? == [Recorded { seq: 1, event: event.clone() }]);
        ensure!(reader.history(Some(Target::Run(run)), Page::default())?.len() == 1);
        ensure!(reader.history(Some(Target::Run(other)), Page::default())?.is_empty());
        let points = reader.metrics(run, &[])?;
        ensure!(points == [point(1, 0.1), point(2, 0.2), point(3, 0.3)], "the first value stays: {points:?}");
        ensure!(
            reader.metrics(run, &["other".into()])?.is_empty()
                && reader.metrics(run, &["train/loss".into()])?.len() == 3
        );
        let newest = latest(&mut *reader, Some(run))?;
        ensure!(newest.len() == 1 && newest[0].1 == point(3, 0.3) && (newest[0].2 - 0.6).abs() < 1e-12, "{newest:?}");
        ensure!(latest(&mut *reader, None)?.len() == 2);
        let mut texts = |w| anyhow::Ok(reader.lines(run, w)?.0.into_iter().map(|l| l.text).collect::<Vec<_>>());
        ensure!(texts(Lines::default())? == ["1.1.0", "1.0.0", "2.0.0"]);
        ensure!(texts(Lines { tail: 1, ..Lines::default() })? == ["2.0.0"]);
        ensure!(texts(Lines { rank: Some(0), attempt: Some(1), ..Lines::default() })? == ["1.0.0"]);
        let (_, upto) = reader.lines(run, Lines::default())?;
        ensure!(reader.lines(run, Lines { after: upto, ..Lines::default() })?.0.is_empty());
        ensure!(reader.acks()? == [(worker, "a".to_owned(), 4)]);
        writer.close();
        let (mut writer, _) = place.write()?;
        writer.commit(&Batch { events: vec![event.clone()], ..Batch::default() })?;
        ensure!(all(&mut *place.database()?.read()?)?.last() == Some(&Recorded { seq: 2, event }));
        place.database()?.writable()?;
        ensure!(place.database()?.size().iter().any(|(part, bytes)| *part == "data" && *bytes > 1000));
        writer.close();
        Ok(())
    })
}

#[test]
fn what_agents_may_say_can_be_written() -> Result<()> {
    everywhere(|place| {
        let (run, worker) = (id(1, RunId::new), id(1, WorkerId::new));
        let odd = "a\0b'\"\\\u{1b}[31m\u{10ffff}\n{}";
        let name = "🫁".repeat(60);
        let batch = Batch {
            metrics: vec![(run, Point { step: i64::MAX as u64, at: 0, name: name.clone(), value: f64::MIN_POSITIVE })],
            lines: vec![Line {
                text: odd.into(),
                stream: odd.into(),
                ..line(run, u32::MAX, u32::MAX, i64::MAX as u64, 1)
            }],
            acks: vec![(worker, odd.into(), i64::MAX as u64)],
            traces: vec![(Target::Sweep(id(1, SweepId::new)), odd.into())],
            events: vec![Event::new(Timestamp(1), What::DrainBegan { reason: odd.into() })],
        };
        let (mut writer, _) = place.write()?;
        writer.commit(&batch)?;
        let mut reader = place.database()?.read()?;
        ensure!(all(&mut *reader)?[0].event == batch.events[0]);
        ensure!(reader.metrics(run, &[name])?[0] == batch.metrics[0].1);
        let read = &reader.lines(run, Lines::default())?.0[0];
        ensure!(read.text.replace('\u{2400}', "\0") == odd && read.rank == u32::MAX, "{read:?}");
        writer.close();
        Ok(())
    })
}

#[test]
fn a_history_is_read_in_pages() -> Result<()> {
    everywhere(|place| {
        let (run, sweep, worker) = (id(1, RunId::new), id(1, SweepId::new), id(1, WorkerId::new));
        let at = |n, what| Event::new(Timestamp(n), what);
        let events = vec![
            at(1, What::CoordinatorStarted {}),
            at(2, What::RunPaused { run }),
            at(3, What::WorkerAway { worker }),
            at(4, What::RunResumed { run }),
            at(5, What::SweepPaused { sweep }),
        ];
        let (mut writer, _) = place.write()?;
        writer.commit(&Batch { events, ..Batch::default() })?;
        let mut reader = place.database()?.read()?;
        let mut seqs = |of, page| anyhow::Ok(reader.history(of, page)?.iter().map(|r| r.seq).collect::<Vec<_>>());
        let of_run = Some(Target::Run(run));
        ensure!(seqs(None, Page::default())? == [1, 2, 3, 4, 5]);
        ensure!(seqs(of_run, Page::default())? == [2, 4]);
        ensure!(seqs(Some(Target::Sweep(sweep)), Page::default())? == [5]);
        ensure!(seqs(of_run, Page { limit: 1, ..Page::default() })? == [2]);
        ensure!(seqs(of_run, Page { limit: 2, after: 3, ..Page::default() })? == [4]);
        ensure!(seqs(None, Page { since: 3, limit: 1, ..Page::default() })? == [3]);
        ensure!(seqs(None, Page { bytes: 1, ..Page::default() })? == [1], "at least one");
        ensure!(seqs(None, Page { bytes: 1, after: 1, limit: 3, ..Page::default() })? == [2]);
        ensure!(seqs(None, Page { bytes: 1 << 20, after: 1, limit: 3, ..Page::default() })? == [2, 3, 4]);
        ensure!(seqs(None, Page { since: u64::MAX, ..Page::default() })?.is_empty());
        writer.close();
        Ok(())
    })
}

#[test]
fn tokens_are_kept() -> Result<()> {
    everywhere(|place| {
        let (writer, mut keyring) = place.write()?;
        let token = |id: &str, created_at| Token {
            id: id.into(),
            name: format!("name of {id}"),
            hash: vec![7; 32],
            scope: "read".into(),
            project: Some("thorax".into()),
            created_at,
            expires_at: Some(u64::MAX),
            revoked_at: None,
        };
        keyring.add(&token("b", 1))?;
        keyring.add(&Token { expires_at: None, project: None, ..token("a", 2) })?;
        keyring.revoke("b", 9)?;
        drop(keyring);
        writer.close();
        let (writer, mut keyring) = place.write()?;
        let kept = keyring.all()?;
        ensure!(
            kept[0] == Token { revoked_at: Some(9), expires_at: Some(i64::MAX as u64), ..token("b", 1) },
            "{kept:?}"
        );
        ensure!(kept[1] == Token { expires_at: None, project: None, ..token("a", 2) }, "{kept:?}");
        writer.close();
        Ok(())
    })
}

fn one(n: u64) -> Batch {
    Batch { events: vec![Event::new(Timestamp(n), What::CoordinatorStarted {})], ..Batch::default() }
}

#[test]
fn one_writes_and_the_next_takes_over_only_when_the_lease_ran_out_or_was_given_up() -> Result<()> {
    let Some(postgres) = Postgres::start(&["fsync=off"])? else { return Ok(()) };
    let server = Server::new(&postgres.url(), None)?;
    let (mut first, mut keys) = postgres.write()?;
    first.commit(&one(1))?;
    let Taken::Held { holder, mark } = server.take("second", LEASE)? else { bail!("two hold the lease") };
    ensure!(holder == "test");
    let Taken::Held { mark: same, .. } = server.take("second", LEASE)? else { bail!("two hold the lease") };
    ensure!(same == mark, "nobody renewed it");
    // Renewed by nothing but being used.
    for n in 2..8 {
        sleep(LEASE / 4);
        first.commit(&one(n))?;
        ensure!(matches!(server.take("second", LEASE)?, Taken::Held { .. }));
        let lives = server.take_from("second", LEASE, Some(mark))?;
        ensure!(matches!(lives, Taken::Held { mark: now, .. } if now != mark), "whoever renews it is not dead");
    }
    // And by commits of nothing.
    for _ in 0..6 {
        sleep(first.pace().context("it must be kept up")?);
        first.commit(&Batch::default())?;
        ensure!(matches!(server.take("second", LEASE)?, Taken::Held { .. }));
    }
    // It is stopped, and goes on when another one writes.
    sleep(LEASE + LEASE / 4);
    let Taken::Ours(mut second, _) = server.take("second", LEASE)? else { bail!("the lease ran out") };
    second.commit(&one(100))?;
    let refused = first.commit(&one(50)).err().context("it lost the lease")?;
    ensure!(matches!(&refused, Error::Lost { holder, .. } if holder == "second"), "{refused}");
    ensure!(first.commit(&Batch::default()).is_err(), "it knows even when it has nothing to say");
    let token = Token {
        id: "x".into(),
        name: "x".into(),
        hash: vec![0; 32],
        scope: "admin".into(),
        project: None,
        created_at: 1,
        expires_at: None,
        revoked_at: None,
    };
    ensure!(matches!(keys.add(&token), Err(Error::Lost { .. })), "no tokens either");
    second.commit(&one(101))?;
    let mut reader = postgres.database()?.read()?;
    let times: Vec<u64> = all(&mut *reader)?.iter().map(|r| r.event.at.0).collect();
    ensure!(times == [1, 2, 3, 4, 5, 6, 7, 100, 101], "{times:?}");
    // Given up, it is free at once.
    second.close();
    ensure!(matches!(server.take("third", LEASE)?, Taken::Ours(..)));
    // The server's clock is set back by an hour: who has seen for long enough that nobody renews it does not wait for that.
    postgres.ask("UPDATE morph.lease SET until = until + interval '1 hour'")?;
    let Taken::Held { mark, .. } = server.take("fourth", LEASE)? else { bail!("it has an hour to go") };
    ensure!(matches!(server.take_from("fourth", LEASE, Some(mark))?, Taken::Ours(..)));
    Ok(())
}

#[test]
fn a_server_that_crashes_is_waited_for_and_nothing_is_written_twice() -> Result<()> {
    let Some(mut postgres) = Postgres::start(&[])? else { return Ok(()) };
    let (mut writer, _) = postgres.write()?;
    let database = postgres.database()?;
    writer.commit(&one(1))?;
    drop(database.read()?);
    postgres.crash()?;
    let waiting = std::thread::spawn(move || writer.commit(&one(2)).map(|()| writer));
    sleep(Duration::from_millis(500));
    ensure!(!waiting.is_finished(), "there is no server");
    postgres.up()?;
    let mut writer = waiting.join().expect("it does not panic")?;
    writer.commit(&one(3))?;
    // The answer is lost with the connection, the event is not: the server is told to end whatever is connected.
    postgres.ask("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'morph'")?;
    writer.commit(&one(4))?;
    let mut reader = database.read()?;
    let times: Vec<(u64, u64)> = all(&mut *reader)?.iter().map(|r| (r.seq, r.event.at.0)).collect();
    ensure!(times == [(1, 1), (2, 2), (3, 3), (4, 4)], "{times:?}");
    Ok(())
}

#[test]
fn a_newer_format_is_refused_and_does_not_take_the_lease() -> Result<()> {
    let Some(postgres) = Postgres::start(&["fsync=off"])? else { return Ok(()) };
    postgres.write()?.0.close();
    postgres.ask("UPDATE morph.meta SET version = version + 1")?;
    let refused = postgres.write().err().context("it is newer")?.to_string();
    ensure!(refused.contains("newer morph") && refused.contains("127.0.0.1"), "{refused}");
    ensure!(postgres.database()?.writable().is_err());
    postgres.ask("UPDATE morph.meta SET version = version - 1")?;
    postgres.write()?.0.close();
    Ok(())
}

#[test]
fn a_postgresql_of_version_1_is_read_as_it_is_and_becomes_one_of_today() -> Result<()> {
    let Some(postgres) = Postgres::start(&["fsync=off"])? else { return Ok(()) };
    postgres.ask(include_str!("../../coordinator/tests/fixtures/v1.postgres.sql"))?;
    let look = || {
        let mut reader = postgres.database()?.read()?;
        let mut cluster = Cluster::new(Policy::default());
        let events = all(&mut *reader)?;
        events.iter().for_each(|recorded| evolve(&mut cluster, &recorded.event));
        let runs: Vec<RunId> = cluster.in_order().map(|run| run.id).collect();
        let succeeded = |id| matches!(cluster.runs[id].state, RunState::Succeeded { .. });
        ensure!(events.len() == 24 && runs.len() == 2 && runs.iter().all(succeeded), "{} events", events.len());
        let points = reader.metrics(runs[0], &["train/loss".into()])?;
        let newest = latest(&mut *reader, Some(runs[0]))?;
        let (_, last, total) = newest.iter().find(|(_, p, _)| p.name == "train/loss").context("its loss")?;
        ensure!(Some(last) == points.last() && points.len() == 4, "{points:?}");
        ensure!((total - points.iter().map(|p| p.value).sum::<f64>()).abs() < 1e-12);
        ensure!(reader.lines(runs[0], Lines::default())?.0.len() > 5 && reader.acks()?.len() == 1);
        Ok((events, points))
    };
    let before = look()?;
    ensure!(postgres.ask("SELECT version FROM morph.meta")? == "1", "who only reads changes nothing");
    let (mut writer, _) = postgres.write()?;
    ensure!(look()? == before);
    writer.commit(&one(9_000_000_000_000_000))?;
    writer.close();
    ensure!(all(&mut *postgres.database()?.read()?)?.len() == 25);
    Ok(())
}
