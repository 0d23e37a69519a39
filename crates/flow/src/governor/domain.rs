//! Domains: the queues that share one limiting resource are judged together; a queue that costs nothing is one alone.
//!
//! A queue that costs several resources is judged where it takes the largest part of the budget, and only counted in the
//! others.

use std::collections::BTreeMap;

use super::{
    capacity::{Evidence, Verdict},
    inputs::{Inputs, QueueInputs, ResourceInputs, StoreInputs, Strategy},
    params::{EVIDENCE_JOBS, EVIDENCE_S, HARMLESS, OTHERS, USABLE},
    reason::Reason,
    speed::{Pooled, Sample},
    state::{DomainState, QueueState, Trial, Window},
    trip::Phase,
};
use crate::budget;

/// A window is judged by then with whatever it has: very slow jobs are judged too.
const WINDOW_S_MAX: f64 = 60.0;
const JOBS_MIN: u64 = 10;
/// Below this part of what jobs may use a domain is lightly loaded: its run times are the usual ones.
const LIGHT: f64 = 0.6;
/// IQR by median above which job times say little, and a probe says more.
const MIXED: f64 = 3.0;
/// Share of the weight of queues that a test needs jobs of, and the error relative to their run times that it may have.
const TRIED: f64 = 0.8;
const TRIED_ERROR: f64 = 0.15;
/// Share of a cap that counts as all of it.
const IN_USE: f64 = 0.9;
/// More than the capacity by this factor cannot be in use: it is a broken report.
const ABSURD: f64 = 1.5;
/// Share of the store's timeout, and of a lease's life, that an operation may take.
const STORE_TIMEOUT_SHARE: f64 = 0.4;
const STORE_LEASE_SHARE: f64 = 0.1;
const STORE_CUT: f64 = 0.7;
/// Share of a capacity that counts as all of it, and how long a wave may have it before others are taken at their word:
/// right after its beginning it is full of jobs that are about to end.
pub(super) const FULL_POOL: f64 = 0.97;
const FULL_S: f64 = 2.0 * EVIDENCE_S;
/// How long others' use counts as it was last measured.
const OTHERS_HELD_S: f64 = 30.0;

/// A domain at one tick.
pub(super) struct Domain<'a> {
    pub key: String,
    pub resource: Option<&'a ResourceInputs>,
    /// (place in the queues, units of a running job).
    pub members: Vec<(usize, u32)>,
    /// Places of those that are judged here.
    pub judged: Vec<usize>,
    /// Units that jobs may hold at the very most.
    pub hard: f64,
    /// Units that jobs hold, mean of the tick.
    pub in_flight: f64,
    /// Now.
    running: f64,
    pub is_waiting: bool,
    /// Units of its queues' floors.
    floors: f64,
    overload: u64,
    results: u64,
    /// Some queue of it is ruled by speed and by others' use.
    pub is_adaptive: bool,
}

/// What a domain may hold, and what says so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub units: u64,
    pub reason: Reason,
}

impl<'a> Domain<'a> {
    /// Resources first, in the order of their names, so that a resource's place here is its place in the budgets.
    pub fn all(
        inputs: &'a Inputs,
        queues: &[&QueueInputs],
        targets: &[u32],
        in_flight: &[f64],
    ) -> Vec<Domain<'a>> {
        let mut domains: Vec<Domain<'a>> = Vec::with_capacity(inputs.resources.len());
        let mut places = BTreeMap::new();
        for (name, resource) in &inputs.resources {
            places.insert(name.as_str(), domains.len());
            let hard = budget::budget(resource.capacity, resource.headroom) as f64;
            domains.push(Domain::new(name.clone(), Some(resource), hard));
        }
        for (at, (name, queue)) in inputs.queues.iter().enumerate() {
            let mut binding: Option<(f64, usize)> = None;
            for (resource, units) in &queue.costs {
                let Some(place) = places.get(resource.as_str()).copied() else {
                    continue;
                };
                domains[place].members.push((at, *units));
                let share = f64::from(*units) / domains[place].hard.max(1.0);
                if binding.is_none_or(|(most, _)| share > most) {
                    binding = Some((share, place));
                }
            }
            if queue.costs.is_empty() {
                let slots = u32::try_from(queue.slots).unwrap_or(u32::MAX);
                let reach = if slots > 0 {
                    slots.min(queue.max)
                } else {
                    queue.max
                };
                binding = Some((1.0, domains.len()));
                // No resource is called so: names have no slash.
                let mut own = Domain::new(format!("queue/{name}"), None, f64::from(reach.max(queue.min)));
                own.members.push((at, 1));
                domains.push(own);
            }
            if let (Strategy::Adaptive, Some((_, place))) = (queue.strategy, binding) {
                domains[place].judged.push(at);
            }
        }
        for domain in &mut domains {
            domain.look(queues, targets, in_flight);
        }
        domains
    }

    fn new(key: String, resource: Option<&'a ResourceInputs>, hard: f64) -> Self {
        Self {
            key,
            resource,
            members: Vec::new(),
            judged: Vec::new(),
            hard,
            in_flight: 0.0,
            running: 0.0,
            is_waiting: false,
            floors: 0.0,
            overload: 0,
            results: 0,
            is_adaptive: false,
        }
    }

    fn look(&mut self, queues: &[&QueueInputs], targets: &[u32], in_flight: &[f64]) {
        for (at, units) in &self.members {
            let queue = queues[*at];
            // What waits although its cap is in use: a queue beside it may keep slots that it does not use.
            self.is_waiting |= queue.ready > 0 && in_flight[*at] >= IN_USE * f64::from(targets[*at]) - 1.0;
            self.is_adaptive |= queue.strategy == Strategy::Adaptive;
            self.floors += f64::from(*units) * f64::from(queue.min);
            self.in_flight += f64::from(*units) * in_flight[*at];
            self.running += f64::from(*units) * queue.running as f64;
            self.overload = self.overload.saturating_add(queue.overload);
            self.results = self.results.saturating_add(queue.results());
        }
    }

    /// Others' use of the resource, smoothed; 0 where it is not measured.
    pub fn see_others(&self, state: &mut DomainState, seconds: f64) {
        let Some(resource) = self.resource else { return };
        let capacity = f64::from(resource.capacity);
        let is_sane = |units: &f64| units.is_finite() && (0.0..=ABSURD * capacity).contains(units);
        let by_jobs = resource.in_use_by_jobs.filter(is_sane).unwrap_or(self.in_flight);
        let Some(in_use) = resource.in_use.filter(is_sane) else {
            // What was true a moment ago is a better guess than nothing; what was true long ago is not.
            state.unmeasured_s += seconds;
            if state.unmeasured_s > OTHERS_HELD_S {
                state.others.value = None;
            }
            return;
        };
        state.unmeasured_s = 0.0;
        let sample = (in_use - by_jobs).clamp(0.0, capacity);
        // Of both, as two counts are compared: by what was known alone a queue of callers that is gone is let go bit by bit, and
        // callers who are slow because of the jobs push the jobs out.
        let noise = ((state.others.or(sample) + sample) / 2.0).max(1.0).sqrt();
        state.others.take(sample, noise, seconds);
        let is_full = in_use >= FULL_POOL * capacity;
        state.full_s = if is_full { state.full_s + seconds } else { 0.0 };
        if state.full_s >= FULL_S {
            // Those who wait for a connection are not seen: what others have is the least of what they want.
            state.others.value = Some(state.others.or(sample).max(sample));
        }
    }

    /// Adds the tick to the window, and judges the window once it holds enough.
    pub fn see_speed(&self, state: &mut DomainState, queues: &mut [QueueState], seconds: f64) {
        let others = state.others.or(0.0);
        let phases = self.judged.iter().map(|at| &queues[*at].trip);
        for trip in phases {
            match trip.phase {
                Phase::Closed if trip.has_just_closed => {
                    // What comes back may be less than what went: no leaps, and a look at each step.
                    state.capacity.resume(f64::from(trip.limit), others);
                }
                Phase::Closed => {}
                _ => state.capacity.has_met_limit = true,
            }
        }
        let window = &mut state.window;
        window.seconds += seconds;
        window.in_flight += self.in_flight * seconds;
        window.others += others * seconds;
        if let Some(resource) = self.resource {
            window.probe.merge(&resource.probe);
        }
        let jobs: u64 = self.judged.iter().map(|at| queues[*at].window.count()).sum();
        // A tick that came a little early is a tick all the same.
        let is_long = window.seconds >= 0.95 * EVIDENCE_S;
        let is_enough = jobs >= EVIDENCE_JOBS || (window.seconds >= WINDOW_S_MAX && jobs >= JOBS_MIN);
        if !is_long || !is_enough {
            return;
        }
        let window = std::mem::take(window);
        let pooled = self.pool(&window, state, queues);
        let usual = |at: &usize| queues[*at].baseline.mean.ms * queues[*at].window.count() as f64 / 1_000.0;
        let run_time_s = self.judged.iter().map(usual).sum::<f64>() / jobs.max(1) as f64;
        let is_tripped = self
            .judged
            .iter()
            .any(|at| queues[*at].trip.phase != Phase::Closed);
        let seen = Evidence {
            pooled,
            trial: self.trial(state, queues),
            seconds: window.seconds,
            in_flight: window.in_flight / window.seconds,
            others: window.others / window.seconds,
            others_now: others,
            room: self.hard.min(self.left(others)),
            is_waiting: self.is_waiting,
            run_time_s,
            is_refused: state.overload.holds_retries(),
            is_tripped,
        };
        let free = (state.capacity.units - seen.others).min(self.hard);
        let is_light = seen.in_flight < (LIGHT * free).max(HARMLESS * state.capacity.well);
        let verdict = state.capacity.judge(&seen);
        for at in &self.judged {
            let queue = &mut queues[*at];
            let times = std::mem::take(&mut queue.window);
            let sample = Sample::of(&times);
            queue.take_run_time(&times, state.capacity.slowdown(), seen.seconds);
            match verdict {
                Verdict::Cut => {
                    queue.trial = Trial {
                        weight: sample.map_or(0.0, |sample| sample.jobs * queue.baseline.mean.ms),
                        ..Trial::default()
                    }
                }
                Verdict::Rebase => {
                    let own = Sample::of(&queue.trial.times).and_then(|own| own.ratio(&queue.baseline));
                    let factor = own.map_or(seen.trial.unwrap_or(1.0), |(ratio, _)| ratio);
                    queue.baseline.rescale(factor);
                }
                Verdict::None => {
                    if let Some(sample) = sample {
                        queue.baseline.take(&sample, is_light, pooled.z(), seen.seconds);
                    }
                }
            }
        }
        let probe = Sample::of(&window.probe);
        match (verdict, probe) {
            (Verdict::Rebase, Some(probe)) => {
                let ratio = probe.ratio(&state.probe_baseline).map_or(1.0, |(ratio, _)| ratio);
                state.probe_baseline.rescale(ratio);
            }
            (_, Some(probe)) => state
                .probe_baseline
                .take(&probe, is_light, pooled.z(), seen.seconds),
            _ => {}
        }
    }

    /// The slowdown since the cut, each queue compared with itself and weighted as before the cut. `None`: no test is
    /// open, or the jobs since then are too few, or too mixed, to tell.
    fn trial(&self, state: &DomainState, queues: &mut [QueueState]) -> Option<f64> {
        let is_last = state.capacity.test.as_ref()?.windows_left <= 1;
        let (mut all, mut known, mut sum, mut variance) = (0.0, 0.0, 0.0, 0.0);
        for at in &self.judged {
            let queue = &mut queues[*at];
            let times = std::mem::take(&mut queue.window);
            // Jobs that began before the cut say nothing of it.
            if is_last {
                queue.trial.times.merge(&times);
            }
            queue.window = times;
            all += queue.trial.weight;
            let sample = Sample::of(&queue.trial.times);
            let tried = sample.as_ref().and_then(|sample| sample.ratio(&queue.baseline));
            if let (Some((ratio, _)), Some(sample)) = (tried, &sample) {
                variance += (queue.trial.weight * sample.relative_error()).powi(2);
                known += queue.trial.weight;
                sum += queue.trial.weight * ratio;
            }
        }
        let is_known = known > 0.0 && known >= TRIED * all && variance.sqrt() < TRIED_ERROR * known;
        is_known.then_some(sum / known)
    }

    /// The jobs' speed; where jobs are of all kinds, that of the probe.
    fn pool(&self, window: &Window, state: &DomainState, queues: &[QueueState]) -> Pooled {
        let (mut pooled, mut mixed, mut all) = (Pooled::default(), 0.0, 0.0);
        for at in &self.judged {
            let queue = &queues[*at];
            let Some(sample) = Sample::of(&queue.window) else {
                continue;
            };
            pooled.add(&sample, &queue.baseline);
            all += sample.jobs;
            mixed += if sample.spread > MIXED { sample.jobs } else { 0.0 };
        }
        let probe = Sample::of(&window.probe).filter(|_| state.probe_baseline.is_known());
        match probe {
            Some(sample) if pooled.is_empty() || mixed > 0.5 * all => {
                let mut probed = Pooled::default();
                probed.add(&sample, &state.probe_baseline);
                Pooled {
                    work_s: pooled.work_s,
                    ..probed
                }
            }
            _ => pooled,
        }
    }

    /// Refusals of the resource, and a store that answers too late.
    pub fn see_failures(&self, state: &mut DomainState, store: &StoreInputs, seconds: f64) {
        let others = self.others_at_most(state);
        let jobs = (state.capacity.units - others).min(self.in_flight);
        match state.overload.take(self.overload, self.results, seconds) {
            Some((_, Reason::ErrRebase)) => state.capacity.reason = Reason::ErrRebase,
            Some((left, reason)) => state.capacity.cut(left * jobs, self.in_flight, others, reason),
            None => {}
        }
        let limits = [
            (store.timeout_ms, STORE_TIMEOUT_SHARE),
            (store.lease_ttl_ms, STORE_LEASE_SHARE),
        ];
        // Nobody waits longer than the timeout: more than that is a broken report.
        let longest = if store.timeout_ms > 0 {
            2.0 * store.timeout_ms as f64
        } else {
            f64::MAX
        };
        let is_late = store.latency_ms.filter(|ms| *ms <= longest).is_some_and(|ms| {
            limits
                .iter()
                .any(|(limit_ms, share)| *limit_ms > 0 && ms > share * *limit_ms as f64)
        });
        if is_late && self.in_flight >= 1.0 && state.overload.since_cut_s >= EVIDENCE_S {
            state.overload.since_cut_s = 0.0;
            state.capacity.cut(
                STORE_CUT * self.in_flight,
                self.in_flight,
                others,
                Reason::StoreLatency,
            );
        }
    }

    /// What others leave of the resource.
    fn left(&self, others: f64) -> f64 {
        let of = |resource: &ResourceInputs| USABLE * f64::from(resource.capacity) - OTHERS * others;
        self.resource.map_or(f64::INFINITY, of)
    }

    /// In a full pool others are kept from what they want, and what they want is not measured. What jobs could have beyond
    /// what runs there are connections that workers keep idle.
    fn running_in_full(&self, state: &DomainState) -> f64 {
        if self.by_jobs_in_full(state).is_some() {
            self.in_flight.min(self.running) + 1.0
        } else {
            f64::INFINITY
        }
    }

    /// Others, and in a full pool what workers keep idle: others will take it. A cut that counted fewer would leave jobs
    /// next to nothing once they have.
    fn others_at_most(&self, state: &DomainState) -> f64 {
        let by_jobs = self.by_jobs_in_full(state).unwrap_or(0.0);
        state.others.or(0.0) + (by_jobs - self.in_flight).max(0.0)
    }

    /// What jobs hold of a pool that is full; `None`: it is not, or nobody has measured that in this tick.
    fn by_jobs_in_full(&self, state: &DomainState) -> Option<f64> {
        let resource = self.resource?;
        let is_full = state.full_s > 0.0 && state.unmeasured_s == 0.0;
        let is_sane = |units: &f64| (0.0..=f64::from(resource.capacity)).contains(units);
        resource.in_use_by_jobs.filter(is_sane).filter(|_| is_full)
    }

    /// What its queues may hold together.
    pub fn budget(&self, state: &DomainState) -> Budget {
        let mut units = self.hard;
        let mut reason = Reason::HardCap;
        if self.is_adaptive {
            let others = state.others.or(0.0);
            let left = self.left(others);
            if state.others.value.is_some() && left < units {
                (units, reason) = (left, Reason::PoolSaturation);
            }
            if state.capacity.units - others < units {
                (units, reason) = (state.capacity.units - others, state.capacity.reason);
            }
            let running = self.running_in_full(state);
            if running < units {
                (units, reason) = (running, Reason::PoolSaturation);
            }
        }
        // Floors are promised; validation keeps them within the hard budget.
        let units = (units + 1e-9).floor().max(self.floors).min(self.hard).max(0.0);
        Budget {
            units: units as u64,
            reason,
        }
    }
}

/// A queue's mean number of running jobs, as far as it can be believed.
pub(super) fn in_flight(inputs: &QueueInputs, target: u32) -> f64 {
    let bound = inputs.slots.max(u64::from(target)).max(1) as f64;
    let is_sane = |mean: &f64| mean.is_finite() && (0.0..=2.0 * bound).contains(mean);
    inputs
        .in_flight
        .filter(is_sane)
        .unwrap_or(inputs.running as f64)
        .min(bound)
}
