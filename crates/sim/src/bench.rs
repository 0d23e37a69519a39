//! How long a decision takes for a large fleet: the governor for all queues, then every queue's cap over its workers.
//!
//! Ratios within one run are what to compare; absolute times are of the machine.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use fastrand::Rng;
use tidegate_flow::{
    governor::{self, Inputs, QueueInputs, ResourceInputs, State},
    histogram::Histogram,
    shard::{self, Worker},
};

/// (queues, workers, ticks).
const FLEETS: [(usize, usize, usize); 3] = [(10, 100, 200), (100, 1_000, 200), (1_000, 10_000, 40)];
/// Queues that a worker serves at most.
const SERVED: usize = 10;
const SLOTS: u32 = 16;
/// Queues that share a resource.
const SHARING: usize = 20;

/// The table.
pub fn run() -> String {
    let mut text = format!(
        "{:>7} {:>8} {:>7} {:>12} {:>12} {:>12} {:>12}\n",
        "queues", "workers", "ticks", "decide p50", "decide p99", "divide p50", "divide p99"
    );
    for (queues, workers, ticks) in FLEETS {
        let (decide, divide) = measure(queues, workers, ticks);
        let cell = |times: &[Duration], share: f64| {
            let rank = (share * times.len() as f64).ceil() as usize;
            format!(
                "{:.3} ms",
                times[rank.clamp(1, times.len()) - 1].as_secs_f64() * 1_000.0
            )
        };
        let _ = writeln!(
            text,
            "{queues:>7} {workers:>8} {ticks:>7} {:>12} {:>12} {:>12} {:>12}",
            cell(&decide, 0.5),
            cell(&decide, 0.99),
            cell(&divide, 0.5),
            cell(&divide, 0.99)
        );
    }
    text
}

/// Sorted times of deciding, and of dividing.
fn measure(queues: usize, workers: usize, ticks: usize) -> (Vec<Duration>, Vec<Duration>) {
    let mut random = Rng::with_seed(7);
    let mut fleet: Vec<Worker> = (0..workers)
        .map(|at| Worker {
            id: format!("w{at:06}"),
            slots: SLOTS,
            serves: (0..SERVED.min(queues)).map(|n| (at * 7 + n) % queues).collect(),
            held: BTreeMap::new(),
        })
        .collect();
    let mut state = State::default();
    let mut caps = vec![0; queues];
    let (mut decided, mut divided) = (Vec::with_capacity(ticks), Vec::with_capacity(ticks));
    for tick in 0..ticks {
        let inputs = inputs(queues, workers, &caps, &mut random);
        let (next, decisions) = timed(&mut decided, || {
            governor::decide(state, &inputs, tick as u64 * 5_000)
        });
        state = next;
        caps = decisions.values().map(|decision| decision.cap).collect();
        let targets = timed(&mut divided, || shard::divide(&caps, &fleet));
        for (worker, targets) in fleet.iter_mut().zip(targets) {
            worker.held = targets;
        }
    }
    decided.sort();
    divided.sort();
    (decided, divided)
}

/// A stopwatch is what a benchmark is for.
#[allow(clippy::disallowed_methods)]
fn timed<T>(times: &mut Vec<Duration>, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = work();
    times.push(begun.elapsed());
    result
}

fn inputs(queues: usize, workers: usize, caps: &[u32], random: &mut Rng) -> Inputs {
    let slots = workers as u32 * SLOTS;
    let resource = |at: usize| {
        let resource = ResourceInputs {
            capacity: (slots / (queues / SHARING).max(1) as u32).max(10),
            headroom: 0.7,
            in_use: Some(random_share(at) * 20.0),
            in_use_by_jobs: Some(random_share(at) * 15.0),
            ..ResourceInputs::default()
        };
        (format!("r{at:04}"), resource)
    };
    let mut all = Inputs {
        elapsed_ms: 5_000,
        tick_ms: 5_000,
        resources: (0..queues.div_ceil(SHARING)).map(resource).collect(),
        ..Inputs::default()
    };
    for (at, cap) in caps.iter().enumerate() {
        let mut run_time = Histogram::default();
        (0..100).for_each(|_| run_time.add(100.0 + 900.0 * random.f64()));
        let queue = QueueInputs {
            min: 1,
            max: 1_000,
            weight: 1.0 + (at % 5) as f64,
            costs: vec![(format!("r{:04}", at / SHARING), 1)],
            ready: random.u64(0..500),
            running: u64::from(*cap),
            in_flight: Some(f64::from(*cap) * random.f64()),
            slots: u64::from(slots) * SERVED.min(queues) as u64 / queues as u64,
            arrivals: random.u64(0..400),
            run_time,
            ..QueueInputs::default()
        };
        all.queues.insert(format!("q{at:05}"), queue);
    }
    all
}

fn random_share(at: usize) -> f64 {
    (at % 10) as f64 / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fleet_is_decided_on_and_divided() {
        let (decided, divided) = measure(10, 100, 3);
        assert_eq!((decided.len(), divided.len()), (3, 3));
    }
}
