//! What changed, for a store that keeps its state somewhere beside this process.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use tidegate_protocol::domain::{
    CapRecord, Incarnation, Job, JobState, Lane, Lease, LocalId, Policy, QueueName, Settled, Version,
};
use uuid::Uuid;

use super::{
    Queue, State, keys,
    keys::KeyEntry,
    queue::{Counters, Kept},
    slots::Slot,
};
use crate::{Durability, StoreResult, tail};

/// What an operation asks of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It only looks.
    Nothing,
    /// It changes what is there: the journal goes on with these as long as it can.
    Change,
    /// It brings something new, which a journal that is nearly full refuses.
    Room,
}

/// Keeps changes. `append` is called under the state's lock, so in the order of the changes; `kept` answers when
/// everything up to a ticket is as durable as the journal makes it.
#[async_trait]
pub trait Journal: Send + Sync + 'static {
    /// Whether changes need to be collected at all.
    const KEEPS: bool;

    /// Refuses operations while earlier changes could not be kept: the state must not run ahead of what is durable.
    fn check(&self, need: Need) -> StoreResult<()>;
    /// Takes changes; the ticket of everything so far, also when nothing is new: an answer that rests on somebody
    /// else's change must not leave before that is kept.
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

    fn check(&self, _: Need) -> StoreResult<()> {
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
    /// By number.
    pub jobs: BTreeMap<u64, LocalId>,
    /// Numbers of jobs that are new.
    pub entered: HashSet<u64>,
    pub slots: HashSet<Slot>,
    /// Policy, cap, pause or hold.
    pub record: bool,
    /// As they were last taken; `None`: nothing of this queue is kept yet.
    counters: Option<Counters>,
    /// Ghosts that are kept.
    ghosts: HashSet<Slot>,
}

/// A queue's policy, cap and what else people and controllers say about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub policy: Arc<Policy>,
    pub policy_version: Option<Version>,
    pub cap: Option<CapRecord>,
    pub paused: bool,
    pub hold_until_ms: u64,
}

/// Of a job, what changes after its submit.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    pub state: JobState,
    pub lane: Lane,
    /// In its ready list, or among the succeeded.
    pub position: Option<u64>,
    pub attempts: u32,
    pub losses: u32,
    pub loss_incarnation: Option<Incarnation>,
    pub releases: u32,
    pub fence: u64,
    pub due_ms: u64,
    pub ran_ms: u64,
    pub deadline_ms: u64,
    pub finished_ms: u64,
    pub lease: Option<Lease>,
    pub settled: Option<Settled>,
    pub error: String,
    pub reason: String,
    /// Result or losses, see [`tail`].
    pub tail: Bytes,
}

impl Progress {
    fn of(kept: &Kept) -> Self {
        let job = &kept.job;
        Self {
            state: job.state,
            lane: job.lane,
            position: kept.position,
            attempts: job.attempts,
            losses: job.losses,
            loss_incarnation: job.loss_incarnation,
            releases: job.releases,
            fence: job.fence,
            due_ms: job.due_ms,
            ran_ms: job.ran_ms,
            deadline_ms: job.deadline_ms,
            finished_ms: job.finished_ms,
            lease: job.lease.clone(),
            settled: job.settled,
            error: job.error.clone(),
            reason: job.reason.clone(),
            tail: tail::of(job),
        }
    }

    /// Nothing has happened to the job but time: it waits as it was submitted.
    pub fn is_untouched(&self) -> bool {
        self.fence == 0 && !self.state.is_terminal()
    }
}

/// A job as it is now.
#[derive(Clone, Debug)]
pub struct JobChange {
    pub number: u64,
    /// What was submitted, if nothing of the job is kept yet.
    pub entered: Option<Box<Job>>,
    /// `None` = gone.
    pub now: Option<Box<Progress>>,
}

/// A slot whose lease is nobody's: (lane, until); `None` = there is no such ghost any more.
pub type GhostChange = (Slot, Option<(Lane, u64)>);

/// What changed in one queue.
#[derive(Clone, Debug)]
pub struct QueueChange {
    pub queue: QueueName,
    pub record: Option<Record>,
    pub counters: Option<Counters>,
    pub jobs: Vec<JobChange>,
    pub ghosts: Vec<GhostChange>,
    /// Idempotency keys and request ids, by number.
    pub(crate) keys: [Vec<(u64, keys::Kept)>; 2],
}

#[derive(Clone, Debug, Default)]
pub struct Changes(pub Vec<QueueChange>);

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Queue {
    fn record(&self) -> Record {
        Record {
            policy: self.policy.clone(),
            policy_version: self.policy_version,
            cap: self.cap,
            paused: self.paused,
            hold_until_ms: self.hold_until_ms,
        }
    }

    /// Adds what changed since the last call to `changes`, or forgets it if nobody keeps changes.
    pub(crate) fn take_changes(&mut self, keep: bool, changes: &mut Changes) {
        let jobs = std::mem::take(&mut self.touched.jobs);
        let entered = std::mem::take(&mut self.touched.entered);
        let slots = std::mem::take(&mut self.touched.slots);
        let keys = [self.keys.take_touched(), self.request_ids.take_touched()];
        let record = std::mem::take(&mut self.touched.record);
        if !keep {
            return;
        }
        let counters = Some(self.counters).filter(|now| self.touched.counters != Some(*now));
        let is_new = self.touched.counters.is_none();
        self.touched.counters = Some(self.counters);
        let job_change = |(number, local)| {
            let kept = self.jobs.get(&local).filter(|kept| kept.number == number);
            let new = kept.filter(|_| entered.contains(&number));
            JobChange {
                number,
                entered: new.map(|kept| Box::new(kept.job.clone())),
                now: kept.map(|kept| Box::new(Progress::of(kept))),
            }
        };
        let jobs: Vec<_> = jobs.into_iter().map(job_change).collect();
        let ghosts: Vec<_> = slots
            .into_iter()
            .filter_map(|slot| self.ghost_change(slot))
            .collect();
        let record = (record || is_new).then(|| self.record());
        let parts = [jobs.len(), ghosts.len(), keys[0].len(), keys[1].len()];
        if record.is_none() && counters.is_none() && parts == [0; 4] {
            return;
        }
        changes.0.push(QueueChange {
            queue: self.name.clone(),
            record,
            counters,
            jobs,
            ghosts,
            keys,
        });
    }

    /// Ghosts are few among the slots that change: one that never was kept needs no removal.
    fn ghost_change(&mut self, slot: Slot) -> Option<GhostChange> {
        let held = self
            .job(slot.0)
            .is_some_and(|job| job.lease.is_some() && job.fence == slot.1);
        let until = |lane: Lane| Some((lane, self.slots[lane.index()].until(&slot)?));
        let ghost = until(Lane::First)
            .or_else(|| until(Lane::Retry))
            .filter(|_| !held);
        match ghost {
            Some(_) => self.touched.ghosts.insert(slot).then_some((slot, ghost)),
            None => self.touched.ghosts.remove(&slot).then_some((slot, None)),
        }
    }
}

/// Rebuilding a state from what was kept: records first, then jobs, ghosts and keys in any order.
impl State {
    pub(crate) fn restore_queue(&mut self, name: QueueName, record: Record, counters: Counters) {
        let mut queue = Queue::new(name.clone());
        queue.touched.counters = Some(counters);
        queue.policy = record.policy;
        queue.policy_version = record.policy_version;
        queue.cap = record.cap;
        queue.paused = record.paused;
        queue.hold_until_ms = record.hold_until_ms;
        queue.counters = counters;
        self.queues.insert(name, queue);
    }
}

impl Queue {
    pub(crate) fn restore_job(&mut self, job: Job, number: u64, position: Option<u64>) {
        let local = job.id.local;
        let mut kept = Box::new(Kept {
            job,
            number,
            position,
        });
        self.reindex(&mut kept);
        self.touched.jobs.clear();
        self.next_number = self.next_number.max(number + 1);
        let job = &kept.job;
        if job.state.is_terminal() {
            let at = (job.finished_ms, local);
            self.history.restore(at, job.state, job.want_result, position);
        }
        self.jobs.insert(local, kept);
    }

    pub(crate) fn restore_ghost(&mut self, slot: Slot, lane: Lane, until_ms: u64) {
        self.slots[lane.index()].insert(slot, until_ms);
        self.touched.ghosts.insert(slot);
    }

    pub(crate) fn restore_key(&mut self, request: bool, key: &str, number: u64, entry: KeyEntry) {
        let keys = if request {
            &mut self.request_ids
        } else {
            &mut self.keys
        };
        keys.restore(key, number, entry);
    }
}
