//! Random faults, many seeds.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{
    net::Node,
    world::{CONTROLLERS, ROUTERS, WORKERS, World, name},
};

const SEEDS: u64 = 50;
/// Of faults, in virtual time; then everything heals.
const TROUBLE_MS: u64 = 90_000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn nothing_breaks_whatever_breaks() {
    let (first, count) = (number("TIDEGATE_TEST_SEED"), number("TIDEGATE_TEST_SEQUENCES"));
    let count = count.unwrap_or(if first.is_some() { 1 } else { SEEDS });
    let seeds = first.unwrap_or(0)..first.unwrap_or(0) + count;
    let (mut units_max, mut refused, mut failed) = (0, 0, Vec::new());
    for seed in seeds {
        let run = catch_unwind(AssertUnwindSafe(|| one(seed)));
        match run {
            Ok(world) => {
                units_max = units_max.max(world.truth.units_max);
                refused += world.routers.iter().map(|router| router.refused).sum::<u64>();
            }
            // It has said why.
            Err(_) => failed.push(seed),
        }
    }
    assert!(
        failed.is_empty(),
        "failed with seeds {failed:?}: TIDEGATE_TEST_SEED=n runs one again"
    );
    println!("at most {units_max} units at work; {refused} stale orders reached the store and were refused");
    assert!(units_max > 20, "the budget was never used: {units_max}");
}

fn one(seed: u64) -> World {
    let mut world = World::new(seed);
    world.submit("email", 400);
    world.submit("pdf", 200);
    while world.now < TROUBLE_MS {
        let pause = world.rng.u64(200..6_000);
        world.run(world.now + pause);
        trouble(&mut world);
    }
    world.settle_down();
    world
}

fn any(world: &mut World) -> Node {
    let at = world.rng.usize(..WORKERS + ROUTERS + CONTROLLERS);
    match at {
        at if at < WORKERS => Node::Worker(at),
        at if at < WORKERS + ROUTERS => Node::Router(at - WORKERS),
        at => Node::Controller(at - WORKERS - ROUTERS),
    }
}

fn trouble(world: &mut World) {
    let node = any(world);
    match world.rng.u8(0..12) {
        0 | 1 => {
            let conns = world.net.of(node);
            let sent = match conns.len() {
                0 => Vec::new(),
                count => {
                    let conn = conns[world.rng.usize(..count)];
                    world.net.cut(world.now, &mut world.rng, conn)
                }
            };
            world.post(sent);
        }
        2 | 3 => {
            let ms = world.rng.u64(500..30_000);
            world.net.block(world.now, node, ms);
        }
        4 | 5 => {
            let ms = world.rng.u64(100..8_000);
            world.kill(node, ms);
        }
        6 => {
            let at = world.rng.usize(..CONTROLLERS);
            let ms = world.rng.u64(500..40_000);
            world.freeze(at, ms);
        }
        7 => {
            let until = world.now + world.rng.u64(1_000..10_000);
            let latency = world.rng.u64(50..3_000);
            world.net.storm(until, latency);
        }
        8 => {
            let at = world.rng.usize(..ROUTERS);
            world.routers[at].slow_until = world.now + world.rng.u64(1_000..15_000);
        }
        9 => {
            let count = world.rng.usize(10..200);
            let queue = if world.rng.bool() { "email" } else { "pdf" };
            world.submit(queue, count);
        }
        10 => {
            let queue = if world.rng.bool() { "email" } else { "pdf" };
            let policy = (world.rng.u32(1..60), f64::from(world.rng.u32(1..6)));
            world.policies.insert(name(queue), policy);
            if let Some(leader) = world.leader()
                && !world.controllers[leader].frozen
            {
                world.apply(leader);
            }
        }
        _ => {
            // Forward, an hour at most; a clock that goes back far makes routers refuse until it is right again, see cases.
            let ms = [1_500, 30_000, 3_600_000][world.rng.usize(..3)];
            world.clock.jump(ms);
        }
    }
}
