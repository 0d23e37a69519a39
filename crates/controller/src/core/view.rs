//! The state as it is shown: to operators, and to metrics.

use tidegate_flow::budget;
use tidegate_protocol::domain::{Probe, QueueName, Version};

use super::{
    Core, Standing,
    belief::{Belief, Trust},
    model::{Decision, Now, Role},
};
use crate::ledger::{Leader, StoreMark};

/// The whole fleet at one moment.
#[derive(Clone, Debug)]
pub struct FleetView {
    pub version: Version,
    pub ledger_id: String,
    /// Empty: this controller leads and is obeyed.
    pub standby_reason: String,
    /// Who leads instead, if that is known.
    pub leader: Option<Leader>,
    pub store: StoreMark,
    pub is_frozen: bool,
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
    pub is_frozen: bool,
    /// Value, and for how long still.
    pub pin: Option<(u32, u64)>,
}

#[derive(Clone, Debug)]
pub struct ResourceView {
    pub resource: String,
    pub capacity: u32,
    pub budget: u64,
    pub in_use: u64,
    pub granted: u64,
    pub probe: ProbeView,
}

/// What a resource's probe says, as far as it is believed.
#[derive(Clone, Debug, Default)]
pub struct ProbeView {
    pub kind: &'static str,
    /// `None`: nobody has to be asked.
    pub trust: Option<Trust>,
    pub text: String,
    /// Units in use by everybody.
    pub measured: Option<f64>,
    /// Of those, not the jobs'.
    pub others: Option<f64>,
    pub waiters: Option<f64>,
    pub limit: Option<f64>,
}

impl Core {
    pub fn view(&self, now: Now) -> FleetView {
        FleetView {
            version: self.version,
            ledger_id: self.ledger_id.clone(),
            standby_reason: self.standby_reason(),
            leader: match &self.standing {
                Standing::Standby(leader, _) => leader.clone(),
                Standing::Leads(_) => None,
            },
            store: self.trust.mark().clone(),
            is_frozen: self.frozen,
            refusals: self.refusals,
            nodes: self.node_views(now),
            queues: self
                .queues
                .keys()
                .filter_map(|name| self.queue_view(name, now))
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

    fn queue_view(&self, name: &QueueName, now: Now) -> Option<QueueView> {
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
            is_frozen: queue.frozen,
            pin: queue
                .pin
                .map(|pin| (pin.value, pin.until_ms.saturating_sub(now.mono_ms))),
        })
    }

    fn resource_views(&self) -> Vec<ResourceView> {
        let view = |(name, managed): (&String, &super::Managed<super::Resource>)| ResourceView {
            resource: name.clone(),
            capacity: managed.value.capacity,
            budget: budget::budget(managed.value.capacity, managed.value.headroom),
            in_use: self.held_on(name),
            granted: self.granted_on(name),
            probe: self.probe_view(name, &managed.value.probe),
        };
        self.resources.iter().map(view).collect()
    }

    fn probe_view(&self, name: &str, probe: &Probe) -> ProbeView {
        let kind = probe.as_str();
        if !probe.is_asked() {
            let pools = self.pools(name);
            return ProbeView {
                kind,
                measured: pools.map(|(in_use, _)| in_use as f64),
                waiters: pools.map(|(_, waiters)| waiters as f64),
                ..ProbeView::default()
            };
        }
        let belief = self.measured.get(name).map(|measured| &measured.belief);
        let reading = belief.and_then(Belief::believed);
        ProbeView {
            kind,
            trust: Some(belief.map(Belief::trust).unwrap_or_default()),
            text: belief.map_or_else(String::new, ToString::to_string),
            measured: reading.map(|reading| reading.in_use),
            others: reading.map(|reading| {
                let jobs = reading.by_jobs.unwrap_or(self.held_on(name) as f64);
                (reading.in_use - jobs).max(0.0)
            }),
            waiters: reading.and_then(|reading| reading.waiters),
            limit: reading.and_then(|reading| reading.limit),
        }
    }

    /// What others hold of a resource, in words; empty: nobody measures it.
    pub(super) fn others_text(&self, resource: &str) -> String {
        let Some(managed) = self.resources.get(resource) else {
            return String::new();
        };
        let view = self.probe_view(resource, &managed.value.probe);
        let mut text = String::new();
        if let (Some(all), Some(others)) = (view.measured, view.others) {
            text +=
                &format!("; {all:.0} of {resource} measured in use by all, {others:.0} of them not by jobs");
        }
        if view.trust.is_some_and(|trust| trust != Trust::Good) {
            text += &format!("; its {} probe {}", view.kind, view.text);
        }
        text
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
            units.map_or(0, |(_, units)| {
                u64::from(*units).saturating_mul(slots(queue, name))
            })
        };
        self.queues.iter().map(of).fold(0, u64::saturating_add)
    }
}
