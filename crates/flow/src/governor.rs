//! How many jobs of each queue may run, from what was seen since the last tick.
//!
//! [`decide`] is the whole interface: plain data in, plain data out, no clock, no randomness, no I/O, so that a tick
//! replays byte for byte from a record of its state and inputs. It goes in five steps, each in a file of its own:
//!
//! 1. **observe** (`smooth`, `demand`): arrivals, run times, results; a queue whose downstream is gone trips (`trip`).
//! 2. **judge** (`domain`, `speed`, `capacity`, `failures`): what each shared resource takes, from slowdown, throughput
//!    and refusals, and what others use of it.
//! 3. **budget** (`domain`): the least of the hard cap, what others leave, and what the resource was found to take.
//! 4. **divide** ([`crate::budget`]): demands to allocations, weighted max-min under all budgets at once.
//! 5. **step** (`demand`): how far this tick moves.

mod capacity;
mod demand;
mod domain;
mod ema_aimd;
mod failures;
mod inputs;
pub mod params;
mod reason;
mod smooth;
mod speed;
mod state;
mod trip;
mod turn;
mod wish;

pub use inputs::{
    Decision, Decisions, Inputs, QueueInputs, ResourceInputs, StoreInputs, Strategy, decisions_to_bytes,
};
pub use reason::Reason;
pub use state::{DomainState, QueueState, State};

use std::collections::BTreeMap;

use domain::Domain;
use trip::Phase;
use turn::Turn;

use crate::histogram::Histogram;

/// Ticks are never shorter than this in the arithmetic, nor longer: a controller that slept knows nothing of the time.
const SECONDS: std::ops::RangeInclusive<f64> = 0.05..=60.0;
/// Deviations that call for an early tick: more than a shift of level, because one looks each second.
const SURGE_SIGMAS: f64 = 4.0;
/// One tick for all queues and resources. `now_ms` is of any monotonic clock.
pub fn decide(mut state: State, inputs: &Inputs, now_ms: u64) -> (State, Decisions) {
    let seconds = (inputs.elapsed_ms as f64 / 1_000.0).clamp(*SECONDS.start(), *SECONDS.end());
    let names: Vec<&String> = inputs.queues.keys().collect();
    let queues: Vec<&QueueInputs> = inputs.queues.values().collect();
    let mut states: Vec<QueueState> = names
        .iter()
        .map(|name| state.queues.remove(*name).unwrap_or_default())
        .collect();
    let targets: Vec<u32> = states.iter().map(|state| state.target.unwrap_or(0)).collect();
    let in_flight: Vec<f64> = queues
        .iter()
        .zip(&targets)
        .map(|(queue, target)| domain::in_flight(queue, *target))
        .collect();
    let domains = Domain::all(inputs, &queues, &targets, &in_flight);
    let mut domain_states: Vec<DomainState> = domains
        .iter()
        .map(|domain| state.domains.remove(&domain.key).unwrap_or_default())
        .collect();

    let answers = observe(&queues, &mut states, inputs, &in_flight, (seconds, now_ms));
    for (domain, state) in domains.iter().zip(&mut domain_states) {
        domain.see_others(state, seconds);
        domain.see_speed(state, &mut states, seconds);
        domain.see_failures(state, &inputs.store, seconds);
    }
    let mut turn = Turn {
        inputs,
        queues,
        in_flight,
        domains,
        states,
        domain_states,
        budgets: Vec::new(),
        answers,
        seconds,
    };
    turn.budgets = turn
        .domains
        .iter()
        .zip(&turn.domain_states)
        .map(|(domain, state)| domain.budget(state))
        .collect();
    let decisions = turn.divide();

    let next = State {
        queues: names
            .iter()
            .map(|name| (*name).clone())
            .zip(turn.states)
            .collect(),
        domains: turn
            .domains
            .into_iter()
            .map(|domain| domain.key)
            .zip(turn.domain_states)
            .collect(),
    };
    let decisions = names.into_iter().cloned().zip(decisions).collect();
    (next, decisions)
}

/// Whether so many arrivals in so many seconds since the last tick cannot be the noise of the rate that was known: then a
/// tick need not wait for its time. Only for more than before; less is in no hurry.
pub fn is_surge(state: &State, queue: &str, arrived: u64, seconds: f64) -> bool {
    let Some(known) = state.queues.get(queue).and_then(|queue| queue.arrivals.value) else {
        return false;
    };
    let expected = known * seconds;
    seconds > 0.0 && arrived as f64 - expected > SURGE_SIGMAS * expected.max(1.0).sqrt() + 1.0
}

/// Whether these run times are the first of their queue: its slots are found by them, and until then it has few.
pub fn is_first_end(state: &State, queue: &str, run_times: &Histogram) -> bool {
    let known = state.queues.get(queue);
    known.is_some_and(|queue| queue.run_time.value.is_none())
        && !run_times.is_empty()
        && speed::is_believable(run_times)
}

/// Whether other users of a resource are so many more than was known that it is no noise.
pub fn is_wave(state: &State, resource: &str, in_use_by_others: f64) -> bool {
    beyond_known(state, resource, in_use_by_others) > SURGE_SIGMAS
}

/// Whether they are so many fewer: what a wave leaves behind need not wait for a tick either. One look may be a gap in
/// their traffic; it takes two in a row.
pub fn is_wave_over(state: &State, resource: &str, in_use_by_others: f64) -> bool {
    beyond_known(state, resource, in_use_by_others) < -SURGE_SIGMAS
}

/// Whether a resource that had room is full. Others are kept from what they want then, so that a wave which finds workers'
/// idle connections in its place does not look like one. One look may be a burst; it takes two in a row.
pub fn is_filled(state: &State, resource: &str, in_use: f64, capacity: u32) -> bool {
    let had_room = |domain: &DomainState| domain.full_s == 0.0;
    in_use >= domain::FULL_POOL * f64::from(capacity) && state.domains.get(resource).is_some_and(had_room)
}

/// In deviations of what was known; 0 where nothing was.
fn beyond_known(state: &State, resource: &str, in_use_by_others: f64) -> f64 {
    let known = state.domains.get(resource).and_then(|domain| domain.others.value);
    known.map_or(0.0, |known| (in_use_by_others - known) / known.max(1.0).sqrt())
}

/// Every queue's own signals; gives the answers of the baseline rule for the queues that ask for it.
fn observe(
    queues: &[&QueueInputs],
    states: &mut [QueueState],
    inputs: &Inputs,
    in_flight: &[f64],
    (seconds, now_ms): (f64, u64),
) -> BTreeMap<usize, ema_aimd::Answer> {
    let mut answers = BTreeMap::new();
    for (at, (queue, state)) in queues.iter().zip(states).enumerate() {
        state.observe(queue, seconds);
        match queue.strategy {
            Strategy::Adaptive => {
                if speed::is_believable(&queue.run_time) {
                    state.window.merge(&queue.run_time);
                }
                state.trip.take(queue, state.target.unwrap_or(0), state.busy);
                if state.trip.phase == Phase::Closed {
                    state.busy = in_flight[at].ceil() as u32;
                }
                if state.trip.phase == Phase::Closed {
                    if let Some((left, _)) = state.failures.take(queue.errors, queue.results(), seconds) {
                        state.failures.limit = state.failures.limit.min(in_flight[at].max(1.0)) * left;
                    }
                    state.failures.recover(in_flight[at], seconds);
                }
            }
            Strategy::EmaAimd => {
                let seen = ema_aimd::Seen::of(queue, inputs, in_flight[at]);
                let (next, answer) = ema_aimd::decide(std::mem::take(&mut state.ema_aimd), &seen, now_ms);
                state.ema_aimd = next;
                answers.insert(at, answer);
            }
            Strategy::Fixed => {}
        }
    }
    answers
}

#[cfg(test)]
#[path = "governor/property_tests.rs"]
mod property_tests;
#[cfg(test)]
#[path = "governor/tests.rs"]
mod tests;
