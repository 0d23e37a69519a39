//! Who else uses a pool: calls of an API, and probes.

use super::{Plant, events::Event, pool::Holder};
use crate::plan;

/// What a caller of the API waits for a connection.
const API_TIMEOUT_S: f64 = 1.0;
/// A probe is a small statement.
const PROBE_WORK_S: f64 = 0.002;
/// How often a knee that moves is looked at.
const KNEE_STEP_S: f64 = 0.5;

#[derive(Clone, Copy, Debug, Default)]
pub struct Call {
    begun: f64,
    work: f64,
    turn: u32,
    pool: usize,
}

impl Plant {
    pub(super) fn begin_traffic(&mut self, pool: usize) {
        let resource = self.pools[pool].resource.clone();
        for (from, until) in resource.down_s {
            self.events.add(from, Event::PoolDown { pool });
            self.events.add(until, Event::PoolChange { pool });
        }
        if !matches!(resource.knee, crate::shape::Curve::Always(_)) {
            self.events.add(KNEE_STEP_S, Event::PoolChange { pool });
        }
        if resource.probe {
            self.events.add(1.0, Event::Probe { pool });
        }
        self.schedule_call(pool);
    }

    fn schedule_call(&mut self, pool: usize) {
        let Some(api) = &self.pools[pool].resource.api else {
            return;
        };
        let random = &mut self.api_random[pool];
        if let Some(at) = plan::next_arrival(&api.per_s, self.now, self.scenario.length_s, random) {
            self.events.add(at, Event::ApiArrive { pool });
        }
    }

    fn new_call(&mut self, pool: usize, work: f64) -> (usize, u32) {
        let at = self.free_calls.pop().unwrap_or_else(|| {
            self.calls.push(Call::default());
            self.calls.len() - 1
        });
        let turn = self.calls[at].turn + 1;
        self.calls[at] = Call {
            begun: self.now,
            work,
            turn,
            pool,
        };
        (at, turn)
    }

    pub(super) fn api_arrives(&mut self, pool: usize) {
        self.schedule_call(pool);
        let Some(api) = &self.pools[pool].resource.api else {
            return;
        };
        let work = api.work.draw(&mut self.api_random[pool]);
        self.meter.pools[pool].calls += 1;
        if self.pools[pool].is_down(self.now) {
            return;
        }
        let (at, turn) = self.new_call(pool, work);
        if self.pools[pool].has_room() {
            self.pools[pool].start(self.now, Holder::Api { at, turn }, work);
            self.announce(pool);
        } else {
            self.pools[pool].waiting.push_back(Holder::Api { at, turn });
            self.pools[pool].waiters += 1;
            self.events
                .add(self.now + API_TIMEOUT_S, Event::ApiTimeout { call: at, turn });
        }
    }

    pub(super) fn is_current_call(&self, at: usize, turn: u32) -> bool {
        self.calls[at].turn == turn
    }

    /// A caller has waited for its connection long enough. One that works meanwhile has another turn.
    pub(super) fn api_timed_out(&mut self, at: usize) {
        let pool = self.calls[at].pool;
        self.pools[pool].waiters -= 1;
        self.meter.pools[pool].calls_failed += 1;
        self.end_call(at);
    }

    fn end_call(&mut self, at: usize) {
        self.calls[at].turn += 1;
        self.free_calls.push(at);
    }

    pub(super) fn probe(&mut self, pool: usize) {
        self.events.add(self.now + 1.0, Event::Probe { pool });
        if self.pools[pool].is_down(self.now) || !self.pools[pool].has_room() {
            return;
        }
        let (at, turn) = self.new_call(pool, PROBE_WORK_S);
        self.pools[pool].start(self.now, Holder::Probe { at, turn }, PROBE_WORK_S);
        self.announce(pool);
    }

    /// A connection is free: the next one in line has it.
    pub(super) fn release_connection(&mut self, pool: usize, was_job: bool) {
        self.pools[pool].stop(self.now, was_job);
        while self.pools[pool].has_room() {
            let Some(next) = self.pools[pool].waiting.pop_front() else {
                break;
            };
            match next {
                Holder::Job { at, turn } if self.is_current(at, turn) => {
                    self.pools[pool].waiters -= 1;
                    self.start_work(at, pool);
                }
                Holder::Api { at, turn } if self.is_current_call(at, turn) => {
                    self.pools[pool].waiters -= 1;
                    // A new turn, so that its timeout means nothing any more.
                    self.calls[at].turn += 1;
                    let (turn, work) = (self.calls[at].turn, self.calls[at].work);
                    self.pools[pool].start(self.now, Holder::Api { at, turn }, work);
                }
                _ => {}
            }
        }
        self.announce(pool);
    }

    /// Plans the next end of a pool's work; an earlier plan is void.
    pub(super) fn announce(&mut self, pool: usize) {
        let (jobs, calls) = (&self.jobs, &self.calls);
        let is_stale = |holder: Holder| match holder {
            Holder::Job { at, turn } => super::jobs::turn_of(jobs, at) != turn,
            Holder::Api { at, turn } | Holder::Probe { at, turn } => calls[at].turn != turn,
        };
        let next = self.pools[pool].next_end(is_stale);
        self.pools[pool].announced += 1;
        let announced = self.pools[pool].announced;
        if let Some(at) = next {
            self.events
                .add(at.max(self.now), Event::PoolEnd { pool, announced });
        }
    }

    pub(super) fn pool_end(&mut self, pool: usize, announced: u64) {
        if self.pools[pool].announced != announced {
            return;
        }
        match self.pools[pool].ended(self.now) {
            Some(Holder::Job { at, .. }) => self.work_done(at, pool),
            Some(Holder::Api { at, .. }) => {
                let took = self.now - self.calls[at].begun;
                self.meter.pools[pool].call_times.push(took as f32);
                self.end_call(at);
                self.release_connection(pool, false);
            }
            Some(Holder::Probe { at, .. }) => {
                let took = self.now - self.calls[at].begun;
                self.meter.pools[pool].probes.push(took);
                self.end_call(at);
                self.release_connection(pool, false);
            }
            None => self.announce(pool),
        }
    }

    pub(super) fn pool_changes(&mut self, pool: usize) {
        self.pools[pool].turn_to(self.now);
        self.announce(pool);
        if !matches!(self.pools[pool].resource.knee, crate::shape::Curve::Always(_)) {
            self.events
                .add(self.now + KNEE_STEP_S, Event::PoolChange { pool });
        }
    }

    /// Everything that uses it or waits for it fails.
    pub(super) fn pool_down(&mut self, pool: usize) {
        self.pools[pool].waiting.clear();
        self.pools[pool].waiters = 0;
        self.break_jobs(pool);
        let free: std::collections::BTreeSet<usize> = self.free_calls.iter().copied().collect();
        let broken: Vec<usize> = (0..self.calls.len())
            .filter(|at| self.calls[*at].pool == pool && !free.contains(at))
            .collect();
        broken.into_iter().for_each(|at| self.end_call(at));
        (0..self.pools[pool].in_use).for_each(|_| self.pools[pool].stop(self.now, false));
        self.announce(pool);
    }
}
