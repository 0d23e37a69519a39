//! Renewals: everything a worker holds, answered by what it no longer does.

use tidegate_protocol::{domain::LeaseRef, limits, v1};
use tidegate_store::RenewAnswer;

use super::Shared;

/// `None`: too many leases for one stream.
pub async fn renew(shared: &Shared, wire: v1::Renew) -> Option<v1::Renewed> {
    if wire.leases.len() > limits::LEASES_PER_STREAM_MAX {
        return None;
    }
    let mut renewed = v1::Renewed {
        counter: wire.counter,
        ..Default::default()
    };
    let mut leases = Vec::with_capacity(wire.leases.len());
    for lease in wire.leases {
        match lease.job_id.parse() {
            Ok(id) => leases.push(LeaseRef {
                id,
                fence: lease.fence,
            }),
            // No job of ours has such an id, so nobody holds a lease on it.
            Err(_) => renewed.lost.push(lease),
        }
    }
    let answers = if leases.is_empty() {
        Vec::new()
    } else {
        shared.pipes.renew(leases.clone()).await
    };
    for (lease, answer) in leases.iter().zip(answers) {
        match answer {
            Ok(RenewAnswer::Held { .. }) => {}
            Ok(RenewAnswer::Lost) => renewed.lost.push(lease.into()),
            Ok(RenewAnswer::Cancelled) => renewed.cancelled.push(lease.into()),
            Err(_) => renewed.unknown.push(lease.into()),
        }
    }
    renewed.store_clock_ms = shared.condition.store_clock_ms();
    Some(renewed)
}
