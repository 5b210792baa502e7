//! Shards in the making: every core decodes, and a thread writes what is done.
//!
//! Contract:
//! 1. Images begin in order. Those of the next shard begin while the last of the one before are decoded, hashed or sent: no core waits
//!    at a shard's end, nor for the network.
//! 2. No more than [`IN_WORK`] shards are in memory.
//! 3. After an error nothing begins any more; shards whose images were all decoded by then are written still.

use std::{
    panic::resume_unwind,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
};

use morph_objects::Objects;
use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::runtime::Builder;

use super::{
    Options, Skipped,
    output::{self, Decoded, Part, Remark, remark},
    sample::{Sample, Shared},
    work::Work,
};
use crate::{
    Error, Progress,
    layouts::{Fault, Item},
    shard,
};

/// Shards that are decoded or written at a time.
const IN_WORK: usize = 2;

/// A shard: its split, its number there, and what becomes of it.
pub(super) type Task<'a> = (&'static str, usize, &'a [(Item, String)]);

/// What became of an image.
type Made = Result<Sample, Skipped>;

/// Makes `tasks`, in `work`'s output, and returns them in that order. Blocks this thread.
///
/// # Errors
/// [`Error::Storage`] when the source's storage fails: a file that it does not give now is no bad file. And what the output's says.
pub(super) fn make(
    work: &Work<'_>,
    tasks: &[Task<'_>],
    options: &Options,
    progress: &dyn Progress,
) -> Result<Vec<Part>, Error> {
    let (shared, pool) = (Shared::new(work.spec, options.memory), pool(options.jobs)?);
    let broken = Mutex::new(None);
    let fail = |e: Error| {
        // The first is the one to tell.
        lock(&broken).get_or_insert(e);
    };
    // Whoever begins a shard takes a place; the writer gives it back, or ends, and then there are none any more.
    let (free, places) = mpsc::sync_channel(IN_WORK);
    let (full, filled) = mpsc::channel();
    let written = thread::scope(|threads| {
        let writer = threads.spawn(|| {
            let (free, filled) = (free, filled);
            write(work, &shared, tasks, &free, &filled).map_err(fail)
        });
        pool.in_place_scope_fifo(|scope| {
            for (number, (_, _, items)) in tasks.iter().enumerate() {
                if places.recv().is_err() {
                    break;
                }
                let filling = Arc::new(Filling::new(number, items.len(), full.clone()));
                for (row, (item, label)) in items.iter().enumerate() {
                    let (filling, shared, broken, fail) = (Arc::clone(&filling), &shared, &broken, &fail);
                    scope.spawn_fifo(move |_| {
                        if lock(broken).is_none() {
                            match read(shared, item, label, progress) {
                                Ok(made) => filling.put(row, made),
                                Err(e) => fail(e),
                            }
                        }
                    });
                }
            }
            drop(full);
        });
        writer.join()
    });
    match broken.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(e) => Err(e),
        None => Ok(written.unwrap_or_else(|panic| resume_unwind(panic)).unwrap_or_default()),
    }
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pool(jobs: usize) -> Result<ThreadPool, Error> {
    let pool = ThreadPoolBuilder::new().num_threads(jobs).build();
    pool.map_err(|e| Error::Source { path: "threads".to_owned(), why: e.to_string() })
}

/// Writes shards as they are decoded, until one is not whole; in the order of `tasks`. It has a connection of its own, for the caller's
/// may need the thread that waits for this.
fn write(
    work: &Work<'_>,
    shared: &Shared<'_>,
    tasks: &[Task<'_>],
    free: &mpsc::SyncSender<()>,
    filled: &mpsc::Receiver<(usize, Rows)>,
) -> Result<Vec<Part>, Error> {
    let cannot = |e: std::io::Error| Error::Source { path: "threads".to_owned(), why: e.to_string() };
    let runtime = Builder::new_current_thread().enable_all().build().map_err(cannot)?;
    let out = Objects::open(&work.spec.output)?;
    // There is room for all that are given: it never waits.
    let give = || free.send(()).unwrap_or_default();
    (0..IN_WORK).for_each(|_| give());
    let mut parts: Vec<Option<Part>> = tasks.iter().map(|_| None).collect();
    for (number, rows) in filled {
        let Some(rows) = rows.into_iter().collect::<Option<Vec<_>>>() else { break };
        let (split, i, _) = tasks[number];
        let part = output::part(&out, work.key, (split, i), assemble(shared, rows));
        parts[number] = Some(runtime.block_on(part)?);
        give();
    }
    Ok(parts.into_iter().flatten().collect())
}

/// The images of a shard; `None`: not read, because of an error.
type Rows = Vec<Option<Made>>;

/// A shard that fills. Sent when the last who works on it lets go of it, whole or not: nobody waits for what an error or a panic has
/// ended.
struct Filling {
    number: usize,
    rows: Mutex<Rows>,
    full: mpsc::Sender<(usize, Rows)>,
}

impl Filling {
    fn new(number: usize, rows: usize, full: mpsc::Sender<(usize, Rows)>) -> Self {
        Self { number, rows: Mutex::new((0..rows).map(|_| None).collect()), full }
    }

    fn put(&self, row: usize, made: Made) {
        lock(&self.rows)[row] = Some(made);
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        let rows = std::mem::take(&mut *lock(&self.rows));
        // Whoever does not listen has failed, and said so.
        drop(self.full.send((self.number, rows)));
    }
}

fn read(shared: &Shared<'_>, item: &Item, label: &str, progress: &dyn Progress) -> Result<Made, Error> {
    let sample = shared.read(item, label);
    progress.advance(1);
    match sample {
        Ok(sample) => Ok(Ok(sample)),
        Err(Fault::File(reason)) => {
            progress.warn(&format!("skipped {}: {reason}", item.source));
            Ok(Err(Skipped { source: shared.hider.hide(&item.source), reason }))
        }
        Err(Fault::Storage(why)) => Err(Error::Storage { path: item.source.clone(), why }),
    }
}

/// The samples of one shard, in order, and what could not be used.
fn assemble(shared: &Shared<'_>, all: Vec<Made>) -> Decoded {
    let size = shared.spec.preprocess.size;
    let (mut writer, mut skipped, mut remarks) = (shard::Writer::new(size, size), Vec::new(), Vec::new());
    for made in all {
        match made {
            Ok(sample) => {
                for what in sample.remarks {
                    let (what, example) = (what.to_owned(), sample.meta.source.clone());
                    remark(&mut remarks, Remark { what, images: 1, example });
                }
                writer.push(&sample.pixels, sample.meta);
            }
            Err(skip) => skipped.push(skip),
        }
    }
    Decoded { writer, skipped, remarks }
}
