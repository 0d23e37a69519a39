//! The governor of `flow`, called through its public interface as the controller calls it.

use tidegate_flow::{
    admission,
    governor::{self, Inputs, QueueInputs, ResourceInputs, State, StoreInputs, Strategy},
    histogram::Histogram,
};

use super::{Choice, Rule, Seen};
use crate::{
    plant::{Limit, News, PoolReport, QueueReport},
    scenario::{Queue, Scenario},
};

pub struct Governed {
    strategy: Strategy,
    state: State,
    admission: Vec<admission::State>,
}

impl Governed {
    pub fn new(strategy: Strategy) -> Self {
        Self {
            strategy,
            state: State::default(),
            admission: Vec::new(),
        }
    }
}

impl Rule for Governed {
    fn decide(&mut self, seen: &Seen<'_>) -> Vec<Choice> {
        let inputs = inputs_of(seen, self.strategy);
        let now_ms = (seen.report.now * 1_000.0) as u64;
        let (state, decisions) = governor::decide(std::mem::take(&mut self.state), &inputs, now_ms);
        self.state = state;
        self.admission
            .resize(seen.report.queues.len(), admission::State::default());
        let queues = seen.scenario.queues.values().zip(&seen.report.queues);
        let choices = decisions.into_values().zip(queues).zip(&mut self.admission);
        choices
            .map(|((decision, (setup, queue)), gate)| {
                let retry_cap = (f64::from(decision.cap) * decision.retry_share) as u32;
                let refuse = if seen.scenario.admission {
                    refuse(gate, &decision, setup, queue, seen.report.seconds)
                } else {
                    0.0
                };
                let limit = Limit {
                    cap: decision.cap,
                    retry_cap: retry_cap.max(1).min(decision.cap),
                    is_down: decision.is_down,
                    refuse,
                };
                Choice {
                    limit,
                    reason: decision.reason.as_str(),
                    numbers: decision.inputs,
                }
            })
            .collect()
    }

    fn is_budgeted(&self) -> bool {
        true
    }

    fn is_wave(&self, scenario: &Scenario, pool: usize, others: f64) -> bool {
        let name = scenario.resources.keys().nth(pool);
        self.strategy == Strategy::Adaptive
            && name.is_some_and(|name| governor::is_wave(&self.state, name, others))
    }

    fn is_wave_over(&self, scenario: &Scenario, pool: usize, others: f64) -> bool {
        let name = scenario.resources.keys().nth(pool);
        self.strategy == Strategy::Adaptive
            && name.is_some_and(|name| governor::is_wave_over(&self.state, name, others))
    }

    fn is_filled(&self, scenario: &Scenario, pool: usize, in_use: f64) -> bool {
        let resource = scenario.resources.iter().nth(pool);
        self.strategy == Strategy::Adaptive
            && resource
                .is_some_and(|(name, setup)| governor::is_filled(&self.state, name, in_use, setup.capacity))
    }

    fn is_news(&self, scenario: &Scenario, queue: usize, news: News<'_>, seconds: f64) -> bool {
        let name = scenario.queues.keys().nth(queue);
        self.strategy == Strategy::Adaptive
            && name.is_some_and(|name| {
                governor::is_surge(&self.state, name, news.arrived, seconds)
                    || governor::is_first_end(&self.state, name, &histogram(news.run_times))
            })
    }
}

fn refuse(
    gate: &mut admission::State,
    decision: &governor::Decision,
    setup: &Queue,
    queue: &QueueReport,
    seconds: f64,
) -> f64 {
    let inputs = admission::Inputs {
        deadline_s: setup.deadline_s.unwrap_or(0.0),
        ready: count(queue.ready),
        arrivals: queue.arrived,
        completions: queue.run_times.len() as u64,
        run_time_s: queue.run_times.iter().sum::<f64>() / queue.run_times.len().max(1) as f64,
        target: decision.cap,
        slots: u64::from(queue.slots),
        seconds,
    };
    gate.take(&inputs).refuse
}

/// What the controller would pass on, made of the reports.
fn inputs_of(seen: &Seen<'_>, strategy: Strategy) -> Inputs {
    let report = seen.report;
    let resources = seen.scenario.resources.keys().zip(&report.pools);
    let queues = seen.scenario.queues.iter().zip(&report.queues);
    Inputs {
        elapsed_ms: (report.seconds * 1_000.0).round() as u64,
        tick_ms: (seen.tick_s * 1_000.0) as u64,
        store: StoreInputs {
            latency_ms: report.store_latency_ms,
            timeout_ms: seen.scenario.store.timeout_ms,
            lease_ttl_ms: (seen.scenario.fleet.lease_ttl_s * 1_000.0) as u64,
        },
        resources: resources
            .map(|(name, pool)| (name.clone(), resource(pool)))
            .collect(),
        queues: queues
            .map(|((name, setup), queue)| (name.clone(), queue_inputs(seen, strategy, setup, queue)))
            .collect(),
    }
}

fn resource(pool: &PoolReport) -> ResourceInputs {
    ResourceInputs {
        capacity: pool.capacity,
        headroom: pool.headroom,
        in_use: pool.in_use,
        in_use_by_jobs: pool.by_jobs,
        waiters: pool.waiters,
        probe: histogram(&pool.probes),
    }
}

/// Of times in seconds.
fn histogram(times: &[f64]) -> Histogram {
    let mut histogram = Histogram::default();
    times.iter().for_each(|seconds| histogram.add(1_000.0 * seconds));
    histogram
}

fn queue_inputs(seen: &Seen<'_>, strategy: Strategy, setup: &Queue, queue: &QueueReport) -> QueueInputs {
    let costs = seen.scenario.costs(setup);
    let names = seen.scenario.resources.keys().enumerate();
    QueueInputs {
        strategy,
        min: setup.min,
        max: setup.max,
        weight: setup.weight,
        costs: names
            .filter(|(at, _)| costs.contains(at))
            .map(|(_, name)| (name.clone(), 1))
            .collect(),
        pinned: None,
        adopted: None,
        ready: count(queue.ready),
        running: count(queue.running),
        in_flight: Some(queue.in_flight),
        slots: u64::from(queue.slots),
        arrivals: queue.arrived,
        run_time: histogram(&queue.run_times),
        overload: queue.overload,
        down: queue.down,
        errors: queue.errors,
        is_down: queue.is_down,
        oldest_age_ms: (queue.oldest_age_s * 1_000.0) as u64,
    }
}

/// On the wire it is a whole number of at least 0.
fn count(value: f64) -> u64 {
    value.max(0.0) as u64
}
