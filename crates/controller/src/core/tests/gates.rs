//! Gates: whom routers are told to refuse.

use super::*;
use crate::core::model::GateOrder;

const DEADLINE_MS: u64 = 10_000;

impl World {
    /// A tick of five seconds in which so many jobs came, waited and were done, each a second long.
    fn flow(&mut self, queue: &str, arrived: u64, ready: u64, done: u64) {
        let running = u64::from(self.cap(queue));
        let mut report = facts(queue, ready, running, self.now.mono_ms);
        report.counts.submitted = arrived / 2;
        report.counts.gated = arrived - arrived / 2;
        (0..done).for_each(|_| report.counts.run_time.add(1_000.0));
        self.tick_with(vec![report]);
    }

    fn gates(&self, router: StreamId) -> (Vec<GateOrder>, u32) {
        let of_router = |(to, order): &(StreamId, Order)| match order {
            Order::Gates {
                gates,
                routers,
                ttl_ms,
                ..
            } if *to == router => {
                assert_eq!(*ttl_ms, 3 * TICK);
                Some((gates.clone(), *routers))
            }
            _ => None,
        };
        self.sent
            .iter()
            .rev()
            .find_map(of_router)
            .expect("gates were sent")
    }
}

fn waiting(tier: u32, when_down: tidegate_protocol::domain::WhenDown) -> Policy {
    Policy {
        max_wait_ms: DEADLINE_MS,
        max: 10,
        tier,
        when_down,
        ..Policy::default()
    }
}

fn world(policy: Policy) -> World {
    let mut world = World::new();
    world.apply("a", policy).unwrap();
    world.attach(1, Role::Router, &[], 0);
    world.attach(2, Role::Router, &[], 0);
    world
}

#[test]
fn a_wait_above_the_deadline_is_refused_at_every_router_and_only_while_it_lasts() {
    let mut world = world(waiting(0, Default::default()));
    world.attach(3, Role::Worker, &["a"], 10);
    for _ in 0..6 {
        world.flow("a", 50, 0, 50);
    }
    assert_eq!(world.gates(1), (vec![], 2), "nothing waits");
    world.flow("a", 200, 300, 50);
    for router in [1, 2] {
        let (gates, _) = world.gates(router);
        assert_eq!(gates[0].queue, name("a"));
        assert_eq!(gates[0].reason, "WAIT_TOO_LONG");
        assert!(
            gates[0].refuse > 0.99,
            "ten a second are done: thirty seconds wait, {gates:?}"
        );
        let seconds = gates[0].retry_after_ms / 1_000;
        assert!((15..=30).contains(&seconds), "until half the deadline: {gates:?}");
    }
    for _ in 0..4 {
        world.flow("a", 50, 0, 50);
    }
    assert_eq!(world.gates(1), (vec![], 2));
}

#[test]
fn nobody_is_shut_out_before_a_worker_has_shown_what_it_does() {
    let mut world = world(waiting(0, Default::default()));
    world.flow("a", 5_000, 5_000, 0);
    assert_eq!(world.gates(1).0, vec![], "no worker yet");
    world.attach(3, Role::Worker, &["a"], 10);
    world.flow("a", 5_000, 9_000, 4);
    assert_eq!(world.gates(1).0, vec![], "a few completions say nothing");
    for _ in 0..3 {
        world.flow("a", 5_000, 9_000, 50);
    }
    assert_eq!(world.gates(1).0[0].refuse, 1.0);
}

#[test]
fn a_queue_without_a_deadline_is_never_refused() {
    let mut world = world(Policy::default());
    world.attach(3, Role::Worker, &["a"], 10);
    for _ in 0..5 {
        world.flow("a", 5_000, 90_000, 50);
    }
    assert_eq!(world.gates(1).0, vec![]);
}

#[test]
fn jobs_that_the_gate_refused_are_demand_and_those_over_a_rate_are_not() {
    let wanted = |gated: u64, submit_rate: u32| {
        let policy = Policy {
            max: 100,
            submit_rate,
            ..waiting(0, Default::default())
        };
        let mut world = world(policy);
        world.attach(3, Role::Worker, &["a"], 100);
        for _ in 0..8 {
            // Ten jobs a second, a second long; one of ten is taken.
            let mut report = facts("a", 0, 1, world.now.mono_ms);
            (report.counts.submitted, report.counts.refused) = (5, 45);
            report.counts.gated = gated;
            (0..5).for_each(|_| report.counts.run_time.add(1_000.0));
            world.tick_with(vec![report]);
        }
        let numbers = &world.last_of("a").inputs;
        let arrivals = numbers.iter().find(|(number, _)| *number == "arrivals_per_s");
        arrivals.expect("it is always told").1
    };
    assert!((9.0..11.0).contains(&wanted(45, 0)), "{}", wanted(45, 0));
    assert!(wanted(0, 0) < 2.0, "{}", wanted(0, 0));
    // The gate is asked first: what it refused may have been over the rate as well.
    assert!((3.5..4.5).contains(&wanted(45, 4)), "{}", wanted(45, 4));
}

#[test]
fn a_downstream_that_is_gone_closes_the_gate_only_where_the_policy_says_so() {
    use tidegate_protocol::domain::WhenDown;
    for (when_down, refused) in [(WhenDown::Accept, false), (WhenDown::Refuse, true)] {
        let mut world = world(waiting(0, when_down));
        world.attach(3, Role::Worker, &["a"], 10);
        world.flow("a", 50, 0, 50);
        let gone = |world: &mut World, ready| {
            let mut report = facts("a", ready, 1, world.now.mono_ms);
            report.counts.down = 20;
            report.is_down = true;
            world.tick_with(vec![report]);
            world.gates(1).0
        };
        let gates = gone(&mut world, 40);
        let closed = gates
            .iter()
            .any(|gate| gate.reason == "DOWNSTREAM_DOWN" && gate.refuse == 1.0);
        assert_eq!(closed, refused, "{when_down:?}: {gates:?}");
        // Without jobs that try it nobody would learn that it is back.
        let mut idle = facts("a", 0, 0, world.now.mono_ms);
        idle.is_down = true;
        world.tick_with(vec![idle]);
        let gates = world.gates(1).0;
        assert_eq!(
            gates.iter().any(|gate| (0.5..1.0).contains(&gate.refuse)),
            refused,
            "{gates:?}"
        );
    }
}
