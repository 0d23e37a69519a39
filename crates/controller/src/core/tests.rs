//! The core by its events and effects, in front of a store and routers that do as they are told.

mod caps;
mod fleet;
mod gates;
mod leadership;
mod operators;
mod probes;
mod signals;

use std::collections::BTreeMap;

use tidegate_flow::governor::Reason;
use tidegate_protocol::domain::{Cap, CapRecord, Policy, Probe, ResourceCost, Strategy};

use super::{
    model::{CapAnswer, Counts, Decision, Hello, Order, QueueReport, Report, Role, Said, StoreFacts},
    *,
};
use crate::ledger::{Record, Row};

mod reports;

const TICK: u64 = 5_000;

/// A store behind routers that do as they are told, and the controller under test.
struct World {
    core: Core,
    now: Now,
    caps: BTreeMap<QueueName, (Version, Option<u32>, u64)>,
    /// Of every cap in it, by its clock; 0: never.
    expires_ms: u64,
    /// Routers do not answer.
    is_mute: bool,
    /// More is held than there is, because an operator took some away.
    is_over: bool,
    targets: BTreeMap<StreamId, BTreeMap<String, u32>>,
    decisions: Vec<Decision>,
    sent: Vec<(StreamId, Order)>,
    closed: Vec<StreamId>,
    kept: Vec<Record>,
}

fn name(text: &str) -> QueueName {
    text.parse().unwrap()
}

fn lead() -> Lead {
    Lead {
        ledger_id: "ours".into(),
        epoch: 1,
        ..Lead::default()
    }
}

fn v(epoch: u64, generation: u64) -> Version {
    Version { epoch, generation }
}

impl World {
    fn new() -> Self {
        let settings = Settings {
            tick_ms: TICK,
            name: "c".into(),
            alone: false,
        };
        let mut core = Core::new(settings, Now::default());
        core.lead(lead(), Now::default());
        Self {
            core,
            now: Now::default(),
            caps: BTreeMap::new(),
            expires_ms: 0,
            is_mute: false,
            is_over: false,
            targets: BTreeMap::new(),
            decisions: Vec::new(),
            sent: Vec::new(),
            closed: Vec::new(),
            kept: Vec::new(),
        }
    }

    /// A static resource of 50, of which 35 are for jobs, and queues that cost one unit each.
    fn with(queues: &[(&str, Strategy)]) -> Self {
        let mut world = Self::new();
        let resource = Resource {
            name: "pg".into(),
            capacity: 50,
            headroom: 0.7,
            probe: Probe::Static,
        };
        world
            .core
            .apply_resource(resource, &Change::default(), world.now)
            .unwrap();
        for (queue, strategy) in queues {
            world.apply(queue, costing(*strategy)).unwrap();
        }
        world
    }

    fn apply(&mut self, queue: &str, policy: Policy) -> Result<(), TuningError> {
        self.core
            .apply_policy(name(queue), policy, &Change::default(), self.now)
    }

    /// What a plan gives, as the ledger would have it.
    fn edit(&mut self, plan: impl FnOnce(&Core, Now) -> Result<Row, TuningError>) -> Result<(), TuningError> {
        let row = plan(&self.core, self.now)?;
        self.core.commit(row, self.now);
        Ok(())
    }

    fn pin(&mut self, queue: &str, value: u32, ttl_ms: u64) -> Result<(), TuningError> {
        self.edit(|core, now| core.plan_pin(&name(queue), value, ttl_ms, now))
    }

    fn freeze(&mut self, frozen: bool) {
        let frozen = self.edit(|core, now| core.plan_freeze(&Subject::Everything, frozen, now));
        frozen.unwrap();
    }

    fn attach(&mut self, stream: StreamId, role: Role, queues: &[&str], slots: u32) {
        self.hello(stream, hello(stream, role, queues, slots));
    }

    fn hello(&mut self, stream: StreamId, hello: Hello) {
        self.core.join(stream, hello, self.now);
        self.pump();
    }

    /// The routers' part, until nothing is left to do.
    fn pump(&mut self) {
        loop {
            let effects = self.core.take_effects();
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                match effect {
                    Effect::Decided(decision) => self.decisions.push(decision),
                    Effect::Close(stream) => self.closed.push(stream),
                    Effect::Keep(record) => self.kept.push(record),
                    Effect::RaiseEpoch(epoch) => self.core.raised(epoch, self.now),
                    Effect::Send(stream, order) => {
                        self.sent.push((stream, order.clone()));
                        self.obey(stream, order);
                    }
                }
            }
        }
    }

    fn obey(&mut self, stream: StreamId, order: Order) {
        match order {
            Order::Caps {
                version,
                request_id,
                orders,
                ..
            } if !self.is_mute => {
                let items = orders
                    .into_iter()
                    .map(|(queue, cap)| self.set_cap(queue, cap, version))
                    .collect();
                self.core
                    .said(stream, Said::CapAnswers { request_id, items }, self.now);
                self.check_budget();
            }
            Order::Targets { targets, .. } => {
                let targets = targets
                    .into_iter()
                    .map(|(queue, target, _)| (queue.to_string(), target));
                self.targets.insert(stream, targets.collect());
            }
            _ => {}
        }
    }

    fn set_cap(&mut self, queue: QueueName, cap: Option<Cap>, version: Version) -> CapAnswer {
        let stored = self.caps.entry(queue.clone()).or_default();
        let applied = version >= stored.0;
        if applied {
            *stored = (version, cap.map(|cap| cap.cap).or(stored.1), stored.2);
        }
        let record = stored.1.map(|cap| CapRecord {
            cap: Cap {
                cap,
                retry_cap: cap,
                safe: cap,
            },
            expires_ms: self.expires_ms,
            version: stored.0,
        });
        CapAnswer {
            queue,
            applied,
            record,
            slots: stored.2,
            error: None,
        }
    }

    fn check_budget(&self) {
        let held: u64 = self
            .caps
            .iter()
            .filter(|(name, _)| !self.core.queues[*name].costs().is_empty())
            .map(|(_, (_, cap, slots))| u64::from(cap.unwrap_or(0)).max(*slots))
            .sum();
        assert!(held <= 35 || self.is_over, "{held} of 35: {:?}", self.caps);
    }

    fn report(&mut self, stream: StreamId, queues: Vec<QueueReport>) {
        let report = Report {
            queues,
            ..Report::default()
        };
        self.core.said(stream, Said::Report(report), self.now);
        self.pump();
    }

    /// A tick in which every queue has a backlog and uses its whole cap.
    fn busy_tick(&mut self, queues: &[&str]) {
        let mut reports = Vec::new();
        for queue in queues {
            let stored = self.caps.entry(name(queue)).or_default();
            stored.2 = u64::from(stored.1.unwrap_or(0));
            reports.push(facts(queue, 500, stored.2, self.now.mono_ms));
        }
        self.tick_with(reports);
    }

    fn tick_with(&mut self, reports: Vec<QueueReport>) {
        self.now.mono_ms += TICK - 1_000;
        let nodes: Vec<StreamId> = self.core.nodes.keys().copied().collect();
        for node in nodes {
            self.report(node, Vec::new());
        }
        self.report(1, reports);
        self.now.mono_ms += 1_000;
        self.now.wall_ms += TICK;
        self.core.tick(self.now);
        self.pump();
    }

    fn cap(&self, queue: &str) -> u32 {
        self.caps[&name(queue)].1.unwrap_or(0)
    }

    fn last_of(&self, queue: &str) -> &Decision {
        let mut newest = self.decisions.iter().rev();
        newest.find(|decision| decision.queue.as_str() == queue).unwrap()
    }
}

fn costing(strategy: Strategy) -> Policy {
    Policy {
        costs: vec![ResourceCost {
            resource: "pg".into(),
            units: 1,
        }],
        strategy,
        ..Policy::default()
    }
}

fn hello(stream: StreamId, role: Role, queues: &[&str], slots: u32) -> Hello {
    Hello {
        role,
        node: format!("node-{stream}"),
        name: format!("n{stream}"),
        version: "1".into(),
        applied: Version::default(),
        ledger_id: String::new(),
        store_incarnation: "store".into(),
        queues: queues.iter().map(|queue| name(queue)).collect(),
        slots,
        state: Report::default(),
    }
}

fn facts(queue: &str, ready: u64, slots: u64, clock_ms: u64) -> QueueReport {
    QueueReport {
        queue: name(queue),
        counts: Counts::default(),
        mean_in_flight: 0.0,
        is_down: false,
        store: Some(StoreFacts {
            ready,
            running: slots,
            slots,
            oldest_ready_age_ms: 0,
            clock_ms,
        }),
    }
}
