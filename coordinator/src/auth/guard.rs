//! A body that ends when the right to it does.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tonic::{Status, body::Body};

/// Completes when the right ends.
pub(super) type End = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A request's or response's body, held open only as long as its principal may.
pub(super) struct Guarded {
    inner: Body,
    end: End,
    /// Responses end with trailers; requests with an error.
    response: bool,
    over: bool,
    /// One of the principal's open requests, until this is dropped.
    _seat: Option<Arc<()>>,
}

impl Guarded {
    pub(super) fn request(inner: Body, end: End) -> Body {
        Body::new(Self { inner, end, response: false, over: false, _seat: None })
    }

    pub(super) fn response(inner: Body, end: End, seat: Arc<()>) -> Body {
        Body::new(Self { inner, end, response: true, over: false, _seat: Some(seat) })
    }
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if self.end.as_mut().poll(cx).is_ready() {
            self.over = true;
            let status =
                Status::unauthenticated("the token or certificate has been revoked or has expired: ask for a new one");
            if !self.response {
                return Poll::Ready(Some(Err(status)));
            }
            let mut trailers = HeaderMap::new();
            return Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))));
        }
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.inner.is_end_stream()
    }
}
