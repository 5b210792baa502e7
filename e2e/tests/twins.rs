//! The same agent twice: Kubernetes starts a pod a second time, or somebody copies a home.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use morph_e2e::{
    Home,
    cluster::{Cluster, ranks_of},
    expect, job, wait_for,
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

fn run(home: &Home, url: &str, name: &str) -> Result<Value> {
    let all = job::runs(home, &["--coordinator", url])?;
    all.into_iter().find(|r| r["name"] == name).with_context(|| format!("run {name}"))
}

fn wait(home: &Home, url: &str, name: &str, state: &str, step: u64) -> Result<Value> {
    wait_for(&format!("{name} to be {state} at step {step}"), LIMIT, || {
        let run = run(home, url, name)?;
        ensure!(run["state"] != "failed", "{run:#}");
        Ok(run["state"] == state && run["step"].as_u64() >= Some(step))
    })?;
    run(home, url, name)
}

fn copied(from: &Path, to: &Path) -> Result<()> {
    expect(Command::new("cp").arg("-a").arg(from).arg(to), 0).map(drop)
}

#[test]
fn the_one_that_came_last_stays_and_the_other_ends_with_its_ranks() -> Result<()> {
    let home = Home::new()?;
    job::dataset(&home, 60, 8)?;
    let file = job::experiment(&home, 12)?;
    let file = file.to_str().context("a path is text")?;
    let cluster = Cluster::new(home.path())?;
    let url = cluster.url();
    let train = |name: &str| {
        let args = ["--coordinator", &url, "train", file, "--detach", "--name", name];
        expect(home.morphctl()?.args(args), 0)
    };
    let coordinator = cluster.coordinator()?;
    let mut one = cluster.agent("one", 2)?;
    train("x")?;
    wait(&home, &url, "x", "running", 3)?;
    let ranks = ranks_of(one.pid())?;
    ensure!(ranks.len() == 2, "{ranks:?}");

    copied(&home.path().join("one"), &home.path().join("two"))?;
    let mut two = cluster.agent("two", 2)?;
    wait_for("the first agent to end", LIMIT, || Ok(!one.alive()?))?;
    ensure!(one.printed().contains("another agent with its id"), "{}", one.printed());
    ensure!(one.printed().contains("--home of its own"), "{}", one.printed());
    wait_for("its ranks to end", LIMIT, || {
        Ok(ranks.iter().all(|pid| !fs::exists(format!("/proc/{pid}")).unwrap_or(false)))
    })?;
    let x = wait(&home, &url, "x", "succeeded", 1)?;
    ensure!(x["attempt"] == 2, "it went on with the second: {x:#}");
    ensure!(two.alive()?, "{}", two.printed());
    let joined = coordinator.printed().matches("an agent is here").count();
    ensure!(joined <= 3, "they do not replace each other again and again:\n{}", coordinator.printed());

    // The first one's home, started again, is a new agent of this id: whoever starts it wants it.
    let journal = home.path().join("one/journal");
    let again = cluster.agent("one", 2)?;
    wait_for("the second agent to end", LIMIT, || Ok(!two.alive()?))
        .with_context(|| format!("{}\n---\n{}", again.printed(), two.printed()))?;
    ensure!(!journal.exists(), "what nobody waits for is given up");
    train("y")?;
    let y = wait(&home, &url, "y", "succeeded", 1)?;
    let weights = |run: &Value| job::final_weights(&home, run["id"].as_str().context("an id")?);
    ensure!(weights(&x)? == weights(&y)?, "the same weights as undisturbed");
    Ok(())
}
