//! Whether a connection's last request was read to its end.
//!
//! Owns one flag, shared by the connection and the body of its request: a connection that closes with something unread must
//! close gently. Must not change what passes.

use hyper::body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

/// The flag.
#[derive(Clone, Debug, Default)]
pub(super) struct Unread(Arc<AtomicBool>);

impl Unread {
    /// Whether something of the last request was not read.
    pub(super) fn is_some(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// The same body, which keeps the flag.
    pub(super) fn watch<B: Body>(&self, body: B) -> Watched<B> {
        self.note(&body);
        Watched { body, unread: self.clone() }
    }

    fn note(&self, body: &impl Body) {
        self.0.store(!body.is_end_stream(), Ordering::Relaxed);
    }
}

/// A request's body that tells when it was read to its end.
#[derive(Debug)]
pub(super) struct Watched<B> {
    body: B,
    unread: Unread,
}

impl<B: Body + Unpin> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match frame {
            Some(_) => self.unread.note(&self.body),
            None => self.unread.0.store(false, Ordering::Relaxed),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
