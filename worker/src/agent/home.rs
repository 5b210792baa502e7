//! An agent's home folder: its id over restarts, the lock that keeps a second agent out, the node's cache.

use std::{
    fs::{self, File, OpenOptions},
    hash::{BuildHasher, Hasher, RandomState},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use morph_spec::{Rng, Timestamp, WorkerId};
use nix::fcntl::{Flock, FlockArg};

/// A locked home.
#[derive(Debug)]
pub struct Home {
    /// The agent's id.
    pub worker: WorkerId,
    /// The folder.
    pub dir: PathBuf,
    /// Where the node's cache lies.
    pub cache: PathBuf,
    _lock: Flock<File>,
}

/// A new identity. Only its uniqueness matters, so the standard library's hash seed serves as randomness.
pub fn fresh_id(now: Timestamp) -> WorkerId {
    let random = || RandomState::new().build_hasher().finish();
    WorkerId::new(now, &mut Rng::keyed(random(), "worker", u64::from(std::process::id()) ^ random().rotate_left(7)))
}

impl Home {
    /// Opens, and if need be makes, the home at `dir`.
    ///
    /// # Errors
    /// When another agent holds it, or it cannot be written.
    pub fn open(dir: &Path, now: Timestamp) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("make the agent's home {}", dir.display()))?;
        let dir = dir.canonicalize().with_context(|| format!("find the agent's home {}", dir.display()))?;
        let lock = lock(&dir.join("agent.lock"))?;
        let path = dir.join("worker-id");
        let worker = match fs::read_to_string(&path) {
            Ok(text) => {
                text.trim().parse().with_context(|| format!("read {}; remove it to get a new id", path.display()))?
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let id = fresh_id(now);
                let tmp = dir.join("worker-id.tmp");
                fs::write(&tmp, format!("{id}\n")).with_context(|| format!("write {}", tmp.display()))?;
                fs::rename(&tmp, &path).with_context(|| format!("write {}", path.display()))?;
                id
            }
            Err(e) => return Err(e).with_context(|| format!("read {}", path.display())),
        };
        Ok(Self { worker, cache: dir.join("cache"), dir, _lock: lock })
    }
}

fn lock(path: &Path) -> Result<Flock<File>> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))?;
    let mut lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            // Only for the message: who it is may be unknown.
            drop(file.read_to_string(&mut pid));
            let folder = path.parent().unwrap_or(path).display();
            bail!("another agent (pid {}) uses {folder}; give this one its own --home", pid.trim());
        }
        Err((_, e)) => return Err(e).with_context(|| format!("lock {}", path.display())),
    };
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_stays_and_a_second_agent_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = Home::open(dir.path(), Timestamp(1)).unwrap();
        let said = Home::open(dir.path(), Timestamp(2)).unwrap_err().to_string();
        assert!(said.contains(&format!("pid {}", std::process::id())), "{said}");
        let id = first.worker;
        drop(first);
        assert_eq!(Home::open(dir.path(), Timestamp(3)).unwrap().worker, id);
        fs::write(dir.path().join("worker-id"), "nonsense").unwrap();
        assert!(Home::open(dir.path(), Timestamp(3)).is_err());
    }

    #[test]
    fn fresh_ids_differ() {
        assert_ne!(fresh_id(Timestamp(1)), fresh_id(Timestamp(1)));
    }
}
