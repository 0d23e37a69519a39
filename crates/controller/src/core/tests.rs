use std::collections::BTreeMap;

use tidegate_flow::governor::Reason;
use tidegate_protocol::domain::{Cap, CapRecord, Policy, Probe, ResourceCost, Strategy};

use super::{
    model::{CapAnswer, Counts, Decision, Hello, Order, QueueReport, Report, Role, Said, StoreFacts},
    *,
};

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
    targets: BTreeMap<StreamId, BTreeMap<String, u32>>,
    decisions: Vec<Decision>,
    sent: Vec<(StreamId, Order)>,
    closed: Vec<StreamId>,
}

fn name(text: &str) -> QueueName {
    text.parse().unwrap()
}

fn v(epoch: u64, generation: u64) -> Version {
    Version { epoch, generation }
}

impl World {
    fn new() -> Self {
        let settings = Settings {
            tick_ms: TICK,
            name: "c".into(),
            ledger_id: Uuid::new_v4(),
            alone: false,
        };
        Self {
            core: Core::new(settings, Now::default()),
            now: Now::default(),
            caps: BTreeMap::new(),
            expires_ms: 0,
            is_mute: false,
            targets: BTreeMap::new(),
            decisions: Vec::new(),
            sent: Vec::new(),
            closed: Vec::new(),
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

    fn apply(&mut self, queue: &str, policy: Policy) -> Result<(Policy, u64), TuningError> {
        self.core
            .apply_policy(name(queue), policy, &Change::default(), self.now)
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
        assert!(held <= 35, "{held} of 35: {:?}", self.caps);
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

#[test]
fn a_router_is_welcomed_becomes_the_writer_and_gets_policies_once_the_store_has_answered() {
    let mut world = World::with(&[("a", Strategy::Adaptive)]);
    world.attach(1, Role::Router, &[], 0);
    let sent: Vec<&Order> = world.sent.iter().map(|(_, order)| order).collect();
    assert!(matches!(sent[0], Order::Welcome { .. }), "{sent:?}");
    assert_eq!(sent[1], &Order::CapWriter(true));
    assert!(matches!(sent[2], Order::Caps { orders, .. } if orders == &[(name("a"), None)]));
    assert!(matches!(sent[3], Order::Policies { policies, .. } if policies.len() == 1));
    world.sent.clear();
    world.attach(2, Role::Router, &[], 0);
    assert!(matches!(&world.sent[1].1, Order::Policies { policies, .. } if policies.len() == 1));
}

#[test]
fn a_cap_is_adopted_before_it_is_changed() {
    let mut world = World::with(&[("a", Strategy::Adaptive), ("b", Strategy::Fixed)]);
    world.caps.insert(name("a"), (v(0, 0), Some(20), 20));
    world.caps.insert(name("b"), (v(0, 0), Some(15), 15));
    world.attach(1, Role::Router, &[], 0);
    world.attach(2, Role::Worker, &["a", "b"], 100);
    assert_eq!((world.cap("a"), world.cap("b")), (20, 15), "stamped and kept");
    world.busy_tick(&["a", "b"]);
    // Started from what was in force, and lowered for the other one.
    assert_eq!(world.last_of("a").previous_cap, 20);
    assert!(world.cap("a") <= 18 && world.cap("b") == 15, "{:?}", world.caps);
    assert_eq!(
        world.core.queues[&name("b")].newest.as_ref().unwrap().reason,
        Reason::Draining
    );
    // The slots are free: the raise is paid.
    world.caps.get_mut(&name("a")).unwrap().2 = 0;
    world.tick_with(vec![facts("a", 500, 18, 9_000), facts("b", 500, 15, 9_000)]);
    assert_eq!(world.cap("a") + world.cap("b"), 35);
}

#[test]
fn two_queues_never_hold_more_than_the_budget() {
    let mut world = World::with(&[("a", Strategy::Fixed), ("b", Strategy::Fixed)]);
    world.attach(1, Role::Router, &[], 0);
    world.attach(2, Role::Worker, &["a", "b"], 100);
    for _ in 0..5 {
        world.busy_tick(&["a", "b"]);
        assert!(world.cap("a") + world.cap("b") <= 35);
    }
    assert_eq!((world.cap("a"), world.cap("b")), (18, 17));
    assert_eq!(world.last_of("a").reason, Reason::HardCap);
    assert!(
        world.last_of("a").text.contains("(pg)"),
        "{}",
        world.last_of("a").text
    );
}

#[test]
fn without_an_answer_nothing_is_raised_and_another_router_takes_over() {
    let mut world = World::with(&[("a", Strategy::Fixed), ("b", Strategy::Fixed)]);
    world.attach(1, Role::Router, &[], 0);
    world.attach(2, Role::Worker, &["a", "b"], 100);
    world.busy_tick(&["a", "b"]);
    world.attach(3, Role::Router, &[], 0);
    world.is_mute = true;
    let pinned = world.core.pin(&name("a"), 1, 0, world.now);
    pinned.unwrap();
    world.busy_tick(&["a", "b"]);
    assert_eq!(world.core.caps.current("a"), Some(1), "lowered");
    assert_eq!(world.core.caps.current("b"), Some(17), "and not yet paid");
    for _ in 0..4 {
        world.busy_tick(&["a", "b"]);
    }
    assert_eq!(world.core.cap_writer(), Some(3));
    world.is_mute = false;
    // Adopted, lowered, run out.
    for _ in 0..3 {
        world.busy_tick(&["a", "b"]);
    }
    assert_eq!((world.cap("a"), world.cap("b")), (1, 34));
}

#[test]
fn the_writer_leaves_and_the_next_one_adopts() {
    let mut world = World::with(&[("a", Strategy::Fixed)]);
    world.attach(1, Role::Router, &[], 0);
    world.attach(3, Role::Router, &[], 0);
    world.sent.clear();
    world.core.leave(1, world.now);
    world.pump();
    assert_eq!(world.core.cap_writer(), Some(3));
    assert_eq!(world.sent[0], (3, Order::CapWriter(true)));
    assert!(matches!(&world.sent[1].1, Order::Caps { orders, .. } if orders[0].1.is_none()));
}

#[test]
fn targets_divide_the_cap_and_fit_the_slots() {
    let mut world = World::with(&[("a", Strategy::Fixed)]);
    world.attach(1, Role::Router, &[], 0);
    world.attach(2, Role::Worker, &["a"], 30);
    world.attach(3, Role::Worker, &["a"], 10);
    world.busy_tick(&["a"]);
    let sum: u32 = world.targets.values().map(|targets| targets["a"]).sum();
    assert_eq!((sum, world.cap("a")), (35, 35));
    assert_eq!((world.targets[&2]["a"], world.targets[&3]["a"]), (26, 9));
    // A small fleet: the cap follows, the wish stays.
    world.core.leave(2, world.now);
    world.caps.get_mut(&name("a")).unwrap().2 = 10;
    world.tick_with(vec![facts("a", 500, 10, 99_000)]);
    assert_eq!((world.cap("a"), world.targets[&3]["a"]), (10, 10));
    let newest = world.last_of("a");
    assert_eq!((newest.wanted, newest.reason), (35, Reason::NoWorkers));
}

#[test]
fn a_silent_node_ages_out_and_comes_back() {
    let mut world = World::with(&[("a", Strategy::Fixed)]);
    world.attach(1, Role::Router, &[], 0);
    world.attach(2, Role::Worker, &["a"], 40);
    world.now.mono_ms += 3_500;
    world.report(1, vec![facts("a", 10, 0, 1)]);
    world.core.tick(world.now);
    world.pump();
    assert!(world.core.nodes[&2].is_silent);
    assert_eq!(world.cap("a"), 1, "nobody serves it: its floor");
    world.report(2, Vec::new());
    world.core.tick(world.now);
    world.pump();
    assert_eq!((world.cap("a"), world.targets[&2]["a"]), (35, 35));
}

/// A router whose store has a cap of another leadership, and the store's time.
fn under_another(world: &mut World, expires_ms: u64, clock_ms: u64) {
    world.caps.insert(name("a"), (v(7, 3), Some(12), 12));
    world.expires_ms = expires_ms;
    let mut router = hello(1, Role::Router, &[], 0);
    (router.applied, router.ledger_id) = (v(7, 3), "another".into());
    router.state.queues = vec![facts("a", 10, 12, clock_ms)];
    world.hello(1, router);
    world.attach(2, Role::Worker, &["a"], 40);
}

#[test]
fn a_leadership_whose_caps_are_in_force_is_left_alone() {
    let mut world = World::with(&[("a", Strategy::Fixed)]);
    under_another(&mut world, 30_000, 20_000);
    for _ in 0..3 {
        world.tick_with(vec![facts("a", 10, 12, 21_000)]);
    }
    assert_eq!(world.caps[&name("a")], (v(7, 3), Some(12), 12));
    let why = world.core.readiness().unwrap_err();
    assert!(
        why.starts_with("another controller leads: its caps of epoch 7"),
        "{why}"
    );
    let silent =
        |(_, order): &(StreamId, Order)| !matches!(order, Order::Policies { .. } | Order::Targets { .. });
    assert!(world.sent.iter().all(silent), "{:?}", world.sent);
    assert_eq!(world.core.view(world.now).refusals, 1, "told once");
    // It is gone: its cap has run out.
    world.tick_with(vec![facts("a", 10, 12, 31_000)]);
    assert_eq!((world.core.version.epoch, world.core.readiness()), (8, Ok(())));
    assert_eq!(world.caps[&name("a")].0.epoch, 8);
}

#[test]
fn after_another_leadership_everything_is_sent_anew_and_nothing_raised_for_two_ticks() {
    let mut world = World::with(&[("a", Strategy::Fixed)]);
    under_another(&mut world, 30_000, 30_001);
    assert_eq!(world.core.version.epoch, 8);
    let pushed = |(_, order): &(StreamId, Order)| matches!(order, Order::Policies { version, .. } if version.epoch == 8);
    assert!(world.sent.iter().any(pushed));
    world.tick_with(vec![facts("a", 10, 12, 32_000)]);
    assert_eq!(world.cap("a"), 12);
    let newest = world.core.queues[&name("a")].newest.clone();
    assert_eq!(newest.map(|newest| newest.reason), Some(Reason::Learning));
    world.busy_tick(&["a"]);
    world.busy_tick(&["a"]);
    assert_eq!(world.cap("a"), 35);
}

#[test]
fn an_epoch_that_only_nodes_know_is_outranked_too() {
    let mut world = World::with(&[("a", Strategy::Fixed)]);
    let mut router = hello(1, Role::Router, &[], 0);
    (router.applied, router.ledger_id) = (v(4, 1), "another".into());
    world.hello(1, router);
    assert_eq!((world.core.version.epoch, world.core.is_leader), (5, true));
}

#[test]
fn caps_of_a_newer_epoch_in_the_store_are_outranked() {
    let mut world = World::with(&[("a", Strategy::Fixed)]);
    world.caps.insert(name("a"), (v(5, 9), Some(12), 12));
    world.attach(1, Role::Router, &[], 0);
    world.attach(2, Role::Worker, &["a"], 40);
    assert_eq!(world.core.version.epoch, 6);
    assert_eq!(world.cap("a"), 12);
    assert_eq!(world.caps[&name("a")].0.epoch, 6);
}

#[test]
fn a_refusal_makes_it_not_ready_until_the_store_answers() {
    let mut world = World::with(&[("a", Strategy::Fixed)]);
    world.is_mute = true;
    world.attach(1, Role::Router, &[], 0);
    let refusal = Said::Refusal {
        obeyed: v(9, 1),
        ledger_id: "other".into(),
        reason: "its stream is open".into(),
    };
    world.core.said(1, refusal, world.now);
    world.pump();
    assert_eq!(world.closed, [1]);
    let why = world.core.readiness().unwrap_err();
    assert!(
        why.starts_with("another controller leads: n1 obeys ledger other"),
        "{why}"
    );
    assert_eq!(world.core.view(world.now).refusals, 1);
    world.is_mute = false;
    world.attach(2, Role::Router, &[], 0);
    assert_eq!((world.core.readiness(), world.core.version.epoch), (Ok(()), 10));
}

#[test]
fn pin_and_freeze_overrule_the_demand_and_not_the_budget() {
    let mut world = World::with(&[("a", Strategy::Fixed), ("b", Strategy::Fixed)]);
    world.attach(1, Role::Router, &[], 0);
    world.attach(2, Role::Worker, &["a", "b"], 100);
    world.busy_tick(&["a", "b"]);
    world.core.pin(&name("a"), 5, 12_000, world.now).unwrap();
    world.busy_tick(&["a", "b"]);
    world.caps.get_mut(&name("a")).unwrap().2 = 5;
    world.busy_tick(&["a", "b"]);
    assert_eq!((world.cap("a"), world.cap("b")), (5, 30));
    assert_eq!(world.last_of("a").reason, Reason::Manual);
    world.core.freeze(&Subject::Everything, true, world.now).unwrap();
    // The pin ends; nothing moves.
    world.busy_tick(&["a", "b"]);
    world.busy_tick(&["a", "b"]);
    assert_eq!((world.cap("a"), world.cap("b")), (5, 30));
    world.core.freeze(&Subject::Everything, false, world.now).unwrap();
    for _ in 0..3 {
        world.caps.get_mut(&name("b")).unwrap().2 = 0;
        world.busy_tick(&["a"]);
    }
    assert_eq!((world.cap("a"), world.cap("b")), (18, 17));
    assert!(world.core.pin(&name("a"), 5_000, 0, world.now).is_err());
    assert!(world.core.pin(&name("nope"), 5, 0, world.now).is_err());
}

#[test]
fn a_deleted_queue_runs_out_and_then_leaves_the_budget() {
    let mut world = World::with(&[("a", Strategy::Fixed), ("b", Strategy::Fixed)]);
    world.attach(1, Role::Router, &[], 0);
    world.attach(2, Role::Worker, &["a", "b"], 100);
    world.busy_tick(&["a", "b"]);
    world.busy_tick(&["a", "b"]);
    world
        .core
        .delete_policy(&name("a"), &Change::default(), world.now)
        .unwrap();
    assert_eq!(world.core.policy(&name("a")), None);
    world.busy_tick(&["b"]);
    assert_eq!((world.cap("a"), world.cap("b")), (0, 17), "its jobs still run");
    world.caps.get_mut(&name("a")).unwrap().2 = 0;
    world.busy_tick(&["b"]);
    world.busy_tick(&["b"]);
    assert_eq!(world.cap("b"), 35);
    let removed = |(_, order): &(StreamId, Order)| matches!(order, Order::Policies { removed, .. } if removed == &[name("a")]);
    assert!(world.sent.iter().any(removed));
}

#[test]
fn floors_must_fit_the_budget() {
    let mut world = World::with(&[("a", Strategy::Fixed)]);
    let greedy = Policy {
        min: 35,
        ..costing(Strategy::Fixed)
    };
    let error = world.apply("b", greedy).unwrap_err();
    assert!(
        matches!(&error, TuningError::Invalid(all) if all[0].reason == "BUDGET_EXCEEDED"),
        "{error}"
    );
    let lost = Policy {
        costs: vec![ResourceCost {
            resource: "nowhere".into(),
            units: 1,
        }],
        ..Policy::default()
    };
    assert!(
        world
            .apply("b", lost)
            .unwrap_err()
            .to_string()
            .contains("apply it first")
    );
    let small = Resource {
        name: "pg".into(),
        capacity: 1,
        headroom: 0.7,
        probe: Probe::Static,
    };
    assert!(
        world
            .core
            .apply_resource(small, &Change::default(), world.now)
            .is_err()
    );
    let stale = Change {
        expected: Some(7),
        ..Change::default()
    };
    assert_eq!(
        world.core.delete_policy(&name("a"), &stale, world.now),
        Err(TuningError::Stale {
            stored: 1,
            expected: 7
        })
    );
    assert!(matches!(
        world.core.delete_resource("pg", &Change::default()),
        Err(TuningError::InUse { .. })
    ));
}

#[test]
fn a_queue_without_a_policy_has_the_defaults_and_a_cap() {
    let mut world = World::new();
    world.attach(1, Role::Router, &[], 0);
    world.attach(2, Role::Worker, &["free"], 64);
    world.busy_tick(&["free"]);
    assert_eq!(world.cap("free"), 16, "a quarter of the slots is kept ready");
    let explained = world.core.explain(&name("free")).unwrap().0;
    assert!(explained.contains("free: 500 ready"), "{explained}");
    assert_eq!(world.core.explain(&name("unknown")), None);
    for _ in 0..3 {
        world.busy_tick(&["free"]);
    }
    assert!(world.cap("free") > 20, "{:?}", world.caps);
}

#[test]
fn a_queue_that_costs_nothing_has_its_cap_before_a_worker_comes() {
    let mut world = World::new();
    let fixed = Policy {
        max: 5,
        strategy: Strategy::Fixed,
        ..Policy::default()
    };
    world.apply("free", fixed).unwrap();
    world.attach(1, Role::Router, &[], 0);
    world.tick_with(vec![facts("free", 10, 0, 1)]);
    assert_eq!(
        (world.cap("free"), world.last_of("free").reason),
        (5, Reason::NoWorkers)
    );
}

#[test]
fn overload_at_workers_cuts() {
    let mut world = World::with(&[("a", Strategy::Adaptive)]);
    world.attach(1, Role::Router, &[], 0);
    world.attach(2, Role::Worker, &["a"], 64);
    for _ in 0..4 {
        world.busy_tick(&["a"]);
    }
    let before = world.cap("a");
    let mut failing = facts("a", 500, u64::from(before), 99_000);
    failing.counts = Counts {
        run_time: Histogram::from_parts(&[0, 50], 50.0, 50.0),
        overload: 20,
        ..Counts::default()
    };
    world.tick_with(vec![failing]);
    let cut = world.last_of("a");
    assert_eq!(cut.reason, Reason::ErrorCut);
    assert!(cut.cap < before && cut.inputs.contains(&("overload", 20.0)));
}

#[test]
fn history_pages_newest_first() {
    let mut world = World::with(&[("a", Strategy::Adaptive)]);
    world.attach(1, Role::Router, &[], 0);
    world.attach(2, Role::Worker, &["a"], 64);
    for _ in 0..4 {
        world.busy_tick(&["a"]);
    }
    let all = world.core.history(None, 0, None, 100);
    assert!(all.decisions.len() >= 3 && all.before.is_none());
    let first = world.core.history(None, 0, None, 2);
    let rest = world.core.history(None, 0, first.before, 100);
    let joined: Vec<Decision> = first.decisions.into_iter().chain(rest.decisions).collect();
    assert_eq!(joined, all.decisions);
}

#[test]
fn a_second_stream_of_a_node_replaces_the_first_and_another_store_is_refused() {
    let mut world = World::new();
    world.attach(1, Role::Router, &[], 0);
    let mut again = hello(2, Role::Router, &[], 0);
    again.node = "node-1".into();
    world.hello(2, again);
    assert_eq!(
        (world.closed.as_slice(), world.core.cap_writer()),
        ([1].as_slice(), Some(2))
    );
    let mut other = hello(3, Role::Router, &[], 0);
    other.store_incarnation = "another".into();
    world.hello(3, other);
    assert_eq!(world.closed, [1, 3]);
    assert!(
        matches!(&world.sent.last().unwrap().1, Order::Refused { reason, .. } if reason.contains("another"))
    );
}
