//! What happens in a scenario whatever anybody decides: the arrivals of every queue and the calls of every API, as the
//! plant draws them from a seed. A run with real servers meets the same ones.

use fastrand::Rng;

use crate::{
    scenario::{Queue, Resource, Scenario},
    shape::Curve,
};

/// Streams of a seed: of queues from here on, by their place, and of APIs from there on.
pub(crate) const ARRIVALS: u64 = 100;
pub(crate) const CALLS: u64 = 500;

/// A job that arrives. Seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrival {
    pub at: f64,
    /// Its queue's place in the scenario.
    pub queue: usize,
    /// Work of its first attempt that needs no resource, and on all of its resources.
    pub off: f64,
    pub work: f64,
}

/// A call of other users of a resource. Seconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    pub at: f64,
    pub work: f64,
}

/// All jobs, in order of time.
pub fn arrivals(scenario: &Scenario, seed: u64) -> Vec<Arrival> {
    let mut all = Vec::new();
    for (place, queue) in scenario.queues.values().enumerate() {
        let random = stream(seed, ARRIVALS + place as u64);
        all.extend(of_queue(place, queue, scenario.length_s, random));
    }
    all.sort_by(|a, b| a.at.total_cmp(&b.at));
    all
}

fn of_queue(place: usize, queue: &Queue, length_s: f64, mut random: Rng) -> Vec<Arrival> {
    let mut bursts = queue.bursts.clone();
    bursts.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut bursts = bursts.into_iter().peekable();
    let mut jobs = Vec::new();
    let mut next = next_arrival(&queue.per_s, 0.0, length_s, &mut random);
    loop {
        let burst = bursts.next_if(|(at, _)| next.is_none_or(|next| *at <= next));
        let (at, count) = match (burst, next) {
            (Some(burst), _) => burst,
            (None, Some(at)) => (at, 1),
            (None, None) => break,
        };
        let made = (0..count).map(|_| job(place, queue, at, random.u64(..)));
        jobs.extend(made);
        if burst.is_none() {
            next = next_arrival(&queue.per_s, at, length_s, &mut random);
        }
    }
    jobs.retain(|job| job.at < length_s);
    jobs
}

/// A job draws its work from a stream of its own, so that what is decided about one shifts nothing of another.
fn job(place: usize, queue: &Queue, at: f64, seed: u64) -> Arrival {
    let mut random = Rng::with_seed(seed);
    let scale = queue.scale.at(at);
    let off = queue.off.draw(&mut random) * scale;
    let work = queue.work.iter().map(|work| work.time.draw(&mut random) * scale);
    Arrival {
        at,
        queue: place,
        off,
        work: work.sum(),
    }
}

/// Calls of the other users of a resource (by its place), in order of time.
pub fn calls(resource: &Resource, place: usize, length_s: f64, seed: u64) -> Vec<Call> {
    let Some(api) = &resource.api else {
        return Vec::new();
    };
    let mut random = stream(seed, CALLS + place as u64);
    let mut calls = Vec::new();
    let mut next = next_arrival(&api.per_s, 0.0, length_s, &mut random);
    while let Some(at) = next.filter(|at| *at < length_s) {
        next = next_arrival(&api.per_s, at, length_s, &mut random);
        let work = api.work.draw(&mut random);
        calls.push(Call { at, work });
    }
    calls
}

/// Distinct streams of one seed: what one part draws never shifts what another meets.
pub(crate) fn stream(seed: u64, number: u64) -> Rng {
    Rng::with_seed(seed.wrapping_mul(1_000_003).wrapping_add(number))
}

/// The next of Poisson arrivals by thinning: candidates at the highest rate, each taken with the rate of its time.
pub(crate) fn next_arrival(per_s: &Curve, from: f64, length_s: f64, random: &mut Rng) -> Option<f64> {
    let most = per_s.most();
    if most <= 0.0 {
        return None;
    }
    let mut at = from;
    while at < length_s {
        at += -(1.0 - random.f64()).ln() / most;
        if random.f64() * most < per_s.at(at) {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::{Setup, run};

    const BUSY: &str = r#"
        name = "a"
        about = "b"
        length_s = 60
        [resources.pg]
        capacity = 50
        knee = 32
        api = { per_s = [[0, 40], [20, 90]] }
        [queues.a]
        per_s = [[0, 2], [30, 10]]
        bursts = [[29, 50], [10, 7]]
        work = [{ resource = "pg", time = "er4(0.3)" }]
        [queues.b]
        per_s = 3
        off = "exp(0.1)"
    "#;

    #[test]
    fn the_plan_is_what_the_plant_meets() {
        let scenario = Scenario::parse(BUSY).expect("valid");
        let setup = Setup {
            seed: 5,
            tick_s: 5.0,
            keeps_log: false,
        };
        let met = run(&scenario, "static50", &setup).expect("runs").meter;
        let plan = arrivals(&scenario, 5);
        assert!(plan.is_sorted_by(|a, b| a.at <= b.at));
        for (place, queue) in met.queues.iter().enumerate() {
            let planned = plan.iter().filter(|job| job.queue == place).count();
            assert_eq!(planned as u64, queue.submitted, "queue {place}");
        }
        assert!(plan.iter().filter(|job| job.at == 29.0).count() == 50);
        let resource = &scenario.resources["pg"];
        let calls = calls(resource, 0, 60.0, 5);
        assert_eq!(calls.len() as u64, met.pools[0].calls);
    }
}
