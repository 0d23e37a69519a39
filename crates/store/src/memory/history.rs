//! Finished jobs that are still kept.

use std::collections::BTreeSet;

use tidegate_protocol::domain::{JobState, LocalId};
use uuid::Uuid;

use super::ready::ReadyList;
use crate::lifecycle::{RESULT_KEPT_MS, RESULTS_KEPT_MAX};

/// (finished, id)
type At = (u64, LocalId);
type Ended = BTreeSet<At>;

/// The dead stay until someone removes them; of the other kinds the newest `keep` stay. Jobs that somebody wants the
/// result of wait here first, for their time or until too many newer ones exist, and join their kind afterwards.
#[derive(Default)]
pub(crate) struct History {
    awaited: BTreeSet<(u64, LocalId, JobState)>,
    dead: Ended,
    /// In the order in which they came here.
    succeeded: ReadyList,
    cancelled: Ended,
    expired: Ended,
}

/// Where reading goes on, newest first: among those whose result is awaited, and among the others of their kind.
#[derive(Clone, Copy)]
pub(crate) struct Newest {
    pub awaited: At,
    /// The others, too; of the succeeded instead those before `position`.
    pub kept: At,
    pub position: u64,
}

impl History {
    /// Whether a job of this kind is held for its result first.
    pub fn waits(state: JobState, want_result: bool) -> bool {
        want_result && state != JobState::Dead
    }

    fn of(&self, state: JobState) -> &Ended {
        match state {
            JobState::Cancelled => &self.cancelled,
            JobState::Expired => &self.expired,
            _ => &self.dead,
        }
    }

    fn of_mut(&mut self, state: JobState) -> &mut Ended {
        match state {
            JobState::Cancelled => &mut self.cancelled,
            JobState::Expired => &mut self.expired,
            _ => &mut self.dead,
        }
    }

    /// Its place if it succeeded.
    fn join(&mut self, local: LocalId, state: JobState, ended_ms: u64) -> Option<u64> {
        if state == JobState::Succeeded {
            return Some(self.succeeded.push(local, ended_ms));
        }
        self.of_mut(state).insert((ended_ms, local));
        None
    }

    /// Adds a job that ended at `now_ms`; answers its place if it is among the succeeded already.
    pub fn add(&mut self, local: LocalId, state: JobState, want_result: bool, now_ms: u64) -> Option<u64> {
        if Self::waits(state, want_result) {
            self.awaited.insert((now_ms, local, state));
            return None;
        }
        self.join(local, state, now_ms)
    }

    /// Puts a finished job back after a restart: a succeeded one that has a place there, else where it waits.
    pub fn restore(
        &mut self,
        (finished_ms, local): (u64, LocalId),
        state: JobState,
        want_result: bool,
        position: Option<u64>,
    ) {
        match position {
            Some(position) if state == JobState::Succeeded => {
                self.succeeded.restore(position, local, finished_ms);
            }
            _ => {
                self.add(local, state, want_result, finished_ms);
            }
        }
    }

    pub fn kept(&self, state: JobState) -> usize {
        match state {
            JobState::Succeeded => self.succeeded.len() as usize,
            _ => self.of(state).len(),
        }
    }

    fn pop(&mut self, state: JobState) -> Option<LocalId> {
        match state {
            JobState::Succeeded => self.succeeded.pop(),
            _ => self.of_mut(state).pop_first().map(|(_, local)| local),
        }
    }

    /// Drops the oldest beyond `keep`, at most `limit` of them.
    pub fn trim(&mut self, state: JobState, keep: u32, limit: u32) -> Vec<LocalId> {
        let mut gone = Vec::new();
        while state != JobState::Dead && self.kept(state) > keep as usize && gone.len() < limit as usize {
            gone.extend(self.pop(state));
        }
        gone
    }

    /// Lets up to `limit` awaited jobs whose time is over, or beyond the newest [`RESULTS_KEPT_MAX`], join their kind;
    /// answers them with their places.
    pub fn release_awaited(&mut self, now_ms: u64, limit: u32) -> Vec<(LocalId, Option<u64>)> {
        let mut released = Vec::new();
        while released.len() < limit as usize {
            let Some(&(ended_ms, local, state)) = self.awaited.first() else {
                break;
            };
            if ended_ms + RESULT_KEPT_MS > now_ms && self.awaited.len() <= RESULTS_KEPT_MAX {
                break;
            }
            self.awaited.pop_first();
            released.push((local, self.join(local, state, ended_ms)));
        }
        released
    }

    /// A finished job leaves by an operator's hand.
    pub fn remove(&mut self, (finished_ms, local): At, state: JobState, position: Option<u64>) {
        self.awaited.remove(&(finished_ms, local, state));
        match position {
            Some(position) if state == JobState::Succeeded => self.succeeded.remove(position),
            _ => {
                self.of_mut(state).remove(&(finished_ms, local));
            }
        }
    }

    /// Newest first and awaited ones included: up to `limit` jobs, each with where reading must go on to find it first.
    pub fn newest_first(&self, state: JobState, from: Newest, limit: usize) -> Vec<(Newest, LocalId)> {
        const OVER: At = (0, Uuid::nil());
        let (at, local) = from.awaited;
        let awaited = self.awaited.range(..=(at, local, JobState::Expired)).rev();
        let awaited = awaited.filter(|(_, _, ended)| *ended == state);
        let mut awaited = awaited.map(|&(at, local, _)| (at, local)).peekable();
        let succeeded = self.succeeded.before(from.position);
        let succeeded = succeeded.filter(|_| state == JobState::Succeeded);
        let others = self.of(state).range(..=from.kept).rev();
        let others = others.filter(|_| state != JobState::Succeeded);
        let mut kept = succeeded.chain(others.map(|&at| (0, at))).peekable();
        let mut newest = Vec::new();
        while newest.len() < limit {
            let (a, k) = (awaited.peek().copied(), kept.peek().copied());
            let from = Newest {
                awaited: a.unwrap_or(OVER),
                kept: k.map_or(OVER, |(_, at)| at),
                position: k.map_or(0, |(position, _)| position + 1),
            };
            let next = match (k, a) {
                (Some((_, k)), a) if a.is_none_or(|a| k > a) => kept.next().map(|(_, at)| at),
                _ => awaited.next(),
            };
            match next {
                Some((_, local)) => newest.push((from, local)),
                None => break,
            }
        }
        newest
    }
}
