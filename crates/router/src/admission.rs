//! Whether a submit is taken at all, decided before the store is asked and before any work is done for it.
//!
//! Three things refuse here: the gate that the controller has pushed for the queue, the queue's `max_running`, and its
//! rates. The store refuses by itself at `max_depth`, exactly, because only it can count. What is not known yet refuses
//! nothing: a queue that nobody has met, that no worker has served, or that has never had a gate, is open.

mod gates;
mod rates;
mod schemas;

use std::{
    collections::HashMap,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use tidegate_chassis::clock::Monotonic;
use tidegate_flow::bucket::Rate;
use tidegate_protocol::{
    domain::{Policy, QueueName},
    v1,
};
use tidegate_store::QueueStats;

use self::{
    gates::Gates,
    rates::{Limits, Rates},
    schemas::Schemas,
};
pub use self::{
    rates::{Caller, Whose},
    schemas::SchemaOf,
};
use crate::status::Refusal;

/// See the [module](self). A shared handle.
pub struct Admission {
    clock: Monotonic,
    known: RwLock<Known>,
    rates: Rates,
    schemas: Schemas,
}

#[derive(Default)]
struct Known {
    rules: HashMap<QueueName, Rules>,
    gates: Gates,
}

/// What a queue's policy says, and how much of it ran at the last look.
#[derive(Clone, Debug, PartialEq)]
struct Rules {
    max_running: u32,
    running: u64,
    submit: (u32, u32),
    caller: (u32, u32),
}

impl Rules {
    /// `None`: nothing of it concerns admission.
    fn of(policy: &Policy, running: u64) -> Option<Self> {
        let rules = Self {
            max_running: policy.max_running,
            running,
            submit: (policy.submit_rate, policy.submit_burst),
            caller: (policy.caller_rate, policy.caller_burst),
        };
        (rules.max_running > 0 || rules.submit.0 > 0 || rules.caller.0 > 0).then_some(rules)
    }
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            clock: Monotonic::start(),
            known: RwLock::default(),
            rates: Rates::default(),
            schemas: Schemas::default(),
        }
    }
}

impl Admission {
    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces what the policies say by a look at the store.
    pub fn refresh(&self, all: &[QueueStats]) {
        self.replace(
            all.iter()
                .map(|stats| (&stats.queue, &stats.policy, stats.running)),
        );
        self.schemas
            .replace(all.iter().map(|stats| (&stats.queue, &stats.policy)));
    }

    fn replace<'a>(&self, all: impl Iterator<Item = (&'a QueueName, &'a Policy, u64)>) {
        let rules =
            |(queue, policy, running): (&QueueName, _, _)| Some((queue.clone(), Rules::of(policy, running)?));
        let rules: HashMap<QueueName, Rules> = all.filter_map(rules).collect();
        self.rates.keep(|queue| rules.contains_key(queue));
        self.write().rules = rules;
    }

    /// The controller's word on every queue.
    pub fn obey(&self, gates: v1::Gates) {
        let at_ms = self.clock.ms();
        self.write().gates.replace(gates, at_ms);
    }

    /// What payloads of the queue are checked by.
    pub fn schema(&self, queue: &QueueName) -> Option<SchemaOf> {
        self.schemas.of(queue)
    }

    /// Whether to go on with a job of the queue.
    pub fn admit(&self, queue: &QueueName, caller: &Caller) -> Result<(), Refusal> {
        let known = self.read();
        known.gates.admit(queue, self.clock.ms(), fastrand::f64)?;
        let Some(rules) = known.rules.get(queue) else {
            return Ok(());
        };
        if rules.max_running > 0 && rules.running >= u64::from(rules.max_running) {
            return Err(Refusal::max_running(queue, rules.running, rules.max_running));
        }
        let sharers = known.gates.routers();
        let limits = Limits {
            queue: Rate::new(rules.submit.0, rules.submit.1, sharers),
            caller: Rate::new(rules.caller.0, rules.caller.1, sharers),
        };
        drop(known);
        if limits.queue.is_unlimited() && limits.caller.is_unlimited() {
            return Ok(());
        }
        let now_us = u64::try_from(self.clock.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.rates
            .take(queue, caller, &limits, now_us)
            .map_err(|refused| {
                Refusal::rate_limited(queue, refused.whose, Duration::from_micros(refused.wait_us))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(admission: &Admission, queue: &QueueName, running: u64, change: impl FnOnce(&mut Policy)) {
        let mut policy = Policy::default();
        change(&mut policy);
        admission.replace([(queue, &policy, running)].into_iter());
    }

    #[test]
    fn what_is_not_known_is_open() {
        let admission = Admission::default();
        let queue = "email".parse().unwrap();
        assert!((0..1_000).all(|_| admission.admit(&queue, &Caller::Unknown).is_ok()));
        set(&admission, &queue, 1_000, |_| {});
        assert!((0..1_000).all(|_| admission.admit(&queue, &Caller::Unknown).is_ok()));
    }

    #[test]
    fn max_running_refuses_when_it_is_reached() {
        let admission = Admission::default();
        let queue = "email".parse().unwrap();
        for (running, taken) in [(2, true), (3, false), (4, false), (0, true)] {
            set(&admission, &queue, running, |policy| policy.max_running = 3);
            assert_eq!(
                admission.admit(&queue, &Caller::Unknown).is_ok(),
                taken,
                "{running}"
            );
        }
    }

    #[test]
    fn routers_share_a_rate() {
        let admission = Admission::default();
        let queue = "email".parse().unwrap();
        set(&admission, &queue, 0, |policy| {
            (policy.submit_rate, policy.submit_burst) = (1, 100)
        });
        admission.obey(v1::Gates {
            routers: 4,
            ttl_ms: 60_000,
            ..Default::default()
        });
        let taken = (0..100)
            .filter(|_| admission.admit(&queue, &Caller::Unknown).is_ok())
            .count();
        assert_eq!(taken, 25);
    }
}
