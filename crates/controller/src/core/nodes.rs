//! The fleet: who is attached, who has gone silent, and which router writes caps.

use std::collections::{BTreeMap, BTreeSet};

use tidegate_protocol::domain::{Policy, QueueName, Version};

use super::{
    Core, Standing,
    model::{Effect, Hello, Now, Order, Role, Said, StreamId},
};

/// Nodes report each second; after three silent ones a node's numbers say nothing about now.
pub(super) const SILENT_MS: u64 = 3_000;
/// A refusal says that another controller leads for as long as nobody says otherwise, and no longer than this.
const CONFLICT_MS: u64 = 30_000;
/// One message of policies: a schema may have 64 KiB, a message 4 MiB.
const POLICIES_PER_MESSAGE: usize = 500;
const POLICY_BYTES_PER_MESSAGE: usize = 2 << 20;
/// A router tries for two seconds; what it has not written after this it will not write.
const UNWRITTEN_MS: u64 = 5_000;

/// One attached process.
pub(super) struct Node {
    pub role: Role,
    pub node: String,
    pub name: String,
    pub version: String,
    pub store_incarnation: String,
    pub store_clock_ms: u64,
    pub queues: BTreeSet<QueueName>,
    pub slots: u32,
    pub applied: Version,
    pub reported_ms: u64,
    pub is_silent: bool,
    /// A worker's mean in flight, and whether its downstream is gone; by queue that it serves, of the last report that
    /// named it.
    pub gauges: BTreeMap<QueueName, (f64, bool)>,
    /// In use and waiting, by resource.
    pub resources: BTreeMap<String, (u32, u32)>,
    /// A worker's targets as sent, and when.
    pub targets: BTreeMap<QueueName, u32>,
    pub sent_at_ms: Option<u64>,
    /// Messages of policies that the router has not said to have written, and since when.
    pub unwritten: Option<(u32, u64)>,
}

impl Core {
    /// A node has attached.
    pub fn join(&mut self, stream: StreamId, mut hello: Hello, now: Now) {
        if matches!(self.standing, Standing::Standby(..)) {
            return self.send_on(stream);
        }
        let foreign = !hello.ledger_id.is_empty() && hello.ledger_id != self.ledger_id;
        if let Some(other) = self.store_of_others(&hello) {
            let reason = format!(
                "this controller serves the job store {other}; this node's is {}",
                hello.store_incarnation
            );
            tracing::error!(
                node = hello.name,
                reason,
                "a router of another job store was refused"
            );
            let refused = Order::Refused {
                newer: self.version,
                ledger_id: self.ledger_id.clone(),
                reason,
            };
            self.effects.push(Effect::Send(stream, refused));
            self.effects.push(Effect::Close(stream));
            return;
        }
        let twins: Vec<StreamId> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.node == hello.node)
            .map(|(id, _)| *id)
            .collect();
        for twin in twins {
            self.effects.push(Effect::Close(twin));
            self.leave(twin, now);
        }
        tracing::info!(
            stream,
            role = hello.role.as_str(),
            node = hello.name,
            version = hello.version,
            "a node attached"
        );
        // Judged first: a router takes its first submit when it is welcomed.
        let seen = hello.state.store.take();
        let store_clock_ms = seen.as_ref().map_or(0, |seen| seen.clock_ms);
        if let Some(seen) = seen {
            self.see_store(stream, seen, now);
        }
        let queues = hello.queues.into_iter();
        let queues: BTreeSet<QueueName> = queues.map(|queue| self.known_name(queue)).collect();
        let node = Node {
            role: hello.role,
            node: hello.node,
            name: hello.name,
            version: hello.version,
            store_incarnation: hello.store_incarnation,
            store_clock_ms,
            queues,
            slots: hello.slots,
            applied: hello.applied,
            reported_ms: now.mono_ms,
            is_silent: false,
            gauges: BTreeMap::new(),
            resources: BTreeMap::new(),
            targets: BTreeMap::new(),
            sent_at_ms: None,
            unwritten: None,
        };
        // Whether that one is still in force, the store will say.
        if foreign || hello.applied.epoch > self.version.epoch {
            self.seen_epoch = self.seen_epoch.max(hello.applied.epoch);
        }
        self.nodes.insert(stream, node);
        let store_refused = match hello.role {
            Role::Router => self.trust.refused().to_owned(),
            Role::Worker => String::new(),
        };
        let welcome = Order::Welcome {
            version: self.version,
            ledger_id: self.ledger_id.clone(),
            controller: self.settings.name.clone(),
            store_refused,
        };
        self.effects.push(Effect::Send(stream, welcome));
        if hello.role == Role::Router {
            if self.is_leader {
                self.push_policies_to(&[stream], None, now);
            }
            self.choose_writer(now);
        }
        self.take_report(stream, hello.state, now);
        self.adopt(now);
        self.tick_soon(now);
    }

    /// The one name that all nodes' records share: a thousand of them are compared at each tick, and copies would come from
    /// as many places of the memory.
    fn known_name(&mut self, queue: QueueName) -> QueueName {
        self.meet(&queue);
        let known = self.queues.get_key_value(&queue);
        known.map_or(queue.clone(), |(known, _)| known.clone())
    }

    /// The store of the routers that are attached, if the new one's is another.
    fn store_of_others(&self, hello: &Hello) -> Option<String> {
        let mut stores = self
            .live_nodes()
            .filter(|node| node.role == Role::Router && node.node != hello.node)
            .map(|node| &node.store_incarnation);
        let other = stores.find(|store| !store.is_empty())?;
        let differs = !hello.store_incarnation.is_empty() && *other != hello.store_incarnation;
        differs.then(|| other.clone())
    }

    /// A stream has ended.
    pub fn leave(&mut self, stream: StreamId, now: Now) {
        let Some(node) = self.nodes.remove(&stream) else {
            return;
        };
        tracing::info!(stream, role = node.role.as_str(), node = node.name, "a node left");
        if self.writer == Some(stream) {
            self.writer = None;
            self.choose_writer(now);
        }
        self.tick_soon(now);
    }

    /// A node has said something.
    pub fn said(&mut self, stream: StreamId, said: Said, now: Now) {
        let Some(node) = self.nodes.get_mut(&stream) else {
            return;
        };
        node.is_silent = false;
        match said {
            Said::Report(report) => self.take_report(stream, report, now),
            Said::Applied(version) => {
                node.reported_ms = now.mono_ms;
                node.applied = node.applied.max(version);
                node.unwritten = node
                    .unwritten
                    .and_then(|(messages, since)| (messages > 1).then_some((messages - 1, since)));
                if node.role == Role::Router && !self.waits_for_answers() {
                    self.conflict = None;
                }
            }
            Said::CapAnswers { request_id, items } => self.answered(stream, &request_id, items, now),
            Said::Refusal {
                obeyed,
                ledger_id,
                reason,
            } => {
                let who = format!("{} obeys ledger {ledger_id}: {reason}", node.name);
                self.seen_epoch = self.seen_epoch.max(obeyed.epoch);
                self.yield_to(who, now);
                self.effects.push(Effect::Close(stream));
                self.leave(stream, now);
            }
        }
    }

    /// At each tick: nodes that have gone silent, a conflict that nobody repeats.
    pub(super) fn age(&mut self, now: Now) {
        let mut lost_writer = false;
        for (stream, node) in &mut self.nodes {
            let silent = now.mono_ms.saturating_sub(node.reported_ms) > SILENT_MS;
            if silent && !node.is_silent {
                tracing::warn!(
                    stream,
                    node = node.name,
                    "a node has gone silent: its numbers are left out"
                );
                lost_writer |= self.writer == Some(*stream);
            }
            node.is_silent = silent;
        }
        if lost_writer || self.writer.is_none() {
            self.choose_writer(now);
        }
        if matches!(self.conflict, Some((_, at)) if now.mono_ms.saturating_sub(at) > CONFLICT_MS) {
            self.conflict = None;
        }
    }

    pub(super) fn live_nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values().filter(|node| !node.is_silent)
    }

    /// Keeps the writer that lives; else the router that has been here longest.
    pub(super) fn choose_writer(&mut self, now: Now) {
        let is_able = |node: &Node| node.role == Role::Router && !node.is_silent;
        let current = self.writer.filter(|id| self.nodes.get(id).is_some_and(is_able));
        if current.is_some() {
            return;
        }
        let next = self
            .nodes
            .iter()
            .find(|(id, node)| is_able(node) && Some(**id) != self.writer)
            .map(|(id, _)| *id);
        // A silent writer is better than none.
        let Some(next) = next else { return };
        if let Some(old) = self.writer.filter(|old| self.nodes.contains_key(old)) {
            self.effects.push(Effect::Send(old, Order::CapWriter(false)));
        }
        self.writer = Some(next);
        self.writer_misses = 0;
        self.effects.push(Effect::Send(next, Order::CapWriter(true)));
        // What the last writer was told may or may not have been done: ask the store.
        self.requests.clear();
        self.caps.forget_answers();
        if self.version.generation > 0 {
            // An order of the same version that is still on its way could be taken after the answer.
            self.next_version();
        }
        self.adopt(now);
    }

    /// Another writer, because this one does not answer.
    pub(super) fn replace_writer(&mut self, now: Now) {
        let Some(old) = self.writer else { return };
        let is_other =
            |(id, node): (&StreamId, &Node)| *id != old && node.role == Role::Router && !node.is_silent;
        if !self.nodes.iter().any(is_other) {
            return;
        }
        if let Some(node) = self.nodes.get_mut(&old) {
            tracing::warn!(
                node = node.name,
                "the cap writer does not answer: another router takes over"
            );
            node.is_silent = true;
        }
        self.choose_writer(now);
    }

    pub(super) fn push_all_policies(&mut self, now: Now) {
        let routers = self.routers();
        self.push_policies_to(&routers, None, now);
    }

    /// At each tick: a router that could not write a policy gets all of them again.
    pub(super) fn push_unwritten(&mut self, now: Now) {
        let late = |node: &Node| {
            let since = node.unwritten.map(|(_, since)| since);
            since.is_some_and(|since| now.mono_ms.saturating_sub(since) >= UNWRITTEN_MS)
        };
        let late: Vec<StreamId> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.role == Role::Router && late(node))
            .map(|(id, _)| *id)
            .collect();
        for router in late {
            if !self.is_leader {
                return;
            }
            tracing::warn!(
                router,
                "a router has not written its policies: they are sent again"
            );
            if let Some(node) = self.nodes.get_mut(&router) {
                node.unwritten = None;
            }
            self.push_policies_to(&[router], None, now);
        }
    }

    pub(super) fn routers(&self) -> Vec<StreamId> {
        let routers = self.nodes.iter().filter(|(_, node)| node.role == Role::Router);
        routers.map(|(id, _)| *id).collect()
    }

    /// To some routers: one queue's policy, or all of them.
    pub(super) fn push_policies_to(&mut self, routers: &[StreamId], only: Option<&QueueName>, now: Now) {
        let mut parts: Vec<Vec<(QueueName, Policy, Version)>> = vec![Vec::new()];
        let mut bytes = 0;
        for (name, queue) in &self.queues {
            let Some(managed) = &queue.policy else { continue };
            if queue.removing || only.is_some_and(|only| only != name) {
                continue;
            }
            let size = managed.value.payload_schema.len();
            let full = parts.last().is_some_and(|part| {
                part.len() >= POLICIES_PER_MESSAGE || bytes + size > POLICY_BYTES_PER_MESSAGE
            });
            if full {
                parts.push(Vec::new());
                bytes = 0;
            }
            bytes += size;
            if let Some(part) = parts.last_mut() {
                part.push((name.clone(), managed.value.clone(), managed.version));
            }
        }
        for policies in parts.into_iter().filter(|part| !part.is_empty()) {
            let order = Order::Policies {
                version: self.version,
                policies,
                removed: Vec::new(),
            };
            for router in routers {
                self.effects.push(Effect::Send(*router, order.clone()));
                if let Some(node) = self.nodes.get_mut(router) {
                    let (messages, since) = node.unwritten.unwrap_or((0, now.mono_ms));
                    node.unwritten = Some((messages + 1, since));
                }
            }
        }
    }
}
