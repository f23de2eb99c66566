//! The streams of a connection, and when it has none.

use std::{
    io::Result,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
};

/// Returns when there was no stream for `idle_for`.
pub(super) async fn idle(open: &watch::Sender<usize>, idle_for: Duration) {
    let mut changes = open.subscribe();
    loop {
        // The sender is the caller's: it is there.
        let _ = changes.wait_for(|open| *open == 0).await;
        // A stream that came and went in between begins the wait anew.
        if tokio::time::timeout(idle_for, changes.changed())
            .await
            .is_err()
        {
            return;
        }
    }
}

/// A stream counts as open while this lives.
pub(super) struct Open(Arc<watch::Sender<usize>>);

impl Open {
    pub(super) fn new(open: Arc<watch::Sender<usize>>) -> Self {
        open.send_modify(|open| *open += 1);
        Self(open)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

/// Bytes to and from an instance.
pub(in crate::hosts) struct Stream {
    bytes: TokioIo<Upgraded>,
    _open: Open,
}

impl Stream {
    pub(super) fn new(upgraded: Upgraded, open: Open) -> Self {
        Self {
            bytes: TokioIo::new(upgraded),
            _open: open,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.bytes).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.bytes).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.bytes).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.bytes).poll_shutdown(cx)
    }
}
