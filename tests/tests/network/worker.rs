//! A worker process: the real core, and handlers that take some time and obey their cancel.

use std::collections::BTreeMap;

use tidegate_client::control::Kind;
use tidegate_protocol::{
    domain::LeaseRef,
    v1::{self, attach_request::Message as Up, attach_response::Message as Down},
};
use tidegate_worker::model::{Attempt, WorkerModel};
use uuid::Uuid;

use crate::{
    attach::{Attachment, Heard},
    net::{ConnId, Message, Node},
    truth::QUEUES,
    world::{CONTROLLERS, Due, ROUTERS, World, name},
};

pub const SLOTS: u32 = 20;
const RECONNECT_MS_MAX: u64 = 2_000;
const WELCOME_MAX_MS: u64 = 5_000;
const REPORT_MS: u64 = 1_000;
/// How long a handler takes to stop when it is told to.
const STOPS_MS: std::ops::Range<u64> = 1..200;

pub struct Worker {
    pub process: u32,
    pub alive: bool,
    model: WorkerModel,
    /// To a router: the connection, when it was opened, whether it was welcomed.
    stream: Option<(ConnId, u64, bool)>,
    router: usize,
    open_at: u64,
    pub attach: Attachment,
    report_at: u64,
    targets_end: Option<u64>,
    running: BTreeMap<LeaseRef, (Attempt, u64, bool)>,
    node: Uuid,
}

impl Worker {
    pub fn new(at: usize) -> Self {
        Self {
            process: 0,
            alive: false,
            model: WorkerModel::new(SLOTS, Vec::new(), Uuid::nil()),
            stream: None,
            router: at,
            open_at: 0,
            attach: Attachment::new(Kind::Targets),
            report_at: 0,
            targets_end: None,
            running: BTreeMap::new(),
            node: Uuid::nil(),
        }
    }

    pub fn stream_conn(&self) -> Option<ConnId> {
        self.stream.map(|(conn, ..)| conn)
    }

    pub fn start(&mut self, rng: &mut fastrand::Rng) {
        self.process += 1;
        self.alive = true;
        self.node = Uuid::from_u128(rng.u128(..));
        let queues = QUEUES.iter().map(|(queue, _)| name(queue)).collect();
        self.model = WorkerModel::new(SLOTS, queues, self.node);
        (self.stream, self.open_at, self.targets_end) = (None, 0, None);
        self.router = rng.usize(..ROUTERS);
        self.attach = Attachment::new(Kind::Targets);
        self.running.clear();
    }
}

impl World {
    pub fn worker_looks(&mut self, at: usize) {
        let now = self.now;
        let worker = &mut self.workers[at];
        if worker.targets_end.is_some_and(|end| now >= end) {
            worker.targets_end = None;
            worker.model.targets_ended(now);
        }
        let is_silent = match worker.stream {
            Some((_, since, false)) => now >= since + WELCOME_MAX_MS,
            Some((.., true)) => worker.model.router_is_silent(now),
            None => false,
        };
        if is_silent {
            self.worker_leaves(at);
        }
        let worker = &mut self.workers[at];
        if worker.stream.is_none() && now >= worker.open_at && self.routers[worker.router].alive {
            let session = Uuid::from_u128(self.rng.u128(..));
            let hello = worker.model.open(session);
            let to = Node::Router(worker.router);
            let from = (Node::Worker(at), worker.process);
            let conn = self.net.open(from, (to, self.routers[worker.router].process));
            worker.stream = Some((conn, now, false));
            self.send(conn, 0, Message::LeaseHello(hello));
        }
        self.keep_attached(at);
        self.work(at);
    }

    fn keep_attached(&mut self, at: usize) {
        let now = self.now;
        let worker = &mut self.workers[at];
        if worker.attach.is_left_waiting(now) {
            self.worker_detaches(at);
        }
        let worker = &mut self.workers[at];
        let next = worker.attach.next;
        if worker.attach.wants_to_open(now) && self.controllers[next].alive {
            let hello = v1::NodeHello {
                name: format!("worker-{at}"),
                ..worker.model.hello(now)
            };
            let hello = worker.attach.hello(hello);
            let from = (Node::Worker(at), worker.process);
            let to = (Node::Controller(next), self.controllers[next].process);
            let conn = self.net.open(from, to);
            worker.attach.opened(now, conn);
            worker.report_at = now + REPORT_MS;
            self.send(conn, 0, Message::Attach(Up::Hello(hello)));
        }
        let worker = &mut self.workers[at];
        if let (Some(conn), true) = (worker.attach.conn, worker.attach.welcomed)
            && now >= worker.report_at
        {
            worker.report_at = now + REPORT_MS;
            let report = worker.model.report(now);
            self.send(conn, 0, Message::Attach(Up::Report(report)));
        }
    }

    fn worker_leaves(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        let Some((conn, ..)) = worker.stream.take() else {
            return;
        };
        worker.model.closed(true);
        worker.router = (worker.router + 1) % ROUTERS;
        worker.open_at = self.now + self.rng.u64(0..RECONNECT_MS_MAX);
        self.send(conn, 0, Message::Closed);
    }

    fn worker_detaches(&mut self, at: usize) {
        let now = self.now;
        let conn = self.workers[at].attach.conn;
        self.workers[at].attach.ended(now, CONTROLLERS, &mut self.rng);
        if let Some(conn) = conn {
            self.send(conn, 0, Message::Closed);
        }
    }

    pub fn worker_hears(&mut self, at: usize, conn: ConnId, message: Message) {
        let now = self.now;
        match message {
            Message::LeaseAnswer(answer)
                if self.workers[at].stream.is_some_and(|stream| stream.0 == conn) =>
            {
                let random = self.rng.f64();
                let worker = &mut self.workers[at];
                if matches!(answer.message, Some(v1::lease_response::Message::Welcome(_)))
                    && let Some(stream) = &mut worker.stream
                {
                    stream.2 = true;
                }
                for attempt in worker.model.received(now, answer, random) {
                    let takes = self.rng.u64(20..4_000);
                    let lease = attempt.lease().clone();
                    let worker = &mut self.workers[at];
                    self.truth.began(at, worker.process, &lease);
                    worker.running.insert(lease.clone(), (attempt, now, false));
                    self.after(takes, Node::Worker(at), Due::Ends(lease));
                }
            }
            Message::Closed if self.workers[at].stream.is_some_and(|stream| stream.0 == conn) => {
                self.worker_leaves(at);
            }
            Message::Closed if self.workers[at].attach.conn == Some(conn) => self.worker_detaches(at),
            Message::Order(order) if self.workers[at].attach.conn == Some(conn) => {
                self.worker_obeys(at, conn, order)
            }
            // Of a stream that is not open any more on this side.
            _ => {}
        }
        self.work(at);
    }

    fn worker_obeys(&mut self, at: usize, conn: ConnId, order: Down) {
        let now = self.now;
        let worker = &mut self.workers[at];
        match worker.attach.heard(now, order) {
            Heard::Nothing => {}
            Heard::Leave(refusal) => {
                if let Some(refusal) = refusal {
                    self.send(conn, 0, Message::Attach(Up::Refusal(refusal)));
                }
                self.worker_detaches(at);
            }
            Heard::Obey(Down::Targets(targets)) => {
                worker.model.set_targets(now, &targets.targets);
                worker.targets_end = Some(now + targets.ttl_ms);
                let applied = v1::Applied {
                    version: targets.version,
                };
                self.send(conn, 0, Message::Attach(Up::Applied(applied)));
            }
            Heard::Obey(_) => {}
        }
    }

    /// What time asks for, handlers that are told to stop, and what there is to say.
    fn work(&mut self, at: usize) {
        let now = self.now;
        self.workers[at].model.tick(now);
        let mut stopping = Vec::new();
        for (lease, (attempt, _, is_stopping)) in &mut self.workers[at].running {
            if attempt.is_told_to_stop() && !*is_stopping {
                *is_stopping = true;
                stopping.push(lease.clone());
            }
        }
        for lease in stopping {
            let takes = self.rng.u64(STOPS_MS);
            self.after(takes, Node::Worker(at), Due::Ends(lease));
        }
        let Some((conn, _, true)) = self.workers[at].stream else {
            return;
        };
        while let Some(message) = self.workers[at].model.outgoing(now) {
            self.send(conn, 0, Message::Lease(message));
        }
    }

    pub fn handler_ends(&mut self, at: usize, lease: &LeaseRef) {
        let now = self.now;
        let worker = &mut self.workers[at];
        let Some((attempt, began, _)) = worker.running.remove(lease) else {
            return;
        };
        self.truth.ended(at, worker.process, lease);
        worker.model.ended(now, attempt, now - began);
        self.work(at);
    }
}
