//! How a job gets to the code that does it: a Rust function here, an HTTP app in [`crate::http`], a command in
//! [`crate::exec`].

use std::{
    future::Future,
    marker::PhantomData,
    time::{Duration, UNIX_EPOCH},
};

use async_trait::async_trait;
use serde::{Serialize, de::DeserializeOwned};
use tidegate_protocol::limits::RESULT_BYTES_MAX;

use crate::{Job, JobContext, JobError, Verdict};

/// Runs one attempt and says how it ended.
///
/// The future may be dropped at any await: when the attempt is to stop, it has at most a second after
/// [`JobContext::cancelled`]. The timeout is kept by the caller.
#[async_trait]
pub trait Delivery: Send + Sync + 'static {
    async fn deliver(&self, job: Job) -> Verdict;
}

/// A typed async function. The payload is JSON; one that does not decode ends its job as invalid, because no further
/// attempt would decode it.
pub(crate) struct Handler<F, T> {
    f: F,
    payload: PhantomData<fn() -> T>,
}

impl<F, T> Handler<F, T> {
    pub(crate) fn new(f: F) -> Self {
        Self {
            f,
            payload: PhantomData,
        }
    }
}

#[async_trait]
impl<F, Fut, T, R> Delivery for Handler<F, T>
where
    F: Fn(JobContext, T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, JobError>> + Send + 'static,
    T: DeserializeOwned + Send + 'static,
    R: Serialize + Send + 'static,
{
    async fn deliver(&self, job: Job) -> Verdict {
        let payload = match serde_json::from_slice(&job.payload) {
            Ok(payload) => payload,
            Err(error) => return JobError::invalid(format!("the payload does not decode: {error}")).into(),
        };
        match (self.f)(job.context, payload).await {
            Ok(result) => succeeded(&result),
            Err(error) => error.into(),
        }
    }
}

/// The work is done, so a result that cannot be kept is dropped: to fail now would do the work again.
fn succeeded(result: &impl Serialize) -> Verdict {
    match serde_json::to_vec(result) {
        // What `()` serialises to says nothing.
        Ok(bytes) if bytes == b"null" => Verdict::succeeded(Vec::new()),
        Ok(bytes) if bytes.len() > RESULT_BYTES_MAX => {
            tracing::warn!(
                bytes = bytes.len(),
                max = RESULT_BYTES_MAX,
                "result too large, not kept"
            );
            Verdict::succeeded(Vec::new())
        }
        Ok(bytes) => Verdict::succeeded(bytes),
        Err(error) => {
            tracing::warn!(%error, "result does not serialise, not kept");
            Verdict::succeeded(Vec::new())
        }
    }
}

/// A time of the job store's clock, for programs in other languages.
pub(crate) fn rfc3339(epoch_ms: u64) -> String {
    // Times on the wire end with the year 9999; what lies beyond is not formatted by anyone.
    let time = UNIX_EPOCH + Duration::from_millis(epoch_ms.min(tidegate_protocol::convert::TIME_MS_MAX));
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use tidegate_protocol::domain::Outcome;

    use super::*;

    async fn deliver<T, R, F, Fut>(payload: &'static str, f: F) -> Outcome
    where
        F: Fn(JobContext, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, JobError>> + Send + 'static,
        T: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
    {
        let id = "email:0:00000000000000000000000000000001".parse().expect("valid");
        let job = Job {
            context: JobContext::for_test(id),
            payload: payload.into(),
        };
        Handler::new(f).deliver(job).await.outcome
    }

    #[tokio::test]
    async fn payloads_and_results_are_json() {
        let doubled = deliver("21", |_, n: u32| async move { Ok(n * 2) }).await;
        assert_eq!(doubled, Outcome::Succeeded { result: "42".into() });
        let nothing = deliver("21", |_, _: u32| async { Ok(()) }).await;
        assert_eq!(nothing, Outcome::Succeeded { result: "".into() });
        let large = deliver("1", |_, _: u32| async { Ok("x".repeat(RESULT_BYTES_MAX)) }).await;
        assert_eq!(large, Outcome::Succeeded { result: "".into() });
    }

    #[tokio::test]
    async fn a_payload_that_does_not_decode_is_invalid() {
        let outcome = deliver("\"x\"", |_, n: u32| async move { Ok(n) }).await;
        assert!(
            matches!(&outcome, Outcome::Invalid { error } if error.contains("expected u32")),
            "{outcome:?}"
        );
    }
}
