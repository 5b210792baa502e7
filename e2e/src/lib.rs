//! What the whole-binary tests share: where the programs are, and a throw-away home for each test.
//!
//! The tests drive `morphctl`, `morph-coordinator` and `morph-worker` from outside, as a user does. `scripts/test`
//! builds them first; cargo alone does not build other packages' programs.

pub mod cluster;
pub mod disk;
pub mod hosts;
pub mod job;
pub mod lab;
pub mod postgres;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

/// The built program `name`, beside the test's own executable.
///
/// # Errors
/// When it is not built: says how to.
pub fn program(name: &str) -> Result<PathBuf> {
    let mut folder = env::current_exe().context("where this test runs from")?;
    folder.pop();
    if folder.ends_with("deps") {
        folder.pop();
    }
    let path = folder.join(name);
    ensure!(path.is_file(), "{} is not built: run scripts/test, or cargo build --workspace --bins", path.display());
    Ok(path)
}

/// The repository's root.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// A throw-away `MORPH_HOME`.
#[derive(Debug)]
pub struct Home(TempDir);

impl Home {
    /// A new, empty one.
    ///
    /// # Errors
    /// When no temporary folder can be made.
    pub fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// A file in it, written with `text`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        fs::write(&path, text)?;
        Ok(path)
    }

    /// `morphctl`, to be run in the repository on this home, without colours or terminal.
    ///
    /// # Errors
    /// When it is not built.
    pub fn morphctl(&self) -> Result<Command> {
        let mut command = Command::new(program("morphctl")?);
        command
            .current_dir(repository())
            .env("MORPH_HOME", self.path())
            .env("MORPH_WORKER", program("morph-worker")?)
            .env("NO_COLOR", "1")
            .env_remove("MORPH_COORDINATOR")
            .stdin(Stdio::null());
        Ok(command)
    }
}

/// Runs `command` to its end.
///
/// # Errors
/// When it cannot be started.
pub fn run(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("run {command:?}"))
}

/// Runs `command` and wants exit code `code`; the error shows what it printed.
///
/// # Errors
/// When it ends otherwise.
pub fn expect(command: &mut Command, code: i32) -> Result<String> {
    let out = run(command)?;
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    if out.status.code() != Some(code) {
        bail!("{command:?}\nended with {} instead of {code}\n--- stdout\n{stdout}--- stderr\n{stderr}", out.status);
    }
    Ok(format!("{stdout}{stderr}"))
}

/// Asks `condition` every 20 ms until it holds.
///
/// # Errors
/// When `limit` has passed, naming `what`.
pub fn wait_for(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !condition()? {
        ensure!(start.elapsed() < limit, "gave up after {limit:?} waiting for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
