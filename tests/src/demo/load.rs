//! What arrives when: the same for both lanes, decided before the start.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use super::{QUEUES, lane::Lane};
use crate::load::{open_loop, poisson};

const SEED: u64 = 17;
const BURST: f64 = 3.0;
/// A job of one queue, at a time since the start.
pub struct Arrival {
    pub at: Duration,
    pub queue: usize,
}

pub struct Plan {
    pub length: Duration,
    /// The apps have half of their capacity.
    pub slow: Range<Duration>,
    pub burst: Range<Duration>,
    /// In order of time; a job's number is its place here.
    pub arrivals: Vec<Arrival>,
}

impl Plan {
    pub fn new(length: Duration) -> Self {
        let part = |share: f64| length.mul_f64(share);
        let mut plan = Self {
            length,
            slow: part(1.0 / 3.0)..part(2.0 / 3.0),
            burst: part(0.42)..part(0.55),
            arrivals: Vec::new(),
        };
        for (queue, load) in QUEUES.iter().enumerate() {
            let rate = |at| if plan.burst.contains(&at) { BURST } else { 1.0 } * load.per_second;
            let times = poisson(SEED + queue as u64, length, rate);
            plan.arrivals
                .extend(times.into_iter().map(|at| Arrival { at, queue }));
        }
        plan.arrivals.sort_by_key(|arrival| arrival.at);
        plan
    }
}

/// Time since both lanes started.
#[derive(Clone, Default)]
pub struct Clock(Arc<OnceLock<Instant>>);

impl Clock {
    pub fn start(&self) {
        let _ = self.0.set(Instant::now());
    }

    pub fn elapsed(&self) -> Duration {
        self.0.get().map_or(Duration::ZERO, Instant::elapsed)
    }
}

/// Submits every arrival at its time; answers how many were acknowledged.
pub async fn submit(lane: &Lane, plan: &Plan, clock: &Clock) -> usize {
    let times: Vec<Duration> = plan.arrivals.iter().map(|arrival| arrival.at).collect();
    let sent = open_loop(Instant::now() - clock.elapsed(), &times, |number| {
        let queue = QUEUES[plan.arrivals[number].queue].name;
        let submit = lane.client.submit_raw(queue, format!("{{\"n\":{number}}}"));
        async move { submit.send().await.is_ok() }
    });
    sent.await.iter().filter(|sent| sent.answer).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_lanes_get_the_same_and_a_burst_of_three_times_the_load() {
        let (a, b) = (
            Plan::new(Duration::from_secs(60)),
            Plan::new(Duration::from_secs(60)),
        );
        let times = |plan: &Plan| plan.arrivals.iter().map(|a| (a.at, a.queue)).collect::<Vec<_>>();
        assert_eq!(times(&a), times(&b));
        let within = |range: &Range<Duration>| {
            let n = a
                .arrivals
                .iter()
                .filter(|arrival| range.contains(&arrival.at))
                .count();
            n as f64 / (range.end - range.start).as_secs_f64()
        };
        let calm = within(&(Duration::ZERO..Duration::from_secs(20)));
        let ratio = within(&a.burst) / calm;
        assert!((2.6..3.4).contains(&ratio), "{ratio}");
        assert!((88.0..108.0).contains(&calm), "{calm} a second");
    }
}
