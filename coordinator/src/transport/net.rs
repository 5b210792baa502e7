//! Ends of the simulated network, as tonic wants them.

use std::{
    io,
    net::Ipv4Addr,
    pin::Pin,
    task::{Context, Poll},
};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::transport::{Channel, Endpoint, Error, Uri, server::Connected};
use turmoil::net::{TcpListener, TcpStream};

/// A connection that has come in.
#[derive(Debug)]
pub(super) struct Wire(TcpStream);

impl Connected for Wire {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// All that connects to this machine's `port`.
pub(super) async fn incoming(port: u16) -> io::Result<impl Stream<Item = io::Result<Wire>>> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
    let (sender, wires) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if sender.send(Ok(Wire(stream))).await.is_err() {
                return;
            }
        }
    });
    Ok(ReceiverStream::new(wires))
}

async fn connect(uri: Uri) -> io::Result<TokioIo<TcpStream>> {
    let (host, port) = (uri.host().unwrap_or_default().to_owned(), uri.port_u16().unwrap_or(80));
    Ok(TokioIo::new(TcpStream::connect((host, port)).await?))
}

/// A connection that is opened when it is used.
pub(super) fn lazily(url: &'static str) -> Channel {
    Endpoint::from_static(url).connect_with_connector_lazy(tower::service_fn(connect))
}

/// The same; no more than 64 KiB of a stream are taken in before they are read.
pub(super) fn narrowly(url: &'static str) -> Channel {
    let endpoint = Endpoint::from_static(url).initial_stream_window_size(65_535);
    endpoint.connect_with_connector_lazy(tower::service_fn(connect))
}

/// What the link opens its connections with.
pub(super) mod dial {
    use super::*;

    /// As the worker's own, over this network.
    pub async fn dial(endpoint: &Endpoint) -> Result<Channel, Error> {
        endpoint.connect_with_connector(tower::service_fn(connect)).await
    }
}
