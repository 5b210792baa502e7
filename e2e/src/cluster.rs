//! A coordinator and agents as separate processes, to be killed by tests.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{expect, program, wait_for};

/// A free loopback port, as the kernel sees it now.
///
/// # Errors
/// When there is none.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A process that is killed when it goes out of scope.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; what it prints is appended to `log`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = fs::OpenOptions::new().create(true).append(true).open(log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// kill -9, and waits until it is gone.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill9(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// When the kernel cannot say.
    pub fn alive(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits until it has ended by itself; its exit code.
    ///
    /// # Errors
    /// When it does not, or was killed.
    pub fn ended(&mut self) -> Result<i32> {
        wait_for("the process to end", Duration::from_secs(60), || Ok(!self.alive()?))?;
        self.child.wait()?.code().with_context(|| format!("it was killed:\n{}", self.printed()))
    }

    /// What it printed so far.
    pub fn printed(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone is what we want.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Where one test's coordinator listens and keeps its state.
#[derive(Debug)]
pub struct Cluster {
    home: PathBuf,
    state: PathBuf,
    address: SocketAddr,
    env: Vec<(&'static str, PathBuf)>,
}

impl Cluster {
    /// A cluster that will keep everything below `home`.
    ///
    /// # Errors
    /// When no port is free.
    pub fn new(home: &Path) -> Result<Self> {
        Ok(Self { home: home.to_owned(), state: home.to_owned(), address: free_address()?, env: Vec::new() })
    }

    /// Its coordinator has its home at `state`.
    #[must_use]
    pub fn keeping(self, state: &Path) -> Self {
        Self { state: state.to_owned(), ..self }
    }

    /// Its coordinator and agents see this in their environment.
    #[must_use]
    pub fn seeing(mut self, name: &'static str, value: impl Into<PathBuf>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// The coordinator's home.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The coordinator's URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Starts the coordinator and waits until it listens.
    ///
    /// # Errors
    /// When it does not.
    pub fn coordinator(&self) -> Result<Process> {
        self.coordinator_with(&[])
    }

    /// As [`Self::coordinator`], with more arguments.
    ///
    /// # Errors
    /// When it does not.
    pub fn coordinator_with(&self, more: &[&str]) -> Result<Process> {
        let mut process = Process::start(
            Command::new(program("morph-coordinator")?)
                .arg("--listen")
                .arg(self.address.to_string())
                .arg("--home")
                .arg(&self.state)
                .args(["--heartbeat", "300ms"])
                .args(more)
                .env("MORPH_HOME", &self.home)
                .envs(self.env.iter().map(|(name, value)| (name, value))),
            &self.home.join("coordinator.log"),
        )?;
        wait_for("the coordinator to listen", Duration::from_secs(20), || {
            ensure!(process.alive()?, "the coordinator ended:\n{}", process.printed());
            Ok(TcpStream::connect(self.address).is_ok())
        })?;
        Ok(process)
    }

    /// What the coordinator answers to `GET path`: the code and the body.
    ///
    /// # Errors
    /// When nobody answers.
    pub fn page(&self, path: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let code = text.split(' ').nth(1).and_then(|code| code.parse().ok()).context("a status line")?;
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).context("a body")?;
        Ok((code, body))
    }

    /// Starts the agent `name` with `slots` slots.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn agent(&self, name: &str, slots: u32) -> Result<Process> {
        self.agent_of(&self.url(), name, slots)
    }

    /// As [`Self::agent`], of the coordinator that serves among `urls`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn agent_of(&self, urls: &str, name: &str, slots: u32) -> Result<Process> {
        Process::start(&mut self.agent_command(urls, name, slots)?, &self.home.join(format!("{name}.log")))
    }

    /// As [`Self::agent`], but it sees an empty folder where others see `hidden`.
    ///
    /// # Errors
    /// When it cannot be started; who is not root may not hide anything.
    pub fn blind_agent(&self, name: &str, hidden: &Path) -> Result<Process> {
        let agent = self.agent_command(&self.url(), name, 1)?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", "mount -t tmpfs none \"$0\" && exec \"$@\""]).arg(hidden);
        command.arg(agent.get_program()).args(agent.get_args());
        command.envs(agent.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Process::start(&mut command, &self.home.join(format!("{name}.log")))
    }

    fn agent_command(&self, urls: &str, name: &str, slots: u32) -> Result<Command> {
        let home = self.home.join(name);
        fs::create_dir_all(&home)?;
        let token = self.home.join(format!("{name}.token"));
        if !token.exists() {
            let mut create = Command::new(program("morphctl")?);
            create.args(["token", "create", "--scope", "agent", "--name", name, "--out"]).arg(&token);
            expect(create.arg("--home").arg(&self.state).env_remove("MORPH_COORDINATOR"), 0)?;
        }
        let mut command = Command::new(program("morph-worker")?);
        command
            .args(["agent", "--coordinator", urls, "--slots", &slots.to_string(), "--home"])
            .arg(&home)
            .arg("--token-file")
            .arg(&token)
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }
}

/// Sends `name` (`-STOP`, `-9`, …) to all of `pids`.
///
/// # Errors
/// When one is gone.
pub fn signal(pids: &[u32], name: &str) -> Result<()> {
    let pids = pids.iter().map(ToString::to_string);
    expect(Command::new("kill").arg(name).args(pids), 0).map(drop)
}

/// An agent and its ranks.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn with_ranks(agent: &Process) -> Result<Vec<u32>> {
    Ok(ranks_of(agent.pid())?.into_iter().chain([agent.pid()]).collect())
}

/// Process ids of the ranks that `agent` has started.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn ranks_of(agent: u32) -> Result<Vec<u32>> {
    children_of(agent, "rank")
}

/// Process ids of the children of `agent` that were started with `verb`.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn children_of(agent: u32, verb: &str) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        // A process may end between listing and reading: then it is none.
        let (Ok(stat), Ok(line)) =
            (fs::read_to_string(format!("/proc/{pid}/stat")), fs::read_to_string(format!("/proc/{pid}/cmdline")))
        else {
            continue;
        };
        let parent =
            stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)).and_then(|p| p.parse::<u32>().ok());
        if parent == Some(agent) && line.split('\0').any(|a| a == verb) {
            found.push(pid);
        }
    }
    found.sort_unstable();
    Ok(found)
}
