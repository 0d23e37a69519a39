//! Nodes: their slots and targets, silence, streams that replace each other.

use super::*;

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

#[test]
fn a_policy_that_a_router_could_not_write_is_sent_again() {
    let mut world = World::with(&[("a", Strategy::Fixed)]);
    world.attach(1, Role::Router, &[], 0);
    let pushes = |world: &World| {
        let policies = world
            .sent
            .iter()
            .filter(|(_, order)| matches!(order, Order::Policies { .. }));
        policies.count()
    };
    assert_eq!(pushes(&world), 1);
    world.tick_with(Vec::new());
    assert_eq!(pushes(&world), 2, "it has not said that it wrote it");
    let version = world.core.version;
    world.core.said(1, Said::Applied(version), world.now);
    world.tick_with(Vec::new());
    world.tick_with(Vec::new());
    assert_eq!(pushes(&world), 2);
}
