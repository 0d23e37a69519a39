//! Cases with a name, each made on purpose.

use tidegate_protocol::domain::JobId;
use tidegate_store::{Action, JobStore};

use crate::{
    controller::TICK_MS,
    net::{ConnId, Node},
    truth::BUDGET,
    worker::SLOTS,
    world::{WORKERS, World, name},
};

const HOUR_MS: i64 = 3_600_000;

/// Twenty seconds after its start, with more to do than anybody can.
fn busy(seed: u64) -> World {
    let mut world = World::new(seed);
    world.submit("email", 3_000);
    world.submit("pdf", 1_500);
    world.run(20_000);
    assert!(world.leader().is_some(), "somebody leads");
    assert!(world.truth.units_max > BUDGET / 2, "{}", world.truth.units_max);
    world
}

/// The connection of a node to the controllers.
fn attached(world: &World, node: Node) -> ConnId {
    let conn = match node {
        Node::Worker(at) => world.workers[at].attach.conn,
        Node::Router(at) => world.routers[at].attach.conn,
        Node::Controller(_) => None,
    };
    conn.expect("it is attached")
}

fn change(world: &mut World, email: u32, pdf: u32) {
    world.policies.insert(name("email"), (email, 1.0));
    world.policies.insert(name("pdf"), (pdf, 1.0));
    let leader = world.leader().expect("somebody leads");
    world.apply(leader);
}

#[test]
fn pushes_of_an_old_leader_that_come_late_change_nothing() {
    let refused: Vec<u64> = (0..6).map(late_pushes_refused).collect();
    assert!(
        refused.iter().any(|refused| *refused > 0),
        "the old leader's orders came after the new one's: {refused:?}"
    );
}

/// How many orders of an old leader the writer of caps has refused.
fn late_pushes_refused(seed: u64) -> u64 {
    let mut world = busy(seed);
    let old = world.leader().expect("somebody leads");
    let writer = world.writer(old).expect("there is a writer");
    // The other router and the workers lose it; its orders to the writer are on their way for six seconds.
    for node in [Node::Router(1 - writer)]
        .into_iter()
        .chain((0..WORKERS).map(Node::Worker))
    {
        let conn = attached(&world, node);
        let sent = world.net.half_cut(world.now, conn, 0);
        world.post(sent);
    }
    world.net.block(world.now, Node::Controller(old), 6_000);
    world.row.until = world.now;
    // It does not look at its row before it has ordered once more.
    change_by(&mut world, old);
    world.freeze(old, 20_000);
    world.run(world.now + 12_000);
    let new = world.leader().expect("somebody leads");
    assert_ne!(new, old);
    let refused = world.routers[writer].refused + world.routers[writer].attach.refused;
    let epochs = world
        .stats()
        .into_iter()
        .filter_map(|stats| stats.cap)
        .map(|cap| cap.version.epoch);
    let epoch = world.row.epoch;
    assert!(
        epochs.into_iter().all(|of| of == epoch),
        "the new leader's caps are in force"
    );
    change(&mut world, 100, 100);
    world.settle_down();
    refused
}

fn change_by(world: &mut World, controller: usize) {
    world.policies.insert(name("email"), (3, 1.0));
    world.policies.insert(name("pdf"), (60, 5.0));
    world.apply(controller);
    world.tick(controller);
}

#[test]
fn a_raise_whose_outcome_is_not_known_is_not_paid_twice() {
    for seed in 0..10 {
        let mut world = busy(seed);
        let leader = world.leader().expect("somebody leads");
        let writer = world.writer(leader).expect("there is a writer");
        change(&mut world, 2, 60);
        world.run(world.now + 2 * TICK_MS);
        // The raise gets there, its answer does not; and then the wind changes.
        world.routers[writer].slow_until = world.now + 4_000;
        change(&mut world, 60, 1);
        world.run(world.now + 1_200);
        let conn = attached(&world, Node::Router(writer));
        let sent = world.net.cut(world.now, &mut world.rng, conn);
        world.post(sent);
        change(&mut world, 1, 60);
        world.run(world.now + 20_000);
        change(&mut world, 60, 60);
        world.settle_down();
    }
}

#[test]
fn a_node_that_is_back_while_its_old_stream_lives_is_one_node() {
    let mut world = busy(3);
    let leader = world.leader().expect("somebody leads");
    for at in 0..WORKERS {
        let conn = attached(&world, Node::Worker(at));
        // The worker sees the end at once, the controller after eight seconds.
        let sent = world.net.half_cut(world.now, conn, 0);
        world.post(sent);
        let streams = world.workers[at].stream_conn().into_iter();
        for conn in streams {
            let sent = world.net.half_cut(world.now, conn, 0);
            world.post(sent);
        }
    }
    for _ in 0..30 {
        world.run(world.now + 200);
        let slots: u32 = world.slots_seen(leader);
        assert!(slots <= SLOTS * WORKERS as u32, "{slots} slots are seen");
    }
    world.run(world.now + 10_000);
    assert_eq!(world.slots_seen(leader), SLOTS * WORKERS as u32);
    world.settle_down();
}

#[test]
fn ghosts_of_released_and_cancelled_jobs_hold_their_places_until_their_leases_end() {
    let mut world = busy(4);
    // Cut off with what it runs; its router sees that and gives the jobs away after two seconds.
    let conn = world.workers[0].stream_conn().expect("it is connected");
    let sent = world.net.half_cut(world.now, conn, 1);
    world.post(sent);
    world.net.block(world.now, Node::Worker(0), 20_000);
    world.run(world.now + 4_000);
    let ghosts: u64 = world
        .stats()
        .iter()
        .map(|stats| stats.slots - stats.running)
        .sum();
    assert!(ghosts > 0, "a worker that is cut off may still be at work");
    // And an operator cancels what runs elsewhere.
    let ids: Vec<JobId> = world.running_jobs();
    assert!(!ids.is_empty());
    for answer in world.ask(world.store.act(Action::Cancel, ids)) {
        answer.expect("it answers");
    }
    let after = world
        .stats()
        .iter()
        .map(|stats| stats.slots - stats.running)
        .sum::<u64>();
    assert!(
        after > ghosts,
        "{after} ghosts after {ghosts}, and cancelled ones beside them"
    );
    world.check_store();
    world.run(world.now + 25_000);
    world.settle_down();
    world.run(world.now + 25_000);
    assert_eq!(
        world.stats().iter().map(|stats| stats.slots).sum::<u64>(),
        0,
        "no ghost stays"
    );
}

#[test]
fn a_store_clock_that_leaps_an_hour_ahead_takes_no_lease_from_anybody() {
    let mut world = busy(5);
    let runs = world.stats().iter().map(|stats| stats.running).sum::<u64>();
    assert!(runs > 0);
    world.clock.jump(HOUR_MS);
    for _ in 0..100 {
        world.run(world.now + 100);
        let ghosts: u64 = world
            .stats()
            .iter()
            .map(|stats| stats.slots - stats.running)
            .sum();
        assert_eq!(ghosts, 0, "every lease was renewed or settled by its holder");
    }
    world.settle_down();
    assert_eq!(world.stats().iter().map(|stats| stats.dead_total).sum::<u64>(), 0);
}

#[test]
fn while_a_store_clock_is_an_hour_behind_nothing_starts_and_what_runs_ends_well() {
    let mut world = busy(6);
    world.clock.jump(-HOUR_MS);
    // A pulse finds out.
    world.run(world.now + 1_500);
    let done = |world: &World| {
        world
            .stats()
            .iter()
            .map(|stats| stats.succeeded_total)
            .sum::<u64>()
    };
    let (before, begun) = (done(&world), world.truth.begun);
    let running = world.stats().iter().map(|stats| stats.running).sum::<u64>();
    world.run(world.now + 20_000);
    assert_eq!(
        world.truth.begun, begun,
        "nothing is granted by a clock that went back"
    );
    assert!(done(&world) >= before + running / 2, "what ran is recorded");
    world.clock.jump(HOUR_MS);
    world.run(world.now + 30_000);
    assert!(world.truth.begun > begun, "its time is right again");
    world.settle_down();
}
