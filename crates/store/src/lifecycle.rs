//! What one operation does to one job: pure functions on [`Job`], shared by the stores that work in Rust. The Redis
//! scripts do the same in Lua; the contract suite holds them together.
//!
//! None of these touches an index: a store compares the job before and after and moves it accordingly.

use tidegate_flow::backoff;
use tidegate_protocol::{
    domain::{Incarnation, Job, JobState, Lane, Lease, Loss, NewJob, Outcome, Policy, Session, Settled},
    reason,
};

/// From this many `released` in a row a job waits, so that a worker which hands everything back cannot spin.
const RELEASES_FREE: u32 = 2;
const RELEASE_WAIT_MS: u64 = 1_000;
/// A throttled job waits at least this long, plus up to the policy's backoff base.
const THROTTLE_WAIT_MS_MIN: u64 = 500;
/// Leases lost to dead processes until a job counts as poison.
const LOSSES_MAX: u32 = 3;

/// Jobs submitted with `want_result` are kept this long after their end ...
pub const RESULT_KEPT_MS: u64 = 60_000;
/// ... or until this many newer ones of the queue exist.
pub const RESULTS_KEPT_MAX: usize = 10_000;
/// How long a request id is remembered.
pub const REQUEST_ID_WINDOW_MS: u64 = 600_000;

/// A key is in force while its job lives and for the window after it. When it is entered nobody knows when that will be:
/// it gets a 64th more than the window, and is entered anew only if its job takes longer than that or does not succeed. So
/// most jobs cost no second entry.
const KEY_SLACK_DIVISOR: u64 = 64;
/// Ends of keys are compared in these units, in which Redis keeps them with the job.
const KEY_UNIT_MS: u64 = 1_024;
const KEY_END_MS_MAX: u64 = u32::MAX as u64 * KEY_UNIT_MS;

/// When a key ends that is entered now, if its job ends soon.
pub fn key_end_ms(window_ms: u64, now_ms: u64) -> u64 {
    let end = now_ms
        .saturating_add(window_ms)
        .saturating_add(window_ms / KEY_SLACK_DIVISOR);
    end.min(KEY_END_MS_MAX)
}

/// The end of a key whose job ends now, if it has to be entered anew; `end_ms` is what it was entered with.
pub fn key_closed_ms(end_ms: u64, ended: JobState, window_ms: u64, now_ms: u64) -> Option<u64> {
    let end_ms = end_ms / KEY_UNIT_MS * KEY_UNIT_MS;
    let wanted = now_ms.saturating_add(window_ms);
    let is_enough = ended == JobState::Succeeded && end_ms >= wanted;
    (!is_enough).then(|| end_ms.max(wanted).min(KEY_END_MS_MAX))
}

/// A number in [0, 1) for one job of a sweep: the same for the same seed, fence and id in Rust and in Lua, and
/// independent of the order in which jobs are visited.
pub fn jitter(seed: u32, fence: u64, local: uuid::Uuid) -> f64 {
    const M: u64 = 2_147_483_647;
    let bytes = local.as_bytes();
    let tail = u64::from(bytes[13]) << 16 | u64::from(bytes[14]) << 8 | u64::from(bytes[15]);
    let x = (u64::from(seed) + (fence % M) * 16_807 + tail * 48_271) % M;
    x as f64 / M as f64
}

/// The job that a submit makes at `now_ms`: scheduled or ready.
pub fn submitted(new: NewJob, now_ms: u64) -> Job {
    let due_ms = new.run_at_ms.max(now_ms + new.delay_ms);
    let deadline_ms = if new.deadline_after_ms > 0 {
        now_ms + new.deadline_after_ms
    } else {
        new.deadline_ms
    };
    Job {
        id: new.id,
        state: if due_ms > now_ms {
            JobState::Scheduled
        } else {
            JobState::Ready
        },
        lane: Lane::First,
        payload: new.payload,
        payload_hash: new.payload_hash,
        headers: new.headers,
        idempotency_key: new.idempotency_key,
        want_result: new.want_result,
        traceparent: new.traceparent,
        tracestate: new.tracestate,
        attempts: 0,
        losses: 0,
        loss_incarnation: None,
        lost: Vec::new(),
        releases: 0,
        fence: 0,
        created_ms: now_ms,
        due_ms,
        ran_ms: now_ms,
        deadline_ms,
        finished_ms: 0,
        lease: None,
        settled: None,
        error: String::new(),
        reason: String::new(),
        result: bytes::Bytes::new(),
    }
}

/// Grows, and never repeats a number after a failover to a store that lost the newest writes.
fn raise_fence(job: &mut Job, now_ms: u64) {
    job.fence = (job.fence + 1).max(now_ms);
}

pub fn past_deadline(job: &Job, now_ms: u64) -> bool {
    job.deadline_ms != 0 && now_ms >= job.deadline_ms
}

pub fn leased(job: &mut Job, session: Session, incarnation: Incarnation, ttl_ms: u64, now_ms: u64) {
    raise_fence(job, now_ms);
    job.state = JobState::Running;
    job.lease = Some(Lease {
        session,
        incarnation,
        until_ms: now_ms + ttl_ms,
    });
}

fn finish(job: &mut Job, state: JobState, why: &str, now_ms: u64) {
    job.state = state;
    job.reason = why.to_owned();
    job.finished_ms = now_ms;
    job.lease = None;
}

/// Back to waiting: ready at once or after `delay_ms`; a deadline that has passed ends it instead.
fn wait(job: &mut Job, delay_ms: u64, now_ms: u64) {
    job.lease = None;
    if past_deadline(job, now_ms) {
        return finish(job, JobState::Expired, "", now_ms);
    }
    job.due_ms = now_ms + delay_ms;
    if delay_ms > 0 {
        job.state = JobState::Scheduled;
    } else {
        make_ready(job, now_ms);
    }
}

fn make_ready(job: &mut Job, now_ms: u64) {
    job.state = JobState::Ready;
    job.due_ms = now_ms;
    job.lane = if job.attempts + job.losses > 0 {
        Lane::Retry
    } else {
        Lane::First
    };
}

/// A scheduled job whose time has come.
pub fn promoted(job: &mut Job, now_ms: u64) {
    make_ready(job, now_ms);
}

/// The holder's outcome. The caller has checked that the job is running with the settlement's fence.
pub fn settled(job: &mut Job, outcome: &Outcome, policy: &Policy, random: f64, now_ms: u64) {
    job.settled = Some(Settled {
        fence: job.fence,
        outcome: outcome.kind(),
    });
    if !matches!(outcome, Outcome::Released { .. }) {
        job.error = outcome.error().to_owned();
        job.releases = 0;
    }
    match outcome {
        Outcome::Succeeded { result } => {
            job.attempts += 1;
            job.result = result.clone();
            job.lost.clear();
            finish(job, JobState::Succeeded, "", now_ms);
        }
        Outcome::Retry { after_ms, .. } => {
            job.attempts += 1;
            job.ran_ms = now_ms;
            if job.attempts >= policy.retry.max_attempts {
                return finish(job, JobState::Dead, reason::ATTEMPTS_EXHAUSTED, now_ms);
            }
            let delay = match *after_ms {
                0 => {
                    let retry = &policy.retry;
                    backoff::full_jitter_ms(retry.backoff_base_ms, retry.backoff_max_ms, job.attempts, random)
                }
                after => after,
            };
            wait(job, delay, now_ms);
        }
        Outcome::Failed { .. } => {
            job.attempts += 1;
            finish(job, JobState::Dead, reason::FAILED, now_ms);
        }
        Outcome::Invalid { .. } => {
            job.attempts += 1;
            finish(job, JobState::Dead, reason::INVALID, now_ms);
        }
        Outcome::Released { .. } => {
            job.releases += 1;
            let delay = if job.releases > RELEASES_FREE {
                RELEASE_WAIT_MS
            } else {
                0
            };
            park(job, delay, policy, now_ms);
        }
        Outcome::Throttled { after_ms, .. } => {
            let spread = (random * policy.retry.backoff_base_ms as f64).floor() as u64;
            park(
                job,
                (*after_ms).max(THROTTLE_WAIT_MS_MIN) + spread,
                policy,
                now_ms,
            );
        }
    }
}

/// Back to waiting without an attempt used: bounded by time instead.
fn park(job: &mut Job, delay_ms: u64, policy: &Policy, now_ms: u64) {
    raise_fence(job, now_ms);
    if now_ms.saturating_sub(job.ran_ms) > policy.max_park_ms {
        return finish(job, JobState::Dead, reason::PARKED_TOO_LONG, now_ms);
    }
    wait(job, delay_ms, now_ms);
}

/// The holder is gone: counted apart from attempts, blamed on its process. The first loss costs no wait.
pub fn lost(job: &mut Job, policy: &Policy, random: f64, now_ms: u64) {
    job.loss_incarnation = job.lease.as_ref().map(|lease| lease.incarnation);
    job.losses += 1;
    job.lost.extend(job.loss_incarnation.map(|incarnation| Loss {
        at_ms: now_ms,
        incarnation,
    }));
    job.ran_ms = now_ms;
    raise_fence(job, now_ms);
    if job.losses >= LOSSES_MAX {
        job.error = format!(
            "the lease was lost {} times: the worker process died while it ran this job",
            job.losses
        );
        return finish(job, JobState::Dead, reason::LEASE_LOST, now_ms);
    }
    let delay = match job.losses {
        1 => 0,
        n => backoff::full_jitter_ms(
            policy.retry.backoff_base_ms,
            policy.retry.backoff_max_ms,
            n - 1,
            random,
        ),
    };
    wait(job, delay, now_ms);
}

/// Never ran, or its worker left in good order: back at once, uncounted.
pub fn returned(job: &mut Job, now_ms: u64) {
    raise_fence(job, now_ms);
    wait(job, 0, now_ms);
}

/// The process that a loss was blamed on is alive. True if the job changed.
pub fn loss_taken_back(job: &mut Job, incarnation: Incarnation) -> bool {
    let blamed = job.loss_incarnation == Some(incarnation) && job.losses > 0 && !job.state.is_terminal();
    if blamed {
        job.losses -= 1;
        job.loss_incarnation = None;
        job.lost.pop();
    }
    blamed
}

/// From any state that is not terminal.
pub fn cancelled(job: &mut Job, now_ms: u64) {
    raise_fence(job, now_ms);
    finish(job, JobState::Cancelled, "", now_ms);
}

/// From scheduled and ready.
pub fn expired(job: &mut Job, now_ms: u64) {
    finish(job, JobState::Expired, "", now_ms);
}

/// Set aside: what a store keeps of the job could not be read, and it is dead with nothing to run.
pub fn is_unreadable(job: &Job) -> bool {
    job.state == JobState::Dead && job.reason == reason::UNREADABLE
}

/// From dead: a fresh start. A deadline that has passed is dropped: who redrives wants it to run.
pub fn redriven(job: &mut Job, now_ms: u64) {
    raise_fence(job, now_ms);
    job.attempts = 0;
    job.losses = 0;
    job.loss_incarnation = None;
    job.lost.clear();
    job.releases = 0;
    job.finished_ms = 0;
    job.ran_ms = now_ms;
    job.reason.clear();
    if past_deadline(job, now_ms) {
        job.deadline_ms = 0;
    }
    make_ready(job, now_ms);
}
