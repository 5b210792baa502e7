//! A real PostgreSQL server for one test, out of the distribution's package.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{
    cluster::{Process, free_address},
    expect, wait_for,
};

/// A server that is gone when this goes out of scope.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    dir: TempDir,
    port: u16,
    settings: Vec<String>,
    process: Option<Process>,
}

/// Where the newest server's programs are; `None`: there is none.
fn programs() -> Option<PathBuf> {
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let installed = fs::read_dir("/usr/lib/postgresql").ok()?.filter_map(|e| Some(e.ok()?.path()));
    let newest = installed.filter(|p| p.join("bin/initdb").is_file()).max_by_key(|p| version(p));
    newest.map(|p| p.join("bin"))
}

/// Whom the server runs as: it refuses to be root.
fn user() -> Result<Option<(u32, u32)>> {
    if !fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0) {
        return Ok(None);
    }
    let all = fs::read_to_string("/etc/passwd")?;
    let line = all.lines().find(|l| l.starts_with("postgres:")).context("the package makes the user postgres")?;
    let field = |n: usize| line.split(':').nth(n).and_then(|t| t.parse().ok()).context("a user has numbers");
    Ok(Some((field(2)?, field(3)?)))
}

impl Postgres {
    /// Starts one. `None`, with a line, where the package is missing; scripts/test installs it where it may.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(settings: &[&str]) -> Result<Option<Self>> {
        let Some(programs) = programs() else {
            eprintln!("left out: PostgreSQL is not installed (Debian, Ubuntu: apt-get install postgresql)");
            return Ok(None);
        };
        let dir = tempfile::tempdir()?;
        if let Some((uid, gid)) = user()? {
            chown(dir.path(), Some(uid), Some(gid))?;
        }
        let settings = settings.iter().map(|s| (*s).to_owned()).collect();
        let mut server = Self { programs, dir, port: free_address()?.port(), settings, process: None };
        expect(
            server
                .program("initdb")?
                .args(["-U", "morph", "--auth=trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
                .arg(server.data()),
            0,
        )?;
        server.up()?;
        Ok(Some(server))
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// One of the server's programs, run as its user.
    fn program(&self, name: &str) -> Result<Command> {
        let mut command = Command::new(self.programs.join(name));
        command.current_dir(self.dir.path()).env("LC_ALL", "C");
        if let Some((uid, gid)) = user()? {
            command.uid(uid).gid(gid);
        }
        Ok(command)
    }

    /// Starts the server again.
    ///
    /// # Errors
    /// When it does not.
    pub fn up(&mut self) -> Result<()> {
        let port = self.port.to_string();
        let mut command = self.program("postgres")?;
        command
            .args(["-p", &port, "-c", "listen_addresses=127.0.0.1", "-D"])
            .arg(self.data())
            .arg("-k")
            .arg(self.dir.path());
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        let process = self.process.insert(Process::start(&mut command, &self.dir.path().join("log"))?);
        wait_for("PostgreSQL to take connections", Duration::from_secs(30), || {
            ensure!(process.alive()?, "PostgreSQL ended:\n{}", process.printed());
            let ready =
                Command::new(self.programs.join("pg_isready")).args(["-q", "-h", "127.0.0.1", "-p", &port]).status()?;
            Ok(ready.success())
        })
    }

    /// Ends the server at once, as a crash would.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn crash(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            // Its children would hold the data folder.
            expect(self.program("pg_ctl")?.args(["stop", "-m", "immediate", "-D"]).arg(self.data()), 0)?;
            wait_for("PostgreSQL to end", Duration::from_secs(20), || Ok(!process.alive()?))?;
        }
        Ok(())
    }

    /// A file in the server's folder that belongs to its user and to nobody else.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn file(&self, name: &str, content: &[u8]) -> Result<PathBuf> {
        let path = self.data().join(name);
        fs::write(&path, content)?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        if let Some((uid, gid)) = user()? {
            chown(&path, Some(uid), Some(gid))?;
        }
        Ok(path)
    }

    /// The port it listens on, at 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Of its database.
    pub fn url(&self) -> String {
        format!("postgresql://morph@127.0.0.1:{}/postgres", self.port)
    }

    /// What `sql` answers: rows as lines, columns with `|` between.
    ///
    /// # Errors
    /// When it fails.
    pub fn ask(&self, sql: &str) -> Result<String> {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "127.0.0.1",
            "-U",
            "morph",
            "-d",
            "postgres",
            "-p",
        ]);
        let text = expect(psql.arg(self.port.to_string()).args(["-c", sql]), 0)?;
        Ok(text.trim().to_owned())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A test that failed leaves nothing behind either.
        drop(self.crash());
    }
}
