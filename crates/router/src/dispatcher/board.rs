//! Who waits for jobs of which queue, and how many each may still be granted. Pure: no clock, no channel, no store.
//!
//! Credit is {free, last_grant_seq}: the worker takes `free` more than what it had seen when it sent it, so the room of a
//! session in a queue is `free` minus what was granted after that seq, minus what a call in flight may yet grant.
//!
//! Fairness: sessions with room stand in line per queue. A call takes them from the front; who got nothing comes back
//! before who got something. The stores deal round robin over the wants of one call.

use std::collections::{HashMap, VecDeque};

use tidegate_protocol::{
    domain::{Incarnation, QueueName, Session},
    limits,
};
use tidegate_store::{LeaseRequest, Want};

/// Sessions named in one lease call: bounds what a store's script reads.
pub(super) const WANTS_PER_CALL_MAX: usize = 256;
/// Jobs handed out by one lease call.
pub(super) const GRANTS_PER_CALL_MAX: u32 = 1_000;

/// Of one queue together with a submit: a batch of jobs seldom has more.
const HANDOVER_MAX: u32 = 256;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Landing {
    Met,
    /// There was not enough; the store wakes us when it has more.
    Unmet,
    /// The store did not answer: whatever happens next is a reason to ask again.
    Failed,
}

/// See the [module](self).
#[derive(Default)]
pub(super) struct Board {
    sessions: HashMap<Session, Seat>,
    queues: HashMap<QueueName, Line>,
    /// Queues to ask the store about, each once.
    dirty: VecDeque<QueueName>,
}

struct Seat {
    incarnation: Incarnation,
    /// Of the last grants message.
    seq: u64,
    credits: HashMap<QueueName, Credit>,
}

#[derive(Default)]
struct Credit {
    free: u32,
    last_seq: u64,
    /// (seq, jobs) of what was granted after `last_seq`.
    after: VecDeque<(u64, u32)>,
    /// What the call in flight may grant.
    reserved: u32,
    in_line: bool,
    ever_granted: bool,
}

impl Credit {
    /// Without what the call in flight may grant.
    fn allowance(&self) -> u32 {
        let after: u64 = self.after.iter().map(|(_, jobs)| u64::from(*jobs)).sum();
        u64::from(self.free).saturating_sub(after) as u32
    }

    fn room(&self) -> u32 {
        self.allowance().saturating_sub(self.reserved)
    }
}

#[derive(Default)]
struct Line {
    /// Sessions with room.
    waiting: VecDeque<Session>,
    dirty: bool,
    /// The last call did not meet it: wait for a wake or the fallback poll.
    hungry: bool,
    /// Hungry by the store's own word, which tells when that changes: more credit is no reason to ask.
    asleep: bool,
    /// Requests for it in flight. More credit can wait for what they come to.
    in_flight: u32,
    /// Woken while the call was in flight. The store wakes once and may have looked before: asked again after it.
    woken: bool,
}

impl Line {
    /// About to be asked for: what was known of it is of before.
    fn forget(&mut self) {
        (self.dirty, self.hungry, self.asleep, self.woken) = (false, false, false, false);
    }

    /// Nobody waits for anything of it.
    fn is_over(&self) -> bool {
        self.waiting.is_empty() && !self.dirty && self.in_flight == 0
    }
}

impl Board {
    pub fn join(&mut self, session: Session, incarnation: Incarnation) {
        self.sessions.insert(
            session,
            Seat {
                incarnation,
                seq: 0,
                credits: HashMap::new(),
            },
        );
    }

    /// The queues that it was ever granted from.
    pub fn leave(&mut self, session: Session) -> Vec<QueueName> {
        let Some(seat) = self.sessions.remove(&session) else {
            return Vec::new();
        };
        for queue in seat.credits.keys() {
            if let Some(line) = self.queues.get_mut(queue) {
                line.waiting.retain(|other| *other != session);
                if line.is_over() && !line.woken {
                    self.queues.remove(queue);
                }
            }
        }
        let granted = seat.credits.into_iter().filter(|(_, credit)| credit.ever_granted);
        granted.map(|(queue, _)| queue).collect()
    }

    pub fn credit(&mut self, session: Session, queue: QueueName, free: u32, last_grant_seq: u64) {
        let Some(seat) = self.sessions.get_mut(&session) else {
            return;
        };
        let credit = seat.credits.entry(queue.clone()).or_default();
        // A worker cannot have seen what was not sent yet, and does not forget what it has seen: either would turn a
        // mistake of its counting into grants beyond its credit.
        credit.last_seq = last_grant_seq.min(seat.seq).max(credit.last_seq);
        credit.free = free.min(limits::LEASES_PER_STREAM_MAX as u32);
        while credit
            .after
            .front()
            .is_some_and(|(seq, _)| *seq <= credit.last_seq)
        {
            credit.after.pop_front();
        }
        if credit.room() > 0 {
            let joins = !std::mem::replace(&mut credit.in_line, true);
            let line = self.queues.entry(queue.clone()).or_default();
            if joins {
                line.waiting.push_back(session);
            }
            if !line.asleep && line.in_flight == 0 {
                self.mark(&queue);
            }
        }
    }

    /// Something changed in the queue's favour.
    pub fn mark(&mut self, queue: &QueueName) {
        let Some(line) = self.queues.get_mut(queue) else {
            return;
        };
        if line.waiting.is_empty() {
            line.woken = true;
        } else if !std::mem::replace(&mut line.dirty, true) {
            self.dirty.push_back(queue.clone());
        }
    }

    /// The fallback poll, or after events may have been missed.
    pub fn mark_hungry(&mut self, all: bool) {
        let hungry = self.queues.iter().filter(|(_, line)| all || line.hungry);
        let queues: Vec<QueueName> = hungry.map(|(queue, _)| queue.clone()).collect();
        queues.iter().for_each(|queue| self.mark(queue));
    }

    /// What to ask the store for: of every dirty queue as much as fits. Empty: nothing. `may_grant` says no for queues
    /// that must wait, `takes` for sessions whose stream is not read; both are asked again with the fallback poll.
    pub fn plan(
        &mut self,
        mut may_grant: impl FnMut(&QueueName) -> bool,
        takes: impl Fn(Session) -> bool,
    ) -> Vec<LeaseRequest> {
        let mut requests = Vec::new();
        let mut wants_left = WANTS_PER_CALL_MAX;
        let mut grants_left = GRANTS_PER_CALL_MAX;
        for _ in 0..self.dirty.len() {
            if wants_left == 0 || grants_left == 0 {
                break;
            }
            let Some(queue) = self.dirty.pop_front() else {
                break;
            };
            let Some(line) = self.queues.get_mut(&queue) else {
                continue;
            };
            line.forget();
            if !may_grant(&queue) {
                line.hungry = true;
                continue;
            }
            let wants = self.wants(&queue, wants_left, grants_left, &takes);
            if wants.is_empty() {
                continue;
            }
            self.takes_off(&queue);
            wants_left -= wants.len();
            grants_left -= wants.iter().map(|want| want.max).sum::<u32>();
            requests.push(LeaseRequest { queue, wants });
        }
        requests
    }

    /// What to ask for together with jobs that are about to be entered into these queues: only where the store has nothing
    /// and somebody waits. Others are asked for as ever.
    pub fn plan_for(
        &mut self,
        queues: &[QueueName],
        mut may_grant: impl FnMut(&QueueName) -> bool,
        takes: impl Fn(Session) -> bool,
    ) -> Vec<LeaseRequest> {
        let mut requests = Vec::new();
        for queue in queues {
            let Some(line) = self.queues.get_mut(queue) else {
                continue;
            };
            if !line.asleep || line.dirty || line.waiting.is_empty() || !may_grant(queue) {
                continue;
            }
            line.forget();
            let wants = self.wants(queue, WANTS_PER_CALL_MAX, HANDOVER_MAX, &takes);
            if !wants.is_empty() {
                self.takes_off(queue);
                let queue = queue.clone();
                requests.push(LeaseRequest { queue, wants });
            }
        }
        requests
    }

    fn takes_off(&mut self, queue: &QueueName) {
        if let Some(line) = self.queues.get_mut(queue) {
            line.in_flight += 1;
        }
    }

    /// The first sessions in line, with an equal share each where there is not enough for all.
    fn wants(
        &mut self,
        queue: &QueueName,
        wants_max: usize,
        grants_max: u32,
        takes: &impl Fn(Session) -> bool,
    ) -> Vec<Want> {
        let Some(line) = self.queues.get_mut(queue) else {
            return Vec::new();
        };
        let wants_max = wants_max.min(grants_max as usize);
        let mut wants: Vec<Want> = Vec::new();
        for _ in 0..line.waiting.len() {
            if wants.len() == wants_max {
                break;
            }
            let Some(session) = line.waiting.pop_front() else {
                break;
            };
            let Some(seat) = self.sessions.get_mut(&session) else {
                continue;
            };
            let Some(credit) = seat.credits.get_mut(queue) else {
                continue;
            };
            if credit.room() > 0 && !takes(session) {
                line.waiting.push_back(session);
                line.hungry = true;
                continue;
            }
            credit.in_line = false;
            if credit.room() > 0 {
                wants.push(Want {
                    session,
                    incarnation: seat.incarnation,
                    max: credit.room(),
                });
            }
        }
        let total: u64 = wants.iter().map(|want| u64::from(want.max)).sum();
        if total > u64::from(grants_max) {
            let share = grants_max / wants.len() as u32;
            wants.iter_mut().for_each(|want| want.max = want.max.min(share));
        }
        for want in &wants {
            if let Some(credit) = self
                .sessions
                .get_mut(&want.session)
                .and_then(|s| s.credits.get_mut(queue))
            {
                credit.reserved += want.max;
            }
        }
        wants
    }

    /// The call is over: nothing of it is reserved any more. Call before the grants are handed out.
    pub fn landed(&mut self, request: &LeaseRequest) {
        for want in &request.wants {
            let seat = self.sessions.get_mut(&want.session);
            if let Some(credit) = seat.and_then(|seat| seat.credits.get_mut(&request.queue)) {
                credit.reserved = credit.reserved.saturating_sub(want.max);
            }
        }
    }

    /// How many jobs of the queue may be handed to the session now: 0 if it is gone.
    pub fn allowance(&self, session: Session, queue: &QueueName) -> u32 {
        let seat = self.sessions.get(&session);
        seat.and_then(|seat| seat.credits.get(queue))
            .map_or(0, Credit::allowance)
    }

    /// The seq of the next grants message to the session.
    pub fn next_seq(&mut self, session: Session) -> u64 {
        let Some(seat) = self.sessions.get_mut(&session) else {
            return 0;
        };
        seat.seq += 1;
        seat.seq
    }

    /// `jobs` of the queue go out with the message `seq`.
    pub fn granted(&mut self, session: Session, queue: &QueueName, seq: u64, jobs: u32) {
        let seat = self.sessions.get_mut(&session);
        if let Some(credit) = seat.and_then(|seat| seat.credits.get_mut(queue)) {
            credit.after.push_back((seq, jobs));
            credit.ever_granted = true;
        }
    }

    /// The grants of a call are handed out: who has room left stands in line again.
    pub fn line_up(&mut self, request: &LeaseRequest, got: impl Fn(Session) -> bool, landing: Landing) {
        let (some, none): (Vec<&Want>, Vec<&Want>) = request.wants.iter().partition(|want| got(want.session));
        let mut back = Vec::new();
        for (want, first) in none
            .into_iter()
            .map(|want| (want, true))
            .chain(some.into_iter().map(|want| (want, false)))
        {
            let seat = self.sessions.get_mut(&want.session);
            let Some(credit) = seat.and_then(|seat| seat.credits.get_mut(&request.queue)) else {
                continue;
            };
            if credit.room() > 0 && !std::mem::replace(&mut credit.in_line, true) {
                back.push((want.session, first));
            }
        }
        let line = self.queues.entry(request.queue.clone()).or_default();
        for (session, _) in back.iter().rev().filter(|(_, first)| *first) {
            line.waiting.push_front(*session);
        }
        line.waiting.extend(
            back.iter()
                .filter(|(_, first)| !first)
                .map(|(session, _)| *session),
        );
        line.in_flight = line.in_flight.saturating_sub(1);
        line.hungry |= landing != Landing::Met;
        line.asleep = landing == Landing::Unmet;
        if line.is_over() {
            self.queues.remove(&request.queue);
        } else if landing == Landing::Met || line.woken {
            self.mark(&request.queue);
        }
    }
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
