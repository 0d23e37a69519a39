//! What operators change, and what is refused.

use super::*;

#[test]
fn pin_and_freeze_overrule_the_demand_and_not_the_budget() {
    let mut world = World::with(&[("a", Strategy::Fixed), ("b", Strategy::Fixed)]);
    world.attach(1, Role::Router, &[], 0);
    world.attach(2, Role::Worker, &["a", "b"], 100);
    world.busy_tick(&["a", "b"]);
    world.pin("a", 5, 12_000).unwrap();
    world.busy_tick(&["a", "b"]);
    world.caps.get_mut(&name("a")).unwrap().2 = 5;
    world.busy_tick(&["a", "b"]);
    assert_eq!((world.cap("a"), world.cap("b")), (5, 30));
    assert_eq!(world.last_of("a").reason, Reason::Manual);
    world.freeze(true);
    // The pin ends; nothing moves.
    world.busy_tick(&["a", "b"]);
    world.busy_tick(&["a", "b"]);
    assert_eq!((world.cap("a"), world.cap("b")), (5, 30));
    world.freeze(false);
    for _ in 0..3 {
        world.caps.get_mut(&name("b")).unwrap().2 = 0;
        world.busy_tick(&["a"]);
    }
    assert_eq!((world.cap("a"), world.cap("b")), (18, 17));
    assert!(world.pin("a", 5_000, 0).is_err());
    assert!(world.pin("nope", 5, 0).is_err());
}

#[test]
fn a_deleted_queue_runs_out_and_then_leaves_the_budget() {
    let mut world = World::with(&[("a", Strategy::Fixed), ("b", Strategy::Fixed)]);
    world.attach(1, Role::Router, &[], 0);
    world.attach(2, Role::Worker, &["a", "b"], 100);
    world.busy_tick(&["a", "b"]);
    world.busy_tick(&["a", "b"]);
    let deleted = world.edit(|core, _| core.plan_policy_deletion(&name("a"), &Change::default()));
    deleted.unwrap();
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
    let stale = Change { expected: Some(7) };
    assert_eq!(
        world.core.plan_policy_deletion(&name("a"), &stale),
        Err(TuningError::Stale {
            stored: 1,
            expected: 7
        })
    );
    assert!(matches!(
        world.core.plan_resource_deletion("pg", &Change::default()),
        Err(TuningError::InUse { .. })
    ));
}

#[test]
fn a_deleted_queue_that_cost_something_runs_nothing_until_a_policy_says_what_it_costs() {
    let mut world = World::with(&[("a", Strategy::Fixed)]);
    world.attach(1, Role::Router, &[], 0);
    world.attach(2, Role::Worker, &["a"], 100);
    world.busy_tick(&["a"]);
    let deleted = world.edit(|core, _| core.plan_policy_deletion(&name("a"), &Change::default()));
    deleted.unwrap();
    for _ in 0..4 {
        world.caps.get_mut(&name("a")).unwrap().2 = 0;
        let clock = world.now.mono_ms;
        world.tick_with(vec![facts("a", 500, 0, clock)]);
        assert_eq!(world.cap("a"), 0, "with 500 waiting");
    }
    let (why, _) = world.core.explain_waiting(&name("a"), world.now).unwrap();
    assert!(why.contains("its policy was deleted"), "{why}");
    assert!(
        world
            .core
            .plan_resource_deletion("pg", &Change::default())
            .is_ok(),
        "nothing costs it"
    );
    world.apply("a", costing(Strategy::Fixed)).unwrap();
    world.busy_tick(&["a"]);
    world.busy_tick(&["a"]);
    assert_eq!(world.cap("a"), 35);
}

#[test]
fn what_is_over_a_lowered_capacity_drains_before_anything_is_granted() {
    let mut world = World::with(&[("a", Strategy::Fixed), ("b", Strategy::Fixed)]);
    world.attach(1, Role::Router, &[], 0);
    world.attach(2, Role::Worker, &["a", "b"], 100);
    world.busy_tick(&["a", "b"]);
    world.busy_tick(&["a", "b"]);
    let mut smaller = world.core.resource("pg").unwrap().0;
    smaller.capacity = 20;
    let change = Change::default();
    world.core.apply_resource(smaller, &change, world.now).unwrap();
    // 35 run, 14 may: nobody is granted anything, though a is below its share of 7.
    let running = |world: &mut World, a: u64, b: u64| {
        world.caps.get_mut(&name("a")).unwrap().2 = a;
        world.caps.get_mut(&name("b")).unwrap().2 = b;
        let clock = world.now.mono_ms;
        world.is_over = true;
        world.tick_with(vec![facts("a", 500, a, clock), facts("b", 500, b, clock)]);
        (world.cap("a"), world.cap("b"))
    };
    assert_eq!(running(&mut world, 5, 17), (1, 1));
    assert_eq!(world.last_of("b").reason, Reason::Draining);
    // 10 run: there is room again, as far as b leaves it.
    assert_eq!(running(&mut world, 1, 9), (5, 7));
}

#[test]
fn a_cost_above_the_capacity_names_its_field() {
    let mut world = World::with(&[]);
    let mut greedy = costing(Strategy::Fixed);
    greedy.costs[0].units = 51;
    let error = world.apply("a", greedy).unwrap_err();
    let TuningError::Invalid(all) = &error else {
        panic!("{error}")
    };
    assert_eq!((all.len(), all[0].field.as_str()), (1, "costs[0].units"));
}
