//! Runs attempts on the runtime of the application. What to stop, and when, is decided on the link's thread: a handler
//! that blocks all threads here cannot keep itself from being fenced.

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tidegate_chassis::{
    clock::{self, Monotonic},
    telemetry::trace::{TraceContext, within},
};
use tidegate_protocol::domain::{FailureClass, LeaseRef};
use tokio::{sync::mpsc, task::JoinSet};
use tracing::Instrument;

use crate::{
    Delivery, Job, JobContext, JobError, Verdict,
    core::{Ended, Start},
    job::Facts,
    registry::Deliveries,
    stop::Stop,
    telemetry::{Instruments, Traced},
};

/// Starts what the link grants until the link is gone, and joins every attempt. Attempts are as many as permits.
pub(crate) async fn run_attempts(
    mut starts: mpsc::Receiver<Start>,
    ended: mpsc::Sender<Ended>,
    deliveries: Deliveries,
    instruments: Instruments,
    clock: Monotonic,
) {
    let mut attempts = JoinSet::new();
    let instruments = Arc::new(instruments);
    loop {
        tokio::select! {
            start = starts.recv() => {
                let Some(start) = start else { break };
                let report = Report::new(&start, ended.clone());
                let Some(delivery) = deliveries.get(&start.lease.id.queue) else {
                    continue; // the report says that it never started
                };
                // Some kilobytes, which a task would move several times.
                let attempt = Box::pin(attempt(start, Arc::clone(delivery), report, instruments.clone(), clock));
                attempts.spawn(attempt);
            }
            Some(joined) = attempts.join_next() => {
                if let Err(error) = joined && error.is_panic() {
                    // Handlers' panics are caught; this is one in a destructor, and its report has been sent.
                    tracing::error!(%error, "an attempt panicked while it was dropped");
                }
            }
        }
    }
    // The link has given up on what still runs. Attempts that hold a thread are dropped when they let go of it.
    attempts.abort_all();
}

/// Tells the link that an attempt has ended, whatever happens to its task: an attempt that is not reported would hold its
/// permit, and have its lease renewed, for ever.
struct Report {
    ended: Option<Ended>,
    to_link: mpsc::Sender<Ended>,
}

impl Report {
    fn new(start: &Start, to_link: mpsc::Sender<Ended>) -> Self {
        let ended = Ended {
            lease: start.lease.clone(),
            verdict: None,
            run_ms: 0,
            span: None,
        };
        Self {
            ended: Some(ended),
            to_link,
        }
    }

    /// Its settlement belongs to this span.
    fn begun(&mut self, span: Option<TraceContext>) {
        if let Some(ended) = &mut self.ended {
            ended.span = span;
        }
    }

    fn set(&mut self, verdict: Option<Verdict>, run_ms: u64) {
        if let Some(ended) = &mut self.ended {
            (ended.verdict, ended.run_ms) = (verdict, run_ms);
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        // The channel has room for one report of every permit; it is closed only when the link is gone.
        let _ = self.ended.take().map(|ended| self.to_link.try_send(ended));
    }
}

async fn attempt(
    start: Start,
    delivery: Arc<dyn Delivery>,
    mut report: Report,
    instruments: Arc<Instruments>,
    clock: Monotonic,
) {
    let Start {
        lease,
        grant,
        age_ms,
        time_ms,
        stop,
    } = start;
    let payload = grant.payload.clone();
    let previous_fence = grant.previous_fence;
    let context = context_of(&lease, grant, time_ms, &stop);
    let context = context.beating(Arc::clone(stop.heartbeat()), clock);
    let traced = Traced::begin(&context, previous_fence);
    let begun = traced.kept();
    report.begun(begun.clone());
    let took = Monotonic::start();
    let job = Job {
        context: context.clone(),
        payload,
    };
    // In one expression: a future that has a name keeps its place in this one after it was moved.
    let verdict = within(traced.within.clone(), async {
        let verdict = deliver(&*delivery, job, &stop).await;
        let stopped = verdict.is_none();
        tracing::debug!(run_ms = took.ms(), stopped, "an attempt ended");
        verdict
    })
    .instrument(traced.log.clone())
    .await;
    traced.close(verdict.as_ref());
    instruments.ran(&context, verdict.as_ref(), took.seconds(), age_ms, begun);
    report.set(verdict, took.ms());
}

/// The handler's own verdict; `None` = it was stopped before it came to one.
pub(crate) async fn deliver(delivery: &dyn Delivery, job: Job, stop: &Stop) -> Option<Verdict> {
    if stop.is_told() {
        return None; // it waited here longer than its lease
    }
    let blocking = job.context.blocking.clone();
    let verdict = tokio::select! {
        biased;
        verdict = AssertUnwindSafe(async { delivery.deliver(job).await }).catch_unwind() => {
            Some(verdict.unwrap_or_else(|panic| panicked(&*panic)))
        }
        () = stop.grace_over() => None,
    };
    // What it started on threads cannot be dropped: the attempt lasts until they are done.
    blocking.close();
    blocking.wait().await;
    verdict
}

/// A panic is that attempt's failure, not the worker's.
fn panicked(panic: &(dyn Any + Send)) -> Verdict {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    // The text may hold the payload: it is in the job's error.
    tracing::error!("handler panicked");
    JobError::retry(format!("handler panicked: {text}"))
        .with_class(FailureClass::Job)
        .into()
}

pub(crate) fn context_of(
    lease: &LeaseRef,
    grant: tidegate_protocol::v1::Grant,
    time_ms: u64,
    stop: &Stop,
) -> JobContext {
    let set = |text: String| Some(text).filter(|text| !text.is_empty());
    let facts = Facts {
        job_id: lease.id.clone(),
        fence: lease.fence,
        attempt: grant.attempt,
        max_attempts: grant.max_attempts,
        headers: grant.headers.into_iter().collect(),
        created_ms: grant.created_at_ms,
        deadline_ms: grant.deadline_ms,
        stops_at: clock::now() + Duration::from_millis(time_ms.min(TIME_MS_MAX)),
        traceparent: set(grant.traceparent),
        tracestate: set(grant.tracestate),
    };
    JobContext::new(facts, stop.token())
}

/// Ten years: keeps the sum with the clock from overflowing.
const TIME_MS_MAX: u64 = 10 * 366 * 24 * 3_600_000;

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
