//! What an app's answer means for the job, and for control: the table of classes.
//!
//! | answer | outcome | class | counted as |
//! |---|---|---|---|
//! | 2xx (not 202) | succeeded, body kept | | `succeeded` |
//! | 202 | what the completion call says | | `called_back` |
//! | 202 where there is no callback URL | failed | job | `accepted` |
//! | 3xx | failed: never followed | job | `redirect` |
//! | 408 | retry | error | `server_error` |
//! | 429, 503 | throttled for Retry-After | overload | `overload` |
//! | other 4xx | failed | job | `client_error` |
//! | 502, 504 | retry | down | `gateway` |
//! | other 5xx | retry | error | `server_error` |
//! | no such host | retry | down | `no_address` |
//! | an address that is not connected to | retry | down | `address_refused` |
//! | refused, reset, no connection in time, no TLS | retry | down | `refused`, `reset`, `no_connection`, `tls` |
//! | no HTTP, or a head that is too large | retry | error | `not_http` |
//!
//! A retry of class down becomes throttled, which costs the job no attempt, while the worker knows what the queue needs to
//! be down: see [`crate::reflex`]. An attempt that is stopped by its timeout is an error, a panic the job's own fault.

use std::{
    error::Error,
    io,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header::RETRY_AFTER};
use tidegate_protocol::domain::FailureClass;

use super::{RefusedAddress, connect::LookupFailed};
use crate::{JobError, Verdict, connect::with_causes};

/// For an app that is full and does not say for how long.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);
/// A job may be parked for a day; no app's clock should make it more.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3_600);

/// What the app said, or that it did not.
#[derive(Debug)]
pub(super) enum Answer {
    /// The attempt is over. The word is what it is counted as.
    Ended(Verdict, &'static str),
    /// 202: the app will call.
    Accepted,
}

/// Bodies of failures are not quoted: they may hold what a submitter must not see.
pub(super) fn of(status: StatusCode, headers: &HeaderMap, body: Bytes, now: SystemTime) -> Answer {
    let error = format!("the app answered {status}");
    let retry = |class| JobError::retry(&error).with_class(class);
    let (error, word) = match status.as_u16() {
        202 => return Answer::Accepted,
        200..=299 => return Answer::Ended(Verdict::succeeded(body), "succeeded"),
        300..=399 => (
            JobError::failed(format!("{error}; redirects are not followed")),
            "redirect",
        ),
        429 | 503 => (JobError::throttled(error, retry_after(headers, now)), "overload"),
        408 => (retry(FailureClass::Error), "server_error"),
        502 | 504 => (retry(FailureClass::Down), "gateway"),
        500..=599 => (retry(FailureClass::Error), "server_error"),
        400..=499 => (JobError::failed(error), "client_error"),
        _ => (retry(FailureClass::Error), "not_http"), // no status of HTTP
    };
    Answer::Ended(error.into(), word)
}

/// The app means to call, and has not been told where.
pub(super) fn no_callback() -> Verdict {
    JobError::failed(
        "the app answered 202 Accepted (done later), and was told no URL to call then: give the worker one that the \
         app can reach (--callback-listen and --callback-url, worker.http)",
    )
    .into()
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
pub(super) fn no_response(error: &hyper_util::client::legacy::Error) -> Answer {
    let what = if error.is_connect() {
        "cannot connect to the app"
    } else {
        "no answer from the app"
    };
    let default = if error.is_connect() {
        "no_connection"
    } else {
        "reset"
    };
    failed(format!("{what}: {}", with_causes(error)), error, default)
}

/// The app answered, and the connection broke before the answer was complete: whether it finished is unknown.
pub(super) fn broken_off(status: StatusCode, error: &hyper::Error) -> Answer {
    let text = format!("the app's answer {status} broke off: {}", with_causes(error));
    failed(text, error, "reset")
}

fn failed(text: String, error: &(dyn Error + 'static), default: &'static str) -> Answer {
    let word = causes(error).find_map(word).unwrap_or(default);
    // What is not HTTP is an app's mistake; everything else means that it is not there.
    let class = match word {
        "not_http" => FailureClass::Error,
        _ => FailureClass::Down,
    };
    Answer::Ended(JobError::retry(text).with_class(class).into(), word)
}

/// The error and what caused it. Chains are short; the bound is for errors that quote themselves.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let source =
        |error: &&'a (dyn Error + 'static)| -> Option<&'a (dyn Error + 'static)> { (*error).source() };
    std::iter::successors(Some(error), source).take(16)
}

fn word(error: &(dyn Error + 'static)) -> Option<&'static str> {
    if error.is::<RefusedAddress>() {
        return Some("address_refused");
    }
    if error.is::<LookupFailed>() {
        return Some("no_address");
    }
    let not_http = |error: &hyper::Error| error.is_parse() || error.is_parse_too_large();
    if error.downcast_ref::<hyper::Error>().is_some_and(not_http) {
        return Some("not_http");
    }
    if error.is::<rustls::Error>() {
        return Some("tls");
    }
    let error = error.downcast_ref::<io::Error>()?;
    // An io error hides what it wraps from `source`.
    if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
        return Some("tls");
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Some("refused"),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
            Some("reset")
        }
        _ => None,
    }
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
            let answer = of(status, &HeaderMap::new(), Bytes::new(), SystemTime::UNIX_EPOCH);
            let Answer::Ended(verdict, _) = answer else {
                panic!("{status}")
            };
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
