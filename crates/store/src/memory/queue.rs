//! One queue: its jobs and the indexes over them. Every change of a job goes through [`Queue::change`], which moves the
//! job between the indexes by comparing it before and after; so counters and sets cannot drift from the jobs.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use tidegate_protocol::domain::{
    CapRecord, Incarnation, Job, JobId, JobState, Lane, LeaseRef, LocalId, Policy, QueueName, Session,
    Version,
};

use super::{
    Context,
    history::History,
    journal::Touched,
    keys::{KeyEntry, Keys},
    ready::ReadyList,
    slots::{Slot, Slots},
    spread::Spread,
};
use crate::{
    StoreEvent,
    lifecycle::{self, key_closed_ms},
};

/// A job with its place.
pub(crate) struct Kept {
    pub job: Job,
    /// Grows from job to job of a queue: what a journal calls it by.
    pub number: u64,
    /// In its ready list while it is ready, or among the succeeded.
    pub position: Option<u64>,
}

/// What changes with nearly every operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counters {
    /// Which lane the next grant prefers.
    pub turn: Lane,
    pub submitted: u64,
    pub succeeded: u64,
    pub dead: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            turn: Lane::First,
            submitted: 0,
            succeeded: 0,
            dead: 0,
        }
    }
}

pub(crate) struct Queue {
    pub name: QueueName,
    pub policy: Arc<Policy>,
    pub policy_version: Option<Version>,
    pub cap: Option<CapRecord>,
    pub paused: bool,
    /// A lease request was not met: the next change in its favour wakes the routers.
    pub hungry: bool,
    /// No lease and no ghost is taken back by time before this.
    pub hold_until_ms: u64,

    /// Boxed: a job is moved for each change of it.
    pub jobs: Spread<LocalId, Box<Kept>>,
    pub next_number: u64,
    pub ready: [ReadyList; 2],
    /// (due, id)
    pub scheduled: BTreeSet<(u64, LocalId)>,
    /// The lease sets, by lane.
    pub slots: [Slots; 2],
    /// Leases of each session; ghosts are not listed.
    pub sessions: HashMap<Session, BTreeSet<Slot>>,
    /// Jobs with a loss blamed on a process.
    pub blamed: HashMap<Incarnation, BTreeSet<LocalId>>,
    /// (deadline, id) of jobs that wait.
    pub deadlines: BTreeSet<(u64, LocalId)>,
    pub history: History,
    pub keys: Keys,
    pub request_ids: Keys,
    /// Jobs now in each state, by state code.
    pub counts: [u64; 8],
    /// Of the dead: those that a journal could not read.
    pub unreadable: u64,
    /// Jobs that ended in this call, by state code.
    ended: [u32; 8],
    pub counters: Counters,
    /// What changed since the last [`Queue::changes`](super::journal).
    pub touched: Touched,
}

impl Queue {
    pub fn new(name: QueueName) -> Self {
        Self {
            name,
            policy: Arc::default(),
            policy_version: None,
            cap: None,
            paused: false,
            hungry: false,
            hold_until_ms: 0,
            jobs: Spread::default(),
            next_number: 0,
            ready: Default::default(),
            scheduled: BTreeSet::new(),
            slots: Default::default(),
            sessions: HashMap::new(),
            blamed: HashMap::new(),
            deadlines: BTreeSet::new(),
            history: History::default(),
            keys: Keys::default(),
            request_ids: Keys::default(),
            counts: [0; 8],
            unreadable: 0,
            ended: [0; 8],
            counters: Counters::default(),
            touched: Touched::default(),
        }
    }

    /// Jobs that count toward `max_depth`: everything not finished, and the dead.
    pub fn depth(&self) -> u64 {
        [
            JobState::Scheduled,
            JobState::Ready,
            JobState::Running,
            JobState::Dead,
        ]
        .iter()
        .map(|state| self.counts[state.code() as usize])
        .sum()
    }

    pub fn id(&self, local: LocalId) -> JobId {
        JobId {
            queue: self.name.clone(),
            shard: 0,
            local,
        }
    }

    pub fn job(&self, local: LocalId) -> Option<&Job> {
        self.jobs.get(&local).map(|kept| &kept.job)
    }

    pub fn slot_count(&self) -> u64 {
        self.slots[0].len() + self.slots[1].len()
    }

    /// Whether a lease as a worker names it is the one in force.
    pub fn holds(&self, lease: &LeaseRef) -> bool {
        self.job(lease.id.local)
            .is_some_and(|job| job.state == JobState::Running && job.fence == lease.fence)
    }

    /// Frees the slot of a lease, also a ghost's. True if there was one.
    pub fn free_slot(&mut self, slot: Slot) -> bool {
        self.touched.slots.insert(slot);
        self.slots
            .iter_mut()
            .map(|set| set.remove(&slot))
            .fold(false, std::ops::BitOr::bitor)
    }

    /// Applies `change` to a job and moves it between the indexes. What happens to the slot of a lease that ends is the
    /// caller's to say: `keep_slot` leaves it as a ghost.
    pub fn change(
        &mut self,
        local: LocalId,
        keep_slot: bool,
        context: &Context,
        change: impl FnOnce(&mut Job),
    ) {
        let Some(mut kept) = self.jobs.remove(&local) else {
            return;
        };
        self.unindex(&kept);
        let before = (kept.job.state, kept.job.fence);
        let (was_running, was_finished) = (before.0 == JobState::Running, before.0.is_terminal());
        change(&mut kept.job);
        let after = (kept.job.state, kept.job.fence);
        if was_running && after != before {
            self.touched.slots.insert((local, before.1));
            if !keep_slot {
                self.free_slot((local, before.1));
                self.wake(context);
            }
        }
        self.index(&mut kept, context);
        self.jobs.insert(local, kept);
        if after.0.is_terminal() && !was_finished {
            self.finished(local, context);
        }
    }

    /// Enters a job that is new.
    pub fn insert(&mut self, job: Job, context: &Context) {
        let local = job.id.local;
        let mut kept = Box::new(Kept {
            job,
            number: self.next_number,
            position: None,
        });
        self.next_number += 1;
        self.touched.entered.insert(kept.number);
        self.index(&mut kept, context);
        self.jobs.insert(local, kept);
    }

    fn index(&mut self, kept: &mut Kept, context: &Context) {
        kept.position = None;
        self.reindex(kept);
        if kept.job.state == JobState::Ready {
            self.wake(context);
        }
    }

    /// Enters a job into the indexes; a ready one at its position if it has one, else at the end.
    pub fn reindex(&mut self, kept: &mut Kept) {
        let job = &kept.job;
        let local = job.id.local;
        self.touched.jobs.insert(kept.number, local);
        self.counts[job.state.code() as usize] += 1;
        self.unreadable += u64::from(lifecycle::is_unreadable(job));
        if let Some(incarnation) = job.loss_incarnation.filter(|_| !job.state.is_terminal()) {
            self.blamed.entry(incarnation).or_default().insert(local);
        }
        if job.deadline_ms != 0 && matches!(job.state, JobState::Scheduled | JobState::Ready) {
            self.deadlines.insert((job.deadline_ms, local));
        }
        match job.state {
            JobState::Scheduled => {
                self.scheduled.insert((job.due_ms, local));
            }
            JobState::Ready => {
                let list = &mut self.ready[job.lane.index()];
                match kept.position {
                    Some(position) => list.restore(position, local, job.due_ms),
                    None => kept.position = Some(list.push(local, job.due_ms)),
                }
            }
            JobState::Running => {
                let lease = job.lease.as_ref().expect("a running job has a lease");
                self.slots[job.lane.index()].insert((local, job.fence), lease.until_ms);
                self.sessions
                    .entry(lease.session)
                    .or_default()
                    .insert((local, job.fence));
            }
            _ => {}
        }
    }

    fn unindex(&mut self, kept: &Kept) {
        let job = &kept.job;
        let local = job.id.local;
        self.counts[job.state.code() as usize] -= 1;
        self.unreadable -= u64::from(lifecycle::is_unreadable(job));
        self.deadlines.remove(&(job.deadline_ms, local));
        if let Some(incarnation) = job.loss_incarnation {
            remove_from(&mut self.blamed, incarnation, &local);
        }
        match job.state {
            JobState::Scheduled => {
                self.scheduled.remove(&(job.due_ms, local));
            }
            JobState::Ready => {
                let position = kept.position.expect("a ready job has a position");
                self.ready[job.lane.index()].remove(position);
            }
            JobState::Running => {
                let lease = job.lease.as_ref().expect("a running job has a lease");
                remove_from(&mut self.sessions, lease.session, &(local, job.fence));
            }
            _ => {}
        }
    }

    /// Takes a job out altogether; its slot, if it runs, stays as a ghost.
    pub fn remove(&mut self, local: LocalId) -> Option<Box<Kept>> {
        let kept = self.jobs.remove(&local)?;
        self.unindex(&kept);
        self.touched.jobs.insert(kept.number, local);
        if kept.job.state == JobState::Running {
            self.touched.slots.insert((local, kept.job.fence));
        }
        Some(kept)
    }

    /// A job has just become terminal: its key gets a window, its kind a place in the history, and waiters are told.
    fn finished(&mut self, local: LocalId, context: &Context) {
        let kept = self.jobs.get_mut(&local).expect("changed just now");
        let (state, want_result) = (kept.job.state, kept.job.want_result);
        match state {
            JobState::Succeeded => self.counters.succeeded += 1,
            JobState::Dead => self.counters.dead += 1,
            _ => {}
        }
        kept.position = self.history.add(local, state, want_result, context.now_ms);
        if !History::waits(state, want_result) {
            self.ended[state.code() as usize] += 1;
        }
        if want_result {
            context.tell(StoreEvent::Finished(kept.job.id.clone()));
        }
        if let Some(key) = kept.job.idempotency_key.clone() {
            self.close_key(&key, local, state, context.now_ms);
        }
    }

    /// The end of a call: where there are some more finished jobs than are kept, the oldest leave, about as many as came.
    pub fn trim_ended(&mut self) {
        let keep = self.policy.keep_finished;
        // Together they leave at less cost.
        let slack = keep / 8;
        for state in [JobState::Succeeded, JobState::Cancelled, JobState::Expired] {
            let ended = std::mem::take(&mut self.ended[state.code() as usize]);
            if ended > 0 && self.history.kept(state) > keep as usize + slack as usize {
                let gone = self.history.trim(state, keep, ended.saturating_add(slack));
                self.forget(gone);
            }
        }
    }

    /// The job of `key` has ended: from now on the key lives for the window. Nothing happens if the key is another job's
    /// by now.
    pub fn close_key(&mut self, key: &str, local: LocalId, ended: JobState, now_ms: u64) {
        let Some(entry) = self.keys.get(key).filter(|entry| entry.local == local) else {
            return;
        };
        let window_ms = self.policy.idempotency_window_ms;
        if let Some(expires_ms) = key_closed_ms(entry.expires_ms, ended, window_ms, now_ms) {
            let closed = KeyEntry {
                ended: (ended != JobState::Succeeded).then_some(ended),
                expires_ms,
                ..entry
            };
            self.keys.put(key, closed);
        }
    }

    pub fn is_live(&self, local: LocalId) -> bool {
        self.job(local).is_some_and(|job| !job.state.is_terminal())
    }

    /// Removes finished jobs whose retention is over.
    pub fn forget(&mut self, locals: Vec<LocalId>) {
        for local in locals {
            self.remove(local);
        }
    }

    pub fn wake(&mut self, context: &Context) {
        if self.hungry && !self.paused {
            self.hungry = false;
            context.tell(StoreEvent::Wake(self.name.clone()));
        }
    }
}

/// Removes from a map of sets, and the set with its last element.
fn remove_from<K: std::hash::Hash + Eq, V: Ord>(map: &mut HashMap<K, BTreeSet<V>>, key: K, value: &V) {
    if let Some(set) = map.get_mut(&key) {
        set.remove(value);
        if set.is_empty() {
            map.remove(&key);
        }
    }
}
