//! Building a job and entering it.

use std::{
    borrow::Borrow,
    collections::HashMap,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use serde::Serialize;
use tidegate_protocol::{
    domain::{QueueName, Submitted},
    limits::PAYLOAD_BYTES_MAX,
    reason, v1,
};
use uuid::Uuid;

use crate::{
    Client, ClientError, Queue, batch::Refusal, call::jitter, deadline::Deadline, encoded::EncodedJob,
};

/// A job to enter. Its request id is made here once, so that however often it is sent it is one job.
#[derive(Debug, Clone)]
pub struct Submission {
    job: v1::NewJob,
    /// A payload that does not serialise is reported by the call that sends it.
    error: Option<ClientError>,
}

impl Submission {
    /// A typed payload, as JSON.
    pub fn new<T: Serialize>(queue: &Queue<T>, payload: impl Borrow<T>) -> Self {
        let payload: &T = payload.borrow();
        match serde_json::to_vec(payload) {
            Ok(bytes) => Self::raw(queue.name(), bytes),
            Err(error) => {
                let message = format!("the payload does not serialise: {error}");
                let error = Some(ClientError::invalid(reason::INVALID_ARGUMENT, message));
                Self {
                    error,
                    ..Self::raw(queue.name(), Bytes::new())
                }
            }
        }
    }

    /// Bytes as they are.
    pub fn raw(queue: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        let job = v1::NewJob {
            queue: queue.into(),
            payload: payload.into(),
            request_id: Uuid::new_v4().to_string(),
            ..Default::default()
        };
        Self { job, error: None }
    }

    /// One key is one job within the queue's window (a day by default).
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.job.idempotency_key = key.into();
        self
    }

    /// Not before this time by the job store's clock. Excludes [`Self::delay`].
    #[must_use]
    pub fn at(mut self, time: SystemTime) -> Self {
        self.job.run_at_ms = epoch_ms(time);
        self
    }

    /// Not before now plus `delay`.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.job.delay_ms = millis(delay);
        self
    }

    /// Ends expired if it has not run to an end by then. Excludes [`Self::deadline_after`].
    #[must_use]
    pub fn deadline(mut self, time: SystemTime) -> Self {
        self.job.deadline_ms = epoch_ms(time);
        self
    }

    /// The same, counted from now.
    #[must_use]
    pub fn deadline_after(mut self, wait: Duration) -> Self {
        self.job.deadline_after_ms = millis(wait);
        self
    }

    /// Delivered with the job. At most 32; names `[a-z0-9-]{1,64}`, values at most 1 KiB.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.job.headers.insert(name.into(), value.into());
        self
    }

    #[must_use]
    pub fn headers(mut self, headers: HashMap<String, String>) -> Self {
        self.job.headers.extend(headers);
        self
    }

    /// Keep the outcome at least 60 s, so that it can be waited for.
    #[must_use]
    pub fn want_result(mut self) -> Self {
        self.job.want_result = true;
        self
    }

    /// W3C trace context that the job's spans link to.
    #[must_use]
    pub fn trace(mut self, traceparent: impl Into<String>, tracestate: Option<String>) -> Self {
        self.job.traceparent = traceparent.into();
        self.job.tracestate = tracestate.unwrap_or_default();
        self
    }

    /// Instead of the one made by the library: for callers that repeat a submit over their own restarts.
    #[must_use]
    pub fn request_id(mut self, request_id: impl Into<String>) -> Self {
        self.job.request_id = request_id.into();
        self
    }

    /// What can be refused without asking, so that it does not travel.
    pub(crate) fn checked(self) -> Result<v1::NewJob, ClientError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let job = self.job;
        if let Err(error) = job.queue.parse::<QueueName>() {
            return Err(ClientError::invalid(
                reason::INVALID_QUEUE_NAME,
                error.to_string(),
            ));
        }
        if job.payload.len() > PAYLOAD_BYTES_MAX {
            let message = format!(
                "{} bytes; at most {PAYLOAD_BYTES_MAX} are taken",
                job.payload.len()
            );
            return Err(ClientError::invalid(reason::PAYLOAD_TOO_LARGE, message));
        }
        Ok(job)
    }
}

fn millis(duration: Duration) -> u64 {
    // Whole milliseconds, rounded up: a wait must not become "not set".
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// A time before the epoch becomes 1 ms after it: long past, but not "not set".
pub(crate) fn epoch_ms(time: SystemTime) -> u64 {
    millis(time.duration_since(UNIX_EPOCH).unwrap_or_default()).max(1)
}

/// A submit in the making; `send()` enters it.
#[derive(Debug)]
#[must_use = "nothing is submitted before send()"]
pub struct Submit {
    client: Client,
    submission: Submission,
}

/// Each option as on [`Submission`].
macro_rules! options {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*);)*) => {$(
        $(#[$doc])*
        pub fn $name(mut self, $($arg: $ty),*) -> Self {
            self.submission = self.submission.$name($($arg),*);
            self
        }
    )*};
}

impl Submit {
    pub(crate) fn new(client: Client, submission: Submission) -> Self {
        Self { client, submission }
    }

    options! {
        /// See [`Submission::key`].
        key(key: impl Into<String>);
        /// See [`Submission::at`].
        at(time: SystemTime);
        /// See [`Submission::delay`].
        delay(delay: Duration);
        /// See [`Submission::deadline`].
        deadline(time: SystemTime);
        /// See [`Submission::deadline_after`].
        deadline_after(wait: Duration);
        /// See [`Submission::header`].
        header(name: impl Into<String>, value: impl Into<String>);
        /// See [`Submission::headers`].
        headers(headers: HashMap<String, String>);
        /// See [`Submission::want_result`].
        want_result();
        /// See [`Submission::trace`].
        trace(traceparent: impl Into<String>, tracestate: Option<String>);
        /// See [`Submission::request_id`].
        request_id(request_id: impl Into<String>);
    }

    /// Enters the job. `Ok` means durable at the store's level; a timeout means unknown.
    pub async fn send(self) -> Result<Submitted, ClientError> {
        let Self { client, submission } = self;
        let job = EncodedJob::new(&submission.checked()?);
        let deadline = client.deadline();
        let late =
            || ClientError::timeout("the submit was not answered within its deadline; it may have arrived");
        tokio::time::timeout_at(deadline.instant(), send_one(&client, job, deadline))
            .await
            .unwrap_or_else(|_| Err(late()))
    }
}

/// A call that failed as a whole was repeated already; an item that the router could not take now is repeated here, so
/// that it does not hold up the others.
async fn send_one(client: &Client, job: EncodedJob, deadline: Deadline) -> Result<Submitted, ClientError> {
    let mut tries = 0;
    loop {
        tries += 1;
        match client.batcher.submit(job.clone(), deadline).await {
            Ok(submitted) => return Ok(submitted),
            Err(refusal) => match wait_of(&refusal, tries) {
                Some(wait) => {
                    client
                        .caller
                        .wait_for_retry(deadline, wait, refusal.into_error())
                        .await?
                }
                None => return Err(refusal.into_error()),
            },
        }
    }
}

/// How long to wait before an item is sent again; `None` = its answer is final.
pub(crate) fn wait_of(refusal: &Refusal, tries: u32) -> Option<Duration> {
    match refusal {
        Refusal::Item(ClientError::Unavailable { retry_after, .. }) => {
            Some(retry_after.unwrap_or_default() + jitter(tries))
        }
        Refusal::Item(_) | Refusal::Call(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_succeed_is_refused_before_it_travels() {
        let reason = |submission: Submission| submission.checked().expect_err("invalid").reason().to_owned();
        assert_eq!(
            reason(Submission::raw("No Such", "x")),
            reason::INVALID_QUEUE_NAME
        );
        assert_eq!(
            reason(Submission::raw("a", vec![0; PAYLOAD_BYTES_MAX + 1])),
            reason::PAYLOAD_TOO_LARGE
        );
        // A map whose keys are not text has no JSON form.
        const ODD: Queue<HashMap<(u8, u8), u8>> = Queue::new("odd");
        let odd = Submission::new(&ODD, HashMap::from([((1, 2), 3)]));
        assert_eq!(reason(odd), reason::INVALID_ARGUMENT);
    }

    #[test]
    fn every_submission_is_a_job_of_its_own() {
        let a = Submission::raw("a", "x").checked().expect("valid");
        let b = Submission::raw("a", "x").checked().expect("valid");
        assert_ne!(a.request_id, b.request_id);
    }

    #[test]
    fn short_times_do_not_become_not_set() {
        assert_eq!(millis(Duration::from_nanos(1)), 1);
        assert_eq!(millis(Duration::from_secs(2)), 2_000);
        assert_eq!(epoch_ms(UNIX_EPOCH - Duration::from_secs(1)), 1);
    }
}
