//! What a handler answers, and what follows from it.

use std::{error::Error, fmt::Display, io, time::Duration};

use bytes::Bytes;
use serde::Serialize;
use tidegate_protocol::{
    domain::{FailureClass, Outcome},
    limits::{ERROR_BYTES_MAX, RESULT_BYTES_MAX},
};

/// Any error that crosses a thread; what tower's layers fail with.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Chains of causes are short; the bound is for errors that quote themselves.
const CAUSES_MAX: usize = 8;

/// How an attempt ended, and who is to blame.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    pub outcome: Outcome,
    pub class: Option<FailureClass>,
}

impl Verdict {
    pub fn succeeded(result: impl Into<Bytes>) -> Self {
        Self {
            outcome: Outcome::Succeeded {
                result: result.into(),
            },
            class: None,
        }
    }

    /// The work is done, so a result that cannot be kept is dropped: to fail now would do the work again.
    fn done(result: &impl Serialize) -> Self {
        let kept = match serde_json::to_vec(result) {
            // What `()` serialises to says nothing.
            Ok(bytes) if bytes == b"null" => Vec::new(),
            Ok(bytes) if bytes.len() > RESULT_BYTES_MAX => {
                let (bytes, max) = (bytes.len(), RESULT_BYTES_MAX);
                tracing::warn!(bytes, max, "result too large, not kept");
                Vec::new()
            }
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::warn!(%error, "result does not serialise, not kept");
                Vec::new()
            }
        };
        Self::succeeded(kept)
    }
}

/// What a handler may return.
///
/// - `()`: succeeded.
/// - `Result<T, E>`: `T` is kept as the job's result (JSON, at most 64 KiB). `E` is a [`JobError`], which says what
///   happens next, or any other error (also `anyhow::Error`), which is a retry.
/// - [`Verdict`] or [`Outcome`]: said outright.
#[diagnostic::on_unimplemented(
    message = "a handler cannot return `{Self}`",
    label = "this says nothing of how the job ended",
    note = "return `()`, `Result<T, E>` with `T: serde::Serialize`, or a `Verdict`; `E` is `JobError`, any \
            `std::error::Error + Send + Sync`, or `anyhow::Error`"
)]
pub trait IntoVerdict {
    fn into_verdict(self) -> Verdict;
}

impl IntoVerdict for () {
    fn into_verdict(self) -> Verdict {
        Verdict::succeeded(Bytes::new())
    }
}

impl IntoVerdict for Verdict {
    fn into_verdict(self) -> Verdict {
        self
    }
}

impl IntoVerdict for Outcome {
    fn into_verdict(self) -> Verdict {
        let class = match &self {
            Outcome::Succeeded { .. } | Outcome::Released { .. } => None,
            Outcome::Retry { .. } => Some(FailureClass::Error),
            Outcome::Throttled { .. } => Some(FailureClass::Overload),
            Outcome::Failed { .. } | Outcome::Invalid { .. } => Some(FailureClass::Job),
        };
        Verdict { outcome: self, class }
    }
}

impl<T: Serialize, E: Into<BoxError>> IntoVerdict for Result<T, E> {
    fn into_verdict(self) -> Verdict {
        match self {
            Ok(result) => Verdict::done(&result),
            Err(error) => JobError::of_boxed(error.into()).into(),
        }
    }
}

/// Why an attempt did not succeed, and what happens next. Any `std::error::Error` becomes a retry through `?`;
/// `.map_err(JobError::failed)?` makes it permanent.
#[derive(Debug, Clone, PartialEq)]
pub struct JobError {
    verdict: Verdict,
}

impl JobError {
    /// This attempt failed; the next waits by the queue's policy.
    pub fn retry(error: impl Display) -> Self {
        Self::retry_after(error, Duration::ZERO)
    }

    /// This attempt failed; the next waits `after` (zero: by the queue's policy).
    pub fn retry_after(error: impl Display, after: Duration) -> Self {
        let (error, after_ms) = (cut(error), millis(after));
        Self::new(Outcome::Retry { error, after_ms })
    }

    /// Failed for good: no further attempt makes sense.
    pub fn failed(error: impl Display) -> Self {
        Self::new(Outcome::Failed { error: cut(error) })
    }

    /// The payload is not what this queue carries: dead at once.
    pub fn invalid(error: impl Display) -> Self {
        Self::new(Outcome::Invalid { error: cut(error) })
    }

    /// What the job needs is overloaded or away: later, without using an attempt.
    pub fn throttled(error: impl Display, after: Duration) -> Self {
        let (error, after_ms) = (cut(error), millis(after));
        Self::new(Outcome::Throttled { error, after_ms })
    }

    /// Handed back as if it had not run: another worker may take it at once, without using an attempt. From the third
    /// time in a row it waits a second.
    pub fn released(error: impl Display) -> Self {
        Self::new(Outcome::Released { error: cut(error) })
    }

    /// Says who is to blame, where the default is wrong: error for a retry (down, if the cause is a connection that was
    /// refused or reset), overload for throttled, job for the others.
    #[must_use]
    pub fn with_class(mut self, class: FailureClass) -> Self {
        self.verdict.class = Some(class);
        self
    }

    fn new(outcome: Outcome) -> Self {
        let verdict = outcome.into_verdict();
        Self { verdict }
    }

    /// What an error says by itself, or a retry with its causes, each once, and the class that they show.
    fn of(error: &(dyn Error + 'static)) -> Self {
        if let Some(said) = causes(error).find_map(said) {
            return said;
        }
        let mut text = error.to_string();
        for cause in causes(error).skip(1) {
            let more = cause.to_string();
            if !text.contains(&more) {
                text = format!("{text}: {more}");
            }
        }
        Self::retry(text).with_class(class_of(error))
    }

    pub(crate) fn of_boxed(error: BoxError) -> Self {
        Self::of(&*error)
    }

    /// Why.
    pub fn text(&self) -> &str {
        self.verdict.outcome.error()
    }
}

impl From<JobError> for Verdict {
    fn from(error: JobError) -> Self {
        error.verdict
    }
}

/// `JobError` itself is no `std::error::Error`, because it would convert into itself.
impl<E: Error + 'static> From<E> for JobError {
    fn from(error: E) -> Self {
        Self::of(&error)
    }
}

/// A [`JobError`] on its way through code that knows only boxed errors: it comes out as it went in.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.text())]
struct Carried(JobError);

impl From<JobError> for BoxError {
    fn from(error: JobError) -> Self {
        Box::new(Carried(error))
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let cause_of =
        |error: &&'a (dyn Error + 'static)| -> Option<&'a (dyn Error + 'static)> { (*error).source() };
    std::iter::successors(Some(error), cause_of).take(CAUSES_MAX)
}

/// What happens next, where a cause knows it.
fn said(cause: &(dyn Error + 'static)) -> Option<JobError> {
    #[cfg(feature = "postgres")]
    if let Some(error) = cause.downcast_ref::<crate::postgres::OnceError>() {
        return error.says();
    }
    cause.downcast_ref::<Carried>().map(|carried| carried.0.clone())
}

/// Who is to blame, by the first cause that tells.
fn class_of(error: &(dyn Error + 'static)) -> FailureClass {
    causes(error).find_map(known).unwrap_or(FailureClass::Error)
}

fn known(cause: &(dyn Error + 'static)) -> Option<FailureClass> {
    use io::ErrorKind;
    if cause.is::<tower::load_shed::error::Overloaded>() {
        return Some(FailureClass::Overload);
    }
    #[cfg(feature = "postgres")]
    if let Some(error) = cause.downcast_ref::<sqlx::Error>() {
        return Some(crate::postgres::class_of(error));
    }
    let kind = cause.downcast_ref::<io::Error>()?.kind();
    let away = matches!(
        kind,
        ErrorKind::ConnectionRefused
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
    );
    away.then_some(FailureClass::Down)
}

/// Longer error texts are not kept; no need to carry them.
fn cut(error: impl Display) -> String {
    let mut text = error.to_string();
    text.truncate(text.floor_char_boundary(ERROR_BYTES_MAX));
    text
}

fn millis(duration: Duration) -> u64 {
    // Rounded up: a short wait must not become "by the policy".
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(answer: impl IntoVerdict) -> Outcome {
        answer.into_verdict().outcome
    }

    #[test]
    fn errors_say_what_happens_next_and_who_is_to_blame() {
        let verdict = |error: JobError| Verdict::from(error);
        let retry = verdict(JobError::retry("no luck"));
        let expected = Outcome::Retry {
            error: "no luck".into(),
            after_ms: 0,
        };
        assert_eq!(
            (retry.outcome, retry.class),
            (expected, Some(FailureClass::Error))
        );
        let throttled = verdict(JobError::throttled("full", Duration::from_micros(1)));
        let expected = Outcome::Throttled {
            error: "full".into(),
            after_ms: 1,
        };
        assert_eq!(
            (throttled.outcome, throttled.class),
            (expected, Some(FailureClass::Overload))
        );
        assert_eq!(verdict(JobError::failed("x")).class, Some(FailureClass::Job));
        assert_eq!(verdict(JobError::invalid("x")).class, Some(FailureClass::Job));
        assert_eq!(verdict(JobError::released("x")).class, None);
        let down = JobError::retry("x").with_class(FailureClass::Down);
        assert_eq!(verdict(down).class, Some(FailureClass::Down));
    }

    #[test]
    fn question_mark_makes_a_retry_or_what_it_is_told() {
        fn parse(text: &str) -> Result<u32, JobError> {
            Ok(text.parse::<u32>()?)
        }
        fn permanent(text: &str) -> Result<u32, JobError> {
            text.parse::<u32>().map_err(JobError::failed)
        }
        assert!(
            matches!(outcome(parse("x")), Outcome::Retry { error, .. } if error.contains("invalid digit"))
        );
        assert!(
            matches!(outcome(permanent("x")), Outcome::Failed { error } if error.contains("invalid digit"))
        );
        assert_eq!(outcome(parse("7")), Outcome::Succeeded { result: "7".into() });
    }

    #[test]
    fn every_kind_of_answer_is_a_verdict() {
        assert_eq!(outcome(()), Outcome::Succeeded { result: "".into() });
        assert_eq!(
            outcome(Ok::<_, io::Error>(())),
            Outcome::Succeeded { result: "".into() }
        );
        let large = "x".repeat(RESULT_BYTES_MAX);
        assert_eq!(
            outcome(Ok::<_, JobError>(large)),
            Outcome::Succeeded { result: "".into() }
        );
        let said = Outcome::Failed { error: "x".into() };
        assert_eq!(outcome(said.clone()), said);
        let anyhow: anyhow::Result<()> = Err(anyhow::anyhow!("no rows").context("load the invoice"));
        assert_eq!(
            outcome(anyhow),
            Outcome::Retry {
                error: "load the invoice: no rows".into(),
                after_ms: 0
            }
        );
        let carried = anyhow::Error::new(Carried(JobError::failed("no address"))).context("send");
        assert!(matches!(outcome(Err::<(), _>(carried)), Outcome::Failed { error } if error == "no address"));
        assert_eq!(
            outcome(Err::<(), _>("text")),
            Outcome::Retry {
                error: "text".into(),
                after_ms: 0
            }
        );
    }

    #[test]
    fn a_refused_connection_is_down_however_deep_it_is_wrapped() {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let class = |verdict: Verdict| verdict.class;
        assert_eq!(
            class(Err::<(), _>(refused()).into_verdict()),
            Some(FailureClass::Down)
        );
        let deep = anyhow::Error::from(refused()).context("ask the ledger");
        assert_eq!(class(Err::<(), _>(deep).into_verdict()), Some(FailureClass::Down));
        let missing = io::Error::from(io::ErrorKind::NotFound);
        assert_eq!(
            class(Verdict::from(JobError::from(missing))),
            Some(FailureClass::Error)
        );
    }

    #[test]
    fn long_error_texts_are_cut_at_a_character() {
        let Outcome::Failed { error } = outcome(Err::<(), _>(JobError::failed("ä".repeat(5_000)))) else {
            panic!("it failed");
        };
        assert_eq!(error.len(), ERROR_BYTES_MAX);
    }
}
