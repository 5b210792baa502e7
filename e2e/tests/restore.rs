//! The coordinator's disk is lost, and a backup is put in its place, while agents and ranks are still at what they were told since.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use morph_e2e::{
    cluster::{Cluster, ranks_of},
    expect,
    lab::{LIMIT, Lab},
    postgres::Postgres,
    program, wait_for,
};

/// `morph-coordinator NAME …`
fn tool(name: &str, args: &[(&str, &Path)]) -> Result<Command> {
    let mut command = Command::new(program("morph-coordinator")?);
    command.arg(name).env_remove("MORPH_DATABASE");
    for (option, path) in args {
        command.arg(option).arg(path);
    }
    Ok(command)
}

#[test]
fn a_cluster_goes_on_from_a_backup_while_ranks_of_the_lost_history_still_train() -> Result<()> {
    let lab = Lab::new(8)?;
    let (home, state) = (lab.home.path(), lab.home.path().join("state.db"));
    let backup = home.join("backup.db");
    let mut coordinator = lab.cluster.coordinator()?;
    let mut agent = lab.cluster.agent("agent", 4)?;
    let long = ["--set", "trainer.epochs=40"];
    lab.train("x", &long)?;
    lab.wait("x", "running", 3)?;
    expect(&mut tool("backup", &[("--home", home), ("--to", &backup)])?, 0)?;
    let refused = expect(&mut tool("restore", &[("--home", home), ("--from", &backup)])?, 1)?;
    ensure!(refused.contains(&format!("already served by pid {}", coordinator.pid())), "{refused}");

    // It goes on until the checkpoints that the backup knows are removed, and another run begins.
    lab.wait("x", "running", 30)?;
    lab.train("lost", &["--set", "trainer.epochs=1000"])?;
    lab.wait("lost", "running", 3)?;
    coordinator.kill9()?;
    ensure!(ranks_of(agent.pid())?.len() == 4, "all ranks train on");
    let refused = expect(&mut tool("restore", &[("--home", home), ("--from", &backup)])?, 1)?;
    ensure!(refused.contains("there is a database") && refused.contains("move it away"), "{refused}");
    fs::rename(&state, home.join("old.db"))?;
    let no_backup = lab.home.write("text.db", &"x".repeat(5000))?;
    let refused = expect(&mut tool("restore", &[("--home", home), ("--from", &no_backup)])?, 1)?;
    ensure!(refused.contains("text.db") && !state.exists(), "{refused}");
    let said = expect(&mut tool("restore", &[("--home", home), ("--from", &backup)])?, 0)?;
    ensure!(said.contains("1 runs, 1 of them not over") && said.contains("1 attempts that ran"), "{said}");

    let _coordinator = lab.cluster.coordinator()?;
    let x = lab.wait("x", "succeeded", 1)?;
    ensure!(x["attempt"].as_u64() > Some(10_000), "{x:#}");
    lab.whole(&x)?;
    ensure!(lab.run("lost").is_err(), "nobody knows it");
    wait_for("the lost run's ranks to be stopped", LIMIT, || Ok(ranks_of(agent.pid())?.is_empty()))?;
    ensure!(agent.alive()?, "it was never restarted: {}", agent.printed());
    let story = lab.ctl(&["events", "x"])?;
    ensure!(story.contains("restored from a backup"), "{story}");
    // The same job, which nobody disturbed.
    lab.train("y", &long)?;
    let y = lab.wait("y", "succeeded", 1)?;
    ensure!(y["attempt"] == 1, "{y:#}");
    lab.same(&x, &y)
}

#[test]
fn a_server_goes_on_from_what_was_put_into_it() -> Result<()> {
    let Some(postgres) = Postgres::start(&["fsync=off"])? else { return Ok(()) };
    let lab = Lab::with(20, |home| Cluster::new(home.path()))?;
    let home = lab.home.path();
    let backup = home.join("backup.db");
    let mut coordinator = lab.cluster.coordinator()?;
    let _agent = lab.cluster.agent("agent", 2)?;
    lab.train("x", &[])?;
    lab.wait("x", "running", 3)?;
    expect(&mut tool("backup", &[("--home", home), ("--to", &backup)])?, 0)?;
    lab.wait("x", "running", 12)?;
    coordinator.kill9()?;
    // Instead of pg_restore.
    expect(tool("copy", &[("--from", &backup)])?.args(["--to", &postgres.url()]), 0)?;
    let said = expect(tool("restore", &[])?.env("MORPH_DATABASE", postgres.url()), 0)?;
    ensure!(said.contains("1 attempts that ran"), "{said}");

    let objects = home.join("objects").to_str().context("a path is text")?.to_owned();
    let coordinator = lab.cluster.coordinator_with(&["--database", &postgres.url(), "--objects", &objects])?;
    // It listens before the database is its own.
    wait_for("the coordinator to serve", LIMIT, || Ok(lab.run("x").is_ok()))?;
    let refused = expect(tool("restore", &[])?.args(["--database", &postgres.url()]), 1)?;
    ensure!(refused.contains(&format!("pid {}", coordinator.pid())), "{refused}");
    let x = lab.wait("x", "succeeded", 1)?;
    ensure!(x["attempt"].as_u64() > Some(10_000), "{x:#}");
    let steps = postgres.ask("SELECT count(*), min(step), max(step) FROM morph.metrics WHERE name = 'train/loss'")?;
    let last = x["step"].as_u64().context("a step")?;
    ensure!(steps == format!("{last}|1|{last}"), "{steps} of {last}");
    Ok(())
}
