//! Two coordinators share a PostgreSQL: one serves, the other stands by and takes over.

use std::{
    fs::File,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use morph_e2e::{
    Home,
    cluster::{Cluster, Process, ranks_of},
    expect, job,
    postgres::Postgres,
    program, wait_for,
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);

struct Lab {
    postgres: Postgres,
    home: Home,
    first: Cluster,
    second: Cluster,
    experiment: PathBuf,
    token: PathBuf,
}

impl Lab {
    /// The first coordinator serves, the second stands by.
    fn new(postgres: Postgres) -> Result<(Self, Process, Process)> {
        let home = Home::new()?;
        job::dataset(&home, 60, 8)?;
        let experiment = job::experiment(&home, 40)?;
        let (first, second) = (Cluster::new(&home.path().join("a"))?, Cluster::new(&home.path().join("b"))?);
        for name in ["a", "b"] {
            std::fs::create_dir(home.path().join(name))?;
        }
        let token = home.path().join("admin.token");
        let lab = Self { postgres, home, first, second, experiment, token };
        let one = lab.coordinator(&lab.first)?;
        Self::serves(&lab.first)?;
        let two = lab.coordinator(&lab.second)?;
        let mut create = Command::new(program("morphctl")?);
        create.args(["token", "create", "--scope", "admin", "--name", "me", "--out"]).arg(&lab.token);
        expect(create.arg("--home").arg(lab.home.path().join("a")).env_remove("MORPH_COORDINATOR"), 0)?;
        let (code, why) = lab.second.page("/readyz")?;
        ensure!(code == 503 && why.contains("stands by") && why.contains("the coordinator at"), "{code} {why}");
        ensure!(lab.second.page("/healthz")?.0 == 200);
        Ok((lab, one, two))
    }

    fn coordinator(&self, which: &Cluster) -> Result<Process> {
        let objects = self.home.path().join("objects");
        let objects = objects.to_str().context("a path is text")?;
        which.coordinator_with(&["--database", &self.postgres.url(), "--objects", objects, "--lease", "2s"])
    }

    fn serves(which: &Cluster) -> Result<()> {
        wait_for("the coordinator to serve", LIMIT, || Ok(which.page("/readyz").is_ok_and(|(code, _)| code == 200)))
    }

    fn urls(&self) -> String {
        format!("{},{}", self.second.url(), self.first.url())
    }

    fn ctl(&self, args: &[&str]) -> Result<String> {
        let mut command = self.home.morphctl()?;
        expect(command.args(["--coordinator", &self.urls(), "--token-file"]).arg(&self.token).args(args), 0)
    }

    /// As [`Self::ctl`], and goes on meanwhile; it has said something when this returns.
    fn start(&self, args: &[&str]) -> Result<Following> {
        let file = self.home.path().join(format!("{}.txt", args[0]));
        let out = File::create(&file)?;
        let mut command = self.home.morphctl()?;
        command.args(["--coordinator", &self.urls(), "--token-file"]).arg(&self.token).args(args);
        let child = command.stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out).spawn()?;
        let following = Following { child, file };
        wait_for(&format!("{args:?} to say something"), LIMIT, || Ok(!following.said()?.is_empty()))?;
        Ok(following)
    }

    fn run(&self, name: &str) -> Result<Value> {
        let token = self.token.to_str().context("a path is text")?;
        let all = job::runs(&self.home, &["--coordinator", &self.urls(), "--token-file", token])?;
        all.into_iter().find(|r| r["name"] == name).with_context(|| format!("run {name}"))
    }

    /// Trains in pieces: `then` happens in the middle.
    fn train(&self, name: &str) -> Result<()> {
        let file = self.experiment.to_str().context("a path is text")?;
        self.ctl(&["train", file, "--detach", "--name", name])?;
        wait_for("some steps", LIMIT, || Ok(self.run(name)?["step"].as_u64() >= Some(3)))
    }

    fn succeeded(&self, name: &str) -> Result<Value> {
        wait_for(&format!("{name} to succeed"), LIMIT, || {
            // Nobody may serve just now.
            let Ok(run) = self.run(name) else { return Ok(false) };
            ensure!(run["state"] != "failed", "{run:#}");
            Ok(run["state"] == "succeeded")
        })?;
        self.run(name)
    }

    /// Whether each step of `run` was recorded once, up to its last.
    fn whole(&self, run: &Value) -> Result<()> {
        let id = run["id"].as_str().context("an id")?;
        let sql = format!(
            "SELECT count(*), min(step), max(step) FROM morph.metrics WHERE run = '{id}' AND name = 'train/loss'"
        );
        let last = run["step"].as_u64().context("a step")?;
        let steps = self.postgres.ask(&sql)?;
        ensure!(steps == format!("{last}|1|{last}"), "{steps} of {last}");
        Ok(())
    }
}

/// A command that shows what happens.
struct Following {
    child: Child,
    file: PathBuf,
}

impl Following {
    /// On stdout and stderr.
    fn said(&self) -> Result<String> {
        Ok(std::fs::read_to_string(&self.file)?)
    }

    /// All that it said, when it has ended well.
    fn done(mut self) -> Result<String> {
        let ended = self.child.wait()?;
        let said = self.said()?;
        ensure!(ended.success(), "{ended}: {said}");
        Ok(said)
    }
}

/// Lines of one moment may come in any order.
fn sorted<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut lines: Vec<&str> = lines.collect();
    lines.sort_unstable();
    lines
}

#[test]
fn who_stands_by_takes_over_from_one_that_died_and_from_one_that_left() -> Result<()> {
    let Some(postgres) = Postgres::start(&["fsync=off"])? else { return Ok(()) };
    let (lab, mut first, second) = Lab::new(postgres)?;
    let agent = lab.first.agent_of(&lab.urls(), "agent", 2)?;
    lab.train("x")?;
    let following = [lab.start(&["events", "x", "--follow"])?, lab.start(&["logs", "x", "--follow"])?];
    let watching = lab.start(&["train", lab.experiment.to_str().context("a path is text")?, "--name", "x"])?;
    first.kill9()?;
    // As if the database's clock were set back by an hour: whoever waited for it would wait longer than this test does.
    lab.postgres.ask("UPDATE morph.lease SET until = until + interval '1 hour'")?;
    Lab::serves(&lab.second)?;
    ensure!(ranks_of(agent.pid())?.len() == 2, "training goes on:\n{}", agent.printed());
    let run = lab.succeeded("x")?;
    ensure!(run["attempt"] == 1, "the ranks never noticed: {run:#}\n{}\n{}", agent.printed(), second.printed());
    lab.whole(&run)?;
    let watched = watching.done()?;
    ensure!(watched.contains("waiting for it"), "{watched}");
    for (followed, again) in following.into_iter().zip([["events", "x"], ["logs", "x"]]) {
        let (followed, all) = (followed.done()?, lab.ctl(&again)?);
        let lines = followed.lines().filter(|line| !line.contains("waiting for it"));
        ensure!(sorted(lines) == sorted(all.lines()), "{again:?}:\n{followed}\nbut\n{all}");
    }

    // The first comes back, and stands by now. The second is asked to leave: its place is free at once.
    let first = lab.coordinator(&lab.first)?;
    wait_for("the first to stand by", LIMIT, || {
        Ok(lab.first.page("/readyz").is_ok_and(|(c, b)| c == 503 && b.contains("stands by")))
    })?;
    lab.train("y")?;
    expect(Command::new("kill").arg("-TERM").arg(second.pid().to_string()), 0)?;
    Lab::serves(&lab.first)?;
    let run = lab.succeeded("y")?;
    ensure!(run["attempt"] == 1, "{run:#}\n{}\n{}", agent.printed(), first.printed());
    lab.whole(&run)?;
    let x = lab.run("x")?;
    ensure!(x["state"] == "succeeded", "what was known is known: {x:#}");
    let same = |run: &Value| job::final_weights(&lab.home, run["id"].as_str().context("an id")?);
    ensure!(same(&x)? == same(&run)?, "the same weights, whoever served");
    Ok(())
}

#[test]
fn a_coordinator_that_was_thought_dead_changes_nothing_when_it_wakes_up() -> Result<()> {
    let Some(postgres) = Postgres::start(&["fsync=off"])? else { return Ok(()) };
    let (lab, mut first, _second) = Lab::new(postgres)?;
    let agent = lab.first.agent_of(&lab.urls(), "agent", 2)?;
    lab.train("x")?;
    let signal = |name: &str| expect(Command::new("kill").arg(name).arg(first.pid().to_string()), 0);
    signal("-STOP")?;
    Lab::serves(&lab.second)?;
    wait_for("the agent to come over", LIMIT, || Ok(lab.ctl(&["get", "workers"])?.contains("ready")))?;
    let before: u64 = lab.postgres.ask("SELECT epoch FROM morph.lease")?.parse()?;
    signal("-CONT")?;
    let (code, said) = (first.ended()?, first.printed());
    ensure!(code == 1 && said.contains("has taken over") && !said.contains("panicked"), "{code}: {said}");
    let run = lab.succeeded("x")?;
    ensure!(run["attempt"] == 1, "{run:#}\n{}", agent.printed());
    lab.whole(&run)?;
    ensure!(lab.postgres.ask("SELECT epoch FROM morph.lease")?.parse::<u64>()? == before);
    let starts = lab.postgres.ask("SELECT count(*) FROM morph.events WHERE kind = 'coordinator_started'")?;
    ensure!(starts == "2", "{starts} coordinators began to serve");
    Ok(())
}

#[test]
fn a_server_that_crashes_in_the_middle_is_waited_for() -> Result<()> {
    let Some(postgres) = Postgres::start(&[])? else { return Ok(()) };
    let (mut lab, mut first, mut second) = Lab::new(postgres)?;
    let agent = lab.first.agent_of(&lab.urls(), "agent", 2)?;
    lab.train("x")?;
    lab.postgres.crash()?;
    std::thread::sleep(Duration::from_secs(3));
    lab.postgres.up()?;
    let run = lab.succeeded("x")?;
    ensure!(run["attempt"] == 1, "{run:#}\n{}", agent.printed());
    lab.whole(&run)?;
    // Whoever of them was faster: one serves, and nobody has given up.
    ensure!(second.alive()?, "{}", second.printed());
    ensure!(first.alive()? || first.printed().contains("has taken over"), "{}", first.printed());
    Ok(())
}

#[test]
fn passwords_travel_encrypted_and_are_not_shown() -> Result<()> {
    let Some(mut postgres) = Postgres::start(&["fsync=off", "password_encryption=scram-sha-256"])? else {
        return Ok(());
    };
    let home = Home::new()?;
    let ca = home.path().join("ca");
    let certs = |args: &[&str]| expect(home.morphctl()?.arg("certs").args(args).current_dir(home.path()), 0);
    certs(&["init", "ca"])?;
    certs(&["init", "other"])?;
    certs(&["issue", "--ca", "ca", "--kind", "coordinator", "--name", "db", "--ip", "127.0.0.1", "--out", "db"])?;
    let find = |suffix: &str| -> Result<PathBuf> {
        let all = std::fs::read_dir(home.path().join("db"))?.filter_map(|e| Some(e.ok()?.path()));
        all.into_iter().find(|p| p.extension().is_some_and(|e| e == suffix)).with_context(|| format!("a .{suffix}"))
    };
    postgres.file("server.crt", &std::fs::read(find("crt")?)?)?;
    postgres.file("server.key", &std::fs::read(find("key")?)?)?;
    postgres.ask("ALTER ROLE morph PASSWORD 'hunter2-secret'")?;
    postgres.ask("ALTER SYSTEM SET ssl = on")?;
    postgres.file("pg_hba.conf", b"local all all trust\nhostssl all all all scram-sha-256\n")?;
    postgres.crash()?;
    postgres.up()?;

    let cluster = Cluster::new(home.path())?;
    let url = |how: &str| format!("postgresql://morph{how}@127.0.0.1:{}/postgres?sslmode=require", postgres.port());
    let objects = home.path().join("objects").display().to_string();
    let start = |database: &str, authority: &str, said: bool, password: &str| -> Result<String> {
        let mut command = Command::new(program("morph-coordinator")?);
        command.args(["--home"]).arg(home.path().join("none")).args(["--listen", "127.0.0.1:0", "--objects", &objects]);
        command.arg("--database-ca").arg(home.path().join(authority).join("ca.crt"));
        if said {
            command.args(["--database", database])
        } else {
            command.env("MORPH_DATABASE", database)
        };
        expect(command.env("PGPASSWORD", password), 1)
    };
    let refused = start(&url(":hunter2-secret"), "ca", true, "")?;
    ensure!(refused.contains("MORPH_DATABASE") && !refused.contains("hunter2"), "{refused}");
    let refused = start(&url(":wrong-secret"), "ca", false, "")?;
    ensure!(refused.contains("password authentication failed") && !refused.contains("wrong-secret"), "{refused}");
    let refused = start(&url(""), "other", false, "hunter2-secret")?;
    ensure!(refused.to_lowercase().contains("certificate") && !refused.contains("hunter2"), "{refused}");

    let ca = ca.join("ca.crt");
    let mut coordinator = Process::start(
        Command::new(program("morph-coordinator")?)
            .args(["--listen", cluster.url().trim_start_matches("http://"), "--objects", &objects, "--home"])
            .arg(home.path())
            .arg("--database-ca")
            .arg(ca)
            .env("MORPH_DATABASE", url(":hunter2-secret"))
            .env("RUST_LOG", "debug"),
        &home.path().join("coordinator.log"),
    )?;
    wait_for("the coordinator to serve", LIMIT, || {
        ensure!(coordinator.alive()?, "{}", coordinator.printed());
        Ok(cluster.page("/readyz").is_ok_and(|(code, _)| code == 200))
    })?;
    let line = std::fs::read(format!("/proc/{}/cmdline", coordinator.pid()))?;
    ensure!(!String::from_utf8_lossy(&line).contains("hunter2"));
    ensure!(!coordinator.printed().contains("hunter2"), "{}", coordinator.printed());
    ensure!(!cluster.page("/metrics")?.1.contains("hunter2"));
    Ok(())
}
