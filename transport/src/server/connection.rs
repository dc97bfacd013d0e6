//! One accepted connection as a byte stream that knows its slot and can be cut.
//!
//! Must not read what passes. Driven by the serving loop, and after an upgrade by the handler that took it over.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// What a tap does with each piece.
trait Take: Fn(&[u8]) + Send + Sync {}

impl<T: Fn(&[u8]) + Send + Sync> Take for T {}

/// Receives a copy of every byte that a listener received.
#[derive(Clone)]
pub struct Tap(Arc<dyn Take>);

impl Tap {
    /// A tap that hands each piece to `take`. It is called on the connection's task and must not block.
    pub fn new(take: impl Fn(&[u8]) + Send + Sync + 'static) -> Self {
        Self(Arc::new(take))
    }
}

impl std::fmt::Debug for Tap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tap")
    }
}

/// What ties a connection to its listener.
pub(super) struct Ending {
    /// Given back when the connection closes, also when a websocket has taken it over.
    pub(super) slot: OwnedSemaphorePermit,
    /// Cancelled when the connection must close now.
    pub(super) forced: CancellationToken,
}

/// The stream itself.
pub(super) struct Connection<S> {
    stream: S,
    forced: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Longest time in which the other end takes no byte of what it was sent.
    patience: Duration,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
    tap: Option<Tap>,
    _slot: OwnedSemaphorePermit,
}

impl<S> Connection<S> {
    pub(super) fn new(stream: S, ending: Ending, patience: Duration, tap: Option<Tap>) -> Self {
        let forced = Box::pin(ending.forced.cancelled_owned());
        Self { stream, forced, patience, stalled: None, tap, _slot: ending.slot }
    }

    /// Fails once the connection must close.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.forced.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }

    /// One step of writing, with a limit on how long it may wait.
    fn poll_sending<T>(
        &mut self,
        context: &mut Context<'_>,
        step: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>>
    where
        S: Unpin,
    {
        self.check(context)?;
        if let Poll::Ready(done) = step(Pin::new(&mut self.stream), context) {
            self.stalled = None;
            return Poll::Ready(done);
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if let Some(tap) = &self.tap {
            (tap.0)(&buffer.filled()[before..]);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_sending(context, |stream, context| stream.poll_write(context, buffer))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_sending(context, |stream, context| stream.poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_sending(context, |stream, context| stream.poll_shutdown(context))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_sending(context, |stream, context| stream.poll_write_vectored(context, buffers))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
