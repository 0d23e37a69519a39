//! A router: the model's own hands on the real store, by the real rules for when the store's time is trusted.

use std::collections::{BTreeMap, VecDeque};

use tidegate_client::control::Kind;
use tidegate_protocol::{
    convert,
    domain::{Incarnation, JobState, QueueName, Session, SettleResult},
    v1::{
        self, attach_request::Message as Up, attach_response::Message as Down, lease_request, lease_response,
    },
};
use tidegate_router::watch::Watch;
use tidegate_store::{
    CapOrder, JobStore, LeaseRequest, QueueRecord, Reclaim, ReleaseCause, RenewAnswer, SessionRelease,
    SettleItem, SweepRequest, Want,
};
use uuid::Uuid;

use crate::{
    attach::{Attachment, Heard},
    net::{ConnId, Message, Node},
    world::{CONTROLLERS, Due, World},
};

const PULSE_MS: u64 = 1_000;
const SWEEP_MS: u64 = 500;
const REPORT_MS: u64 = 1_000;
const GRACE_MS: u64 = 2_000;
const SWEEP_LIMIT: u32 = 1_000;

/// A stream whose end was seen: what it held goes back.
pub struct Gone {
    session: Session,
    queues: Vec<QueueName>,
}

struct Stream {
    session: Session,
    incarnation: Incarnation,
    queues: Vec<QueueName>,
    /// (free, the newest grants that it accounts for).
    credits: BTreeMap<QueueName, (u32, u64)>,
    granted: Vec<(u64, QueueName, u32)>,
    seq: u64,
    counter: u64,
}

impl Stream {
    fn room(&self, queue: &QueueName) -> u32 {
        let Some((free, seq)) = self.credits.get(queue) else {
            return 0;
        };
        let since = self.granted.iter().filter(|(at, of, _)| at > seq && of == queue);
        free.saturating_sub(since.map(|(.., count)| count).sum())
    }
}

pub struct Router {
    pub process: u32,
    pub alive: bool,
    watch: Watch,
    pub attach: Attachment,
    streams: BTreeMap<ConnId, Stream>,
    orders: VecDeque<(Option<ConnId>, Down)>,
    /// Orders are carried out one at a time, and the store may be slow.
    pub slow_until: u64,
    pulse_at: u64,
    sweep_at: u64,
    report_at: u64,
    arrivals: BTreeMap<QueueName, u64>,
    node: Uuid,
    /// Orders that the store refused as older than it has.
    pub refused: u64,
}

impl Router {
    pub fn new(_: usize) -> Self {
        Self {
            process: 0,
            alive: false,
            watch: Watch::new(0),
            attach: Attachment::new(Kind::Caps),
            streams: BTreeMap::new(),
            orders: VecDeque::new(),
            slow_until: 0,
            pulse_at: 0,
            sweep_at: 0,
            report_at: 0,
            arrivals: BTreeMap::new(),
            node: Uuid::nil(),
            refused: 0,
        }
    }

    pub fn start(&mut self, now: u64, rng: &mut fastrand::Rng) {
        let refused = self.refused;
        *self = Self {
            process: self.process + 1,
            alive: true,
            watch: Watch::new(now),
            node: Uuid::from_u128(rng.u128(..)),
            refused,
            ..Self::new(0)
        };
    }
}

impl World {
    pub fn router_looks(&mut self, at: usize) {
        let now = self.now;
        if now >= self.routers[at].pulse_at {
            self.routers[at].pulse_at = now + PULSE_MS;
            let pulse = self.ask(self.store.pulse()).expect("it answers");
            self.routers[at].watch.on_pulse(now, now, &pulse);
        }
        if now >= self.routers[at].sweep_at {
            self.routers[at].sweep_at = now + SWEEP_MS;
            self.sweep(at);
        }
        self.grant(at);
        self.router_attaches(at);
    }

    fn sweep(&mut self, at: usize) {
        let now = self.now;
        let hold = self.routers[at].watch.hold_due();
        let mut requests = Vec::new();
        for stats in self.stats() {
            let ttl_ms = stats.policy.lease_ttl_ms;
            requests.push(SweepRequest {
                reclaim_until_ms: self.routers[at]
                    .watch
                    .reclaim_until_ms(now, ttl_ms)
                    .filter(|_| !hold),
                hold_ms: if hold { ttl_ms } else { 0 },
                queue: stats.queue,
                limit: SWEEP_LIMIT,
                seed: self.rng.u32(1..1_000_000),
            });
        }
        for report in self.ask(self.store.sweep(requests)) {
            report.expect("it answers");
        }
        if hold {
            self.routers[at].watch.hold_written();
        }
        self.check_store();
    }

    fn router_attaches(&mut self, at: usize) {
        let now = self.now;
        if self.routers[at].attach.is_left_waiting(now) {
            self.router_detaches(at);
        }
        let next = self.routers[at].attach.next;
        if self.routers[at].attach.wants_to_open(now) && self.controllers[next].alive {
            let router = &self.routers[at];
            let (store_incarnation, store_watermark_ms) = router.watch.identity();
            let hello = v1::NodeHello {
                role: v1::NodeRole::Router.into(),
                node: router.node.to_string(),
                name: format!("router-{at}"),
                store_incarnation,
                store_watermark_ms,
                state: Some(self.facts(at)),
                ..Default::default()
            };
            let hello = self.routers[at].attach.hello(hello);
            let from = (Node::Router(at), self.routers[at].process);
            let to = (Node::Controller(next), self.controllers[next].process);
            let conn = self.net.open(from, to);
            self.routers[at].attach.opened(now, conn);
            self.routers[at].report_at = now + REPORT_MS;
            self.send(conn, 0, Message::Attach(Up::Hello(hello)));
        }
        let router = &self.routers[at];
        if let (Some(conn), true) = (router.attach.conn, router.attach.welcomed)
            && now >= router.report_at
        {
            self.routers[at].report_at = now + REPORT_MS;
            let report = self.facts(at);
            self.send(conn, 0, Message::Attach(Up::Report(report)));
        }
    }

    fn facts(&mut self, at: usize) -> v1::Report {
        let mut arrivals = std::mem::take(&mut self.routers[at].arrivals);
        let queue = |stats: tidegate_store::QueueStats| v1::QueueReport {
            queue: stats.queue.to_string(),
            submitted: arrivals.remove(&stats.queue).unwrap_or(0),
            store: Some(v1::StoreFacts {
                ready: stats.ready,
                ready_retries: stats.ready_retries,
                scheduled: stats.scheduled,
                running: stats.running,
                slots: stats.slots,
                oldest_ready_age_ms: stats
                    .oldest_ready_ms
                    .map_or(0, |since| stats.clock_ms.saturating_sub(since)),
                store_clock_ms: stats.clock_ms,
            }),
            ..Default::default()
        };
        v1::Report {
            window_ms: REPORT_MS,
            queues: self.stats().into_iter().map(queue).collect(),
            ..Default::default()
        }
    }

    fn router_detaches(&mut self, at: usize) {
        let now = self.now;
        let conn = self.routers[at].attach.conn;
        self.routers[at].attach.ended(now, CONTROLLERS, &mut self.rng);
        if let Some(conn) = conn {
            self.send(conn, 0, Message::Closed);
        }
    }

    pub fn router_hears(&mut self, at: usize, conn: ConnId, message: Message) {
        match message {
            Message::LeaseHello(hello) => self.take_in(at, conn, hello),
            Message::Lease(request) => self.take(at, conn, request),
            Message::Order(order) if self.routers[at].attach.conn == Some(conn) => {
                self.router_obeys(at, conn, order)
            }
            Message::Closed if self.routers[at].attach.conn == Some(conn) => self.router_detaches(at),
            Message::Closed => self.stream_ended(at, conn),
            _ => {}
        }
    }

    fn take_in(&mut self, at: usize, conn: ConnId, hello: v1::Hello) {
        let session = |text: &str| convert::session("session", text).expect("a session");
        let replaces: Vec<Session> = hello.replaces.iter().map(|text| session(text)).collect();
        let old: Vec<ConnId> = self.routers[at]
            .streams
            .iter()
            .filter(|(_, stream)| replaces.contains(&stream.session))
            .map(|(conn, _)| *conn)
            .collect();
        for conn in old {
            self.routers[at].streams.remove(&conn);
            self.send(conn, 1, Message::Closed);
        }
        let queues: Vec<QueueName> = hello
            .queues
            .iter()
            .map(|name| name.parse().expect("a name"))
            .collect();
        let stream = Stream {
            session: session(&hello.session),
            incarnation: convert::incarnation("incarnation", &hello.incarnation).expect("an incarnation"),
            queues: queues.clone(),
            credits: BTreeMap::new(),
            granted: Vec::new(),
            seq: 0,
            counter: 0,
        };
        let reclaim = Reclaim {
            session: stream.session,
            incarnation: stream.incarnation,
            replaces,
            queues,
            leases: convert::lease_refs("reclaim", &hello.reclaim).expect("leases"),
        };
        let answer = self.ask(self.store.reclaim(reclaim)).expect("it answers");
        self.routers[at].streams.insert(conn, stream);
        let welcome = v1::Welcome {
            reclaimed: answer.kept.iter().map(v1::LeaseRef::from).collect(),
            lost: answer.lost.iter().map(v1::LeaseRef::from).collect(),
            router: format!("router-{at}"),
            store_clock_ms: 0,
        };
        self.answer(conn, lease_response::Message::Welcome(welcome));
        self.check_store();
    }

    fn answer(&mut self, conn: ConnId, message: lease_response::Message) {
        let answer = v1::LeaseResponse {
            message: Some(message),
        };
        self.send(conn, 1, Message::LeaseAnswer(answer));
    }

    fn take(&mut self, at: usize, conn: ConnId, request: v1::LeaseRequest) {
        let Some(stream) = self.routers[at].streams.get_mut(&conn) else {
            return;
        };
        match request.message {
            Some(lease_request::Message::Credits(credits)) => {
                stream.counter = stream.counter.max(credits.counter);
                for credit in credits.credits {
                    let queue = credit.queue.parse().expect("a name");
                    stream.credits.insert(queue, (credit.free, credit.last_grant_seq));
                }
                let oldest = stream.credits.values().map(|credit| credit.1).min().unwrap_or(0);
                stream.granted.retain(|(seq, ..)| *seq > oldest);
                self.grant(at);
            }
            Some(lease_request::Message::Renew(renew)) => {
                stream.counter = stream.counter.max(renew.counter);
                self.renew(conn, renew);
            }
            Some(lease_request::Message::Settle(settle)) => self.settle(at, conn, settle),
            Some(lease_request::Message::Hello(_) | lease_request::Message::Bye(_)) | None => {}
        }
    }

    fn renew(&mut self, conn: ConnId, renew: v1::Renew) {
        let leases = convert::lease_refs("leases", &renew.leases).expect("leases");
        let mut renewed = v1::Renewed {
            counter: renew.counter,
            ..Default::default()
        };
        for (lease, answer) in leases.iter().zip(self.ask(self.store.renew(leases.clone()))) {
            match answer.expect("it answers") {
                RenewAnswer::Held { .. } => {}
                RenewAnswer::Lost => renewed.lost.push(lease.into()),
                RenewAnswer::Cancelled => renewed.cancelled.push(lease.into()),
            }
        }
        self.answer(conn, lease_response::Message::Renewed(renewed));
    }

    fn settle(&mut self, at: usize, conn: ConnId, settle: v1::Settle) {
        let items: Vec<SettleItem> = settle
            .settlements
            .into_iter()
            .map(|wire| SettleItem {
                settlement: convert::settlement(wire).expect("a settlement"),
                random: self.rng.f64(),
            })
            .collect();
        // A router that had no answer in time asks again: the store must say the same and record nothing twice.
        let times = if self.rng.u8(0..10) == 0 { 2 } else { 1 };
        let mut answers = Vec::new();
        for _ in 0..times {
            let before = self.recorded();
            answers = self.ask(self.store.settle(items.clone()));
            let fresh = self.recorded() - before;
            let says = |answer: &Result<SettleResult, _>| {
                matches!(answer, Ok(SettleResult::Recorded(JobState::Succeeded)))
            };
            assert!(fresh <= answers.iter().filter(|answer| says(answer)).count() as u64);
            if fresh > 0 {
                self.count(&items, &answers, fresh);
            }
        }
        let settled = items.iter().zip(answers).map(|(item, answer)| {
            let (result, state) = convert::settle_result(answer.expect("it answers"));
            v1::settled::Item {
                lease: Some(v1::LeaseRef::from(&item.settlement.lease)),
                result: result.into(),
                state: state.into(),
                error: None,
            }
        });
        let settled = v1::Settled {
            items: settled.collect(),
        };
        self.answer(conn, lease_response::Message::Settled(settled));
        self.check_store();
        self.grant(at);
    }

    fn recorded(&self) -> u64 {
        self.stats().iter().map(|stats| stats.succeeded_total).sum()
    }

    /// Each job's success counts once, whoever says it how often.
    fn count(
        &mut self,
        items: &[SettleItem],
        answers: &[Result<SettleResult, tidegate_store::StoreError>],
        fresh: u64,
    ) {
        let mut counted = 0;
        for (item, answer) in items.iter().zip(answers) {
            if matches!(answer, Ok(SettleResult::Recorded(JobState::Succeeded))) {
                counted += u64::from(self.truth.recorded(&item.settlement.lease.id));
            }
        }
        assert_eq!(counted, fresh, "what is recorded and what is answered differ");
    }

    fn grant(&mut self, at: usize) {
        let now = self.now;
        let mut queues: Vec<QueueName> = Vec::new();
        for stream in self.routers[at].streams.values() {
            queues.extend(
                stream
                    .queues
                    .iter()
                    .filter(|queue| stream.room(queue) > 0)
                    .cloned(),
            );
        }
        queues.sort_unstable();
        queues.dedup();
        for queue in queues {
            if self.routers[at].watch.may_grant(now, true, 10_000) {
                self.grant_of(at, queue);
            }
        }
    }

    fn grant_of(&mut self, at: usize, queue: QueueName) {
        let router = &self.routers[at];
        let wants: Vec<Want> = router
            .streams
            .values()
            .filter(|stream| stream.room(&queue) > 0)
            .map(|stream| Want {
                session: stream.session,
                incarnation: stream.incarnation,
                max: stream.room(&queue),
            })
            .collect();
        let request = LeaseRequest {
            queue: queue.clone(),
            wants,
        };
        let mut answers = self.ask(self.store.lease(vec![request]));
        let grants = answers.remove(0).expect("it answers");
        self.check_store();
        let conns: Vec<ConnId> = self.routers[at].streams.keys().copied().collect();
        for conn in conns {
            let Some(stream) = self.routers[at].streams.get_mut(&conn) else {
                continue;
            };
            let mine = grants
                .grants
                .iter()
                .filter(|grant| grant.session == stream.session);
            let wire: Vec<v1::Grant> = mine
                .map(|grant| v1::Grant {
                    job_id: grant.job.id.to_string(),
                    queue: queue.to_string(),
                    fence: grant.job.fence,
                    attempt: 1,
                    max_attempts: 3,
                    lease_ttl_ms: grants.policy.lease_ttl_ms,
                    timeout_ms: grants.policy.timeout_ms,
                    ..Default::default()
                })
                .collect();
            if wire.is_empty() {
                continue;
            }
            stream.seq += 1;
            stream
                .granted
                .push((stream.seq, queue.clone(), wire.len() as u32));
            let message = v1::Grants {
                seq: stream.seq,
                counter: stream.counter,
                store_clock_ms: grants.clock_ms,
                grants: wire,
            };
            self.answer(conn, lease_response::Message::Grants(message));
        }
    }

    fn stream_ended(&mut self, at: usize, conn: ConnId) {
        let Some(stream) = self.routers[at].streams.remove(&conn) else {
            return;
        };
        let gone = Gone {
            session: stream.session,
            queues: stream.queues,
        };
        self.after(GRACE_MS, Node::Router(at), Due::Release(gone));
    }

    pub fn release(&mut self, _: usize, gone: Gone) {
        let releases = gone.queues.into_iter().map(|queue| SessionRelease {
            queue,
            session: gone.session,
            cause: ReleaseCause::Broken,
            seed: 7,
        });
        let releases: Vec<SessionRelease> = releases.collect();
        for answer in self.ask(self.store.release_session(releases)) {
            answer.expect("it answers");
        }
        self.check_store();
    }

    fn router_obeys(&mut self, at: usize, conn: ConnId, order: Down) {
        let now = self.now;
        match self.routers[at].attach.heard(now, order) {
            Heard::Nothing => {}
            Heard::Leave(refusal) => {
                if let Some(refusal) = refusal {
                    self.send(conn, 0, Message::Attach(Up::Refusal(refusal)));
                }
                self.router_detaches(at);
            }
            Heard::Obey(order @ (Down::Caps(_) | Down::Policies(_))) => {
                self.routers[at].orders.push_back((Some(conn), order));
                if self.routers[at].orders.len() == 1 {
                    self.carry_out_soon(at);
                }
            }
            Heard::Obey(_) => {}
        }
    }

    fn carry_out_soon(&mut self, at: usize) {
        let slow = self.now < self.routers[at].slow_until;
        let ms = if slow {
            self.rng.u64(500..4_000)
        } else {
            self.rng.u64(1..20)
        };
        self.after(ms, Node::Router(at), Due::CarryOut);
    }

    /// The oldest order; whoever gave it may be gone by now.
    pub fn carry_out(&mut self, at: usize) {
        let Some((conn, order)) = self.routers[at].orders.pop_front() else {
            return;
        };
        if !self.routers[at].orders.is_empty() {
            self.carry_out_soon(at);
        }
        let answer = match order {
            Down::Caps(caps) => Some(Up::CapAnswers(self.set_caps(at, caps))),
            Down::Policies(policies) => {
                let version = policies.version;
                let record = |wire| {
                    let (queue, policy) = convert::policy(wire).expect("a valid policy");
                    QueueRecord {
                        queue,
                        policy,
                        version: convert::version(version),
                    }
                };
                let records: Vec<QueueRecord> = policies.policies.into_iter().map(record).collect();
                self.ask(self.store.put_queue(records));
                Some(Up::Applied(v1::Applied { version }))
            }
            _ => None,
        };
        if let (Some(conn), Some(answer)) = (conn, answer) {
            self.send(conn, 0, Message::Attach(answer));
        }
    }

    fn set_caps(&mut self, at: usize, caps: v1::Caps) -> v1::CapAnswers {
        let version = convert::version(caps.version);
        let orders: Vec<CapOrder> = caps
            .orders
            .into_iter()
            .map(|order| CapOrder {
                queue: order.queue.parse().expect("a name"),
                cap: order.cap.map(|cap| convert::cap_record(cap).cap),
                version,
                ttl_ms: caps.ttl_ms,
            })
            .collect();
        // The same order twice is what a retry of the store's client may do.
        let times = if self.rng.u8(0..10) == 0 { 2 } else { 1 };
        let mut answers = Vec::new();
        for _ in 0..times {
            answers = self.ask(self.store.set_caps(orders.clone()));
        }
        self.check_store();
        let mut items = Vec::new();
        for (order, answer) in orders.into_iter().zip(answers) {
            let answer = answer.expect("it answers");
            self.routers[at].refused += u64::from(!answer.applied);
            self.truth.capped(&answer, &order.queue);
            items.push(v1::cap_answers::Item {
                queue: order.queue.to_string(),
                applied: answer.applied,
                cap: answer.record.map(v1::Cap::from),
                slots: answer.slots,
                error: None,
            });
        }
        v1::CapAnswers {
            request_id: caps.request_id,
            items,
        }
    }
}
