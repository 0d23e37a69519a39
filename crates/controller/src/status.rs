//! Every refusal that leaves this server, in one table. The only file that makes a `tonic::Status`.

use std::time::Duration;

use tidegate_chassis::{serve::Unanswered, tasks::GroupRefused};
use tidegate_protocol::{convert::Invalid, limits, reason};
use tonic::{Code, Status, metadata::MetadataMap};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{
    core::{NoNumber, TuningError},
    ledger::{Leader, LedgerError},
};

/// gRFC A6: the client waits exactly this long before it tries again.
const PUSHBACK: &str = "grpc-retry-pushback-ms";
/// When to come back, before the jitter that keeps refused callers from coming back together.
const RETRY_SOON: Duration = Duration::from_secs(1);

/// A refusal on its way out. Boxed, because most calls go well and should not carry its size.
#[derive(Clone, Debug)]
pub struct Refusal(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    code: Code,
    reason: &'static str,
    message: String,
    retry_after: Option<Duration>,
    quota: Option<&'static str>,
    violations: Vec<Invalid>,
    metadata: Vec<(&'static str, String)>,
}

impl Refusal {
    fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            code,
            reason,
            message: message.into(),
            retry_after: None,
            quota: None,
            violations: Vec::new(),
            metadata: Vec::new(),
        }))
    }

    fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.0.metadata.push((key, value.into()));
        self
    }

    /// Between the time given and one and a half times that.
    fn retry(mut self) -> Self {
        self.0.retry_after = Some(RETRY_SOON.mul_f64(1.0 + fastrand::f64() / 2.0));
        self
    }

    pub fn reason(&self) -> &'static str {
        self.0.reason
    }

    /// A call that no handler has answered.
    pub fn unanswered(why: Unanswered) -> Self {
        match why {
            Unanswered::Panicked => {
                let message = "internal error; the controller's log has the details";
                Self::new(Code::Internal, reason::INTERNAL, message)
            }
            Unanswered::Malformed => {
                let message =
                    "what was sent is not a message of this call: use the client of the same contract";
                Self::new(Code::InvalidArgument, reason::MALFORMED_MESSAGE, message)
            }
            Unanswered::TooLarge => {
                let message = format!("messages are at most {} bytes", limits::MESSAGE_BYTES_MAX);
                Self::new(Code::ResourceExhausted, reason::MESSAGE_TOO_LARGE, message)
            }
        }
    }

    pub fn draining() -> Self {
        let message = "this controller is stopping: use another one, or come back when it has restarted";
        Self::new(Code::Unavailable, reason::DRAINING, message).retry()
    }

    pub fn overloaded(what: &str) -> Self {
        let message = format!("this controller holds as many {what} as it may");
        let mut refusal = Self::new(Code::ResourceExhausted, reason::OVERLOADED, message).retry();
        refusal.0.quota = Some("controller");
        refusal
    }

    pub fn slow_reader() -> Self {
        let message = "the stream was not read for too long";
        let mut refusal = Self::new(Code::ResourceExhausted, reason::OVERLOADED, message).retry();
        refusal.0.quota = Some("stream");
        refusal
    }

    pub fn hello_expected() -> Self {
        Invalid::new(
            "message",
            reason::INVALID_ARGUMENT,
            "the first message must be a hello, within 5 s",
        )
        .into()
    }

    pub fn wrong_token() -> Self {
        Invalid::new(
            "page_token",
            reason::INVALID_PAGE,
            "was not answered by this call with these filters",
        )
        .into()
    }

    /// Whoever leads can do it.
    pub fn not_leading(leader: Option<Leader>, why: impl Into<String>) -> Self {
        let leader = leader.unwrap_or_default();
        Self::new(Code::Unavailable, reason::NOT_LEADER, why)
            .with("leader", leader.name)
            .with("leader_url", leader.url)
            .retry()
    }

    /// An edit before it is made in turn.
    pub fn edits_stuck() -> Self {
        let message = "other edits wait for the ledger: nothing was changed";
        Self::new(Code::Unavailable, reason::LEDGER_UNAVAILABLE, message).retry()
    }

    /// A group of tasks that takes no more.
    pub fn group(why: &GroupRefused, what: &str) -> Self {
        match why {
            GroupRefused::Full { .. } => Self::overloaded(what),
            GroupRefused::Closed { .. } => Self::draining(),
        }
    }

    /// As the one error of a call.
    pub fn into_status(self) -> Status {
        let parts = *self.0;
        let mut details = ErrorDetails::new();
        let mut metadata: std::collections::HashMap<String, String> = parts
            .metadata
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect();
        if let Some(first) = parts.violations.first() {
            metadata.insert("field".to_owned(), first.field.clone());
        }
        for violation in parts.violations {
            details.add_bad_request_violation(violation.field, violation.message);
        }
        details.set_error_info(parts.reason, reason::DOMAIN, metadata);
        if let Some(subject) = parts.quota {
            details.add_quota_failure_violation(subject, &parts.message);
        }
        let mut trailers = MetadataMap::new();
        if let Some(after) = parts.retry_after {
            details.set_retry_info(Some(after));
            trailers.insert(PUSHBACK, (after.as_millis() as u64).into());
        }
        Status::with_error_details_and_metadata(parts.code, parts.message, details, trailers)
    }
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        let mut refusal = Self::new(Code::InvalidArgument, invalid.reason, invalid.to_string());
        refusal.0.violations.push(invalid);
        refusal
    }
}

impl From<TuningError> for Refusal {
    fn from(error: TuningError) -> Self {
        let message = error.to_string();
        match error {
            TuningError::Invalid(all) => {
                let reason = all.first().map_or(reason::INVALID_ARGUMENT, |first| first.reason);
                // A cost of nothing known is a mistake in the request, whatever its own reason says.
                let mut refusal = Self::new(Code::InvalidArgument, reason, message);
                refusal.0.violations = all;
                refusal
            }
            TuningError::NoPolicy(queue) => {
                Self::new(Code::NotFound, reason::POLICY_NOT_FOUND, message).with("queue", queue)
            }
            TuningError::NoQueue(queue) => {
                Self::new(Code::NotFound, reason::QUEUE_NOT_FOUND, message).with("queue", queue)
            }
            TuningError::NoResource(name) => {
                Self::new(Code::NotFound, reason::RESOURCE_NOT_FOUND, message).with("resource", name)
            }
            TuningError::Stale { stored, .. } => {
                Self::new(Code::Aborted, reason::STALE_VERSION, message).with("version", stored.to_string())
            }
            TuningError::InUse { resource, .. } => {
                Self::new(Code::FailedPrecondition, reason::RESOURCE_IN_USE, message)
                    .with("resource", resource)
            }
            TuningError::Full(what) => Self::overloaded(what),
            TuningError::NoStore => Self::new(Code::FailedPrecondition, reason::NO_STORE, message),
            TuningError::Standby(_) => Self::not_leading(None, message),
        }
    }
}

impl From<LedgerError> for Refusal {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::NotLeader => Self::not_leading(None, error.to_string()),
            LedgerError::Unavailable(_) => {
                let message = format!("{error}; jobs go on, nothing was changed");
                Self::new(Code::Unavailable, reason::LEDGER_UNAVAILABLE, message).retry()
            }
            LedgerError::Unknown(_) => {
                Self::new(Code::Unavailable, reason::LEDGER_UNAVAILABLE, error.to_string()).retry()
            }
            LedgerError::Corrupt(_) => Self::new(Code::Internal, reason::INTERNAL, error.to_string()),
        }
    }
}

impl From<NoNumber> for Refusal {
    fn from(why: NoNumber) -> Self {
        let message = why.to_string();
        match why {
            NoNumber::Standby(_) => Self::new(Code::Unavailable, reason::NOT_LEADER, message).retry(),
            NoNumber::Stale(_) => Self::new(Code::Unavailable, reason::STALE, message).retry(),
            NoNumber::NoQueue(queue) => {
                Self::new(Code::NotFound, reason::QUEUE_NOT_FOUND, message).with("queue", queue.to_string())
            }
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        refusal.into_status()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_a_violation_and_there_is_one_error_info() {
        let wrong = |field: &str| Invalid::new(field, reason::INVALID_ARGUMENT, "is wrong");
        let status = Refusal::from(TuningError::Invalid(vec![wrong("min"), wrong("max")])).into_status();
        let details = status.get_error_details();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(
            details.error_info().map(|info| info.metadata["field"].as_str()),
            Some("min")
        );
        let fields: Vec<String> = details
            .bad_request()
            .iter()
            .flat_map(|bad| &bad.field_violations)
            .map(|violation| violation.field.clone())
            .collect();
        assert_eq!(fields, ["min", "max"]);
    }

    #[test]
    fn codes_by_error() {
        let code = |error: TuningError| Refusal::from(error).into_status().code();
        assert_eq!(code(TuningError::NoPolicy("a".into())), Code::NotFound);
        assert_eq!(
            code(TuningError::Stale {
                stored: 1,
                expected: 2
            }),
            Code::Aborted
        );
        assert_eq!(code(TuningError::Full("queues")), Code::ResourceExhausted);
        let dead = LedgerError::Unavailable("gone".into());
        assert_eq!(Refusal::from(dead).into_status().code(), Code::Unavailable);
    }
}
