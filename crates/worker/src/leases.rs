//! How long this worker may believe in each of its leases. Pure bookkeeping: the time is an argument, in milliseconds of
//! the link's monotonic clock.
//!
//! **The counter rule.** The store counts a lease from when it wrote it; the worker cannot know that moment, only when it
//! sent the message that the router had already seen before it asked the store. So a lease is believed for its ttl from
//! the *sending* of the counter that the answer echoes: never longer than the store keeps it, whatever the network and the
//! store took. At `ttl - ttl/5` the worker stops the job by itself (self-fence); the fifth is for the handler to end.
//!
//! **One renewal at a time.** The next is sent only when the previous is answered (or the stream is given up). Then it is
//! certain which leases an answer speaks of: those in the one renewal that waits.

use std::collections::{HashMap, HashSet, VecDeque};

use tidegate_protocol::domain::LeaseRef;

/// A quarter of it is how often a worker that holds nothing says that it lives.
const TTL_DEFAULT_MS: u64 = 10_000;
/// Counters sent closer together than this share one entry, the earlier: at most this much is given away.
const SENT_RESOLUTION_MS: u64 = 10;
/// Bounds the history of sent counters to more than a minute of constant sending. What is older counts as unknown.
const SENT_ENTRIES_MAX: usize = 8_192;

/// The part of a ttl that is left to the handler for stopping.
pub(crate) fn margin_ms(ttl_ms: u64) -> u64 {
    ttl_ms / 5
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    ttl_ms: u64,
    /// Believed until then.
    until_ms: u64,
    /// Named in the renewal that waits for its answer.
    listed: bool,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    /// Told to stop because its time ran out, or because it is not ours any more.
    Stopped,
    /// The handler has ended; kept alive until the router has recorded its outcome.
    Settling,
}

/// A renewal to send.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Renewal {
    pub(crate) counter: u64,
    pub(crate) leases: Vec<LeaseRef>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    counter: u64,
    sent_ms: u64,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Leases {
    held: HashMap<LeaseRef, Held>,
    counter: u64,
    /// (counter, when it was sent), rising.
    sent: VecDeque<(u64, u64)>,
    waiting: Option<Waiting>,
    last_renewal_ms: Option<u64>,
    /// Of what was held at the last renewal or granted since; 0 = nothing.
    shortest_ttl_ms: u64,
    /// No lease of a running job is to be fenced before this; may be too early, never too late.
    fence_not_before_ms: u64,
}

impl Leases {
    /// A new stream: counters start again, and answers to the old ones will not come.
    pub(crate) fn new_stream(&mut self) {
        self.counter = 0;
        self.sent.clear();
        self.waiting = None;
        self.last_renewal_ms = None;
        self.held.values_mut().for_each(|held| held.listed = false);
    }

    /// The counter of a message that is sent now.
    pub(crate) fn count(&mut self, now_ms: u64) -> u64 {
        self.counter += 1;
        let recent = self
            .sent
            .back()
            .is_some_and(|(_, sent)| now_ms.saturating_sub(*sent) < SENT_RESOLUTION_MS);
        if !recent {
            self.sent.push_back((self.counter, now_ms));
            if self.sent.len() > SENT_ENTRIES_MAX {
                self.sent.pop_front();
            }
        }
        self.counter
    }

    /// When the counter was sent, or a little before; `None` = never, or too long ago to know.
    fn sent_ms(&self, counter: u64) -> Option<u64> {
        if counter > self.counter {
            return None; // a router that echoes what was never sent is not to be believed
        }
        let after = self.sent.partition_point(|(sent, _)| *sent <= counter);
        after.checked_sub(1).map(|index| self.sent[index].1)
    }

    /// Takes a granted lease. `false`: it is too old to start anything on it; it is held for handing back.
    pub(crate) fn grant(&mut self, now_ms: u64, counter: u64, lease: LeaseRef, ttl_ms: u64) -> bool {
        let until_ms = self
            .sent_ms(counter)
            .map_or(0, |sent| sent.saturating_add(ttl_ms));
        let fence_ms = until_ms.saturating_sub(margin_ms(ttl_ms));
        let fresh = now_ms < fence_ms;
        self.shortest_ttl_ms = match self.shortest_ttl_ms {
            0 => ttl_ms,
            shortest => shortest.min(ttl_ms),
        };
        let stage = if fresh { Stage::Running } else { Stage::Settling };
        if fresh {
            self.fence_not_before_ms = self.fence_not_before_ms.min(fence_ms);
        }
        self.held.insert(
            lease,
            Held {
                ttl_ms,
                until_ms,
                listed: false,
                stage,
            },
        );
        fresh
    }

    /// The handler has ended (or never started): kept alive, not fenced, until [`Self::remove`].
    pub(crate) fn settle(&mut self, lease: &LeaseRef) {
        if let Some(held) = self.held.get_mut(lease) {
            held.stage = Stage::Settling;
        }
    }

    /// Told to stop for another reason: not to be fenced again.
    pub(crate) fn stop(&mut self, lease: &LeaseRef) {
        if let Some(held) = self.held.get_mut(lease)
            && held.stage == Stage::Running
        {
            held.stage = Stage::Stopped;
        }
    }

    pub(crate) fn remove(&mut self, lease: &LeaseRef) {
        self.held.remove(lease);
    }

    pub(crate) fn holds(&self, lease: &LeaseRef) -> bool {
        self.held.contains_key(lease)
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    pub(crate) fn all(&self) -> Vec<LeaseRef> {
        self.held.keys().cloned().collect()
    }

    /// Of everything held; the default ttl when there is nothing, and no longer than that: it also tells that we live.
    fn beat_ttl_ms(&self) -> u64 {
        match self.shortest_ttl_ms {
            0 => TTL_DEFAULT_MS,
            shortest => shortest.min(TTL_DEFAULT_MS),
        }
    }

    /// When the next renewal is to be sent; `None` while one waits for its answer.
    pub(crate) fn renew_at_ms(&self) -> Option<u64> {
        match (self.waiting, self.last_renewal_ms) {
            (Some(_), _) => None,
            (None, None) => Some(0),
            (None, Some(last)) => Some(last + (self.beat_ttl_ms() / 4).max(1)),
        }
    }

    /// The renewal to send now, naming everything that is held.
    pub(crate) fn renew(&mut self, now_ms: u64) -> Renewal {
        let counter = self.count(now_ms);
        self.waiting = Some(Waiting {
            counter,
            sent_ms: now_ms,
        });
        self.last_renewal_ms = Some(now_ms);
        self.shortest_ttl_ms = self
            .held
            .values()
            .map(|held| held.ttl_ms)
            .min()
            .unwrap_or_default();
        self.held.values_mut().for_each(|held| held.listed = true);
        Renewal {
            counter,
            leases: self.all(),
        }
    }

    /// An answer: prolongs what was asked for, except the leases in `not`. `false`: it answers nothing that waits.
    pub(crate) fn renewed(&mut self, counter: u64, not: &HashSet<LeaseRef>) -> bool {
        let Some(waiting) = self.waiting.filter(|waiting| counter >= waiting.counter) else {
            return false;
        };
        let Some(sent_ms) = self.sent_ms(counter) else {
            return false;
        };
        // Merged entries may say a little too early; the renewal's own time is known exactly.
        let sent_ms = sent_ms.max(waiting.sent_ms);
        self.waiting = None;
        for (lease, held) in &mut self.held {
            if std::mem::take(&mut held.listed) && !not.contains(lease) {
                held.until_ms = held.until_ms.max(sent_ms.saturating_add(held.ttl_ms));
            }
        }
        true
    }

    /// When a renewal has waited so long that the router must be taken for dead. Early enough to reclaim from another one
    /// before anything is fenced.
    pub(crate) fn give_up_at_ms(&self) -> Option<u64> {
        self.waiting
            .map(|waiting| waiting.sent_ms + self.beat_ttl_ms() / 2)
    }

    /// When [`Self::self_fence`] has something to do at the earliest.
    pub(crate) fn fence_at_ms(&self) -> u64 {
        self.fence_not_before_ms
    }

    /// Running jobs whose lease must not be believed any more: each is named once.
    pub(crate) fn self_fence(&mut self, now_ms: u64) -> Vec<LeaseRef> {
        if now_ms < self.fence_not_before_ms {
            return Vec::new();
        }
        let mut fenced = Vec::new();
        let mut next_ms = u64::MAX;
        for (lease, held) in self
            .held
            .iter_mut()
            .filter(|(_, held)| held.stage == Stage::Running)
        {
            let fence_ms = held.until_ms.saturating_sub(margin_ms(held.ttl_ms));
            if now_ms >= fence_ms {
                held.stage = Stage::Stopped;
                fenced.push(lease.clone());
            } else {
                next_ms = next_ms.min(fence_ms);
            }
        }
        self.fence_not_before_ms = next_ms;
        fenced
    }
}

#[cfg(test)]
#[path = "leases_tests.rs"]
mod tests;
