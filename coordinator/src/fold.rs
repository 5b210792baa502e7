//! What the events add up to, and a copy of that in the home folder, so that a restart need not begin with the oldest event.
//!
//! The copy is a cache. It counts only when this very build wrote it, it is whole, and the database has the event at which it
//! was taken; otherwise all events are folded. It may be deleted at any time.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    sync::mpsc::{SyncSender, sync_channel},
    time::Duration,
};

use morph_control::{
    Cluster, Policy,
    goodput::Ledger,
    snapshot::{BUILD, Piece, Restore},
};
use morph_spec::{Digest, RunId, Timestamp};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;

use crate::{
    store::{self, Database, Page, Reader, Recorded},
    waiting,
};

/// The copy, below a home folder.
pub(crate) const FILE: &str = "snapshot.jsonl";
/// How often is looked whether a new copy is due.
const LOOK: Duration = Duration::from_secs(10);

/// The state after some event.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Fold {
    /// The core's.
    pub cluster: Cluster,
    /// Where the time of runs went.
    pub ledgers: BTreeMap<RunId, Ledger>,
    /// Position of the event; 0: nothing has happened.
    pub seq: u64,
    /// Its time.
    pub at: Timestamp,
}

/// The first line of a copy.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    build: String,
    seq: u64,
    at: Timestamp,
    /// Digest of the event at `seq`: tells histories apart.
    event: Digest,
}

/// Any other line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "one lives at a time")]
enum Line<'a> {
    Ledger(RunId, Ledger),
    /// The last one: digest of all before.
    End(Digest),
    Piece(Piece<'a>),
}

impl Fold {
    fn take(&mut self, Recorded { seq, event }: &Recorded) {
        (self.seq, self.at) = (*seq, event.at);
        morph_control::evolve(&mut self.cluster, event);
        if let Some(run) = event.run() {
            self.ledgers.entry(run).or_default().take(event);
        }
    }
}

/// The state after all events of a history that has no copy.
///
/// # Errors
/// When the database cannot be read.
pub(crate) fn all(reader: &mut dyn Reader) -> Result<Fold, store::Error> {
    let mut fold = Fold::default();
    reader.replay(0, &mut |recorded| fold.take(&recorded))?;
    Ok(fold)
}

/// The state after all events: from the copy in `home` if it is good, and what happened since.
///
/// # Errors
/// When the database cannot be read.
pub(crate) fn load(home: &Path, reader: &mut dyn Reader, policy: &Policy) -> Result<Fold, store::Error> {
    let mut fold = match read(&home.join(FILE), reader, policy) {
        Ok(Some(fold)) => fold,
        Ok(None) => Fold { cluster: Cluster::new(policy.clone()), ..Fold::default() },
        Err(Unread::Store(e)) => return Err(e),
        Err(Unread::Bad(why)) => {
            tracing::warn!("{}: {why}; all events are read instead", home.join(FILE).display());
            Fold { cluster: Cluster::new(policy.clone()), ..Fold::default() }
        }
    };
    let from = fold.seq;
    reader.replay(from, &mut |recorded| fold.take(&recorded))?;
    tracing::debug!(snapshot = from, events = fold.seq - from, "the state is known");
    Ok(fold)
}

/// Why a copy is not used.
#[derive(Debug)]
enum Unread {
    Bad(String),
    Store(store::Error),
}

impl From<io::Error> for Unread {
    fn from(e: io::Error) -> Self {
        Self::Bad(e.to_string())
    }
}

/// `None`: there is no copy, or it is of another build or another history.
fn read(path: &Path, reader: &mut dyn Reader, policy: &Policy) -> Result<Option<Fold>, Unread> {
    let file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let (mut file, mut first) = (BufReader::with_capacity(1 << 16, file), String::new());
    file.read_line(&mut first)?;
    let head: Head = parse(&first)?;
    if head.build != BUILD || !knows(reader, &head).map_err(Unread::Store)? {
        return Ok(None);
    }
    let (mut restore, mut ledgers, mut end) = (Restore::new(policy.clone()), BTreeMap::new(), None);
    let digest = lines(file, first, |line| match line {
        Line::Piece(piece) => restore.put(piece),
        Line::Ledger(run, ledger) => drop(ledgers.insert(run, ledger)),
        Line::End(digest) => end = Some(digest),
    })?;
    match end {
        None => Err(Unread::Bad("it is cut off".into())),
        Some(end) if end != digest => Err(Unread::Bad("its digest is wrong".into())),
        Some(_) => Ok(Some(Fold { cluster: restore.done(), ledgers, seq: head.seq, at: head.at })),
    }
}

/// Lines that are parsed in one go.
const CHUNK: usize = 256;

/// Hands all lines of `file` after the `first` to `each`, in order, and returns the digest of all but the last one. They are
/// parsed on all cores: that is most of the work.
fn lines(file: impl BufRead + Send, first: String, mut each: impl FnMut(Line<'static>)) -> Result<Digest, Unread> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    std::thread::scope(|scope| {
        let (mut texts, mut parsed) = (Vec::new(), Vec::new());
        for _ in 0..cores {
            let (sender, chunks) = sync_channel::<Vec<String>>(4);
            let (done, results) = sync_channel::<Result<Vec<Line<'static>>, Unread>>(4);
            texts.push(sender);
            parsed.push(results);
            scope.spawn(move || {
                for chunk in chunks {
                    let lines = chunk.iter().map(|text| parse(text)).collect();
                    // Nobody listens any more after an error.
                    if done.send(lines).is_err() {
                        return;
                    }
                }
            });
        }
        let reading = scope.spawn(move || deal(file, first, &texts));
        // Chunks were dealt in turns, and so come back in order.
        for results in parsed.iter().cycle() {
            let Ok(lines) = results.recv() else { break };
            lines?.into_iter().for_each(&mut each);
        }
        drop(parsed);
        Ok(reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?)
    })
}

/// Deals the lines of `file` out, a chunk to each of `to` in turn; the digest of all lines but the last one.
fn deal(mut file: impl BufRead, first: String, to: &[SyncSender<Vec<String>>]) -> io::Result<Digest> {
    let (mut digest, mut last) = (blake3::Hasher::new(), first);
    for sender in to.iter().cycle() {
        let mut chunk = Vec::with_capacity(CHUNK);
        while chunk.len() < CHUNK {
            let mut text = String::with_capacity(last.len());
            if file.read_line(&mut text)? == 0 {
                break;
            }
            digest.update(last.as_bytes());
            last.clone_from(&text);
            chunk.push(text);
        }
        if chunk.is_empty() || sender.send(chunk).is_err() {
            break;
        }
    }
    Ok(Digest(*digest.finalize().as_bytes()))
}

fn parse<T: DeserializeOwned>(line: &str) -> Result<T, Unread> {
    if !line.ends_with('\n') {
        return Err(Unread::Bad("it is cut off".into()));
    }
    serde_json::from_str(line).map_err(|e| Unread::Bad(e.to_string()))
}

/// Whether the database has the event at which the copy was taken.
fn knows(reader: &mut dyn Reader, head: &Head) -> Result<bool, store::Error> {
    Ok(event_at(reader, head.seq)?.is_some_and(|digest| digest == head.event))
}

fn event_at(reader: &mut dyn Reader, seq: u64) -> Result<Option<Digest>, store::Error> {
    let page = Page { after: seq.saturating_sub(1), limit: 1, ..Page::default() };
    let found = reader.history(None, page)?.into_iter().next().filter(|recorded| recorded.seq == seq);
    Ok(found.map(|recorded| Digest::of(store::row(&recorded.event).0.as_bytes())))
}

/// Writes a copy of `fold` into `home`; the one before stays until it is whole.
fn write(home: &Path, fold: &Fold, event: Digest) -> io::Result<PathBuf> {
    let path = home.join(FILE);
    let mut file = tempfile::NamedTempFile::new_in(home)?;
    let mut digest = blake3::Hasher::new();
    let mut out = BufWriter::with_capacity(1 << 16, &mut file);
    let mut line = |out: &mut BufWriter<_>, value: &dyn ToLine| -> io::Result<()> {
        let text = value.line()?;
        digest.update(text.as_bytes());
        out.write_all(text.as_bytes())
    };
    line(&mut out, &Head { build: BUILD.into(), seq: fold.seq, at: fold.at, event })?;
    for piece in fold.cluster.pieces() {
        line(&mut out, &Line::Piece(piece))?;
    }
    for (run, ledger) in &fold.ledgers {
        line(&mut out, &Line::Ledger(*run, *ledger))?;
    }
    let end = Line::End(Digest(*digest.finalize().as_bytes()));
    out.write_all(end.line()?.as_bytes())?;
    out.flush()?;
    drop(out);
    file.as_file().sync_all()?;
    file.persist(&path)?;
    Ok(path)
}

/// What is written as a line of JSON.
trait ToLine {
    fn line(&self) -> io::Result<String>;
}

impl<T: Serialize> ToLine for T {
    fn line(&self) -> io::Result<String> {
        Ok(serde_json::to_string(self)? + "\n")
    }
}

/// Takes a copy whenever `every` events have happened since the last one, until `stop`. It reads what is in the database, so
/// the loop that owns the core is not in the way of it, nor it of the loop.
pub(crate) async fn keep(home: PathBuf, database: Database, policy: Policy, every: u64, stop: CancellationToken) {
    let mut last = None;
    loop {
        let job = (home.clone(), database.clone(), policy.clone());
        match waiting(move || copy(&job.0, &job.1, &job.2, last, every)).await {
            Ok(seq) => last = Some(seq),
            // A start without a copy is slower, and no more.
            Err(e) => tracing::warn!("no snapshot is written: {e}"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Takes a copy if it is due. `last`: where the last one was taken, as far as known; what is so now.
fn copy(
    home: &Path,
    database: &Database,
    policy: &Policy,
    last: Option<u64>,
    every: u64,
) -> Result<u64, Box<dyn std::error::Error + Send + Sync>> {
    let mut reader = database.read()?;
    let newest = reader.newest()?;
    let last = match last {
        Some(seq) => seq,
        None => taken(home, reader.as_mut())?,
    };
    if newest < last.saturating_add(every) {
        return Ok(last);
    }
    let fold = load(home, reader.as_mut(), policy)?;
    let Some(event) = event_at(reader.as_mut(), fold.seq)? else { return Ok(last) };
    let path = write(home, &fold, event)?;
    tracing::info!(events = fold.seq, "the state is in {}", path.display());
    Ok(fold.seq)
}

/// Where the copy in `home` was taken, if it may be used; 0: none.
fn taken(home: &Path, reader: &mut dyn Reader) -> Result<u64, store::Error> {
    let head = || {
        let mut text = String::new();
        BufReader::new(File::open(home.join(FILE)).ok()?).read_line(&mut text).ok()?;
        serde_json::from_str::<Head>(&text).ok().filter(|head| head.build == BUILD)
    };
    let Some(head) = head() else { return Ok(0) };
    Ok(if knows(reader, &head)? { head.seq } else { 0 })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use morph_control::{Event, What};
    use morph_spec::{Rng, WorkerId};

    use super::*;
    use crate::store::{Batch, Writer};

    fn policy() -> Policy {
        Policy::default()
    }

    /// A worker more.
    fn joined(n: u64) -> Event {
        let worker = WorkerId::new(Timestamp(1), &mut Rng::keyed(n, "worker", 0));
        let what = What::WorkerJoined {
            worker,
            incarnation: "one".into(),
            host: "node".into(),
            slots: 2,
            version: "1".into(),
            live: Vec::new(),
            cached: Default::default(),
            cached_is_all: true,
            labels: BTreeMap::new(),
            memory: 0,
            certificate: String::new(),
            process: String::new(),
        };
        Event::new(Timestamp(n), what)
    }

    struct House {
        dir: tempfile::TempDir,
        writer: Box<dyn Writer>,
    }

    impl House {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let writer = store::open(&dir.path().join("state.db")).unwrap();
            Self { dir, writer }
        }

        fn record(&mut self, workers: std::ops::Range<u64>) {
            self.writer.commit(&Batch { events: workers.map(joined).collect(), ..Batch::default() }).unwrap();
        }

        fn database(&self) -> Database {
            Database::sqlite(&self.dir.path().join("state.db"))
        }

        fn load(&self) -> Fold {
            load(self.dir.path(), self.database().read().unwrap().as_mut(), &policy()).unwrap()
        }

        fn copy(&self, every: u64) -> u64 {
            copy(self.dir.path(), &self.database(), &policy(), None, every).unwrap()
        }

        fn file(&self) -> PathBuf {
            self.dir.path().join(FILE)
        }

        /// What the copy alone gives.
        fn read(&self) -> Result<Option<Fold>, Unread> {
            read(&self.file(), self.database().read().unwrap().as_mut(), &policy())
        }
    }

    #[test]
    fn a_start_from_a_copy_is_a_start_from_the_beginning() {
        let mut house = House::new();
        assert_eq!(house.load(), Fold::default());
        assert_eq!((house.copy(3), house.file().exists()), (0, false), "nothing has happened");
        house.record(1..5);
        let all = house.load();
        assert_eq!((all.seq, all.cluster.workers.len()), (4, 4));
        assert_eq!((house.copy(5), house.file().exists()), (0, false), "not due");
        assert_eq!(house.copy(4), 4);
        assert_eq!(house.read().unwrap().unwrap(), all);
        house.record(5..9);
        assert_eq!((house.load().seq, house.load().cluster.workers.len()), (8, 8));
        assert_eq!(house.copy(5), 4, "the old one is good enough");
        assert_eq!(house.copy(4), 8);
        // More than are parsed in one go.
        house.record(9..5000);
        assert_eq!(house.copy(1), 4999);
        let from_copy = house.read().unwrap().unwrap();
        fs::remove_file(house.file()).unwrap();
        assert_eq!(house.load(), from_copy);
    }

    #[test]
    fn a_copy_that_is_cut_off_changed_or_of_another_build_is_not_used() {
        let mut house = House::new();
        house.record(1..4);
        house.copy(1);
        let (good, all) = (fs::read_to_string(house.file()).unwrap(), house.load());
        let mut last = good.lines().count();
        for cut in [0, 1, good.len() / 2, good.len() - 2, good.len() - 1] {
            fs::write(house.file(), &good[..cut]).unwrap();
            assert!(matches!(house.read(), Err(Unread::Bad(_))), "cut at {cut}");
            assert_eq!(house.load(), all);
        }
        for line in good.lines() {
            fs::write(house.file(), good.replacen(&format!("{line}\n"), "", 1)).unwrap();
            assert!(!matches!(house.read(), Ok(Some(_))), "without {line}");
            last -= 1;
        }
        assert_eq!(last, 0);
        fs::write(house.file(), good.replace("\"host\":\"node\"", "\"host\":\"mode\"")).unwrap();
        assert!(matches!(house.read(), Err(Unread::Bad(why)) if why.contains("digest")));
        fs::write(house.file(), good.replace(BUILD, "another")).unwrap();
        assert!(matches!(house.read(), Ok(None)));
        assert_eq!((house.load(), house.copy(1)), (all, 3), "and a new one is written");
    }

    #[test]
    fn a_copy_of_another_history_is_not_used() {
        let mut house = House::new();
        house.record(1..4);
        house.copy(1);
        let copied = fs::read(house.file()).unwrap();
        // Restored from a backup that is older, and one that went on from there.
        let mut restored = House::new();
        fs::write(restored.file(), copied).unwrap();
        restored.record(1..2);
        assert!(matches!(restored.read(), Ok(None)));
        restored.record(7..9);
        assert!(matches!(restored.read(), Ok(None)));
        assert_eq!(restored.load().cluster.workers.len(), 3);
        assert_eq!(restored.copy(1), 3);
        assert!(matches!(restored.read(), Ok(Some(_))));
    }
}
