//! Caps: adopted, lowered first, raised by what the answers pay for.

use super::*;

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

/// The cap of `a` is 1, 18 of it are running, and `b` waits for their slots.
fn draining_world() -> World {
    let mut world = World::with(&[("a", Strategy::Fixed), ("b", Strategy::Fixed)]);
    world.attach(1, Role::Router, &[], 0);
    world.attach(2, Role::Worker, &["a", "b"], 100);
    (0..3).for_each(|_| world.busy_tick(&["a", "b"]));
    world.pin("a", 1, 0).unwrap();
    world.busy_tick(&["a", "b"]);
    assert_eq!((world.cap("a"), world.cap("b")), (1, 17));
    world
}

#[test]
fn what_has_drained_pays_for_a_raise_before_the_next_tick() {
    let mut world = draining_world();
    for (running, paid) in [(18, 17), (7, 28), (7, 28), (0, 34)] {
        world.caps.get_mut(&name("a")).unwrap().2 = running;
        world.now.mono_ms += 1_000;
        let clock_ms = world.now.mono_ms;
        world.report(1, vec![facts("a", 500, running, clock_ms)]);
        assert_eq!(world.cap("b"), paid, "while {running} of a run");
        world.check_budget();
    }
}

#[test]
fn drained_slots_are_asked_for_under_a_new_version_and_not_by_old_facts() {
    let mut world = draining_world();
    let before = world.core.version;
    world.sent.clear();
    world.is_mute = true;
    let clock_ms = world.now.mono_ms + 1;
    world.report(1, vec![facts("a", 500, 7, clock_ms)]);
    let asked: Vec<Version> = world
        .sent
        .iter()
        .filter_map(|(_, order)| match order {
            Order::Caps { version, orders, .. } if orders == &[(name("a"), None)] => Some(*version),
            _ => None,
        })
        .collect();
    assert!(
        asked.len() == 1 && asked[0] > before,
        "{asked:?} after {before:?}"
    );
    // Nobody knows whether what was heard four seconds ago is still so.
    world.core.requests.clear();
    world.sent.clear();
    world.now.mono_ms += 4_000;
    world.report(1, Vec::new());
    assert!(
        world
            .sent
            .iter()
            .all(|(_, order)| !matches!(order, Order::Caps { .. }))
    );
}

#[test]
fn what_drains_pays_for_nothing_that_was_frozen_since() {
    let mut world = draining_world();
    world.freeze(true);
    world.caps.get_mut(&name("a")).unwrap().2 = 0;
    world.now.mono_ms += 100;
    let clock_ms = world.now.mono_ms;
    world.report(1, vec![facts("a", 500, 0, clock_ms)]);
    assert_eq!(world.cap("b"), 17);
}

#[test]
fn without_an_answer_nothing_is_raised_and_another_router_takes_over() {
    let mut world = World::with(&[("a", Strategy::Fixed), ("b", Strategy::Fixed)]);
    world.attach(1, Role::Router, &[], 0);
    world.attach(2, Role::Worker, &["a", "b"], 100);
    world.busy_tick(&["a", "b"]);
    world.attach(3, Role::Router, &[], 0);
    world.is_mute = true;
    world.pin("a", 1, 0).unwrap();
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
