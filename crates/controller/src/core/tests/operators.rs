//! What operators change, and what is refused.

use super::*;

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
