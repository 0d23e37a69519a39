//! What others hold of a resource, as probes say it, and what it does to budgets.

use tidegate_protocol::domain::PostgresProbe;

use super::*;

/// A world in which `pg` has a probe, and two queues are busy.
fn probed_world() -> (World, Asked) {
    let mut world = World::with(&[("a", Strategy::Adaptive), ("b", Strategy::Adaptive)]);
    let probe = Probe::Postgres(PostgresProbe {
        url: "postgres://db".into(),
        ..PostgresProbe::default()
    });
    let resource = Resource {
        name: "pg".into(),
        capacity: 50,
        headroom: 0.7,
        probe: probe.clone(),
    };
    let change = Change::default();
    world.core.apply_resource(resource, &change, world.now).unwrap();
    world.attach(1, Role::Router, &[], 0);
    world.attach(2, Role::Worker, &["a", "b"], 100);
    let asked = Asked {
        resource: "pg".into(),
        probe,
    };
    assert_eq!(world.core.probes(), std::slice::from_ref(&asked));
    (world, asked)
}

/// So many others beside what the jobs hold, as far as there is room.
fn others(world: &World, units: f64) -> Reading {
    let jobs = world.core.held_on("pg") as f64;
    Reading {
        in_use: (jobs + units).min(50.0),
        by_jobs: Some(jobs),
        stamp: Some(world.now.mono_ms),
        ..Reading::default()
    }
}

fn caps(world: &World) -> u32 {
    world.cap("a") + world.cap("b")
}

/// A busy tick with an answer a second.
fn tick(world: &mut World, asked: &Asked, answer: impl Fn(&World) -> Result<Reading, String>) {
    for _ in 0..5 {
        world.now.mono_ms += 1_000;
        let answer = answer(world);
        world.core.probed(asked, answer, world.now);
        world.pump();
    }
    world.now.mono_ms -= TICK;
    world.busy_tick(&["a", "b"]);
}

#[test]
fn jobs_give_way_to_others_and_take_their_place_when_they_go() {
    let (mut world, asked) = probed_world();
    for _ in 0..8 {
        tick(&mut world, &asked, |world| Ok(others(world, 0.0)));
    }
    assert_eq!(caps(&world), 35);
    for _ in 0..10 {
        tick(&mut world, &asked, |world| Ok(others(world, 20.0)));
    }
    // 0.95 of 50 less 1.18 of 20.
    assert_eq!(caps(&world), 23, "{:?}", world.caps);
    assert_eq!(world.last_of("a").reason, Reason::PoolSaturation);
    let explained = world.core.explain(&name("a"), world.now).unwrap().0;
    assert!(explained.contains("20 of them not by jobs"), "{explained}");
    for _ in 0..8 {
        tick(&mut world, &asked, |world| Ok(others(world, 0.0)));
    }
    assert_eq!(caps(&world), 35);
}

#[test]
fn a_probe_that_lies_is_held_then_counts_for_nothing() {
    let (mut world, asked) = probed_world();
    for _ in 0..10 {
        tick(&mut world, &asked, |world| Ok(others(world, 20.0)));
    }
    assert_eq!(caps(&world), 23);
    let lie = |_: &World| {
        Ok(Reading {
            in_use: 1e9,
            ..Reading::default()
        })
    };
    for _ in 0..3 {
        tick(&mut world, &asked, lie);
        assert_eq!(caps(&world), 23, "held");
    }
    let view = |world: &World| world.core.view(world.now).resources[0].probe.clone();
    assert_eq!(view(&world).others, Some(20.0));
    tick(&mut world, &asked, lie);
    let distrusted = view(&world);
    assert_eq!(
        (distrusted.trust, distrusted.measured),
        (Some(Trust::Distrusted), None)
    );
    assert!(
        distrusted.text.contains("of a capacity of 50"),
        "{}",
        distrusted.text
    );
    let explained = world.core.explain(&name("a"), world.now).unwrap().0;
    assert!(
        explained.contains("postgres probe is not believed"),
        "{explained}"
    );
    for _ in 0..12 {
        tick(&mut world, &asked, lie);
    }
    assert_eq!(caps(&world), 35, "as if nobody measured");
}

#[test]
fn a_wave_of_others_does_not_wait_for_the_tick() {
    let (mut world, asked) = probed_world();
    for _ in 0..6 {
        tick(&mut world, &asked, |world| Ok(others(world, 2.0)));
    }
    world.now.mono_ms += 1_500;
    let calm = others(&world, 3.0);
    world.core.probed(&asked, Ok(calm), world.now);
    assert!(world.core.next_tick_ms() > world.now.mono_ms);
    let mut wave = others(&world, 15.0);
    wave.stamp = Some(1);
    world.core.probed(&asked, Ok(wave), world.now);
    assert_eq!(world.core.next_tick_ms(), world.now.mono_ms);
    // What was seen before it does not soften it: 0.95 x 50 - 1.18 x 15.
    tick(&mut world, &asked, |world| Ok(others(world, 15.0)));
    assert_eq!(caps(&world), 29);
}

#[test]
fn the_end_of_a_wave_does_not_wait_either_once_two_readings_in_a_row_say_so() {
    let is_early_after = |readings: &[(f64, bool)]| {
        let (mut world, asked) = probed_world();
        for _ in 0..6 {
            tick(&mut world, &asked, |world| Ok(others(world, 25.0)));
        }
        for (units, tells_jobs) in readings {
            world.now.mono_ms += 600;
            let mut reading = others(&world, *units);
            reading.by_jobs = reading.by_jobs.filter(|_| *tells_jobs);
            world.core.probed(&asked, Ok(reading), world.now);
        }
        world.core.next_tick_ms() <= world.now.mono_ms
    };
    assert!(is_early_after(&[(2.0, true), (2.0, true)]));
    assert!(!is_early_after(&[(2.0, true)]), "one may be a gap");
    assert!(!is_early_after(&[(2.0, true), (24.0, true), (2.0, true)]));
    // Then slots that jobs hold count as in use, and they may be between two statements.
    assert!(!is_early_after(&[(2.0, false), (2.0, false)]));
}

#[test]
fn a_pool_that_fills_up_does_not_wait_for_the_tick() {
    let is_early_after = |in_use: &[f64]| {
        let (mut world, asked) = probed_world();
        for _ in 0..6 {
            tick(&mut world, &asked, |world| Ok(others(world, 10.0)));
        }
        for (stamp, units) in in_use.iter().enumerate() {
            world.now.mono_ms += 600;
            let mut reading = others(&world, 12.0);
            // Idle connections of workers fill the rest: others alone do not look like a wave.
            (reading.in_use, reading.by_jobs) = (*units, Some(*units - 12.0));
            reading.stamp = Some(stamp as u64 + 1);
            world.core.probed(&asked, Ok(reading), world.now);
        }
        world.core.next_tick_ms() <= world.now.mono_ms
    };
    assert!(is_early_after(&[50.0, 50.0]));
    assert!(!is_early_after(&[50.0, 46.0, 50.0]), "bursts");
}

#[test]
fn an_answer_to_what_is_not_asked_any_more_is_nobodys() {
    let (mut world, asked) = probed_world();
    let resource = Resource {
        name: "pg".into(),
        capacity: 50,
        headroom: 0.7,
        probe: Probe::Static,
    };
    let change = Change::default();
    let answer = others(&world, 20.0);
    world.core.probed(&asked, Ok(answer), world.now);
    world.core.apply_resource(resource, &change, world.now).unwrap();
    world.core.probed(&asked, Ok(answer), world.now);
    world.busy_tick(&["a", "b"]);
    assert_eq!(world.core.view(world.now).resources[0].probe.measured, None);
    assert_eq!(world.core.probes(), []);
}
