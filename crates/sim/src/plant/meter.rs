//! What really happened: measured at the plant, not from what a controller believes.

use super::pool::Pool;

/// Of one queue.
#[derive(Clone, Debug, Default)]
pub struct QueueMeter {
    pub submitted: u64,
    pub refused: u64,
    pub attempts: u64,
    pub failed: u64,
    pub dead: u64,
    pub redelivered: u64,
    /// Seconds from arrival to success.
    pub sojourns: Vec<f32>,
    /// Ages at the end of jobs that had not ended: what they will have waited at least. The model leaves them out.
    pub unfinished: Vec<f32>,
}

/// Of one resource.
#[derive(Clone, Debug, Default)]
pub struct PoolMeter {
    pub place: usize,
    /// Seconds in which jobs counted for more than the hard cap, and in which somebody waited.
    pub over_s: f64,
    pub exhausted_s: f64,
    pub calls: u64,
    pub calls_failed: u64,
    pub call_times: Vec<f32>,
    pub probes: Vec<f64>,
    pub in_use_s: f64,
    pub by_jobs_s: f64,
    pub in_use_max: u32,
    /// The two sums above at the last look.
    pub looked: (f64, f64),
}

impl PoolMeter {
    pub fn pass(&mut self, seconds: f64, pool: &Pool, held: u32) {
        if held > pool.hard_cap {
            self.over_s += seconds;
        }
        if pool.waiters > 0 {
            self.exhausted_s += seconds;
        }
        self.in_use_s += f64::from(pool.in_use) * seconds;
        self.by_jobs_s += f64::from(pool.by_jobs) * seconds;
        self.in_use_max = self.in_use_max.max(pool.in_use);
    }
}

/// Means of one second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Second {
    pub running: f64,
    pub ready: f64,
    pub done: u32,
}

#[derive(Clone, Debug, Default)]
pub struct Meter {
    pub queues: Vec<QueueMeter>,
    pub pools: Vec<PoolMeter>,
    pub seconds: Vec<Second>,
}

impl Meter {
    pub fn new(queues: usize, pools: usize) -> Self {
        Self {
            queues: vec![QueueMeter::default(); queues],
            pools: (0..pools)
                .map(|place| PoolMeter {
                    place,
                    ..PoolMeter::default()
                })
                .collect(),
            seconds: Vec::new(),
        }
    }

    /// Divides a stretch of time over the seconds that it touches.
    pub fn pass(&mut self, from: f64, to: f64, running: u32, ready: usize) {
        let mut at = from;
        while at < to {
            let second = at as usize;
            let end = to.min((second + 1) as f64);
            if self.seconds.len() <= second {
                self.seconds.resize(second + 1, Second::default());
            }
            self.seconds[second].running += f64::from(running) * (end - at);
            self.seconds[second].ready += ready as f64 * (end - at);
            at = end;
        }
    }

    pub fn done(&mut self, queue: usize, now: f64, sojourn: f64) {
        self.queues[queue].sojourns.push(sojourn as f32);
        if let Some(second) = self.seconds.get_mut(now as usize) {
            second.done += 1;
        }
    }
}
