//! The coordinator is away: training goes on, nothing that ranks said meanwhile is lost, and what was asked for before
//! happens after.

use std::{path::PathBuf, thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use morph_e2e::{
    Home,
    cluster::{Cluster, Process, ranks_of},
    expect, job, wait_for,
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(240);

struct Lab {
    home: Home,
    cluster: Cluster,
    experiment: PathBuf,
}

impl Lab {
    fn new() -> Result<Self> {
        let home = Home::new()?;
        job::dataset(&home, 60, 8)?;
        let experiment = job::experiment(&home, 8)?;
        let cluster = Cluster::new(home.path())?;
        Ok(Self { home, cluster, experiment })
    }

    fn ctl(&self, args: &[&str]) -> Result<String> {
        expect(self.home.morphctl()?.args(["--coordinator", &self.cluster.url()]).args(args), 0)
    }

    fn train(&self, name: &str, more: &[&str]) -> Result<()> {
        let file = self.experiment.to_str().context("a path is text")?;
        self.ctl(&[&["train", file, "--detach", "--name", name], more].concat()).map(drop)
    }

    fn run(&self, name: &str) -> Result<Value> {
        let all = job::runs(&self.home, &["--coordinator", &self.cluster.url()])?;
        all.into_iter().find(|r| r["name"] == name).with_context(|| format!("run {name}"))
    }

    fn wait(&self, name: &str, state: &str, step: u64) -> Result<Value> {
        wait_for(&format!("{name} to be {state} at step {step}"), LIMIT, || {
            let run = self.run(name)?;
            ensure!(run["state"] != "failed", "{run:#}");
            Ok(run["state"] == state && run["step"].as_u64() >= Some(step))
        })?;
        self.run(name)
    }

    /// Waits until `agent` has seen both its ranks end, and has had time to write that down.
    fn idle(agent: &Process) -> Result<()> {
        wait_for("the ranks to end", LIMIT, || Ok(agent.printed().matches("rank ended").count() == 2))?;
        sleep(Duration::from_millis(200));
        Ok(())
    }

    /// Each step's loss, in order: (step, how often).
    fn steps(&self) -> Result<Vec<(u64, u64)>> {
        let db = rusqlite::Connection::open(self.home.path().join("state.db"))?;
        let mut query =
            db.prepare("SELECT step, count(*) FROM metrics WHERE name = 'train/loss' GROUP BY step ORDER BY step")?;
        Ok(query.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?.collect::<rusqlite::Result<_>>()?)
    }
}

#[test]
fn what_ranks_said_to_an_agent_that_died_is_delivered_once_by_the_next() -> Result<()> {
    let lab = Lab::new()?;
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
    let steps = lab.steps()?;
    let last = run["step"].as_u64().context("a step")?;
    ensure!(steps == (1..=last).map(|s| (s, 1)).collect::<Vec<_>>(), "each step once: {steps:?}");
    let logs = lab.ctl(&["logs", "x"])?;
    let ended = logs.lines().filter(|l| l.contains("rank ended: Succeeded")).count();
    ensure!(ended == 2, "each rank's end is told once: {logs}");
    wait_for("the journal to go", LIMIT, || Ok(!left.exists()))?;
    // And it serves again.
    lab.train("y", &["--set", "trainer.epochs=2"])?;
    lab.wait("y", "succeeded", 1)?;
    Ok(())
}

/// Runs are running (for `epochs`), stopping and queued, and an agent dies while the coordinator is away for `seconds`.
fn away_for(seconds: u64, epochs: u32) -> Result<()> {
    let lab = Lab::new()?;
    let mut coordinator = lab.cluster.coordinator()?;
    let first = lab.cluster.agent("first", 2)?;
    lab.train("running", &["--set", &format!("trainer.epochs={epochs}")])?;
    lab.wait("running", "running", 1)?;
    let mut second = lab.cluster.agent("second", 2)?;
    lab.train("orphaned", &["--set", "trainer.world_size=1"])?;
    lab.wait("orphaned", "running", 1)?;
    lab.train("stopping", &["--set", "trainer.world_size=1", "--set", "trainer.epochs=1000"])?;
    lab.wait("stopping", "running", 1)?;
    lab.train("queued", &["--set", "trainer.epochs=2"])?;
    lab.ctl(&["cancel", "stopping"])?;
    coordinator.kill9()?;
    second.kill9()?;
    sleep(Duration::from_secs(seconds));
    ensure!(seconds != 20 || !ranks_of(first.pid())?.is_empty(), "training goes on");

    let _coordinator = lab.cluster.coordinator()?;
    let _second = lab.cluster.agent("second", 2)?;
    let run = lab.wait("running", "succeeded", 1)?;
    ensure!(run["attempt"] == 1, "it never noticed: {run:#}");
    let run = lab.wait("orphaned", "succeeded", 1)?;
    ensure!(run["attempt"].as_u64() <= Some(2), "lost once at most: {run:#}");
    lab.wait("queued", "succeeded", 1)?;
    lab.wait("stopping", "cancelled", 1)?;
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
