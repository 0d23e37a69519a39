//! A controller process: the real core, a lease on the leadership row, and streams to nodes.

use std::collections::BTreeMap;

use tidegate_controller::{
    core::{
        Change, Core, Lead, Settings,
        model::{Effect, Now, StreamId},
    },
    wire,
};
use tidegate_protocol::{
    domain::{Policy, Probe, QueueName, Resource},
    v1::{self, attach_request::Message as Up},
};

use crate::{
    net::{ConnId, Message, Node},
    truth::CAPACITY,
    world::{Due, World, policy},
};

pub const TICK_MS: u64 = 2_000;
const LEASE_MS: u64 = 10_000;
const RENEW_MS: u64 = 2_000;
/// A leader stops so long before its lease ends.
const MARGIN_MS: u64 = 500;

pub struct Controller {
    pub process: u32,
    pub alive: bool,
    /// Stopped where it stands (SIGSTOP, a paused machine): it hears and does nothing.
    pub frozen: bool,
    /// Time that its clock did not see: a paused machine's may stand still.
    lag: u64,
    frozen_at: u64,
    /// What came meanwhile waits in its sockets.
    waiting: Vec<(ConnId, Message)>,
    pub core: Core,
    streams: BTreeMap<StreamId, ConnId>,
    conns: BTreeMap<ConnId, StreamId>,
    opened: StreamId,
    renew_at: u64,
    pub leads: bool,
}

fn fresh(at: &str) -> Core {
    let settings = Settings {
        tick_ms: TICK_MS,
        name: at.to_owned(),
        alone: false,
    };
    Core::new(settings, Now::default())
}

impl Controller {
    pub fn new(at: usize) -> Self {
        Self {
            process: 0,
            alive: false,
            frozen: false,
            lag: 0,
            frozen_at: 0,
            waiting: Vec::new(),
            core: fresh(&format!("controller-{at}")),
            streams: BTreeMap::new(),
            conns: BTreeMap::new(),
            opened: 0,
            renew_at: 0,
            leads: false,
        }
    }

    pub fn start(&mut self, _: u64) {
        *self = Self {
            process: self.process + 1,
            alive: true,
            ..Self::new(0)
        };
    }
}

impl World {
    fn now_of(&self, at: usize) -> Now {
        let mono_ms = self.now - self.controllers[at].lag;
        Now {
            mono_ms,
            wall_ms: mono_ms,
        }
    }

    /// Stops a controller for so long. `unseen`: its own clock stands still meanwhile.
    pub fn freeze(&mut self, at: usize, ms: u64) {
        if !self.controllers[at].alive || self.controllers[at].frozen {
            return;
        }
        self.controllers[at].frozen = true;
        self.controllers[at].frozen_at = self.now;
        self.after(ms, Node::Controller(at), Due::Thaw);
    }

    pub fn thaw(&mut self, at: usize) {
        let slept = self.now - self.controllers[at].frozen_at;
        let unseen = self.rng.bool();
        let controller = &mut self.controllers[at];
        controller.frozen = false;
        if unseen {
            controller.lag += slept;
        }
        for (conn, message) in std::mem::take(&mut controller.waiting) {
            self.controller_hears(at, conn, message);
        }
    }

    pub fn controller_looks(&mut self, at: usize) {
        if self.controllers[at].frozen {
            return;
        }
        let now = self.now_of(at);
        // A tick that was due may come before the ledger is asked again: whoever obeys must not rely on it.
        self.controllers[at].core.check_lease(now);
        if self.controllers[at].core.next_tick_ms() <= now.mono_ms {
            self.controllers[at].core.tick(now);
            self.order(at);
        }
        if now.mono_ms >= self.controllers[at].renew_at {
            self.controllers[at].renew_at = now.mono_ms + RENEW_MS;
            self.claim(at);
        }
        self.order(at);
    }

    /// By the row's clock, which is the database's.
    fn claim(&mut self, at: usize) {
        let now = self.now_of(at);
        let is_mine = self.row.holder == Some(at) && self.now < self.row.until;
        if is_mine && self.controllers[at].leads {
            self.row.until = self.now + LEASE_MS;
            self.controllers[at]
                .core
                .renewed(Some(now.mono_ms + LEASE_MS - MARGIN_MS));
            return;
        }
        if self.now < self.row.until {
            self.controllers[at].leads = false;
            let why = "somebody else has the lease".to_owned();
            self.controllers[at].core.stand_by(None, why, now);
            return;
        }
        let is_first = self.row.epoch == 0;
        self.row.epoch += 1;
        (self.row.holder, self.row.until) = (Some(at), self.now + LEASE_MS);
        let lead = Lead {
            ledger_id: "ledger".to_owned(),
            epoch: self.row.epoch,
            until_ms: Some(now.mono_ms + LEASE_MS - MARGIN_MS),
            is_first,
            learns: !is_first,
            stride: self.rng.u64(0..100),
            ..Lead::default()
        };
        let controller = &mut self.controllers[at];
        controller.leads = true;
        controller.core.lead(lead, now);
        self.apply(at);
        self.drop_streams(at);
    }

    /// A new leadership knows no nodes: its streams begin anew.
    fn drop_streams(&mut self, at: usize) {
        let conns = std::mem::take(&mut self.controllers[at].conns);
        self.controllers[at].streams.clear();
        for conn in conns.into_keys() {
            self.send(conn, 1, Message::Closed);
        }
    }

    /// What operators have written.
    pub fn apply(&mut self, at: usize) {
        let now = self.now_of(at);
        let change = Change::default();
        let resource = Resource {
            name: "pg-main".to_owned(),
            capacity: CAPACITY,
            headroom: 0.7,
            probe: Probe::Static,
        };
        let policies: Vec<(QueueName, Policy)> = self
            .policies
            .iter()
            .map(|(queue, (max, weight))| (queue.clone(), policy(queue, *max, *weight)))
            .collect();
        let core = &mut self.controllers[at].core;
        core.apply_resource(resource, &change, now)
            .expect("a valid resource");
        for (queue, policy) in policies {
            core.apply_policy(queue, policy, &change, now)
                .expect("a valid policy");
        }
        self.order(at);
    }

    pub fn controller_hears(&mut self, at: usize, conn: ConnId, message: Message) {
        if self.controllers[at].frozen {
            self.controllers[at].waiting.push((conn, message));
            return;
        }
        let now = self.now_of(at);
        let controller = &mut self.controllers[at];
        controller.core.check_lease(now);
        let stream = controller.conns.get(&conn).copied();
        match (message, stream) {
            (Message::Attach(Up::Hello(hello)), _) => {
                controller.opened += 1;
                controller.streams.insert(controller.opened, conn);
                controller.conns.insert(conn, controller.opened);
                let hello = wire::hello(hello).expect("a valid hello");
                controller.core.join(controller.opened, hello, now);
            }
            (Message::Attach(said), Some(stream)) => {
                let said = wire::said(v1::AttachRequest { message: Some(said) });
                if let Some(said) = said.expect("a valid message") {
                    controller.core.said(stream, said, now);
                }
            }
            (Message::Closed, Some(stream)) => {
                controller.conns.remove(&conn);
                controller.streams.remove(&stream);
                controller.core.leave(stream, now);
            }
            _ => {}
        }
        self.order(at);
    }

    /// Carries out what the core wants, until nothing is left.
    fn order(&mut self, at: usize) {
        loop {
            let effects = self.controllers[at].core.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Send(stream, order) => {
                        let Some(conn) = self.controllers[at].streams.get(&stream).copied() else {
                            continue;
                        };
                        if let Some(order) = wire::order(order).message {
                            self.send(conn, 1, Message::Order(order));
                        }
                    }
                    Effect::Close(stream) => {
                        if let Some(conn) = self.controllers[at].streams.remove(&stream) {
                            self.controllers[at].conns.remove(&conn);
                            self.send(conn, 1, Message::Closed);
                        }
                    }
                    Effect::RaiseEpoch(to) => {
                        self.row.epoch = self.row.epoch.max(to);
                        let (epoch, now) = (self.row.epoch, self.now_of(at));
                        self.controllers[at].core.raised(epoch, now);
                    }
                    Effect::Decided(_) | Effect::Keep(_) => {}
                }
            }
        }
    }

    /// A turn of its loop now.
    pub fn tick(&mut self, at: usize) {
        let now = self.now_of(at);
        self.controllers[at].core.tick(now);
        self.order(at);
    }

    /// The router that writes its caps.
    pub fn writer(&self, at: usize) -> Option<usize> {
        let controller = &self.controllers[at];
        let conn = controller.streams.get(&controller.core.cap_writer()?)?;
        match self.net.get(*conn)?.ends[0].node {
            Node::Router(at) => Some(at),
            _ => None,
        }
    }

    /// Slots of all workers that it counts.
    pub fn slots_seen(&self, at: usize) -> u32 {
        let view = self.controllers[at].core.view(self.now_of(at));
        view.nodes.iter().map(|node| node.slots).sum()
    }

    pub fn leader(&self) -> Option<usize> {
        self.row
            .holder
            .filter(|at| self.now < self.row.until && self.controllers[*at].alive)
    }
}
