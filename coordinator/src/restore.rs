//! Going on from a backup: what has happened since is not known, and must not be mixed up with what happens from now on.
//!
//! Agents and ranks of the lost history may still be at work. So all attempts end here, and the next ones get numbers that none
//! of the lost ones can have had: their ranks are stopped, their reports change nothing, their checkpoints have other names.
//! Checkpoints that the lost history has removed are forgotten, or runs would be told to go on from them.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::Path,
    time::Duration,
};

use futures::{StreamExt, TryStreamExt, stream};
use morph_checkpoint::inspect;
use morph_control::{Checkpoint, Command, Event, Run, What, apply};
use morph_spec::{Rng, Timestamp};

use crate::{
    DATABASE, Error,
    clock::{Source, Steady},
    fold::{self, Fold},
    home::Lock,
    store::{
        self, Batch, Database, Writer,
        postgres::{Server, Taken},
    },
    waiting,
};

/// Runs whose checkpoints are looked at at a time.
const AT_A_TIME: usize = 16;
/// How long the database is ours at least.
const LEASE: Duration = Duration::from_secs(60);

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// When the newest event of the backup happened.
    pub at: Timestamp,
    /// Runs in it.
    pub runs: usize,
    /// Of these: those that are not over.
    pub open: usize,
    /// Attempts that lived when it was made.
    pub ended: usize,
    /// Checkpoints that runs would have gone on from, and are no longer there.
    pub gone: usize,
}

/// Puts the backup `from` into `home`, which must not have a database, so that a coordinator can go on from it.
///
/// # Errors
/// When somebody serves the home, it has a database, `from` is no backup, or object storage cannot be asked for the runs'
/// checkpoints; then the home is as before.
pub async fn restore(from: &Path, home: &Path) -> Result<Restored, Error> {
    let _lock = Lock::take(home)?;
    let database = home.join(DATABASE);
    if database.exists() {
        let why = "there is a database, which is not overwritten; move it away, with its -wal and -shm";
        let source = io::Error::new(io::ErrorKind::AlreadyExists, why);
        return Err(Error::Home { action: "write", path: database, source });
    }
    let fail = |action| {
        let path = database.clone();
        move |source| Error::Home { action, path, source }
    };
    let folder = tempfile::tempdir_in(home).map_err(fail("write"))?;
    let copy = folder.path().join(DATABASE);
    let (source, target) = (from.to_owned(), copy.clone());
    let writer = waiting(move || {
        store::backup(&source, &target)?;
        store::open(&target)
    })
    .await?;
    let restored = go_on(&Database::sqlite(&copy), writer).await?;
    // Of another history.
    for stale in [fold::FILE.to_owned(), format!("{DATABASE}-wal"), format!("{DATABASE}-shm")] {
        match fs::remove_file(home.join(stale)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail("remove what lies beside")(e)),
            _ => {}
        }
    }
    File::open(&copy).and_then(|file| file.sync_all()).map_err(fail("write"))?;
    fs::rename(&copy, &database).map_err(fail("write"))?;
    File::open(home).and_then(|home| home.sync_all()).map_err(fail("write"))?;
    Ok(restored)
}

/// The same with a PostgreSQL into which a backup was put by its own means.
///
/// # Errors
/// When a coordinator serves it, it cannot be used, or object storage cannot be asked; then it is as before.
pub async fn restored(server: &Server) -> Result<Restored, Error> {
    let (holder, asked) = (format!("morph-coordinator restore (pid {})", std::process::id()), server.clone());
    match waiting(move || asked.take(&holder, LEASE)).await? {
        Taken::Ours(writer, _) => go_on(&Database::Postgres(server.clone()), writer).await,
        Taken::Held { holder, .. } => {
            let why = format!("{holder} serves with it; stop it first");
            Err(store::Error::Postgres { action: "restore into", server: server.name().to_owned(), why }.into())
        }
    }
}

/// Records in `database`, through `writer`, that its history goes on from here.
async fn go_on(database: &Database, mut writer: Box<dyn Writer>) -> Result<Restored, Error> {
    let read = database.clone();
    let Fold { mut cluster, at, .. } = waiting(move || fold::all(read.read()?.as_mut())).await?;
    let source = Source::default();
    let wall = (source.wall)();
    let newest = cluster.runs.values().map(|run| u64::from(run.next().attempt)).max().unwrap_or(0);
    if let Some(behind) = newest.checked_sub(wall.millis() / 1000) {
        return Err(Error::ClockBehind { by: Duration::from_secs(behind + 1) });
    }
    let looked = stream::iter(cluster.runs.values().filter(|r| !r.is_done()).map(gone)).buffer_unordered(AT_A_TIME);
    let gone: BTreeSet<String> =
        looked.try_fold(BTreeSet::new(), |all, of_run| async move { Ok(&all | &of_run) }).await?;
    let (runs, open) = (cluster.runs.len(), cluster.runs.values().filter(|r| !r.is_over()).count());
    let missing = gone.len();
    let now = Steady::after(at, source).now();
    let events = apply(&mut cluster, now, &mut Rng::keyed(now.0, "restore", 0), Command::Restore { gone, wall })
        .expect("invariant: a history can always be gone on from");
    let ended = events.iter().filter(|e: &&Event| matches!(e.what, What::AttemptEnded { .. })).count();
    waiting(move || {
        writer.commit(&Batch { events, ..Batch::default() })?;
        writer.close();
        Ok::<_, Error>(())
    })
    .await?;
    Ok(Restored { at, runs, open, ended, gone: missing })
}

/// Checkpoints of `run` that cannot be gone on from, newer than the newest that can. Older ones the run itself may have removed;
/// nobody asks for them.
async fn gone(run: &Run) -> Result<BTreeSet<String>, Error> {
    let mut known: Vec<&Checkpoint> = run.checkpoints.iter().collect();
    known.sort_by_key(|c| c.step);
    let mut gone = BTreeSet::new();
    for checkpoint in known.into_iter().rev() {
        if is_good(&checkpoint.url).await? {
            break;
        }
        gone.insert(checkpoint.url.clone());
    }
    Ok(gone)
}

/// Whether the checkpoint at `url` is there, and the best one before it, which training may have to come back to.
async fn is_good(url: &str) -> Result<bool, Error> {
    let Some(manifest) = found(url).await? else { return Ok(false) };
    match manifest.state.best {
        Some(best) if best.url != url => Ok(found(&best.url).await?.is_some()),
        _ => Ok(true),
    }
}

async fn found(url: &str) -> Result<Option<morph_checkpoint::Manifest>, Error> {
    match inspect(url).await {
        Ok(manifest) => Ok(Some(manifest)),
        Err(morph_checkpoint::Error::Objects(morph_objects::Error::NotFound { .. })) => Ok(None),
        // Unlike one that is not there it will not come back: what reads it would fail.
        Err(morph_checkpoint::Error::Manifest { url, why }) => {
            tracing::warn!("{url}: not used: {why}");
            Ok(None)
        }
        Err(e) => Err(e.into()),
    }
}
