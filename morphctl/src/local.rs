//! `--local`: a coordinator in this process and an agent as its child.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result};
use morph_coordinator::{Handle, Options};
use morph_telemetry::Format;
use tokio::process::{Child, Command};

use crate::{
    connect::{self, Client},
    fail::{ERROR, coded},
};

/// How long ranks may take to save and stop.
const DRAIN: Duration = Duration::from_secs(120);
/// How long the agent may take to leave.
const LEAVE: Duration = Duration::from_secs(10);

/// A cluster of one machine.
pub struct Local {
    /// To ask.
    pub client: Client,
    handle: Handle,
    agent: Child,
    log: Log,
}

/// What the agent writes: the file, and where in it this start of it begins.
struct Log {
    path: PathBuf,
    from: u64,
}

/// Where `morph-worker` is: MORPH_WORKER, beside this program, in PATH.
///
/// # Errors
/// Says where it was looked for.
pub fn worker() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("MORPH_WORKER").map(PathBuf::from) {
        return if path.is_file() {
            Ok(path)
        } else {
            Err(coded(ERROR, format!("MORPH_WORKER is {}, and there is no such file", path.display())))
        };
    }
    let own = std::env::current_exe().context("find this program")?;
    let beside = own.with_file_name("morph-worker");
    if beside.is_file() {
        return Ok(beside);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("morph-worker")).find(|p| p.is_file());
    found.ok_or_else(|| {
        let beside = beside.display();
        coded(ERROR, format!("morph-worker is neither at {beside} nor in PATH: build it (cargo build --workspace --bins) or set MORPH_WORKER"))
    })
}

impl Local {
    /// Starts everything.
    ///
    /// # Errors
    /// When the home is served by another process, or a part does not start.
    pub async fn start(home: &Path, slots: u32, log_format: Format) -> Result<Self> {
        let worker = worker()?;
        let options = Options {
            home: home.to_owned(),
            heartbeat: Duration::from_secs(1),
            grace: Duration::from_secs(10),
            stop_timeout: DRAIN,
            ..Options::default()
        };
        let handle = morph_coordinator::start(options).await?;
        match Self::agent(&worker, home, slots, log_format, &handle) {
            Ok((agent, log)) => {
                let wire = connect::wire(&handle.url(), Some(handle.owner()), None).await?;
                Ok(Self { client: connect::client(wire), handle, agent, log })
            }
            Err(e) => {
                handle.stop().await;
                Err(e)
            }
        }
    }

    fn agent(worker: &Path, home: &Path, slots: u32, log_format: Format, handle: &Handle) -> Result<(Child, Log)> {
        let folder = home.join("agent");
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let log = folder.join("agent.log");
        let file = File::options().create(true).append(true).open(&log);
        let file = file.with_context(|| format!("open {}", log.display()))?;
        let from = file.metadata().map_or(0, |m| m.len());
        let child = Command::new(worker)
            .args(["agent", "--die-with-parent", "--coordinator", &handle.url()])
            .args(["--slots", &slots.to_string(), "--log-format", log_format.word()])
            .arg("--home")
            .arg(&folder)
            .stdin(Stdio::null())
            .stdout(file.try_clone().with_context(|| format!("open {}", log.display()))?)
            .stderr(file)
            .env("NO_COLOR", "1")
            // Not as an argument: anybody can read those.
            .env("MORPH_TOKEN", handle.agent_token()?.expose())
            .env_remove("MORPH_TOKEN_FILE")
            // Ctrl-C on the terminal is for this process: it stops the ranks with a checkpoint.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", worker.display()))?;
        Ok((child, Log { path: log, from }))
    }

    /// Waits for what must not happen: the end of the agent, or of the coordinator.
    pub async fn failed(&mut self) -> anyhow::Error {
        tokio::select! {
            status = self.agent.wait() => {
                let how = status.map_or_else(|e| e.to_string(), |s| s.to_string());
                let last = last_line(&self.log);
                coded(ERROR, format!("the agent ended ({how}): {last} (all of it: {})", self.log.path.display()))
            }
            error = self.handle.failed() => error.into(),
        }
    }

    /// Stops all ranks with a checkpoint, then everything else. False when some did not stop in time.
    pub async fn drain(&self) -> bool {
        self.handle.drain(DRAIN).await.unfinished == 0
    }

    /// Ends everything.
    pub async fn stop(mut self) {
        drop(self.client);
        // Tells the agent to leave; what still runs is stopped with a checkpoint.
        self.handle.drain(DRAIN).await;
        // One that had not connected yet did not hear it.
        if let Some(pid) = self.agent.id().and_then(|id| i32::try_from(id).ok()) {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).ok();
        }
        if tokio::time::timeout(LEAVE, self.agent.wait()).await.is_err() {
            // It has had its time; its ranks die with it.
            self.agent.kill().await.ok();
        }
        self.handle.stop().await;
    }

    /// Ends everything at once. Ranks die with their agent; what was not saved is done again.
    pub async fn kill(mut self) {
        self.agent.kill().await.ok();
        self.handle.stop().await;
    }
}

fn last_line(log: &Log) -> String {
    let bytes = std::fs::read(&log.path).unwrap_or_default();
    let since = bytes.get(usize::try_from(log.from).unwrap_or(0)..).unwrap_or_default();
    let text = String::from_utf8_lossy(since);
    text.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("it said nothing").trim().to_owned()
}
