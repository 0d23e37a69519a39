//! Caps on their way to the store and back: adopt, lower first, raise what the answers pay for.

use std::collections::BTreeMap;

use tidegate_flow::caps::Stamp;
use tidegate_protocol::domain::{Cap, CapRecord, QueueName, Version};

use super::{
    Core,
    facts::{FACTS_MS_MAX, Queue},
    model::{CapAnswer, Effect, Now, Order, StreamId},
};

/// A router asks the store once and answers; longer means that the order may or may not be in force.
const ANSWER_MS_MAX: u64 = 2_000;
/// Requests in a row without an answer until another router is made writer.
const MISSES_MAX: u32 = 3;
/// Orders of one message: as many as the store takes in one call.
const ORDERS_PER_MESSAGE: usize = 1_000;

/// One message to the writer.
pub(super) struct Request {
    writer: StreamId,
    version: Version,
    queues: Vec<QueueName>,
    sent_ms: u64,
}

/// A cap that an order has changed.
pub(super) struct Changed {
    pub previous: u32,
    pub cap: u32,
    /// Less than the goal, because slots that pay for it are still held.
    pub waits: bool,
}

fn stamp(version: Version) -> Stamp {
    (version.epoch, version.generation)
}

impl Core {
    /// Asks what the store has for every queue that it has not answered for.
    pub(super) fn adopt(&mut self, now: Now) {
        let Some(writer) = self.writer else { return };
        if self.is_held() {
            return;
        }
        let asked: Vec<&QueueName> = self
            .requests
            .values()
            .flat_map(|request| &request.queues)
            .collect();
        let unknown: Vec<QueueName> = self
            .queues
            .keys()
            .filter(|name| !self.caps.is_adopted(name.as_str()) && !asked.contains(name))
            .cloned()
            .collect();
        if unknown.is_empty() {
            return;
        }
        // Not under a newer version: where another controller is in force, the store must be able to say so.
        self.send_caps(
            writer,
            unknown.into_iter().map(|queue| (queue, None)).collect(),
            now,
        );
    }

    /// Under the newest version: the store takes an equal one again, so parts of a decision may share it.
    fn send_caps(&mut self, writer: StreamId, orders: Vec<(QueueName, Option<Cap>)>, now: Now) {
        let version = self.version;
        for orders in orders.chunks(ORDERS_PER_MESSAGE) {
            self.asked += 1;
            let request_id = format!("{}.{}.{}", version.epoch, version.generation, self.asked);
            let request = Request {
                writer,
                version,
                queues: orders.iter().map(|(queue, _)| queue.clone()).collect(),
                sent_ms: now.mono_ms,
            };
            self.requests.insert(request_id.clone(), request);
            let order = Order::Caps {
                version,
                request_id,
                orders: orders.to_vec(),
                ttl_ms: self.ttl_ms(),
            };
            self.effects.push(Effect::Send(writer, order));
        }
    }

    /// Orders every adopted queue's goal, lower first, and stamps the others' caps anew so that they do not expire.
    pub(super) fn order_goals(&mut self, now: Now) -> BTreeMap<QueueName, Changed> {
        self.order(now, |_, _| true)
    }

    /// Orders only what has become affordable since.
    pub(super) fn pay_raises(&mut self, now: Now) {
        let changed = self.order(now, |current, next| next > current);
        self.record(changed, now);
    }

    /// Asks again for queues that ran more than their lowered cap when the store answered, once they run less and some raise
    /// waits: it is paid within a second or two of the slots and not at the next tick.
    pub(super) fn follow_drains(&mut self, now: Now) {
        let may_order = self.is_leader && !self.is_held() && self.requests.is_empty();
        let Some(writer) = self.writer.filter(|_| may_order) else {
            return;
        };
        let current = |name: &QueueName| self.caps.current(name.as_str());
        let mut queues = self.queues.iter();
        let is_waiting = queues.any(|(name, queue)| {
            queue.is_decided && current(name).is_some_and(|current| current < queue.goal.cap)
        });
        let has_drained = |(name, queue): &(&QueueName, &Queue)| {
            let answered = self.caps.slots(name.as_str());
            let is_fresh = now.mono_ms.saturating_sub(queue.store_heard_ms) <= FACTS_MS_MAX;
            is_fresh
                && answered > u64::from(current(name).unwrap_or(u32::MAX))
                && queue.store.slots < answered
        };
        let drained: Vec<QueueName> = match is_waiting {
            true => self
                .queues
                .iter()
                .filter(has_drained)
                .map(|(name, _)| name.clone())
                .collect(),
            false => Vec::new(),
        };
        if !drained.is_empty() {
            // Under a newer version: an answer that names this one's has seen every order of before.
            self.next_version();
            let asked = drained.into_iter().map(|queue| (queue, None)).collect();
            self.send_caps(writer, asked, now);
        }
    }

    fn order(&mut self, now: Now, is_due: impl Fn(u32, u32) -> bool) -> BTreeMap<QueueName, Changed> {
        let mut changed = BTreeMap::new();
        let Some(writer) = self.writer.filter(|_| !self.is_held()) else {
            return changed;
        };
        let mut goals: Vec<(QueueName, u32, Option<u32>)> = Vec::new();
        for (name, queue) in &self.queues {
            // Without a decision there is nothing to order yet.
            if queue.is_decided && self.caps.is_adopted(name.as_str()) {
                let current = self.caps.current(name.as_str());
                // The goal is of the last tick; what was frozen or deleted since is raised no more.
                let is_halted = queue.removing || ((self.frozen || queue.frozen) && queue.pin.is_none());
                let most = current.filter(|_| is_halted).unwrap_or(u32::MAX);
                goals.push((name.clone(), queue.goal.cap.min(most), current));
            }
        }
        goals.sort_by_key(|(_, goal, current)| current.is_none_or(|current| *goal > current));
        let before = self.version;
        let version = self.next_version();
        let mut orders = Vec::new();
        for (name, goal, current) in goals {
            let queue = name.as_str();
            let next = match current {
                Some(current) if goal <= current => goal,
                _ => u64::from(goal).min(self.caps.affordable(queue)) as u32,
            };
            if !is_due(current.unwrap_or(0), next) {
                continue;
            }
            let ordered = match current {
                Some(current) if goal <= current => self.caps.lower(queue, goal, stamp(version)),
                _ => self.caps.raise(queue, goal, stamp(version)),
            };
            let Some(cap) = ordered else { continue };
            if current != Some(cap) {
                let change = Changed {
                    previous: current.unwrap_or(0),
                    cap,
                    waits: cap < goal,
                };
                changed.insert(name.clone(), change);
            }
            let order = self.cap_of(&name, cap);
            orders.push((name, Some(order)));
        }
        if orders.is_empty() {
            self.version = before;
        } else {
            self.send_caps(writer, orders, now);
        }
        changed
    }

    fn cap_of(&self, name: &QueueName, cap: u32) -> Cap {
        let goal = self.queues.get(name).map(|queue| &queue.goal);
        let safe = goal.map_or(cap, |goal| goal.safe);
        // Where attempts fail, retries would crowd out first attempts, which still say whether it is over.
        let share = goal.map_or(1.0, |goal| goal.retry_share);
        let retry_cap = ((f64::from(cap) * share).ceil() as u32).max(1).min(cap);
        Cap { cap, retry_cap, safe }
    }

    /// A router has answered.
    pub(super) fn answered(&mut self, from: StreamId, request_id: &str, items: Vec<CapAnswer>, now: Now) {
        // Late answers are as true as others: each says what the store has, and by which decision.
        if let Some(request) = self.requests.remove(request_id)
            && request.writer == from
        {
            self.writer_misses = 0;
        }
        let mut foreign: Option<CapRecord> = None;
        for item in items {
            if let Some(error) = item.error {
                tracing::warn!(queue = %item.queue, error, "the store did not take a cap");
                continue;
            }
            let version = item.record.map(|record| record.version);
            // Newer than anything that was sent from here: somebody else's.
            if !item.applied && version.is_some_and(|version| version > self.version) {
                let newest = foreign.into_iter().chain(item.record);
                foreign = newest.max_by_key(|record| (record.version.epoch, record.expires_ms));
                continue;
            }
            let queue = item.queue.as_str();
            let cap = item.record.map(|record| record.cap.cap);
            self.caps
                .acknowledge(queue, stamp(version.unwrap_or_default()), cap, item.slots);
            self.take_adopted(&item.queue, cap);
        }
        match foreign {
            _ if self.is_held() => {}
            Some(record) => self.meet_foreign(record, now),
            // Its nodes obeyed somebody whose caps are gone.
            None if self.seen_epoch >= self.version.epoch => self.outrank(self.seen_epoch),
            None => self.after_answers(now),
        }
    }

    /// The store has a cap of another leadership: it is left alone while that cap lives, and outranked after.
    fn meet_foreign(&mut self, record: CapRecord, now: Now) {
        let clock_ms = self.queues.values().map(|queue| queue.store.clock_ms).max();
        // Without an expiry nobody stands behind it.
        let is_over = self.settings.alone
            || record.expires_ms == 0
            || clock_ms.is_some_and(|clock| clock > record.expires_ms);
        if is_over {
            self.outrank(record.version.epoch);
            return;
        }
        self.is_leader = false;
        self.caps.forget_answers();
        let who = format!(
            "its caps of epoch {} are in force in the job store",
            record.version.epoch
        );
        self.yield_to(who, now);
    }

    /// Whether the store has yet to answer for a queue.
    pub(super) fn waits_for_answers(&self) -> bool {
        self.queues
            .keys()
            .any(|name| !self.caps.is_adopted(name.as_str()))
    }

    /// A queue that is answered for the first time is decided about soon; until then its cap stays what it is.
    fn take_adopted(&mut self, name: &QueueName, cap: Option<u32>) {
        let Some(queue) = self.queues.get_mut(name) else {
            return;
        };
        if !queue.is_decided && queue.adopted.is_none() {
            queue.adopted = cap;
        }
    }

    fn after_answers(&mut self, now: Now) {
        if !self.waits_for_answers() {
            self.conflict = None;
            if self.is_first && !self.settings.alone {
                self.leave_first_epoch();
                return;
            }
            if !self.is_leader {
                self.is_leader = true;
                self.push_all_policies(now);
            }
        }
        self.finish_removals();
        if self.queues.values().any(|queue| !queue.is_decided) {
            self.tick_soon(now);
        }
        if !self.is_learning(now) {
            self.pay_raises(now);
        }
    }

    /// At each tick: requests that nobody answered.
    pub(super) fn expire_requests(&mut self, now: Now) {
        let late = |request: &Request| now.mono_ms.saturating_sub(request.sent_ms) > ANSWER_MS_MAX;
        let overdue: Vec<String> = self
            .requests
            .iter()
            .filter(|(_, request)| late(request))
            .map(|(id, _)| id.clone())
            .collect();
        for id in overdue {
            let Some(request) = self.requests.remove(&id) else {
                continue;
            };
            // The orders still count in the ledger: see `Ledger::timed_out`.
            tracing::warn!(
                request = id,
                epoch = request.version.epoch,
                generation = request.version.generation,
                queues = request.queues.len(),
                "caps were sent and not answered"
            );
            if Some(request.writer) == self.writer {
                self.writer_misses += 1;
            }
        }
        if self.writer_misses >= MISSES_MAX {
            self.replace_writer(now);
        }
    }

    /// A removed queue that holds nothing any more is gone from the budget. It runs nothing all the same, until a policy is
    /// applied: what waits in it would cost the resource.
    fn finish_removals(&mut self) {
        let done: Vec<QueueName> = self
            .queues
            .iter()
            .filter(|(name, queue)| {
                let name = name.as_str();
                queue.removing
                    && queue.policy.is_some()
                    && self.caps.acknowledged(name) == Some(0)
                    && self.caps.slots(name) == 0
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in done {
            self.retire_policy(&name);
        }
    }
}
