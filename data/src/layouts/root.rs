//! Where a source's files lie: below a folder, or in a bucket, which is listed once.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use morph_objects::{Blocking, Entry, path_of};

use super::{Fault, Listing, Place};
use crate::{Error, error::io_text};

/// The root of a source. Names in it are relative, with `/` between.
#[derive(Debug, Clone)]
pub enum Root {
    /// A folder of this machine.
    Folder(PathBuf),
    /// Objects that begin with the same words.
    Bucket(Arc<Bucket>),
}

/// Objects, as they were listed.
#[derive(Debug)]
pub struct Bucket {
    objects: Blocking,
    files: BTreeMap<String, Entry>,
}

impl Bucket {
    pub(super) fn url_of(&self, key: &str) -> String {
        self.objects.url_of(key)
    }

    pub(super) fn read(&self, key: &str, most: u64) -> Result<Bytes, Fault> {
        self.objects.get_up_to(key, most).map_err(Fault::from)
    }

    /// Bytes `range` of the object `key`.
    pub(super) fn read_part(&self, key: &str, range: Range<u64>) -> Result<Bytes, String> {
        let entry = self.files.get(key).ok_or_else(|| format!("{}: it was not there", self.url_of(key)))?;
        self.objects.get_range(entry, range).map_err(|e| e.to_string())
    }

    /// Size, and what changes when the content does.
    pub(super) fn stamp(&self, key: &str) -> (u64, u128) {
        self.files.get(key).map_or((0, 0), |entry| {
            let mut head = [0; 16];
            head.copy_from_slice(&blake3::hash(entry.version.as_bytes()).as_bytes()[..16]);
            (entry.bytes, u128::from_le_bytes(head))
        })
    }
}

impl Root {
    /// The root at `location`: a path, or a URL, whose objects are listed now.
    ///
    /// # Errors
    /// When objects cannot be listed, or there are none.
    pub fn open(location: &str) -> Result<Self, Error> {
        if let Some(path) = path_of(location)? {
            return Ok(Self::folder(path));
        }
        let objects = Blocking::open(location)?;
        let files: BTreeMap<String, Entry> = objects.list()?.into_iter().map(|e| (e.key.clone(), e)).collect();
        if files.is_empty() {
            return Err(Error::Source { path: objects.url(), why: "nothing lies there".to_owned() });
        }
        Ok(Self::Bucket(Arc::new(Bucket { objects, files })))
    }

    /// The folder at `path`.
    pub fn folder(path: impl Into<PathBuf>) -> Self {
        Self::Folder(path.into())
    }

    /// Where `name` is, for people.
    pub(crate) fn show(&self, name: &str) -> String {
        match self {
            Self::Folder(root) if name.is_empty() => root.display().to_string(),
            Self::Folder(root) => root.join(name).display().to_string(),
            Self::Bucket(bucket) if name.is_empty() => bucket.objects.url(),
            Self::Bucket(bucket) => bucket.url_of(name),
        }
    }

    /// Where the file `name` lies; a path from the top is one of this machine, whatever the root is.
    pub(crate) fn place(&self, name: &str) -> Place {
        match self {
            Self::Folder(root) => Place::File(root.join(name)),
            Self::Bucket(_) if Path::new(name).is_absolute() => Place::File(name.into()),
            Self::Bucket(bucket) => Place::Object(bucket.clone(), name.to_owned()),
        }
    }

    /// The names in `folder` (empty: the root itself), files and folders, sorted. Those that are no text are left out, and `listing`
    /// says so.
    ///
    /// # Errors
    /// [`Error::Source`] when it cannot be read.
    pub(super) fn names(&self, folder: &str, listing: &mut Listing) -> Result<Vec<String>, Error> {
        let mut names: Vec<String> = match self {
            Self::Folder(root) => {
                let path = root.join(folder);
                let bad = |e: &std::io::Error| Error::Source { path: path.display().to_string(), why: io_text(e) };
                let mut names = Vec::new();
                for entry in fs::read_dir(&path).map_err(|e| bad(&e))? {
                    match entry.map_err(|e| bad(&e))?.file_name().into_string() {
                        Ok(name) => names.push(name),
                        Err(name) => {
                            let source = format!("{}{}", below(folder), name.to_string_lossy());
                            listing.skip(source, "its name is no text (UTF-8)");
                        }
                    }
                }
                names
            }
            Self::Bucket(bucket) => {
                let below = below(folder);
                let inside = bucket.files.range(below.clone()..).map(|(key, _)| key.as_str());
                let inside = inside.map_while(|key| key.strip_prefix(below.as_str()));
                // Some tools mark folders by objects that have no name in them.
                inside
                    .filter_map(|rest| rest.split('/').next().filter(|name| !name.is_empty()))
                    .map(str::to_owned)
                    .collect::<BTreeSet<_>>()
                    .into_iter()
                    .collect()
            }
        };
        names.sort();
        Ok(names)
    }

    /// Whether `name` is a folder.
    pub(super) fn is_folder(&self, name: &str) -> bool {
        match self {
            Self::Folder(root) => root.join(name).is_dir(),
            Self::Bucket(bucket) => {
                let below = below(name);
                bucket.files.range(below.clone()..).next().is_some_and(|(key, _)| key.starts_with(&below))
            }
        }
    }

    /// Whether `name` is a file.
    pub(crate) fn is_file(&self, name: &str) -> bool {
        match self {
            Self::Folder(root) => root.join(name).is_file(),
            Self::Bucket(bucket) => bucket.files.contains_key(name),
        }
    }
}

/// What all names in `folder` begin with.
fn below(folder: &str) -> String {
    if folder.is_empty() { String::new() } else { format!("{folder}/") }
}
