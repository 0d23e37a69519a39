//! What time asks for, and how attempts are stopped and end.

use std::time::Duration;

use tidegate_protocol::{
    domain::{LeaseRef, Outcome, Settlement},
    v1,
};

use super::{Core, DRAIN_EXTRA_MS, Drain, Ended, GATHER_MS, OVERDUE_AFTER_MS, lease_ref};
use crate::{OVERDUE_MAX, Verdict, WorkerError, permits::TICK_MS, reflex::Sign, stop::Cause};

impl Core {
    pub(super) fn stop_all(&mut self, now_ms: u64, leases: &[v1::LeaseRef], cause: Cause) {
        for lease in leases.iter().filter_map(lease_ref) {
            self.stop(now_ms, &lease, cause);
        }
    }

    /// Tells an attempt to stop. One that was told already keeps its cause, unless its lease is not ours any more.
    pub(super) fn stop(&mut self, now_ms: u64, lease: &LeaseRef, cause: Cause) {
        let Some(job) = self.jobs.get_mut(lease) else {
            return;
        };
        let not_ours = matches!(cause, Cause::Lost | Cause::Cancelled | Cause::SelfFenced);
        if not_ours {
            self.leases.stop(lease);
            self.alarm |= cause != Cause::Cancelled;
        }
        match job.cause {
            None => {
                tracing::info!(job_id = %lease.id, fence = lease.fence, ?cause, "stopping a job");
                job.cause = Some(cause);
                job.overdue_at_ms = now_ms + job.grace_ms + OVERDUE_AFTER_MS;
                self.scan_at_ms = self.scan_at_ms.min(job.overdue_at_ms);
                job.stop.tell(Duration::from_millis(job.grace_ms));
            }
            Some(Cause::Lost | Cause::Cancelled | Cause::SelfFenced) => {}
            Some(_) if not_ours => job.cause = Some(cause),
            Some(_) => {}
        }
    }

    /// An attempt has ended: its permit is free, its outcome on the way.
    pub(crate) fn ended(&mut self, now_ms: u64, ended: Ended) {
        let Some(job) = self.jobs.remove(&ended.lease) else {
            return;
        };
        self.ended_ms = now_ms;
        self.permits.give_back(&job.queue);
        self.leases.settle(&ended.lease);
        let progress = job.stop.heartbeat().progress();
        let verdict = match (job.cause, ended.verdict) {
            (Some(cause), own) => cause.verdict(own, &progress),
            (None, Some(own)) => own,
            // Nobody stopped it and it says nothing: its task was torn down with the handlers' runtime.
            (None, None) => Cause::Draining.verdict(None, &progress),
        };
        let (queue, sign) = (&job.queue, Sign::of(&verdict));
        self.tally.ended(now_ms, queue, sign, ended.run_ms);
        self.alarm |= self.reflexes.on(now_ms, queue, sign);
        let Verdict { outcome, class } = self.reflexes.settle_as(now_ms, queue, verdict);
        self.limit(now_ms, queue);
        let settlement = Settlement {
            lease: ended.lease,
            outcome,
            class,
            run_ms: ended.run_ms,
        };
        self.gather(now_ms, &settlement.outcome);
        self.settles.push_attempt(settlement, ended.span);
    }

    /// A result is waited for, and whatever went wrong is news.
    fn gather(&mut self, now_ms: u64, outcome: &Outcome) {
        let can_wait = matches!(outcome, Outcome::Succeeded { result } if result.is_empty());
        if !can_wait || self.drain.is_some() || !self.permits.is_roomy() {
            self.gather_until_ms = None;
        } else if !self.settles.has_queued() {
            self.gather_until_ms = Some(now_ms + GATHER_MS);
        }
    }

    /// Does what time asks for.
    ///
    /// # Errors
    /// Too many handlers went on after they were told to stop.
    pub(crate) fn tick(&mut self, now_ms: u64) -> Result<(), WorkerError> {
        self.gather_until_ms = self.gather_until_ms.filter(|at_ms| now_ms < *at_ms);
        self.settles.tick(now_ms);
        self.look_at_pools(now_ms);
        self.tick_reflexes(now_ms);
        for lease in self.leases.self_fence(now_ms) {
            self.stop(now_ms, &lease, Cause::SelfFenced);
        }
        if now_ms >= self.rotate_at_ms && self.permits.wants_ticks() {
            self.permits.tick();
            self.rotate_at_ms = now_ms + TICK_MS;
        }
        if let Some(drain) = self
            .drain
            .as_mut()
            .filter(|drain| !drain.stopped && now_ms >= drain.until_ms)
        {
            drain.stopped = true;
            let running: Vec<LeaseRef> = self.jobs.keys().cloned().collect();
            running
                .iter()
                .for_each(|lease| self.stop(now_ms, lease, Cause::Draining));
        }
        self.scan(now_ms)
    }

    fn scan(&mut self, now_ms: u64) -> Result<(), WorkerError> {
        if now_ms < self.scan_at_ms {
            return Ok(());
        }
        self.scan_at_ms = u64::MAX;
        let late: Vec<(LeaseRef, Cause)> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.cause.is_none())
            .map(|(lease, job)| (lease, job.stop_due()))
            .filter(|(_, (due_ms, _))| now_ms >= *due_ms)
            .map(|(lease, (_, why))| (lease.clone(), why))
            .collect();
        for (lease, why) in late {
            self.stop(now_ms, &lease, why);
        }
        for (lease, job) in &mut self.jobs {
            if job.cause.is_none() {
                self.scan_at_ms = self.scan_at_ms.min(job.stop_due().0);
            } else if now_ms < job.overdue_at_ms {
                self.scan_at_ms = self.scan_at_ms.min(job.overdue_at_ms);
            } else if !std::mem::replace(&mut job.overdue_told, true) {
                tracing::warn!(
                    queue = %job.queue,
                    job_id = %lease.id,
                    cause = ?job.cause,
                    "handler overdue: it goes on after it was told to stop, and keeps its slot"
                );
            }
        }
        let overdue = self.overdue(now_ms);
        let count: u32 = overdue.values().sum();
        if count as usize <= OVERDUE_MAX {
            return Ok(());
        }
        Err(WorkerError::TooManyOverdue {
            count,
            queues: WorkerError::queues(&overdue),
        })
    }

    /// Takes nothing more; stops what still runs when `time_ms` are over.
    pub(crate) fn drain(&mut self, now_ms: u64, time_ms: u64) {
        if self.drain.is_none() {
            self.drain = Some(Drain {
                until_ms: now_ms.saturating_add(time_ms),
                stopped: false,
            });
            self.permits.close();
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drain.is_some()
    }

    /// Whether the drain is over: all ended and answered for, or out of time.
    pub(crate) fn is_drained(&self, now_ms: u64) -> bool {
        let Some(drain) = self.drain else { return false };
        let done = self.jobs.is_empty() && self.settles.is_empty();
        done || now_ms >= drain.until_ms.saturating_add(DRAIN_EXTRA_MS)
    }
}
