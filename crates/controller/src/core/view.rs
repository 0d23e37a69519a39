//! The state as it is shown: to operators, and to metrics.

use tidegate_flow::budget;
use tidegate_protocol::domain::{QueueName, Version};

use super::{
    Core, HistoryPage,
    model::{Decision, Now, Role},
};

/// The whole fleet at one moment.
#[derive(Clone, Debug)]
pub struct FleetView {
    pub version: Version,
    /// Empty: this controller leads.
    pub standby_reason: String,
    pub refusals: u64,
    pub nodes: Vec<NodeView>,
    pub queues: Vec<QueueView>,
    pub resources: Vec<ResourceView>,
}

#[derive(Clone, Debug)]
pub struct NodeView {
    pub node: String,
    pub name: String,
    pub role: Role,
    pub version: String,
    pub report_age_ms: u64,
    pub is_silent: bool,
    pub slots: u32,
    pub queues: Vec<QueueName>,
    pub applied: Version,
}

#[derive(Clone, Debug)]
pub struct QueueView {
    pub queue: QueueName,
    pub ready: u64,
    pub running: u64,
    pub slots: u64,
    pub cap: u32,
    pub wanted: u32,
    pub target: u32,
    pub max: u32,
    pub p99_ms: Option<f64>,
    pub completions_per_s: f64,
    pub failures_per_s: f64,
    pub newest: Option<Decision>,
}

#[derive(Clone, Debug)]
pub struct ResourceView {
    pub resource: String,
    pub capacity: u32,
    pub budget: u64,
    pub in_use: u64,
    pub granted: u64,
    /// By everybody, where it is measured.
    pub measured: Option<u64>,
}

impl Core {
    pub fn view(&self, now: Now) -> FleetView {
        FleetView {
            version: self.version,
            standby_reason: self.readiness().err().unwrap_or_default(),
            refusals: self.refusals,
            nodes: self.node_views(now),
            queues: self
                .queues
                .keys()
                .filter_map(|name| self.queue_view(name))
                .collect(),
            resources: self.resource_views(),
        }
    }

    fn node_views(&self, now: Now) -> Vec<NodeView> {
        let view = |node: &super::Node| NodeView {
            node: node.node.clone(),
            name: node.name.clone(),
            role: node.role,
            version: node.version.clone(),
            report_age_ms: now.mono_ms.saturating_sub(node.reported_ms),
            is_silent: node.is_silent,
            slots: node.slots,
            queues: node.queues.iter().cloned().collect(),
            applied: node.applied,
        };
        self.nodes.values().map(view).collect()
    }

    fn queue_view(&self, name: &QueueName) -> Option<QueueView> {
        let queue = self.queues.get(name)?;
        Some(QueueView {
            queue: name.clone(),
            ready: queue.store.ready,
            running: queue.store.running,
            slots: queue.store.slots,
            cap: self.caps.acknowledged(name.as_str()).unwrap_or(0),
            wanted: queue.goal.wanted,
            target: queue.goal.target,
            max: queue.policy().max,
            p99_ms: queue.seen.p99_ms,
            completions_per_s: queue.seen.completions_per_s,
            failures_per_s: queue.seen.failures_per_s,
            newest: queue.newest.clone(),
        })
    }

    fn resource_views(&self) -> Vec<ResourceView> {
        let view = |(name, managed): (&String, &super::Managed<super::Resource>)| ResourceView {
            resource: name.clone(),
            capacity: managed.value.capacity,
            budget: budget::budget(managed.value.capacity, managed.value.headroom),
            in_use: self.held_on(name),
            granted: self.granted_on(name),
            measured: self.measured(name),
        };
        self.resources.iter().map(view).collect()
    }

    pub(super) fn budget_of(&self, resource: &str) -> Option<u64> {
        let managed = self.resources.get(resource)?;
        Some(budget::budget(managed.value.capacity, managed.value.headroom))
    }

    /// Units that the slots of its queues hold, by the store.
    pub(super) fn held_on(&self, resource: &str) -> u64 {
        self.over_queues(resource, |queue, _| queue.store.slots)
    }

    /// Units that the caps of its queues allow.
    fn granted_on(&self, resource: &str) -> u64 {
        self.over_queues(resource, |_, name| {
            u64::from(self.caps.acknowledged(name.as_str()).unwrap_or(0))
        })
    }

    fn over_queues(&self, resource: &str, slots: impl Fn(&super::Queue, &QueueName) -> u64) -> u64 {
        let of = |(name, queue): (&QueueName, &super::Queue)| {
            let costs = queue.costs();
            let units = costs.iter().find(|(cost, _)| cost == resource);
            units.map_or(0, |(_, units)| u64::from(*units) * slots(queue, name))
        };
        self.queues.iter().map(of).sum()
    }

    pub fn history(
        &self,
        queue: Option<&QueueName>,
        since_ms: u64,
        before: Option<u64>,
        size: usize,
    ) -> HistoryPage {
        self.history.page(queue, since_ms, before, size)
    }
}
