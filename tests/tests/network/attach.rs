//! A node's way to the controllers, as `client::control` keeps it: whom it obeys is that crate's own rule.

use tidegate_client::control::{Kind, Obeyed};
use tidegate_protocol::{convert, domain::Version, v1};

use crate::net::ConnId;

const WELCOME_MAX_MS: u64 = 5_000;
const RETRY_MS_MAX: u64 = 2_000;

pub struct Attachment {
    binding: Kind,
    obeyed: Obeyed,
    pub conn: Option<ConnId>,
    opened_at: u64,
    pub welcomed: bool,
    retry_at: u64,
    pub next: usize,
    /// Orders of an older leadership or decision that were not carried out.
    pub refused: u64,
    /// By ledger: what was carried out must never be of an older leadership than before.
    applied: (String, u64),
}

pub enum Heard {
    Nothing,
    /// Carry it out.
    Obey(v1::attach_response::Message),
    /// Say it if there is something to say, and leave.
    Leave(Option<v1::Refusal>),
}

impl Attachment {
    pub fn new(binding: Kind) -> Self {
        Self {
            binding,
            obeyed: Obeyed::default(),
            conn: None,
            opened_at: 0,
            welcomed: false,
            retry_at: 0,
            next: 0,
            refused: 0,
            applied: Default::default(),
        }
    }

    pub fn wants_to_open(&self, now: u64) -> bool {
        self.conn.is_none() && now >= self.retry_at
    }

    pub fn opened(&mut self, now: u64, conn: ConnId) {
        (self.conn, self.opened_at, self.welcomed) = (Some(conn), now, false);
    }

    pub fn is_left_waiting(&self, now: u64) -> bool {
        self.conn.is_some() && !self.welcomed && now > self.opened_at + WELCOME_MAX_MS
    }

    pub fn ended(&mut self, now: u64, controllers: usize, rng: &mut fastrand::Rng) {
        self.conn = None;
        self.welcomed = false;
        self.next = (self.next + 1) % controllers;
        self.retry_at = now + rng.u64(0..RETRY_MS_MAX);
    }

    pub fn hello(&self, hello: v1::NodeHello) -> v1::NodeHello {
        v1::NodeHello {
            applied: Some(self.obeyed.version().into()),
            ledger_id: self.obeyed.ledger_id().to_owned(),
            ..hello
        }
    }

    pub fn heard(&mut self, now: u64, message: v1::attach_response::Message) -> Heard {
        use v1::attach_response::Message as Down;
        let (kind, version, ttl_ms) = match &message {
            Down::Refused(_) => return Heard::Leave(None),
            Down::Welcome(welcome) => {
                let epoch = convert::version(welcome.version).epoch;
                let answer = self.obeyed.welcome(now, &welcome.ledger_id, epoch);
                let Err(why) = answer else {
                    self.welcomed = true;
                    return Heard::Nothing;
                };
                return Heard::Leave(Some(v1::Refusal {
                    obeyed: Some(self.obeyed.version().into()),
                    ledger_id: self.obeyed.ledger_id().to_owned(),
                    reason: why.to_string(),
                }));
            }
            Down::Targets(targets) => (Kind::Targets, targets.version, targets.ttl_ms),
            Down::Policies(policies) => (Kind::Policies, policies.version, 0),
            Down::Caps(caps) => (Kind::Caps, caps.version, caps.ttl_ms),
            Down::Gates(gates) => (Kind::Gates, gates.version, 0),
            Down::Command(_) => return Heard::Obey(message),
        };
        if !self.welcomed {
            return Heard::Leave(None);
        }
        let version = convert::version(version);
        let ttl_ms = if kind == self.binding { ttl_ms } else { 0 };
        if !self.obeyed.order(now, kind, version, ttl_ms) {
            self.refused += 1;
            return Heard::Nothing;
        }
        self.check(version);
        Heard::Obey(message)
    }

    fn check(&mut self, version: Version) {
        let ledger = self.obeyed.ledger_id();
        let (known, epoch) = &self.applied;
        assert!(
            ledger != known || version.epoch >= *epoch,
            "an order of epoch {} was carried out after one of {epoch}",
            version.epoch
        );
        self.applied = (ledger.to_owned(), version.epoch);
    }
}
