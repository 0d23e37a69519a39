//! The plant: queues, workers, pools and a job store as discrete events on a virtual clock.
//!
//! It knows nothing of who controls it: limits come in, reports go out. A job is leased (three store operations), works
//! off the database, takes a connection of each resource in turn, and is settled (one operation). Arrivals and the work
//! of each job are drawn from streams of their own, so that every strategy meets the same ones.

mod ends;
mod events;
mod fleet;
mod jobs;
mod meter;
mod pool;
mod report;
mod traffic;

use std::collections::VecDeque;

use fastrand::Rng;

use crate::{
    plan,
    scenario::{self, Scenario},
};
use events::Events;
use fleet::Worker;
use jobs::Job;
pub use meter::{Meter, PoolMeter, QueueMeter, Second};
use pool::Pool;
use report::Window;
pub use report::{News, PoolReport, QueueReport, Report};

/// What a controller has decided for a queue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limit {
    pub cap: u32,
    pub retry_cap: u32,
    /// Its downstream is known to be gone: failures of class down use no attempt.
    pub is_down: bool,
    /// Share of submissions to refuse.
    pub refuse: f64,
}

struct Queue {
    setup: scenario::Queue,
    /// Place of each resource that a job works on, in order.
    stages: Vec<usize>,
    costs: Vec<usize>,
    ready: VecDeque<usize>,
    retries: VecDeque<usize>,
    running: u32,
    running_retries: u32,
    /// Which list the last lease was taken from.
    took_retry: bool,
    limit: Limit,
    window: Window,
    arrivals: Rng,
}

/// See the [module](self).
pub struct Plant {
    pub now: f64,
    pub meter: Meter,
    scenario: Scenario,
    queues: Vec<Queue>,
    pools: Vec<Pool>,
    jobs: Vec<Job>,
    free_jobs: Vec<usize>,
    calls: Vec<traffic::Call>,
    free_calls: Vec<usize>,
    workers: Vec<Worker>,
    events: Events,
    store_free_at: f64,
    store_window: (f64, u64),
    /// Jitter of backoffs and admission.
    chance: Rng,
    api_random: Vec<Rng>,
    alarm: bool,
    /// Whether workers hold back by themselves, and say so.
    pub has_reflexes: bool,
}

impl Plant {
    pub fn new(scenario: &Scenario, seed: u64) -> Self {
        let stream = |number: u64| plan::stream(seed, number);
        let queues = scenario
            .queues
            .values()
            .enumerate()
            .map(|(at, setup)| Queue {
                stages: setup
                    .work
                    .iter()
                    .filter_map(|work| scenario.resources.keys().position(|name| *name == work.resource))
                    .collect(),
                costs: scenario.costs(setup),
                setup: setup.clone(),
                ready: VecDeque::new(),
                retries: VecDeque::new(),
                running: 0,
                running_retries: 0,
                took_retry: false,
                limit: Limit::default(),
                window: Window::default(),
                arrivals: stream(plan::ARRIVALS + at as u64),
            })
            .collect();
        let pools: Vec<Pool> = scenario.resources.values().cloned().map(Pool::new).collect();
        let mut plant = Self {
            now: 0.0,
            meter: Meter::new(scenario.queues.len(), pools.len()),
            queues,
            api_random: (0..pools.len())
                .map(|at| stream(plan::CALLS + at as u64))
                .collect(),
            pools,
            jobs: Vec::new(),
            free_jobs: Vec::new(),
            calls: Vec::new(),
            free_calls: Vec::new(),
            workers: Vec::new(),
            events: Events::default(),
            store_free_at: 0.0,
            store_window: (0.0, 0),
            chance: stream(1),
            alarm: false,
            has_reflexes: false,
            scenario: scenario.clone(),
        };
        plant.begin();
        plant
    }

    fn begin(&mut self) {
        (0..self.queues.len()).for_each(|queue| self.schedule_arrivals(queue));
        (0..self.pools.len()).for_each(|pool| self.begin_traffic(pool));
        self.begin_fleet();
        if self.scenario.store.poll_s > 0.0 {
            self.events.add(jobs::POLL_STEP_S, events::Event::Poll);
        }
    }

    pub fn set_limits(&mut self, limits: &[Limit]) {
        for (queue, limit) in self.queues.iter_mut().zip(limits) {
            queue.limit = limit.clone();
        }
        self.lease();
    }

    /// Runs to `until`, or to an alarm of a worker; `true`: there was one.
    pub fn run(&mut self, until: f64) -> bool {
        self.alarm = false;
        while let Some((at, event)) = self.events.next_before(until) {
            self.pass_to(at);
            self.handle(event);
            if self.alarm {
                return true;
            }
        }
        self.pass_to(until);
        false
    }

    /// Time goes on; everything stays as it is meanwhile.
    fn pass_to(&mut self, at: f64) {
        let seconds = (at - self.now).max(0.0);
        if seconds > 0.0 {
            for (pool, seen) in self.pools.iter().zip(&mut self.meter.pools) {
                let held = self
                    .queues
                    .iter()
                    .enumerate()
                    .filter(|(_, queue)| queue.costs.contains(&seen.place));
                let held: u32 = held.map(|(_, queue)| queue.running).sum();
                seen.pass(seconds, pool, held);
            }
            let mut running = 0;
            for queue in &mut self.queues {
                queue.window.in_flight_s += f64::from(queue.running) * seconds;
                running += queue.running;
            }
            let ready = self
                .queues
                .iter()
                .map(|queue| queue.ready.len() + queue.retries.len())
                .sum();
            self.meter.pass(self.now, at, running, ready);
        }
        self.now = at;
    }

    pub fn queues(&self) -> usize {
        self.queues.len()
    }

    /// Since the last report.
    pub fn news(&self, queue: usize) -> News<'_> {
        let window = &self.queues[queue].window;
        News {
            arrived: window.arrived,
            run_times: &window.run_times,
        }
    }

    /// What everybody and jobs use of each resource that is measured (by its place), mean of the time since the last look.
    pub fn look(&mut self, seconds: f64) -> Vec<(usize, f64, f64)> {
        let mut looks = Vec::new();
        for (meter, pool) in self.meter.pools.iter_mut().zip(&self.pools) {
            let (in_use, by_jobs) = (meter.in_use_s - meter.looked.0, meter.by_jobs_s - meter.looked.1);
            meter.looked = (meter.in_use_s, meter.by_jobs_s);
            if pool.resource.measured && seconds > 0.0 {
                looks.push((meter.place, in_use / seconds, by_jobs / seconds));
            }
        }
        looks
    }

    /// Jobs of a queue that count against its cap.
    pub fn running(&self, queue: usize) -> u32 {
        self.queues[queue].running
    }

    pub fn costs(&self, queue: usize) -> &[usize] {
        &self.queues[queue].costs
    }

    pub fn hard_caps(&self) -> Vec<u32> {
        self.pools.iter().map(|pool| pool.hard_cap).collect()
    }
}
