//! Between the wire and the domain.
//!
//! A server calls these at a handler's first line, so that nothing behind it ever meets a name, an id, a size or a time
//! that has not been checked. What is wrong is told as one [`Invalid`]: the path of the field, a reason that programs
//! match on, and a sentence for people.
//!
//! Ways that cannot fail are `From` impls; the others are functions that take the field's path, or give paths relative to
//! their message (see [`Invalid::within`]).

mod job;
mod lease;
mod policy;
mod probe;
mod resource;

use uuid::Uuid;

pub use job::{DELAY_MS_MAX, TIME_MS_MAX, header, job, job_state, new_job};
pub use lease::{
    credit_queue, failure_class, failure_class_code, lease_ref, lease_refs, settle_result, settlement,
};
pub use policy::{
    LEASE_TTL_MS_MAX, LEASE_TTL_MS_MIN, TIMEOUT_MS_MAX, cap_record, check_policy, policy, policy_unchecked,
    policy_violations, version,
};
pub use probe::PROBE_ENV_PREFIX;
pub use resource::{resource, resource_violations};

use crate::{
    domain::{Incarnation, JobId, QueueName, Session},
    reason,
};

/// A request that can never succeed as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Invalid {
    /// Where, e.g. `jobs[3].queue`.
    pub field: String,
    /// One of [`crate::reason`].
    pub reason: &'static str,
    pub message: String,
}

impl Invalid {
    pub fn new(field: impl Into<String>, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason,
            message: message.into(),
        }
    }

    /// The same mistake, seen from the message that holds this one.
    pub fn within(mut self, parent: &str) -> Self {
        self.field = if self.field.is_empty() {
            parent.to_owned()
        } else {
            format!("{parent}.{}", self.field)
        };
        self
    }
}

pub fn queue_name(field: &str, text: &str) -> Result<QueueName, Invalid> {
    text.parse().map_err(|error: crate::domain::InvalidQueueName| {
        Invalid::new(field, reason::INVALID_QUEUE_NAME, error.to_string())
    })
}

pub fn job_id(field: &str, text: &str) -> Result<JobId, Invalid> {
    text.parse().map_err(|error: crate::domain::InvalidJobId| {
        Invalid::new(field, reason::INVALID_JOB_ID, error.to_string())
    })
}

pub fn session(field: &str, text: &str) -> Result<Session, Invalid> {
    uuid(field, text).map(Session)
}

pub fn incarnation(field: &str, text: &str) -> Result<Incarnation, Invalid> {
    uuid(field, text).map(Incarnation)
}

/// Any spelling of a UUID but the nil one: that is what a forgotten field of a typed client looks like, and two workers
/// that both forget it would share a session.
fn uuid(field: &str, text: &str) -> Result<Uuid, Invalid> {
    match Uuid::try_parse(text) {
        Ok(uuid) if !uuid.is_nil() => Ok(uuid),
        _ => Err(Invalid::new(
            field,
            reason::INVALID_ARGUMENT,
            "must be a UUID that is not nil",
        )),
    }
}

#[cfg(test)]
mod tests;
