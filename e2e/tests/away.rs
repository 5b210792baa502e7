//! The coordinator is away: training goes on, nothing that ranks said meanwhile is lost, and what was asked for before
//! happens after.

use std::{thread::sleep, time::Duration};

use anyhow::{Result, ensure};
use morph_e2e::{
    cluster::{ranks_of, signal},
    lab::{LIMIT, Lab},
    wait_for,
};

#[test]
fn what_ranks_said_to_an_agent_that_died_is_delivered_once_by_the_next() -> Result<()> {
    let lab = Lab::new(8)?;
    let mut coordinator = lab.cluster.coordinator()?;
    let mut agent = lab.cluster.agent("agent", 2)?;
    lab.train("x", &[])?;
    lab.wait("x", "running", 3)?;
    coordinator.kill9()?;
    // It trains to its end, is evaluated, and nobody but the agent hears of it.
    Lab::idle(&agent)?;
    agent.kill9()?;
    let left = lab.home.path().join("agent/journal");
    ensure!(left.exists(), "the agent has left a journal");

    let _coordinator = lab.cluster.coordinator()?;
    let agent = lab.cluster.agent("agent", 2)?;
    let run = lab.wait("x", "succeeded", 1)?;
    ensure!(run["attempt"] == 1, "nothing was trained again: {run:#}\n{}", agent.printed());
    ensure!(run["summary"]["opacity/auroc"].is_number(), "{run:#}");
    lab.whole(&run)?;
    let logs = lab.ctl(&["logs", "x"])?;
    let ended = logs.lines().filter(|l| l.contains("rank ended: Succeeded")).count();
    ensure!(ended == 2, "each rank's end is told once: {logs}");
    wait_for("the journal to go", LIMIT, || Ok(!left.exists()))?;
    // And it serves again.
    lab.train("y", &["--set", "trainer.epochs=2"])?;
    lab.wait("y", "succeeded", 1)?;
    Ok(())
}

/// Runs are running (for `epochs`), stopping and queued, on an agent that stays and on one that dies, while the coordinator is
/// away for `seconds`.
fn away_for(seconds: u64, epochs: u32) -> Result<()> {
    let lab = Lab::new(8)?;
    let mut coordinator = lab.cluster.coordinator()?;
    // Long enough not to end before the others are where they are to be.
    let alone = ["--set", "trainer.world_size=1", "--set", "trainer.epochs=150"];
    let endless = ["--set", "trainer.world_size=1", "--set", "trainer.epochs=1000"];
    let first = lab.cluster.agent("first", 3)?;
    lab.train("running", &["--set", &format!("trainer.epochs={epochs}")])?;
    lab.wait("running", "running", 1)?;
    lab.train("stopping", &endless)?;
    lab.wait("stopping", "running", 1)?;
    let mut second = lab.cluster.agent("second", 2)?;
    lab.train("stopping-orphaned", &endless)?;
    lab.wait("stopping-orphaned", "running", 1)?;
    lab.train("orphaned", &alone)?;
    lab.wait("orphaned", "running", 1)?;
    lab.train("queued", &alone)?;
    ensure!(lab.run("queued")?["state"] == "queued", "{:#}", lab.run("queued")?);
    // Who is held cannot save, and so is still stopping when the coordinator dies.
    let held: Vec<u32> = [first.pid(), second.pid()].into_iter().map(ranks_of).collect::<Result<Vec<_>>>()?.concat();
    signal(&held, "-STOP")?;
    for name in ["stopping", "stopping-orphaned"] {
        lab.ctl(&["cancel", name])?;
        ensure!(lab.run(name)?["state"] == "stopping", "{:#}", lab.run(name)?);
    }
    coordinator.kill9()?;
    second.kill9()?;
    signal(&ranks_of(first.pid())?, "-CONT")?;
    sleep(Duration::from_secs(seconds));
    ensure!(seconds != 20 || !ranks_of(first.pid())?.is_empty(), "training goes on");

    let _coordinator = lab.cluster.coordinator()?;
    let _second = lab.cluster.agent("second", 2)?;
    let running = lab.wait("running", "succeeded", 1)?;
    ensure!(running["attempt"] == 1, "it never noticed: {running:#}");
    lab.whole(&running)?;
    let orphaned = lab.wait("orphaned", "succeeded", 1)?;
    ensure!(orphaned["attempt"].as_u64() <= Some(2), "lost once at most: {orphaned:#}");
    lab.whole(&orphaned)?;
    // The same job, which nobody disturbed.
    let queued = lab.wait("queued", "succeeded", 1)?;
    ensure!(queued["attempt"] == 1, "{queued:#}");
    lab.same(&orphaned, &queued)?;
    lab.wait("stopping", "cancelled", 1)?;
    lab.wait("stopping-orphaned", "cancelled", 1)?;
    Ok(())
}

#[test]
fn a_coordinator_that_was_stopped_and_wakes_up_takes_nobody_for_lost() -> Result<()> {
    let lab = Lab::new(8)?;
    let coordinator = lab.cluster.coordinator_with(&["--grace", "2s"])?;
    let _agent = lab.cluster.agent("agent", 2)?;
    lab.train("x", &["--set", "trainer.epochs=300"])?;
    lab.wait("x", "running", 3)?;
    for seconds in [4, 13] {
        // Longer than its own patience; and so long that connections are given up, too.
        signal(&[coordinator.pid()], "-STOP")?;
        sleep(Duration::from_secs(seconds));
        signal(&[coordinator.pid()], "-CONT")?;
        sleep(Duration::from_secs(1));
        ensure!(lab.run("x")?["attempt"] == 1, "after {seconds} s: {:#}\n{}", lab.run("x")?, coordinator.printed());
    }
    let run = lab.wait("x", "succeeded", 1)?;
    ensure!(run["attempt"] == 1, "{run:#}");
    lab.whole(&run)?;
    Ok(())
}

#[test]
fn away_for_no_time() -> Result<()> {
    away_for(0, 20)
}

#[test]
fn away_for_20_seconds() -> Result<()> {
    away_for(20, 250)
}

#[test]
fn away_for_60_seconds() -> Result<()> {
    // It ends while nobody listens.
    away_for(60, 20)
}
