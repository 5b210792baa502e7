//! A cluster with a small job: what tests that disturb it have in common.

use std::{path::PathBuf, thread::sleep, time::Duration};

use anyhow::{Context, Result, ensure};
use rusqlite::Connection;
use serde_json::Value;

use crate::{
    Home,
    cluster::{Cluster, Process},
    expect, job, wait_for,
};

/// How long anything may take.
pub const LIMIT: Duration = Duration::from_secs(120);

/// A coordinator that may be started, and a job for it.
#[derive(Debug)]
pub struct Lab {
    /// Where all lies.
    pub home: Home,
    /// Whom to ask.
    pub cluster: Cluster,
    /// The job.
    pub experiment: PathBuf,
}

impl Lab {
    /// Everything below one home; the job takes `epochs` epochs.
    ///
    /// # Errors
    /// When the job cannot be prepared.
    pub fn new(epochs: u32) -> Result<Self> {
        Self::with(epochs, |home| Cluster::new(home.path()))
    }

    /// As [`Self::new`], of another cluster.
    ///
    /// # Errors
    /// When the job cannot be prepared.
    pub fn with(epochs: u32, cluster: impl FnOnce(&Home) -> Result<Cluster>) -> Result<Self> {
        let home = Home::new()?;
        job::dataset(&home, 60, 8)?;
        let experiment = job::experiment(&home, epochs)?;
        let cluster = cluster(&home)?;
        Ok(Self { home, cluster, experiment })
    }

    fn asking(&self) -> Result<Vec<String>> {
        let state = self.cluster.state().to_str().context("a path is text")?.to_owned();
        Ok(vec!["--home".into(), state, "--coordinator".into(), self.cluster.url()])
    }

    /// What `morphctl` says to `args`.
    ///
    /// # Errors
    /// When it fails.
    pub fn ctl(&self, args: &[&str]) -> Result<String> {
        expect(self.home.morphctl()?.args(self.asking()?).args(args), 0)
    }

    /// Submits the job as `name`, with more arguments.
    ///
    /// # Errors
    /// When it is refused.
    pub fn train(&self, name: &str, more: &[&str]) -> Result<()> {
        let file = self.experiment.to_str().context("a path is text")?;
        let data = format!("dataset.url={}", self.home.path().join("datasets/tiny").display());
        self.ctl(&[&["train", file, "--detach", "--name", name, "--set", &data], more].concat()).map(drop)
    }

    /// The run `name`.
    ///
    /// # Errors
    /// When nobody answers, or it is not known.
    pub fn run(&self, name: &str) -> Result<Value> {
        let asking = self.asking()?;
        let all = job::runs(&self.home, &asking.iter().map(String::as_str).collect::<Vec<_>>())?;
        all.into_iter().find(|r| r["name"] == name).with_context(|| format!("run {name}"))
    }

    /// Waits until `name` is in `state` and has taken `step` steps.
    ///
    /// # Errors
    /// When it fails, or does not in time.
    pub fn wait(&self, name: &str, state: &str, step: u64) -> Result<Value> {
        let mut last = Value::Null;
        wait_for(&format!("{name} to be {state} at step {step}"), LIMIT, || {
            last = self.run(name)?;
            ensure!(state == "failed" || last["state"] != "failed", "{last:#}");
            ensure!(state == "succeeded" || last["state"] != "succeeded", "it ended too early: {last:#}");
            Ok(last["state"] == state && last["step"].as_u64() >= Some(step))
        })
        .with_context(|| format!("{last:#}"))?;
        self.run(name)
    }

    /// Waits until `agent` has seen two ranks end, and has had time to write that down.
    ///
    /// # Errors
    /// When they do not.
    pub fn idle(agent: &Process) -> Result<()> {
        wait_for("the ranks to end", LIMIT, || Ok(agent.printed().matches("rank ended").count() == 2))?;
        sleep(Duration::from_millis(200));
        Ok(())
    }

    /// The coordinator's database, to look into.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn database(&self) -> Result<Connection> {
        let path = self.cluster.state().join("state.db");
        Connection::open(&path).with_context(|| format!("open {}", path.display()))
    }

    /// Whether each step of `run`, up to its last, was recorded once.
    ///
    /// # Errors
    /// When not.
    pub fn whole(&self, run: &Value) -> Result<()> {
        let db = self.database()?;
        let mut query = db.prepare("SELECT step FROM metrics WHERE run = ?1 AND name = 'train/loss' ORDER BY step")?;
        let steps = query.query_map([run["id"].as_str().context("an id")?], |r| r.get::<_, u64>(0))?;
        let steps = steps.collect::<rusqlite::Result<Vec<_>>>()?;
        let last = run["step"].as_u64().context("a step")?;
        ensure!(steps == (1..=last).collect::<Vec<_>>(), "each of {last} steps once: {steps:?}");
        Ok(())
    }

    /// The weights that `run` ended with.
    ///
    /// # Errors
    /// When it has none.
    pub fn weights(&self, run: &Value) -> Result<Vec<u8>> {
        job::final_weights(&self.home, run["id"].as_str().context("an id")?)
    }

    /// Whether `one` and `other` came to the same end: the same weights and metrics, to the bit.
    ///
    /// # Errors
    /// When not.
    pub fn same(&self, one: &Value, other: &Value) -> Result<()> {
        ensure!(self.weights(one)? == self.weights(other)?, "the weights differ: {one:#} {other:#}");
        let metrics = |run: &Value| job::metrics(self.cluster.state(), run["id"].as_str().context("an id")?);
        let (a, b) = (metrics(one)?, metrics(other)?);
        ensure!(a == b && !a.is_empty(), "the metrics differ: {a:?} {b:?}");
        Ok(())
    }
}
