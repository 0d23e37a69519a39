//! Other leaderships: left alone while they are in force, outranked after.

use super::{super::model::StoreSeen, *};
use crate::ledger::{Leader, Override, Stored, StoredPolicy};

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
fn a_standby_sends_nodes_on_and_orders_nothing() {
    let mut world = World::with(&[("a", Strategy::Fixed)]);
    world.attach(1, Role::Router, &[], 0);
    let leader = Leader {
        name: "other".into(),
        url: "http://other".into(),
    };
    world.core.stand_by(Some(leader), String::new(), world.now);
    world.pump();
    assert_eq!(world.closed, [1], "the nodes that it had are sent on");
    world.sent.clear();
    world.attach(2, Role::Router, &[], 0);
    world.tick_with(Vec::new());
    assert!(
        matches!(&world.sent[..], [(2, Order::Refused { reason, .. })] if reason.contains("http://other")),
        "{:?}",
        world.sent
    );
    assert_eq!(world.core.readiness(), Ok(()), "it does what it is there for");
}

#[test]
fn a_lease_that_has_run_out_ends_everything_at_once() {
    let mut world = World::new();
    let mut bounded = lead();
    bounded.until_ms = Some(9_500);
    world.core.lead(bounded, world.now);
    world.attach(1, Role::Router, &[], 0);
    world.core.renewed(Some(12_000));
    world.now.mono_ms = 11_999;
    world.core.check_lease(world.now);
    assert!(world.core.may_push(world.now));
    // Stopped for a minute, and woken up.
    world.now.mono_ms = 72_000;
    assert!(!world.core.may_push(world.now));
    world.core.check_lease(world.now);
    world.pump();
    assert!(matches!(world.core.standing(), Standing::Standby(None, _)));
    assert_eq!(world.closed, [1]);
    assert!(world.core.readiness().is_err());
}

#[test]
fn a_new_ledger_leaves_the_first_epoch_so_that_two_of_them_differ() {
    let mut world = World::new();
    let mut first = lead();
    (first.is_first, first.stride) = (true, 41);
    world.core.lead(first, world.now);
    world.apply("a", Policy::default()).unwrap();
    world.attach(1, Role::Router, &[], 0);
    assert_eq!((world.core.version.epoch, world.core.is_leader), (43, true));
    assert_eq!(world.caps[&name("a")].0.epoch, 43);
    assert!(!world.core.is_learning(world.now), "nobody was there before");
}

#[test]
fn nothing_is_ordered_until_the_ledger_has_the_higher_epoch() {
    let mut world = World::with(&[("a", Strategy::Fixed)]);
    world.caps.insert(name("a"), (v(5, 9), Some(12), 12));
    world.core.join(1, hello(1, Role::Router, &[], 0), world.now);
    let mut raise = None;
    let mut effects = world.core.take_effects();
    while !effects.is_empty() {
        for effect in effects {
            match effect {
                Effect::RaiseEpoch(epoch) => raise = Some(epoch),
                Effect::Send(stream, order) => world.obey(stream, order),
                _ => {}
            }
        }
        effects = world.core.take_effects();
    }
    assert_eq!(raise, Some(6));
    world.core.tick(world.now);
    let orders = world.core.take_effects();
    let is_cap = |effect: &Effect| matches!(effect, Effect::Send(_, Order::Caps { .. }));
    assert!(!orders.iter().any(is_cap), "{orders:?}");
    world.core.raised(6, world.now);
    world.pump();
    assert_eq!(world.caps[&name("a")].0.epoch, 6);
}

#[test]
fn what_the_ledger_has_is_in_force_after_a_restart() {
    let mut stored = Stored::default();
    stored.overrides.insert(
        "a".into(),
        Override {
            frozen: true,
            pin: Some((4, 60_000)),
        },
    );
    let policy = StoredPolicy {
        policy: Policy {
            max: 9,
            ..Policy::default()
        },
        revision: 7,
        removing: false,
    };
    stored.policies.insert(name("a"), policy);
    let mut world = World::new();
    world.now.wall_ms = 20_000;
    let lead = Lead { stored, ..lead() };
    world.core.lead(lead, world.now);
    let queue = &world.core.queues[&name("a")];
    assert_eq!(
        world
            .core
            .policy(&name("a"))
            .map(|(policy, revision)| (policy.max, revision)),
        Some((9, 7))
    );
    assert!(queue.frozen);
    assert_eq!(queue.pin.map(|pin| (pin.value, pin.until_ms)), Some((4, 40_000)));
}

#[test]
fn a_store_that_is_not_trusted_gets_nothing_until_it_is_accepted() {
    let mut world = World::with(&[("a", Strategy::Fixed)]);
    let seen = |incarnation: &str, untrusted: &str| StoreSeen {
        incarnation: incarnation.into(),
        clock_ms: 1_000,
        untrusted: untrusted.into(),
        ..StoreSeen::default()
    };
    let report = |world: &mut World, seen| {
        let report = Report {
            store: Some(seen),
            ..Report::default()
        };
        world.core.said(1, Said::Report(report), world.now);
        world.pump();
    };
    world.attach(1, Role::Router, &[], 0);
    world.attach(2, Role::Worker, &["a"], 40);
    report(&mut world, seen("one", ""));
    report(&mut world, seen("two", "another store answers"));
    world.sent.clear();
    world.busy_tick(&["a"]);
    assert!(
        !world
            .sent
            .iter()
            .any(|(_, order)| matches!(order, Order::Caps { .. })),
        "{:?}",
        world.sent
    );
    assert!(
        world
            .core
            .readiness()
            .unwrap_err()
            .contains("another store answers")
    );
    // A router that comes now is told, too.
    let mut another = hello(3, Role::Router, &[], 0);
    another.store_incarnation = "two".into();
    world.hello(3, another);
    let is_told = |(to, order): &(StreamId, Order)| {
        *to == 3
            && matches!(order, Order::Welcome { store_refused, .. } if store_refused == "another store answers")
    };
    assert!(world.sent.iter().any(is_told), "{:?}", world.sent);
    let row = world.core.plan_acceptance().unwrap().unwrap();
    world.core.commit(row, world.now);
    world.pump();
    let accepted = |(_, order): &(StreamId, Order)| matches!(order, Order::AcceptStore { incarnation, .. } if incarnation == "two");
    assert_eq!(world.sent.iter().filter(|sent| accepted(sent)).count(), 2);
    assert_eq!(
        (world.core.readiness(), world.core.plan_acceptance()),
        (Ok(()), Ok(None))
    );
    world.busy_tick(&["a"]);
    assert!(
        world
            .sent
            .iter()
            .any(|(_, order)| matches!(order, Order::Caps { .. }))
    );
}
