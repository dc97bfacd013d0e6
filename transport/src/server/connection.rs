//! One accepted connection as a byte stream that knows its slot, can be cut, and closes so that its last answer arrives.
//!
//! Must not read what passes. Driven by the serving loop, and after an upgrade by the handler that took it over.

use super::Limits;
use super::unread::Unread;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
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
    limits: Limits,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Whether the other end has yet to send something of its last request.
    unread: Unread,
    /// Runs once our side is closed, while the other end still sends.
    lingering: Option<Pin<Box<Sleep>>>,
    tap: Option<Tap>,
    _slot: OwnedSemaphorePermit,
}

impl<S> Connection<S> {
    pub(super) fn new(stream: S, ending: Ending, limits: Limits, unread: Unread, tap: Option<Tap>) -> Self {
        let forced = Box::pin(ending.forced.cancelled_owned());
        Self { stream, forced, limits, stalled: None, unread, lingering: None, tap, _slot: ending.slot }
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
        let patience = self.limits.write;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> Connection<S> {
    /// Read and drop what the other end still sends, until it has noticed that we are done. Closing at once would make the
    /// kernel reset the connection, and the answer that lies unread at the other end would be thrown away with it.
    fn poll_lingering(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let linger = self.limits.linger;
        let until = self.lingering.get_or_insert_with(|| Box::pin(sleep(linger)));
        let mut scratch = [MaybeUninit::uninit(); 8 * 1024];
        while until.as_mut().poll(context).is_pending() {
            if self.forced.as_mut().poll(context).is_ready() {
                break;
            }
            let mut buffer = ReadBuf::uninit(&mut scratch);
            match ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                // It has closed, or broken off: either way it waits for nothing more.
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
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

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_sending(context, |stream, context| stream.poll_write(context, buffer))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_sending(context, |stream, context| stream.poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(self.poll_sending(context, |stream, context| stream.poll_shutdown(context)))?;
            if !self.unread.is_some() {
                return Poll::Ready(Ok(()));
            }
        }
        self.poll_lingering(context)
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
