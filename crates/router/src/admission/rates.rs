//! Buckets by queue, and by queue and caller. The table is bounded: callers name themselves, so anybody could fill it.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tidegate_chassis::serve::PeerInfo;
use tidegate_flow::bucket::{Bucket, Rate};
use tidegate_protocol::{domain::QueueName, limits};
use tonic::{Extensions, metadata::MetadataMap};

/// Metadata by which a caller names itself. Not a proof: it divides a rate among callers that mean well, and hides them
/// from each other behind one address.
const CALLER: &str = "tidegate-caller";
/// Callers remembered at once, over all queues; about 100 bytes each. Those beyond it share one bucket a queue.
const CALLERS_MAX: usize = 10_000;
/// A full table is searched for callers that need no place any more at most this often.
const CLEAR_US: u64 = 1_000_000;

/// Who submits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Caller {
    Named(Box<str>),
    Address(IpAddr),
    Unknown,
}

impl Caller {
    /// By the name it gives itself, else by where it comes from.
    pub fn of(metadata: &MetadataMap, extensions: &Extensions) -> Self {
        let named = metadata.get(CALLER).and_then(|value| value.to_str().ok());
        match named.filter(|name| (1..=limits::NAME_BYTES_MAX).contains(&name.len())) {
            Some(name) => Self::Named(name.into()),
            None => extensions
                .get::<PeerInfo>()
                .and_then(PeerInfo::ip)
                .map_or(Self::Unknown, Self::Address),
        }
    }
}

/// What a queue's policy allows, this router's share.
pub(super) struct Limits {
    pub queue: Rate,
    pub caller: Rate,
}

/// Which rate is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Queue,
    Caller,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub whose: Whose,
    pub wait_us: u64,
}

/// A shared handle; a std mutex around a few additions.
#[derive(Default)]
pub(super) struct Rates(Mutex<Table>);

#[derive(Default)]
struct Table {
    queues: HashMap<QueueName, Buckets>,
    /// Over all queues.
    callers: usize,
    cleared_us: u64,
}

#[derive(Default)]
struct Buckets {
    own: Bucket,
    callers: HashMap<Caller, Bucket>,
    /// Of callers that found no place.
    others: Bucket,
}

impl Rates {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one of the caller's and of the queue's. A caller over its own rate takes nothing of the queue's.
    pub(super) fn take(
        &self,
        queue: &QueueName,
        caller: &Caller,
        limits: &Limits,
        now_us: u64,
    ) -> Result<(), Refused> {
        let mut table = self.lock();
        if !limits.caller.is_unlimited() {
            let bucket = table.caller(queue, caller, now_us);
            bucket.take(now_us, &limits.caller).map_err(|wait_us| Refused {
                whose: Whose::Caller,
                wait_us,
            })?;
        }
        let bucket = &mut table.of(queue).own;
        bucket.take(now_us, &limits.queue).map_err(|wait_us| Refused {
            whose: Whose::Queue,
            wait_us,
        })
    }

    /// Forgets queues that have no rates any more.
    pub(super) fn keep(&self, keeps: impl Fn(&QueueName) -> bool) {
        let mut table = self.lock();
        table.queues.retain(|queue, _| keeps(queue));
        table.callers = table.queues.values().map(|buckets| buckets.callers.len()).sum();
    }
}

impl Table {
    fn of(&mut self, queue: &QueueName) -> &mut Buckets {
        self.queues.entry(queue.clone()).or_default()
    }

    fn caller(&mut self, queue: &QueueName, caller: &Caller, now_us: u64) -> &mut Bucket {
        let is_new = !self.of(queue).callers.contains_key(caller);
        if is_new && self.callers >= CALLERS_MAX && now_us >= self.cleared_us {
            self.clear(now_us);
        }
        if is_new && self.callers >= CALLERS_MAX {
            return &mut self.of(queue).others;
        }
        self.callers += usize::from(is_new);
        self.of(queue).callers.entry(caller.clone()).or_default()
    }

    /// A full bucket is what a newcomer gets.
    fn clear(&mut self, now_us: u64) {
        self.cleared_us = now_us + CLEAR_US;
        for buckets in self.queues.values_mut() {
            buckets.callers.retain(|_, bucket| !bucket.is_full(now_us));
        }
        self.callers = self.queues.values().map(|buckets| buckets.callers.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Caller {
        Caller::Named(name.into())
    }

    fn limits(queue: u32, caller: u32) -> Limits {
        Limits {
            queue: Rate::new(queue, queue, 1),
            caller: Rate::new(caller, caller, 1),
        }
    }

    #[test]
    fn a_caller_over_its_rate_takes_nothing_of_the_others() {
        let (rates, queue) = (Rates::default(), "email".parse().unwrap());
        let limits = limits(10, 4);
        let taken = |name: &str| {
            (0..100)
                .filter(|_| rates.take(&queue, &named(name), &limits, 0).is_ok())
                .count()
        };
        assert_eq!((taken("a"), taken("b"), taken("c")), (4, 4, 2));
        let refused = rates.take(&queue, &named("a"), &limits, 0).unwrap_err();
        assert_eq!((refused.whose, refused.wait_us), (Whose::Caller, 250_000));
        let refused = rates.take(&queue, &named("d"), &limits, 0).unwrap_err();
        assert_eq!((refused.whose, refused.wait_us), (Whose::Queue, 100_000));
    }

    #[test]
    fn the_table_of_callers_is_bounded_and_clears_itself() {
        let (rates, queue) = (Rates::default(), "email".parse().unwrap());
        let limits = limits(0, 2);
        for n in 0..3 * CALLERS_MAX {
            let _ = rates.take(&queue, &named(&n.to_string()), &limits, 0);
        }
        assert_eq!(rates.lock().callers, CALLERS_MAX);
        let newcomer = |now| rates.take(&queue, &named("new"), &limits, now).is_ok();
        assert!(!newcomer(0), "those without a place share one bucket");
        assert!(newcomer(2_000_000), "the others have paused: there is room again");
        assert!(rates.lock().callers < 10);
        rates.keep(|_| false);
        assert_eq!(rates.lock().callers, 0);
    }

    #[test]
    fn a_caller_is_who_it_says_or_where_it_comes_from() {
        let mut metadata = MetadataMap::new();
        let extensions = Extensions::new();
        assert_eq!(Caller::of(&metadata, &extensions), Caller::Unknown);
        metadata.insert(CALLER, "shop".parse().unwrap());
        assert_eq!(Caller::of(&metadata, &extensions), named("shop"));
        metadata.insert(CALLER, "x".repeat(101).parse().unwrap());
        assert_eq!(Caller::of(&metadata, &extensions), Caller::Unknown);
    }
}
