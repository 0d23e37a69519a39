//! What a handler gets.

use std::{collections::BTreeMap, fmt::Display, sync::Arc, time::Duration};

use bytes::Bytes;
use tidegate_chassis::{
    clock::{self, Monotonic},
    telemetry::trace,
};
use tidegate_protocol::domain::{FailureClass, JobId, QueueName};
use tokio::time::Instant;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFuture},
    task::TaskTracker,
};

use crate::{JobError, heartbeat::Heartbeat};

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
    heartbeat: Arc<Heartbeat>,
    /// The link's.
    clock: Monotonic,
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

    /// The same for an attempt with this fence.
    pub fn for_test_with_fence(job_id: JobId, fence: u64) -> Self {
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
            heartbeat: Arc::default(),
            clock: Monotonic::start(),
        }
    }

    /// Heartbeats are counted by this clock, which is the link's.
    pub(crate) fn beating(self, heartbeat: Arc<Heartbeat>, clock: Monotonic) -> Self {
        Self {
            heartbeat,
            clock,
            ..self
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

    /// A sign of life, and where the handler is (a line for people, at most 200 bytes). Where the queue's policy sets
    /// `heartbeat_timeout`, an attempt that gives none for that long is stopped and tried again, well before its timeout;
    /// the error then says where it was. Costs nothing on the wire: call it as often as you like.
    pub fn heartbeat(&self, progress: impl Display) {
        self.heartbeat.beat(self.clock.ms(), progress.to_string());
    }

    /// Runs `f` on a blocking thread. Use this and not `tokio::task::spawn_blocking`: a thread cannot be dropped, and
    /// only work started here keeps the job's slot taken until it has really ended. Let `f` look at
    /// [`Self::is_cancelled`] now and then. It is in the span that this is called in.
    pub async fn run_blocking<R: Send + 'static>(
        &self,
        f: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, JobError> {
        let running = self.blocking.token();
        let work = move || {
            let _running = running; // until `f` is done, however the handler fares
            f()
        };
        tokio::task::spawn_blocking(trace::carried(work))
            .await
            .map_err(|error| {
                JobError::retry(format!("handler panicked: {error}")).with_class(FailureClass::Job)
            })
    }
}
