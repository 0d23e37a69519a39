//! What can go wrong, by what the caller should do about it.

use std::time::Duration;

use tidegate_protocol::{reason, v1};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// When a refusal over capacity does not say how long to wait.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);
/// gRFC A6: the server's own word on when, or that never, to try again.
const PUSHBACK: &str = "grpc-retry-pushback-ms";

#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Over capacity: slow down, and try again after `retry_after`.
    #[error("over capacity ({reason}), try again in {retry_after:?}: {message}")]
    Backpressure {
        retry_after: Duration,
        reason: String,
        message: String,
    },
    #[error("not found ({reason}): {message}")]
    NotFound { reason: String, message: String },
    /// It can never succeed as it is.
    #[error("invalid ({reason}): {message}")]
    InvalidArgument { reason: String, message: String },
    /// The idempotency key belongs to a job with another payload.
    #[error("idempotency key reused with another payload: {message}")]
    KeyReused { message: String },
    /// The state of the job or queue does not allow it.
    #[error("conflict ({reason}): {message}")]
    Conflict { reason: String, message: String },
    /// No router, or no store behind it. `retry_after` if it said so.
    #[error("unavailable{}: {message}", bracketed(.reason))]
    Unavailable {
        reason: String,
        message: String,
        retry_after: Option<Duration>,
    },
    /// No answer in time: whether it was done is unknown. Repeat a submit with the same key to find out.
    #[error("no answer in time: {message}")]
    Timeout { message: String },
    #[error("denied ({reason}): {message}")]
    Denied { reason: String, message: String },
    /// An address that cannot be used.
    #[error("invalid router address {endpoint:?}: {message}")]
    InvalidEndpoint { endpoint: String, message: String },
    #[error("{code:?} ({reason}): {message}")]
    Other {
        code: Code,
        reason: String,
        message: String,
    },
}

/// A router that nobody could reach has given no reason.
fn bracketed(reason: &str) -> String {
    match reason {
        "" => String::new(),
        reason => format!(" ({reason})"),
    }
}

impl ClientError {
    /// The server's UPPER_SNAKE reason; empty if the error was not made by a server.
    pub fn reason(&self) -> &str {
        match self {
            Self::Backpressure { reason, .. }
            | Self::NotFound { reason, .. }
            | Self::InvalidArgument { reason, .. }
            | Self::Conflict { reason, .. }
            | Self::Unavailable { reason, .. }
            | Self::Denied { reason, .. }
            | Self::Other { reason, .. } => reason,
            Self::KeyReused { .. } => reason::IDEMPOTENCY_KEY_REUSED,
            Self::Timeout { .. } | Self::InvalidEndpoint { .. } => "",
        }
    }

    pub(crate) fn timeout(message: impl Into<String>) -> Self {
        Self::Timeout {
            message: message.into(),
        }
    }

    pub(crate) fn invalid(reason: &str, message: impl Into<String>) -> Self {
        Self::InvalidArgument {
            reason: reason.to_owned(),
            message: message.into(),
        }
    }

    /// An answer that does not keep the contract: a router of another version, or something that is no router.
    pub(crate) fn bad_answer(message: impl std::fmt::Display) -> Self {
        Self::Other {
            code: Code::Internal,
            reason: reason::INTERNAL.to_owned(),
            message: format!("the answer is malformed: {message}"),
        }
    }

    fn from_parts(code: Code, reason: String, message: String, retry_after: Option<Duration>) -> Self {
        match code {
            Code::ResourceExhausted => {
                let retry_after = retry_after.unwrap_or(RETRY_AFTER_DEFAULT);
                Self::Backpressure {
                    retry_after,
                    reason,
                    message,
                }
            }
            Code::NotFound => Self::NotFound { reason, message },
            Code::InvalidArgument | Code::OutOfRange => Self::InvalidArgument { reason, message },
            Code::AlreadyExists if reason == reason::IDEMPOTENCY_KEY_REUSED => Self::KeyReused { message },
            Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted => {
                Self::Conflict { reason, message }
            }
            Code::Unavailable => Self::Unavailable {
                reason,
                message,
                retry_after,
            },
            Code::DeadlineExceeded => Self::Timeout { message },
            Code::Unauthenticated | Code::PermissionDenied => Self::Denied { reason, message },
            _ => Self::Other {
                code,
                reason,
                message,
            },
        }
    }
}

/// One item's error of a call that answers per item.
impl From<v1::ItemError> for ClientError {
    fn from(item: v1::ItemError) -> Self {
        let after = (item.retry_after_ms > 0).then(|| Duration::from_millis(item.retry_after_ms));
        Self::from_parts(Code::from_i32(item.code), item.reason, item.message, after)
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        Failure::from(status).error
    }
}

/// A failed try, and whether another one makes sense.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: ClientError,
    pub(crate) again: Again,
    /// Another router may do better.
    pub(crate) move_on: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    Never,
    /// It was refused before anything was done: always safe.
    Refused {
        not_before: Option<Duration>,
    },
    /// The server said exactly when.
    Exactly(Duration),
    /// It may have been done: safe only for what is recognised when it comes twice.
    Unknown,
}

impl Failure {
    /// No answer within the time of one try.
    pub(crate) fn no_answer() -> Self {
        let error = ClientError::timeout("the router did not answer");
        Self {
            error,
            again: Again::Unknown,
            move_on: true,
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info().filter(|info| info.domain == reason::DOMAIN);
        let retry_after = details.retry_info().and_then(|retry| retry.retry_delay);
        let pushback = status.metadata().get(PUSHBACK).map(|value| {
            // Anything but a number of milliseconds means: do not try again.
            value
                .to_str()
                .ok()
                .and_then(|text| text.parse().ok())
                .map(Duration::from_millis)
        });
        let retry_after = pushback.flatten().or(retry_after);
        let code = status.code();
        // Every error of a router carries our ErrorInfo. One without is made by the transport (or a proxy): the
        // connection broke, and whether the call was carried out is unknown.
        let is_transport = info.is_none()
            && matches!(
                code,
                Code::Unknown | Code::Internal | Code::Cancelled | Code::DeadlineExceeded
            );
        let reason = info.map(|info| info.reason.clone()).unwrap_or_default();
        let message = describe(&status);
        let again = match (code, pushback) {
            (Code::Unavailable, Some(None)) => Again::Never,
            (Code::Unavailable, Some(Some(exactly))) => Again::Exactly(exactly),
            // A draining router says how long it will be away; another one need not be waited for.
            (Code::Unavailable, None) if reason == reason::DRAINING => Again::Refused { not_before: None },
            (Code::Unavailable, None) => Again::Refused {
                not_before: retry_after,
            },
            (Code::DeadlineExceeded, _) => Again::Unknown,
            _ if is_transport => Again::Unknown,
            _ => Again::Never,
        };
        let error = if is_transport && code != Code::DeadlineExceeded {
            ClientError::Unavailable {
                reason,
                message,
                retry_after: None,
            }
        } else {
            ClientError::from_parts(code, reason, message, retry_after)
        };
        Self {
            error,
            again,
            move_on: is_transport || code == Code::Unavailable,
        }
    }
}

/// With the cause: "transport error" alone helps nobody.
fn describe(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    // Chains are short; the bound is for errors that quote themselves.
    for _ in 0..8 {
        let Some(error) = cause else { break };
        let more = error.to_string();
        if !text.contains(&more) {
            text = if text.is_empty() {
                more
            } else {
                format!("{text}: {more}")
            };
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    fn status(code: Code, reason: &str, retry_after_ms: Option<u64>) -> Status {
        let mut details = ErrorDetails::with_error_info(reason, reason::DOMAIN, HashMap::new());
        if let Some(ms) = retry_after_ms {
            details.set_retry_info(Some(Duration::from_millis(ms)));
        }
        Status::with_error_details(code, "words", details)
    }

    #[test]
    fn codes_become_kinds() {
        let error = |code, reason| ClientError::from(status(code, reason, None));
        let full = ClientError::from(status(Code::ResourceExhausted, "QUEUE_FULL", Some(250)));
        assert!(
            matches!(&full, ClientError::Backpressure { retry_after, reason, .. }
            if retry_after.as_millis() == 250 && reason == "QUEUE_FULL")
        );
        assert!(matches!(
            error(Code::NotFound, "JOB_NOT_FOUND"),
            ClientError::NotFound { .. }
        ));
        assert!(matches!(
            error(Code::InvalidArgument, "X"),
            ClientError::InvalidArgument { .. }
        ));
        assert!(matches!(
            error(Code::AlreadyExists, reason::IDEMPOTENCY_KEY_REUSED),
            ClientError::KeyReused { .. }
        ));
        assert!(matches!(
            error(Code::AlreadyExists, "X"),
            ClientError::Conflict { .. }
        ));
        assert!(matches!(
            error(Code::PermissionDenied, "X"),
            ClientError::Denied { .. }
        ));
        assert!(matches!(
            error(Code::DeadlineExceeded, "X"),
            ClientError::Timeout { .. }
        ));
        assert!(matches!(
            error(Code::Internal, "INTERNAL"),
            ClientError::Other { .. }
        ));
        assert_eq!(
            error(Code::Unavailable, "STORE_UNAVAILABLE").reason(),
            "STORE_UNAVAILABLE"
        );
    }

    #[test]
    fn a_reason_is_shown_where_there_is_one() {
        let error = |reason: &str| ClientError::Unavailable {
            reason: reason.to_owned(),
            message: "no answer".to_owned(),
            retry_after: None,
        };
        assert_eq!(error("").to_string(), "unavailable: no answer");
        assert_eq!(error("DRAINING").to_string(), "unavailable (DRAINING): no answer");
    }

    #[test]
    fn only_unavailable_and_unknown_outcomes_are_tried_again() {
        let again = |status: Status| Failure::from(status).again;
        assert_eq!(again(status(Code::Internal, "INTERNAL", None)), Again::Never);
        assert_eq!(
            again(status(Code::ResourceExhausted, "QUEUE_FULL", Some(1))),
            Again::Never
        );
        assert_eq!(
            again(status(Code::Unavailable, "CIRCUIT_OPEN", Some(1_000))),
            Again::Refused {
                not_before: Some(Duration::from_secs(1))
            }
        );
        assert_eq!(
            again(status(Code::Unavailable, reason::DRAINING, Some(1_000))),
            Again::Refused { not_before: None }
        );
        // Without our details it was the transport.
        assert_eq!(again(Status::unknown("transport error")), Again::Unknown);
        assert_eq!(again(Status::deadline_exceeded("late")), Again::Unknown);
    }

    #[test]
    fn pushback_is_obeyed_exactly() {
        let with = |text: &str| {
            let mut status = status(Code::Unavailable, "OVERLOADED", Some(5));
            status
                .metadata_mut()
                .insert(PUSHBACK, text.parse().expect("ascii"));
            Failure::from(status).again
        };
        assert_eq!(with("1234"), Again::Exactly(Duration::from_millis(1_234)));
        assert_eq!(with("-1"), Again::Never);
        assert_eq!(with("soon"), Again::Never);
    }
}
