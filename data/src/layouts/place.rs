//! Where a file lies: in a folder, in a zip file that is never unpacked, or in a bucket.

use std::{
    borrow::Cow,
    fmt,
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::Arc,
    time::UNIX_EPOCH,
};

use bytes::Bytes;
use zip::{ZipArchive, result::ZipError};

use super::{
    fault::{Fault, Lost},
    root::Bucket,
};
use crate::{Error, error::io_text, readers::LARGEST_FILE};

/// Bytes of a table in a bucket, which is held in memory.
const LARGEST_TABLE: u64 = 1 << 30;

/// Where a file lies.
#[derive(Clone)]
pub enum Place {
    /// A file.
    File(PathBuf),
    /// An entry of a zip file, by number.
    Zip(Arc<Archive>, usize),
    /// An object of a bucket, by name.
    Object(Arc<Bucket>, String),
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Zip(archive, entry) => write!(f, "{} #{entry}", archive.place),
            Self::Object(bucket, key) => write!(f, "{}", bucket.url_of(key)),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Place {
    /// The file's bytes.
    ///
    /// # Errors
    /// Whether the file or its storage is to blame, and why.
    pub fn read(&self) -> Result<Vec<u8>, Fault> {
        match self {
            Self::File(path) => {
                let bad = |e: io::Error| Fault::of(path, &e);
                let file = File::open(path).map_err(bad)?;
                let len = small(file.metadata().map_err(bad)?.len())?;
                let mut bytes = Vec::with_capacity(len as usize);
                file.take(LARGEST_FILE).read_to_end(&mut bytes).map_err(bad)?;
                Ok(bytes)
            }
            Self::Zip(archive, entry) => archive.read(*entry),
            Self::Object(bucket, key) => {
                small(self.len())?;
                bucket.read(key, LARGEST_FILE).map(Vec::from)
            }
        }
    }

    /// The file, to be read from its beginning: a table, which may be longer than images are.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub(super) fn open(&self) -> Result<Box<dyn Read>, Fault> {
        Ok(match self {
            Self::File(path) => Box::new(File::open(path).map_err(|e| Fault::of(path, &e))?),
            Self::Zip(..) => Box::new(io::Cursor::new(self.read()?)),
            Self::Object(bucket, key) => Box::new(io::Cursor::new(bucket.read(key, LARGEST_TABLE)?)),
        })
    }

    /// How many bytes it has; 0 when that cannot be told.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::File(path) => fs::metadata(path).map_or(0, |m| m.len()),
            Self::Zip(archive, entry) => archive.stamp(*entry).0,
            Self::Object(bucket, key) => bucket.stamp(key).0,
        }
    }

    /// Size, and what changes when the content does: time of change, the checksum in the zip file, or the object's ETag.
    pub(crate) fn stamp(&self) -> (u64, u128) {
        match self {
            Self::File(path) => {
                let meta = fs::metadata(path).ok();
                let time = meta.as_ref().and_then(|m| m.modified().ok()?.duration_since(UNIX_EPOCH).ok());
                (meta.map_or(0, |m| m.len()), time.map_or(0, |t| t.as_nanos()))
            }
            Self::Zip(archive, entry) => archive.stamp(*entry),
            Self::Object(bucket, key) => bucket.stamp(key),
        }
    }
}

/// `len` bytes, unless they are more than are read.
fn small(len: u64) -> Result<u64, Fault> {
    if len > LARGEST_FILE {
        return Err(Fault::File(format!("it has {len} bytes: files of more than {LARGEST_FILE} are not read")));
    }
    Ok(len)
}

/// An open zip file; all threads read it at once.
pub struct Archive {
    place: Place,
    zip: ZipArchive<At>,
    /// Its stamp when it was opened.
    opened: (u64, u128),
}

impl fmt::Debug for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place)
    }
}

impl Archive {
    /// Opens the zip file that lies at `place`.
    ///
    /// # Errors
    /// [`Error::Source`] when it is none.
    pub fn open(place: Place) -> Result<Arc<Self>, Error> {
        let bad = |why: String| Error::Source { path: place.to_string(), why };
        let opened = place.stamp();
        let (from, end) = match &place {
            Place::File(path) => {
                let file = File::open(path).map_err(|e| bad(io_text(&e)))?;
                let end = file.metadata().map_err(|e| bad(io_text(&e)))?.len();
                (Medium::File(Arc::new(file)), end)
            }
            Place::Object(bucket, key) => (Medium::Object(Arc::clone(bucket), key.as_str().into()), place.len()),
            Place::Zip(..) => return Err(bad("a zip file within a zip file is not read".to_owned())),
        };
        let zip = ZipArchive::new(At { from, at: 0, end, part: Part::default() })
            .map_err(|e| bad(format!("no readable zip file: {e}; is it still being downloaded?")))?;
        Ok(Arc::new(Self { place, zip, opened }))
    }

    /// The names of its files, with their numbers.
    pub fn names(&self) -> impl Iterator<Item = (usize, Cow<'_, str>)> {
        let named = (0..self.zip.len()).filter_map(|i| Some((i, self.zip.name_for_index(i)?.ok()?)));
        named.filter(|(_, name)| !name.ends_with('/'))
    }

    fn read(&self, entry: usize) -> Result<Vec<u8>, Fault> {
        self.unpack(entry).map_err(|fault| match fault {
            // Whoever writes it anew makes nonsense of what was read of it: nothing can be said of its entries.
            Fault::File(why) if self.place.stamp() != self.opened => {
                Fault::Storage(format!("{} has changed since it was opened: {why}", self.place))
            }
            fault => fault,
        })
    }

    fn unpack(&self, entry: usize) -> Result<Vec<u8>, Fault> {
        let mut zip = self.zip.clone();
        let file = zip.by_index(entry).map_err(|e| match e {
            ZipError::Io(e) => Fault::packed(&e),
            e => Fault::File(format!("its entry cannot be read: {e}")),
        })?;
        let (len, packed) = (small(file.size())?, file.compressed_size());
        // It may claim any size; memory grows with what comes out.
        let mut bytes = Vec::with_capacity(len.min(packed.saturating_mul(4)) as usize);
        // One byte more than it says: the checksum is looked at when it ends.
        file.take(len + 1).read_to_end(&mut bytes).map_err(|e| Fault::packed(&e))?;
        if bytes.len() as u64 == len { Ok(bytes) } else { Err("its entry has another size than it says".into()) }
    }

    fn stamp(&self, entry: usize) -> (u64, u128) {
        self.zip.by_index_data(entry).map_or((0, 0), |file| (file.size(), file.crc32().into()))
    }
}

/// A place in a file that several read: each has its own.
#[derive(Clone)]
struct At {
    from: Medium,
    at: u64,
    end: u64,
    part: Part,
}

/// What is read.
#[derive(Clone)]
enum Medium {
    File(Arc<File>),
    Object(Arc<Bucket>, Arc<str>),
}

/// Bytes of an object that were fetched in one go.
#[derive(Clone, Default)]
struct Part {
    start: u64,
    bytes: Bytes,
}

/// An image of PadChest has some 6 MB: what is read on and on is fetched in parts that grow from one of these to the other.
const SMALLEST_PART: u64 = 1 << 20;
const LARGEST_PART: u64 = 8 << 20;

impl Part {
    /// What it has from `at` on.
    fn from(&self, at: u64) -> Option<&[u8]> {
        let skip = usize::try_from(at.checked_sub(self.start)?).ok()?;
        self.bytes.get(skip..).filter(|rest| !rest.is_empty())
    }

    /// How much to fetch from `at` on.
    fn next(&self, at: u64) -> u64 {
        let len = self.bytes.len() as u64;
        let goes_on = len > 0 && self.start + len == at;
        if goes_on { len.saturating_mul(2).clamp(SMALLEST_PART, LARGEST_PART) } else { SMALLEST_PART }
    }
}

impl Read for At {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let n = match &self.from {
            Medium::File(file) => file.read_at(to, self.at).map_err(|e| match e.kind() {
                // It is tried again.
                io::ErrorKind::Interrupted => e,
                _ => Lost(io_text(&e)).into(),
            })?,
            Medium::Object(bucket, key) => {
                if self.at < self.end && self.part.from(self.at).is_none() {
                    let range = self.at..self.end.min(self.at + self.part.next(self.at));
                    let bytes = bucket.read_part(key, range).map_err(Lost)?;
                    self.part = Part { start: self.at, bytes };
                }
                let found = self.part.from(self.at).unwrap_or_default();
                let n = found.len().min(to.len());
                to[..n].copy_from_slice(&found[..n]);
                n
            }
        };
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for At {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.end.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a place before the file"))?;
        Ok(self.at)
    }
}

/// The last part of a path, in whatever way it is written.
pub(crate) fn file_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}
