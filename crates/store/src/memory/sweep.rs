//! The sweep: everything that happens by time, bounded per call.

use tidegate_protocol::domain::{JobState, LeaseRef, LocalId};

use super::{Context, keys::KeyEntry, queue::Queue};
use crate::{
    SweepReport, SweepRequest,
    lifecycle::{self, jitter, key_end_ms},
};

/// Items of each kind that are worked off without letting go of the lock.
pub(super) const PIECE: u32 = 100;
/// Pieces of one call: what they change is one commit, and a call is to be over in a few milliseconds.
const PIECES_MAX: u32 = 5;

/// The steps of a sweep, each small enough for others not to notice it.
pub(super) fn pieces(request: &SweepRequest) -> impl Iterator<Item = SweepRequest> + Send + '_ {
    let count = request.limit.div_ceil(PIECE).clamp(1, PIECES_MAX);
    (0..count).map(move |piece| SweepRequest {
        limit: (request.limit - piece * PIECE).min(PIECE),
        // Written once.
        hold_ms: if piece == 0 { request.hold_ms } else { 0 },
        ..request.clone()
    })
}

pub(super) fn add(whole: &mut SweepReport, piece: SweepReport) {
    whole.promoted += piece.promoted;
    whole.reclaimed += piece.reclaimed;
    whole.ghosts += piece.ghosts;
    whole.expired += piece.expired;
    whole.trimmed += piece.trimmed;
    whole.keys_forgotten += piece.keys_forgotten;
    whole.more = piece.more;
}

impl Queue {
    pub fn sweep(&mut self, request: &SweepRequest, context: &Context) -> SweepReport {
        let now_ms = context.now_ms;
        if request.hold_ms > 0 {
            self.hold_until_ms = self.hold_until_ms.max(now_ms + request.hold_ms);
            self.touched.record = true;
        }
        let mut report = SweepReport::default();
        self.expire(request.limit, context, &mut report);
        self.promote(request.limit, context, &mut report);
        if let Some(until_ms) = request.reclaim_until_ms
            && now_ms >= self.hold_until_ms
        {
            self.reclaim_by_time(until_ms.min(now_ms), request, context, &mut report);
        }
        self.trim_ended();
        self.release_awaited(request.limit, now_ms, &mut report);
        for state in [JobState::Succeeded, JobState::Cancelled, JobState::Expired] {
            let gone = self.history.trim(state, self.policy.keep_finished, request.limit);
            report.more |= gone.len() == request.limit as usize;
            report.trimmed += gone.len() as u32;
            self.forget(gone);
        }
        self.forget_names(now_ms, &mut report);
        report
    }

    fn release_awaited(&mut self, limit: u32, now_ms: u64, report: &mut SweepReport) {
        let released = self.history.release_awaited(now_ms, limit);
        report.more |= released.len() == limit as usize;
        for (local, position) in released {
            if let Some(kept) = self.jobs.get_mut(&local) {
                kept.position = position;
                self.touched.jobs.insert(kept.number, local);
            }
        }
    }

    /// Names whose end has passed. A live job's key gets another end.
    fn forget_names(&mut self, now_ms: u64, report: &mut SweepReport) {
        let later = key_end_ms(self.policy.idempotency_window_ms, now_ms);
        let jobs = &self.jobs;
        let is_live = |entry: &KeyEntry| {
            let kept = jobs.get(&entry.local);
            kept.is_some_and(|kept| !kept.job.state.is_terminal())
        };
        let keys = self.keys.forget_expired(now_ms, PIECE, later, is_live);
        let ids = self.request_ids.forget_expired(now_ms, PIECE, later, |_| false);
        report.keys_forgotten = keys.1 + ids.1;
        report.more |= keys.0 == PIECE || ids.0 == PIECE;
    }

    /// Waiting jobs whose deadline has passed.
    fn expire(&mut self, limit: u32, context: &Context, report: &mut SweepReport) {
        let due = self
            .deadlines
            .iter()
            .take_while(|(deadline_ms, _)| *deadline_ms <= context.now_ms);
        let locals: Vec<LocalId> = due.take(limit as usize).map(|(_, local)| *local).collect();
        report.expired = locals.len() as u32;
        report.more |= report.expired == limit;
        for local in locals {
            self.change(local, false, context, |job| {
                lifecycle::expired(job, context.now_ms)
            });
        }
    }

    fn promote(&mut self, limit: u32, context: &Context, report: &mut SweepReport) {
        let due = self
            .scheduled
            .iter()
            .take_while(|(due_ms, _)| *due_ms <= context.now_ms);
        let locals: Vec<LocalId> = due.take(limit as usize).map(|(_, local)| *local).collect();
        report.promoted = locals.len() as u32;
        report.more |= report.promoted == limit;
        for local in locals {
            self.change(local, false, context, |job| {
                lifecycle::promoted(job, context.now_ms)
            });
        }
    }

    /// Slots whose time was over by `until_ms`: the leases among them are lost, the rest are ghosts.
    fn reclaim_by_time(
        &mut self,
        until_ms: u64,
        request: &SweepRequest,
        context: &Context,
        report: &mut SweepReport,
    ) {
        let policy = self.policy.clone();
        let limit = request.limit as usize;
        let mut over: Vec<_> = self
            .slots
            .iter()
            .flat_map(|set| set.over(until_ms).take(limit))
            .collect();
        over.sort_unstable();
        over.truncate(limit);
        report.more |= over.len() == limit;
        for (_, (local, fence)) in over {
            if self.holds(&LeaseRef {
                id: self.id(local),
                fence,
            }) {
                let random = jitter(request.seed, fence, local);
                self.change(local, false, context, |job| {
                    lifecycle::lost(job, &policy, random, context.now_ms)
                });
                report.reclaimed += 1;
            } else {
                self.free_slot((local, fence));
                self.wake(context);
                report.ghosts += 1;
            }
        }
    }
}
