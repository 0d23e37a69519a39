//! Settlements: how jobs ended, each answered on its own.

use tidegate_chassis::telemetry::trace::{self, Since, TraceContext};
use tidegate_protocol::{
    convert,
    domain::{OutcomeKind, SettleResult},
    v1,
};
use tidegate_store::SettleItem;

use super::Shared;
use crate::{metrics::Operation, status::Refusal};

/// `span`: the worker's settle span.
pub async fn settle(shared: &Shared, wires: Vec<v1::Settlement>, span: Option<TraceContext>) -> v1::Settled {
    let since = Since::now();
    let mut answers = Vec::with_capacity(wires.len());
    let mut items = Vec::with_capacity(wires.len());
    for (at, wire) in wires.into_iter().enumerate() {
        let lease = wire.lease.clone();
        match convert::settlement(wire) {
            Ok(settlement) => items.push(SettleItem {
                settlement,
                random: fastrand::f64(),
            }),
            Err(invalid) => answers.push(v1::settled::Item {
                lease,
                result: v1::SettleResult::Refused.into(),
                state: v1::JobState::Unspecified.into(),
                error: Some(Refusal::from(invalid.within(&format!("settlements[{at}]"))).into_item()),
            }),
        }
    }
    // Kept beside the items, which go to the store: what the answers and the metrics need.
    let leases: Vec<_> = items
        .iter()
        .map(|item| (item.settlement.lease.clone(), item.settlement.outcome.kind()))
        .collect();
    let results = if items.is_empty() {
        Vec::new()
    } else {
        trace::within(span, shared.pipes.settle(items)).await
    };
    for ((lease, kind), result) in leases.into_iter().zip(results) {
        let (result, state, error) = match result {
            Ok(result) => {
                count(shared, &lease.id.queue, kind, result);
                let (result, state) = convert::settle_result(result);
                (result, state, None)
            }
            Err(error) => {
                // A fault leaves it open and the worker sends it again; anything else would be refused again.
                let result = if error.is_fault() {
                    v1::SettleResult::Unknown
                } else {
                    v1::SettleResult::Refused
                };
                let error = Refusal::store(&error, &lease.id.queue).into_item();
                (result, v1::JobState::Unspecified, Some(error))
            }
        };
        answers.push(v1::settled::Item {
            lease: Some(lease.into()),
            result: result.into(),
            state: state.into(),
            error,
        });
    }
    let failed = answers.iter().all(|answer| answer.error.is_some());
    shared
        .metrics
        .operation(Operation::Settle, since.seconds(), failed.then_some("store"));
    v1::Settled { items: answers }
}

fn count(
    shared: &Shared,
    queue: &tidegate_protocol::domain::QueueName,
    kind: OutcomeKind,
    result: SettleResult,
) {
    match result {
        SettleResult::Recorded(_) => shared.metrics.settled(queue, kind),
        // A released lease that was lost is the ordinary way to free its slot.
        SettleResult::Stale(_) | SettleResult::NotFound if kind == OutcomeKind::Released => {}
        SettleResult::Stale(_) | SettleResult::NotFound => shared.metrics.stale_settle(queue),
    }
}
