//! A job and its life.

use bytes::Bytes;

use super::{Incarnation, JobId, QueueName, Session};

/// Where a job is in its life. The last four are terminal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub enum JobState {
    Scheduled = 1,
    Ready = 2,
    Running = 3,
    Succeeded = 4,
    Dead = 5,
    Cancelled = 6,
    Expired = 7,
}

impl JobState {
    pub const ALL: [JobState; 7] = [
        JobState::Scheduled,
        JobState::Ready,
        JobState::Running,
        JobState::Succeeded,
        JobState::Dead,
        JobState::Cancelled,
        JobState::Expired,
    ];

    pub fn is_terminal(self) -> bool {
        self as u8 >= JobState::Succeeded as u8
    }

    /// The number the stores keep; see [`JobState::from_code`].
    pub fn code(self) -> u8 {
        self as u8
    }

    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.code() == code)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            JobState::Scheduled => "scheduled",
            JobState::Ready => "ready",
            JobState::Running => "running",
            JobState::Succeeded => "succeeded",
            JobState::Dead => "dead",
            JobState::Cancelled => "cancelled",
            JobState::Expired => "expired",
        }
    }
}

/// First attempts and retries are leased from lists of their own, so that a retry storm cannot take every slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
#[repr(u8)]
pub enum Lane {
    First = 0,
    Retry = 1,
}

impl Lane {
    pub fn other(self) -> Lane {
        match self {
            Lane::First => Lane::Retry,
            Lane::Retry => Lane::First,
        }
    }

    pub fn index(self) -> usize {
        self as usize
    }
}

/// Of the payload's bytes; tells a repeated submit from another job under the same key.
pub type PayloadHash = [u8; 12];

/// A job to enter, complete: the id, the hash and every default are already decided by the router.
#[derive(Clone, Debug, PartialEq)]
pub struct NewJob {
    pub id: JobId,
    pub payload: Bytes,
    pub payload_hash: PayloadHash,
    pub headers: Vec<(String, String)>,
    /// Within the queue's idempotency window, one key is one job.
    pub idempotency_key: Option<String>,
    /// The client's per-job id; deduplicates transport retries for ten minutes. Ignored when a key is given.
    pub request_id: Option<String>,
    /// Not before this time (absolute); combined with `delay_ms`, the later one counts.
    pub run_at_ms: u64,
    /// Not before the store's now plus this.
    pub delay_ms: u64,
    /// Absolute; 0 = none.
    pub deadline_ms: u64,
    /// Relative to the store's now; 0 = none. At most one of the two deadlines is set.
    pub deadline_after_ms: u64,
    pub want_result: bool,
    pub traceparent: Option<String>,
    pub tracestate: Option<String>,
}

impl NewJob {
    /// A job with nothing but a payload.
    pub fn new(id: JobId, payload: impl Into<Bytes>) -> Self {
        Self {
            id,
            payload: payload.into(),
            payload_hash: PayloadHash::default(),
            headers: Vec::new(),
            idempotency_key: None,
            request_id: None,
            run_at_ms: 0,
            delay_ms: 0,
            deadline_ms: 0,
            deadline_after_ms: 0,
            want_result: false,
            traceparent: None,
            tracestate: None,
        }
    }

    pub fn queue(&self) -> &QueueName {
        &self.id.queue
    }
}

/// Who holds a running job, and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub session: Session,
    pub incarnation: Incarnation,
    pub until_ms: u64,
}

/// Which kind of outcome was recorded for a fence, so that a repeated settle gets the same answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
#[repr(u8)]
pub enum OutcomeKind {
    Succeeded = 1,
    Retry = 2,
    Failed = 3,
    Invalid = 4,
    Released = 5,
    Throttled = 6,
}

impl OutcomeKind {
    pub const ALL: [OutcomeKind; 6] = [
        OutcomeKind::Succeeded,
        OutcomeKind::Retry,
        OutcomeKind::Failed,
        OutcomeKind::Invalid,
        OutcomeKind::Released,
        OutcomeKind::Throttled,
    ];

    pub fn code(self) -> u8 {
        self as u8
    }

    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }
}

/// The last settlement that counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settled {
    pub fence: u64,
    pub outcome: OutcomeKind,
}

/// A lease that ended because its process was gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loss {
    /// When the store noticed.
    pub at_ms: u64,
    /// The process that held it.
    pub incarnation: Incarnation,
}

/// A job as the store keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub id: JobId,
    pub state: JobState,
    /// Which ready list or lease set it is in; decided when it becomes ready.
    pub lane: Lane,
    pub payload: Bytes,
    pub payload_hash: PayloadHash,
    pub headers: Vec<(String, String)>,
    pub idempotency_key: Option<String>,
    pub want_result: bool,
    pub traceparent: Option<String>,
    pub tracestate: Option<String>,
    /// Attempts used up; the running one is not counted yet.
    pub attempts: u32,
    /// Leases lost because the holding process died.
    pub losses: u32,
    /// The process that the last counted loss is blamed on; a later hello of it takes the loss back.
    pub loss_incarnation: Option<Incarnation>,
    /// Who lost it and when, oldest first: one for each of `losses`. Forgotten once it succeeds.
    pub lost: Vec<Loss>,
    /// `released` outcomes in a row.
    pub releases: u32,
    /// 0 until the first lease.
    pub fence: u64,
    pub created_ms: u64,
    /// Scheduled: when it becomes ready. Ready: since when it is.
    pub due_ms: u64,
    /// When it last ran to an outcome of its own, or was submitted or redriven; bounds parking.
    pub ran_ms: u64,
    /// Absolute; 0 = none.
    pub deadline_ms: u64,
    /// 0 until terminal.
    pub finished_ms: u64,
    /// Running only.
    pub lease: Option<Lease>,
    pub settled: Option<Settled>,
    /// The last attempt's error; empty if none.
    pub error: String,
    /// Why it is dead (see [`crate::reason`]); empty otherwise.
    pub reason: String,
    pub result: Bytes,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SubmitOutcome {
    Created,
    Duplicate,
}

/// The answer to one submitted job.
#[derive(Clone, Debug, PartialEq)]
pub struct Submitted {
    /// Of the job that owns the key: the new one, or for a duplicate the first.
    pub id: JobId,
    pub outcome: SubmitOutcome,
    /// `None`: a duplicate (by request id) of a finished job that is no longer kept.
    pub state: Option<JobState>,
    /// Of a duplicate that succeeded, while it is kept.
    pub result: Option<Bytes>,
    /// A duplicate of a finished job that is no longer kept.
    pub result_expired: bool,
}
