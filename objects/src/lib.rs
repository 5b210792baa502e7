//! Object storage by URL: `file://` and plain paths, `s3://`, `gs://`, `az://`, and read-only `http(s)://`.
//!
//! Contract:
//! 1. A key is visible whole or not at all.
//! 2. [`Objects::commit`] never overwrites, and knows after any failure whether the object that is there is the caller's.
//! 3. No credential appears in an error or a URL that this room prints.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod backend;
mod blocking;
pub mod cache;
mod download;
mod error;
mod policy;
mod profile;

use std::{future::Future, ops::Range, sync::Arc, time::Instant};

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use object_store::{
    GetOptions, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
    WriteMultipart, path::Path,
};

pub use backend::{Options, path_of};
pub use blocking::Blocking;
pub use cache::{CachedFile, NodeCache, Wanted};
use download::{Broken, Patience, Sink};
pub use error::Error;
pub use policy::Policy;

/// Above this many bytes an object is sent in parts of this size.
const PART: usize = 16 << 20;

/// What changes when the content does.
fn version(meta: &ObjectMeta) -> String {
    meta.e_tag.clone().unwrap_or_else(|| meta.last_modified.timestamp_micros().to_string())
}

/// Whether an object is of `version`, which was listed: not every store tags what it lists, and times of change come in whole seconds
/// with an object.
fn is_version(meta: &ObjectMeta, version: &str) -> bool {
    let micros = version.parse::<i64>().ok();
    let listed = micros.map(|micros| micros.div_euclid(1_000_000));
    meta.e_tag.as_deref() == Some(version) || listed == Some(meta.last_modified.timestamp())
}

/// A folder in an object store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    /// What stands before the store's own paths in a URL: `s3://bucket`, `file://`.
    root: Arc<str>,
    folder: Path,
    read_only: bool,
    access: Arc<Access>,
}

/// How a store is spoken to.
struct Access {
    patience: Patience,
    /// What must not be in an error.
    secrets: Vec<String>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("patience", &self.patience).finish_non_exhaustive()
    }
}

/// What is known of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name relative to the folder that was listed.
    pub key: String,
    /// Size in bytes.
    pub bytes: u64,
    /// What changes when the content does: the store's ETag, or the time of change.
    pub version: String,
}

/// How a [`Objects::commit`] succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// The object was not there before.
    Created,
    /// The very same bytes were there already: an earlier try of the same commit had come through.
    AlreadySame,
}

impl Objects {
    /// Opens the folder at `location`: a URL, or a path (made absolute). Nothing is read or written yet.
    ///
    /// # Errors
    /// [`Error::BadUrl`] when the location or the environment's settings for it make no sense.
    pub fn open(location: &str) -> Result<Self, Error> {
        Self::open_with(location, &Options::default())
    }

    /// [`Self::open`] with other time limits than the defaults.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(location: &str, options: &Options) -> Result<Self, Error> {
        backend::open(location, options)
    }

    /// The folder `sub` below this one.
    pub fn at(&self, sub: &str) -> Self {
        let mut folder = self.folder.clone();
        for part in sub.split('/').filter(|p| !p.is_empty()) {
            folder = folder.join(part);
        }
        Self { folder, ..self.clone() }
    }

    /// The folder's URL.
    pub fn url(&self) -> String {
        format!("{}/{}", self.root, self.folder)
    }

    /// The URL of `key` in this folder.
    pub fn url_of(&self, key: &str) -> String {
        if self.folder.as_ref().is_empty() {
            format!("{}/{key}", self.root)
        } else {
            format!("{}/{}/{key}", self.root, self.folder)
        }
    }

    fn path(&self, key: &str) -> Result<Path, Error> {
        let bad = |why: &str| Error::BadUrl { url: self.url_of(key), why: why.to_owned() };
        if key.is_empty() {
            return Err(bad("the name is empty"));
        }
        let mut path = self.folder.clone();
        for part in key.split('/').filter(|p| !p.is_empty()) {
            if part == "." || part == ".." {
                return Err(bad("a name must not climb out of its folder"));
            }
            path = path.join(part);
        }
        Ok(path)
    }

    fn writable(&self, key: &str) -> Result<Path, Error> {
        if self.read_only {
            return Err(Error::ReadOnly { url: self.url_of(key) });
        }
        self.path(key)
    }

    /// The whole object.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Denied`], [`Error::Unavailable`] after the retries.
    pub async fn get(&self, key: &str) -> Result<Bytes, Error> {
        self.get_up_to(key, u64::MAX).await
    }

    /// The whole object, if it has no more than `most` bytes.
    ///
    /// # Errors
    /// As [`Self::get`], and [`Error::TooLarge`], before more than that is held.
    pub async fn get_up_to(&self, key: &str, most: u64) -> Result<Bytes, Error> {
        let mut bytes = BytesMut::new();
        self.read_into(key, most, &mut bytes).await?;
        Ok(bytes.freeze())
    }

    /// Bytes `range` of the object that was listed as `entry`; fewer where it ends before.
    ///
    /// # Errors
    /// As [`Self::get`]; and when another version lies there now.
    pub async fn get_range(&self, entry: &Entry, range: Range<u64>) -> Result<Bytes, Error> {
        let path = self.path(&entry.key)?;
        let range = range.start..range.end.min(entry.bytes);
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let part = || async {
            let options = GetOptions { range: Some(range.clone().into()), ..GetOptions::default() };
            let found = download::ask(self.store.as_ref(), &path, options, self.access.patience.hedge).await?;
            if !is_version(&found.meta, &entry.version) || found.range != range {
                return Err(download::odd("it has changed since it was listed"));
            }
            found.bytes().await
        };
        self.patiently(part).await.map_err(|e| self.failed("read", &entry.key, &e))
    }

    /// Does `what` again where it was cut in the middle: object_store repeats requests only.
    async fn patiently<T, F>(&self, what: impl Fn() -> F) -> Result<T, object_store::Error>
    where
        F: Future<Output = Result<T, object_store::Error>>,
    {
        let patience = self.access.patience;
        let (mut tries, since) = (0, Instant::now());
        loop {
            match what().await {
                Err(e) if tries < patience.tries && since.elapsed() < patience.time && !download::is_final(&e) => {
                    tokio::time::sleep(download::pause(tries)).await;
                    tries += 1;
                }
                done => return done,
            }
        }
    }

    /// Reads the object into `sink`, if it has no more than `most` bytes.
    pub(crate) async fn read_into(&self, key: &str, most: u64, sink: &mut impl Sink) -> Result<(), Error> {
        let path = self.path(key)?;
        let read = download::read(self.store.as_ref(), &path, most, self.access.patience, sink);
        read.await.map_err(|broken| match broken {
            Broken::Store(e) => self.failed("read", key, &e),
            Broken::TooLarge => Error::TooLarge { url: self.url_of(key), most },
            Broken::Sink(e) => Error::io("write", std::path::Path::new(&self.url_of(key)), e),
        })
    }

    fn failed(&self, action: &'static str, key: &str, e: &object_store::Error) -> Error {
        Error::of(action, self.url_of(key), e, &self.access.secrets)
    }

    /// Writes the object, over what was there.
    ///
    /// # Errors
    /// As [`Self::get`], and [`Error::DiskFull`], [`Error::ReadOnly`].
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<(), Error> {
        let path = self.writable(key)?;
        let sent = if bytes.len() > PART {
            self.put_parts(&path, bytes).await
        } else {
            self.store.put(&path, PutPayload::from_bytes(bytes)).await.map(drop)
        };
        sent.map_err(|e| self.failed("write", key, &e))
    }

    async fn put_parts(&self, path: &Path, bytes: Bytes) -> object_store::Result<()> {
        let upload: Box<dyn MultipartUpload> = self.store.put_multipart(path).await?;
        let mut write = WriteMultipart::new_with_chunk_size(upload, PART);
        for start in (0..bytes.len()).step_by(PART) {
            if let Err(e) = write.wait_for_capacity(4).await {
                // The upload's own error is what the caller should see.
                drop(write.abort().await);
                return Err(e);
            }
            write.put(bytes.slice(start..bytes.len().min(start + PART)));
        }
        write.finish().await.map(drop)
    }

    /// Writes the object only if there is none. Whatever goes wrong on the way, the outcome is settled by reading back:
    /// a reply that was lost after the object had been written counts as written.
    ///
    /// # Errors
    /// [`Error::Conflict`] when other bytes are there; else as [`Self::put`], and then nothing of this call is there.
    pub async fn commit(&self, key: &str, bytes: Bytes) -> Result<Committed, Error> {
        let path = self.writable(key)?;
        let create = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        let mut first = None;
        for _ in 0..2 {
            let error = match self.store.put_opts(&path, PutPayload::from_bytes(bytes.clone()), create()).await {
                Ok(_) => return Ok(Committed::Created),
                Err(e) => self.failed("commit", key, &e),
            };
            match self.get(key).await {
                Ok(there) if there == bytes => return Ok(Committed::AlreadySame),
                Ok(_) => return Err(Error::Conflict { url: self.url_of(key) }),
                // Not there: the create had no effect, so it may be tried once more.
                Err(Error::NotFound { .. }) => first = first.or(Some(error)),
                Err(_) => return Err(error),
            }
        }
        Err(first.expect("invariant: the loop ran and did not return"))
    }

    /// All objects whose names start with the folder `prefix` (empty: all), by name, each once. What is written or deleted meanwhile may
    /// be there or not; everything else is.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn list(&self, prefix: &str) -> Result<Vec<Entry>, Error> {
        let folder = self.at(prefix).folder;
        let listed = self.patiently(|| async { self.store.list(Some(&folder)).try_collect::<Vec<_>>().await }).await;
        let found = listed.map_err(|e| self.failed("list", prefix, &e))?;
        let skip = self.folder.as_ref().len();
        let mut entries: Vec<Entry> = found
            .into_iter()
            .map(|meta| {
                let key = meta.location.as_ref()[skip..].trim_start_matches('/').to_owned();
                Entry { key, bytes: meta.size, version: version(&meta) }
            })
            .collect();
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        // What is written while pages are turned may be on two of them.
        entries.dedup_by(|a, b| a.key == b.key);
        Ok(entries)
    }

    /// Deletes the object; it is no error when there is none.
    ///
    /// # Errors
    /// As [`Self::put`].
    pub async fn delete(&self, key: &str) -> Result<(), Error> {
        let path = self.writable(key)?;
        match self.store.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.failed("delete", key, &e)),
        }
    }

    /// Deletes everything below the folder `prefix`.
    ///
    /// # Errors
    /// As [`Self::put`]; what was deleted before the error stays deleted.
    pub async fn delete_all(&self, prefix: &str) -> Result<(), Error> {
        for entry in self.list(prefix).await? {
            self.delete(&entry.key).await?;
        }
        Ok(())
    }
}

/// Splits the URL of an object into its folder and its name there.
///
/// # Errors
/// [`Error::BadUrl`] when there is no name.
pub fn split_url(url: &str) -> Result<(Objects, String), Error> {
    match url.rsplit_once('/') {
        Some((folder, key)) if !key.is_empty() => Ok((Objects::open(folder)?, key.to_owned())),
        _ => {
            Err(Error::BadUrl { url: error::redact(url), why: "expected the URL of an object, folder/name".to_owned() })
        }
    }
}
