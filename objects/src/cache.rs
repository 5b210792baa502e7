//! The node's cache: one folder of immutable files named by their BLAKE3, shared by every process on the node.
//!
//! Contract:
//! 1. A file under its final name is whole; a crash leaves only `*.tmp.*`, which the next [`NodeCache::open`] removes.
//! 2. Each object is fetched once per node: others wait on the object's lock file.
//! 3. What was verified is not hashed again until it changes: a stamp beside it says which size, inode and times it had then. A stamp
//!    that is missing, broken or another's only costs a hash.
//! 4. Eviction removes the least recently used files, and never one that somebody holds: a [`CachedFile`] keeps a shared
//!    lock on it, and takes it under the object's own, which eviction needs, too. So the bound on the size is soft: what is in
//!    use may exceed it. What is wanted at a time may not, nor may it be more than the disk has room for: that is said before
//!    anything is fetched.
//! 5. Who uses a set of files notes which ones they are; a set is told as being here while all of them are.

use std::{
    collections::BTreeMap,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Seek, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use futures::{StreamExt, TryStreamExt, stream};
use morph_spec::Digest;

use crate::{Error, Objects, download::Sink};

mod sets;

/// Objects that are fetched at a time: enough to fill a line on which one stream cannot, few enough for any server.
const AT_ONCE: usize = 6;
/// How often an object is fetched whose bytes arrive wrong: they may have been hurt on the way.
const TRIES: u32 = 3;

/// A folder of verified copies. Cheap to open; several may be open on the same folder.
#[derive(Debug, Clone)]
pub struct NodeCache {
    files: PathBuf,
    locks: PathBuf,
    stamps: PathBuf,
    sets: PathBuf,
    max_bytes: u64,
    hashed: Arc<AtomicU64>,
}

/// An object that should be in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name in its folder.
    pub key: String,
    /// Its size.
    pub bytes: u64,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
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
        let [files, locks, stamps, sets] = ["blake3", "locks", "stamps", "sets"].map(|name| dir.join(name));
        let cache = Self { files, locks, stamps, sets, max_bytes, hashed: Arc::default() };
        for folder in [&cache.files, &cache.locks, &cache.stamps, &cache.sets] {
            fs::create_dir_all(folder).map_err(|e| Error::io("create", folder, e))?;
        }
        cache.sweep_temporaries();
        Ok(cache)
    }

    /// The verified copies of all that is `wanted` in `from`, in that order; several are fetched at a time.
    ///
    /// # Errors
    /// [`Error::NoRoom`] before anything is fetched; else as [`Self::fetch`], the first in the order that failed.
    pub async fn fetch_all(&self, from: &Objects, wanted: &[Wanted]) -> Result<Vec<CachedFile>, Error> {
        let sizes = wanted.iter().map(|w| (w.digest.to_string(), w.bytes)).collect();
        self.blocking(move |cache| cache.check_room(&sizes)).await?;
        let fetches = wanted.iter().map(|w| self.fetch(from, &w.key, w.bytes, w.digest));
        stream::iter(fetches).buffered(AT_ONCE).try_collect().await
    }

    /// Bytes of cached files that were hashed through this and its clones since they had no good stamp.
    pub fn hashed(&self) -> u64 {
        self.hashed.load(Ordering::Relaxed)
    }

    /// The verified copy of `key` in `from`, fetched if it is not there yet.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the object has not the promised size and BLAKE3; the store's errors; disk errors.
    pub async fn fetch(&self, from: &Objects, key: &str, bytes: u64, digest: Digest) -> Result<CachedFile, Error> {
        let lock = self.blocking(move |cache| cache.lock(digest)).await?;
        if let Some(held) = self.blocking(move |cache| cache.hold(bytes, digest)).await? {
            return Ok(held);
        }
        self.blocking(move |cache| {
            cache.make_room(bytes);
            Ok(())
        })
        .await?;
        let mut tries = 1;
        let arrived = loop {
            match self.receive(from, key, bytes, digest).await {
                Err(e @ Error::Corrupt { .. }) if tries < TRIES => {
                    tracing::warn!("{e}; it is fetched again");
                    tries += 1;
                }
                other => break other?,
            }
        };
        // The lock goes along: should nobody wait for this any more, it still ends before the next begins.
        self.blocking(move |cache| cache.keep(arrived, digest).inspect(|_| drop(lock))).await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let cache = self.clone();
        tokio::task::spawn_blocking(move || work(&cache)).await.unwrap_or_else(|e| {
            Err(Error::Unavailable { action: "use", url: self.files.display().to_string(), source: Box::new(e) })
        })
    }

    /// Waits until nobody else fetches `digest`. The lock ends with the file that is returned.
    fn lock(&self, digest: Digest) -> Result<File, Error> {
        let path = self.locks.join(digest.to_string());
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        file.and_then(|file| file.lock().map(|()| file)).map_err(|e| Error::io("lock", &path, e))
    }

    /// The file, if it is there and good. Files are never changed after they were written; a wrong hash therefore means a damaged
    /// disk or a foreign hand, and the file is removed. Needs the object's lock.
    fn hold(&self, bytes: u64, digest: Digest) -> Result<Option<CachedFile>, Error> {
        let path = self.files.join(digest.to_string());
        let held = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("open", &path, e)),
        };
        held.lock_shared().map_err(|e| Error::io("lock", &path, e))?;
        // Between opening and locking it may have been evicted: then what is held has no name any more.
        if !fs::exists(&path).map_err(|e| Error::io("open", &path, e))? {
            return Ok(None);
        }
        // Taken before hashing: what changes meanwhile is not what the stamp says.
        let seen = held.metadata().map_err(|e| Error::io("read", &path, e))?;
        let stamp = self.stamps.join(digest.to_string());
        if seen.len() == bytes && fs::read_to_string(&stamp).is_ok_and(|text| text == stamp_of(&seen)) {
            // Being used is what eviction goes by; a file system without times only makes it less clever. The file itself is left
            // alone: its own times are what the stamp knows it by.
            if let Err(e) = File::open(&stamp).and_then(|stamp| stamp.set_modified(SystemTime::now())) {
                tracing::debug!(path = %stamp.display(), error = %e, "cannot touch a stamp");
            }
            return Ok(Some(CachedFile { path, held }));
        }
        let mut hasher = blake3::Hasher::new();
        if seen.len() == bytes {
            hasher.update_reader(&held).map_err(|e| Error::io("read", &path, e))?;
            self.hashed.fetch_add(bytes, Ordering::Relaxed);
        }
        if seen.len() != bytes || hasher.finalize().as_bytes() != &digest.0 {
            tracing::warn!(path = %path.display(), "a cached file was damaged and is fetched again");
            fs::remove_file(&path).map_err(|e| Error::io("remove", &path, e))?;
            return Ok(None);
        }
        self.stamp(digest, &seen);
        Ok(Some(CachedFile { path, held }))
    }

    /// Notes that `digest` was verified as it was when `seen`. Needs the object's lock.
    fn stamp(&self, digest: Digest, seen: &Metadata) {
        let stamp = self.stamps.join(digest.to_string());
        let tmp = stamp.with_extension("tmp.stamp");
        let write = fs::write(&tmp, stamp_of(seen)).and_then(|()| fs::rename(&tmp, &stamp));
        if let Err(e) = write {
            // Not worth failing for: without a stamp the file is hashed again.
            tracing::debug!(path = %stamp.display(), error = %e, "cannot write a stamp");
        }
    }

    /// Fetches into a temporary file, hashing on the way: memory does not depend on the object's size.
    async fn receive(&self, from: &Objects, key: &str, bytes: u64, digest: Digest) -> Result<Arriving, Error> {
        let mut arriving = Arriving::create(&self.files, digest)?;
        from.read_into(key, bytes, &mut arriving).await.map_err(|e| arriving.blame(e))?;
        let (found, found_bytes) = (Digest(*arriving.hasher.finalize().as_bytes()), arriving.bytes);
        if found != digest || found_bytes != bytes {
            return Err(Error::Corrupt { url: from.url_of(key), expected: digest, bytes, found, found_bytes });
        }
        Ok(arriving)
    }

    /// Gives what has arrived its name. Needs the object's lock.
    fn keep(&self, mut arrived: Arriving, digest: Digest) -> Result<CachedFile, Error> {
        let path = self.files.join(digest.to_string());
        let name = || {
            arrived.file.sync_all()?;
            // Held before it has its name, by a file that cannot write.
            let held = File::open(&arrived.path)?;
            held.lock_shared()?;
            fs::rename(&arrived.path, &path)?;
            Ok((held.metadata()?, held))
        };
        let (seen, held) = name().map_err(|e| Error::io("write", &path, e))?;
        arrived.named = true;
        self.stamp(digest, &seen);
        Ok(CachedFile { path, held })
    }

    /// Whether all of `wanted`, bytes by name, can be here at a time. What others hold or fetch is not looked at: where it matters, the
    /// disk says so later.
    fn check_room(&self, wanted: &BTreeMap<String, u64>) -> Result<(), Error> {
        let bytes = wanted.values().fold(0, |all: u64, n| all.saturating_add(*n));
        let refuse = |why: String| Err(Error::NoRoom { path: self.files.display().to_string(), bytes, why });
        if bytes > self.max_bytes {
            return refuse(format!("it may hold {}; raise the agent's --cache-gib", self.max_bytes));
        }
        // First the disk, then the folder: what arrives in between is counted as both, which refuses nobody.
        let Some(free) = free(&self.files) else { return Ok(()) };
        let (mut here, mut other) = (0u64, 0u64);
        for entry in fs::read_dir(&self.files).into_iter().flatten().flatten() {
            let size = entry.metadata().map_or(0, |meta| meta.len());
            match entry.file_name().to_str().and_then(|name| wanted.get(name)) {
                Some(_) => here = here.saturating_add(size),
                None => other = other.saturating_add(size),
            }
        }
        let room = free.saturating_add(other);
        if bytes.saturating_sub(here) > room {
            return refuse(format!(
                "no space left on the device: {here} of them are there, and its disk has room for {room} more with all else evicted; \
                 free some, or give the cache another disk"
            ));
        }
        Ok(())
    }

    fn make_room(&self, wanted: u64) {
        let Ok(listing) = fs::read_dir(&self.files) else { return };
        let mut files: Vec<(SystemTime, u64, PathBuf)> = listing
            .flatten()
            .filter_map(|entry| {
                let meta = entry.metadata().ok()?;
                let used =
                    fs::metadata(self.stamps.join(entry.file_name())).ok().and_then(|stamp| stamp.modified().ok());
                Some((used.or_else(|| meta.modified().ok())?, meta.len(), entry.path()))
            })
            .collect();
        files.sort();
        let mut total: u64 = files.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in files {
            if total + wanted <= self.max_bytes {
                return;
            }
            if self.evict(&path) {
                total -= size;
            }
        }
    }

    /// Removes the file unless somebody holds it, or is about to: whoever gives a file its name, takes hold of it or fetches it has the
    /// object's lock. Without that lock the name could have become another file's since this one was found to be free.
    fn evict(&self, path: &Path) -> bool {
        let Some(name) = path.file_name() else { return false };
        let object = name.to_string_lossy();
        let object = object.split_once(".tmp.").map_or(&*object, |(digest, _)| digest);
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(self.locks.join(object));
        if !lock.as_ref().is_ok_and(|lock| lock.try_lock().is_ok()) {
            return false;
        }
        let free = File::open(path).is_ok_and(|file| file.try_lock().is_ok());
        let removed = free && fs::remove_file(path).is_ok();
        if removed {
            // One that stays behind fits no other file.
            drop(fs::remove_file(self.stamps.join(name)));
        }
        removed
    }

    fn sweep_temporaries(&self) {
        for folder in [&self.files, &self.stamps, &self.sets] {
            let Ok(listing) = fs::read_dir(folder) else { continue };
            for path in listing.flatten().map(|entry| entry.path()) {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let Some((digest, _)) = name.split_once(".tmp.") else { continue };
                // Who writes it holds the object's lock; of a set's note, which nobody waits for, nothing is lost.
                let lock = OpenOptions::new().create(true).truncate(false).write(true).open(self.locks.join(digest));
                if lock.is_ok_and(|lock| lock.try_lock().is_ok() && fs::remove_file(&path).is_ok()) {
                    tracing::info!(path = %path.display(), "swept away what a crash had left");
                }
            }
        }
    }
}

/// Bytes that may still be written on the disk of `folder`, where that is known.
fn free(folder: &Path) -> Option<u64> {
    let disk = nix::sys::statvfs::statvfs(folder).ok().filter(|disk| disk.blocks() > 0)?;
    Some(disk.blocks_available().saturating_mul(disk.fragment_size()))
}

/// What is written of a file that was verified: it changes with whatever changes the file, but for what happens within the same tick
/// of the clock and keeps the size.
fn stamp_of(seen: &Metadata) -> String {
    let (size, inode) = (seen.len(), seen.ino());
    let [changed, modified] = [(seen.ctime(), seen.ctime_nsec()), (seen.mtime(), seen.mtime_nsec())];
    format!("1 {size} {inode} {}.{:09} {}.{:09}\n", changed.0, changed.1, modified.0, modified.1)
}

/// An object on its way into the cache; removed unless it gets its name.
#[derive(Debug)]
struct Arriving {
    path: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    bytes: u64,
    failed: Option<io::ErrorKind>,
    named: bool,
}

impl Arriving {
    fn create(folder: &Path, digest: Digest) -> Result<Self, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let unique = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("{digest}.tmp.{}.{unique}", std::process::id()));
        let file = File::create(&path).map_err(|e| Error::io("write", &path, e))?;
        // Kept from eviction.
        file.lock_shared().map_err(|e| Error::io("lock", &path, e))?;
        Ok(Self { path, file, hasher: blake3::Hasher::new(), bytes: 0, failed: None, named: false })
    }

    /// The disk's errors name the file, not the object.
    fn blame(&self, e: Error) -> Error {
        match self.failed {
            Some(kind) => Error::io("write", &self.path, kind.into()),
            None => e,
        }
    }
}

impl Sink for Arriving {
    fn restart(&mut self) -> io::Result<()> {
        self.hasher.reset();
        self.bytes = 0;
        self.file.rewind()?;
        self.file.set_len(0)
    }

    fn append(&mut self, part: &[u8]) -> io::Result<()> {
        self.hasher.update(part);
        self.bytes += part.len() as u64;
        self.file.write_all(part).inspect_err(|e| self.failed = Some(e.kind()))
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if !self.named {
            // If even that fails, the next open sweeps it away.
            drop(fs::remove_file(&self.path));
        }
    }
}
