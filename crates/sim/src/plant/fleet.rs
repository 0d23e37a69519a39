//! Workers: slots that come and go, and what a worker does by itself when its downstream fails.

use super::{Plant, events::Event, jobs::Class};

/// Failures of class down in a row that mean that a downstream is gone.
const DOWN_IN_ROW: u32 = 5;
/// A worker asks a downstream that is gone after this long, doubling up to the second number.
const PROBE_S_MIN: f64 = 0.5;
const PROBE_S_MAX: f64 = 5.0;
/// How long a sign of overload halves what a worker runs.
const EASE_S: f64 = 1.0;

#[derive(Clone, Debug, Default)]
pub struct Worker {
    is_alive: bool,
    slots: u32,
    running: Vec<u32>,
    reflexes: Vec<Reflex>,
}

/// Of one queue.
#[derive(Clone, Debug, Default)]
struct Reflex {
    down_in_row: u32,
    is_tripped: bool,
    trials: u32,
    probe_at: f64,
    eased_until: f64,
    eased_to: u32,
}

impl Worker {
    fn free(&self) -> u32 {
        self.slots.saturating_sub(self.running.iter().sum())
    }

    fn may_take(&self, queue: usize, now: f64) -> bool {
        let (reflex, running) = (&self.reflexes[queue], self.running[queue]);
        if reflex.is_tripped {
            return running == 0 && now >= reflex.probe_at;
        }
        now >= reflex.eased_until || running < reflex.eased_to
    }
}

impl Plant {
    pub(super) fn begin_fleet(&mut self) {
        for (change, at) in self
            .scenario
            .fleet
            .changes
            .iter()
            .map(|change| change.at_s)
            .enumerate()
        {
            self.events.add(at, Event::Fleet { change });
        }
        self.resize(self.scenario.fleet.workers, false);
    }

    pub(super) fn change_fleet(&mut self, change: usize) {
        let (workers, kill) = {
            let change = &self.scenario.fleet.changes[change];
            (change.workers, change.kill)
        };
        self.resize(workers, kill);
        self.lease();
    }

    fn resize(&mut self, workers: u32, kill: bool) {
        let alive: Vec<usize> = (0..self.workers.len())
            .filter(|at| self.workers[*at].is_alive)
            .collect();
        for at in alive.iter().skip(workers as usize) {
            self.workers[*at].is_alive = false;
            if kill {
                self.orphan(*at);
            }
        }
        for _ in alive.len()..workers as usize {
            let queues = self.queues.len();
            self.workers.push(Worker {
                is_alive: true,
                slots: self.scenario.fleet.slots,
                running: vec![0; queues],
                reflexes: vec![Reflex::default(); queues],
            });
        }
    }

    /// The one with most room.
    pub(super) fn worker_for(&self, queue: usize) -> Option<usize> {
        let able =
            self.workers.iter().enumerate().filter(|(_, worker)| {
                worker.is_alive && worker.free() > 0 && worker.may_take(queue, self.now)
            });
        able.max_by_key(|(at, worker)| (worker.free(), std::cmp::Reverse(*at)))
            .map(|(at, _)| at)
    }

    pub(super) fn worker_took(&mut self, worker: usize, queue: usize) {
        self.workers[worker].running[queue] += 1;
    }

    pub(super) fn worker_freed(&mut self, worker: usize, queue: usize) {
        self.workers[worker].running[queue] -= 1;
    }

    pub(super) fn slots(&self) -> u32 {
        self.workers
            .iter()
            .filter(|worker| worker.is_alive)
            .map(|worker| worker.slots)
            .sum()
    }

    pub(super) fn is_down(&self, queue: usize) -> bool {
        self.workers
            .iter()
            .any(|worker| worker.is_alive && worker.reflexes[queue].is_tripped)
    }

    /// What a result tells its worker; `true`: it costs no attempt, because the downstream is known to be gone.
    pub(super) fn note_result(&mut self, job: usize, outcome: Option<Class>) -> bool {
        if !self.has_reflexes {
            return false;
        }
        let (worker, queue, now) = (self.worker_of(job), self.queue_of(job), self.now);
        if outcome == Some(Class::Overload) {
            self.ease(worker, queue);
        }
        let reflex = &mut self.workers[worker].reflexes[queue];
        if outcome != Some(Class::Down) {
            self.alarm |= reflex.is_tripped;
            (reflex.down_in_row, reflex.is_tripped, reflex.trials) = (0, false, 0);
            return false;
        }
        let is_known = reflex.is_tripped || self.queues[queue].limit.is_down;
        reflex.down_in_row += 1;
        if reflex.is_tripped {
            let wait = PROBE_S_MIN * 2.0_f64.powi(reflex.trials.min(8) as i32);
            reflex.trials += 1;
            reflex.probe_at = now + wait.min(PROBE_S_MAX);
        } else if reflex.down_in_row >= DOWN_IN_ROW {
            (reflex.is_tripped, reflex.probe_at) = (true, now + PROBE_S_MIN);
            self.alarm = true;
        } else {
            return is_known;
        }
        self.events.add(reflex.probe_at, Event::Wake);
        true
    }

    /// A sign that there is too much: half of what the worker runs, for a moment.
    pub(super) fn ease(&mut self, worker: usize, queue: usize) {
        let running = self.workers[worker].running[queue];
        let reflex = &mut self.workers[worker].reflexes[queue];
        if self.has_reflexes && self.now >= reflex.eased_until {
            (reflex.eased_until, reflex.eased_to) = (self.now + EASE_S, running.div_ceil(2).max(1));
            self.events.add(reflex.eased_until, Event::Wake);
            self.alarm = true;
        }
    }

    pub(super) fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive { queue, burst } => self.arrive(queue, burst),
            Event::Fetched { job, turn, ok } if self.is_current(job, turn) => self.fetched(job, ok),
            Event::OffDone { job, turn } if self.is_current(job, turn) => self.next_stage(job),
            Event::AcquireTimeout { job, turn } if self.is_current(job, turn) => self.gave_up_waiting(job),
            Event::StatementTimeout { job, turn } if self.is_current(job, turn) => {
                self.statement_timed_out(job)
            }
            Event::ConnectFailed { job, turn } if self.is_current(job, turn) => self.connect_failed(job),
            Event::Settled { job, turn } if self.is_current(job, turn) => self.settled(job),
            Event::RetryReady { job } => self.retry_ready(job),
            Event::LeaseLost { job } => self.lease_lost(job),
            Event::PoolEnd { pool, announced } => self.pool_end(pool, announced),
            Event::PoolChange { pool } => self.pool_changes(pool),
            Event::PoolDown { pool } => self.pool_down(pool),
            Event::ApiArrive { pool } => self.api_arrives(pool),
            Event::ApiTimeout { call, turn } if self.is_current_call(call, turn) => self.api_timed_out(call),
            Event::Probe { pool } => self.probe(pool),
            Event::Fleet { change } => self.change_fleet(change),
            Event::Wake => self.lease(),
            Event::Poll => self.poll(),
            // Of a step that is over.
            _ => {}
        }
    }
}
