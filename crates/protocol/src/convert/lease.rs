//! Leases and how they end.

use crate::{
    domain::{FailureClass, LeaseRef, Outcome, QueueName, SettleResult, Settlement},
    limits, reason, v1,
};

use super::{DELAY_MS_MAX, Invalid, job_id, queue_name};

pub fn lease_ref(field: &str, wire: &v1::LeaseRef) -> Result<LeaseRef, Invalid> {
    // The path is made only when something is wrong: this runs for every job.
    let id = match wire.job_id.parse() {
        Ok(id) => id,
        Err(_) => job_id(&format!("{field}.job_id"), &wire.job_id)?,
    };
    Ok(LeaseRef {
        id,
        fence: wire.fence,
    })
}

/// All or nothing, at most [`limits::LEASES_PER_STREAM_MAX`].
pub fn lease_refs(field: &str, wire: &[v1::LeaseRef]) -> Result<Vec<LeaseRef>, Invalid> {
    if wire.len() > limits::LEASES_PER_STREAM_MAX {
        let message = format!(
            "{} leases; at most {} are taken",
            wire.len(),
            limits::LEASES_PER_STREAM_MAX
        );
        return Err(Invalid::new(field, reason::BATCH_TOO_LARGE, message));
    }
    let parse = |(at, lease): (usize, &v1::LeaseRef)| {
        lease_ref("", lease).or_else(|_| lease_ref(&format!("{field}[{at}]"), lease))
    };
    wire.iter().enumerate().map(parse).collect()
}

pub fn credit_queue(wire: &v1::Credit) -> Result<QueueName, Invalid> {
    queue_name("queue", &wire.queue)
}

impl From<LeaseRef> for v1::LeaseRef {
    fn from(lease: LeaseRef) -> Self {
        Self::from(&lease)
    }
}

impl From<&LeaseRef> for v1::LeaseRef {
    fn from(lease: &LeaseRef) -> Self {
        Self {
            job_id: lease.id.text(),
            fence: lease.fence,
        }
    }
}

/// Texts that are too long are cut and waits that are too long shortened: refusing the settlement would cost the job
/// its outcome.
pub fn settlement(wire: v1::Settlement) -> Result<Settlement, Invalid> {
    let missing = |field: &str| Invalid::new(field, reason::INVALID_ARGUMENT, "must be set");
    let lease = lease_ref("lease", wire.lease.as_ref().ok_or_else(|| missing("lease"))?)?;
    let class = failure_class(wire.failure_class);
    Ok(Settlement {
        lease,
        outcome: outcome(wire.outcome.ok_or_else(|| missing("outcome"))?)?,
        class,
        run_ms: wire.run_ms,
    })
}

fn outcome(wire: v1::settlement::Outcome) -> Result<Outcome, Invalid> {
    use v1::settlement::Outcome as Wire;
    Ok(match wire {
        Wire::Succeeded(v1::Succeeded { result }) => {
            if result.len() > limits::RESULT_BYTES_MAX {
                let message = format!(
                    "{} bytes; at most {} are kept",
                    result.len(),
                    limits::RESULT_BYTES_MAX
                );
                return Err(Invalid::new(
                    "succeeded.result",
                    reason::PAYLOAD_TOO_LARGE,
                    message,
                ));
            }
            Outcome::Succeeded { result }
        }
        Wire::Retry(v1::Retry { error, after_ms }) => Outcome::Retry {
            error: cut(error),
            after_ms: after_ms.min(DELAY_MS_MAX),
        },
        Wire::Failed(v1::Failed { error }) => Outcome::Failed { error: cut(error) },
        Wire::Invalid(v1::Invalid { error }) => Outcome::Invalid { error: cut(error) },
        Wire::Released(v1::Released { error }) => Outcome::Released { error: cut(error) },
        Wire::Throttled(v1::Throttled { error, after_ms }) => Outcome::Throttled {
            error: cut(error),
            after_ms: after_ms.min(DELAY_MS_MAX),
        },
    })
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(limits::ERROR_BYTES_MAX));
    text
}

impl From<Settlement> for v1::Settlement {
    fn from(settlement: Settlement) -> Self {
        use v1::settlement::Outcome as Wire;
        Self {
            lease: Some(settlement.lease.into()),
            failure_class: failure_class_code(settlement.class),
            run_ms: settlement.run_ms,
            outcome: Some(match settlement.outcome {
                Outcome::Succeeded { result } => Wire::Succeeded(v1::Succeeded { result }),
                Outcome::Retry { error, after_ms } => Wire::Retry(v1::Retry { error, after_ms }),
                Outcome::Failed { error } => Wire::Failed(v1::Failed { error }),
                Outcome::Invalid { error } => Wire::Invalid(v1::Invalid { error }),
                Outcome::Released { error } => Wire::Released(v1::Released { error }),
                Outcome::Throttled { error, after_ms } => Wire::Throttled(v1::Throttled { error, after_ms }),
            }),
        }
    }
}

/// A class of a newer contract counts as none: it must not cost the job its outcome.
pub fn failure_class(code: i32) -> Option<FailureClass> {
    match v1::FailureClass::try_from(code).ok()? {
        v1::FailureClass::Unspecified => None,
        v1::FailureClass::Overload => Some(FailureClass::Overload),
        v1::FailureClass::Down => Some(FailureClass::Down),
        v1::FailureClass::Error => Some(FailureClass::Error),
        v1::FailureClass::Job => Some(FailureClass::Job),
    }
}

pub fn failure_class_code(class: Option<FailureClass>) -> i32 {
    match class {
        None => v1::FailureClass::Unspecified,
        Some(FailureClass::Overload) => v1::FailureClass::Overload,
        Some(FailureClass::Down) => v1::FailureClass::Down,
        Some(FailureClass::Error) => v1::FailureClass::Error,
        Some(FailureClass::Job) => v1::FailureClass::Job,
    }
    .into()
}

/// The verdict on a settlement, and the job's state after it.
pub fn settle_result(result: SettleResult) -> (v1::SettleResult, v1::JobState) {
    match result {
        SettleResult::Recorded(state) => (v1::SettleResult::Recorded, state.into()),
        SettleResult::Stale(state) => (v1::SettleResult::Stale, state.into()),
        SettleResult::NotFound => (v1::SettleResult::NotFound, v1::JobState::Unspecified),
    }
}
