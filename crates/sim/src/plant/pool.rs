//! A pool of connections to a server with a knee.
//!
//! Up to `knee` connections work at full speed; beyond it they share, and lose more than they share: with `n` active
//! each runs at `(knee / n) / (1 + 0.5 (n - knee) / knee)`. All active connections have the same speed, so one number,
//! the work that a connection has got since the start, says when each is done.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, VecDeque},
};

use crate::scenario::Resource;

/// Who holds or waits for a connection; `turn` tells a stale entry from a live one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    Job { at: usize, turn: u32 },
    Api { at: usize, turn: u32 },
    Probe { at: usize, turn: u32 },
}

#[derive(Debug)]
struct End {
    work: f64,
    holder: Holder,
}

impl PartialEq for End {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for End {}
impl PartialOrd for End {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for End {
    fn cmp(&self, other: &Self) -> Ordering {
        self.work
            .total_cmp(&other.work)
            .then(self.holder.cmp(&other.holder))
    }
}

pub struct Pool {
    pub resource: Resource,
    pub hard_cap: u32,
    /// Connections in use, and those that jobs hold.
    pub in_use: u32,
    pub by_jobs: u32,
    pub waiting: VecDeque<Holder>,
    /// Waiting ones that are not stale.
    pub waiters: u32,
    ends: BinaryHeap<Reverse<End>>,
    /// Work that each active connection has got since the start.
    done: f64,
    at: f64,
    speed: f64,
    /// Which announced end is the newest.
    pub announced: u64,
}

impl Pool {
    pub fn new(resource: Resource) -> Self {
        Self {
            hard_cap: resource.hard_cap(),
            resource,
            in_use: 0,
            by_jobs: 0,
            waiting: VecDeque::new(),
            waiters: 0,
            ends: BinaryHeap::new(),
            done: 0.0,
            at: 0.0,
            speed: 1.0,
            announced: 0,
        }
    }

    pub fn is_down(&self, now: f64) -> bool {
        self.resource
            .down_s
            .iter()
            .any(|(from, until)| (*from..*until).contains(&now))
    }

    pub fn has_room(&self) -> bool {
        self.in_use < self.resource.capacity
    }

    /// Everything up to now at the old speed, what follows at the new one.
    pub fn turn_to(&mut self, now: f64) {
        self.done += (now - self.at).max(0.0) * self.speed;
        self.at = now;
        let (n, knee) = (f64::from(self.in_use), self.resource.knee.at(now).max(1.0));
        self.speed = if n <= knee {
            1.0
        } else {
            knee / n / (1.0 + 0.5 * (n - knee) / knee)
        };
    }

    pub fn start(&mut self, now: f64, holder: Holder, work: f64) {
        self.turn_to(now);
        self.in_use += 1;
        self.by_jobs += u32::from(matches!(holder, Holder::Job { .. }));
        self.ends.push(Reverse(End {
            work: self.done + work,
            holder,
        }));
        self.turn_to(now);
    }

    /// A connection is free again, at its end or before it.
    pub fn stop(&mut self, now: f64, was_job: bool) {
        self.turn_to(now);
        self.in_use -= 1;
        self.by_jobs -= u32::from(was_job);
        self.turn_to(now);
    }

    /// When the next connection will have done its work, if nothing changes. `is_stale` drops entries of the past.
    pub fn next_end(&mut self, is_stale: impl Fn(Holder) -> bool) -> Option<f64> {
        while self.ends.peek().is_some_and(|Reverse(end)| is_stale(end.holder)) {
            self.ends.pop();
        }
        let Reverse(end) = self.ends.peek()?;
        Some(self.at + (end.work - self.done).max(0.0) / self.speed)
    }

    /// Who has done its work by now.
    pub fn ended(&mut self, now: f64) -> Option<Holder> {
        self.turn_to(now);
        let Reverse(end) = self.ends.peek()?;
        if end.work > self.done + 1e-9 {
            return None;
        }
        self.ends.pop().map(|Reverse(end)| end.holder)
    }
}
