//! Looking at a queue without changing it.

use tidegate_protocol::domain::{Job, JobId, JobState, Lane, LeaseRef, LocalId};
use uuid::Uuid;

use super::{Context, history::Newest, queue::Queue};
use crate::{JobPage, ListRequest, QueueStats, StoreError, StoreResult};

/// Where a page starts: the first job of it by what its list is sorted by. A job that leaves meanwhile moves no other.
/// Of the succeeded two lists are read as one: `major` and `local` say where in the awaited ones, `minor` where in the
/// others.
#[derive(Clone, Copy)]
struct Place {
    /// Lane, due time or end.
    major: u64,
    local: LocalId,
    /// Position or fence.
    minor: u64,
}

impl Place {
    const FIRST: Self = Self {
        major: 0,
        local: Uuid::nil(),
        minor: 0,
    };
    /// Where a list starts that shows the newest first.
    const NEWEST: Self = Self {
        major: u64::MAX,
        local: Uuid::max(),
        minor: u64::MAX,
    };

    fn parse(text: &str) -> StoreResult<Self> {
        let mut parts = text.split('.');
        let mut number = || parts.next().and_then(|part| u64::from_str_radix(part, 16).ok());
        let (major, minor) = (number(), number());
        let local = parts.next().and_then(|part| Uuid::try_parse(part).ok());
        match (major, minor, local, parts.next()) {
            (Some(major), Some(minor), Some(local), None) => Ok(Self { major, local, minor }),
            _ => Err(StoreError::Invalid("unknown page token".into())),
        }
    }

    fn text(self) -> String {
        format!("{:x}.{:x}.{}", self.major, self.minor, self.local.simple())
    }
}

impl Queue {
    pub fn get(&self, id: &JobId) -> Option<Job> {
        self.job(id.local).filter(|job| job.id == *id).cloned()
    }

    /// One page. It costs what it shows, however many jobs there are.
    pub fn list(&self, request: &ListRequest) -> StoreResult<JobPage> {
        let first = match request.state {
            JobState::Scheduled | JobState::Ready | JobState::Running => Place::FIRST,
            _ => Place::NEWEST,
        };
        let from = request.cursor.as_deref().map_or(Ok(first), Place::parse)?;
        let limit = request.limit as usize;
        // One more than is shown: where the next page starts.
        let mut places = self.places(request.state, from, limit + 1);
        let next = (places.len() > limit).then(|| places.pop()).flatten();
        let jobs = places.iter().filter_map(|(_, local)| self.job(*local));
        Ok(JobPage {
            jobs: jobs.map(summary).collect(),
            next: next.map(|(place, _)| place.text()),
        })
    }

    /// Up to `n` jobs from a place on, each with its own.
    fn places(&self, state: JobState, from: Place, n: usize) -> Vec<(Place, LocalId)> {
        let place = |major, local, minor| (Place { major, local, minor }, local);
        // A token may name any lane: only those that exist are looked at.
        let lanes = [Lane::First, Lane::Retry]
            .into_iter()
            .filter(|lane| lane.index() as u64 >= from.major);
        match state {
            JobState::Scheduled => {
                let due = self.scheduled.range((from.major, from.local)..);
                due.map(|&(due_ms, local)| place(due_ms, local, 0))
                    .take(n)
                    .collect()
            }
            JobState::Ready => {
                let ready = lanes.flat_map(|lane| {
                    let lane_code = lane.index() as u64;
                    let start = if lane_code == from.major { from.minor } else { 0 };
                    let list = self.ready[lane.index()].from(start);
                    list.map(move |(position, local)| place(lane_code, local, position))
                });
                ready.take(n).collect()
            }
            JobState::Running => {
                let running = lanes.flat_map(|lane| {
                    let lane_code = lane.index() as u64;
                    let start = if lane_code == from.major {
                        (from.local, from.minor)
                    } else {
                        (Uuid::nil(), 0)
                    };
                    let slots = self.slots[lane.index()].from(start);
                    slots.map(move |(local, fence)| place(lane_code, local, fence))
                });
                let held = |(slot, local): &(Place, LocalId)| {
                    self.holds(&LeaseRef {
                        id: self.id(*local),
                        fence: slot.minor,
                    })
                };
                running.filter(held).take(n).collect()
            }
            _ => self.ended_places(state, from, n),
        }
    }

    fn ended_places(&self, state: JobState, from: Place, n: usize) -> Vec<(Place, LocalId)> {
        let at = (from.major, from.local);
        let from = Newest {
            awaited: at,
            kept: at,
            position: from.minor,
        };
        let place = |(newest, local): (Newest, LocalId)| {
            let (major, awaited) = if state == JobState::Succeeded {
                newest.awaited
            } else {
                newest.awaited.max(newest.kept)
            };
            let place = Place {
                major,
                local: awaited,
                minor: newest.position,
            };
            (place, local)
        };
        let newest = self.history.newest_first(state, from, n);
        newest.into_iter().map(place).collect()
    }

    pub fn stats(&self, context: &Context) -> QueueStats {
        let count = |state: JobState| self.counts[state.code() as usize];
        let oldest = |lane: Lane| self.ready[lane.index()].front().map(|(_, since)| since);
        QueueStats {
            queue: self.name.clone(),
            paused: self.paused,
            scheduled: count(JobState::Scheduled),
            ready: count(JobState::Ready),
            ready_retries: self.ready[Lane::Retry.index()].len(),
            running: count(JobState::Running),
            slots: self.slot_count(),
            slots_retries: self.slots[Lane::Retry.index()].len(),
            succeeded: count(JobState::Succeeded),
            dead: count(JobState::Dead),
            cancelled: count(JobState::Cancelled),
            expired: count(JobState::Expired),
            unreadable: self.unreadable,
            submitted_total: self.counters.submitted,
            succeeded_total: self.counters.succeeded,
            dead_total: self.counters.dead,
            oldest_ready_ms: [oldest(Lane::First), oldest(Lane::Retry)]
                .into_iter()
                .flatten()
                .min(),
            policy: (*self.policy).clone(),
            policy_version: self.policy_version,
            cap: self.cap,
            clock_ms: context.now_ms,
        }
    }
}

/// As listed: without payload and result.
fn summary(job: &Job) -> Job {
    Job {
        payload: bytes::Bytes::new(),
        result: bytes::Bytes::new(),
        ..job.clone()
    }
}
