//! No more connections at a time than this process has files for, and none on which nothing is said: who only connects, and
//! never says who it is, must not keep the database from its files, or those who are known from theirs.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep_until},
};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::Connected;

/// How long a connection may say nothing at first.
pub(crate) const SILENCE: Duration = Duration::from_secs(10);
/// Bytes with which HTTP/2 begins. From then on keep-alive sees to a connection, and to one of HTTP/1 the time for its header.
const PREFACE: usize = 24;

/// A connection that has a seat until it is closed.
#[derive(Debug)]
pub(crate) struct Seated<IO> {
    io: IO,
    _seat: OwnedSemaphorePermit,
    /// Since when something should be said: what a handshake says before that, TLS has a limit of its own for.
    served: OnceLock<Instant>,
    silence: Silence,
}

/// What a connection has still to say.
#[derive(Debug)]
enum Silence {
    /// So many bytes, in so much time.
    Until(usize, Duration),
    /// The same, and somebody waits for them.
    Waiting(usize, Pin<Box<Sleep>>),
    /// Nothing: it has begun.
    Over,
}

/// Those of `incoming` for whom there is one of so many seats; the others are closed at once, and those who have it when they have
/// said nothing for `silence`.
pub(crate) fn seated<IO>(
    incoming: impl Stream<Item = io::Result<IO>>,
    seats: usize,
    silence: Duration,
) -> impl Stream<Item = io::Result<Seated<IO>>> {
    let free = Arc::new(Semaphore::new(seats.min(Semaphore::MAX_PERMITS)));
    let mut turned_away = 0u64;
    incoming.filter_map(move |peer| {
        let io = match peer {
            Ok(io) => io,
            Err(e) => return Some(Err(e)),
        };
        let Ok(seat) = free.clone().try_acquire_owned() else {
            // Many come at a time, or none: one line a thousand.
            if turned_away.is_multiple_of(1000) {
                tracing::warn!(
                    turned_away = turned_away + 1,
                    "a connection is closed: all {seats} are taken (a higher limit of open files allows more)"
                );
            }
            turned_away += 1;
            return None;
        };
        let silence = Silence::Until(PREFACE, silence);
        Some(Ok(Seated { io, _seat: seat, served: OnceLock::new(), silence }))
    })
}

impl<IO: Connected> Connected for Seated<IO> {
    type ConnectInfo = IO::ConnectInfo;

    /// Asked when HTTP begins: with TLS after the handshake.
    fn connect_info(&self) -> Self::ConnectInfo {
        self.served.get_or_init(Instant::now);
        self.io.connect_info()
    }
}

impl<IO> Seated<IO> {
    /// So many bytes were read.
    fn heard(&mut self, bytes: usize) {
        if let (Some(_), Silence::Until(left, _) | Silence::Waiting(left, _)) = (self.served.get(), &mut self.silence) {
            *left = left.saturating_sub(bytes);
            if *left == 0 {
                self.silence = Silence::Over;
            }
        }
    }

    /// Something was written: HTTP answers and does not begin, so that what was said came with the end of the handshake, or was short.
    fn answered(&mut self) {
        if self.served.get().is_some() {
            self.silence = Silence::Over;
        }
    }

    /// Whether it has been silent for too long; else it will be found out.
    fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(since) = self.served.get() else { return false };
        if let Silence::Until(left, patience) = self.silence {
            self.silence = Silence::Waiting(left, Box::pin(sleep_until(*since + patience)));
        }
        if let Silence::Waiting(_, end) = &mut self.silence { end.as_mut().poll(cx).is_ready() } else { false }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Seated<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if let Poll::Ready(done) = Pin::new(&mut self.io).poll_read(cx, buf) {
            self.heard(buf.filled().len() - before);
            return Poll::Ready(done);
        }
        if self.is_silent(cx) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the connection says nothing")));
        }
        Poll::Pending
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Seated<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let done = ready!(Pin::new(&mut self.io).poll_write(cx, buf));
        self.answered();
        Poll::Ready(done)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs));
        self.answered();
        Poll::Ready(done)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_stream::iter;

    use super::*;

    const PRI: &[u8; PREFACE] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    #[tokio::test]
    async fn who_leaves_makes_room() {
        let (ours, theirs): (Vec<_>, Vec<_>) = (0..5).map(|_| tokio::io::duplex(8)).unzip();
        let mut seats = std::pin::pin!(seated(iter(ours.into_iter().map(Ok)), 2, SILENCE));
        let one = seats.next().await.unwrap().unwrap();
        let two = seats.next().await.unwrap().unwrap();
        drop(one);
        let three = seats.next().await.unwrap().unwrap();
        assert!(seats.next().await.is_none(), "the last two were closed");
        drop((two, three, theirs));
    }

    #[tokio::test]
    async fn who_says_too_little_is_closed_and_who_has_begun_is_not() {
        let silence = Duration::from_millis(50);
        let begin = async |said: &'static [u8], answer: &'static [u8]| {
            let (ours, mut theirs) = tokio::io::duplex(64);
            let mut seats = std::pin::pin!(seated(iter([Ok(ours)]), 1, silence));
            let mut one = seats.next().await.unwrap().unwrap();
            // Of a handshake; it counts for nothing.
            theirs.write_all(PRI).await.unwrap();
            one.read_exact(&mut [0; PREFACE]).await.unwrap();
            one.connect_info();
            theirs.write_all(said).await.unwrap();
            one.read_exact(&mut vec![0; said.len()]).await.unwrap();
            one.write_all(answer).await.unwrap();
            let more = tokio::time::timeout(silence * 4, one.read(&mut [0])).await;
            drop(theirs);
            more.map(|read| read.unwrap_err().kind())
        };
        assert_eq!(begin(b"", b"").await, Ok(io::ErrorKind::TimedOut));
        assert_eq!(begin(&PRI[..PREFACE - 1], b"").await, Ok(io::ErrorKind::TimedOut));
        assert!(begin(PRI, b"").await.is_err(), "it has begun, and others see to it");
        assert!(begin(b"GET /", b"200").await.is_err(), "it was answered");
    }
}
