//! Requests and answers of the [`JobStore`](crate::JobStore).

use std::fmt;

use tidegate_protocol::domain::{
    Cap, CapRecord, Incarnation, Job, JobId, JobState, LeaseRef, Policy, QueueName, Session, Settlement,
    Version,
};

/// How many jobs one session takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    pub session: Session,
    pub incarnation: Incarnation,
    pub max: u32,
}

/// Ready jobs of one queue, for several sessions: dealt one at a time, round robin over the wants that have room left,
/// in the order given.
#[derive(Clone, Debug)]
pub struct LeaseRequest {
    pub queue: QueueName,
    pub wants: Vec<Want>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// Running, with its new fence, lease and lane.
    pub job: Job,
    pub session: Session,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Grants {
    /// In the order dealt.
    pub grants: Vec<Grant>,
    /// Of the queue: what a worker needs to run the jobs.
    pub policy: Policy,
    /// Fewer were granted than wanted: the hungry flag is set, a wake follows when there is reason to ask again.
    pub unmet: bool,
    pub clock_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewAnswer {
    Held {
        until_ms: u64,
    },
    /// Someone else's, returned, or finished.
    Lost,
    /// Cancelled or deleted by an operator.
    Cancelled,
}

/// The first act of a worker's stream.
#[derive(Clone, Debug)]
pub struct Reclaim {
    pub session: Session,
    pub incarnation: Incarnation,
    /// Sessions of that process whose streams are closed.
    pub replaces: Vec<Session>,
    /// Queues in which the process may hold leases.
    pub queues: Vec<QueueName>,
    /// What the process still works on.
    pub leases: Vec<LeaseRef>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    pub kept: Vec<LeaseRef>,
    pub lost: Vec<LeaseRef>,
    /// Jobs of replaced sessions that went back to ready.
    pub returned: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseCause {
    /// The stream broke and nobody reclaimed: the losses count, and where the queue costs a resource the slots stay
    /// taken until the leases would have ended, because the worker may still be running.
    Broken,
    /// The worker said goodbye: uncounted, slots free at once.
    Bye,
}

#[derive(Clone, Debug)]
pub struct SessionRelease {
    pub queue: QueueName,
    pub session: Session,
    pub cause: ReleaseCause,
    /// For backoff jitter, 1 to 2^31 - 2; see [`crate::lifecycle::jitter`].
    pub seed: u32,
}

#[derive(Clone, Debug)]
pub struct SettleItem {
    pub settlement: Settlement,
    /// In [0, 1): the backoff's full jitter.
    pub random: f64,
}

#[derive(Clone, Debug)]
pub struct SweepRequest {
    pub queue: QueueName,
    /// Leases and ghosts that ended by this moment of the store's clock, ms, and have ended by its clock now, are taken
    /// back. A caller names the last moment at which it found that clock in order, so that one that has leapt since takes
    /// nothing from anybody. `None`: none are (not right after a start, a stall or a clock jump).
    pub reclaim_until_ms: Option<u64>,
    /// When > 0, first writes a hold of that length which every router's sweep obeys.
    pub hold_ms: u64,
    /// Items of each kind at most.
    pub limit: u32,
    pub seed: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    pub promoted: u32,
    /// Leases that ended without an answer.
    pub reclaimed: u32,
    pub ghosts: u32,
    pub expired: u32,
    pub trimmed: u32,
    pub keys_forgotten: u32,
    /// A limit was reached: sweep again soon.
    pub more: bool,
}

#[derive(Clone, Debug)]
pub struct ListRequest {
    pub queue: QueueName,
    pub state: JobState,
    pub limit: u32,
    /// From the previous page; opaque, made by the same store.
    pub cursor: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobPage {
    pub jobs: Vec<Job>,
    pub next: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Cancel,
    Redrive,
    Delete,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActionAnswer {
    /// Done; the state after it (`None` = deleted).
    Done(Option<JobState>),
    NotFound,
    /// Nothing was done: the action does not fit this state.
    WrongState(JobState),
    /// Redrive: the job's idempotency key belongs to this other job by now.
    KeyTaken(JobId),
}

/// Exact numbers of one queue, from counters and set sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueStats {
    pub queue: QueueName,
    pub paused: bool,
    pub scheduled: u64,
    /// Both ready lists.
    pub ready: u64,
    pub ready_retries: u64,
    pub running: u64,
    /// What counts against the cap: lease set entries, ghosts included.
    pub slots: u64,
    pub slots_retries: u64,
    pub succeeded: u64,
    pub dead: u64,
    pub cancelled: u64,
    pub expired: u64,
    /// Of the dead: those that were set aside because what is stored of them cannot be read.
    pub unreadable: u64,
    pub submitted_total: u64,
    pub succeeded_total: u64,
    pub dead_total: u64,
    pub oldest_ready_ms: Option<u64>,
    pub policy: Policy,
    /// `None`: no record was ever written; `policy` holds the defaults.
    pub policy_version: Option<Version>,
    pub cap: Option<CapRecord>,
    pub clock_ms: u64,
}

/// A queue's policy, to be kept beside its jobs.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueRecord {
    pub queue: QueueName,
    pub policy: Policy,
    pub version: Version,
}

#[derive(Clone, Debug)]
pub struct CapOrder {
    pub queue: QueueName,
    /// `None`: adopt, that is stamp version and expiry on whatever is stored.
    pub cap: Option<Cap>,
    pub version: Version,
    /// 0 = never expires.
    pub ttl_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CapAnswer {
    /// False: a newer version is in force, see `record`.
    pub applied: bool,
    pub record: Option<CapRecord>,
    /// Counted in the same atomic step.
    pub slots: u64,
}

/// What an acknowledgement means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Gone with the process.
    Memory,
    /// Redis without AOF: as of the last snapshot.
    Snapshot,
    /// Redis everysec: a crash of the machine loses up to two seconds.
    EverySecond,
    /// On disk before the answer.
    Fsync,
    /// So at the server itself, and in the memory of this many replicas before the answer.
    Replicated { acks: u32, local: Box<Durability> },
}

impl Durability {
    pub const LEVELS: [&'static str; 5] = ["memory", "snapshot", "everysec", "fsync", "replicated"];

    /// One word, for metrics.
    pub fn level(&self) -> &'static str {
        match self {
            Durability::Memory => "memory",
            Durability::Snapshot => "snapshot",
            Durability::EverySecond => "everysec",
            Durability::Fsync => "fsync",
            Durability::Replicated { .. } => "replicated",
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::Replicated { acks, local } => {
                return write!(
                    f,
                    "{local}; and in {acks} more servers before the acknowledgement"
                );
            }
            Durability::Memory => "memory (acknowledged jobs end with the process)",
            Durability::Snapshot => "snapshot (a store crash loses everything since the last snapshot)",
            Durability::EverySecond => "everysec (a store crash loses up to 2 s)",
            Durability::Fsync => "fsync (on disk before the acknowledgement)",
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulse {
    pub clock_ms: u64,
    /// Made when the store was first used; another one means another store.
    pub incarnation: String,
    /// The highest clock that any pulse has written before this one.
    pub watermark_ms: u64,
    /// Changes when the store's server restarts.
    pub run_id: String,
    pub durability: Durability,
}

/// Told to every subscriber; a subscriber that lags must look at everything again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreEvent {
    /// The queue was hungry and something changed in its favour.
    Wake(QueueName),
    /// A job submitted with `want_result` is terminal.
    Finished(JobId),
    /// Events may have been missed (reconnect).
    Resync,
}
