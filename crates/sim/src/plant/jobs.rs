//! The life of a job, from its arrival to its end.

use fastrand::Rng;

use super::{Plant, events::Event, pool::Holder};
use crate::plan;

/// Store operations of a lease.
const LEASE_OPS: f64 = 3.0;
const ACQUIRE_TIMEOUT_S: f64 = 2.0;
/// A call to something that is down fails after this.
const DOWN_S: f64 = 0.05;
/// Polls of idle slots are counted together this often.
pub(super) const POLL_STEP_S: f64 = 0.1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Overload,
    Down,
    Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not running: waiting, or gone.
    Idle,
    Fetching,
    Off,
    Acquiring,
    Working,
    Settling,
    /// Its worker died; the slot counts until the lease ends.
    Ghost,
}

#[derive(Clone, Debug)]
pub struct Job {
    pub(super) queue: usize,
    pub(super) submitted: f64,
    /// What its runs are drawn from, the same ones under every strategy.
    pub(super) random: Rng,
    /// Of this run.
    pub(super) off: f64,
    pub(super) work: Vec<f64>,
    pub(super) will_fail: bool,
    pub(super) attempts: u32,
    pub(super) state: State,
    /// Grows with every step, so that events of past steps are known as such.
    pub(super) turn: u32,
    pub(super) worker: usize,
    pub(super) leased: f64,
    pub(super) stage: usize,
    pub(super) is_retry: bool,
    pub(super) outcome: Option<Class>,
    /// The store was not told of the outcome: the job will run again.
    pub(super) is_lost: bool,
}

impl Plant {
    pub(super) fn schedule_arrivals(&mut self, queue: usize) {
        for (at, burst) in self.queues[queue].setup.bursts.clone() {
            self.events.add(at, Event::Arrive { queue, burst });
        }
        self.schedule_arrival(queue);
    }

    fn schedule_arrival(&mut self, queue: usize) {
        let of = &mut self.queues[queue];
        let next = plan::next_arrival(
            &of.setup.per_s,
            self.now,
            self.scenario.length_s,
            &mut of.arrivals,
        );
        if let Some(at) = next {
            self.events.add(at, Event::Arrive { queue, burst: 0 });
        }
    }

    pub(super) fn arrive(&mut self, queue: usize, burst: u32) {
        for _ in 0..burst.max(1) {
            let of = &mut self.queues[queue];
            let random = &mut of.arrivals;
            let job = Job {
                queue,
                submitted: self.now,
                random: Rng::with_seed(random.u64(..)),
                off: 0.0,
                work: Vec::new(),
                will_fail: false,
                attempts: 0,
                state: State::Idle,
                turn: 0,
                worker: 0,
                leased: 0.0,
                stage: 0,
                is_retry: false,
                outcome: None,
                is_lost: false,
            };
            of.window.arrived += 1;
            self.meter.queues[queue].submitted += 1;
            if self.chance.f64() < of.limit.refuse {
                self.meter.queues[queue].refused += 1;
                continue;
            }
            let at = match self.free_jobs.pop() {
                Some(at) => {
                    let turn = self.jobs[at].turn + 1;
                    self.jobs[at] = Job { turn, ..job };
                    at
                }
                None => {
                    self.jobs.push(job);
                    self.jobs.len() - 1
                }
            };
            self.queues[queue].ready.push_back(at);
        }
        if burst == 0 {
            self.schedule_arrival(queue);
        }
        self.lease();
    }

    /// Starts whatever may run: a job of each queue in turn, as long as caps and workers allow.
    pub(super) fn lease(&mut self) {
        let mut is_open = vec![true; self.queues.len()];
        while is_open.contains(&true) {
            for (queue, open) in is_open.iter_mut().enumerate() {
                *open = *open && self.lease_one(queue);
            }
        }
    }

    fn lease_one(&mut self, queue: usize) -> bool {
        let of = &self.queues[queue];
        if of.running >= of.limit.cap {
            return false;
        }
        let may_retry = !of.retries.is_empty() && of.running_retries < of.limit.retry_cap;
        let is_retry = may_retry && (of.ready.is_empty() || !of.took_retry);
        if !is_retry && of.ready.is_empty() {
            return false;
        }
        let Some(worker) = self.worker_for(queue) else {
            return false;
        };
        let of = &mut self.queues[queue];
        of.took_retry = is_retry;
        let list = if is_retry { &mut of.retries } else { &mut of.ready };
        let Some(at) = list.pop_front() else {
            return false;
        };
        of.running += 1;
        of.running_retries += u32::from(is_retry);
        self.worker_took(worker, queue);
        let now = self.now;
        let job = &mut self.jobs[at];
        (job.worker, job.is_retry, job.leased, job.stage, job.outcome) = (worker, is_retry, now, 0, None);
        let (setup, random) = (&self.queues[queue].setup, &mut job.random);
        let scale = setup.scale.at(now);
        job.off = setup.off.draw(random) * scale;
        job.work.clear();
        job.work
            .extend(setup.work.iter().map(|work| work.time.draw(random) * scale));
        job.will_fail = random.f64() < setup.fails.at(now);
        let (done, ok) = self.store_call(LEASE_OPS);
        let turn = self.enter(at, State::Fetching);
        self.events.add(done, Event::Fetched { job: at, turn, ok });
        true
    }

    /// When a call of so many operations is answered, and whether well.
    pub(super) fn store_call(&mut self, ops: f64) -> (f64, bool) {
        let store = &self.scenario.store;
        if store
            .down_s
            .iter()
            .any(|(from, until)| (*from..*until).contains(&self.now))
        {
            return (self.now + DOWN_S, false);
        }
        let begin = self.store_free_at.max(self.now);
        self.store_free_at = begin + ops * store.op_ms.at(self.now) / 1_000.0;
        let done = self.store_free_at + store.latency_ms.at(self.now) / 1_000.0;
        self.store_window.0 += done - self.now;
        self.store_window.1 += 1;
        (done, true)
    }

    /// Slots that may run a job and have none ask the store again and again.
    pub(super) fn poll(&mut self) {
        self.events.add(self.now + POLL_STEP_S, Event::Poll);
        let store = &self.scenario.store;
        let mut free = self.slots();
        let mut idle = 0;
        for queue in &self.queues {
            let may = queue.limit.cap.saturating_sub(queue.running).min(free);
            free -= may;
            idle += may;
        }
        let ops = f64::from(idle) * LEASE_OPS * POLL_STEP_S / store.poll_s;
        self.store_free_at = self.store_free_at.max(self.now) + ops * store.op_ms.at(self.now) / 1_000.0;
    }

    pub(super) fn enter(&mut self, at: usize, state: State) -> u32 {
        let job = &mut self.jobs[at];
        job.state = state;
        job.turn += 1;
        job.turn
    }

    pub(super) fn is_current(&self, at: usize, turn: u32) -> bool {
        self.jobs[at].turn == turn
    }

    pub(super) fn fetched(&mut self, at: usize, ok: bool) {
        if !ok {
            self.free_slot(at);
            self.enter(at, State::Idle);
            let queue = self.jobs[at].queue;
            self.queues[queue].ready.push_front(at);
            // Not at once: a store that is down would be asked without end.
            self.events.add(self.now + DOWN_S, Event::Wake);
            return;
        }
        let (off, turn) = (self.jobs[at].off, self.enter(at, State::Off));
        self.events.add(self.now + off, Event::OffDone { job: at, turn });
    }

    /// The next resource, or the end of the work.
    pub(super) fn next_stage(&mut self, at: usize) {
        let (queue, stage) = (self.jobs[at].queue, self.jobs[at].stage);
        let Some(pool) = self.queues[queue].stages.get(stage).copied() else {
            let outcome = self.jobs[at].will_fail.then_some(Class::Error);
            self.settle(at, outcome);
            return;
        };
        let turn = self.enter(at, State::Acquiring);
        if self.pools[pool].is_down(self.now) {
            self.events
                .add(self.now + DOWN_S, Event::ConnectFailed { job: at, turn });
        } else if self.pools[pool].has_room() {
            self.start_work(at, pool);
        } else {
            self.pools[pool].waiting.push_back(Holder::Job { at, turn });
            self.pools[pool].waiters += 1;
            self.events.add(
                self.now + ACQUIRE_TIMEOUT_S,
                Event::AcquireTimeout { job: at, turn },
            );
        }
    }

    pub(super) fn start_work(&mut self, at: usize, pool: usize) {
        let turn = self.enter(at, State::Working);
        let job = &self.jobs[at];
        let (work, timeout) = (
            job.work[job.stage],
            self.queues[job.queue].setup.statement_timeout_s,
        );
        self.pools[pool].start(self.now, Holder::Job { at, turn }, work);
        self.events
            .add(self.now + timeout, Event::StatementTimeout { job: at, turn });
        self.announce(pool);
    }

    pub(super) fn pool_of(&self, at: usize) -> usize {
        let job = &self.jobs[at];
        self.queues[job.queue].stages[job.stage]
    }

    pub(super) fn work_done(&mut self, at: usize, pool: usize) {
        self.jobs[at].stage += 1;
        self.release_connection(pool, true);
        self.next_stage(at);
    }

    pub(super) fn gave_up_waiting(&mut self, at: usize) {
        let pool = self.pool_of(at);
        self.pools[pool].waiters -= 1;
        self.settle(at, Some(Class::Overload));
    }

    pub(super) fn connect_failed(&mut self, at: usize) {
        self.settle(at, Some(Class::Down));
    }

    pub(super) fn statement_timed_out(&mut self, at: usize) {
        let pool = self.pool_of(at);
        self.settle(at, Some(Class::Overload));
        self.release_connection(pool, true);
    }

    /// A resource goes down under the jobs that use it or wait for it.
    pub(super) fn break_jobs(&mut self, pool: usize) {
        for at in 0..self.jobs.len() {
            let state = self.jobs[at].state;
            if !matches!(state, State::Working | State::Acquiring) || self.pool_of(at) != pool {
                continue;
            }
            self.settle(at, Some(Class::Down));
            if state == State::Working {
                self.pools[pool].stop(self.now, true);
            }
        }
    }

    pub(super) fn free_slot(&mut self, at: usize) {
        let (queue, is_retry, worker) = (self.jobs[at].queue, self.jobs[at].is_retry, self.jobs[at].worker);
        self.queues[queue].running -= 1;
        self.queues[queue].running_retries -= u32::from(is_retry);
        self.worker_freed(worker, queue);
    }

    pub(super) fn queue_of(&self, at: usize) -> usize {
        self.jobs[at].queue
    }

    pub(super) fn worker_of(&self, at: usize) -> usize {
        self.jobs[at].worker
    }

    /// Age of the job that has waited longest.
    pub(super) fn oldest_age(&self, queue: usize) -> f64 {
        let first = self.queues[queue].ready.front();
        first.map_or(0.0, |at| self.now - self.jobs[*at].submitted)
    }
}

pub(super) fn turn_of(jobs: &[Job], at: usize) -> u32 {
    jobs[at].turn
}
