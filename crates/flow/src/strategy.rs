//! How many jobs of each queue should run, from what was seen since the last tick.
//!
//! [`decide`] is the whole interface: plain data in, plain data out, so that a tick replays exactly from a record of its
//! state and inputs. It knows nothing of budgets: what a queue asks for here is divided in [`crate::budget`].

mod ema_aimd;

use std::collections::BTreeMap;

pub use ema_aimd::QueueState;

/// Which rule finds a queue's demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Always the ceiling, within the budget.
    Fixed,
    /// Smoothed signals, additive increase, multiplicative decrease.
    EmaAimd,
}

/// Why a decision is what it is. One each, with the numbers that led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    Cold,
    Demand,
    StepCap,
    Hysteresis,
    IdleDecay,
    HardCap,
    PoolSaturation,
    LatencyCut,
    ErrorCut,
    StoreLatency,
    BreakerOpen,
    Floor,
    Draining,
    NoWorkers,
    Learning,
    Manual,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Cold => "COLD",
            Reason::Demand => "DEMAND",
            Reason::StepCap => "STEP_CAP",
            Reason::Hysteresis => "HYSTERESIS",
            Reason::IdleDecay => "IDLE_DECAY",
            Reason::HardCap => "HARD_CAP",
            Reason::PoolSaturation => "POOL_SATURATION",
            Reason::LatencyCut => "LATENCY_CUT",
            Reason::ErrorCut => "ERROR_CUT",
            Reason::StoreLatency => "STORE_LATENCY",
            Reason::BreakerOpen => "BREAKER_OPEN",
            Reason::Floor => "FLOOR",
            Reason::Draining => "DRAINING",
            Reason::NoWorkers => "NO_WORKERS",
            Reason::Learning => "LEARNING",
            Reason::Manual => "MANUAL",
        }
    }
}

/// What is known of one queue at a tick. Counts are of the tick, the others are of now.
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs {
    pub strategy: Strategy,
    pub min: u32,
    pub max: u32,
    pub tick_ms: u64,
    pub ready: u64,
    pub running: u64,
    /// Slots of the connected workers that serve the queue.
    pub slots: u64,
    /// The cap that was in force when the queue was first seen, if there was one: the place to start from.
    pub adopted: Option<u32>,
    pub arrivals: u64,
    /// Jobs that ended well.
    pub completions: u64,
    pub overload: u64,
    pub down: u64,
    pub errors: u64,
    /// A worker saw its downstream gone several times in a row.
    pub is_down: bool,
    pub run_time_mean_ms: f64,
    pub run_time_p99_ms: f64,
    pub oldest_age_ms: u64,
    pub store_latency_ms: f64,
    /// Of the fullest resource that the queue costs: what everybody uses or waits for, by its capacity. 0: not measured.
    pub pool_saturation: f64,
}

impl Inputs {
    /// Nothing happens and nothing is known: what tests and a queue without reports start from.
    pub fn idle(strategy: Strategy, min: u32, max: u32, tick_ms: u64) -> Self {
        Self {
            strategy,
            min,
            max,
            tick_ms,
            ready: 0,
            running: 0,
            slots: 0,
            adopted: None,
            arrivals: 0,
            completions: 0,
            overload: 0,
            down: 0,
            errors: 0,
            is_down: false,
            run_time_mean_ms: 0.0,
            run_time_p99_ms: 0.0,
            oldest_age_ms: 0,
            store_latency_ms: 0.0,
            pool_saturation: 0.0,
        }
    }

    /// Ended with a word about the downstream; a job's own fault says nothing about it.
    fn results(&self) -> u64 {
        self.completions + self.failures()
    }

    fn failures(&self) -> u64 {
        self.overload + self.down + self.errors
    }
}

/// What a queue should get, if the budget allows.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    pub demand: u32,
    pub reason: Reason,
    /// The numbers used, by their names on the wire.
    pub inputs: Vec<(&'static str, f64)>,
}

/// Per queue, by name. Plain data; a queue that is not in the inputs is forgotten.
pub type State = BTreeMap<String, QueueState>;

/// One tick for all queues. `now_ms` is of any monotonic clock.
pub fn decide(
    mut state: State,
    inputs: &BTreeMap<String, Inputs>,
    now_ms: u64,
) -> (State, BTreeMap<String, Decision>) {
    let mut next = State::new();
    let mut decisions = BTreeMap::new();
    for (queue, inputs) in inputs {
        let known = state.remove(queue);
        let (known, decision) = match inputs.strategy {
            Strategy::EmaAimd => ema_aimd::decide(known, inputs, now_ms),
            Strategy::Fixed => (known.unwrap_or_default(), fixed(inputs)),
        };
        next.insert(queue.clone(), known);
        decisions.insert(queue.clone(), decision);
    }
    (next, decisions)
}

fn fixed(inputs: &Inputs) -> Decision {
    Decision {
        demand: inputs.max.max(inputs.min),
        reason: Reason::Demand,
        inputs: vec![
            ("ready", inputs.ready as f64),
            ("running", inputs.running as f64),
            ("max", f64::from(inputs.max)),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_asks_for_the_ceiling_and_forgotten_queues_lose_their_state() {
        let inputs = BTreeMap::from([("a".to_owned(), Inputs::idle(Strategy::Fixed, 1, 40, 5_000))]);
        let state = State::from([("gone".to_owned(), QueueState::default())]);
        let (state, decisions) = decide(state, &inputs, 0);
        assert_eq!(
            (decisions["a"].demand, decisions["a"].reason),
            (40, Reason::Demand)
        );
        assert_eq!(state.keys().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn the_same_tick_twice_gives_the_same() {
        let mut busy = Inputs::idle(Strategy::EmaAimd, 1, 100, 5_000);
        (busy.ready, busy.running, busy.slots) = (500, 10, 100);
        let inputs = BTreeMap::from([("a".to_owned(), busy)]);
        let (state, _) = decide(State::new(), &inputs, 0);
        assert_eq!(
            decide(state.clone(), &inputs, 5_000),
            decide(state, &inputs, 5_000)
        );
    }
}
