//! How runs end: settled, failed, or lost with their worker.

use super::{
    Plant,
    events::Event,
    jobs::{Class, State},
};

const SETTLE_OPS: f64 = 1.0;
const BACKOFF_S: f64 = 2.0;
/// Doublings of the backoff at most.
const BACKOFF_DOUBLINGS_MAX: i32 = 10;
/// A job that was put back because its downstream is down waits up to this long.
const THROTTLED_S: f64 = 2.0;

impl Plant {
    pub(super) fn settle(&mut self, at: usize, outcome: Option<Class>) {
        self.jobs[at].outcome = outcome;
        let (done, ok) = self.store_call(SETTLE_OPS);
        let timeout = self.scenario.store.timeout_ms as f64 / 1_000.0;
        let job = &mut self.jobs[at];
        // The slot is held until the worker knows, or gives up; then the job is not settled and will run again.
        let is_lost = !ok || done - self.now > timeout;
        job.is_lost = is_lost;
        let told_at = if is_lost {
            done.min(self.now + timeout)
        } else {
            done
        };
        if is_lost {
            self.meter.queues[self.jobs[at].queue].redelivered += 1;
        }
        let turn = self.enter(at, State::Settling);
        self.events.add(told_at, Event::Settled { job: at, turn });
    }

    pub(super) fn settled(&mut self, at: usize) {
        let is_lost = self.jobs[at].is_lost;
        self.free_slot(at);
        self.enter(at, State::Idle);
        let (queue, outcome) = (self.jobs[at].queue, self.jobs[at].outcome);
        let run_time = self.now - self.jobs[at].leased;
        self.meter.queues[queue].attempts += 1;
        let is_throttled = self.note_result(at, outcome);
        let window = &mut self.queues[queue].window;
        match outcome {
            None => {
                window.run_times.push(run_time);
                if is_lost {
                    self.queues[queue].ready.push_front(at);
                } else {
                    let sojourn = self.now - self.jobs[at].submitted;
                    self.meter.done(queue, self.now, sojourn);
                    self.free_jobs.push(at);
                }
            }
            Some(class) => {
                match class {
                    Class::Overload => window.overload += 1,
                    Class::Down => window.down += 1,
                    Class::Error => window.errors += 1,
                }
                self.meter.queues[queue].failed += 1;
                self.retry(at, queue, is_throttled);
            }
        }
        self.lease();
    }

    fn retry(&mut self, at: usize, queue: usize, is_throttled: bool) {
        let job = &mut self.jobs[at];
        if is_throttled {
            let wait = THROTTLED_S * (0.5 + self.chance.f64() / 2.0);
            self.events.add(self.now + wait, Event::RetryReady { job: at });
            return;
        }
        job.attempts += 1;
        if job.attempts >= self.queues[queue].setup.attempts {
            self.meter.queues[queue].dead += 1;
            self.free_jobs.push(at);
            return;
        }
        let doublings = (job.attempts as i32 - 1).min(BACKOFF_DOUBLINGS_MAX);
        let wait = BACKOFF_S * 2.0_f64.powi(doublings) * self.chance.f64();
        self.events.add(self.now + wait, Event::RetryReady { job: at });
    }

    pub(super) fn retry_ready(&mut self, at: usize) {
        let queue = self.jobs[at].queue;
        self.queues[queue].retries.push_back(at);
        self.lease();
    }

    /// Its worker is gone: what it held downstream is free, its slot is not.
    pub(super) fn orphan(&mut self, worker: usize) {
        let lost: Vec<usize> = (0..self.jobs.len())
            .filter(|at| {
                let job = &self.jobs[*at];
                job.worker == worker && !matches!(job.state, State::Idle | State::Ghost)
            })
            .collect();
        for at in lost {
            let state = self.jobs[at].state;
            match state {
                State::Working => {
                    let pool = self.pool_of(at);
                    self.enter(at, State::Ghost);
                    self.release_connection(pool, true);
                }
                State::Acquiring => {
                    let pool = self.pool_of(at);
                    self.pools[pool].waiters = self.pools[pool].waiters.saturating_sub(1);
                    self.enter(at, State::Ghost);
                }
                _ => {
                    self.enter(at, State::Ghost);
                }
            }
            // Renewed a quarter of its life ago on average, at most.
            let lost_at = self.now + self.scenario.fleet.lease_ttl_s;
            self.events.add(lost_at, Event::LeaseLost { job: at });
        }
    }

    pub(super) fn lease_lost(&mut self, at: usize) {
        self.free_slot(at);
        self.enter(at, State::Idle);
        let queue = self.jobs[at].queue;
        self.meter.queues[queue].redelivered += 1;
        self.queues[queue].ready.push_front(at);
        self.lease();
    }
}
