//! Accepted connections: how many at once, and how long one may stay silent before it speaks HTTP/2.
//!
//! hyper has neither bound: a peer that connects and says nothing would hold a socket for ever.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::Limits;

/// The HTTP/2 client preface. A TLS hello is longer, so this many bytes prove a speaking peer either way.
const PREFACE_BYTES: usize = 24;

/// What a handler finds in a request's extensions about the peer.
pub type PeerInfo = TcpConnectInfo;

/// A connection that counts toward the bound until it is dropped.
pub struct Connection {
    stream: TcpStream,
    handshake: Option<Handshake>,
    _room: OwnedSemaphorePermit,
}

struct Handshake {
    deadline: Pin<Box<Sleep>>,
    missing: usize,
}

/// Bounds the stream of accepted connections; those above are closed at once.
pub(super) fn bounded<S>(incoming: S, limits: &Limits) -> impl Stream<Item = io::Result<Connection>> + use<S>
where
    S: Stream<Item = io::Result<TcpStream>>,
{
    let room = Arc::new(Semaphore::new(limits.connections_max.min(Semaphore::MAX_PERMITS)));
    let max = limits.connections_max;
    let timeout = limits.handshake_timeout;
    let mut full = false;
    incoming.filter_map(move |accepted| {
        let next = match (accepted, room.clone().try_acquire_owned()) {
            (Err(error), _) => Some(Err(error)),
            (Ok(stream), Ok(permit)) => {
                full = false;
                Some(Ok(Connection::new(stream, timeout, permit)))
            }
            (Ok(_refused), Err(_)) => {
                // Once each time it fills: a line per refused connection would help the flood.
                if !std::mem::replace(&mut full, true) {
                    tracing::warn!(max, "connection limit reached: closing new connections");
                }
                None
            }
        };
        std::future::ready(next)
    })
}

impl Connection {
    fn new(stream: TcpStream, timeout: std::time::Duration, room: OwnedSemaphorePermit) -> Self {
        let deadline = Box::pin(tokio::time::sleep(timeout));
        let handshake = Some(Handshake {
            deadline,
            missing: PREFACE_BYTES,
        });
        Self {
            stream,
            handshake,
            _room: room,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let Some(handshake) = &mut this.handshake else {
            return Pin::new(&mut this.stream).poll_read(cx, buffer);
        };
        if Pin::new(&mut this.stream).poll_read(cx, buffer)?.is_ready() {
            let read = buffer.filled().len() - before;
            handshake.missing = handshake.missing.saturating_sub(read);
            if handshake.missing == 0 {
                this.handshake = None;
            }
            return Poll::Ready(Ok(()));
        }
        ready!(handshake.deadline.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "no HTTP/2 preface in time",
        )))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
