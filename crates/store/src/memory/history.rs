//! Finished jobs that are still kept.

use std::collections::BTreeSet;

use tidegate_protocol::domain::{JobState, LocalId};

use crate::lifecycle::{RESULT_KEPT_MS, RESULTS_KEPT_MAX};

/// (finished, id)
type Ended = BTreeSet<(u64, LocalId)>;

/// The dead stay until someone removes them; of the other kinds the newest `keep` stay. Jobs that somebody wants the
/// result of wait here first, for their time or until too many newer ones exist, and join their kind afterwards.
#[derive(Default)]
pub(crate) struct History {
    awaited: BTreeSet<(u64, LocalId, JobState)>,
    dead: Ended,
    succeeded: Ended,
    cancelled: Ended,
    expired: Ended,
}

impl History {
    pub fn of(&mut self, state: JobState) -> &mut Ended {
        match state {
            JobState::Succeeded => &mut self.succeeded,
            JobState::Cancelled => &mut self.cancelled,
            JobState::Expired => &mut self.expired,
            _ => &mut self.dead,
        }
    }

    /// Adds a job that ended at `now_ms`; answers the jobs whose retention is over by that.
    pub fn add(
        &mut self,
        local: LocalId,
        state: JobState,
        awaited: bool,
        now_ms: u64,
        keep: u32,
    ) -> Vec<LocalId> {
        if awaited && state != JobState::Dead {
            self.awaited.insert((now_ms, local, state));
            return Vec::new();
        }
        self.of(state).insert((now_ms, local));
        self.trim(state, keep, 1)
    }

    /// Puts a finished job back after a restart; the next sweep sorts out what has been awaited long enough.
    pub fn restore(&mut self, local: LocalId, state: JobState, awaited: bool, finished_ms: u64) {
        if awaited && state != JobState::Dead {
            self.awaited.insert((finished_ms, local, state));
        } else {
            self.of(state).insert((finished_ms, local));
        }
    }

    /// Drops the oldest beyond `keep`, at most `limit` of them.
    pub fn trim(&mut self, state: JobState, keep: u32, limit: u32) -> Vec<LocalId> {
        let mut gone = Vec::new();
        let ended = self.of(state);
        while state != JobState::Dead && ended.len() > keep as usize && gone.len() < limit as usize {
            gone.extend(ended.pop_first().map(|(_, local)| local));
        }
        gone
    }

    /// Lets up to `limit` awaited jobs whose time is over, or beyond the newest [`RESULTS_KEPT_MAX`], join their kind.
    pub fn release_awaited(&mut self, now_ms: u64, limit: u32) -> u32 {
        let mut released = 0;
        while released < limit {
            let Some(&(ended_ms, local, state)) = self.awaited.first() else {
                break;
            };
            if ended_ms + RESULT_KEPT_MS > now_ms && self.awaited.len() <= RESULTS_KEPT_MAX {
                break;
            }
            self.awaited.pop_first();
            self.of(state).insert((ended_ms, local));
            released += 1;
        }
        released
    }

    /// A finished job leaves by an operator's hand.
    pub fn remove(&mut self, local: LocalId, state: JobState, finished_ms: u64) {
        self.awaited.remove(&(finished_ms, local, state));
        self.of(state).remove(&(finished_ms, local));
    }

    /// Newest first and awaited ones included: up to `limit` that ended at or before a moment, ties by id.
    pub fn newest_first(&self, state: JobState, from: (u64, LocalId), limit: usize) -> Vec<(u64, LocalId)> {
        let kept = match state {
            JobState::Succeeded => &self.succeeded,
            JobState::Cancelled => &self.cancelled,
            JobState::Expired => &self.expired,
            _ => &self.dead,
        };
        let awaited = self.awaited.range(..=(from.0, from.1, JobState::Expired)).rev();
        let awaited = awaited.filter(|(_, _, ended)| *ended == state);
        let awaited = awaited.map(|&(at, local, _)| (at, local)).take(limit);
        let mut newest: Vec<_> = kept.range(..=from).rev().copied().take(limit).collect();
        newest.extend(awaited);
        newest.sort_unstable_by(|a, b| b.cmp(a));
        newest.truncate(limit);
        newest
    }
}
