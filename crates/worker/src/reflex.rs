//! What a worker does by itself between two words of the controller: it only ever lowers, and it is quick.
//!
//! - Something that the jobs of a queue need is **down** (five failures of that class in a row): its permits go to one,
//!   and after every failure that one waits, from half a second doubling to five: a downstream that is away is asked now
//!   and then, and not as fast as connections can be refused. The first success ends it.
//! - Something is **overloaded**, or a pool of connections lets callers wait: half the target for a second. Another sign of overload within that second says nothing
//!   new, because jobs that were started before it must end first.
//!
//! Failures that are the job's own fault say nothing of what it needs. Pure: the time is an argument.

use std::collections::HashMap;

use tidegate_flow::breaker::{Breaker, State};
use tidegate_protocol::domain::{FailureClass, Outcome, QueueName};

use crate::Verdict;

/// A blip should cost no more than it lasted.
const PROBE_MS_MIN: u64 = 500;
/// Twenty workers then ask a dead downstream four times a second.
const PROBE_MS_MAX: u64 = 5_000;
/// How long an overload halves the target.
const EASE_MS: u64 = 1_000;

/// What an attempt said of the things that its queue needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    Success,
    Failure(FailureClass),
    /// It was stopped or handed back.
    None,
}

impl Sign {
    pub(crate) fn of(verdict: &Verdict) -> Self {
        match (&verdict.outcome, verdict.class) {
            (Outcome::Succeeded { .. }, _) => Self::Success,
            (Outcome::Released { .. }, _) | (_, None) => Self::None,
            (_, Some(class)) => Self::Failure(class),
        }
    }
}

/// Of one queue.
#[derive(Debug, Default)]
struct Reflex {
    breaker: Breaker,
    /// Trials that failed since it opened.
    trials: u32,
    probe_at_ms: u64,
    eased_until_ms: u64,
}

impl Reflex {
    /// `true`: it has set in, or a downstream is back, just now.
    fn on(&mut self, now_ms: u64, sign: Sign) -> bool {
        match sign {
            Sign::None | Sign::Failure(FailureClass::Job) => false,
            Sign::Failure(FailureClass::Down) => self.on_down(now_ms),
            // Not there or not well: no success to end the caution by, but no sign of a dead downstream either.
            Sign::Failure(FailureClass::Error) if self.breaker.state() == State::HalfOpen => {
                self.on_down(now_ms)
            }
            Sign::Success | Sign::Failure(FailureClass::Error) => {
                let was_down = self.breaker.state() != State::Closed;
                self.breaker.on_success(now_ms);
                was_down && self.breaker.state() == State::Closed
            }
            Sign::Failure(FailureClass::Overload) => {
                self.breaker.on_success(now_ms); // full, so it is there
                self.ease(now_ms)
            }
        }
    }

    /// `true`: it has set in just now.
    fn ease(&mut self, now_ms: u64) -> bool {
        let sets_in = now_ms >= self.eased_until_ms;
        if sets_in {
            self.eased_until_ms = now_ms + EASE_MS;
        }
        sets_in
    }

    fn on_down(&mut self, now_ms: u64) -> bool {
        let before = self.breaker.state();
        self.breaker.on_failure(now_ms);
        if self.breaker.state() != State::Open || before == State::Open {
            return false;
        }
        self.trials = if before == State::Closed {
            0
        } else {
            self.trials + 1
        };
        let doublings = self.trials.min(8);
        self.probe_at_ms = now_ms + (PROBE_MS_MIN << doublings).min(PROBE_MS_MAX);
        before == State::Closed
    }

    fn tick(&mut self, now_ms: u64) {
        if self.breaker.state() == State::Open && now_ms >= self.probe_at_ms {
            self.breaker.on_probe_success(now_ms);
        }
    }

    fn limit(&self, now_ms: u64, target: u32) -> Option<u32> {
        match self.breaker.state() {
            State::Open => Some(0),
            State::HalfOpen => Some(1),
            State::Closed => (now_ms < self.eased_until_ms).then(|| (target / 2).max(1)),
        }
    }

    fn wake_at_ms(&self, now_ms: u64) -> u64 {
        match self.breaker.state() {
            State::Open => self.probe_at_ms,
            _ if now_ms < self.eased_until_ms => self.eased_until_ms,
            _ => u64::MAX,
        }
    }
}

/// See the [module](self). Of all queues that ever had one.
#[derive(Debug)]
pub(crate) struct Reflexes {
    queues: HashMap<QueueName, Reflex>,
    wake_at_ms: u64,
}

impl Default for Reflexes {
    fn default() -> Self {
        Self {
            queues: HashMap::new(),
            wake_at_ms: u64::MAX,
        }
    }
}

impl Reflexes {
    /// An attempt of the queue has ended. `true`: a reflex has set in, or a downstream is back, just now.
    pub(crate) fn on(&mut self, now_ms: u64, queue: &QueueName, sign: Sign) -> bool {
        let harmless = matches!(sign, Sign::None | Sign::Success);
        let reflex = match self.queues.get_mut(queue) {
            Some(reflex) => reflex,
            None if harmless => return false,
            None => self.queues.entry(queue.clone()).or_default(),
        };
        let sets_in = reflex.on(now_ms, sign);
        self.wake_at_ms = self.wake_at_ms.min(reflex.wake_at_ms(now_ms));
        sets_in
    }

    /// Callers wait for a connection that the queue's jobs need. Says nothing of whether the downstream is there: where
    /// it is not, callers wait, too. `true`: the reflex has set in just now.
    pub(crate) fn on_wait(&mut self, now_ms: u64, queue: &QueueName) -> bool {
        let reflex = self.queues.entry(queue.clone()).or_default();
        let sets_in = reflex.ease(now_ms);
        self.wake_at_ms = self.wake_at_ms.min(reflex.wake_at_ms(now_ms));
        sets_in
    }

    /// Whether limits may have changed by time.
    pub(crate) fn tick(&mut self, now_ms: u64) -> bool {
        if now_ms < self.wake_at_ms {
            return false;
        }
        let mut wake_at_ms = u64::MAX;
        for reflex in self.queues.values_mut() {
            reflex.tick(now_ms);
            wake_at_ms = wake_at_ms.min(reflex.wake_at_ms(now_ms));
        }
        self.wake_at_ms = wake_at_ms;
        true
    }

    pub(crate) fn wake_at_ms(&self) -> u64 {
        self.wake_at_ms
    }

    /// How many jobs of the queue may run now whatever its target; `None`: as many as that.
    pub(crate) fn limit(&self, now_ms: u64, queue: &QueueName, target: u32) -> Option<u32> {
        self.queues.get(queue)?.limit(now_ms, target)
    }

    pub(crate) fn circuit(&self, queue: &QueueName) -> State {
        self.queues
            .get(queue)
            .map_or(State::Closed, |reflex| reflex.breaker.state())
    }

    /// What the queue needs is not there, as far as this worker can tell.
    pub(crate) fn is_down(&self, queue: &QueueName) -> bool {
        self.circuit(queue) != State::Closed
    }

    /// How an attempt is settled. What is overloaded or known to be away must not cost the job its attempts.
    pub(crate) fn settle_as(&self, now_ms: u64, queue: &QueueName, verdict: Verdict) -> Verdict {
        let Verdict { outcome, class } = verdict;
        let outcome = match (outcome, class) {
            (Outcome::Retry { error, after_ms }, Some(FailureClass::Overload)) => {
                Outcome::Throttled { error, after_ms }
            }
            (Outcome::Retry { error, after_ms }, Some(FailureClass::Down)) if self.is_down(queue) => {
                let probe_at_ms = self.queues.get(queue).map_or(0, |reflex| reflex.probe_at_ms);
                let after_ms = after_ms.max(probe_at_ms.saturating_sub(now_ms));
                Outcome::Throttled { error, after_ms }
            }
            (outcome, _) => outcome,
        };
        Verdict { outcome, class }
    }
}

#[cfg(test)]
#[path = "reflex_tests.rs"]
mod tests;
