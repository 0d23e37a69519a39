//! The operations on one queue.

use std::sync::Arc;

use bytes::Bytes;
use tidegate_protocol::domain::{
    CapRecord, Incarnation, JobId, JobState, Lane, LeaseRef, LocalId, NewJob, Session, SettleResult,
    SubmitOutcome, Submitted,
};

use super::{
    Context,
    keys::KeyEntry,
    queue::{Kept, Queue},
    slots::Slot,
};
use crate::{
    Action, ActionAnswer, CapAnswer, CapOrder, Grant, Grants, ITEMS_PER_CALL_MAX, QueueRecord, Reclaim,
    ReleaseCause, RenewAnswer, SessionRelease, SettleItem, StoreError, StoreEvent, StoreResult, Want,
    lifecycle::{self, REQUEST_ID_WINDOW_MS, jitter, key_end_ms},
};

impl Queue {
    /// Known key or request id first, then room, then the job.
    pub fn submit(&mut self, mut new: NewJob, context: &Context) -> StoreResult<Submitted> {
        let now_ms = context.now_ms;
        let known = match (&new.idempotency_key, &new.request_id) {
            (Some(key), _) => self.owner_of(key, now_ms),
            (None, Some(request_id)) => {
                let entry = self.request_ids.get(request_id);
                entry.filter(|entry| entry.expires_ms > now_ms)
            }
            (None, None) => None,
        };
        if let Some(entry) = known {
            return self.duplicate(&entry, &new);
        }
        if self.depth() >= self.policy.max_depth {
            return Err(StoreError::QueueFull {
                depth: self.depth(),
                max: self.policy.max_depth,
            });
        }
        let entry = |expires_ms| KeyEntry {
            local: new.id.local,
            hash: new.payload_hash,
            ended: None,
            expires_ms,
        };
        match (&new.idempotency_key, &new.request_id) {
            (Some(key), _) => {
                if !self.keys.contains(key) && self.keys.len() >= self.policy.max_keys {
                    return Err(StoreError::KeysFull {
                        max: self.policy.max_keys,
                    });
                }
                let window_ms = self.policy.idempotency_window_ms;
                self.keys.put(key, entry(key_end_ms(window_ms, now_ms)));
            }
            (None, Some(request_id)) => {
                self.request_ids
                    .put(request_id, entry(now_ms + REQUEST_ID_WINDOW_MS));
            }
            (None, None) => {}
        }
        // A payload may be a slice of the message that brought it: kept, it would keep the whole message.
        new.payload = Bytes::copy_from_slice(&new.payload);
        let job = lifecycle::submitted(new, now_ms);
        let (id, state) = (job.id.clone(), job.state);
        self.counters.submitted += 1;
        self.insert(job, context);
        Ok(Submitted {
            id,
            outcome: SubmitOutcome::Created,
            state: Some(state),
            result: None,
            result_expired: false,
        })
    }

    /// The entry of a key that is in force: a live job's, or one whose end has not passed.
    fn owner_of(&self, key: &str, now_ms: u64) -> Option<KeyEntry> {
        self.keys
            .get(key)
            .filter(|entry| entry.expires_ms > now_ms || self.is_live(entry.local))
    }

    fn duplicate(&self, entry: &KeyEntry, new: &NewJob) -> StoreResult<Submitted> {
        let id = self.id(entry.local);
        if entry.hash != new.payload_hash {
            return Err(StoreError::KeyReused { id });
        }
        let job = self.job(entry.local);
        // A key whose job is gone without a word succeeded; of a request id's job nothing more is known.
        let gone = new.idempotency_key.is_some().then_some(JobState::Succeeded);
        let state = job.map(|job| job.state).or(entry.ended).or(gone);
        let result = job
            .filter(|job| job.state == JobState::Succeeded)
            .map(|job| job.result.clone());
        Ok(Submitted {
            id,
            outcome: SubmitOutcome::Duplicate,
            state,
            result,
            result_expired: job.is_none(),
        })
    }

    pub fn lease(&mut self, wants: &[Want], context: &Context) -> Grants {
        let now_ms = context.now_ms;
        let mut room: Vec<u32> = wants.iter().map(|want| want.max).collect();
        let wanted: u64 = room.iter().map(|&n| u64::from(n)).sum();
        let mut grants = Vec::new();
        let (mut next, mut late) = (0, 0);
        while (grants.len() as u64) < wanted.min(ITEMS_PER_CALL_MAX as u64) {
            let Some(local) = self.take_ready(&mut late, context) else {
                break;
            };
            while room[next] == 0 {
                next = (next + 1) % room.len();
            }
            let want = wants[next];
            room[next] -= 1;
            next = (next + 1) % room.len();
            let ttl_ms = self.policy.lease_ttl_ms;
            self.change(local, false, context, |job| {
                lifecycle::leased(job, want.session, want.incarnation, ttl_ms, now_ms);
            });
            let job = self.job(local).expect("leased above").clone();
            // Only who has something to offer gets a turn.
            let other = job.lane.other();
            if self.ready[other.index()].front().is_some() {
                self.counters.turn = other;
            }
            grants.push(Grant {
                job,
                session: want.session,
            });
        }
        let unmet = (grants.len() as u64) < wanted;
        if unmet {
            self.hungry = true;
            // There may be more, only not in this call.
            if late >= ITEMS_PER_CALL_MAX {
                self.wake(context);
            }
        }
        Grants {
            grants,
            policy: (*self.policy).clone(),
            unmet,
            clock_ms: now_ms,
        }
    }

    /// The next job that may be leased under the caps: the lanes take turns, and one that is empty or full passes.
    /// `late` counts those on the way whose deadline has passed, which end here: a bounded number in one call.
    fn take_ready(&mut self, late: &mut usize, context: &Context) -> Option<LocalId> {
        let caps = CapRecord::effective(
            self.cap.as_ref(),
            self.policy.costs_a_resource(),
            self.paused,
            context.now_ms,
        );
        while *late < ITEMS_PER_CALL_MAX {
            let may = |lane: Lane| match caps {
                None => true,
                Some((cap, retry_cap)) => {
                    self.slot_count() < u64::from(cap)
                        && (lane == Lane::First
                            || self.slots[Lane::Retry.index()].len() < u64::from(retry_cap))
                }
            };
            let lane = [self.counters.turn, self.counters.turn.other()]
                .into_iter()
                .find(|&lane| may(lane) && self.ready[lane.index()].front().is_some())?;
            let (local, _) = self.ready[lane.index()].front()?;
            let is_late = |job| lifecycle::past_deadline(job, context.now_ms);
            if self.job(local).is_some_and(is_late) {
                self.change(local, false, context, |job| {
                    lifecycle::expired(job, context.now_ms)
                });
                *late += 1;
                continue;
            }
            return Some(local);
        }
        None
    }

    pub fn renew(&mut self, lease: &LeaseRef, context: &Context) -> RenewAnswer {
        if self.holds(lease) {
            let until_ms = context.now_ms + self.policy.lease_ttl_ms;
            self.change(lease.id.local, true, context, |job| {
                job.lease.as_mut().expect("a running job has a lease").until_ms = until_ms;
            });
            return RenewAnswer::Held { until_ms };
        }
        match self.job(lease.id.local).map(|job| job.state) {
            None | Some(JobState::Cancelled) => RenewAnswer::Cancelled,
            Some(_) => RenewAnswer::Lost,
        }
    }

    /// Takes back up to `limit` losses blamed on a process; answers how many it looked at.
    pub fn take_back_losses(&mut self, incarnation: Incarnation, limit: usize, context: &Context) -> usize {
        let blamed = self.blamed.get(&incarnation);
        let blamed: Vec<LocalId> = blamed.into_iter().flatten().copied().take(limit).collect();
        for local in &blamed {
            self.change(*local, true, context, |job| {
                lifecycle::loss_taken_back(job, incarnation);
            });
        }
        blamed.len()
    }

    /// Gives the leases that a process still holds to its new session; whether each is held.
    pub fn reclaim(&mut self, reclaim: &Reclaim, leases: &[LeaseRef], context: &Context) -> Vec<bool> {
        let until_ms = context.now_ms + self.policy.lease_ttl_ms;
        let mut held = Vec::with_capacity(leases.len());
        for lease in leases {
            let holds = self.holds(lease);
            if holds {
                self.change(lease.id.local, true, context, |job| {
                    let held = job.lease.as_mut().expect("a running job has a lease");
                    held.session = reclaim.session;
                    held.incarnation = reclaim.incarnation;
                    held.until_ms = until_ms;
                });
            }
            held.push(holds);
        }
        held
    }

    /// Up to `limit` jobs that a session still holds go back to ready, uncounted; answers how many.
    pub fn return_leases(&mut self, session: Session, limit: usize, context: &Context) -> usize {
        let slots = self.leases_of(session, limit);
        for &(local, _) in &slots {
            self.change(local, false, context, |job| {
                lifecycle::returned(job, context.now_ms)
            });
        }
        slots.len()
    }

    fn leases_of(&self, session: Session, limit: usize) -> Vec<Slot> {
        let slots = self.sessions.get(&session);
        slots.into_iter().flatten().copied().take(limit).collect()
    }

    /// Up to `limit` jobs of a session whose stream is gone; answers how many.
    pub fn release_session(&mut self, release: &SessionRelease, limit: usize, context: &Context) -> usize {
        if release.cause == ReleaseCause::Bye {
            return self.return_leases(release.session, limit, context);
        }
        let (policy, keep_slot) = (self.policy.clone(), self.policy.costs_a_resource());
        let slots = self.leases_of(release.session, limit);
        for &(local, fence) in &slots {
            let random = jitter(release.seed, fence, local);
            self.change(local, keep_slot, context, |job| {
                lifecycle::lost(job, &policy, random, context.now_ms);
            });
        }
        slots.len()
    }

    pub fn settle(&mut self, item: &SettleItem, context: &Context) -> SettleResult {
        let settlement = &item.settlement;
        let LeaseRef { id, fence } = &settlement.lease;
        if self.holds(&settlement.lease) {
            let policy = self.policy.clone();
            // Said before retention removes it at once (keep_finished = 0).
            let mut state = JobState::Succeeded;
            self.change(id.local, false, context, |job| {
                lifecycle::settled(job, &settlement.outcome, &policy, item.random, context.now_ms);
                state = job.state;
            });
            return SettleResult::Recorded(state);
        }
        if self.free_slot((id.local, *fence)) {
            self.wake(context);
        }
        match self.job(id.local) {
            None => SettleResult::NotFound,
            Some(job) => {
                let repeat = job
                    .settled
                    .is_some_and(|last| last.fence == *fence && last.outcome == settlement.outcome.kind());
                if repeat {
                    SettleResult::Recorded(job.state)
                } else {
                    SettleResult::Stale(job.state)
                }
            }
        }
    }

    pub fn act(&mut self, action: Action, id: &JobId, context: &Context) -> ActionAnswer {
        let now_ms = context.now_ms;
        let Some(job) = self.job(id.local) else {
            return ActionAnswer::NotFound;
        };
        let state = job.state;
        match action {
            Action::Cancel if state.is_terminal() => ActionAnswer::WrongState(state),
            Action::Cancel => {
                // The worker may be at work for a while yet: its slot stays until it says so or the lease ends.
                self.change(id.local, true, context, |job| lifecycle::cancelled(job, now_ms));
                ActionAnswer::Done(Some(JobState::Cancelled))
            }
            // There is nothing to run where the job cannot be read.
            Action::Redrive if state != JobState::Dead || lifecycle::is_unreadable(job) => {
                ActionAnswer::WrongState(state)
            }
            Action::Redrive => self.redrive(id.local, context),
            Action::Delete => {
                self.delete(id.local, context);
                ActionAnswer::Done(None)
            }
        }
    }

    fn delete(&mut self, local: LocalId, context: &Context) {
        let Kept { job, position, .. } = *self.remove(local).expect("found above");
        if job.state.is_terminal() {
            self.history.remove((job.finished_ms, local), job.state, position);
            return;
        }
        if let Some(key) = &job.idempotency_key {
            self.close_key(key, local, JobState::Cancelled, context.now_ms);
        }
        if job.want_result {
            context.tell(StoreEvent::Finished(job.id));
        }
    }

    fn redrive(&mut self, local: LocalId, context: &Context) -> ActionAnswer {
        let Some(job) = self.job(local) else {
            return ActionAnswer::NotFound;
        };
        let (finished_ms, hash) = (job.finished_ms, job.payload_hash);
        if let Some(key) = job.idempotency_key.clone() {
            let owner = self.owner_of(&key, context.now_ms);
            if let Some(owner) = owner.filter(|entry| entry.local != local) {
                return ActionAnswer::KeyTaken(self.id(owner.local));
            }
            let entry = KeyEntry {
                local,
                hash,
                ended: None,
                expires_ms: key_end_ms(self.policy.idempotency_window_ms, context.now_ms),
            };
            self.keys.put(&key, entry);
        }
        self.history.remove((finished_ms, local), JobState::Dead, None);
        self.change(local, false, context, |job| {
            lifecycle::redriven(job, context.now_ms)
        });
        ActionAnswer::Done(Some(JobState::Ready))
    }

    pub fn put_policy(&mut self, record: QueueRecord, context: &Context) -> bool {
        if self.policy_version.is_some_and(|stored| record.version < stored) {
            return false;
        }
        self.policy = Arc::new(record.policy);
        self.policy_version = Some(record.version);
        self.touched.record = true;
        self.wake(context);
        true
    }

    pub fn set_cap(&mut self, order: &CapOrder, context: &Context) -> CapAnswer {
        let applied = self.cap.is_none_or(|stored| order.version >= stored.version);
        if applied {
            let value = order.cap.or(self.cap.map(|stored| stored.cap));
            if let Some(cap) = value {
                let expires_ms = if order.ttl_ms == 0 {
                    0
                } else {
                    context.now_ms + order.ttl_ms
                };
                self.cap = Some(CapRecord {
                    cap,
                    expires_ms,
                    version: order.version,
                });
                self.touched.record = true;
            }
            self.wake(context);
        }
        CapAnswer {
            applied,
            record: self.cap,
            slots: self.slot_count(),
        }
    }

    pub fn pause(&mut self, paused: bool, context: &Context) {
        self.paused = paused;
        self.touched.record = true;
        self.wake(context);
    }
}
