//! What queues do by the signals of nodes.

use super::*;

#[test]
fn a_queue_without_a_policy_has_the_defaults_and_a_cap() {
    let mut world = World::new();
    world.attach(1, Role::Router, &[], 0);
    world.attach(2, Role::Worker, &["free"], 64);
    world.busy_tick(&["free"]);
    assert_eq!(world.cap("free"), 16, "a quarter of the slots is kept ready");
    let explained = world.core.explain(&name("free"), world.now).unwrap().0;
    assert!(explained.contains("free: 500 ready"), "{explained}");
    assert_eq!(world.core.explain(&name("unknown"), world.now), None);
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
