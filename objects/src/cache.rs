//! The node's cache: one folder of immutable files named by their BLAKE3, shared by every process on the node.
//!
//! Contract:
//! 1. A file under its final name is whole; a crash leaves only `*.tmp.*`, which the next [`NodeCache::open`] removes.
//! 2. Each object is fetched once per node: others wait on the object's lock file.
//! 3. Eviction removes the least recently used files, and never one that somebody holds: a [`CachedFile`] keeps a shared
//!    lock on it. So the bound on the size is soft: what is in use may exceed it.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::Write,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use morph_spec::Digest;

use crate::{Error, Objects};

/// A folder of verified copies. Cheap to open; several may be open on the same folder.
#[derive(Debug, Clone)]
pub struct NodeCache {
    files: PathBuf,
    locks: PathBuf,
    max_bytes: u64,
}

/// A cached file, kept from eviction for as long as this lives.
#[derive(Debug)]
pub struct CachedFile {
    path: PathBuf,
    held: File,
}

impl CachedFile {
    /// Where the copy lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The copy, open for reading.
    pub fn file(&self) -> &File {
        &self.held
    }
}

impl NodeCache {
    /// Opens the cache in `dir`, which may not exist yet, to hold about `max_bytes`.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn open(dir: &Path, max_bytes: u64) -> Result<Self, Error> {
        let cache = Self { files: dir.join("blake3"), locks: dir.join("locks"), max_bytes };
        for folder in [&cache.files, &cache.locks] {
            fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
        }
        cache.sweep_temporaries();
        Ok(cache)
    }

    /// The verified copy of `key` in `from`, fetched if it is not there yet.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the object has not the promised size and BLAKE3; the store's errors; disk errors.
    pub async fn fetch(&self, from: &Objects, key: &str, bytes: u64, digest: Digest) -> Result<CachedFile, Error> {
        let lock = self.lock(digest).await?;
        let path = self.files.join(digest.to_string());
        if let Some(held) = self.hold(&path, bytes, digest)? {
            return Ok(held);
        }
        let url = from.url_of(key);
        let body = from.get_up_to(key, bytes).await?;
        let found = Digest::of(&body);
        if found != digest || body.len() as u64 != bytes {
            return Err(Error::Corrupt { url, expected: digest, bytes, found, found_bytes: body.len() as u64 });
        }
        self.make_room(bytes);
        self.store(&path, &body)?;
        let held = self.hold(&path, bytes, digest)?;
        drop(lock);
        held.ok_or(Error::NotFound { url: path.display().to_string() })
    }

    /// Waits until nobody else fetches `digest`. The lock ends with the file that is returned.
    async fn lock(&self, digest: Digest) -> Result<File, Error> {
        let path = self.locks.join(digest.to_string());
        let open = move || {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
            file.lock().map(|()| (path, file))
        };
        match tokio::task::spawn_blocking(open).await {
            Ok(Ok((_, file))) => Ok(file),
            Ok(Err(e)) => Err(Error::io("lock", &self.locks, e)),
            Err(e) => {
                Err(Error::Unavailable { action: "lock", url: self.locks.display().to_string(), source: Box::new(e) })
            }
        }
    }

    /// The file, if it is there and good. Its content was verified when it was written, and files are never changed after
    /// that; a wrong hash therefore means a damaged disk or a foreign hand, and the file is removed.
    fn hold(&self, path: &Path, bytes: u64, digest: Digest) -> Result<Option<CachedFile>, Error> {
        let held = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("open", path, e)),
        };
        held.lock_shared().map_err(|e| Error::io("lock", path, e))?;
        // Between opening and locking it may have been evicted: then what is held has no name any more.
        if !fs::exists(path).map_err(|e| Error::io("open", path, e))? {
            return Ok(None);
        }
        let size = held.metadata().map_err(|e| Error::io("read", path, e))?.len();
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(&held).map_err(|e| Error::io("read", path, e))?;
        if size != bytes || hasher.finalize().as_bytes() != &digest.0 {
            tracing::warn!(path = %path.display(), "a cached file was damaged and is fetched again");
            fs::remove_file(path).map_err(|e| Error::io("remove", path, e))?;
            return Ok(None);
        }
        // Being used is what eviction goes by; a file system without times only makes it less clever.
        if let Err(e) = held.set_modified(SystemTime::now()) {
            tracing::debug!(path = %path.display(), error = %e, "cannot touch a cached file");
        }
        Ok(Some(CachedFile { path: path.to_owned(), held }))
    }

    fn store(&self, path: &Path, body: &[u8]) -> Result<(), Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let unique = NEXT.fetch_add(1, Ordering::Relaxed);
        let tmp = path.with_extension(format!("tmp.{}.{unique}", std::process::id()));
        let write = || {
            let mut file = File::create(&tmp)?;
            file.lock()?;
            file.write_all(body)?;
            file.sync_all()?;
            fs::rename(&tmp, path)
        };
        write().map_err(|e| {
            // Nothing half-written stays; if even that fails, the next open sweeps it away.
            drop(fs::remove_file(&tmp));
            Error::io("write", path, e)
        })
    }

    fn make_room(&self, wanted: u64) {
        let Ok(listing) = fs::read_dir(&self.files) else { return };
        let mut files: Vec<(SystemTime, u64, PathBuf)> = listing
            .flatten()
            .filter_map(|entry| {
                let meta = entry.metadata().ok()?;
                Some((meta.modified().ok()?, meta.len(), entry.path()))
            })
            .collect();
        files.sort();
        let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in files {
            if total + wanted <= self.max_bytes {
                return;
            }
            if remove_unless_held(&path) {
                total -= size;
            }
        }
    }

    fn sweep_temporaries(&self) {
        let Ok(listing) = fs::read_dir(&self.files) else { return };
        for path in listing.flatten().map(|entry| entry.path()) {
            if path.to_string_lossy().contains(".tmp.") {
                remove_unless_held(&path);
            }
        }
    }
}

/// Removes the file unless a process holds a lock on it (a writer's exclusive one or a reader's shared one).
fn remove_unless_held(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    match file.try_lock() {
        Ok(()) => fs::remove_file(path).is_ok(),
        Err(TryLockError::WouldBlock | TryLockError::Error(_)) => false,
    }
}
