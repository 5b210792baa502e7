//! A disk that gets full.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::{Command, id},
};

use anyhow::{Context, Result, bail, ensure};

/// A small file system in memory; gone when this is dropped.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// One of `mib` MiB at `path`, which is made if need be.
    ///
    /// # Errors
    /// Why there can be none here: only root may mount one.
    pub fn new(path: &Path, mib: u32) -> Result<Self> {
        sweep();
        fs::create_dir_all(path)?;
        let size = format!("size={mib}m,mode=0700");
        let source = format!("morph-e2e-{}", id());
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, &source]).arg(path).output();
        let mount = mount.context("run mount")?;
        ensure!(mount.status.success(), "{}", String::from_utf8_lossy(&mount.stderr).trim());
        Ok(Self { path: path.to_owned() })
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// Leaves no room.
    ///
    /// # Errors
    /// When it cannot be written for another reason.
    pub fn fill(&self) -> Result<()> {
        let mut file = OpenOptions::new().create(true).append(true).open(self.ballast())?;
        let block = vec![0_u8; 64 << 10];
        loop {
            match file.write(&block) {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(e) => bail!("fill {}: {e}", self.path.display()),
            }
        }
    }

    /// Makes room again.
    ///
    /// # Errors
    /// When the ballast cannot be removed.
    pub fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.ballast())?)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(&self.path);
    }
}

fn unmount(path: &Path) {
    // What still uses it keeps it until then; it has no name any more.
    drop(Command::new("umount").arg("-l").arg(path).output());
}

/// Takes away what tests left that were killed.
fn sweep() {
    let Ok(mounts) = fs::read_to_string("/proc/mounts") else { return };
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let (Some(source), Some(path)) = (words.next(), words.next()) else { continue };
        let owner = source.strip_prefix("morph-e2e-");
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            unmount(Path::new(path));
        }
    }
}
