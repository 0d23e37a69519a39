//! Every refusal and failure that leaves this server, in one table: [`Refusal::of`] a kind. As a call's `Status` or as the
//! `ItemError` of one item, it says the same. The only file that makes a `tonic::Status`.
//!
//! What the store said stays inside (it goes to the log): callers get the reason, a generic sentence, and when to come
//! back.

use std::{collections::HashMap, time::Duration};

use tidegate_chassis::{serve::Unanswered, tasks::GroupRefused};
use tidegate_protocol::{
    convert::Invalid,
    domain::{JobId, JobState, QueueName},
    limits, reason, v1,
};
use tidegate_store::StoreError;
use tonic::{Code, Status, metadata::MetadataMap};
use tonic_types::{ErrorDetails, StatusExt};

use crate::{admission::Whose, batch::NotTried};

/// gRFC A6: the client waits exactly this long before it tries again.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// When to come back, before the jitter that keeps refused callers from coming back together.
const RETRY_BUSY: Duration = Duration::from_millis(250);
const RETRY_SOON: Duration = Duration::from_secs(1);
/// What it takes an operator or a retention to make room.
const RETRY_FULL: Duration = Duration::from_secs(5);

/// A refusal or failure on its way out. Boxed, because most calls go well and should not carry its size.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal(Box<Parts>);

#[derive(Clone, Debug, PartialEq)]
struct Parts {
    code: Code,
    reason: &'static str,
    message: String,
    retry_after: Option<Duration>,
    /// Whose quota is used up, e.g. `queue:email`.
    quota: Option<String>,
    /// The field of the request that is wrong.
    field: Option<String>,
    /// More of the same kind: field and text. Empty where there is one.
    violations: Vec<(String, String)>,
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
            field: None,
            violations: Vec::new(),
            metadata: Vec::new(),
        }))
    }

    /// Between the time given and one and a half times that.
    fn retry_with_jitter(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after.mul_f64(1.0 + fastrand::f64() / 2.0));
        self
    }

    fn quota(mut self, subject: impl Into<String>) -> Self {
        self.0.quota = Some(subject.into());
        self
    }

    fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.0.metadata.push((key, value.into()));
        self
    }

    pub fn reason(&self) -> &'static str {
        self.0.reason
    }

    /// Whether the request was fine and the refusal is about the state of things: what `rejections_total` counts.
    pub fn is_pushback(&self) -> bool {
        matches!(self.0.code, Code::ResourceExhausted | Code::Unavailable)
    }

    pub fn draining() -> Self {
        let message = "this router is draining: use another one, or come back when it has restarted";
        Self::new(Code::Unavailable, reason::DRAINING, message).retry_with_jitter(RETRY_SOON)
    }

    pub fn overloaded(what: &str) -> Self {
        Self::new(
            Code::ResourceExhausted,
            reason::OVERLOADED,
            format!("this router holds as many {what} as it may"),
        )
        .quota("router")
        .retry_with_jitter(RETRY_BUSY)
    }

    /// The controller's gate: a job taken now would be late.
    pub fn wait_too_long(queue: &QueueName, after: Duration) -> Self {
        let message = format!("{queue} has more waiting than it can do in its time");
        Self::over_quota(queue, reason::WAIT_TOO_LONG, message, after)
    }

    pub fn downstream_down(queue: &QueueName, after: Duration) -> Self {
        let message = format!("what the jobs of {queue} need is down, and its policy takes none meanwhile");
        Self::new(Code::Unavailable, reason::DOWNSTREAM_DOWN, message)
            .retry_with_jitter(after.max(RETRY_BUSY))
            .with("queue", queue.as_str())
    }

    pub fn max_running(queue: &QueueName, running: u64, max: u32) -> Self {
        let message = format!("{queue} runs {running} jobs; its policy takes no more from {max} on");
        Self::over_quota(queue, reason::MAX_RUNNING, message, RETRY_SOON)
    }

    pub fn rate_limited(queue: &QueueName, whose: Whose, after: Duration) -> Self {
        let (limit, message) = match whose {
            Whose::Queue => ("submit_rate", format!("{queue} takes no more a second")),
            Whose::Caller => (
                "caller_rate",
                format!("{queue} takes no more a second from one caller"),
            ),
        };
        Self::over_quota(queue, reason::RATE_LIMITED, message, after).with("limit", limit)
    }

    fn over_quota(queue: &QueueName, reason: &'static str, message: String, after: Duration) -> Self {
        Self::new(Code::ResourceExhausted, reason, message)
            .quota(format!("queue:{queue}"))
            .retry_with_jitter(after.max(RETRY_BUSY))
            .with("queue", queue.as_str())
    }

    pub fn circuit_open(retry_after_ms: u64) -> Self {
        Self::new(
            Code::Unavailable,
            reason::CIRCUIT_OPEN,
            "the job store fails; calls are refused until it answers",
        )
        .retry_with_jitter(Duration::from_millis(retry_after_ms))
    }

    pub fn rewound() -> Self {
        let message =
            "the job store came back older than it was: nothing is taken until an operator accepts it";
        Self::new(Code::Unavailable, reason::STORE_REWOUND, message).retry_with_jitter(RETRY_FULL)
    }

    pub fn job_not_found(id: &JobId) -> Self {
        Self::new(
            Code::NotFound,
            reason::JOB_NOT_FOUND,
            format!("there is no job {id}"),
        )
        .with("job_id", id.to_string())
    }

    pub fn queue_not_found(queue: &QueueName) -> Self {
        Self::new(
            Code::NotFound,
            reason::QUEUE_NOT_FOUND,
            format!("there is no queue {queue}"),
        )
        .with("queue", queue.as_str())
    }

    pub fn wrong_state(state: JobState) -> Self {
        let message = format!("a job that is {} cannot be changed so", state.as_str());
        Self::new(Code::FailedPrecondition, reason::WRONG_STATE, message).with("state", state.as_str())
    }

    pub fn key_taken(owner: &JobId) -> Self {
        let message = format!("its idempotency key belongs to job {owner} by now");
        Self::new(Code::AlreadyExists, reason::IDEMPOTENCY_KEY_TAKEN, message)
            .with("job_id", owner.to_string())
    }

    pub fn session_in_use() -> Self {
        let message = "hello.session: this session has a live stream: every stream needs a UUID of its own";
        Self::new(Code::AlreadyExists, reason::INVALID_ARGUMENT, message).with("field", "hello.session")
    }

    pub fn hello_expected() -> Self {
        Self::new(
            Code::InvalidArgument,
            reason::INVALID_ARGUMENT,
            "the first message must be a hello, within 5 s",
        )
        .with("field", "message")
    }

    pub fn slow_reader() -> Self {
        let message = "the stream was not read for too long";
        Self::new(Code::ResourceExhausted, reason::OVERLOADED, message)
            .quota("stream")
            .retry_with_jitter(RETRY_BUSY)
    }

    /// The stream gave way to another one of the same worker, which named it.
    pub fn replaced() -> Self {
        Self::new(
            Code::Aborted,
            reason::WRONG_STATE,
            "another stream of this worker has replaced this one",
        )
    }

    /// A task of ours died under the request.
    pub fn internal() -> Self {
        Self::new(
            Code::Internal,
            reason::INTERNAL,
            "internal error; the router's log has the details",
        )
    }

    /// A call that no handler has answered.
    pub fn unanswered(why: Unanswered) -> Self {
        match why {
            Unanswered::Panicked => Self::internal(),
            Unanswered::Malformed => Self::new(
                Code::InvalidArgument,
                reason::MALFORMED_MESSAGE,
                "what was sent is not a message of this call: use the client of the same contract",
            ),
            Unanswered::TooLarge => Self::new(
                Code::ResourceExhausted,
                reason::MESSAGE_TOO_LARGE,
                format!("messages are at most {} bytes", limits::MESSAGE_BYTES_MAX),
            ),
        }
    }

    /// A group of tasks that takes no more.
    pub fn group(why: &GroupRefused, what: &str) -> Self {
        match why {
            GroupRefused::Full { .. } => Self::overloaded(what),
            GroupRefused::Closed { .. } => Self::draining(),
        }
    }

    pub fn not_tried(why: NotTried, what: &str) -> Self {
        match why {
            NotTried::Full => Self::overloaded(what),
            NotTried::Closed => Self::draining(),
        }
    }

    /// A store's error about a request that concerns `queue`.
    pub fn store(error: &StoreError, queue: &QueueName) -> Self {
        let subject = format!("queue:{queue}");
        match error {
            StoreError::QueueFull { depth, max } => Self::new(
                Code::ResourceExhausted,
                reason::QUEUE_FULL,
                format!("{queue} holds {depth} of {max} jobs"),
            )
            .quota(subject)
            .retry_with_jitter(RETRY_SOON)
            .with("queue", queue.as_str()),
            StoreError::KeysFull { max } => {
                let message = format!("{queue} remembers {max} idempotency keys, no more are taken");
                Self::new(Code::ResourceExhausted, reason::KEYS_FULL, message)
                    .quota(subject)
                    .retry_with_jitter(RETRY_FULL)
                    .with("queue", queue.as_str())
            }
            StoreError::KeyReused { id } => {
                let message = format!("the idempotency key belongs to job {id}, which has another payload");
                Self::new(Code::AlreadyExists, reason::IDEMPOTENCY_KEY_REUSED, message)
                    .with("job_id", id.to_string())
            }
            fault => Self::store_fault(fault),
        }
    }

    /// A store's error that concerns no queue in particular.
    pub fn store_fault(error: &StoreError) -> Self {
        let (code, reason, message, retry) = match error {
            StoreError::Unavailable(_) => (
                Code::Unavailable,
                reason::STORE_UNAVAILABLE,
                "the job store cannot be reached",
                Some(RETRY_SOON),
            ),
            StoreError::Unknown(_) => (
                Code::Unavailable,
                reason::OUTCOME_UNKNOWN,
                "the job store did not answer: repeat with the same request id, key or fence",
                Some(RETRY_BUSY),
            ),
            StoreError::Unconfirmed { .. } => (
                Code::Unavailable,
                reason::DURABILITY_UNCONFIRMED,
                "too few replicas of the job store confirmed it in time: repeat with the same request id, key or fence",
                Some(RETRY_BUSY),
            ),
            StoreError::Busy(_) => (
                Code::Unavailable,
                reason::STORE_BUSY,
                "the job store is busy",
                Some(RETRY_BUSY),
            ),
            StoreError::ReadOnly(_) => (
                Code::Unavailable,
                reason::STORE_READ_ONLY,
                "the job store takes no writes",
                Some(RETRY_SOON),
            ),
            StoreError::Full(_) => {
                let full = Self::new(
                    Code::ResourceExhausted,
                    reason::STORE_FULL,
                    "the job store has no room left",
                );
                return full.quota("store").retry_with_jitter(RETRY_FULL);
            }
            StoreError::Corrupt(_) => (
                Code::DataLoss,
                reason::STORE_CORRUPT,
                "the job store holds what this version cannot read",
                None,
            ),
            StoreError::Invalid(_) => (
                Code::InvalidArgument,
                reason::INVALID_ARGUMENT,
                "the job store does not take this request",
                None,
            ),
            // They name a queue's state; where none is known, the caller passed a wrong kind of call.
            StoreError::QueueFull { .. } | StoreError::KeysFull { .. } | StoreError::KeyReused { .. } => {
                return Self::internal();
            }
        };
        let refusal = Self::new(code, reason, message);
        match retry {
            Some(after) => refusal.retry_with_jitter(after),
            None => refusal,
        }
    }

    /// As the one error of a call.
    pub fn into_status(self) -> Status {
        let parts = *self.0;
        let mut details = ErrorDetails::new();
        let mut metadata = owned(parts.metadata);
        if let Some(field) = parts.field {
            details.add_bad_request_violation(&field, &parts.message);
            for (field, text) in parts.violations {
                details.add_bad_request_violation(field, text);
            }
            metadata.insert("field".to_owned(), field);
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

    /// As the error of one item of a call that answers per item.
    pub fn into_item(self) -> v1::ItemError {
        let parts = *self.0;
        let mut metadata = owned(parts.metadata);
        metadata.extend(parts.field.map(|field| ("field".to_owned(), field)));
        if !parts.violations.is_empty() {
            let fields = parts.violations.into_iter().map(|(field, _)| field);
            metadata.insert("more_fields".to_owned(), fields.collect::<Vec<_>>().join(" "));
        }
        metadata.extend(parts.quota.map(|subject| ("quota".to_owned(), subject)));
        v1::ItemError {
            code: parts.code.into(),
            reason: parts.reason.to_owned(),
            message: parts.message,
            retry_after_ms: parts.retry_after.map_or(0, |after| after.as_millis() as u64),
            metadata,
        }
    }
}

fn owned(metadata: Vec<(&'static str, String)>) -> HashMap<String, String> {
    metadata
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        let mut refusal = Self::new(Code::InvalidArgument, invalid.reason, invalid.to_string());
        refusal.0.field = Some(invalid.field);
        refusal
    }
}

/// All mistakes of one request; the first one speaks for it. Never empty.
impl From<Vec<Invalid>> for Refusal {
    fn from(all: Vec<Invalid>) -> Self {
        let mut all = all.into_iter();
        let Some(first) = all.next() else {
            return Self::internal();
        };
        let mut refusal = Self::from(first);
        refusal.0.violations = all
            .map(|invalid| (invalid.field.clone(), invalid.to_string()))
            .collect();
        refusal
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        refusal.into_status()
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
