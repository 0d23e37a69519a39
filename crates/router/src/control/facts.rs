//! What a report says of each queue: what the store holds, and what arrived here. Pure.
//!
//! A store may have thousands of quiet queues: one whose facts are as they were told last, and that holds nothing, is left
//! out. What waits or runs is told each time, because the age of the oldest job moves by itself.

use std::collections::{BTreeMap, HashMap};

use tidegate_client::control::wire_histogram;
use tidegate_protocol::{domain::QueueName, v1};
use tidegate_store::QueueStats;

use crate::window::Counts;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Told {
    ready: u64,
    ready_retries: u64,
    scheduled: u64,
    running: u64,
    slots: u64,
}

impl Told {
    fn of(stats: &QueueStats) -> Self {
        Self {
            ready: stats.ready,
            ready_retries: stats.ready_retries,
            scheduled: stats.scheduled,
            running: stats.running,
            slots: stats.slots,
        }
    }

    fn is_empty(&self) -> bool {
        self.ready + self.scheduled + self.running + self.slots == 0
    }
}

/// What the controller was told last.
#[derive(Debug, Default)]
pub struct Facts(HashMap<QueueName, Told>);

impl Facts {
    /// A new stream, or a report that did not get through: the controller is to be told everything.
    pub fn forget(&mut self) {
        self.0.clear();
    }

    /// A report; `stats` is `None` when the store did not answer.
    pub fn report(&mut self, stats: Option<&[QueueStats]>, counts: &Counts, window_ms: u64) -> v1::Report {
        let mut queues: BTreeMap<&QueueName, v1::QueueReport> = BTreeMap::new();
        for (queue, arrivals) in &counts.arrivals {
            let report = v1::QueueReport {
                queue: queue.to_string(),
                submitted: arrivals.submitted,
                refused: arrivals.refused,
                gated: arrivals.gated,
                ..Default::default()
            };
            queues.insert(queue, report);
        }
        for stats in stats.unwrap_or_default() {
            let told = Told::of(stats);
            let news = self.0.get(&stats.queue) != Some(&told) || !told.is_empty();
            if news || queues.contains_key(&stats.queue) {
                let report = queues.entry(&stats.queue).or_insert_with(|| v1::QueueReport {
                    queue: stats.queue.to_string(),
                    ..Default::default()
                });
                report.store = Some(wire(stats));
            }
        }
        if let Some(stats) = stats {
            let now = stats.iter().map(|stats| (stats.queue.clone(), Told::of(stats)));
            self.0 = now.collect();
        }
        v1::Report {
            window_ms,
            queues: queues.into_values().collect(),
            store_latency: (!counts.store.is_empty()).then(|| wire_histogram(&counts.store)),
            ..Default::default()
        }
    }
}

fn wire(stats: &QueueStats) -> v1::StoreFacts {
    v1::StoreFacts {
        ready: stats.ready,
        ready_retries: stats.ready_retries,
        scheduled: stats.scheduled,
        running: stats.running,
        slots: stats.slots,
        oldest_ready_age_ms: stats
            .oldest_ready_ms
            .map_or(0, |since| stats.clock_ms.saturating_sub(since)),
        store_clock_ms: stats.clock_ms,
    }
}

#[cfg(test)]
mod tests {
    use tidegate_protocol::domain::Policy;

    use super::*;
    use crate::window::Arrivals;

    fn stats(queue: &str, ready: u64) -> QueueStats {
        QueueStats {
            queue: queue.parse().unwrap(),
            paused: false,
            scheduled: 0,
            ready,
            ready_retries: 0,
            running: 0,
            slots: 0,
            slots_retries: 0,
            succeeded: 7,
            dead: 0,
            cancelled: 0,
            expired: 0,
            unreadable: 0,
            submitted_total: 7,
            succeeded_total: 7,
            dead_total: 0,
            oldest_ready_ms: (ready > 0).then_some(400),
            policy: Policy::default(),
            policy_version: None,
            cap: None,
            clock_ms: 1_000,
        }
    }

    fn names(report: &v1::Report) -> Vec<&str> {
        report.queues.iter().map(|queue| queue.queue.as_str()).collect()
    }

    #[test]
    fn quiet_queues_are_told_once() {
        let mut facts = Facts::default();
        let counts = Counts::default();
        let all = [stats("a", 0), stats("b", 3)];
        assert_eq!(names(&facts.report(Some(&all), &counts, 1_000)), ["a", "b"]);
        let report = facts.report(Some(&all), &counts, 1_000);
        assert_eq!(names(&report), ["b"]);
        let b = report.queues[0].store.unwrap();
        assert_eq!(
            (b.ready, b.oldest_ready_age_ms, b.store_clock_ms),
            (3, 600, 1_000)
        );
        // It became empty: that is news, once.
        let all = [stats("a", 0), stats("b", 0)];
        assert_eq!(names(&facts.report(Some(&all), &counts, 1_000)), ["b"]);
        assert!(names(&facts.report(Some(&all), &counts, 1_000)).is_empty());
        facts.forget();
        assert_eq!(names(&facts.report(Some(&all), &counts, 1_000)), ["a", "b"]);
    }

    #[test]
    fn arrivals_are_told_with_the_facts_and_without_a_store_alone() {
        let mut facts = Facts::default();
        let all = [stats("a", 0)];
        facts.report(Some(&all), &Counts::default(), 1_000);
        let mut counts = Counts::default();
        let arrivals = Arrivals {
            submitted: 2,
            refused: 3,
            gated: 1,
        };
        counts.arrivals.insert("a".parse().unwrap(), arrivals);
        counts.arrivals.insert("refused".parse().unwrap(), arrivals);
        counts.store.add(3.0);
        let report = facts.report(Some(&all), &counts, 900);
        assert_eq!(names(&report), ["a", "refused"]);
        let told = &report.queues[0];
        assert_eq!((told.submitted, told.refused, told.gated), (2, 3, 1));
        assert!(report.queues[0].store.is_some() && report.queues[1].store.is_none());
        assert_eq!((report.window_ms, report.store_latency.unwrap().count), (900, 1));
        let report = facts.report(None, &counts, 900);
        assert!(report.queues.iter().all(|queue| queue.store.is_none()));
        assert_eq!(names(&report), ["a", "refused"]);
    }
}
