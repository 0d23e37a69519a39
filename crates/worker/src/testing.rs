//! Runs a worker's handlers without a server: one attempt, or everything that was submitted with its retries.
//!
//! ```
//! # use tidegate_worker::{JobContext, JobError, Payload, Queue, Worker};
//! use tidegate_worker::{JobState, testing::TestQueues};
//!
//! # const GREET: Queue<String> = Queue::new("greet");
//! async fn greet(ctx: JobContext, name: Payload<String>) -> Result<String, JobError> {
//!     if ctx.attempt() == 1 {
//!         return Err(JobError::retry("not yet"));
//!     }
//!     Ok(format!("hello {}", *name))
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tidegate_worker::WorkerError> {
//! let worker = Worker::connect("http://127.0.0.1:7600", ()).handle(GREET, greet); // the one that main() runs
//! let mut jobs = TestQueues::of(&worker)?;
//! let id = jobs.submit(&GREET, "Ada".to_owned());
//! jobs.drain().await;
//! let job = jobs.job(&id);
//! assert_eq!((job.state, job.attempts.len()), (JobState::Succeeded, 2));
//! assert_eq!(job.result(), b"\"hello Ada\"");
//! # Ok(()) }
//! ```
//!
//! Waits between attempts pass at once: the queues' own clock jumps to the next job that is due, and what is random in
//! them is a number that the test gives. Timeouts are real and follow tokio's clock, so `start_paused = true` makes them
//! instant. What is not here: leases, targets, and reflexes, which are the worker's and not a handler's.

use std::{borrow::Borrow, collections::BTreeMap, time::Duration};

use bytes::Bytes;
use serde::Serialize;
use tidegate_chassis::clock::{self, Monotonic};
use tidegate_flow::backoff::full_jitter_ms;
use tidegate_protocol::{
    domain::{FailureClass, JobId, JobState, LeaseRef, Outcome, Retry},
    v1,
};
use uuid::Uuid;

use crate::{
    Delivery, Job, Queue, Verdict, Worker, WorkerError,
    registry::Deliveries,
    run::{context_of, deliver},
    stop::{Cause, Stop},
};

/// A job that has been tried this often is left waiting by [`TestQueues::drain`]: one that is throttled for ever uses no
/// attempts and would never end.
const TRIES_MAX: usize = 100;
/// As in the link: between the word to stop and being dropped.
const GRACE: Duration = Duration::from_secs(1);
/// As a job store waits, see `JobError`.
const RELEASES_FREE: u32 = 2;
const RELEASE_WAIT_MS: u64 = 1_000;
const THROTTLE_WAIT_MS_MIN: u64 = 500;

/// One run of a handler.
#[derive(Debug, Clone, PartialEq)]
pub struct Attempt {
    /// As [`crate::JobContext::attempt`]; the same again after one that used no attempt.
    pub number: u32,
    pub fence: u64,
    /// By the queues' clock.
    pub began_ms: u64,
    pub verdict: Verdict,
}

/// A job and what has become of it.
#[derive(Debug, Clone)]
pub struct TestJob {
    pub id: JobId,
    /// `Ready` before its first attempt, `Scheduled` between two, or its end.
    pub state: JobState,
    pub attempts: Vec<Attempt>,
    /// When it is due, by the queues' clock.
    pub due_ms: u64,
    payload: Bytes,
    headers: BTreeMap<String, String>,
    attempts_used: u32,
    releases: u32,
}

impl TestJob {
    /// What it succeeded with; empty otherwise.
    pub fn result(&self) -> &[u8] {
        match self.attempts.last().map(|attempt| &attempt.verdict.outcome) {
            Some(Outcome::Succeeded { result }) => result,
            _ => b"",
        }
    }

    /// What its last attempt said; empty when that succeeded.
    pub fn error(&self) -> &str {
        self.attempts
            .last()
            .map_or("", |attempt| attempt.verdict.outcome.error())
    }
}

/// See the [module](self).
pub struct TestQueues {
    deliveries: Deliveries,
    jobs: Vec<TestJob>,
    now_ms: u64,
    fence: u64,
    retry: Retry,
    timeout: Duration,
    heartbeat_timeout: Duration,
    random: f64,
}

impl TestQueues {
    /// The queues of a worker as it would be run, with its layers and schemas, under the default policy.
    ///
    /// # Errors
    /// The worker is put together wrongly.
    pub fn of<S: Clone + Send + Sync + 'static>(worker: &Worker<S>) -> Result<Self, WorkerError> {
        Ok(Self {
            deliveries: worker.registry().build()?,
            jobs: Vec::new(),
            now_ms: 0,
            fence: 0,
            retry: Retry::default(),
            timeout: Duration::from_secs(300),
            heartbeat_timeout: Duration::ZERO,
            random: 0.5,
        })
    }

    /// How often and after which waits attempts are repeated.
    #[must_use]
    pub fn retry(self, retry: Retry) -> Self {
        Self { retry, ..self }
    }

    /// How long an attempt may take.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// How long an attempt may go without a heartbeat; zero, the default, for ever.
    #[must_use]
    pub fn heartbeat_timeout(self, heartbeat_timeout: Duration) -> Self {
        Self {
            heartbeat_timeout,
            ..self
        }
    }

    /// What waits are jittered with, in `[0, 1)`; half by default.
    #[must_use]
    pub fn random(self, random: f64) -> Self {
        Self { random, ..self }
    }

    /// Enters a job, due now.
    ///
    /// # Panics
    /// When the worker has no handler for the queue, or the payload does not serialise.
    pub fn submit<T: Serialize>(&mut self, queue: &Queue<T>, payload: impl Borrow<T>) -> JobId {
        let payload = serde_json::to_vec(payload.borrow()).expect("the payload serialises");
        self.submit_raw(queue.name(), payload, BTreeMap::new())
    }

    /// Enters a job with headers and a payload as it is.
    ///
    /// # Panics
    /// When the worker has no handler for the queue.
    pub fn submit_raw(
        &mut self,
        queue: &str,
        payload: impl Into<Bytes>,
        headers: BTreeMap<String, String>,
    ) -> JobId {
        let queue = queue.parse().expect("a valid queue name");
        assert!(
            self.deliveries.contains_key(&queue),
            "no handler for queue {queue}"
        );
        let id = JobId {
            queue,
            shard: 0,
            local: Uuid::from_u128(self.jobs.len() as u128 + 1),
        };
        self.jobs.push(TestJob {
            id: id.clone(),
            state: JobState::Ready,
            attempts: Vec::new(),
            due_ms: self.now_ms,
            payload: payload.into(),
            headers,
            attempts_used: 0,
            releases: 0,
        });
        id
    }

    /// # Panics
    /// When no such job was submitted here.
    pub fn job(&self, id: &JobId) -> &TestJob {
        let job = self.jobs.iter().find(|job| job.id == *id);
        job.expect("an id that submit() gave")
    }

    /// Milliseconds since the start, waits between attempts included.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Runs one attempt of the job that is due first; the clock jumps to when it is. `None`: nothing waits.
    pub async fn run_next(&mut self) -> Option<Attempt> {
        let waiting = self.jobs.iter().enumerate();
        let waiting = waiting.filter(|(_, job)| !job.state.is_terminal() && job.attempts.len() < TRIES_MAX);
        let (index, _) = waiting.min_by_key(|(_, job)| job.due_ms)?;
        self.now_ms = self.now_ms.max(self.jobs[index].due_ms);
        self.fence += 1;
        let job = &self.jobs[index];
        let number = job.attempts_used + 1;
        let verdict = self.attempt(job, number).await;
        let attempt = Attempt {
            number,
            fence: self.fence,
            began_ms: self.now_ms,
            verdict,
        };
        self.settle(index, attempt.clone());
        Some(attempt)
    }

    /// Runs what was submitted, one attempt after the other, until every job has ended (or was tried a hundred times).
    /// All jobs, as they were submitted.
    pub async fn drain(&mut self) -> &[TestJob] {
        while self.run_next().await.is_some() {}
        &self.jobs
    }

    async fn attempt(&self, job: &TestJob, number: u32) -> Verdict {
        let Some(delivery) = self.deliveries.get(&job.id.queue) else {
            unreachable!("submit() has checked it");
        };
        let lease = LeaseRef {
            id: job.id.clone(),
            fence: self.fence,
        };
        let grant = v1::Grant {
            attempt: number,
            max_attempts: self.retry.max_attempts,
            headers: job.headers.clone().into_iter().collect(),
            created_at_ms: clock::wall_ms(),
            ..Default::default()
        };
        let timeout_ms = u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX);
        let (stop, clock) = (Stop::default(), Monotonic::start());
        let context = context_of(&lease, grant, timeout_ms, &stop);
        let job = Job {
            context: context.beating(stop.heartbeat().clone(), clock),
            payload: job.payload.clone(),
        };
        supervised(
            &**delivery,
            job,
            stop,
            clock,
            self.timeout,
            self.heartbeat_timeout,
        )
        .await
    }

    fn settle(&mut self, index: usize, attempt: Attempt) {
        let job = &mut self.jobs[index];
        job.state = JobState::Scheduled;
        job.releases = match &attempt.verdict.outcome {
            Outcome::Released { .. } => job.releases + 1,
            _ => 0,
        };
        let wait_ms = match &attempt.verdict.outcome {
            Outcome::Succeeded { .. } => {
                job.state = JobState::Succeeded;
                0
            }
            Outcome::Failed { .. } | Outcome::Invalid { .. } => {
                job.state = JobState::Dead;
                0
            }
            Outcome::Retry { after_ms, .. } => {
                job.attempts_used += 1;
                if job.attempts_used >= self.retry.max_attempts {
                    job.state = JobState::Dead;
                }
                let (base, max) = (self.retry.backoff_base_ms, self.retry.backoff_max_ms);
                match *after_ms {
                    0 => full_jitter_ms(base, max, job.attempts_used, self.random),
                    after_ms => after_ms,
                }
            }
            Outcome::Released { .. } if job.releases <= RELEASES_FREE => 0,
            Outcome::Released { .. } => RELEASE_WAIT_MS,
            Outcome::Throttled { after_ms, .. } => {
                let spread_ms = (self.random * self.retry.backoff_base_ms as f64) as u64;
                (*after_ms).max(THROTTLE_WAIT_MS_MIN) + spread_ms
            }
        };
        job.due_ms = self.now_ms + wait_ms;
        job.attempts.push(attempt);
    }
}

/// One attempt, stopped as the link would stop it.
async fn supervised(
    delivery: &dyn Delivery,
    job: Job,
    stop: Stop,
    clock: Monotonic,
    timeout: Duration,
    heartbeat_timeout: Duration,
) -> Verdict {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let silent = async {
        let after_ms = millis(heartbeat_timeout);
        loop {
            let left_ms = (stop.heartbeat().last_ms() + after_ms).saturating_sub(clock.ms());
            match left_ms {
                _ if after_ms == 0 => std::future::pending().await,
                0 => break Cause::Silent { after_ms },
                left_ms => tokio::time::sleep(Duration::from_millis(left_ms)).await,
            }
        }
    };
    let late = async {
        tokio::time::sleep(timeout).await;
        Cause::TimedOut {
            after_ms: millis(timeout),
        }
    };
    let mut running = std::pin::pin!(deliver(delivery, job, &stop));
    let cause = tokio::select! {
        own = &mut running => return as_settled(own.expect("nobody has stopped it")),
        cause = silent => cause,
        cause = late => cause,
    };
    stop.tell(GRACE);
    let own = running.await;
    cause.verdict(own, &stop.heartbeat().progress())
}

/// What is overloaded must not cost the job its attempts: as the worker settles it.
fn as_settled(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict {
            outcome: Outcome::Retry { error, after_ms },
            class: class @ Some(FailureClass::Overload),
        } => Verdict {
            outcome: Outcome::Throttled { error, after_ms },
            class,
        },
        verdict => verdict,
    }
}

#[cfg(test)]
#[path = "testing_tests.rs"]
mod tests;
