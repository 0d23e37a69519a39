//! What an app's answer means for the job, and for control: the table of classes.
//!
//! | answer | outcome | class |
//! |---|---|---|
//! | 2xx (not 202) | succeeded, body kept | |
//! | 202 | failed: callbacks are not there yet, and to call it done would be a lie | job |
//! | 3xx | failed: never followed | job |
//! | 408 | retry | error |
//! | 429, 503 | throttled for Retry-After | overload |
//! | other 4xx | failed | job |
//! | 502, 504 | retry | down |
//! | other 5xx | retry | error |
//! | refused, reset, no such host, no TLS | retry | down |
//! | no HTTP | retry | error |
//!
//! A retry of class down becomes throttled, which costs the job no attempt, while the worker knows what the queue needs to
//! be down: see [`crate::reflex`]. An attempt that is stopped by its timeout is an error, a panic the job's own fault.

use std::{
    error::Error,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header::RETRY_AFTER};
use tidegate_protocol::domain::FailureClass;

use crate::{JobError, Verdict, connect::with_causes};

/// For an app that is full and does not say for how long.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);
/// A job may be parked for a day; no app's clock should make it more.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Bodies of failures are not quoted: they may hold what a submitter must not see.
pub(super) fn of(status: StatusCode, headers: &HeaderMap, body: Bytes, now: SystemTime) -> Verdict {
    let error = format!("the app answered {status}");
    let retry = |class| JobError::retry(&error).with_class(class).into();
    match status.as_u16() {
        202 => JobError::failed(
            "the app answered 202 Accepted (done later), which this version does not support",
        )
        .into(),
        200..=299 => Verdict::succeeded(body),
        300..=399 => JobError::failed(format!("{error}; redirects are not followed")).into(),
        429 | 503 => JobError::throttled(error, retry_after(headers, now)).into(),
        408 => retry(FailureClass::Error),
        502 | 504 => retry(FailureClass::Down),
        500..=599 => retry(FailureClass::Error),
        400..=499 => JobError::failed(error).into(),
        _ => retry(FailureClass::Error), // no status of HTTP
    }
}

/// Seconds or an HTTP date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Duration {
    let text = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .map(str::trim);
    let wait = text.and_then(|text| match text.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => {
            let date = httpdate::parse_http_date(text).ok()?;
            Some(date.duration_since(now).unwrap_or_default())
        }
    });
    wait.unwrap_or(RETRY_AFTER_DEFAULT).min(RETRY_AFTER_MAX)
}

/// The app did not answer at all.
pub(super) fn no_response(error: &hyper_util::client::legacy::Error) -> Verdict {
    let what = if error.is_connect() {
        "cannot connect to the app"
    } else {
        "no answer from the app"
    };
    let class = class_of(error);
    JobError::retry(format!("{what}: {}", with_causes(error)))
        .with_class(class)
        .into()
}

/// The app answered, and the connection broke before the answer was complete: whether it finished is unknown.
pub(super) fn broken_off(status: StatusCode, error: &hyper::Error) -> Verdict {
    let text = format!("the app's answer {status} broke off: {}", with_causes(error));
    JobError::retry(text).with_class(class_of(error)).into()
}

/// What is not HTTP is an app's mistake; everything else means that it is not there.
fn class_of(error: &(dyn Error + 'static)) -> FailureClass {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_parse)
        {
            return FailureClass::Error;
        }
        cause = error.source();
    }
    FailureClass::Down
}

#[cfg(test)]
mod tests {
    use tidegate_protocol::domain::Outcome;

    use super::*;

    #[test]
    fn statuses_have_outcomes_and_classes() {
        use FailureClass::{Down, Error, Job, Overload};
        for (status, kind, class) in [
            (200, "succeeded", None),
            (204, "succeeded", None),
            (202, "failed", Some(Job)),
            (301, "failed", Some(Job)),
            (307, "failed", Some(Job)),
            (400, "failed", Some(Job)),
            (404, "failed", Some(Job)),
            (422, "failed", Some(Job)),
            (408, "retry", Some(Error)),
            (429, "throttled", Some(Overload)),
            (503, "throttled", Some(Overload)),
            (500, "retry", Some(Error)),
            (501, "retry", Some(Error)),
            (502, "retry", Some(Down)),
            (504, "retry", Some(Down)),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            let verdict = of(status, &HeaderMap::new(), Bytes::new(), SystemTime::UNIX_EPOCH);
            let got = match verdict.outcome {
                Outcome::Succeeded { .. } => "succeeded",
                Outcome::Failed { .. } => "failed",
                Outcome::Retry { .. } => "retry",
                Outcome::Throttled { .. } => "throttled",
                Outcome::Invalid { .. } | Outcome::Released { .. } => "other",
            };
            assert_eq!((got, verdict.class), (kind, class), "{status}");
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").expect("a date");
        for (text, seconds) in [
            (None, 1),
            (Some("7"), 7),
            (Some(" 0 "), 0),
            (Some("Sun, 06 Nov 1994 08:50:07 GMT"), 30),
            (Some("Sun, 06 Nov 1994 08:00:00 GMT"), 0), // past
            (Some("soon"), 1),
            (Some("-5"), 1),
            (Some("99999999999"), 86_400),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(text) = text {
                headers.insert(RETRY_AFTER, text.parse().expect("a value"));
            }
            assert_eq!(
                retry_after(&headers, now),
                Duration::from_secs(seconds),
                "{text:?}"
            );
        }
    }
}
