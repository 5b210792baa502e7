//! Reading a whole object over a network that breaks.
//!
//! object_store repeats a request, and goes on inside a body where the server tags what it sends. But it gives up after so many
//! repetitions of one read, however much has come, and where there is no tag at the first cut: a large shard over a slow line would
//! never arrive. Here a read goes on for as long as bytes come, and bytes of two versions of an object are never put together.

use std::{
    io,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use futures::{
    TryStreamExt,
    future::{Either, select},
};
use object_store::{Error, GetOptions, GetRange, GetResult, ObjectStore, path::Path};

/// Bytes that a try has to bring to count as progress: a server that sends a byte a minute is as good as dead.
const PROGRESS: u64 = 64 << 10;

/// Where the bytes go.
pub(crate) trait Sink {
    /// Forgets what came so far.
    fn restart(&mut self) -> io::Result<()>;
    /// Takes the next bytes.
    fn append(&mut self, part: &[u8]) -> io::Result<()>;
}

impl Sink for BytesMut {
    fn restart(&mut self) -> io::Result<()> {
        self.clear();
        Ok(())
    }

    fn append(&mut self, part: &[u8]) -> io::Result<()> {
        self.extend_from_slice(part);
        Ok(())
    }
}

/// Why an object did not come.
#[derive(Debug)]
pub(crate) enum Broken {
    Store(Error),
    /// More bytes than were asked for.
    TooLarge,
    Sink(io::Error),
}

/// How long a read that gets nowhere is tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) tries: usize,
    pub(crate) time: Duration,
    /// After how long without an answer a request is made once more, beside the first.
    pub(crate) hedge: Option<Duration>,
}

/// The answer to a read; the better one of two where the first is late: most often it is one server of many that is slow.
pub(crate) async fn ask(
    store: &dyn ObjectStore,
    path: &Path,
    options: GetOptions,
    hedge: Option<Duration>,
) -> Result<GetResult, Error> {
    let Some(late) = hedge else { return store.get_opts(path, options).await };
    let mut first = store.get_opts(path, options.clone());
    if let Ok(answer) = tokio::time::timeout(late, &mut first).await {
        return answer;
    }
    tracing::debug!(%path, "no answer yet: the request is made once more");
    match select(first, store.get_opts(path, options)).await {
        Either::Left((Err(e), other)) | Either::Right((Err(e), other)) if !is_final(&e) => other.await,
        Either::Left((answer, _)) | Either::Right((answer, _)) => answer,
    }
}

/// What has come.
struct Part {
    bytes: u64,
    /// The server's name for this version of the object, if it is one by which a read may be continued.
    tag: Option<String>,
}

/// Reads the object at `path`, of no more than `most` bytes, into `sink`.
pub(crate) async fn read(
    store: &dyn ObjectStore,
    path: &Path,
    most: u64,
    patience: Patience,
    sink: &mut impl Sink,
) -> Result<(), Broken> {
    let mut part = Part { bytes: 0, tag: None };
    let (mut fruitless, mut since) = (0, Instant::now());
    loop {
        let before = part.bytes;
        let error = match go_on(store, path, most, patience.hedge, &mut part, sink).await {
            Ok(()) => return Ok(()),
            Err(Stop::Cut(e)) => e,
            Err(Stop::End(broken)) => return Err(broken),
        };
        // What cannot be continued is begun again: then nothing was won.
        let won = if part.tag.is_some() { part.bytes.saturating_sub(before) } else { 0 };
        if won >= PROGRESS {
            (fruitless, since) = (0, Instant::now());
        } else {
            fruitless += 1;
        }
        if fruitless > patience.tries || since.elapsed() > patience.time {
            return Err(Broken::Store(error));
        }
        tracing::debug!(%path, bytes = part.bytes, error = %crate::error::told(&error, &[]), "a read was cut and goes on");
        tokio::time::sleep(pause(fruitless)).await;
    }
}

/// How a try ended that did not bring the rest.
enum Stop {
    /// In the middle: the next may go on.
    Cut(Error),
    /// For good.
    End(Broken),
}

async fn go_on(
    store: &dyn ObjectStore,
    path: &Path,
    most: u64,
    hedge: Option<Duration>,
    part: &mut Part,
    sink: &mut impl Sink,
) -> Result<(), Stop> {
    let disk = |e| Stop::End(Broken::Sink(e));
    let options = match &part.tag {
        Some(tag) if part.bytes > 0 => {
            let range = Some(GetRange::Offset(part.bytes));
            GetOptions { range, if_match: Some(tag.clone()), ..GetOptions::default() }
        }
        _ => {
            restart(part, sink).map_err(disk)?;
            GetOptions::default()
        }
    };
    let found = match ask(store, path, options, hedge).await {
        Ok(found) => found,
        Err(e @ Error::Precondition { .. }) => {
            // Another version lies there now.
            restart(part, sink).map_err(disk)?;
            return Err(Stop::Cut(e));
        }
        // It was tried as often as it should be.
        Err(e) => return Err(Stop::End(Broken::Store(e))),
    };
    let size = found.meta.size;
    if size > most {
        return Err(Stop::End(Broken::TooLarge));
    }
    let tag = found.meta.e_tag.clone().filter(|tag| !tag.starts_with("W/"));
    if part.bytes > 0 && (tag != part.tag || found.range.start != part.bytes) {
        restart(part, sink).map_err(disk)?;
        return Err(Stop::Cut(odd("the object changed while it was read")));
    }
    part.tag = tag;
    let mut stream = found.into_stream();
    loop {
        match stream.try_next().await {
            Ok(Some(bytes)) => {
                part.bytes += bytes.len() as u64;
                if part.bytes > most {
                    return Err(Stop::End(Broken::TooLarge));
                }
                sink.append(&bytes).map_err(disk)?;
            }
            Ok(None) if part.bytes == size => return Ok(()),
            Ok(None) => return Err(Stop::Cut(odd("the body ended too early"))),
            Err(e) if is_final(&e) => return Err(Stop::End(Broken::Store(e))),
            Err(e) => return Err(Stop::Cut(e)),
        }
    }
}

fn restart(part: &mut Part, sink: &mut impl Sink) -> io::Result<()> {
    if part.bytes > 0 {
        sink.restart()?;
    }
    *part = Part { bytes: 0, tag: None };
    Ok(())
}

pub(crate) fn odd(why: &'static str) -> Error {
    Error::Generic { store: "read", source: why.into() }
}

/// Whether trying again is no use: the server has answered, and says no.
pub(crate) fn is_final(e: &Error) -> bool {
    crate::error::causes(e)
        .filter_map(|e| e.downcast_ref::<Error>())
        .any(|e| matches!(e, Error::NotFound { .. } | Error::PermissionDenied { .. } | Error::Unauthenticated { .. }))
}

/// How long to wait before try `n` from 0: doubling, jittered by where the clock is.
pub(crate) fn pause(n: usize) -> Duration {
    let longest = Duration::from_millis(100 << n.min(6)).as_nanos() as u64;
    let mut seed = [0; 8];
    // Ranks that were cut at the same time must not come back at the same time; without randomness they do, which is only worse.
    getrandom::fill(&mut seed).ok();
    Duration::from_nanos(longest / 2 + u64::from_le_bytes(seed) % (longest / 2).max(1))
}
