//! What the governor remembers from tick to tick: plain data, stored and read back byte for byte ([`crate::codec`]).

use std::collections::BTreeMap;

use super::{
    capacity::Capacity, ema_aimd, failures::Failures, smooth::Smoothed, speed::Baseline, trip::Trip,
};
use crate::{codec::plain, histogram::Histogram};

/// Of every queue and every domain in the last inputs; what is not in the next ones is forgotten.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    pub queues: BTreeMap<String, QueueState>,
    /// By resource, or by queue for those that cost none (see [`super::domain`]).
    pub domains: BTreeMap<String, DomainState>,
}
plain!(State { queues, domains });

#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueState {
    /// The last cap decided.
    pub target: Option<u32>,
    /// Jobs that ran at the last tick, while its downstream was there.
    pub busy: u32,
    /// Jobs a second.
    pub arrivals: Smoothed,
    /// Mean without congestion, seconds.
    pub run_time: Smoothed,
    /// No window has been judged yet: the run time is of the first jobs.
    pub is_new: bool,
    /// Since when the demand has been below the target, seconds.
    pub idle_s: f64,
    /// Run times since the domain was last judged.
    pub window: Histogram,
    pub baseline: Baseline,
    pub trial: Trial,
    /// Of class error.
    pub failures: Failures,
    pub trip: Trip,
    pub ema_aimd: ema_aimd::QueueState,
}
plain!(QueueState {
    target,
    busy,
    arrivals,
    run_time,
    is_new,
    idle_s,
    window,
    baseline,
    trial,
    failures,
    trip,
    ema_aimd
});

/// A queue's part of the test of a cut. Each queue is compared with itself: after a cut other jobs run than before it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trial {
    /// Its weight in the slowdown that led to the cut; 0: it had no part in it.
    pub weight: f64,
    pub times: Histogram,
}
plain!(Trial { weight, times });

/// Queues that share one limiting resource, judged together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DomainState {
    /// Units in use by others.
    pub others: Smoothed,
    /// Since when they have not been measured, seconds.
    pub unmeasured_s: f64,
    /// Since when all of it has been in use, seconds.
    pub full_s: f64,
    pub window: Window,
    pub probe_baseline: Baseline,
    /// Of class overload: it says that the resource is full, whoever met it.
    pub overload: Failures,
    pub capacity: Capacity,
}
plain!(DomainState {
    others,
    unmeasured_s,
    full_s,
    window,
    probe_baseline,
    overload,
    capacity
});

/// What has been seen since the domain was last judged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Window {
    pub seconds: f64,
    /// Unit-seconds that jobs held.
    pub in_flight: f64,
    pub others: f64,
    pub probe: Histogram,
}
plain!(Window {
    seconds,
    in_flight,
    others,
    probe
});
