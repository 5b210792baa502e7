//! kill -9 of a rank, of an agent and of the coordinator, one after another in one run: it finishes with the very weights
//! and metrics of a run that nobody disturbed.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use morph_e2e::{
    Home,
    cluster::{Cluster, Process, ranks_of},
    expect, job, run, wait_for,
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);

fn only_run(home: &Home, cluster: &Cluster) -> Result<Value> {
    let runs = job::runs(home, &["--coordinator", &cluster.url()])?;
    ensure!(runs.len() == 1, "one run was submitted, {} are listed", runs.len());
    Ok(runs.into_iter().next().expect("one run"))
}

fn step(run: &Value) -> u64 {
    run["step"].as_u64().or_else(|| run["step"].as_str().and_then(|s| s.parse().ok())).unwrap_or(0)
}

fn submit(home: &Home, cluster: &Cluster, experiment: &Path) -> Result<()> {
    expect(home.morphctl()?.args(["--coordinator", &cluster.url(), "train", "--detach"]).arg(experiment), 0)?;
    Ok(())
}

fn finish(home: &Home, cluster: &Cluster) -> Result<Value> {
    wait_for("the run to end", LIMIT, || {
        let run = only_run(home, cluster)?;
        Ok(matches!(run["state"].as_str(), Some("succeeded" | "failed" | "cancelled")))
    })?;
    only_run(home, cluster)
}

fn at_step(home: &Home, cluster: &Cluster, wanted: u64) -> Result<()> {
    wait_for(&format!("step {wanted}"), LIMIT, || {
        let run = only_run(home, cluster)?;
        ensure!(run["state"] != "failed" && run["state"] != "succeeded", "the run ended too early: {run:#}");
        Ok(step(&run) >= wanted)
    })
}

struct Outcome {
    run: Value,
    weights: Vec<u8>,
    metrics: job::Metrics,
}

fn outcome(home: &Home, run: Value) -> Result<Outcome> {
    let id = run["id"].as_str().context("a run has an id")?;
    Ok(Outcome { weights: job::final_weights(home, id)?, metrics: job::metrics(home.path(), id)?, run })
}

fn trained(disturb: impl FnOnce(&Home, &Cluster, &mut Process, &mut Process) -> Result<()>) -> Result<Outcome> {
    let home = Home::new()?;
    job::dataset(&home, 60, 8)?;
    let experiment = job::experiment(&home, 12)?;
    let cluster = Cluster::new(home.path())?;
    let mut coordinator = cluster.coordinator()?;
    let mut agent = cluster.agent("agent", 2)?;
    submit(&home, &cluster, &experiment)?;
    disturb(&home, &cluster, &mut coordinator, &mut agent)?;
    let run = finish(&home, &cluster)?;
    ensure!(run["state"] == "succeeded", "{run:#}\n{}\n{}", coordinator.printed(), agent.printed());
    outcome(&home, run)
}

#[test]
fn a_run_survives_kill_9_of_rank_agent_and_coordinator_unchanged() -> Result<()> {
    let calm = trained(|_, _, _, _| Ok(()))?;
    let rough = trained(|home, cluster, coordinator, agent| {
        at_step(home, cluster, 5)?;
        let ranks = ranks_of(agent.pid())?;
        ensure!(ranks.len() == 2, "two ranks run: {ranks:?}");
        ensure!(Command::new("kill").args(["-9", &ranks[1].to_string()]).status()?.success());

        at_step(home, cluster, 15)?;
        agent.kill9()?;
        *agent = cluster.agent("agent", 2)?;

        at_step(home, cluster, 25)?;
        coordinator.kill9()?;
        std::thread::sleep(Duration::from_secs(1));
        *coordinator = cluster.coordinator()?;
        Ok(())
    })?;
    ensure!(rough.run["attempt"].as_u64().unwrap_or(0) >= 3, "two failures make three attempts: {:#}", rough.run);
    ensure!(calm.weights == rough.weights, "the weights differ");
    ensure!(calm.metrics == rough.metrics, "the metrics differ");
    ensure!(!calm.metrics.is_empty(), "metrics were recorded");
    for name in ["opacity/auroc", "opacity/auprc", "healthy/ssim", "val/score"] {
        let value = |o: &Outcome| o.run["summary"][name].as_f64().with_context(|| format!("no {name}: {:#}", o.run));
        ensure!(value(&calm)?.to_bits() == value(&rough)?.to_bits(), "{name} differs");
    }
    Ok(())
}

#[test]
fn a_run_waits_for_workers_and_says_so() -> Result<()> {
    let home = Home::new()?;
    job::dataset(&home, 40, 4)?;
    let experiment = job::experiment(&home, 1)?;
    let cluster = Cluster::new(home.path())?;
    let _coordinator = cluster.coordinator()?;
    submit(&home, &cluster, &experiment)?;
    let waiting = only_run(&home, &cluster)?;
    ensure!(waiting["state"] == "queued", "{waiting:#}");
    let reason = waiting["reason"].as_str().unwrap_or_default().to_owned();
    ensure!(reason.contains("no worker"), "it says what it waits for: {reason:?}");
    let _agent = cluster.agent("agent", 2)?;
    let run = finish(&home, &cluster)?;
    ensure!(run["state"] == "succeeded", "{run:#}");
    Ok(())
}

#[test]
fn a_port_in_use_is_one_clear_error() -> Result<()> {
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let home = Home::new()?;
    let out = run(Command::new(morph_e2e::program("morph-coordinator")?)
        .args(["--listen", &address, "--home"])
        .arg(home.path()))?;
    let said = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.code() == Some(1), "{}: {said}", out.status);
    ensure!(said.contains(&address) && said.contains("in use"), "{said}");
    ensure!(!fs::exists(home.path().join("coordinator.json"))?, "nothing is left behind");
    Ok(())
}
