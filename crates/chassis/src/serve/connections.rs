//! Accepted connections: how many at once in all and from one address, how long one may stay silent before it speaks
//! HTTP/2, and how long it may leave answers unread.
//!
//! hyper has none of these bounds: a peer that connects and says nothing would hold a socket for ever, and one that reads
//! nothing the answers.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tonic::transport::server::Connected;

use super::Limits;
use super::peer::PeerInfo;

/// The HTTP/2 client preface. A TLS hello is longer, so this many bytes prove a speaking peer either way.
const PREFACE_BYTES: usize = 24;

/// What one connection may make us read before the others have their turn: a frame. Requests are small, so a peer that
/// sends streams by the thousand would hold a thread for as long as it takes to begin them all.
const TURN_BYTES: usize = 16 << 10;

/// A connection that counts toward the bounds until it is dropped.
pub struct Connection {
    stream: TcpStream,
    peer: PeerInfo,
    handshake: Option<Handshake>,
    patience: Duration,
    /// Since when the peer has read nothing of what waits for it.
    stalled: Option<Stalled>,
    /// Read in this turn.
    turn: usize,
    _place: Place,
}

struct Handshake {
    deadline: Pin<Box<Sleep>>,
    missing: usize,
}

struct Stalled {
    read: u64,
    deadline: Pin<Box<Sleep>>,
}

/// Which connections there are.
struct Room {
    max: usize,
    per_ip_max: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by_ip: HashMap<IpAddr, usize>,
}

/// One connection's place; given back by its drop.
struct Place {
    room: Arc<Room>,
    ip: Option<IpAddr>,
}

impl Room {
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, ip: Option<IpAddr>) -> Option<Place> {
        let mut taken = self.lock();
        if taken.all >= self.max {
            return None;
        }
        if let Some(ip) = ip {
            let from_here = taken.by_ip.entry(ip).or_default();
            if *from_here >= self.per_ip_max {
                return None;
            }
            *from_here += 1;
        }
        taken.all += 1;
        let room = self.clone();
        Some(Place { room, ip })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.room.lock();
        taken.all -= 1;
        let Some(ip) = self.ip else { return };
        if let Some(from_here) = taken.by_ip.get_mut(&ip) {
            *from_here -= 1;
            if *from_here == 0 {
                taken.by_ip.remove(&ip);
            }
        }
    }
}

/// Bounds the stream of accepted connections; those above are closed at once.
pub(super) fn bounded<S>(incoming: S, limits: &Limits) -> impl Stream<Item = io::Result<Connection>> + use<S>
where
    S: Stream<Item = io::Result<TcpStream>>,
{
    let room = Arc::new(Room {
        max: limits.connections_max,
        per_ip_max: limits.connections_per_ip_max,
        taken: Mutex::default(),
    });
    let (timeout, patience) = (limits.handshake_timeout, limits.reader_patience);
    let mut full = false;
    incoming.filter_map(move |accepted| {
        let next = accepted.map(|stream| {
            let peer = PeerInfo::new(stream.peer_addr().ok());
            let place = room.enter(peer.ip());
            if place.is_none() && !full {
                // Once each time it fills: a line per refused connection would help the flood.
                tracing::warn!(
                    max = room.max,
                    per_ip_max = room.per_ip_max,
                    ip = ?peer.ip(),
                    "connection limit reached: closing new connections"
                );
            }
            full = place.is_none();
            Some(Connection::new(stream, peer, timeout, patience, place?))
        });
        std::future::ready(next.transpose())
    })
}

impl Connection {
    fn new(stream: TcpStream, peer: PeerInfo, timeout: Duration, patience: Duration, place: Place) -> Self {
        let deadline = Box::pin(tokio::time::sleep(timeout));
        let handshake = Some(Handshake {
            deadline,
            missing: PREFACE_BYTES,
        });
        Self {
            stream,
            peer,
            handshake,
            patience,
            stalled: None,
            turn: 0,
            _place: place,
        }
    }

    /// Ready when answers have waited for the whole patience and the peer has read nothing.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(read) = self.peer.debt(cx.waker()) else {
                self.stalled = None;
                return Poll::Pending;
            };
            let patience = self.patience;
            let stalled = self.stalled.get_or_insert_with(|| Stalled {
                read,
                deadline: Box::pin(tokio::time::sleep(patience)),
            });
            ready!(stalled.deadline.as_mut().poll(cx));
            if stalled.read == read {
                return Poll::Ready(());
            }
            self.stalled = None;
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.poll_stalled(cx).is_ready() {
            let error = "answers were not read in time";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, error)));
        }
        if this.turn >= TURN_BYTES {
            this.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buffer)?;
        let read = buffer.filled().len() - before;
        this.turn = match polled {
            Poll::Ready(()) => this.turn + read,
            Poll::Pending => 0,
        };
        let Some(handshake) = &mut this.handshake else {
            return polled.map(Ok);
        };
        if polled.is_ready() {
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
