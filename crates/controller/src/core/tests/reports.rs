//! What nodes say: what is summed, what the newest word is, and what does not wait for the tick.

use super::*;

/// What a worker saw of a queue: so many jobs of that time, and so many in flight.
fn saw(queue: &str, run_ms: f64, jobs: u32, in_flight: f64) -> QueueReport {
    let mut counts = Counts::default();
    (0..jobs).for_each(|_| counts.run_time.add(run_ms));
    QueueReport {
        counts,
        mean_in_flight: in_flight,
        store: None,
        ..facts(queue, 0, 0, 0)
    }
}

fn world() -> World {
    let mut world = World::with(&[("a", Strategy::Adaptive)]);
    world.attach(1, Role::Router, &[], 0);
    world.attach(2, Role::Worker, &["a"], 20);
    world.attach(3, Role::Worker, &["a"], 20);
    world
}

#[test]
fn node_facts_are_summed_and_their_histograms_are_one() {
    let mut world = world();
    world.report(2, vec![saw("a", 100.0, 90, 4.0)]);
    world.report(3, vec![saw("a", 1_000.0, 10, 3.5)]);
    let inputs = world.core.governor_inputs(5_000);
    let inputs = &inputs.queues["a"];
    assert_eq!((inputs.slots, inputs.in_flight), (40, Some(7.5)));
    assert_eq!(inputs.run_time.count(), 100);
    assert_eq!(inputs.run_time.mean_ms(), Some(190.0));
    let median = inputs.run_time.quantile_ms(0.5).unwrap();
    assert!((90.0..110.0).contains(&median), "not a mean of medians: {median}");
}

#[test]
fn a_gauge_stays_until_it_is_told_anew_and_a_stranger_has_none() {
    let mut world = world();
    world.report(2, vec![saw("a", 100.0, 1, 4.0), saw("b", 100.0, 1, 9.0)]);
    world.report(2, Vec::new());
    let inputs = world.core.governor_inputs(5_000);
    assert_eq!(inputs.queues["a"].in_flight, Some(4.0), "no change is no news");
    let gauges = &world.core.nodes[&2].gauges;
    assert_eq!(
        gauges.len(),
        1,
        "of a queue that the worker does not serve: {gauges:?}"
    );
}

#[test]
fn of_the_store_the_newest_word_wins_whichever_router_said_it() {
    let mut world = world();
    world.attach(4, Role::Router, &[], 0);
    world.report(1, vec![facts("a", 7, 3, 20_000)]);
    world.report(4, vec![facts("a", 9, 2, 19_000)]);
    assert_eq!(
        world.core.queues[&name("a")].store.ready,
        7,
        "an older look is not summed and not taken"
    );
    world.report(4, vec![facts("a", 5, 2, 20_001)]);
    assert_eq!(world.core.queues[&name("a")].store.ready, 5);
}

#[test]
fn a_store_clock_that_went_back_an_hour_does_not_hide_the_store() {
    const HOUR: u64 = 3_600_000;
    let mut world = world();
    world.report(1, vec![facts("a", 7, 3, 2 * HOUR)]);
    world.now.mono_ms += 1_000;
    world.report(1, vec![facts("a", 8, 3, HOUR)]);
    assert_eq!(
        world.core.queues[&name("a")].store.ready,
        7,
        "one old word may be late"
    );
    world.now.mono_ms += 2_500;
    world.report(1, vec![facts("a", 9, 3, HOUR + 2_500)]);
    assert_eq!(
        world.core.queues[&name("a")].store.ready,
        9,
        "nobody confirms the newer clock"
    );
}

#[test]
fn an_alarm_turns_the_loop_within_a_second_and_a_storm_of_them_not_faster() {
    let mut world = world();
    world.busy_tick(&["a"]);
    let alarm = |world: &mut World, stream: StreamId| {
        let report = Report {
            alarm: true,
            ..Report::default()
        };
        world.core.said(stream, Said::Report(report), world.now);
    };
    let ticked = world.now.mono_ms;
    world.now.mono_ms += 200;
    (0..50).for_each(|n| alarm(&mut world, 2 + n % 2));
    assert_eq!(world.core.next_tick_ms(), ticked + EARLY_TICK_MS);
    world.now.mono_ms = ticked + EARLY_TICK_MS;
    world.core.tick(world.now);
    assert_eq!(world.core.next_tick_ms(), world.now.mono_ms + TICK);
    world.now.mono_ms += 3_000;
    alarm(&mut world, 3);
    assert_eq!(
        world.core.next_tick_ms(),
        world.now.mono_ms,
        "at once, if the last turn is long ago"
    );
}

#[test]
fn many_more_arrivals_than_before_do_not_wait_for_the_tick() {
    let mut world = world();
    let arrived = |submitted: u64, clock_ms: u64| {
        let mut report = facts("a", 10, 0, clock_ms);
        report.counts.submitted = submitted;
        report
    };
    for _ in 0..4 {
        let clock_ms = world.now.mono_ms;
        world.tick_with(vec![arrived(50, clock_ms)]);
    }
    world.now.mono_ms += 1_000;
    world.report(1, vec![arrived(12, 90_000)]);
    assert!(world.core.next_tick_ms() > world.now.mono_ms, "noise");
    world.report(1, vec![arrived(60, 90_001)]);
    assert_eq!(world.core.next_tick_ms(), world.now.mono_ms);
}

#[test]
fn the_first_jobs_that_end_do_not_wait_for_the_tick_and_the_next_ones_do() {
    let mut world = world();
    let ended = |jobs: u64, clock_ms: u64| {
        let mut report = facts("a", 10, 0, clock_ms);
        (0..jobs).for_each(|_| report.counts.run_time.add(700.0));
        report
    };
    world.tick_with(vec![ended(0, 90_000)]);
    world.now.mono_ms += EARLY_TICK_MS;
    world.report(1, vec![ended(0, 90_001)]);
    assert!(world.core.next_tick_ms() > world.now.mono_ms, "none has ended");
    world.report(1, vec![ended(1, 90_002)]);
    assert_eq!(world.core.next_tick_ms(), world.now.mono_ms);
    world.core.tick(world.now);
    world.now.mono_ms += EARLY_TICK_MS;
    world.report(1, vec![ended(3, 90_003)]);
    assert!(world.core.next_tick_ms() > world.now.mono_ms, "known by now");
}

#[test]
fn pools_that_are_gone_are_not_remembered() {
    let mut world = world();
    let pool = |n: u32| model::ResourceReport {
        resource: format!("pg-{n}"),
        in_use: 1,
        waiters: 0,
    };
    let mut told = Report {
        resources: (0..3).map(pool).collect(),
        ..Report::default()
    };
    world.core.said(2, Said::Report(told.clone()), world.now);
    told.resources.truncate(1);
    world.core.said(2, Said::Report(told), world.now);
    assert_eq!(world.core.nodes[&2].resources.len(), 1);
}
