//! Where jobs live: one [`JobStore`] contract, several stores.
//!
//! Every operation takes a list and answers per item, in order: batching is the design. [`memory`] is the executable
//! specification, [`sqlite`] the embedded default, [`redis`] what many routers share. One contract suite and the same
//! random sequences run against all three. Only routers link this crate.
//!
//! Rules that hold in every store:
//! - A lease is granted only while `slots < cap`, checked and taken in one atomic step; slots are the entries of the
//!   lease sets themselves, never a counter beside them.
//! - A settle or renew counts only for a running job with the equal fence. The fence grows with every lease and with
//!   every return that is not the holder's own outcome.
//! - Only the store's clock decides a time.

mod clock;
mod error;
pub mod lifecycle;
pub mod memory;
mod model;
mod open;
pub mod redis;
pub mod sqlite;
mod tail;
mod wake;

use async_trait::async_trait;
use tidegate_protocol::domain::{Job, JobId, LeaseRef, NewJob, QueueName, SettleResult, Submitted};
use tokio::sync::broadcast;

pub use clock::{AnchoredClock, Clock, ManualClock};
pub use error::StoreError;
pub use model::{
    Action, ActionAnswer, CapAnswer, CapOrder, Durability, Grant, Grants, JobPage, LeaseRequest, ListRequest,
    Pulse, QueueRecord, QueueStats, Reclaim, Reclaimed, ReleaseCause, RenewAnswer, SessionRelease,
    SettleItem, StoreEvent, SweepReport, SweepRequest, Want,
};
pub use open::{OpenError, OpenOptions, open};

pub type StoreResult<T> = Result<T, StoreError>;

/// Most items of one store call; larger lists are the caller's mistake and are worked off in several steps.
pub const ITEMS_PER_CALL_MAX: usize = 1_000;

/// The job store's contract. Answers are per item and in the order of the items; an `Err` says that nothing is known to
/// have happened to that item (or, for [`StoreError::Unknown`], that it may have).
#[async_trait]
pub trait JobStore: Send + Sync + 'static {
    /// Enters jobs. Duplicates by key or request id answer with the first job's id.
    async fn submit(&self, jobs: Vec<NewJob>) -> Vec<StoreResult<Submitted>>;

    /// Hands out ready jobs under the caps. Sets a queue's hungry flag when a request is not met in full.
    async fn lease(&self, requests: Vec<LeaseRequest>) -> Vec<StoreResult<Grants>>;

    /// Whether [`Self::submit_and_lease`] is worth more than the two alone: where a call is a journey.
    fn hands_over(&self) -> bool {
        false
    }

    /// A submit and then a lease. Who asked in vain for jobs of a queue is not woken for those that are granted here, but
    /// is for what is left.
    async fn submit_and_lease(
        &self,
        jobs: Vec<NewJob>,
        requests: Vec<LeaseRequest>,
    ) -> (Vec<StoreResult<Submitted>>, Vec<StoreResult<Grants>>) {
        let submitted = self.submit(jobs).await;
        (submitted, self.lease(requests).await)
    }

    /// Prolongs leases by the queue's ttl.
    async fn renew(&self, leases: Vec<LeaseRef>) -> Vec<StoreResult<RenewAnswer>>;

    /// A worker process is back on a new stream: rewrites the session of the leases it still holds, returns the other
    /// leases of the replaced sessions at once and uncounted, and takes back losses blamed on that process.
    async fn reclaim(&self, reclaim: Reclaim) -> StoreResult<Reclaimed>;

    /// Gives back the jobs that a session still holds in a queue; answers how many.
    async fn release_session(&self, releases: Vec<SessionRelease>) -> Vec<StoreResult<u64>>;

    /// Records how leases ended.
    async fn settle(&self, items: Vec<SettleItem>) -> Vec<StoreResult<SettleResult>>;

    /// Promotes due jobs, takes back expired leases, removes ghosts, expires and trims; bounded by `limit` a queue.
    async fn sweep(&self, requests: Vec<SweepRequest>) -> Vec<StoreResult<SweepReport>>;

    async fn get(&self, ids: Vec<JobId>) -> Vec<StoreResult<Option<Job>>>;

    /// Jobs of one queue in one state, without payload and result.
    async fn list(&self, request: ListRequest) -> StoreResult<JobPage>;

    /// Cancels, redrives or deletes.
    async fn act(&self, action: Action, ids: Vec<JobId>) -> Vec<StoreResult<ActionAnswer>>;

    /// Every queue that was ever written to, in name order.
    async fn queues(&self) -> StoreResult<Vec<QueueName>>;

    /// Exact numbers; `None` for a queue that does not exist.
    async fn stats(&self, queues: Vec<QueueName>) -> Vec<StoreResult<Option<QueueStats>>>;

    /// Writes policy records; an older version is refused (answered `false`).
    async fn put_queue(&self, records: Vec<QueueRecord>) -> Vec<StoreResult<bool>>;

    /// Sets or adopts caps; an older version is refused.
    async fn set_caps(&self, orders: Vec<CapOrder>) -> Vec<StoreResult<CapAnswer>>;

    /// Pauses or resumes queues; `false` for one that does not exist.
    async fn pause(&self, queues: Vec<QueueName>, paused: bool) -> Vec<StoreResult<bool>>;

    /// The store's clock and identity; raises the watermark. Called once a second by each router.
    async fn pulse(&self) -> StoreResult<Pulse>;

    /// Wakes and finished jobs, from whatever router caused them.
    fn subscribe(&self) -> broadcast::Receiver<StoreEvent>;

    /// Ends background work and flushes; the handle is of no use afterwards.
    async fn close(&self);
}
