//! The agent's journal on its disk: while the coordinator has not heard everything, what it has yet to hear lies in
//! `HOME/journal`, so that an agent that dies meanwhile, or ends, leaves it to the next one.
//!
//! Frames of length (u32, little-endian), the first eight bytes of BLAKE3, and a protobuf message; the first names the
//! incarnation, and those after it the processes that have written here. A frame that is cut short or wrong ends the file: what came after it was never told to anybody.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use morph_control::agent::{Entry, Key};
use morph_proto::v1;
use prost::Message;

use super::letters::{self, Post};

const NAME: &str = "journal";
const CHECKSUM: usize = 8;
/// Frames are far smaller; a longer one is garbage.
const LONGEST: usize = 64 << 20;

/// One frame.
#[derive(Clone, PartialEq, Message)]
struct Frame {
    #[prost(oneof = "What", tags = "1, 2, 3, 4, 5, 6, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    /// Of whom it is.
    #[prost(string, tag = "1")]
    Incarnation(String),
    #[prost(uint64, tag = "2")]
    Numbered(u64),
    #[prost(message, tag = "3")]
    Report(v1::Report),
    #[prost(message, tag = "4")]
    Started(Rank),
    #[prost(message, tag = "5")]
    Ended(Rank),
    #[prost(message, tag = "6")]
    Stopped(v1::Fence),
    /// Who writes from here on.
    #[prost(string, tag = "7")]
    Writer(String),
}

#[derive(Clone, PartialEq, Message)]
struct Rank {
    #[prost(message, optional, tag = "1")]
    fence: Option<v1::Fence>,
    #[prost(uint32, tag = "2")]
    rank: u32,
}

/// What an agent that is gone had yet to say.
#[derive(Debug)]
pub struct Left {
    /// Under which incarnation.
    pub incarnation: String,
    /// The processes that have written it.
    pub writers: Vec<String>,
    /// All that it remembered.
    pub entries: Vec<Entry<Post>>,
    /// The file, to go on with.
    pub journal: Journal,
}

/// The file, when there is one.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: Option<File>,
    /// Written, but not yet sure to survive the machine.
    dirty: bool,
}

impl Journal {
    /// None yet, in the agent's `home`.
    pub fn new(home: &Path) -> Self {
        Self { path: home.join(NAME), file: None, dirty: false }
    }

    /// Whether it is kept now.
    pub fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// What an earlier agent of this `home` left behind. A file of which nothing can be read is put aside.
    ///
    /// # Errors
    /// When it cannot be read or written at all.
    pub fn left(home: &Path) -> Result<Option<Left>> {
        let path = home.join(NAME);
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.with_context(|| format!("read {}", path.display()))?,
        };
        let (mut frames, whole) = frames(&bytes);
        if whole < bytes.len() {
            tracing::warn!("{}: the last {} bytes were not written whole", path.display(), bytes.len() - whole);
        }
        let incarnation = match frames.first_mut() {
            Some(What::Incarnation(incarnation)) => std::mem::take(incarnation),
            _ => {
                let aside = home.join(format!("{NAME}.unreadable"));
                tracing::error!(
                    "{}: is no journal, or none of it is left: moved to {}",
                    path.display(),
                    aside.display()
                );
                fs::rename(&path, &aside).with_context(|| format!("move {}", path.display()))?;
                return Ok(None);
            }
        };
        let file = OpenOptions::new().append(true).open(&path).and_then(|file| {
            // What is appended must not follow half a frame.
            file.set_len(whole as u64)?;
            file.sync_all()?;
            Ok(file)
        });
        let file = file.with_context(|| format!("open {}", path.display()))?;
        let writer = |what: &What| if let What::Writer(process) = what { Some(process.clone()) } else { None };
        let writers = frames.iter().filter_map(writer).collect();
        let entries = frames.into_iter().skip(1).filter_map(entry).collect();
        Ok(Some(Left { incarnation, writers, entries, journal: Self { path, file: Some(file), dirty: false } }))
    }

    /// Begins anew with all that there is to remember.
    ///
    /// # Errors
    /// When it cannot be written; then there is none.
    pub fn begin(&mut self, incarnation: &str, writers: &[String], entries: Vec<Entry<Post>>) -> io::Result<()> {
        self.end();
        let mut bytes = Vec::new();
        put(What::Incarnation(incarnation.to_owned()), &mut bytes);
        writers.iter().for_each(|process| put(What::Writer(process.clone()), &mut bytes));
        entries.into_iter().for_each(|e| put(frame(e), &mut bytes));
        let tmp = self.path.with_extension("tmp");
        let mut file = OpenOptions::new().create(true).append(true).open(&tmp)?;
        file.set_len(0)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&tmp, &self.path)?;
        if let Some(home) = self.path.parent() {
            File::open(home)?.sync_all()?;
        }
        (self.file, self.dirty) = (Some(file), false);
        Ok(())
    }

    /// `process` writes from here on.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn continued(&mut self, process: &str) -> io::Result<()> {
        let mut bytes = Vec::new();
        put(What::Writer(process.to_owned()), &mut bytes);
        self.write(&bytes)
    }

    /// Appends; it survives this process when this returns.
    ///
    /// # Errors
    /// When it cannot be written. Then it is removed: half of it would be worse than none.
    pub fn append(&mut self, entries: Vec<Entry<Post>>) -> io::Result<()> {
        let mut bytes = Vec::new();
        entries.into_iter().for_each(|e| put(frame(e), &mut bytes));
        self.write(&bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        if bytes.is_empty() {
            return Ok(());
        }
        self.dirty = true;
        file.write_all(bytes).inspect_err(|_| self.end())
    }

    /// Makes sure that all of it survives the machine, too.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn sync(&mut self) -> io::Result<()> {
        match &self.file {
            Some(file) if self.dirty => file.sync_data().inspect_err(|_| self.end())?,
            _ => {}
        }
        self.dirty = false;
        Ok(())
    }

    /// The coordinator has heard everything.
    pub fn end(&mut self) {
        if self.file.take().is_some()
            && let Err(e) = fs::remove_file(&self.path)
        {
            tracing::error!("remove {}: {e}; remove it before the agent starts again", self.path.display());
        }
        self.dirty = false;
    }
}

fn put(what: What, bytes: &mut Vec<u8>) {
    let body = Frame { what: Some(what) }.encode_to_vec();
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&blake3::hash(&body).as_bytes()[..CHECKSUM]);
    bytes.extend_from_slice(&body);
}

/// All whole frames, and how many bytes they are.
fn frames(bytes: &[u8]) -> (Vec<What>, usize) {
    let (mut frames, mut at) = (Vec::new(), 0);
    while let Some((what, length)) = next(&bytes[at..]) {
        frames.push(what);
        at += length;
    }
    (frames, at)
}

fn next(bytes: &[u8]) -> Option<(What, usize)> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let (checksum, rest) = rest.split_first_chunk::<CHECKSUM>()?;
    let body = rest.get(..length).filter(|_| length <= LONGEST)?;
    if blake3::hash(body).as_bytes()[..CHECKSUM] != *checksum {
        return None;
    }
    Some((Frame::decode(body).ok()?.what?, 4 + CHECKSUM + length))
}

fn frame(entry: Entry<Post>) -> What {
    let rank = |key: Key| Rank { fence: Some(letters::fence(key.fence)), rank: key.rank };
    match entry {
        Entry::Numbered(last) => What::Numbered(last),
        Entry::Report { seq, letter } => What::Report(v1::Report { seq, report: Some(letter.0) }),
        Entry::Started(key) => What::Started(rank(key)),
        Entry::Ended(key) => What::Ended(rank(key)),
        Entry::Stopped(fence) => What::Stopped(letters::fence(fence)),
    }
}

fn entry(what: What) -> Option<Entry<Post>> {
    let key = |rank: Rank| Some(Key { fence: letters::parsed(rank.fence.as_ref())?, rank: rank.rank });
    Some(match what {
        What::Incarnation(_) | What::Writer(_) => return None,
        What::Numbered(last) => Entry::Numbered(last),
        What::Report(v1::Report { seq, report }) => Entry::Report { seq, letter: Post(report?) },
        What::Started(rank) => Entry::Started(key(rank)?),
        What::Ended(rank) => Entry::Ended(key(rank)?),
        What::Stopped(fence) => Entry::Stopped(letters::parsed(Some(&fence))?),
    })
}

#[cfg(test)]
mod tests {
    use morph_proto::v1::report::Report;
    use morph_spec::{Fence, Rng, RunId, Timestamp};

    use super::*;

    fn all() -> Vec<Entry<Post>> {
        let fence = Fence { run: RunId::new(Timestamp(7), &mut Rng::keyed(1, "run", 0)), attempt: 3 };
        let key = Key { fence, rank: 1 };
        let report = Post(Report::NotHere(v1::AttemptNotHere { fence: Some(letters::fence(fence)) }));
        vec![
            Entry::Numbered(41),
            Entry::Started(key),
            Entry::Report { seq: 42, letter: report },
            Entry::Ended(key),
            Entry::Stopped(fence),
        ]
    }

    #[test]
    fn what_was_written_is_left_and_goes_on() {
        let home = tempfile::tempdir().unwrap();
        assert!(Journal::left(home.path()).unwrap().is_none());
        let mut journal = Journal::new(home.path());
        let (first, second) = (all()[..2].to_vec(), all()[2..].to_vec());
        journal.begin("me", &["me".to_owned()], first).unwrap();
        journal.append(second[..1].to_vec()).unwrap();
        drop(journal);
        let mut left = Journal::left(home.path()).unwrap().unwrap();
        assert_eq!((left.incarnation.as_str(), left.entries), ("me", all()[..3].to_vec()));
        assert_eq!(left.writers, ["me"]);
        left.journal.continued("next").unwrap();
        left.journal.append(second[1..].to_vec()).unwrap();
        left.journal.sync().unwrap();
        let mut left = Journal::left(home.path()).unwrap().unwrap();
        assert_eq!((left.writers.join(" ").as_str(), left.entries), ("me next", all()));
        left.journal.end();
        assert!(Journal::left(home.path()).unwrap().is_none());
    }

    #[test]
    fn wherever_it_was_cut_or_flipped_what_stands_before_counts_and_more_can_follow() {
        let home = tempfile::tempdir().unwrap();
        let mut journal = Journal::new(home.path());
        journal.begin("me", &["me".to_owned()], all()).unwrap();
        let path = home.path().join(NAME);
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            for flip in [false, true] {
                let mut bytes = whole[..cut].to_vec();
                if flip {
                    bytes = whole.clone();
                    bytes[cut] ^= 0x40;
                }
                fs::write(&path, &bytes).unwrap();
                let Some(mut left) = Journal::left(home.path()).unwrap() else {
                    assert!(cut < 4 + CHECKSUM + 4, "the head was whole at {cut}");
                    continue;
                };
                assert!(all().starts_with(&left.entries), "{cut} {flip}");
                let known = left.entries.len();
                left.journal.append(vec![Entry::Numbered(99)]).unwrap();
                let left = Journal::left(home.path()).unwrap().unwrap();
                assert_eq!((left.entries.len(), left.entries.last()), (known + 1, Some(&Entry::Numbered(99))));
            }
        }
    }
}
