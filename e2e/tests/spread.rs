//! A dataset that a cluster prepares: the same bytes as on one machine, whoever dies on the way.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use morph_e2e::{
    Home,
    cluster::{Cluster, Process, children_of, signal},
    expect, run, wait_for,
};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(120);

/// Phantoms, and a cluster that sees them.
struct Lab {
    home: Home,
    cluster: Cluster,
    yaml: PathBuf,
}

/// `morphctl data prepare --workers`, while it runs.
struct Job {
    child: Child,
    out: PathBuf,
    folder: PathBuf,
}

impl Lab {
    fn new() -> Result<Self> {
        let home = Home::new()?;
        let raw = home.path().join("raw");
        let mut synth = home.morphctl()?;
        synth.args(["data", "synth", "--healthy", "100", "--opacity", "30", "--other", "6", "--size", "512"]).arg(&raw);
        expect(&mut synth, 0)?;
        // What cannot be read is skipped by whoever has the shard.
        let first = fs::read_dir(raw.join("stage_2_train_images"))?.next().context("an image")??.path();
        fs::write(first, "this is no DICOM")?;
        let yaml = home.write(
            "dataset.yaml",
            "kind: dataset\nname: spread\nsource: {layout: rsna, root: '${MORPH_HOME}/raw'}\n\
             output: '${MORPH_HOME}/datasets/alone'\npreprocess: {size: 64}\nshard_samples: 2\n\
             split: {val: 0.2, test: 0.2}\n",
        )?;
        let cluster = Cluster::new(home.path())?;
        Ok(Self { home, cluster, yaml })
    }

    fn raw(&self) -> PathBuf {
        self.home.path().join("raw")
    }

    fn agents(&self, n: u32) -> Result<Vec<Process>> {
        (0..n).map(|i| self.cluster.agent(&format!("agent-{i}"), 1)).collect()
    }

    /// What a machine alone makes of it: the report.
    fn alone(&self) -> Result<Value> {
        let mut prepare = self.home.morphctl()?;
        let out = run(prepare.args(["data", "prepare", "-o", "json"]).arg(&self.yaml))?;
        ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        Ok(serde_json::from_slice(&out.stdout)?)
    }

    fn spread(&self, name: &str) -> Result<Job> {
        let (out, folder) =
            (self.home.path().join(format!("{name}.out")), self.home.path().join("datasets").join(name));
        let child = self
            .home
            .morphctl()?
            .args(["data", "prepare", "-o", "json", "--jobs", "1", "--workers", "3", "--coordinator"])
            .arg(self.cluster.url())
            .arg(&self.yaml)
            .args(["--set", &format!("output={}", folder.display())])
            .stdout(File::create(&out)?)
            .stderr(File::create(out.with_extension("err"))?)
            .stdin(Stdio::null())
            .spawn()?;
        Ok(Job { child, out, folder })
    }

    /// Waits until `n` agents have a child that makes shards.
    fn at_work(&self, agents: &[&Process], n: usize) -> Result<()> {
        wait_for(&format!("{n} agents to be at work"), LIMIT, || {
            let mut busy = 0;
            for agent in agents {
                busy += children_of(agent.pid(), "prepare")?.len();
            }
            ensure!(busy <= agents.len(), "an agent has several children");
            Ok(busy == n)
        })
    }
}

impl Job {
    /// Shards that are made.
    fn made(&self) -> usize {
        let names = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        names.filter(|entry| entry.file_name().to_string_lossy().ends_with(".part.json")).count()
    }

    fn wait_until_made(&mut self, n: usize) -> Result<()> {
        wait_for(&format!("{n} shards"), LIMIT, || {
            ensure!(self.child.try_wait()?.is_none(), "it ended too early: {}", self.err());
            Ok(self.made() >= n)
        })
    }

    fn err(&self) -> String {
        fs::read_to_string(self.out.with_extension("err")).unwrap_or_default()
    }

    fn ended(&mut self, code: i32) -> Result<()> {
        wait_for("morphctl to end", LIMIT, || Ok(self.child.try_wait()?.is_some()))?;
        let found = self.child.wait()?.code();
        ensure!(found == Some(code), "it ended with {found:?} instead of {code}: {}", self.err());
        Ok(())
    }

    fn report(&mut self) -> Result<Value> {
        self.ended(0)?;
        Ok(serde_json::from_str(&fs::read_to_string(&self.out)?)?)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Already gone is what we want.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Every file of a prepared dataset but the record of how it came about, which names the key and so the output.
fn content(folder: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".arrow") || name == "manifest.json" || name == "skipped.csv" {
            found.insert(name, fs::read(entry.path())?);
        }
    }
    Ok(found)
}

fn same(one: &Value, other: &Value) -> Result<()> {
    ensure!(one["digest"] == other["digest"] && one["digest"].is_string(), "{one:#} {other:#}");
    let folder = |report: &Value| {
        let url = report["url"].as_str().context("a URL")?;
        content(Path::new(url.strip_prefix("file://").context("a file URL")?))
    };
    ensure!(folder(one)? == folder(other)?, "the digests are the same, and the files are not");
    Ok(())
}

fn is_gone(pids: &[u32]) -> Result<()> {
    wait_for("children to end", LIMIT, || Ok(pids.iter().all(|pid| !Path::new(&format!("/proc/{pid}/exe")).exists())))
}

#[test]
fn the_same_bytes_as_alone_although_an_agent_and_the_coordinator_are_killed() -> Result<()> {
    let lab = Lab::new()?;
    let alone = lab.alone()?;
    let shards = alone["manifest"]["shards"].as_array().context("shards")?.len();
    ensure!(
        shards > 60 && alone["skipped"].as_array().context("skipped")?.len() == 1,
        "{shards} {:#}",
        alone["skipped"]
    );
    let mut coordinator = lab.cluster.coordinator()?;
    let mut agents = lab.agents(3)?;
    let mut job = lab.spread("spread")?;
    lab.at_work(&agents.iter().collect::<Vec<_>>(), 3)?;
    job.wait_until_made(8)?;
    let children = children_of(agents[0].pid(), "prepare")?;
    agents[0].kill9()?;
    is_gone(&children)?;
    let then = job.made();
    job.wait_until_made(then + 8)?;
    coordinator.kill9()?;
    ensure!(job.made() + 8 < shards, "too fast to be killed in the middle");
    sleep(Duration::from_millis(500));
    let mut coordinator = lab.cluster.coordinator()?;
    let report = job.report()?;
    same(&alone, &report)?;
    ensure!(report["reused"] == false && report["resumed"] == 0, "{report:#}");
    ensure!(report["skipped"] == alone["skipped"], "{:#}", report["skipped"]);
    let err = job.err();
    ensure!(err.contains("the coordinator is away") && err.contains("1 file skipped"), "{err}");
    ensure!(coordinator.alive()?, "{}", coordinator.printed());
    for agent in &agents[1..] {
        is_gone(&children_of(agent.pid(), "prepare")?)?;
    }
    // Again: it is there.
    let again = lab.spread("spread")?.report()?;
    ensure!(again["reused"] == true && again["digest"] == alone["digest"], "{again:#}");
    Ok(())
}

#[test]
fn an_agent_that_does_not_see_the_source_is_left_out_and_if_there_is_no_other_the_cause_is_told() -> Result<()> {
    let lab = Lab::new()?;
    let _coordinator = lab.cluster.coordinator()?;
    let mut blind = lab.cluster.blind_agent("blind", &lab.raw())?;
    sleep(Duration::from_secs(1));
    if !blind.alive()? {
        eprintln!("skipped: nothing can be hidden from an agent here: {}", blind.printed());
        return Ok(());
    }
    let mut job = lab.spread("nobody")?;
    job.ended(4)?;
    let err = job.err();
    ensure!(err.contains("left out") && err.contains("the only agent has failed"), "{err}");
    ensure!(err.contains("stage_2_detailed_class_info.csv"), "the cause is told: {err}");
    ensure!(!job.folder.join("manifest.json").exists(), "there is no dataset");

    let _agents = lab.agents(2)?;
    let mut job = lab.spread("two")?;
    let report = job.report()?;
    same(&lab.alone()?, &report)?;
    ensure!(job.err().contains("left out"), "{}", job.err());
    Ok(())
}

#[test]
fn ctrl_c_stops_the_agents_and_the_same_command_goes_on() -> Result<()> {
    let lab = Lab::new()?;
    let _coordinator = lab.cluster.coordinator()?;
    let agents = lab.agents(3)?;
    let workers = |wanted: &str| -> Result<Vec<String>> {
        let out =
            run(lab.home.morphctl()?.args(["get", "workers", "-o", "json", "--coordinator", &lab.cluster.url()]))?;
        let all: Value = serde_json::from_slice(&out.stdout)?;
        let all = all.as_array().context("workers")?.iter().filter(|w| w["state"] == wanted);
        Ok(all.filter_map(|w| w["id"].as_str().map(str::to_owned)).collect())
    };
    wait_for("three agents", LIMIT, || Ok(workers("ready")?.len() == 3))?;
    // One of them gets no new work.
    let spared = workers("ready")?.remove(0);
    let ctl = |verb: &str| expect(lab.home.morphctl()?.args([verb, &spared, "--coordinator", &lab.cluster.url()]), 0);
    ctl("cordon")?;
    let mut job = lab.spread("stopped")?;
    let all: Vec<&Process> = agents.iter().collect();
    lab.at_work(&all, 2)?;
    job.wait_until_made(6)?;
    lab.at_work(&all, 2)?;
    signal(&[job.child.id()], "-INT")?;
    job.ended(130)?;
    lab.at_work(&all, 0)?;
    ensure!(job.err().contains("The same command goes on"), "{}", job.err());
    let made = job.made();
    ensure!(made >= 6 && !job.folder.join("manifest.json").exists(), "{made} shards");
    ctl("uncordon")?;
    let mut job = lab.spread("stopped")?;
    let report = job.report()?;
    ensure!(report["resumed"].as_u64() >= Some(6), "{report:#}");
    same(&lab.alone()?, &report)?;

    let alone =
        run(lab.home.morphctl()?.args(["data", "prepare", "--workers", "2", "--home"]).arg(lab.raw()).arg(&lab.yaml))?;
    let said = String::from_utf8_lossy(&alone.stderr);
    ensure!(alone.status.code() == Some(6) && said.contains("--coordinator URL"), "{said}");
    Ok(())
}
