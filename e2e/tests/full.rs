//! Disks that get full: the agent's, object storage's, the coordinator's. Whoever cannot write says so and why, nothing is
//! half written, and when there is room again the run ends as one that nobody disturbed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use morph_e2e::{
    cluster::{Cluster, Process, ranks_of, signal},
    disk::Disk,
    expect,
    lab::{LIMIT, Lab},
    program, wait_for,
};
use serde_json::Value;

/// Files of checkpoints that never came to be.
fn leftovers(run: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(run.join("checkpoints"))? {
        let folder = entry?.path();
        if !folder.join("manifest.json").exists() {
            files.extend(fs::read_dir(folder)?.filter_map(|e| Some(e.ok()?.path())));
        }
    }
    Ok(files)
}

/// Names of the run's checkpoints that are there, each of which is whole.
fn checkpoints(run: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(run.join("checkpoints"))? {
        let folder = entry?.path();
        // One that is removed meanwhile loses its manifest first.
        let Ok(manifest) = fs::read(folder.join("manifest.json")) else { continue };
        let manifest: Value = serde_json::from_slice(&manifest).with_context(|| format!("{}", folder.display()))?;
        for file in manifest["files"].as_array().context("files")? {
            let Ok(meta) = fs::metadata(folder.join(file["file"].as_str().context("a name")?)) else { continue };
            ensure!(Some(meta.len()) == file["bytes"].as_u64(), "{} is cut off: {file}", folder.display());
        }
        names.push(folder.file_name().context("a name")?.to_string_lossy().into_owned());
    }
    Ok(names)
}

struct Lot {
    lab: Lab,
    objects: String,
    state: Disk,
    agent: Disk,
    store: Disk,
}

impl Lot {
    /// `None`, with a line, where nothing can be mounted.
    fn new() -> Result<Option<Self>> {
        let mut disks = None;
        let lab = Lab::with(32, |home| {
            let at = |name: &str| home.path().join(name);
            let all = || {
                anyhow::Ok((Disk::new(&at("state"), 16)?, Disk::new(&at("agent"), 16)?, Disk::new(&at("objects"), 64)?))
            };
            disks = Some(all());
            Ok(Cluster::new(home.path())?.keeping(&at("state")))
        })?;
        match disks.context("disks were asked for")? {
            Ok((state, agent, store)) => {
                let objects = lab.home.path().join("objects").to_str().context("a path is text")?.to_owned();
                Ok(Some(Self { lab, objects, state, agent, store }))
            }
            Err(why) => {
                eprintln!("skipped: small disks can be mounted by root only: {why}");
                Ok(None)
            }
        }
    }

    fn coordinator(&self) -> Result<Process> {
        self.lab.cluster.coordinator_with(&["--objects", &self.objects])
    }

    /// Waits until `x` waits for another try because there was no room.
    fn failed_for_room(&self) -> Result<()> {
        wait_for("a failure for want of room", LIMIT, || {
            let run = self.lab.run("x")?;
            let why = run["reason"].as_str().unwrap_or_default();
            ensure!(run["state"] != "failed", "{run:#}");
            Ok(run["state"] == "queued" && why.contains("no space left on the device"))
        })
    }
}

#[test]
fn who_cannot_write_says_so_and_goes_on_when_there_is_room() -> Result<()> {
    let Some(lot) = Lot::new()? else { return Ok(()) };
    let lab = &lot.lab;
    let mut coordinator = lot.coordinator()?;
    let agent = lab.cluster.agent("agent", 2)?;
    wait_for("the agent", LIMIT, || Ok(lab.ctl(&["get", "workers"])?.contains("ready")))?;

    // The node's cache has no room for the dataset.
    lot.agent.fill()?;
    lab.train("x", &[])?;
    lot.failed_for_room()?;
    let cached = lab.home.path().join("agent/cache/blake3");
    ensure!(
        fs::read_dir(&cached).map_or(0, Iterator::count) == 0,
        "nothing half fetched stays in {}",
        cached.display()
    );
    lot.agent.free()?;
    lab.wait("x", "running", 5)?;

    // A checkpoint does not fit.
    lot.store.fill()?;
    lot.failed_for_room()?;
    let run = lab.run("x")?;
    let folder = lab.home.path().join("objects/runs").join(run["id"].as_str().context("an id")?);
    ensure!(!checkpoints(&folder)?.is_empty(), "the older ones are there");
    let left = leftovers(&folder)?;
    ensure!(left.is_empty(), "half a checkpoint stays behind: {left:?}");
    lot.store.free()?;
    let step = run["step"].as_u64().context("a step")?;
    lab.wait("x", "running", step + 3)?;
    let attempt = lab.run("x")?["attempt"].as_u64().context("an attempt")?;

    // The coordinator cannot remember, and so it does not act.
    lot.state.fill()?;
    let (code, said) = (coordinator.ended()?, coordinator.printed());
    ensure!(code == 1 && !said.contains("panicked"), "it ended with {code}:\n{said}");
    ensure!(said.contains("state.db: database or disk is full"), "{said}");
    ensure!(said.contains("the coordinator stops, running ranks go on"), "{said}");
    let before = checkpoints(&folder)?;
    let journal = lab.home.path().join("agent/journal");
    wait_for("the agent to keep a journal", LIMIT, || Ok(journal.exists()))?;
    // Or they would be at their end before all this is over.
    let ranks = ranks_of(agent.pid())?;
    signal(&ranks, "-STOP")?;
    // What it had freed at its end is taken, too.
    lot.state.fill()?;
    let state = lab.cluster.state().to_str().context("a path is text")?;
    let mut again = Command::new(program("morph-coordinator")?);
    again.args(["--listen", "127.0.0.1:0", "--home", state, "--objects", &lot.objects]);
    let said = expect(&mut again, 1)?;
    ensure!(said.contains(state) && said.to_lowercase().contains("no space left on"), "{said}");

    // Training goes on, although what the agent has to remember for the coordinator does not fit on its disk either.
    lot.agent.fill()?;
    signal(&ranks, "-CONT")?;
    wait_for("the agent to say so", LIMIT, || Ok(agent.printed().contains("write the journal in")))?;
    ensure!(agent.printed().contains("No space left"), "{}", agent.printed());
    wait_for("another checkpoint", LIMIT, || Ok(checkpoints(&folder)?.iter().any(|name| !before.contains(name))))?;
    ensure!(ranks_of(agent.pid())? == ranks, "training goes on:\n{}", agent.printed());
    lot.agent.free()?;
    lot.state.free()?;

    let _coordinator = lot.coordinator()?;
    let x = lab.wait("x", "succeeded", 1)?;
    ensure!(x["attempt"] == attempt, "its ranks never noticed: {x:#}");
    lab.whole(&x)?;
    wait_for("the journal to go", Duration::from_secs(10), || Ok(!journal.exists()))?;

    // The same job, which nobody disturbed.
    lab.train("y", &[])?;
    let y = lab.wait("y", "succeeded", 1)?;
    ensure!(y["attempt"] == 1, "{y:#}");
    lab.same(&x, &y)
}
