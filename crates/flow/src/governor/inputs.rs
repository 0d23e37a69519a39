//! What the governor is told at a tick, and what it answers: plain data.

use std::collections::BTreeMap;

use super::reason::Reason;
use crate::{
    codec::{self, Plain as _, plain, plain_choice},
    histogram::Histogram,
};

/// Which rule finds a queue's demand. Budgets hold for all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// The governor: demand by Little's law within what the resource is found to take.
    #[default]
    Adaptive,
    /// Always the ceiling, within the budget.
    Fixed,
    /// Smoothed signals, additive increase, multiplicative decrease: the baseline.
    EmaAimd,
}

impl Strategy {
    pub const ALL: &[Strategy] = &[Strategy::Adaptive, Strategy::Fixed, Strategy::EmaAimd];
}
plain_choice!(Strategy);

/// Everything that is known at a tick. What is not measured is `None`, never 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inputs {
    /// Since the last tick; counts below are of this time.
    pub elapsed_ms: u64,
    /// The period that ticks are meant to have.
    pub tick_ms: u64,
    pub store: StoreInputs,
    pub resources: BTreeMap<String, ResourceInputs>,
    pub queues: BTreeMap<String, QueueInputs>,
}
plain!(Inputs {
    elapsed_ms,
    tick_ms,
    store,
    resources,
    queues
});

/// The job store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoreInputs {
    /// Mean of an operation, as its callers see it.
    pub latency_ms: Option<f64>,
    /// After which a caller gives an operation up. 0: it never does.
    pub timeout_ms: u64,
    pub lease_ttl_ms: u64,
}
plain!(StoreInputs {
    latency_ms,
    timeout_ms,
    lease_ttl_ms
});

/// A shared downstream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResourceInputs {
    /// Units, e.g. connections.
    pub capacity: u32,
    /// Share of the capacity that jobs may hold at most.
    pub headroom: f64,
    /// Units in use by everybody, mean of the time since the last tick.
    pub in_use: Option<f64>,
    /// Of those, the ones that jobs hold.
    pub in_use_by_jobs: Option<f64>,
    /// Waiting for a unit.
    pub waiters: Option<f64>,
    /// Times of an active probe (`SELECT 1`, `PING`) since the last tick. Empty: there is none.
    pub probe: Histogram,
}
plain!(ResourceInputs {
    capacity,
    headroom,
    in_use,
    in_use_by_jobs,
    waiters,
    probe
});

/// One queue. Counts are of the time since the last tick, the others are of now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct QueueInputs {
    pub strategy: Strategy,
    pub min: u32,
    pub max: u32,
    pub weight: f64,
    /// (resource, units that a running job holds).
    pub costs: Vec<(String, u32)>,
    /// An operator's number in place of the demand.
    pub pinned: Option<u32>,
    /// The cap that was in force when the queue was first seen, if there was one: the place to start from.
    pub adopted: Option<u32>,
    pub ready: u64,
    pub running: u64,
    /// Mean number of running jobs since the last tick; `None`: what runs now is all that is known.
    pub in_flight: Option<f64>,
    /// Slots of the connected workers that serve the queue.
    pub slots: u64,
    pub arrivals: u64,
    /// Run times of the jobs that ended well: their count is the completions.
    pub run_time: Histogram,
    /// Failures by class. A job's own fault is none of them.
    pub overload: u64,
    pub down: u64,
    pub errors: u64,
    /// A worker saw its downstream gone several times in a row.
    pub is_down: bool,
    pub oldest_age_ms: u64,
}
plain!(QueueInputs {
    strategy,
    min,
    max,
    weight,
    costs,
    pinned,
    adopted,
    ready,
    running,
    in_flight,
    slots,
    arrivals,
    run_time,
    overload,
    down,
    errors,
    is_down,
    oldest_age_ms,
});

impl QueueInputs {
    /// Ended with a word about the downstream.
    pub(super) fn results(&self) -> u64 {
        self.run_time.count().saturating_add(self.failures())
    }

    pub(super) fn failures(&self) -> u64 {
        self.overload
            .saturating_add(self.down)
            .saturating_add(self.errors)
    }
}

/// What a queue gets.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What its jobs need, whatever is there.
    pub demand: u32,
    /// Its part of the budgets, as if the fleet were large enough.
    pub wanted: u32,
    /// Its part of the budgets, within the slots that serve it: what the cap comes to.
    pub cap: u32,
    /// What remains in force when nobody decides any more.
    pub safe: u32,
    /// Share of the cap that retries may hold; at least one slot in any case.
    pub retry_share: f64,
    /// Its downstream is known to be gone: failures of class down cost no attempt.
    pub is_down: bool,
    /// The resource that had no room for what was still wanted.
    pub limited_by: Option<String>,
    pub reason: Reason,
    /// The numbers used, by their names on the wire.
    pub inputs: Vec<(&'static str, f64)>,
}

/// One tick's answers, by queue.
pub type Decisions = BTreeMap<String, Decision>;

/// A tick's answers as bytes, to be compared with those of its replay; there is no way back.
pub fn decisions_to_bytes(decisions: &Decisions) -> Vec<u8> {
    let mut out = vec![codec::VERSION];
    for (queue, decision) in decisions {
        queue.write(&mut out);
        decision.write(&mut out);
    }
    out
}

impl Decision {
    fn write(&self, out: &mut Vec<u8>) {
        let Self {
            demand,
            wanted,
            cap,
            safe,
            retry_share,
            is_down,
            limited_by,
            reason,
            inputs,
        } = self;
        for number in [demand, wanted, cap, safe] {
            number.write(out);
        }
        retry_share.write(out);
        is_down.write(out);
        limited_by.write(out);
        reason.write(out);
        for (name, value) in inputs {
            (*name).to_owned().write(out);
            value.write(out);
        }
    }
}
