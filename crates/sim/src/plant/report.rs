//! What the plant tells a controller at a tick: what routers, workers and probes would.

use super::Plant;

/// Of one queue, since the last report.
#[derive(Clone, Debug, Default)]
pub struct Window {
    pub arrived: u64,
    pub run_times: Vec<f64>,
    pub overload: u64,
    pub down: u64,
    pub errors: u64,
    pub in_flight_s: f64,
}

/// What a queue has seen before a tick is due.
#[derive(Clone, Copy, Debug)]
pub struct News<'a> {
    pub arrived: u64,
    /// Seconds of each job that succeeded.
    pub run_times: &'a [f64],
}

#[derive(Clone, Debug, Default)]
pub struct QueueReport {
    pub arrived: u64,
    /// Seconds of each job that succeeded.
    pub run_times: Vec<f64>,
    pub overload: u64,
    pub down: u64,
    pub errors: u64,
    pub is_down: bool,
    pub in_flight: f64,
    pub running: f64,
    pub ready: f64,
    pub oldest_age_s: f64,
    pub slots: u32,
}

#[derive(Clone, Debug, Default)]
pub struct PoolReport {
    pub capacity: u32,
    pub headroom: f64,
    /// `None`: not measured.
    pub in_use: Option<f64>,
    pub by_jobs: Option<f64>,
    pub waiters: Option<f64>,
    pub probes: Vec<f64>,
}

#[derive(Clone, Debug, Default)]
pub struct Report {
    pub now: f64,
    pub seconds: f64,
    pub queues: Vec<QueueReport>,
    pub pools: Vec<PoolReport>,
    pub store_latency_ms: Option<f64>,
}

impl Plant {
    /// Everything since the last report, which was `seconds` ago.
    pub fn report(&mut self, seconds: f64) -> Report {
        let mut queues = Vec::with_capacity(self.queues.len());
        for at in 0..self.queues.len() {
            let (is_down, oldest_age_s, slots) = (self.is_down(at), self.oldest_age(at), self.slots());
            let queue = &mut self.queues[at];
            let window = std::mem::take(&mut queue.window);
            queues.push(QueueReport {
                arrived: window.arrived,
                run_times: window.run_times,
                overload: window.overload,
                down: window.down,
                errors: window.errors,
                is_down,
                in_flight: window.in_flight_s / seconds.max(1e-9),
                running: f64::from(queue.running),
                ready: (queue.ready.len() + queue.retries.len()) as f64,
                oldest_age_s,
                slots,
            });
        }
        let pools = self.pools.iter().zip(&mut self.meter.pools).map(|(pool, meter)| {
            let measured = |value: f64| pool.resource.measured.then_some(value);
            let report = PoolReport {
                capacity: pool.resource.capacity,
                headroom: pool.resource.headroom,
                in_use: measured(meter.in_use_s / seconds.max(1e-9)),
                by_jobs: measured(meter.by_jobs_s / seconds.max(1e-9)),
                waiters: measured(f64::from(pool.waiters)),
                probes: std::mem::take(&mut meter.probes),
            };
            (meter.in_use_s, meter.by_jobs_s, meter.in_use_max) = (0.0, 0.0, 0);
            meter.looked = (0.0, 0.0);
            report
        });
        let (latency_s, calls) = std::mem::take(&mut self.store_window);
        Report {
            now: self.now,
            seconds,
            queues,
            pools: pools.collect(),
            store_latency_ms: (calls > 0).then(|| 1_000.0 * latency_s / calls as f64),
        }
    }
}
