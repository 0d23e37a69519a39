//! What routers are to refuse until the next tick, by what the last one has seen.

use tidegate_flow::admission::{self, Gate, Tiered};
use tidegate_protocol::{
    domain::{Policy, QueueName, WhenDown},
    reason,
};

use super::{
    Core,
    facts::Queue,
    model::{Effect, GateOrder, Order, Role, StreamId},
};

/// Gates outlive this many ticks without news.
const TTL_TICKS: u64 = 3;
/// A shorter time (a controller's first tick) says nothing of a rate.
const WINDOW_MS_MIN: u64 = 100;
/// Told to refused callers whatever is predicted: sooner, nothing has changed yet ...
const RETRY_MS_MIN: u64 = 500;
/// ... and later, everything may have.
const RETRY_MS_MAX: u64 = 300_000;
/// A downstream that is gone is asked about once a tick.
const RETRY_DOWN_MS: u64 = 5_000;
const REFUSE_WITHOUT_PROBES: f64 = 0.9;

impl Core {
    /// Decides for every queue and tells every router the whole state.
    pub(super) fn send_gates(&mut self, elapsed_ms: u64) {
        let gates: Vec<(QueueName, Gate)> = self
            .queues
            .iter_mut()
            .map(|(name, queue)| (name.clone(), queue.gate(elapsed_ms)))
            .collect();
        let gates = self.by_tier(gates);
        if !self.is_leader {
            return;
        }
        let orders: Vec<GateOrder> = gates
            .into_iter()
            .filter_map(|(name, gate)| self.queues.get(&name)?.order(name, gate))
            .collect();
        let routers: Vec<StreamId> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.role == Role::Router && !node.is_silent)
            .map(|(id, _)| *id)
            .collect();
        for router in &routers {
            let order = Order::Gates {
                version: self.version,
                gates: orders.clone(),
                ttl_ms: TTL_TICKS * self.settings.tick_ms,
                routers: u32::try_from(routers.len()).unwrap_or(u32::MAX),
            };
            self.effects.push(Effect::Send(*router, order));
        }
    }

    /// Where a resource has no more to give, the less important of its queues give way first.
    fn by_tier(&self, mut gates: Vec<(QueueName, Gate)>) -> Vec<(QueueName, Gate)> {
        for resource in self.resources.keys() {
            let shares = |name: &QueueName| {
                let queue = self.queues.get(name)?;
                let costs = queue.costs().iter().any(|(cost, _)| cost == resource);
                costs.then_some(queue)
            };
            let is_short = gates.iter().any(|(name, gate)| {
                let limited = shares(name).and_then(|queue| queue.goal.limited_by.as_deref());
                gate.refuse > 0.0 && limited == Some(resource)
            });
            if !is_short {
                continue;
            }
            let sharing: Vec<usize> = (0..gates.len())
                .filter(|at| shares(&gates[*at].0).is_some())
                .collect();
            let mut tiers: Vec<Tiered> = sharing
                .iter()
                .map(|at| Tiered {
                    tier: shares(&gates[*at].0).map_or(0, Queue::tier),
                    refuse: gates[*at].1.refuse,
                })
                .collect();
            admission::give_way(&mut tiers);
            for (at, tiered) in sharing.into_iter().zip(tiers) {
                gates[at].1.refuse = tiered.refuse;
            }
        }
        gates
    }
}

impl Queue {
    /// What is predicted, by the flow of the last tick.
    fn gate(&mut self, elapsed_ms: u64) -> Gate {
        if elapsed_ms < WINDOW_MS_MIN {
            return Gate::default();
        }
        let deadline_ms = self.managed().map_or(0, |policy| policy.max_wait_ms);
        let seen = self.seen;
        let inputs = admission::Inputs {
            deadline_s: deadline_ms as f64 / 1_000.0,
            ready: self.store.ready,
            arrivals: seen.arrivals,
            completions: seen.completions,
            run_time_s: seen.mean_ms.unwrap_or(0.0) / 1_000.0,
            target: self.goal.target,
            slots: seen.slots,
            seconds: elapsed_ms as f64 / 1_000.0,
        };
        self.admission.take(&inputs)
    }

    /// `None`: the queue is open.
    fn order(&self, queue: QueueName, gate: Gate) -> Option<GateOrder> {
        let refuses = self
            .managed()
            .is_some_and(|policy| policy.when_down == WhenDown::Refuse);
        if self.goal.is_down && refuses {
            // Whether it is back shows only by jobs that try it: where none is left, a few are let in.
            let is_empty = self.store.ready + self.store.running == 0;
            return Some(GateOrder {
                queue,
                refuse: if is_empty { REFUSE_WITHOUT_PROBES } else { 1.0 },
                retry_after_ms: RETRY_DOWN_MS,
                reason: reason::DOWNSTREAM_DOWN,
            });
        }
        let retry_after_ms = (gate.retry_after_s * 1_000.0) as u64;
        (gate.refuse > 0.0).then(|| GateOrder {
            queue,
            refuse: gate.refuse,
            retry_after_ms: retry_after_ms.clamp(RETRY_MS_MIN, RETRY_MS_MAX),
            reason: reason::WAIT_TOO_LONG,
        })
    }

    fn managed(&self) -> Option<&Policy> {
        self.policy.as_ref().map(|managed| &managed.value)
    }

    fn tier(&self) -> u32 {
        self.managed().map_or(0, |policy| policy.tier)
    }
}
