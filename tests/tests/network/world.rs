//! The whole fleet in one thread on one virtual clock: real cores of worker and controller, the real rules of whom to obey
//! and when to trust the store's time, a real store in memory; routers, network and faults are the model's.

use std::{collections::BTreeMap, sync::Arc};

use tidegate_protocol::domain::{JobId, JobState, NewJob, Policy, QueueName, ResourceCost, Version};
use tidegate_store::{JobStore, QueueRecord, QueueStats, memory::MemoryStore};
use tokio::runtime::{Builder, Runtime};

use crate::{
    controller::Controller,
    net::{ConnId, Message, Net, Node, Sent, Side},
    router::Router,
    truth::{QUEUES, StoreClock, Truth, cost},
    worker::Worker,
};

/// Every process looks around this often, beside what it does for each message.
const LOOK_MS: u64 = 100;
/// Nothing that is well takes longer to end its next job: leases, caps and freezes have run out long before.
const STUCK_MS: u64 = 300_000;
pub const WORKERS: usize = 4;
pub const ROUTERS: usize = 2;
pub const CONTROLLERS: usize = 2;

#[allow(clippy::large_enum_variant, reason = "thousands of them, and one run")]
pub enum Event {
    Arrive {
        conn: ConnId,
        to: Side,
        message: Message,
    },
    Look(Node),
    /// Something of one process that is due.
    Due(Node, u32, Due),
}

pub enum Due {
    /// A handler ends.
    Ends(tidegate_protocol::domain::LeaseRef),
    /// The oldest order that waits is carried out.
    CarryOut,
    /// The jobs of a stream that broke go back.
    Release(crate::router::Gone),
    Restart,
    Thaw,
}

/// The leadership row.
#[derive(Default)]
pub struct Row {
    pub holder: Option<usize>,
    pub epoch: u64,
    pub until: u64,
}

pub struct World {
    pub now: u64,
    pub rng: fastrand::Rng,
    pub net: Net,
    pub store: Arc<MemoryStore>,
    pub clock: Arc<StoreClock>,
    pub row: Row,
    pub truth: Truth,
    pub workers: Vec<Worker>,
    pub routers: Vec<Router>,
    pub controllers: Vec<Controller>,
    /// What operators have written: (max, weight) by queue.
    pub policies: BTreeMap<QueueName, (u32, f64)>,
    events: BTreeMap<(u64, u64), Event>,
    queued: u64,
    runtime: Runtime,
    jobs: u128,
}

/// As operators write it.
pub fn policy(queue: &QueueName, max: u32, weight: f64) -> Policy {
    Policy {
        max,
        weight,
        costs: vec![ResourceCost {
            resource: "pg-main".to_owned(),
            units: cost(queue) as u32,
        }],
        ..Policy::default()
    }
}

pub fn name(text: &str) -> QueueName {
    text.parse().expect("a valid name")
}

impl World {
    pub fn new(seed: u64) -> Self {
        let clock = StoreClock::new();
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        let mut world = Self {
            now: 0,
            rng: fastrand::Rng::with_seed(seed),
            net: Net::default(),
            store: Arc::new(MemoryStore::with_clock(clock.clone())),
            clock,
            row: Row::default(),
            truth: Truth::default(),
            workers: (0..WORKERS).map(Worker::new).collect(),
            routers: (0..ROUTERS).map(Router::new).collect(),
            controllers: (0..CONTROLLERS).map(Controller::new).collect(),
            policies: QUEUES
                .iter()
                .map(|(queue, _)| (name(queue), (100, 1.0)))
                .collect(),
            events: BTreeMap::new(),
            queued: 0,
            runtime,
            jobs: 0,
        };
        world.clock.set(0);
        // As a router writes them from its file at its start: no queue is ever without its cost.
        let records = world.policies.iter().map(|(queue, (max, weight))| QueueRecord {
            queue: queue.clone(),
            policy: policy(queue, *max, *weight),
            version: Version::default(),
        });
        let records: Vec<QueueRecord> = records.collect();
        for answer in world.ask(world.store.put_queue(records)) {
            answer.expect("it answers");
        }
        let nodes = (0..WORKERS)
            .map(Node::Worker)
            .chain((0..ROUTERS).map(Node::Router))
            .chain((0..CONTROLLERS).map(Node::Controller));
        for node in nodes {
            world.start(node);
            let first = world.rng.u64(0..LOOK_MS);
            world.at(first, Event::Look(node));
        }
        world
    }

    /// A store call, which a store in memory answers at once.
    pub fn ask<R>(&self, call: impl Future<Output = R>) -> R {
        self.runtime.block_on(call)
    }

    pub fn at(&mut self, at: u64, event: Event) {
        self.queued += 1;
        self.events.insert((at.max(self.now), self.queued), event);
    }

    pub fn after(&mut self, ms: u64, node: Node, due: Due) {
        let process = self.process(node);
        self.at(self.now + ms, Event::Due(node, process, due));
    }

    pub fn send(&mut self, conn: ConnId, from: Side, message: Message) {
        let sent = self.net.send(self.now, &mut self.rng, conn, from, message);
        self.post(sent);
    }

    pub fn post(&mut self, sent: Vec<Sent>) {
        for Sent {
            at,
            conn,
            to,
            message,
        } in sent
        {
            self.at(at, Event::Arrive { conn, to, message });
        }
    }

    pub fn process(&self, node: Node) -> u32 {
        match node {
            Node::Worker(at) => self.workers[at].process,
            Node::Router(at) => self.routers[at].process,
            Node::Controller(at) => self.controllers[at].process,
        }
    }

    pub fn is_alive(&self, node: Node) -> bool {
        match node {
            Node::Worker(at) => self.workers[at].alive,
            Node::Router(at) => self.routers[at].alive,
            Node::Controller(at) => self.controllers[at].alive,
        }
    }

    /// A process begins, knowing nothing.
    pub fn start(&mut self, node: Node) {
        match node {
            Node::Worker(at) => self.workers[at].start(&mut self.rng),
            Node::Router(at) => {
                let now = self.now;
                self.routers[at].start(now, &mut self.rng);
            }
            Node::Controller(at) => {
                let now = self.now;
                self.controllers[at].start(now);
            }
        }
    }

    /// `kill -9`, and a new process after that time.
    pub fn kill(&mut self, node: Node, ms: u64) {
        if !self.is_alive(node) {
            return;
        }
        for conn in self.net.of(node) {
            let side = usize::from(self.net.get(conn).is_some_and(|conn| conn.ends[1].node == node));
            self.send(conn, side, Message::Closed);
        }
        match node {
            Node::Worker(at) => {
                self.truth.died(at);
                self.workers[at].alive = false;
            }
            Node::Router(at) => self.routers[at].alive = false,
            Node::Controller(at) => self.controllers[at].alive = false,
        }
        self.after(ms, node, Due::Restart);
    }

    /// Runs until then; every invariant is checked after every event.
    pub fn run(&mut self, until: u64) {
        while let Some(entry) = self.events.first_entry() {
            if entry.key().0 > until {
                break;
            }
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            self.clock.set(at);
            self.happen(event);
        }
        self.now = until;
        self.clock.set(until);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Look(node) => {
                if self.is_alive(node) {
                    self.look(node);
                }
                let next = self.now + LOOK_MS + self.rng.u64(0..10);
                self.at(next, Event::Look(node));
            }
            Event::Arrive { conn, to, message } => {
                let Some((node, process)) = self.net.arrive(conn, to, &message) else {
                    return;
                };
                if self.is_alive(node) && self.process(node) == process {
                    self.hear(node, conn, message);
                }
            }
            Event::Due(node, process, due) if self.process(node) == process => self.due(node, due),
            Event::Due(..) => {}
        }
    }

    fn look(&mut self, node: Node) {
        match node {
            Node::Worker(at) => self.worker_looks(at),
            Node::Router(at) => self.router_looks(at),
            Node::Controller(at) => self.controller_looks(at),
        }
    }

    fn hear(&mut self, node: Node, conn: ConnId, message: Message) {
        match node {
            Node::Worker(at) => self.worker_hears(at, conn, message),
            Node::Router(at) => self.router_hears(at, conn, message),
            Node::Controller(at) => self.controller_hears(at, conn, message),
        }
    }

    fn due(&mut self, node: Node, due: Due) {
        match (node, due) {
            (_, Due::Restart) => self.start(node),
            (Node::Worker(at), Due::Ends(lease)) => self.handler_ends(at, &lease),
            (Node::Router(at), Due::CarryOut) => self.carry_out(at),
            (Node::Router(at), Due::Release(gone)) => self.release(at, gone),
            (Node::Controller(at), Due::Thaw) => self.thaw(at),
            (_, Due::Ends(_) | Due::CarryOut | Due::Release(_) | Due::Thaw) => {}
        }
    }

    pub fn submit(&mut self, queue: &str, count: usize) {
        let queue = name(queue);
        let mut jobs = Vec::new();
        for _ in 0..count {
            self.jobs += 1;
            let id: JobId = format!("{queue}:0:{:032x}", self.jobs)
                .parse()
                .expect("a valid id");
            self.truth.submitted.insert(id.clone());
            jobs.push(NewJob::new(id, "{}"));
        }
        for answer in self.ask(self.store.submit(jobs)) {
            answer.expect("a store in memory takes jobs");
        }
    }

    pub fn stats(&self) -> Vec<QueueStats> {
        let names = self.ask(self.store.queues()).expect("a store in memory answers");
        let stats = self.ask(self.store.stats(names));
        stats
            .into_iter()
            .filter_map(|stats| stats.expect("it answers"))
            .collect()
    }

    /// Jobs of email that handlers run.
    pub fn running_jobs(&self) -> Vec<JobId> {
        let mut ids = self.truth.running();
        ids.retain(|id| id.queue == name("email"));
        ids.dedup();
        ids
    }

    /// What is wrong with the store's word must be seen at once.
    pub fn check_store(&self) {
        self.truth.holds(&self.stats());
    }

    /// Nothing is lost: every job comes to its one end once everybody is well again.
    pub fn settle_down(&mut self) {
        self.net.heal();
        for policy in self.policies.values_mut() {
            *policy = (100, 1.0);
        }
        let left = |world: &Self| {
            let jobs = |stats: &QueueStats| stats.ready + stats.scheduled + stats.running;
            world.stats().iter().map(jobs).sum::<u64>()
        };
        let (mut applied, mut lowest, mut moved_at) = (false, u64::MAX, self.now);
        while left(self) > 0 && self.now < moved_at + STUCK_MS {
            if !applied
                && let Some(leader) = self.leader()
                && !self.controllers[leader].frozen
            {
                self.apply(leader);
                applied = true;
            }
            self.run(self.now + 2_000);
            if left(self) < lowest {
                (lowest, moved_at) = (left(self), self.now);
            }
        }
        let ids: Vec<JobId> = self.truth.submitted.iter().cloned().collect();
        for chunk in ids.chunks(500) {
            for (id, job) in chunk.iter().zip(self.ask(self.store.get(chunk.to_vec()))) {
                let job = job.expect("the store answers");
                // What succeeded is not kept for ever; what did not is.
                let state = job.map(|job| job.state);
                assert!(
                    matches!(
                        state,
                        None | Some(JobState::Succeeded | JobState::Dead | JobState::Cancelled)
                    ),
                    "{id} came to no end: {state:?}"
                );
            }
        }
        let all: u64 = self
            .stats()
            .iter()
            .map(|stats| stats.succeeded_total + stats.dead_total + stats.cancelled)
            .sum();
        assert_eq!(all, ids.len() as u64, "a job is lost or counted twice");
    }
}
