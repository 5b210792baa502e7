//! The home folder: who serves it, and that nobody else does.

use std::{
    fs::{self, File, TryLockError},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{Error, auth::secret::Secret};

/// Who serves a home: what `coordinator.json` says while it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// `host:port`.
    pub address: String,
    /// Process id.
    pub pid: u32,
    /// Version of the program.
    pub version: String,
    /// Whether connections are encrypted.
    #[serde(default)]
    pub tls: bool,
    /// For those who may read the home: a token of scope admin that ends with this coordinator. `None`: it asks for none.
    #[serde(default)]
    pub token: Option<Secret>,
}

impl Serving {
    /// `http://host:port` or `https://host:port`. One that listens everywhere is reached on loopback.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        match self.address.parse::<std::net::SocketAddr>() {
            Ok(at) if at.ip().is_unspecified() && at.is_ipv4() => format!("{scheme}://127.0.0.1:{}", at.port()),
            Ok(at) if at.ip().is_unspecified() => format!("{scheme}://[::1]:{}", at.port()),
            _ => format!("{scheme}://{}", self.address),
        }
    }
}

fn lock_file(home: &Path) -> PathBuf {
    home.join("coordinator.lock")
}

fn json_file(home: &Path) -> PathBuf {
    home.join("coordinator.json")
}

/// The live coordinator of `home`, if there is one. A `coordinator.json` that a killed coordinator left behind does not
/// count: the kernel released its lock.
pub fn serving(home: &Path) -> Option<Serving> {
    if taken(home) { read(home) } else { None }
}

/// Whether a coordinator has taken `home` and has yet to say where it listens: it starts, or stands by.
pub fn starting(home: &Path) -> bool {
    taken(home) && read(home).is_none()
}

fn taken(home: &Path) -> bool {
    let lock = File::open(lock_file(home));
    lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

/// Makes sure that nobody serves `home`, nor begins to while the result is kept. A folder that nobody ever served is left as
/// it is.
pub(crate) fn unserved(home: &Path) -> Result<Option<File>, Error> {
    let path = lock_file(home);
    let fail = |source| Error::Home { action: "lock", path: path.clone(), source };
    let mut lock = match File::options().read(true).write(true).open(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        lock => lock.map_err(fail)?,
    };
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Err(in_use(home, &mut lock)),
        Err(TryLockError::Error(source)) => Err(fail(source)),
    }
}

/// Who has `home`, as its lock file says.
fn in_use(home: &Path, lock: &mut File) -> Error {
    let mut pid = String::new();
    // Without its pid the message is still true.
    drop(lock.read_to_string(&mut pid));
    let address = read(home).map(|s| s.address);
    Error::HomeInUse { home: home.to_owned(), pid: pid.trim().to_owned(), address }
}

fn read(home: &Path) -> Option<Serving> {
    serde_json::from_slice(&fs::read(json_file(home)).ok()?).ok()
}

/// The right to serve a home, held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    /// Keeps the lock; the kernel releases it however this process ends.
    _file: File,
    home: PathBuf,
}

impl Lock {
    /// Makes `home` when it is not there, and takes it.
    pub(crate) fn take(home: &Path) -> Result<Self, Error> {
        fs::create_dir_all(home).map_err(|source| Error::Home { action: "create", path: home.to_owned(), source })?;
        let path = lock_file(home);
        let fail = |action| {
            let path = path.clone();
            move |source| Error::Home { action, path, source }
        };
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(fail("open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(home, &mut file)),
            Err(TryLockError::Error(source)) => return Err(fail("lock")(source)),
        }
        // Left over from a coordinator that was killed.
        drop(fs::remove_file(json_file(home)));
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| write!(file, "{}", std::process::id()))
            .map_err(fail("write"))?;
        Ok(Self { _file: file, home: home.to_owned() })
    }

    /// Tells others of the same user where this process listens, and with which token: the file has mode 0600.
    pub(crate) fn announce(&self, serving: &Serving) -> Result<(), Error> {
        let path = json_file(&self.home);
        let fail = |source| Error::Home { action: "write", path: path.clone(), source };
        let mut file = tempfile::NamedTempFile::new_in(&self.home).map_err(fail)?;
        serde_json::to_writer(&mut file, serving).map_err(|e| fail(e.into()))?;
        file.persist(&path).map_err(|e| fail(e.error))?;
        Ok(())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A stale file does no harm: `serving` asks the lock first.
        drop(fs::remove_file(json_file(&self.home)));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_home_has_one_master() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(serving(dir.path()), None);
        let lock = Lock::take(dir.path()).unwrap();
        let me = Serving {
            address: "127.0.0.1:1".into(),
            pid: 7,
            version: "1.0.0".into(),
            tls: false,
            token: Some(Secret::new("t")),
        };
        lock.announce(&me).unwrap();
        assert_eq!(serving(dir.path()), Some(me.clone()));
        let mode = fs::metadata(json_file(dir.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "it holds a token");
        let text = Lock::take(dir.path()).unwrap_err().to_string();
        assert!(text.contains(&std::process::id().to_string()) && text.contains("127.0.0.1:1"), "{text}");
        assert_eq!(unserved(dir.path()).unwrap_err().to_string(), text);
        drop(lock);
        let nobody = unserved(dir.path()).unwrap();
        assert!(nobody.is_some() && Lock::take(dir.path()).is_err(), "and nobody begins to");
        drop(nobody);
        assert_eq!(serving(dir.path()), None);
        fs::write(json_file(dir.path()), serde_json::to_vec(&me).unwrap()).unwrap();
        assert_eq!(serving(dir.path()), None, "what a killed coordinator left behind does not count");
    }
}
