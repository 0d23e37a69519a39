//! What must hold whatever is reported, tried on many made-up fleets.

use super::*;
use crate::{budget, codec::Plain, histogram::Histogram, test_random::Random};

const FLEETS: u64 = 60;
const TICKS: u64 = 40;

fn real(random: &mut Random, most: u64) -> f64 {
    random.below(most * 100) as f64 / 100.0
}

/// Any number that a float can be.
fn wild(random: &mut Random) -> f64 {
    let odd = [
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        -5.0,
        0.0,
        f64::MAX,
        f64::MIN_POSITIVE,
        1e9,
        u64::MAX as f64,
    ];
    match random.below(3) {
        0 => real(random, 60),
        _ => odd[random.below(odd.len() as u64) as usize],
    }
}

fn wild_count(random: &mut Random) -> u64 {
    let odd = [0, 1, u64::from(u32::MAX), u64::MAX - 1, u64::MAX, 1_000_000_000];
    match random.below(3) {
        0 => random.below(300),
        _ => odd[random.below(odd.len() as u64) as usize],
    }
}

fn times(random: &mut Random, is_wild: bool) -> Histogram {
    if is_wild {
        let buckets: Vec<u32> = (0..random.below(300))
            .map(|_| wild_count(random) as u32)
            .collect();
        return Histogram::from_parts(&buckets, wild(random), wild(random));
    }
    let mut times = Histogram::default();
    let scale = 1.0 + real(random, 2_000);
    (0..random.below(150)).for_each(|_| times.add(scale * (0.3 + real(random, 2))));
    times
}

/// A fleet that keeps its policies while everything else changes.
struct Fleet {
    random: Random,
    is_wild: bool,
    inputs: Inputs,
}

impl Fleet {
    fn new(seed: u64, is_wild: bool) -> Self {
        let mut random = Random(seed);
        let mut inputs = Inputs {
            tick_ms: 5_000,
            ..Inputs::default()
        };
        for at in 0..1 + random.below(3) {
            let resource = ResourceInputs {
                capacity: 10 + random.below(90) as u32,
                headroom: 0.3 + real(&mut random, 1).min(0.7),
                ..ResourceInputs::default()
            };
            inputs.resources.insert(format!("r{at}"), resource);
        }
        let resources = inputs.resources.len() as u64;
        for at in 0..1 + random.below(6) {
            let costs = (0..resources)
                .filter(|_| random.below(2) == 0)
                .map(|resource| (format!("r{resource}"), 1))
                .collect();
            let queue = QueueInputs {
                strategy: Strategy::ALL[random.below(3) as usize],
                min: random.below(2) as u32,
                max: 1 + random.below(500) as u32,
                weight: 0.5 + real(&mut random, 5),
                costs,
                ..QueueInputs::default()
            };
            inputs.queues.insert(format!("q{at}"), queue);
        }
        Self {
            random,
            is_wild,
            inputs,
        }
    }

    /// The next tick's inputs.
    fn next(&mut self) -> &Inputs {
        let (random, is_wild) = (&mut self.random, self.is_wild);
        let number = |random: &mut Random, most: u64| if is_wild { wild(random) } else { real(random, most) };
        let count = |random: &mut Random, most: u64| match is_wild {
            true => wild_count(random),
            false => random.below(most),
        };
        self.inputs.elapsed_ms = count(random, 10_000);
        self.inputs.store.latency_ms = Some(number(random, 50));
        self.inputs.store.timeout_ms = count(random, 2_000);
        for resource in self.inputs.resources.values_mut() {
            resource.in_use = (random.below(4) > 0).then(|| number(random, 60));
            resource.in_use_by_jobs = (random.below(4) > 0).then(|| number(random, 60));
            resource.waiters = Some(number(random, 5));
            resource.probe = times(random, is_wild);
        }
        for queue in self.inputs.queues.values_mut() {
            queue.ready = count(random, 500);
            queue.running = count(random, 60);
            queue.in_flight = Some(number(random, 60));
            queue.slots = 1 + random.below(200);
            queue.arrivals = count(random, 200);
            queue.run_time = times(random, is_wild);
            queue.overload = if random.below(4) == 0 {
                count(random, 20)
            } else {
                0
            };
            queue.down = if random.below(8) == 0 {
                count(random, 90)
            } else {
                0
            };
            queue.errors = if random.below(6) == 0 {
                count(random, 20)
            } else {
                0
            };
            queue.is_down = random.below(20) == 0;
        }
        &self.inputs
    }
}

fn hold(inputs: &Inputs, decisions: &Decisions) {
    for (name, resource) in &inputs.resources {
        let units = |queue: &QueueInputs| {
            let costs = queue.costs.iter().filter(|(cost, _)| cost == name);
            costs.map(|(_, units)| u64::from(*units)).sum::<u64>()
        };
        let budget = budget::budget(resource.capacity, resource.headroom);
        let queues = || {
            inputs
                .queues
                .iter()
                .map(|(queue, inputs)| (units(inputs), inputs, &decisions[queue]))
        };
        let held: u64 = queues()
            .map(|(units, _, decision)| units * u64::from(decision.cap))
            .sum();
        let wanted: u64 = queues()
            .map(|(units, _, decision)| units * u64::from(decision.wanted))
            .sum();
        let safe: u64 = queues()
            .map(|(units, _, decision)| units * u64::from(decision.safe))
            .sum();
        assert!(
            held <= budget && wanted <= budget && safe <= budget,
            "{held} {wanted} {safe} of {budget}"
        );
        let floors: u64 = queues()
            .map(|(units, queue, _)| units * u64::from(queue.min))
            .sum();
        let others = queues().filter(|(units, queue, _)| *units > 0 && queue.costs.len() == 1);
        for (_, queue, decision) in others.filter(|_| floors <= budget) {
            assert!(decision.cap >= queue.min, "{decision:?}");
        }
    }
    for (name, queue) in &inputs.queues {
        let decision = &decisions[name];
        assert!(decision.cap <= queue.max.max(queue.min), "{decision:?}");
        assert!((0.0..=1.0).contains(&decision.retry_share));
    }
}

#[test]
fn budgets_and_floors_hold_and_every_tick_replays() {
    for is_wild in [false, true] {
        for seed in 0..FLEETS {
            let mut fleet = Fleet::new(seed, is_wild);
            let mut state = State::default();
            for tick in 0..TICKS {
                let inputs = fleet.next().clone();
                let stored = state.to_bytes();
                let (next, decisions) = decide(state, &inputs, tick * 5_000);
                hold(&inputs, &decisions);
                let logged = Inputs::from_bytes(&inputs.to_bytes()).expect("what was written");
                let read = State::from_bytes(&stored).expect("what was written");
                let (again, same) = decide(read, &logged, tick * 5_000);
                assert_eq!(again.to_bytes(), next.to_bytes(), "seed {seed} tick {tick}");
                assert_eq!(format!("{same:?}"), format!("{decisions:?}"));
                state = next;
            }
        }
    }
}

/// The decision after a while of equal ticks in which every queue wants more than it gets.
fn crowded(weights: [f64; 3], capacity: u32) -> [u32; 3] {
    let mut inputs = Inputs {
        elapsed_ms: 5_000,
        tick_ms: 5_000,
        ..Inputs::default()
    };
    let resource = ResourceInputs {
        capacity,
        headroom: 0.7,
        ..ResourceInputs::default()
    };
    inputs.resources.insert("pg".to_owned(), resource);
    for (name, weight) in ["a", "b", "c"].into_iter().zip(weights) {
        let mut run_time = Histogram::default();
        (0..40).for_each(|n| run_time.add(400.0 + 5.0 * f64::from(n)));
        let queue = QueueInputs {
            min: 1,
            max: 1_000,
            weight,
            costs: vec![("pg".to_owned(), 1)],
            ready: 5_000,
            slots: 1_000,
            arrivals: 200,
            run_time,
            ..QueueInputs::default()
        };
        inputs.queues.insert(name.to_owned(), queue);
    }
    let mut state = State::default();
    let mut caps = [0; 3];
    for tick in 0..20 {
        for (queue, cap) in inputs.queues.values_mut().zip(caps) {
            (queue.running, queue.in_flight) = (u64::from(cap), Some(f64::from(cap)));
        }
        let (next, decisions) = decide(state, &inputs, tick * 5_000);
        state = next;
        caps = ["a", "b", "c"].map(|name| decisions[name].cap);
    }
    caps
}

#[test]
fn more_weight_is_never_less_and_a_larger_resource_is_less_for_nobody() {
    let mut before = 0;
    for weight in [0.5, 1.0, 2.0, 4.0, 8.0] {
        let caps = crowded([weight, 1.0, 2.0], 50);
        assert!(
            caps[0] >= before && caps.iter().sum::<u32>() == 35,
            "{weight}: {caps:?}"
        );
        before = caps[0];
    }
    let mut before = [0; 3];
    for capacity in [10, 20, 50, 51, 80, 200] {
        let caps = crowded([1.0, 3.0, 2.0], capacity);
        assert!(
            caps.iter().zip(before).all(|(now, before)| *now >= before),
            "{capacity}: {caps:?}"
        );
        before = caps;
    }
}

#[test]
fn at_a_steady_load_nothing_oscillates() {
    for seed in 0..40 {
        let mut random = Random(seed);
        let (per_tick, ms) = (40 + random.below(100), 100.0 + real(&mut random, 800));
        let busy = per_tick as f64 / 5.0 * ms / 1_000.0;
        let mut state = State::default();
        let (mut cap, mut seen) = (0, Vec::new());
        for tick in 0..80 {
            let mut run_time = Histogram::default();
            (0..per_tick).for_each(|_| run_time.add(ms * (0.8 + real(&mut random, 1) * 0.4)));
            let queue = QueueInputs {
                min: 1,
                max: 1_000,
                weight: 1.0,
                in_flight: Some(busy.min(f64::from(cap))),
                running: busy.min(f64::from(cap)) as u64,
                slots: 500,
                arrivals: per_tick,
                run_time,
                ..QueueInputs::default()
            };
            let inputs = Inputs {
                elapsed_ms: 5_000,
                tick_ms: 5_000,
                queues: BTreeMap::from([("q".to_owned(), queue)]),
                ..Inputs::default()
            };
            let (next, decisions) = decide(state, &inputs, tick * 5_000);
            state = next;
            cap = decisions["q"].cap;
            if tick >= 30 {
                seen.push(cap);
            }
        }
        let (least, most) = (seen.iter().min().expect("some"), seen.iter().max().expect("some"));
        let range = f64::from(most - least);
        assert!(
            range <= (0.1 * f64::from(*most)).max(1.0),
            "seed {seed}: {seen:?}"
        );
    }
}
