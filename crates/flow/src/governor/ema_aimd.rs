//! The rule this project started from: smooth depth, error rate, pool saturation and store latency; raise by capped steps
//! while jobs wait and the slots are in use; cut by a third when anything says stop. Kept simple on purpose: it is also
//! the baseline that other rules are measured against.

use super::{
    inputs::{Inputs, QueueInputs},
    reason::Reason,
};
use crate::codec::plain;

/// Weight of the newest sample.
const ALPHA: f64 = 0.3;
/// Where a queue starts that has no cap yet, and what idleness decays to: enough to answer a first burst at once.
const START: u32 = 10;
/// What a cut leaves.
const CUT: f64 = 0.7;
/// Ticks between cuts: the effect of one must have been seen before the next.
const CUT_PAUSE_TICKS: u64 = 3;
/// Ticks between a cut and a raise: what was started under the old limit is still ending.
const RAISE_PAUSE_TICKS: u64 = 2;
/// Failures that are part of life: no reason to hold back.
const ERRORS_ACCEPTED: f64 = 0.01;
/// Smoothed share of failures that cuts.
const ERRORS_MAX: f64 = 0.05;
/// Smoothed use of a pool, by all its users, that cuts.
const SATURATION_MAX: f64 = 0.9;
/// Smoothed latency of the job store that cuts. An absolute number cannot tell far from full: the known flaw of this rule.
const STORE_LATENCY_MS_MAX: f64 = 100.0;
/// Share of the limit in use from which a raise would be used, and under which the limit is idle. The band between them
/// is where nothing changes.
const BUSY: f64 = 0.8;
const IDLE: f64 = 0.5;
/// Waiting jobs that ask for one slot more.
const DEPTH_PER_STEP: f64 = 10.0;
/// Largest step far from the last cut; near it one goes by [`STEP_NEAR`] of the limit, or each look beyond the knee would
/// cost a cut.
const STEP_MIN: f64 = 5.0;
const STEP_FAR: f64 = 0.25;
const STEP_NEAR: f64 = 1.0 / 16.0;
/// What counts as near the level of the last cut.
const NEAR: std::ops::RangeInclusive<f64> = 0.8..=1.2;
/// What idleness takes away a tick.
const DECAY: f64 = 0.75;
/// Results of a tick that say something about a downstream that is gone, and the share of them that must.
const DOWN_RESULTS_MIN: u64 = 5;
const DOWN_SHARE: f64 = 0.5;
/// A limit beyond this many times the slots of the fleet was never tried, so it is no finding.
const UNTRIED: f64 = 2.0;
/// Smoothed share of failures from which retries are held back.
const RETRIES_HELD_FROM: f64 = 0.02;

/// What the rule remembers of one queue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueState {
    /// 0 until the first tick.
    limit: f64,
    depth: Option<f64>,
    errors: Option<f64>,
    saturation: Option<f64>,
    store_ms: Option<f64>,
    cut_at_ms: Option<u64>,
    /// The limit that the last cut was made at.
    knee: f64,
    /// The downstream is gone; the limit to come back to.
    tripped: Option<f64>,
}
plain!(QueueState {
    limit,
    depth,
    errors,
    saturation,
    store_ms,
    cut_at_ms,
    knee,
    tripped
});

impl QueueState {
    /// What the rule takes for no more than an accident.
    pub(super) fn holds_retries(&self) -> bool {
        self.errors.unwrap_or(0.0) > RETRIES_HELD_FROM
    }

    pub(super) fn is_tripped(&self) -> bool {
        self.tripped.is_some()
    }
}

/// What is known of one queue at a tick. Counts are of the tick, the others are of now.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Seen {
    pub min: u32,
    pub max: u32,
    pub tick_ms: u64,
    pub ready: u64,
    pub running: u64,
    pub slots: u64,
    pub adopted: Option<u32>,
    pub completions: u64,
    pub overload: u64,
    pub down: u64,
    pub errors: u64,
    pub is_down: bool,
    pub store_latency_ms: f64,
    /// Of the fullest resource that the queue costs: what everybody uses or waits for, by its capacity. 0: not measured.
    pub pool_saturation: f64,
}

impl Seen {
    pub fn of(queue: &QueueInputs, inputs: &Inputs, running: f64) -> Self {
        let saturation = |(name, _): &(String, u32)| {
            let resource = inputs.resources.get(name)?;
            let sane = |units: Option<f64>| units.filter(|units| units.is_finite()).unwrap_or(0.0).max(0.0);
            let used = sane(resource.in_use) + sane(resource.waiters);
            Some(used / f64::from(resource.capacity.max(1)))
        };
        let latency = inputs.store.latency_ms.filter(|ms| ms.is_finite());
        Self {
            min: queue.min,
            max: queue.max,
            tick_ms: inputs.tick_ms,
            ready: queue.ready,
            running: running.round().max(0.0) as u64,
            slots: queue.slots,
            adopted: queue.adopted,
            completions: queue.run_time.count(),
            overload: queue.overload,
            down: queue.down,
            errors: queue.errors,
            is_down: queue.is_down,
            store_latency_ms: latency.unwrap_or(0.0),
            pool_saturation: queue.costs.iter().filter_map(saturation).fold(0.0, f64::max),
        }
    }

    /// Ended with a word about the downstream; a job's own fault says nothing about it.
    fn results(&self) -> u64 {
        self.completions.saturating_add(self.failures())
    }

    fn failures(&self) -> u64 {
        self.overload
            .saturating_add(self.down)
            .saturating_add(self.errors)
    }
}

/// The rule's answer: a limit, and the numbers that led to it.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub demand: u32,
    pub reason: Reason,
    pub inputs: Vec<(&'static str, f64)>,
}

fn ema(old: &mut Option<f64>, new: f64) -> f64 {
    let smoothed = old.map_or(new, |old| old + ALPHA * (new - old));
    *old = Some(smoothed);
    smoothed
}

/// The smoothed signals of a tick.
struct Signals {
    depth: f64,
    errors_now: f64,
    errors: f64,
    saturation: f64,
    store_ms: f64,
}

pub(super) fn decide(mut state: QueueState, inputs: &Seen, now_ms: u64) -> (QueueState, Answer) {
    let signals = state.observe(inputs);
    let reason = if state.limit == 0.0 {
        state.limit = f64::from(inputs.adopted.filter(|cap| *cap > 0).unwrap_or(START));
        Reason::Cold
    } else {
        state.step(inputs, &signals, now_ms)
    };
    let floor = f64::from(inputs.min.max(1));
    let reason = if state.limit <= floor && reason == Reason::IdleDecay {
        Reason::Floor
    } else {
        reason
    };
    state.limit = state.limit.clamp(floor, f64::from(inputs.max).max(floor));
    let numbers = vec![
        ("ready", inputs.ready as f64),
        ("running", inputs.running as f64),
        ("slots", inputs.slots as f64),
        ("completions", inputs.completions as f64),
        ("overload", inputs.overload as f64),
        ("down", inputs.down as f64),
        ("errors", inputs.errors as f64),
        ("depth_ema", signals.depth),
        ("error_ema", signals.errors),
        ("pool_saturation_ema", signals.saturation),
        ("store_latency_ema_ms", signals.store_ms),
        ("limit", state.limit),
    ];
    let demand = state.limit.floor() as u32;
    (
        state,
        Answer {
            demand,
            reason,
            inputs: numbers,
        },
    )
}

impl QueueState {
    fn observe(&mut self, inputs: &Seen) -> Signals {
        let results = inputs.results();
        let errors_now = inputs.failures() as f64 / results.max(1) as f64;
        Signals {
            depth: ema(&mut self.depth, inputs.ready as f64),
            errors_now,
            // A tick without results says nothing about errors.
            errors: if results == 0 {
                self.errors.unwrap_or(0.0)
            } else {
                ema(&mut self.errors, errors_now)
            },
            saturation: ema(&mut self.saturation, inputs.pool_saturation),
            store_ms: ema(&mut self.store_ms, inputs.store_latency_ms),
        }
    }

    fn step(&mut self, inputs: &Seen, signals: &Signals, now_ms: u64) -> Reason {
        if let Some(reason) = self.breaker(inputs) {
            return reason;
        }
        let since_cut = self.cut_at_ms.map_or(u64::MAX, |at| now_ms.saturating_sub(at));
        if let Some(reason) = must_cut(inputs, signals) {
            if since_cut >= CUT_PAUSE_TICKS * inputs.tick_ms {
                // What runs is what hurts: a limit far above it would be cut without effect.
                let from = self.limit.min((inputs.running as f64).max(1.0) / IDLE);
                self.knee = from;
                self.limit = from * CUT;
                self.cut_at_ms = Some(now_ms);
                return reason;
            }
            return Reason::Hysteresis;
        }
        // Whole jobs: of a limit of 3.9 three can run, and then it is full.
        let reachable = self.limit.min((inputs.slots as f64).max(1.0)).floor();
        let running = inputs.running as f64;
        if running >= (BUSY * reachable).floor() && inputs.ready > 0 && inputs.slots > 0 {
            let holds =
                signals.errors_now > ERRORS_ACCEPTED || inputs.overload.saturating_add(inputs.down) > 0;
            if holds || since_cut < RAISE_PAUSE_TICKS * inputs.tick_ms {
                return Reason::Hysteresis;
            }
            return self.raise(inputs, signals);
        }
        if inputs.ready == 0 && running < IDLE * self.limit {
            let warm = f64::from(START.min(inputs.max));
            if self.limit > warm {
                self.limit = (self.limit * DECAY).max(warm);
                return Reason::IdleDecay;
            }
        }
        Reason::Hysteresis
    }

    /// A downstream that is gone gets the floor as a probe, and doubles back once the probes succeed.
    fn breaker(&mut self, inputs: &Seen) -> Option<Reason> {
        let results = inputs.results();
        let share = inputs.down as f64 / results.max(1) as f64;
        // A worker that gets no jobs any more does not learn that it is over.
        let is_told = inputs.is_down && inputs.completions == 0;
        let gone = is_told || (results >= DOWN_RESULTS_MIN && share >= DOWN_SHARE);
        if gone || (self.tripped.is_some() && inputs.down > 0) {
            self.tripped = Some(self.tripped.unwrap_or(self.limit));
            self.limit = f64::from(inputs.min);
            return Some(Reason::BreakerOpen);
        }
        let before = self.tripped?;
        if inputs.completions == 0 {
            return Some(Reason::BreakerOpen);
        }
        self.limit = (self.limit.max(1.0) * 2.0).min(before);
        if self.limit >= before {
            self.tripped = None;
        }
        Some(Reason::StepCap)
    }

    fn raise(&mut self, inputs: &Seen, signals: &Signals) -> Reason {
        let is_near = self.knee > 0.0 && NEAR.contains(&(self.limit / self.knee));
        let cap = if is_near {
            (self.limit * STEP_NEAR).max(1.0)
        } else {
            (self.limit * STEP_FAR).max(STEP_MIN)
        };
        let asked = (signals.depth / DEPTH_PER_STEP).ceil().max(1.0);
        // Only what is in use or could be: the fleet may grow to twice its size before this grows further.
        let tried = (UNTRIED * inputs.slots as f64).max(self.limit);
        self.limit = (self.limit + asked.min(cap)).min(tried);
        if asked > cap {
            Reason::StepCap
        } else {
            Reason::Demand
        }
    }
}

fn must_cut(inputs: &Seen, signals: &Signals) -> Option<Reason> {
    let overloaded = inputs.overload as f64 / inputs.results().max(1) as f64;
    if overloaded > ERRORS_ACCEPTED || (signals.errors > ERRORS_MAX && inputs.failures() > 0) {
        return Some(Reason::ErrorCut);
    }
    if signals.saturation > SATURATION_MAX {
        return Some(Reason::PoolSaturation);
    }
    (signals.store_ms > STORE_LATENCY_MS_MAX).then_some(Reason::StoreLatency)
}

#[cfg(test)]
#[path = "ema_aimd_tests.rs"]
mod tests;
