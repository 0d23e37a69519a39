//! One call: which router, how long, and whether to try again.

use std::{
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use tidegate_flow::backoff::{RetryBudget, full_jitter_ms};
use tonic::{Request, Response, Status, transport::Channel};

use crate::{
    ClientError,
    deadline::Deadline,
    endpoints::Endpoints,
    error::{Again, Failure},
    observe::Observer,
};

/// A first failure is most often one lost connection: try again soon.
const BACKOFF_BASE_MS: u64 = 50;
/// Callers wait behind it; a router that comes back should be found within a second.
const BACKOFF_MAX_MS: u64 = 1_000;
/// With other routers at hand one that is silent gets half of what is left, but no less than this.
const TRY_MIN: Duration = Duration::from_millis(500);

/// What a call is about, as far as repeating it goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) deadline: Deadline,
    /// Doing it twice is harmless (reads), or is recognised (submits, by request id).
    pub(crate) repeatable: bool,
    /// `tidegate.v1.JobService/GetJob`, for whoever measures.
    pub(crate) method: &'static str,
    /// The answer is a stream, which goes on after the deadline: the server must not be told of it.
    pub(crate) stream: bool,
}

impl Plan {
    pub(crate) fn repeatable(method: &'static str, deadline: Deadline) -> Self {
        Self {
            method,
            deadline,
            repeatable: true,
            stream: false,
        }
    }

    pub(crate) fn once(method: &'static str, deadline: Deadline) -> Self {
        Self {
            method,
            deadline,
            repeatable: false,
            stream: false,
        }
    }
}

/// The routers and the budget that all calls of a client share.
pub(crate) struct Caller {
    endpoints: Endpoints,
    /// A few lines under it, never across an await.
    budget: Mutex<RetryBudget>,
    observer: OnceLock<Observer>,
}

impl Caller {
    pub(crate) fn new(endpoints: Endpoints) -> Self {
        Self {
            endpoints,
            budget: Mutex::default(),
            observer: OnceLock::new(),
        }
    }

    /// The first one stays.
    pub(crate) fn observe(&self, observer: Observer) {
        let _ = self.observer.set(observer);
    }

    /// Calls until it is answered, refused for good, out of time, or out of budget.
    pub(crate) async fn call<Req, Resp, Fut>(
        &self,
        plan: Plan,
        request: Req,
        send: impl Fn(Channel, Request<Req>) -> Fut,
    ) -> Result<Resp, ClientError>
    where
        Req: Clone,
        Fut: Future<Output = Result<Response<Resp>, Status>>,
    {
        self.with_budget(RetryBudget::on_request);
        let mut tries = 0;
        // Bounded by the deadline and the budget.
        loop {
            tries += 1;
            let Some(left) = plan.deadline.remaining() else {
                return Err(ClientError::timeout("the deadline passed"));
            };
            let time = self.time_of_a_try(left);
            let (index, channel) = self.endpoints.current();
            let mut attempt = Request::new(request.clone());
            if !plan.stream {
                attempt.set_timeout(time);
            }
            let call = self.observer.get().map(|observer| observer.begin(plan.method));
            let answer = tokio::time::timeout(time, send(channel, attempt)).await;
            if let (Some(call), Ok(answer)) = (call, &answer) {
                call.ended(answer);
            }
            let failure = match answer {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => Failure::from(status),
                Err(_) => Failure::no_answer(),
            };
            if failure.move_on {
                self.endpoints.failed(index);
            }
            let Some(wait) = wait_before_next(&failure, plan.repeatable, tries) else {
                return Err(failure.error);
            };
            self.wait_for_retry(plan.deadline, wait, failure.error).await?;
            tracing::debug!(tries, ?wait, "repeating a call");
        }
    }

    /// Pays for a retry and waits; the error is given back when there is no budget or no time for it.
    pub(crate) async fn wait_for_retry(
        &self,
        deadline: Deadline,
        wait: Duration,
        error: ClientError,
    ) -> Result<(), ClientError> {
        let in_time = deadline.remaining().is_some_and(|left| wait < left);
        if !in_time || !self.with_budget(RetryBudget::try_retry) {
            return Err(error);
        }
        tokio::time::sleep(wait).await;
        Ok(())
    }

    fn time_of_a_try(&self, left: Duration) -> Duration {
        if self.endpoints.len() == 1 {
            // Nobody else to ask: cutting a slow answer short would only make the load greater.
            return left;
        }
        (left / 2).max(TRY_MIN).min(left)
    }

    fn with_budget<R>(&self, f: impl FnOnce(&mut RetryBudget) -> R) -> R {
        f(&mut self.budget.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Full jitter for the retry after `tries`.
pub(crate) fn jitter(tries: u32) -> Duration {
    Duration::from_millis(full_jitter_ms(
        BACKOFF_BASE_MS,
        BACKOFF_MAX_MS,
        tries,
        fastrand::f64(),
    ))
}

fn wait_before_next(failure: &Failure, repeatable: bool, tries: u32) -> Option<Duration> {
    match failure.again {
        Again::Never => None,
        Again::Exactly(wait) => Some(wait),
        Again::Refused { not_before } => Some(not_before.unwrap_or_default() + jitter(tries)),
        Again::Unknown => repeatable.then(|| jitter(tries)),
    }
}
