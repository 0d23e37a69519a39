//! One turn of the loop: signals -> demands -> budgets -> targets -> orders, lower first.

use std::collections::{BTreeMap, HashMap};

use tidegate_flow::{governor::Reason, shard};
use tidegate_protocol::domain::QueueName;

use super::{
    Core, Standing,
    caps::Changed,
    explain,
    facts::{Goal, Queue},
    model::{Decision, Effect, Now, Order, Role, StreamId},
};

/// Targets are sent again this many times within their life, so that one lost message does not let them expire.
const RESENDS: u64 = 3;

impl Core {
    /// Decides for every queue and sends what follows.
    pub fn tick(&mut self, now: Now) {
        if matches!(self.standing, Standing::Standby(..)) {
            self.next_tick_ms = now.mono_ms + self.settings.tick_ms;
            return;
        }
        let last = self.last_tick.map_or(now.mono_ms, |last| last.mono_ms);
        let elapsed_ms = now.mono_ms.saturating_sub(last).max(1);
        self.last_tick = Some(now);
        self.next_tick_ms = now.mono_ms + self.settings.tick_ms;
        self.age(now);
        self.expire_requests(now);
        self.expire_pins(now);
        self.push_unwritten(now);
        self.close_store_window();
        self.close_probe_windows(now);
        self.find_overfull();
        self.set_goals(elapsed_ms, now);
        let moved = self.divide(now);
        self.send_gates(elapsed_ms);
        self.adopt(now);
        let mut changed = self.order_goals(now);
        for name in moved {
            let cap = self.caps.current(name.as_str()).unwrap_or(0);
            changed.entry(name).or_insert(Changed {
                previous: cap,
                cap,
                waits: false,
            });
        }
        self.record(changed, now);
    }

    /// What each queue should come to: the governor's decision, with what overrules it.
    fn set_goals(&mut self, elapsed_ms: u64, now: Now) {
        let inputs = self.governor_inputs(elapsed_ms);
        let decisions = self.decide(&inputs, now);
        let names: Vec<QueueName> = self.queues.keys().cloned().collect();
        for name in &names {
            // Without an answer of the store there is nothing to decide on.
            let Some(decision) = decisions.get(name.as_str()) else {
                continue;
            };
            let goal = Goal {
                cap: decision.cap,
                safe: decision.safe,
                wanted: decision.wanted,
                target: 0,
                retry_share: decision.retry_share,
                is_down: decision.is_down,
                limited_by: decision.limited_by.clone(),
                reason: decision.reason,
                inputs: decision.inputs.clone(),
            };
            self.set_goal(name, goal, now);
        }
    }

    /// The goal with what overrules it, and why.
    fn set_goal(&mut self, name: &QueueName, mut goal: Goal, now: Now) {
        let (all_frozen, is_learning) = (self.frozen, self.is_learning(now));
        let current = self.caps.current(name.as_str());
        let Some(queue) = self.queues.get_mut(name) else {
            return;
        };
        let costs_nothing = queue.costs().is_empty();
        let held = (all_frozen || queue.frozen, is_learning, current);
        match held {
            (true, _, Some(current)) => {
                goal.cap = current;
                goal.reason = Reason::Manual;
            }
            // Nothing is raised yet, and slots that have not come back yet are no reason to lower.
            (_, true, Some(current)) => {
                goal.cap = current.min(goal.wanted.max(goal.cap));
                goal.reason = Reason::Learning;
            }
            // Its first cap would be a raise.
            (_, true, None) => return,
            _ => {}
        }
        self.drain_first(name, &mut goal);
        let Some(queue) = self.queues.get_mut(name) else {
            return;
        };
        // Nothing shared is at risk: silence changes nothing then.
        if costs_nothing {
            goal.safe = goal.cap;
        }
        goal.target = queue.goal.target;
        queue.goal = goal;
        queue.is_decided = true;
    }

    /// Divides targets over workers, sends what changed or is due; gives the queues whose sum changed.
    fn divide(&mut self, now: Now) -> Vec<QueueName> {
        let names: Vec<QueueName> = self.queues.keys().cloned().collect();
        let index: HashMap<&QueueName, usize> = names.iter().zip(0..).collect();
        let goals: Vec<u32> = self.queues.values().map(|queue| queue.goal.cap).collect();
        let workers: Vec<(StreamId, shard::Worker)> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.role == Role::Worker && !node.is_silent)
            .map(|(id, node)| {
                let held = node
                    .targets
                    .iter()
                    .filter_map(|(name, target)| Some((*index.get(name)?, *target)))
                    .collect();
                let worker = shard::Worker {
                    id: node.node.clone(),
                    slots: node.slots,
                    serves: node
                        .queues
                        .iter()
                        .filter_map(|name| index.get(name).copied())
                        .collect(),
                    held,
                };
                (*id, worker)
            })
            .collect();
        let (ids, workers): (Vec<StreamId>, Vec<shard::Worker>) = workers.into_iter().unzip();
        let divided = self.divide_by_need(&goals, workers);
        let sums = sums(&divided, names.len());
        let mut moved = Vec::new();
        for (name, sum) in names.iter().zip(sums.iter().copied()) {
            let queue = self.queues.get_mut(name).filter(|queue| queue.goal.target != sum);
            if let Some(queue) = queue {
                queue.goal.target = sum;
                moved.push(name.clone());
            }
        }
        self.send_targets(&names, &sums, &ids, divided, now);
        moved
    }

    /// First what each queue can use now, then the spare by cap: idle queues hold no slots that a busy one could run on.
    fn divide_by_need(&self, caps: &[u32], workers: Vec<shard::Worker>) -> Vec<shard::Targets> {
        let usable = |(queue, cap): (&Queue, &u32)| {
            let jobs = queue.store.running.saturating_add(queue.store.ready);
            u32::try_from(jobs).unwrap_or(u32::MAX).max(1).min(*cap)
        };
        let needs: Vec<u32> = self.queues.values().zip(caps).map(usable).collect();
        let mut divided = shard::divide(&needs, &workers);
        let spare: Vec<shard::Worker> = workers
            .into_iter()
            .zip(&divided)
            .map(|(worker, targets)| shard::Worker {
                slots: worker.slots.saturating_sub(targets.values().sum()),
                held: worker
                    .held
                    .iter()
                    .map(|(queue, held)| {
                        (
                            *queue,
                            held.saturating_sub(targets.get(queue).copied().unwrap_or(0)),
                        )
                    })
                    .collect(),
                ..worker
            })
            .collect();
        let got = sums(&divided, caps.len());
        let more: Vec<u32> = caps
            .iter()
            .zip(got)
            .map(|(cap, got)| cap.saturating_sub(got))
            .collect();
        for (targets, more) in divided.iter_mut().zip(shard::divide(&more, &spare)) {
            more.into_iter()
                .for_each(|(queue, more)| *targets.entry(queue).or_default() += more);
        }
        divided
    }

    fn send_targets(
        &mut self,
        names: &[QueueName],
        sums: &[u32],
        ids: &[StreamId],
        divided: Vec<shard::Targets>,
        now: Now,
    ) {
        let (due_ms, ttl_ms) = (self.ttl_ms() / RESENDS, self.ttl_ms());
        if !self.is_leader {
            return;
        }
        let mut version = None;
        // A worker that has not been told of a queue offers its slots: better than a target that nobody decided, and than
        // one of 0 everywhere because there are more queues than slots.
        let is_told = |(queue, sum): (&Queue, &u32)| queue.is_decided && (queue.goal.cap == 0 || *sum > 0);
        let is_told: Vec<bool> = self.queues.values().zip(sums).map(is_told).collect();
        for (id, mut targets) in ids.iter().zip(divided) {
            targets.retain(|queue, _| is_told[*queue]);
            let of_names = targets.iter().map(|(queue, target)| (&names[*queue], target));
            let is_due = self.nodes.get(id).is_none_or(|node| {
                let since_ms = node.sent_at_ms.map(|at| now.mono_ms.saturating_sub(at));
                since_ms.is_none_or(|since_ms| since_ms >= due_ms) || !of_names.clone().eq(&node.targets)
            });
            if !is_due || targets.is_empty() {
                continue;
            }
            let targets: BTreeMap<QueueName, u32> =
                of_names.map(|(name, target)| (name.clone(), *target)).collect();
            let version = *version.get_or_insert_with(|| self.next_version());
            let reason = |name: &QueueName| self.queues.get(name).map_or("", |q| q.goal.reason.as_str());
            let order = Order::Targets {
                version,
                targets: targets
                    .iter()
                    .map(|(name, target)| (name.clone(), *target, reason(name)))
                    .collect(),
                ttl_ms,
            };
            self.effects.push(Effect::Send(*id, order));
            if let Some(node) = self.nodes.get_mut(id) {
                node.targets = targets;
                node.sent_at_ms = Some(now.mono_ms);
            }
        }
    }

    /// Writes down what changed; what did not change is the newest word on its queue all the same.
    pub(super) fn record(&mut self, mut changed: BTreeMap<QueueName, Changed>, now: Now) {
        let version = self.version;
        for (name, queue) in &mut self.queues {
            let change = changed.remove(name);
            let is_change = change.is_some();
            let current = self.caps.current(name.as_str());
            let cap = change.as_ref().map(|change| change.cap).or(current).unwrap_or(0);
            let waits = match &change {
                Some(change) => change.waits,
                None => current.is_some_and(|current| current < queue.goal.cap),
            };
            let mut decision = Decision {
                seq: 0,
                at_ms: now.wall_ms,
                version,
                queue: name.clone(),
                cap,
                previous_cap: change.map_or(cap, |change| change.previous),
                wanted: queue.goal.wanted,
                target: queue.goal.target,
                reason: if waits {
                    Reason::Draining
                } else {
                    queue.goal.reason
                },
                inputs: queue.goal.inputs.clone(),
                text: String::new(),
            };
            decision.text = explain::text(&decision, queue.goal.limited_by.as_deref());
            if is_change {
                decision = self.history.push(decision);
                self.effects.push(Effect::Decided(decision.clone()));
            }
            queue.newest = Some(decision);
        }
    }
}

/// Of each of the queues, over all workers.
fn sums(divided: &[shard::Targets], queues: usize) -> Vec<u32> {
    let mut sums = vec![0; queues];
    for (queue, target) in divided.iter().flatten() {
        sums[*queue] += target;
    }
    sums
}
