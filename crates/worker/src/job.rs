//! What a handler gets, and what it answers.

use std::{collections::BTreeMap, fmt::Display, sync::Arc, time::Duration};

use bytes::Bytes;
use tidegate_chassis::clock;
use tidegate_protocol::{
    domain::{FailureClass, JobId, Outcome, QueueName},
    limits::ERROR_BYTES_MAX,
};
use tokio::time::Instant;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFuture},
    task::TaskTracker,
};

/// One attempt of one job.
#[derive(Debug, Clone)]
pub struct Job {
    pub context: JobContext,
    pub payload: Bytes,
}

/// What a handler may know about its attempt. Cheap to clone.
#[derive(Debug, Clone)]
pub struct JobContext {
    pub(crate) facts: Arc<Facts>,
    pub(crate) cancelled: CancellationToken,
    /// Work on blocking threads: the attempt has not ended before it has.
    pub(crate) blocking: TaskTracker,
}

#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) job_id: JobId,
    pub(crate) fence: u64,
    pub(crate) attempt: u32,
    pub(crate) max_attempts: u32,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) created_ms: u64,
    pub(crate) deadline_ms: u64,
    /// When the attempt is stopped: its timeout or its job's deadline.
    pub(crate) stops_at: Instant,
    pub(crate) traceparent: Option<String>,
    pub(crate) tracestate: Option<String>,
}

impl JobContext {
    /// A first attempt of a job without headers, to test a handler without a server.
    pub fn for_test(job_id: JobId) -> Self {
        Self::for_test_with_fence(job_id, 1)
    }

    pub(crate) fn for_test_with_fence(job_id: JobId, fence: u64) -> Self {
        let facts = Facts {
            job_id,
            fence,
            attempt: 1,
            max_attempts: 3,
            headers: BTreeMap::new(),
            created_ms: clock::wall_ms(),
            deadline_ms: 0,
            stops_at: clock::now() + Duration::from_secs(300),
            traceparent: None,
            tracestate: None,
        };
        Self::new(facts, CancellationToken::new())
    }

    pub(crate) fn new(facts: Facts, cancelled: CancellationToken) -> Self {
        Self {
            facts: Arc::new(facts),
            cancelled,
            blocking: TaskTracker::new(),
        }
    }

    pub fn job_id(&self) -> &JobId {
        &self.facts.job_id
    }

    pub fn queue(&self) -> &QueueName {
        &self.facts.job_id.queue
    }

    /// Counts from 1.
    pub fn attempt(&self) -> u32 {
        self.facts.attempt
    }

    pub fn max_attempts(&self) -> u32 {
        self.facts.max_attempts
    }

    /// Grows with every lease of the job. Guard your own writes with it (`where fence < $1`), and a copy of this handler
    /// that was cut off and runs on cannot undo the work of the next.
    pub fn fence(&self) -> u64 {
        self.facts.fence
    }

    pub fn headers(&self) -> &BTreeMap<String, String> {
        &self.facts.headers
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.facts.headers.get(name).map(String::as_str)
    }

    /// Milliseconds since the Unix epoch by the job store's clock.
    pub fn created_ms(&self) -> u64 {
        self.facts.created_ms
    }

    /// The job's deadline, milliseconds since the Unix epoch by the job store's clock.
    pub fn deadline_ms(&self) -> Option<u64> {
        Some(self.facts.deadline_ms).filter(|ms| *ms > 0)
    }

    /// When this attempt is stopped: its timeout or the job's deadline, whichever comes first.
    pub fn deadline(&self) -> Instant {
        self.facts.stops_at
    }

    /// What is left of it.
    pub fn time_left(&self) -> Duration {
        self.facts.stops_at.saturating_duration_since(clock::now())
    }

    /// W3C trace context of the submit.
    pub fn traceparent(&self) -> Option<&str> {
        self.facts.traceparent.as_deref()
    }

    pub fn tracestate(&self) -> Option<&str> {
        self.facts.tracestate.as_deref()
    }

    /// Resolves when the attempt is to stop: its lease is lost, the job was cancelled, time is up, or the worker is
    /// leaving. A second later, at most, the handler is dropped where it stands.
    pub fn cancelled(&self) -> WaitForCancellationFuture<'_> {
        self.cancelled.cancelled()
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.is_cancelled()
    }

    /// The same as a token, to hand to what the handler calls.
    pub fn token(&self) -> CancellationToken {
        self.cancelled.clone()
    }

    /// Runs `f` on a blocking thread. Use this and not `tokio::task::spawn_blocking`: a thread cannot be dropped, and
    /// only work started here keeps the job's slot taken until it has really ended. Let `f` look at
    /// [`Self::is_cancelled`] now and then.
    pub async fn run_blocking<R: Send + 'static>(
        &self,
        f: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, JobError> {
        let running = self.blocking.token();
        let work = move || {
            let _running = running; // until `f` is done, however the handler fares
            f()
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| JobError::retry(error).with_class(FailureClass::Job))
    }
}

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
}

/// Why an attempt did not succeed, and what happens next. Any `std::error::Error` becomes a retry through `?`.
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
        Self::new(
            Outcome::Retry {
                error: cut(error),
                after_ms: millis(after),
            },
            FailureClass::Error,
        )
    }

    /// Failed for good: no further attempt makes sense.
    pub fn failed(error: impl Display) -> Self {
        Self::new(Outcome::Failed { error: cut(error) }, FailureClass::Job)
    }

    /// The payload is not what this queue carries: dead at once.
    pub fn invalid(error: impl Display) -> Self {
        Self::new(Outcome::Invalid { error: cut(error) }, FailureClass::Job)
    }

    /// What the job needs is overloaded or away: later, without using an attempt.
    pub fn throttled(error: impl Display, after: Duration) -> Self {
        Self::new(
            Outcome::Throttled {
                error: cut(error),
                after_ms: millis(after),
            },
            FailureClass::Overload,
        )
    }

    /// Says who is to blame, where the default (retry: error, throttled: overload, others: job) is wrong.
    #[must_use]
    pub fn with_class(mut self, class: FailureClass) -> Self {
        self.verdict.class = Some(class);
        self
    }

    fn new(outcome: Outcome, class: FailureClass) -> Self {
        Self {
            verdict: Verdict {
                outcome,
                class: Some(class),
            },
        }
    }
}

impl From<JobError> for Verdict {
    fn from(error: JobError) -> Self {
        error.verdict
    }
}

/// With its causes, each once. (So `JobError` itself is no `std::error::Error`: it would convert into itself.)
impl<E: std::error::Error> From<E> for JobError {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        // Chains are short; the bound is for errors that quote themselves.
        for _ in 0..8 {
            let Some(error) = cause else { break };
            let more = error.to_string();
            if !text.contains(&more) {
                text = format!("{text}: {more}");
            }
            cause = error.source();
        }
        Self::retry(text)
    }
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

    #[test]
    fn errors_say_what_happens_next_and_who_is_to_blame() {
        let verdict = |error: JobError| Verdict::from(error);
        let retry = verdict(JobError::retry("no luck"));
        assert_eq!(
            retry.outcome,
            Outcome::Retry {
                error: "no luck".into(),
                after_ms: 0
            }
        );
        assert_eq!(retry.class, Some(FailureClass::Error));
        let throttled = verdict(JobError::throttled("full", Duration::from_micros(1)));
        assert_eq!(
            throttled.outcome,
            Outcome::Throttled {
                error: "full".into(),
                after_ms: 1
            }
        );
        assert_eq!(throttled.class, Some(FailureClass::Overload));
        assert_eq!(verdict(JobError::failed("x")).class, Some(FailureClass::Job));
        assert_eq!(verdict(JobError::invalid("x")).class, Some(FailureClass::Job));
        let down = JobError::retry("x").with_class(FailureClass::Down);
        assert_eq!(verdict(down).class, Some(FailureClass::Down));
    }

    #[test]
    fn question_mark_makes_a_retry() {
        fn handler() -> Result<u32, JobError> {
            Ok("x".parse::<u32>()?)
        }
        let verdict = Verdict::from(handler().expect_err("no number"));
        assert!(matches!(verdict.outcome, Outcome::Retry { error, .. } if error.contains("invalid digit")));
    }

    #[test]
    fn long_error_texts_are_cut_at_a_character() {
        let Outcome::Failed { error } = Verdict::from(JobError::failed("ä".repeat(5_000))).outcome else {
            panic!("it failed");
        };
        assert_eq!(error.len(), ERROR_BYTES_MAX);
    }
}
