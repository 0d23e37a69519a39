//! Settlements: how jobs ended, each answered on its own.

use tidegate_chassis::telemetry::trace::{self, Since, TraceContext};
use tidegate_protocol::{
    convert,
    domain::{LeaseRef, OutcomeKind, QueueName, SettleResult},
    v1,
};
use tidegate_store::{SettleItem, StoreResult};

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
    count(shared, leases.iter().zip(&results));
    for ((lease, _), result) in leases.into_iter().zip(results) {
        let (result, state, error) = match result {
            Ok(result) => {
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

/// One addition for each run of jobs that ended alike, which most of a message did.
fn count<'a>(
    shared: &Shared,
    settled: impl Iterator<Item = (&'a (LeaseRef, OutcomeKind), &'a StoreResult<SettleResult>)>,
) {
    let (mut run, mut length) = (None, 0);
    for ((lease, kind), result) in settled {
        let queue = &lease.id.queue;
        match result {
            Ok(SettleResult::Recorded(_)) if run == Some((queue, *kind)) => length += 1,
            Ok(SettleResult::Recorded(_)) => {
                let ended = run.replace((queue, *kind));
                end_of_run(shared, ended, std::mem::replace(&mut length, 1));
            }
            // A released lease that was lost is the ordinary way to free its slot.
            Ok(SettleResult::Stale(_) | SettleResult::NotFound) if *kind == OutcomeKind::Released => {}
            Ok(SettleResult::Stale(_) | SettleResult::NotFound) => shared.metrics.stale_settle(queue),
            Err(_) => {}
        }
    }
    end_of_run(shared, run, length);
}

fn end_of_run(shared: &Shared, run: Option<(&QueueName, OutcomeKind)>, length: u64) {
    if let Some((queue, kind)) = run {
        shared.metrics.settled(queue, kind, length);
    }
}
