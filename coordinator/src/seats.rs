//! No more connections at a time than this process has files for: who only connects, and never says who it is, must not keep the
//! database from its files, or those who are known from theirs.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::Connected;

/// A connection that has a seat until it is closed.
#[derive(Debug)]
pub(crate) struct Seated<IO> {
    io: IO,
    _seat: OwnedSemaphorePermit,
}

/// Those of `incoming` for whom there is one of so many seats; the others are closed at once.
pub(crate) fn seated<IO>(
    incoming: impl Stream<Item = io::Result<IO>>,
    seats: usize,
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
        Some(Ok(Seated { io, _seat: seat }))
    })
}

impl<IO: Connected> Connected for Seated<IO> {
    type ConnectInfo = IO::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Seated<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Seated<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
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
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::iter;

    use super::*;

    #[tokio::test]
    async fn who_leaves_makes_room() {
        let (ours, theirs): (Vec<_>, Vec<_>) = (0..5).map(|_| tokio::io::duplex(8)).unzip();
        let mut seats = std::pin::pin!(seated(iter(ours.into_iter().map(Ok)), 2));
        let one = seats.next().await.unwrap().unwrap();
        let two = seats.next().await.unwrap().unwrap();
        drop(one);
        let three = seats.next().await.unwrap().unwrap();
        assert!(seats.next().await.is_none(), "the last two were closed");
        drop((two, three, theirs));
    }
}
