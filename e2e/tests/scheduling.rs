//! The verbs that move runs about, against real agents: nothing that was trained is lost by any of them.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use morph_e2e::{Home, cluster::Cluster, expect, job, wait_for};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);

struct Lab {
    home: Home,
    cluster: Cluster,
    experiment: PathBuf,
}

impl Lab {
    fn new(epochs: u32) -> Result<Self> {
        let home = Home::new()?;
        job::dataset(&home, 60, 8)?;
        let experiment = job::experiment(&home, epochs)?;
        let cluster = Cluster::new(home.path())?;
        Ok(Self { home, cluster, experiment })
    }

    fn ctl(&self, code: i32, args: &[&str]) -> Result<String> {
        expect(self.home.morphctl()?.args(["--coordinator", &self.cluster.url()]).args(args), code)
    }

    fn train(&self, name: &str, more: &[&str]) -> Result<()> {
        let file = self.experiment.to_str().context("a path is text")?;
        self.ctl(0, &[&["train", file, "--detach", "--name", name], more].concat()).map(drop)
    }

    fn run(&self, name: &str) -> Result<Value> {
        let all = job::runs(&self.home, &["--coordinator", &self.cluster.url()])?;
        all.into_iter().find(|r| r["name"] == name).with_context(|| format!("run {name}"))
    }

    /// Waits until `name` is in `state` and has taken `step` steps.
    fn wait(&self, name: &str, state: &str, step: u64) -> Result<Value> {
        wait_for(&format!("{name} to be {state} at step {step}"), LIMIT, || {
            let run = self.run(name)?;
            ensure!(run["state"] != "failed" || state == "failed", "{run:#}");
            Ok(run["state"] == state && run["step"].as_u64() >= Some(step))
        })?;
        self.run(name)
    }
}

#[test]
fn a_higher_priority_takes_the_slots_and_the_other_goes_on_where_it_was() -> Result<()> {
    let lab = Lab::new(40)?;
    let _coordinator = lab.cluster.coordinator()?;
    let _agent = lab.cluster.agent("agent", 2)?;
    lab.train("patient", &[])?;
    lab.wait("patient", "running", 20)?;
    lab.train("urgent", &["--priority", "10", "--set", "trainer.epochs=2"])?;
    lab.train("after", &["--after", "urgent", "--set", "trainer.epochs=2", "--priority", "-1"])?;
    lab.wait("urgent", "succeeded", 1)?;
    let patient = lab.run("patient")?;
    ensure!(patient["attempt"].as_u64() >= Some(1) && patient["state"] != "failed", "{patient:#}");
    let patient = lab.wait("patient", "succeeded", 40)?;
    ensure!(patient["attempt"] == 2, "preempted once: {patient:#}");
    let events = lab.ctl(0, &["describe", "run", "patient", "-o", "json"])?;
    ensure!(events.contains("makes room for urgent") && events.contains("goes on from step"), "{events}");
    lab.wait("after", "succeeded", 1)?;
    Ok(())
}

#[test]
fn a_rank_that_takes_more_memory_than_it_asked_for_is_ended() -> Result<()> {
    let lab = Lab::new(400)?;
    let _coordinator = lab.cluster.coordinator()?;
    let _agent = lab.cluster.agent("agent", 2)?;
    lab.train("greedy", &["--set", "scheduling.memory=16MiB"])?;
    let greedy = lab.wait("greedy", "failed", 0)?;
    let error = greedy["error"].as_str().unwrap_or_default();
    ensure!(error.contains("MiB of main memory, and scheduling.memory says 16: raise it"), "{greedy:#}");
    ensure!(greedy["attempt"] == 1, "another try would end the same way: {greedy:#}");
    lab.train("modest", &["--set", "scheduling.memory=4GiB", "--set", "trainer.epochs=4"])?;
    lab.wait("modest", "succeeded", 1)?;
    Ok(())
}

#[test]
fn pause_resume_cancel_retry_and_drain() -> Result<()> {
    let lab = Lab::new(60)?;
    let _coordinator = lab.cluster.coordinator()?;
    let _first = lab.cluster.agent("first", 2)?;
    lab.train("x", &[])?;
    lab.wait("x", "running", 10)?;
    lab.ctl(0, &["pause", "x"])?;
    let paused = lab.wait("x", "paused", 10)?;
    ensure!(paused["reason"].as_str().is_some_and(|r| r.contains("morphctl resume x")), "{paused:#}");
    lab.ctl(4, &["retry", "x"])?;
    lab.ctl(0, &["resume", "x"])?;
    lab.ctl(4, &["resume", "x"])?;
    lab.wait("x", "running", 20)?;
    lab.ctl(0, &["cancel", "x"])?;
    let cancelled = lab.wait("x", "cancelled", 20)?;
    let step = cancelled["step"].as_u64();
    lab.ctl(0, &["retry", "x"])?;
    let again = lab.wait("x", "running", 20)?;
    ensure!(again["step"].as_u64() >= step, "it goes on where it was cancelled: {again:#}");

    let _second = lab.cluster.agent("second", 2)?;
    let workers =
        || -> Result<Vec<Value>> { Ok(serde_json::from_str(&lab.ctl(0, &["get", "workers", "-o", "json"])?)?) };
    wait_for("the second agent", LIMIT, || Ok(workers()?.len() == 2))?;
    let busy = workers()?.into_iter().find(|w| w["used"] == 2).context("one worker is busy")?;
    let id = busy["id"].as_str().context("id")?;
    let said = lab.ctl(0, &["drain", id, "--reason", "new fans"])?;
    ensure!(said.contains("go on elsewhere"), "{said}");
    wait_for("the run to move", LIMIT, || {
        let all = workers()?;
        let used = |w: &&Value| w["used"] == 2 && w["id"] != id;
        Ok(all.iter().find(used).is_some())
    })?;
    let drained = workers()?.into_iter().find(|w| w["id"] == id).context("it is still listed")?;
    ensure!(drained["cordoned"] == "new fans" && drained["used"] == 0, "{drained:#}");
    lab.ctl(0, &["uncordon", id])?;
    lab.ctl(3, &["cordon", "nobody"])?;
    let done = lab.wait("x", "succeeded", 60)?;
    ensure!(done["attempt"] == 4, "{done:#}");
    Ok(())
}

#[test]
fn an_agent_says_which_datasets_lie_in_its_cache() -> Result<()> {
    let lab = Lab::new(1)?;
    let _coordinator = lab.cluster.coordinator()?;
    let first = lab.cluster.agent("agent", 2)?;
    let cached = || -> Result<Vec<Value>> {
        let workers: Vec<Value> = serde_json::from_str(&lab.ctl(0, &["get", "workers", "-o", "json"])?)?;
        let ready = workers.iter().find(|w| w["state"] == "ready");
        Ok(ready.and_then(|w| w["cached"].as_array()).cloned().unwrap_or_default())
    };
    lab.train("x", &[])?;
    lab.wait("x", "succeeded", 1)?;
    let datasets: Vec<Value> = serde_json::from_str(&lab.ctl(0, &["get", "datasets", "-o", "json"])?)?;
    let digest = datasets.first().context("a dataset")?["digest"].clone();
    ensure!(cached()? == [digest.clone()], "{:?}", cached()?);

    // It is looked for on the disk at each start.
    drop(first);
    let second = lab.cluster.agent("agent", 2)?;
    wait_for("the next agent of the home", LIMIT, || Ok(cached()? == [digest.clone()]))?;
    drop(second);
    let shards = lab.home.path().join("agent/cache/blake3");
    for shard in fs::read_dir(&shards)?.take(1) {
        fs::remove_file(shard?.path())?;
    }
    let _third = lab.cluster.agent("agent", 2)?;
    wait_for("the agent whose dataset is not whole", LIMIT, || {
        Ok(lab.ctl(0, &["get", "workers"])?.contains("ready") && cached()?.is_empty())
    })
}

#[test]
fn a_failed_run_is_tried_again_in_place_by_the_same_command() -> Result<()> {
    let home = Home::new()?;
    job::dataset(&home, 40, 8)?;
    job::experiment(&home, 2)?;
    let weights = home.path().join("vgg.safetensors");
    let sweep = home.write(
        "sweep.yaml",
        &format!(
            "kind: sweep\nname: half\nexperiment: experiment.yaml\nmethod: grid\n\
             metric: {{name: opacity/auroc, goal: maximize}}\nparameters:\n  \
             trainer.loss.perceptual.weights: {{values: [random, {}]}}\n  \
             trainer.loss.perceptual.weight: {{value: 0.01}}\n",
            weights.display()
        ),
    )?;
    let said = expect(home.morphctl()?.args(["sweep", "--local", "--slots", "2"]).arg(&sweep), 100)?;
    ensure!(said.contains("1 ok, 1 failed"), "{said}");
    fs::write(&weights, "still no weights")?;
    let said = expect(home.morphctl()?.args(["sweep", "--local", "--slots", "2"]).arg(&sweep), 100)?;
    ensure!(said.contains("1 run of it did not succeed"), "{said}");
    let runs = job::runs(&home, &[])?;
    ensure!(runs.len() == 2, "no second sweep: {runs:#?}");
    let attempts: Vec<_> = runs.iter().map(|r| (r["state"].as_str(), r["attempt"].as_u64())).collect();
    ensure!(attempts == [(Some("succeeded"), Some(1)), (Some("failed"), Some(2))], "{attempts:?}");
    Ok(())
}
