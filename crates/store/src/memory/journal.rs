//! What changed, for a store that keeps its state somewhere beside this process.

use std::collections::HashSet;

use async_trait::async_trait;
use tidegate_protocol::domain::{CapRecord, Job, Lane, LocalId, Policy, QueueName, Version};
use uuid::Uuid;

use super::{KeyEntry, Queue, State, queue::Slot};
use crate::{Durability, StoreResult};

/// Keeps changes. `append` is called under the state's lock, so in the order of the changes; `kept` answers when
/// everything up to a ticket is as durable as the journal makes it.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Whether changes need to be collected at all.
    const KEEPS: bool;

    /// Refuses operations while earlier changes could not be kept: the state must not run ahead of what is durable.
    fn check(&self) -> StoreResult<()>;
    fn append(&self, changes: Changes) -> u64;
    async fn kept(&self, ticket: u64) -> StoreResult<()>;
    /// Time as the store has seen it; may be kept coarsely.
    async fn watermark(&self, watermark_ms: u64) -> StoreResult<()>;
    fn incarnation(&self) -> &str;
    fn run_id(&self) -> &str;
    fn durability(&self) -> Durability;
    async fn close(&self);
}

/// The journal of a store that ends with its process.
pub struct Nowhere {
    incarnation: String,
}

impl Default for Nowhere {
    fn default() -> Self {
        Self {
            incarnation: Uuid::new_v4().simple().to_string(),
        }
    }
}

#[async_trait]
impl Journal for Nowhere {
    const KEEPS: bool = false;

    fn check(&self) -> StoreResult<()> {
        Ok(())
    }

    fn append(&self, _: Changes) -> u64 {
        0
    }

    async fn kept(&self, _: u64) -> StoreResult<()> {
        Ok(())
    }

    async fn watermark(&self, _: u64) -> StoreResult<()> {
        Ok(())
    }

    fn incarnation(&self) -> &str {
        &self.incarnation
    }

    fn run_id(&self) -> &str {
        &self.incarnation
    }

    fn durability(&self) -> Durability {
        Durability::Memory
    }

    async fn close(&self) {}
}

/// Which parts of a queue changed since they were last taken.
#[derive(Default)]
pub(crate) struct Touched {
    pub jobs: HashSet<LocalId>,
    /// Jobs that are new.
    pub entered: HashSet<LocalId>,
    pub slots: HashSet<Slot>,
    /// The queue's record as it was last taken.
    meta: Option<Meta>,
}

/// A queue's record and totals.
#[derive(Clone, Debug, PartialEq)]
pub struct Meta {
    pub policy: Policy,
    pub policy_version: Option<Version>,
    pub cap: Option<CapRecord>,
    pub paused: bool,
    pub turn: Lane,
    pub hold_until_ms: u64,
    pub submitted_total: u64,
    pub succeeded_total: u64,
    pub dead_total: u64,
}

/// A job as it is now; `None` = gone.
#[derive(Clone, Debug)]
pub struct JobChange {
    pub local: LocalId,
    pub now: Option<Job>,
    /// Its place in the ready list.
    pub position: Option<u64>,
    /// It was entered since the last time: nothing of it is kept yet.
    pub entered: bool,
}

/// A slot whose lease is nobody's: (lane, until); `None` = there is no such ghost (any more).
pub type GhostChange = (Slot, Option<(Lane, u64)>);

/// An idempotency key (`request` = false) or request id, and what it means now.
#[derive(Clone, Debug)]
pub struct KeyChange {
    pub request: bool,
    pub key: String,
    pub(crate) now: Option<KeyEntry>,
}

/// What changed in one queue.
#[derive(Clone, Debug)]
pub struct QueueChange {
    pub queue: QueueName,
    pub meta: Option<Meta>,
    pub jobs: Vec<JobChange>,
    pub ghosts: Vec<GhostChange>,
    pub keys: Vec<KeyChange>,
}

#[derive(Clone, Debug, Default)]
pub struct Changes(pub Vec<QueueChange>);

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Queue {
    fn meta(&self) -> Meta {
        Meta {
            policy: self.policy.clone(),
            policy_version: self.policy_version,
            cap: self.cap,
            paused: self.paused,
            turn: self.turn,
            hold_until_ms: self.hold_until_ms,
            submitted_total: self.submitted_total,
            succeeded_total: self.succeeded_total,
            dead_total: self.dead_total,
        }
    }

    /// Adds what changed since the last call to `changes`, or forgets it if nobody keeps changes.
    pub(crate) fn take_changes(&mut self, keep: bool, changes: &mut Changes) {
        let jobs = std::mem::take(&mut self.touched.jobs);
        let entered = std::mem::take(&mut self.touched.entered);
        let slots = std::mem::take(&mut self.touched.slots);
        let mut keys = key_changes(false, self.keys.take_touched());
        keys.extend(key_changes(true, self.request_ids.take_touched()));
        if !keep {
            return;
        }
        let meta = Some(self.meta()).filter(|meta| self.touched.meta.as_ref() != Some(meta));
        if let Some(meta) = &meta {
            self.touched.meta = Some(meta.clone());
        }
        if meta.is_none() && jobs.is_empty() && slots.is_empty() && keys.is_empty() {
            return;
        }
        let job_change = |local| JobChange {
            local,
            now: self.jobs.get(&local).cloned(),
            position: self.ready.iter().find_map(|list| list.position(local)),
            entered: entered.contains(&local),
        };
        let jobs = jobs.into_iter().map(job_change).collect();
        let ghosts = slots.into_iter().map(|slot| (slot, self.ghost(slot))).collect();
        changes.0.push(QueueChange {
            queue: self.name.clone(),
            meta,
            jobs,
            ghosts,
            keys,
        });
    }

    fn ghost(&self, slot: Slot) -> Option<(Lane, u64)> {
        let lane = |index: usize| if index == 0 { Lane::First } else { Lane::Retry };
        let held = self
            .jobs
            .get(&slot.0)
            .is_some_and(|job| job.lease.is_some() && job.fence == slot.1);
        let mut sets = self.slots.iter().enumerate();
        sets.find_map(|(i, set)| set.get(&slot).map(|until| (lane(i), *until)))
            .filter(|_| !held)
    }
}

fn key_changes(request: bool, touched: Vec<(String, Option<KeyEntry>)>) -> Vec<KeyChange> {
    touched
        .into_iter()
        .map(|(key, now)| KeyChange { request, key, now })
        .collect()
}

/// Rebuilding a state from what was kept: records first, then jobs, ghosts and keys in any order.
impl State {
    pub(crate) fn restore_queue(&mut self, name: QueueName, meta: Meta) {
        let mut queue = Queue::new(name.clone());
        queue.touched.meta = Some(meta.clone());
        queue.policy = meta.policy;
        queue.policy_version = meta.policy_version;
        queue.cap = meta.cap;
        queue.paused = meta.paused;
        queue.turn = meta.turn;
        queue.hold_until_ms = meta.hold_until_ms;
        queue.submitted_total = meta.submitted_total;
        queue.succeeded_total = meta.succeeded_total;
        queue.dead_total = meta.dead_total;
        self.queues.insert(name, queue);
    }
}

impl Queue {
    pub(crate) fn restore_job(&mut self, job: Job, position: Option<u64>) {
        let local = job.id.local;
        self.reindex(&job, position);
        if job.state.is_terminal() {
            self.history
                .restore(local, job.state, job.want_result, job.finished_ms);
        }
        self.jobs.insert(local, job);
        self.touched.jobs.clear();
    }

    pub(crate) fn restore_ghost(&mut self, slot: Slot, lane: Lane, until_ms: u64) {
        self.slots[lane.index()].insert(slot, until_ms);
    }

    pub(crate) fn restore_key(&mut self, request: bool, key: &str, entry: KeyEntry) {
        let keys = if request {
            &mut self.request_ids
        } else {
            &mut self.keys
        };
        keys.put(key, entry);
        keys.take_touched();
    }
}
