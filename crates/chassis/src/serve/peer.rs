//! One connection as its requests and its socket see it: who is at the other end, and what it makes us hold.
//!
//! A client that asks much and reads nothing would fill our memory with answers, and one that sends more than its share
//! would fill the queues that all connections share. Both are counted here, by connection, and given back by drop.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;

use futures_util::task::AtomicWaker;

/// What a handler finds in a request's extensions about the peer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    remote: Option<SocketAddr>,
    account: Arc<Account>,
}

#[derive(Debug, Default)]
struct Account {
    /// Bytes of requests under way that the handlers have claimed.
    asked: AtomicUsize,
    /// Bytes of answers that the peer has not read.
    unread: AtomicUsize,
    /// Bytes of answers that it has read, ever.
    read: AtomicU64,
    /// The connection's task, to be told when its peer begins to owe us a read.
    socket: AtomicWaker,
}

/// Bytes that a request holds until this is dropped.
#[derive(Debug)]
pub struct Hold {
    account: Arc<Account>,
    bytes: usize,
}

/// Bytes of one answer that wait for the peer.
#[derive(Debug)]
pub(super) struct Unread {
    account: Arc<Account>,
    left: usize,
}

impl PeerInfo {
    pub(super) fn new(remote: Option<SocketAddr>) -> Self {
        Self {
            remote,
            account: Arc::default(),
        }
    }

    /// `None`: the socket does not say.
    pub fn ip(&self) -> Option<IpAddr> {
        self.remote.map(|remote| remote.ip().to_canonical())
    }

    /// Claims `bytes` for a request; `None`: the connection would hold more than `max`. One request alone always fits.
    pub fn hold(&self, bytes: usize, max: usize) -> Option<Hold> {
        claim(&self.account.asked, bytes, max).then(|| Hold {
            account: self.account.clone(),
            bytes,
        })
    }

    /// The same for an answer that the peer has yet to read.
    pub(super) fn unread(&self, bytes: usize, max: usize) -> Option<Unread> {
        let fits = claim(&self.account.unread, bytes, max);
        self.account.socket.wake();
        fits.then(|| Unread {
            account: self.account.clone(),
            left: bytes,
        })
    }

    /// How much the peer has read, while it owes us reading; `None`: it owes nothing. `waker` is told of the next debt.
    pub(super) fn debt(&self, waker: &Waker) -> Option<u64> {
        self.account.socket.register(waker);
        (self.account.unread.load(Ordering::Acquire) > 0).then(|| self.account.read.load(Ordering::Acquire))
    }
}

/// The first claim may be larger than the bound: what is refused must be able to succeed later.
fn claim(held: &AtomicUsize, bytes: usize, max: usize) -> bool {
    held.fetch_update(Ordering::AcqRel, Ordering::Acquire, |held| {
        (held == 0 || held.saturating_add(bytes) <= max).then(|| held.saturating_add(bytes))
    })
    .is_ok()
}

impl Unread {
    /// The peer has made room for so much of it.
    pub(super) fn take(&mut self, bytes: usize) {
        let bytes = bytes.min(self.left);
        self.left -= bytes;
        self.account.unread.fetch_sub(bytes, Ordering::AcqRel);
        self.account.read.fetch_add(bytes as u64, Ordering::AcqRel);
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.take(self.left);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.account.asked.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_holds_its_share_and_no_more() {
        let peer = PeerInfo::new(None);
        let large = peer.hold(15, 10).expect("one request alone always fits");
        assert!(peer.hold(1, 10).is_none());
        drop(large);
        let _small = peer.hold(6, 10).expect("there is room");
        assert!(peer.hold(5, 10).is_none());
        assert!(peer.hold(4, 10).is_some());
        assert!(PeerInfo::new(None).hold(9, 10).is_some(), "others have theirs");
    }

    #[test]
    fn reading_is_progress_and_an_answer_given_up_is_no_debt() {
        let peer = PeerInfo::new(None);
        let waker = Waker::noop();
        assert_eq!(peer.debt(waker), None);
        let mut answer = peer.unread(100, 1_000).expect("there is room");
        assert_eq!(peer.debt(waker), Some(0));
        answer.take(40);
        assert_eq!(peer.debt(waker), Some(40));
        drop(answer);
        assert_eq!(peer.debt(waker), None);
    }
}
