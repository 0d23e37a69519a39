//! Leases and how they end.

use bytes::Bytes;

use super::{JobId, JobState, OutcomeKind};

/// A lease as both sides name it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct LeaseRef {
    pub id: JobId,
    pub fence: u64,
}

/// Who is to blame for a failure; only the first three enter control.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum FailureClass {
    /// The downstream says it is full.
    Overload,
    /// The downstream is not there.
    Down,
    Error,
    /// The job's own fault.
    Job,
}

/// How an attempt ended.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    Succeeded {
        result: Bytes,
    },
    /// `after_ms`: 0 = by the policy's backoff.
    Retry {
        error: String,
        after_ms: u64,
    },
    /// For good.
    Failed {
        error: String,
    },
    /// The payload does not decode or match its schema.
    Invalid {
        error: String,
    },
    /// Handed back unrun. Uses no attempt.
    Released {
        error: String,
    },
    /// The downstream is overloaded or down. Uses no attempt.
    Throttled {
        error: String,
        after_ms: u64,
    },
}

impl Outcome {
    pub fn kind(&self) -> OutcomeKind {
        match self {
            Outcome::Succeeded { .. } => OutcomeKind::Succeeded,
            Outcome::Retry { .. } => OutcomeKind::Retry,
            Outcome::Failed { .. } => OutcomeKind::Failed,
            Outcome::Invalid { .. } => OutcomeKind::Invalid,
            Outcome::Released { .. } => OutcomeKind::Released,
            Outcome::Throttled { .. } => OutcomeKind::Throttled,
        }
    }

    /// The error text; empty for success.
    pub fn error(&self) -> &str {
        match self {
            Outcome::Succeeded { .. } => "",
            Outcome::Retry { error, .. }
            | Outcome::Failed { error }
            | Outcome::Invalid { error }
            | Outcome::Released { error }
            | Outcome::Throttled { error, .. } => error,
        }
    }
}

/// A report of how one lease ended.
#[derive(Clone, PartialEq, Debug)]
pub struct Settlement {
    pub lease: LeaseRef,
    pub outcome: Outcome,
    pub class: Option<FailureClass>,
    pub run_ms: u64,
}

/// What became of a settlement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SettleResult {
    /// It counts, now or as the repeat of the one that did. The job's state after it.
    Recorded(JobState),
    /// The fence is old, or the job is not running: nothing was recorded; a ghost slot of that fence was freed.
    Stale(JobState),
    NotFound,
}
