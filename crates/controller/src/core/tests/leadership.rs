//! Other leaderships: left alone while they are in force, outranked after.

use super::*;

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
