//! The second half of a tick: wishes to allocations to decisions.

use std::collections::BTreeMap;

use super::{
    demand::is_slight,
    domain::{Budget, Domain},
    ema_aimd,
    inputs::{Decision, Inputs, QueueInputs, Strategy},
    reason::Reason,
    state::{DomainState, QueueState},
    trip::Phase,
    wish::Wish,
};
use crate::budget::{self, Claim};

/// Share of a cap that retries may hold while results fail.
const RETRY_SHARE_HELD: f64 = 0.25;

/// Everything of one tick, once it has been seen.
pub(super) struct Turn<'a> {
    pub inputs: &'a Inputs,
    pub queues: Vec<&'a QueueInputs>,
    pub in_flight: Vec<f64>,
    pub domains: Vec<Domain<'a>>,
    pub states: Vec<QueueState>,
    pub domain_states: Vec<DomainState>,
    pub budgets: Vec<Budget>,
    pub answers: BTreeMap<usize, ema_aimd::Answer>,
    pub seconds: f64,
}

impl Turn<'_> {
    pub(super) fn divide(&mut self) -> Vec<Decision> {
        let wishes = self.wishes();
        let resources = self.inputs.resources.len();
        let budgets: Vec<u64> = self.budgets[..resources]
            .iter()
            .map(|budget| budget.units)
            .collect();
        let hard: Vec<u64> = self.domains[..resources]
            .iter()
            .map(|domain| domain.hard as u64)
            .collect();
        let places: BTreeMap<&String, usize> = self.inputs.resources.keys().zip(0..).collect();
        let claim = |at: usize, demand: u32| {
            let queue = self.queues[at];
            let min = queue.pinned.map_or(queue.min, |pinned| queue.min.min(pinned));
            let costs = queue.costs.iter().map(|(name, units)| {
                // An unknown resource has no budget: past the end of the list.
                (places.get(name).copied().unwrap_or(usize::MAX), *units)
            });
            Claim {
                min,
                demand: demand.max(min),
                weight: queue.weight,
                costs: costs.collect(),
            }
        };
        let claims = |demand: &dyn Fn(usize) -> u32| -> Vec<Claim> {
            (0..self.queues.len()).map(|at| claim(at, demand(at))).collect()
        };
        let given = claims(&|at| wishes[at].beyond.unwrap_or(wishes[at].demand));
        let given = budget::allocate(&given, &budgets);
        let safe = budget::safe(&claims(&|at| wishes[at].demand), &hard);
        let within = budget::allocate(&claims(&|at| self.within_fleet(at, wishes[at].stepped)), &budgets);
        let mut decisions = Vec::with_capacity(wishes.len());
        for (at, wish) in wishes.into_iter().enumerate() {
            let mut decision = Decision {
                demand: wish.demand,
                wanted: given[at].slots,
                cap: within[at].slots,
                safe: safe[at],
                retry_share: 1.0,
                is_down: false,
                limited_by: None,
                reason: wish.reason,
                inputs: Vec::new(),
            };
            if let Some(place) = given[at].limited_by {
                decision.limited_by = self.inputs.resources.keys().nth(place).cloned();
            }
            self.settle(at, &wish, &mut decision);
            self.note_idle(at, decision.cap, wish.demand);
            self.states[at].target = Some(decision.cap);
            decision.inputs = self.numbers(at, &wish);
            decisions.push(decision);
        }
        decisions
    }

    fn note_idle(&mut self, at: usize, cap: u32, demand: u32) {
        let state = &mut self.states[at];
        let is_idle = demand < cap && !is_slight(demand, cap);
        state.idle_s = if is_idle { state.idle_s + self.seconds } else { 0.0 };
    }

    /// Running jobs have slots somewhere, even if their worker is not attached here.
    pub(super) fn reach(&self, at: usize) -> u32 {
        let queue = self.queues[at];
        u32::try_from(queue.slots.max(queue.running)).unwrap_or(u32::MAX)
    }

    /// Slots that connected workers have for it, where something is shared; else nothing is lost by waiting for workers.
    pub(super) fn within_fleet(&self, at: usize, slots: u32) -> u32 {
        let queue = self.queues[at];
        match queue.costs.is_empty() {
            true => slots,
            false => slots.min(self.reach(at)).max(queue.min),
        }
    }

    /// Last touches to a decision: what is not worth a change, retries, and the reason that says most.
    fn settle(&self, at: usize, wish: &Wish, decision: &mut Decision) {
        let (queue, state) = (self.queues[at], &self.states[at]);
        if queue.pinned.is_some() {
            decision.reason = Reason::Manual;
            return;
        }
        match queue.strategy {
            Strategy::Adaptive => {
                let shared = wish.home.map(|home| &self.domain_states[home]);
                let fails = state.failures.holds_retries()
                    || shared.is_some_and(|shared| shared.overload.holds_retries());
                decision.is_down = state.trip.phase != Phase::Closed;
                decision.retry_share = match state.trip.phase {
                    Phase::Open => 0.0,
                    _ if fails => RETRY_SHARE_HELD,
                    _ => 1.0,
                };
                if let Some(target) = state.target {
                    // A raise that jobs wait for is always worth it.
                    let is_waiting = queue.ready > 0 && self.in_flight[at] >= 0.9 * f64::from(target) - 1.0;
                    if decision.cap > target
                        && is_slight(decision.cap, target)
                        && !is_waiting
                        && !decision.is_down
                    {
                        decision.cap = target;
                        decision.reason = Reason::Hysteresis;
                        return;
                    }
                }
            }
            Strategy::EmaAimd => {
                decision.is_down = state.ema_aimd.is_tripped();
                if state.ema_aimd.holds_retries() {
                    decision.retry_share = RETRY_SHARE_HELD;
                }
            }
            Strategy::Fixed => {}
        }
        let reach = self.reach(at);
        let is_short = decision.wanted < wish.demand || decision.cap < self.within_fleet(at, wish.stepped);
        if reach < wish.stepped.min(decision.wanted) && wish.reason != Reason::ErrorCut {
            decision.reason = Reason::NoWorkers;
        } else if is_short && let Some(home) = wish.home {
            decision.reason = self.budgets[home].reason;
        } else if is_short {
            decision.reason = Reason::HardCap;
        }
    }

    /// The numbers that led to a decision, by their names on the wire.
    fn numbers(&self, at: usize, wish: &Wish) -> Vec<(&'static str, f64)> {
        let (queue, state) = (self.queues[at], &self.states[at]);
        let mut numbers = vec![
            ("ready", queue.ready as f64),
            ("running", queue.running as f64),
            ("in_flight_mean", self.in_flight[at]),
            ("slots", queue.slots as f64),
            ("oldest_age_ms", queue.oldest_age_ms as f64),
            ("arrivals_per_s", state.arrivals.or(0.0)),
            ("run_time_ms", 1_000.0 * state.run_time.or(0.0)),
            ("completions", queue.run_time.count() as f64),
            ("overload", queue.overload as f64),
            ("down", queue.down as f64),
            ("errors", queue.errors as f64),
            ("demand", f64::from(wish.demand)),
        ];
        if let Some(answer) = self.answers.get(&at) {
            numbers.extend(
                answer
                    .inputs
                    .iter()
                    .filter(|(name, _)| numbers.iter().all(|(known, _)| known != name))
                    .copied()
                    .collect::<Vec<_>>(),
            );
            return numbers;
        }
        let Some(home) = wish.home else { return numbers };
        let (domain, shared) = (&self.domains[home], &self.domain_states[home]);
        numbers.extend([
            ("busy", wish.need.map_or(0.0, |need| need.busy)),
            ("baseline_ms", state.baseline.mean.ms),
            ("error_ema", state.failures.share.or(0.0)),
            ("overload_ema", shared.overload.share.or(0.0)),
            ("slowdown", shared.capacity.newest.0),
            ("slowdown_z", shared.capacity.newest.1),
            ("slowdown_ema", shared.capacity.slowdown()),
            ("in_use_by_jobs", domain.in_flight),
            ("in_use_by_others", shared.others.or(0.0)),
            ("hard_cap", domain.hard),
            ("budget", self.budgets[home].units as f64),
        ]);
        if shared.capacity.units.is_finite() {
            numbers.push(("capacity", shared.capacity.units));
        }
        if let Some(ms) = self.inputs.store.latency_ms {
            numbers.push(("store_latency_ms", ms));
        }
        numbers
    }
}
