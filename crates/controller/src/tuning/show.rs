//! The fleet as it is shown.

use tidegate_protocol::{domain::QueueName, v1};

use crate::{
    core::{FleetView, NodeView, QueueView, ResourceView},
    ledger::Condition,
    wire,
};

/// How the history is written.
pub(super) fn ledger(condition: Condition) -> v1::LedgerStatus {
    v1::LedgerStatus {
        error: condition.error,
        waiting: condition.waiting as u64,
        dropped: condition.dropped,
        ..v1::LedgerStatus::default()
    }
}

pub(super) fn fleet(mut view: FleetView, ledger: v1::LedgerStatus) -> v1::GetFleetResponse {
    let leader = view.leader.unwrap_or_default();
    let decisions = view
        .queues
        .iter_mut()
        .filter_map(|queue| queue.newest.take())
        .map(wire::decision)
        .collect();
    v1::GetFleetResponse {
        nodes: view.nodes.into_iter().map(node).collect(),
        version: Some(view.version.into()),
        leader: view.standby_reason.is_empty(),
        decisions,
        resources: view.resources.into_iter().map(resource).collect(),
        standby_reason: view.standby_reason,
        queues: view.queues.into_iter().map(queue).collect(),
        leader_name: leader.name,
        leader_url: leader.url,
        ledger: Some(ledger),
        store: Some(v1::StoreStatus {
            incarnation: view.store.incarnation,
            watermark_ms: view.store.watermark_ms,
            refused: view.store.refused,
        }),
        frozen: view.is_frozen,
    }
}

fn node(view: NodeView) -> v1::Node {
    v1::Node {
        node: view.node,
        name: view.name,
        role: view.role.as_str().to_owned(),
        version: view.version,
        last_report_age_ms: view.report_age_ms,
        slots: view.slots,
        queues: view.queues.iter().map(QueueName::to_string).collect(),
        applied: Some(view.applied.into()),
    }
}

fn queue(view: QueueView) -> v1::QueueStatus {
    v1::QueueStatus {
        queue: view.queue.to_string(),
        ready: view.ready,
        running: view.running,
        slots: view.slots,
        cap: view.cap,
        target: view.target,
        run_time_p99_ms: view.p99_ms,
        completions_per_second: view.completions_per_s,
        failures_per_second: view.failures_per_s,
        frozen: view.is_frozen,
        pin: view.pin.map(|(value, _)| value),
        pin_left_ms: view.pin.map_or(0, |(_, left_ms)| left_ms),
    }
}

fn resource(view: ResourceView) -> v1::ResourceUse {
    v1::ResourceUse {
        resource: view.resource,
        capacity: view.capacity,
        budget: u32::try_from(view.budget).unwrap_or(u32::MAX),
        in_use: view.in_use,
        granted: view.granted,
        probe: view.probe.kind.to_owned(),
        probe_state: view
            .probe
            .trust
            .map_or_else(String::new, |trust| trust.as_str().to_owned()),
        probe_text: view.probe.text,
        measured: view.probe.measured,
        others: view.probe.others,
        waiters: view.probe.waiters,
        limit: view.probe.limit,
    }
}
