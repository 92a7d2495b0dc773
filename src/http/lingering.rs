//! A transport that does not cut its client off in the middle of a body.
//!
//! Where a connection ends with a part of a request unread, the system resets it, and the reset can
//! destroy the answer on its way. So such a transport says that it has ended, and then reads on, for a
//! while, until the client has ended too.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Bytes that are thrown away at once.
const PIECE: usize = 16 << 10;

/// The transport.
pub(super) struct Lingering<T> {
    inner: T,
    /// Set when a part of a request is left unread.
    is_unread: Arc<AtomicBool>,
    time_limit: Duration,
    /// Set once the own end is closed.
    until: Option<Pin<Box<Sleep>>>,
}

impl<T> Lingering<T> {
    /// Reads on for `time_limit` at most where, at the end, `is_unread` is set.
    pub(super) fn new(inner: T, is_unread: Arc<AtomicBool>, time_limit: Duration) -> Self {
        Self { inner, is_unread, time_limit, until: None }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Lingering<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { inner, is_unread, time_limit, until } = self.get_mut();
        if until.is_none() {
            ready!(Pin::new(&mut *inner).poll_shutdown(cx))?;
            if !is_unread.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
        }
        let until = until.get_or_insert_with(|| Box::pin(sleep(*time_limit)));
        let mut piece = [0; PIECE];
        loop {
            if until.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut buffer = ReadBuf::new(&mut piece);
            match ready!(Pin::new(&mut *inner).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                // The client has ended, or is gone.
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}
