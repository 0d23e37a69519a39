//! Connections: in order within one, late, held back, cut; each side learns of the end when it does.

use std::collections::HashMap;

use tidegate_protocol::v1::{self, attach_request::Message as Up, attach_response::Message as Down};

/// A process of the model; `Controller(1)` is the second one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    Worker(usize),
    Router(usize),
    Controller(usize),
}

/// An end of a connection that was opened, and that end's process: another one knows nothing of it.
#[derive(Clone, Copy, Debug)]
pub struct End {
    pub node: Node,
    pub process: u32,
    pub open: bool,
    /// When the newest message to this end arrives: later ones come after it.
    arrives: u64,
}

/// 0 opened it, 1 was called.
pub type Side = usize;
pub type ConnId = u64;

#[derive(Debug)]
pub struct Conn {
    pub ends: [End; 2],
    /// Nothing gets through any more, whether the ends know it or not.
    severed: bool,
}

#[derive(Clone, Debug)]
pub enum Message {
    LeaseHello(v1::Hello),
    Lease(v1::LeaseRequest),
    LeaseAnswer(v1::LeaseResponse),
    Attach(Up),
    Order(Down),
    /// The other side has closed.
    Closed,
}

/// A message and when it arrives.
pub struct Sent {
    pub at: u64,
    pub conn: ConnId,
    pub to: Side,
    pub message: Message,
}

/// A connection over which nothing comes for so long is given up, as the keepalives do.
const KEEPALIVE_MS: u64 = 8_000;
const LATENCY_MS: std::ops::Range<u64> = 1..15;

#[derive(Default)]
pub struct Net {
    conns: HashMap<ConnId, Conn>,
    opened: ConnId,
    /// Until then nothing of a node gets out or in; TCP sends it again afterwards.
    blocked: HashMap<Node, u64>,
    /// Messages are late now: up to so much, until then.
    storm: (u64, u64),
}

impl Net {
    pub fn open(&mut self, from: (Node, u32), to: (Node, u32)) -> ConnId {
        self.opened += 1;
        let end = |(node, process)| End {
            node,
            process,
            open: true,
            arrives: 0,
        };
        let conn = Conn {
            ends: [end(from), end(to)],
            severed: false,
        };
        self.conns.insert(self.opened, conn);
        self.opened
    }

    pub fn get(&self, conn: ConnId) -> Option<&Conn> {
        self.conns.get(&conn)
    }

    /// Nothing of the node gets through for so long.
    pub fn block(&mut self, now: u64, node: Node, ms: u64) {
        self.blocked.insert(node, now + ms);
    }

    pub fn storm(&mut self, until: u64, latency_max: u64) {
        self.storm = (until, latency_max);
    }

    pub fn heal(&mut self) {
        self.blocked.clear();
        self.storm = (0, 0);
    }

    /// `None`: it will not arrive.
    pub fn send(
        &mut self,
        now: u64,
        rng: &mut fastrand::Rng,
        conn_id: ConnId,
        from: Side,
        message: Message,
    ) -> Vec<Sent> {
        let Some(conn) = self.conns.get_mut(&conn_id) else {
            return Vec::new();
        };
        let to = 1 - from;
        if matches!(message, Message::Closed) {
            conn.ends[from].open = false;
        } else if !conn.ends[from].open {
            return Vec::new();
        }
        if conn.severed {
            return Vec::new();
        }
        let held = |end: &End| self.blocked.get(&end.node).copied().unwrap_or(0);
        let held = held(&conn.ends[0]).max(held(&conn.ends[1]));
        if held > now + KEEPALIVE_MS {
            conn.severed = true;
            return self.end_both(conn_id, now + KEEPALIVE_MS, rng);
        }
        let storm = if now < self.storm.0 {
            rng.u64(0..=self.storm.1)
        } else {
            0
        };
        let at = (now.max(held) + rng.u64(LATENCY_MS) + storm).max(conn.ends[to].arrives);
        conn.ends[to].arrives = at;
        vec![Sent {
            at,
            conn: conn_id,
            to,
            message,
        }]
    }

    /// The cable is cut: what is on its way is lost, and each end learns of it soon or by its keepalive.
    pub fn cut(&mut self, now: u64, rng: &mut fastrand::Rng, conn_id: ConnId) -> Vec<Sent> {
        match self.conns.get_mut(&conn_id) {
            Some(conn) if !conn.severed => conn.severed = true,
            _ => return Vec::new(),
        }
        let at = now + if rng.bool() { 1 } else { rng.u64(0..KEEPALIVE_MS) };
        self.end_both(conn_id, at, rng)
    }

    /// Only one end learns of it at once; the other one by its keepalive.
    pub fn half_cut(&mut self, now: u64, conn_id: ConnId, knows: Side) -> Vec<Sent> {
        match self.conns.get_mut(&conn_id) {
            Some(conn) if !conn.severed => conn.severed = true,
            _ => return Vec::new(),
        }
        let end = |to: Side, at| Sent {
            at,
            conn: conn_id,
            to,
            message: Message::Closed,
        };
        vec![end(knows, now + 1), end(1 - knows, now + KEEPALIVE_MS)]
    }

    fn end_both(&self, conn: ConnId, at: u64, rng: &mut fastrand::Rng) -> Vec<Sent> {
        let end = |to: Side, at| Sent {
            at,
            conn,
            to,
            message: Message::Closed,
        };
        vec![end(0, at), end(1, at + rng.u64(0..2_000))]
    }

    /// Whether a message arrives at all; and where.
    pub fn arrive(&mut self, conn_id: ConnId, to: Side, message: &Message) -> Option<(Node, u32)> {
        let conn = self.conns.get_mut(&conn_id)?;
        let end = conn.ends[to];
        let is_end = matches!(message, Message::Closed);
        if !end.open || (conn.severed && !is_end) {
            return None;
        }
        if is_end {
            conn.ends[to].open = false;
        }
        if conn.ends.iter().all(|end| !end.open) {
            self.conns.remove(&conn_id);
        }
        Some((end.node, end.process))
    }

    pub fn of(&self, node: Node) -> Vec<ConnId> {
        let mut all: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, conn)| !conn.severed && conn.ends.iter().any(|end| end.node == node && end.open))
            .map(|(id, _)| *id)
            .collect();
        all.sort_unstable();
        all
    }
}
