//! The router's spans that no single task is in: calls to the store made for many requests at once, and leases.
//!
//! A batch belongs to everybody whose items are in it, so each of them gets a span of the call as a child of its own.

use std::collections::HashMap;

use tidegate_chassis::telemetry::trace::{LINKS_MAX, Since, TraceContext, Work, WorkSpan, decide, is_on};
use tidegate_protocol::domain::{Job, QueueName};
use tidegate_store::{Grants, StoreResult};

/// Calls of one operation of the job store.
#[derive(Clone, Copy, Debug)]
pub struct StoreCalls {
    /// `db.system.name`: redis, sqlite or memory.
    pub system: &'static str,
    pub op: &'static str,
}

impl StoreCalls {
    /// A call of `items` that is over now, for a request whose span is `parent`.
    pub fn done(self, parent: &TraceContext, items: usize, since: Since) {
        if !parent.is_sampled() {
            return;
        }
        Work::client(format!("store {}", self.op))
            .child_of(parent)
            .since(since)
            .with("db.system.name", self.system)
            .with("db.operation.name", self.op)
            .with("db.operation.batch.size", items as i64)
            .done();
    }
}

/// The `db.system.name` of a store's address.
pub fn system_of(store: &str) -> &'static str {
    match store.split(':').next() {
        Some("redis" | "rediss") => "redis",
        Some("sqlite") => "sqlite",
        _ => "memory",
    }
}

/// The span that the caller's store calls belong to, if it is kept.
pub fn current() -> Option<TraceContext> {
    if !is_on() {
        return None;
    }
    TraceContext::current().filter(TraceContext::is_sampled)
}

/// The spans of what one call granted, one a queue, linked to the submits of its jobs. They end when they are dropped:
/// when the grants are on their streams.
pub fn leases<'a>(
    calls: StoreCalls,
    answers: impl Iterator<Item = (&'a QueueName, &'a StoreResult<Grants>)>,
    since: Since,
) -> Vec<WorkSpan> {
    if !is_on() {
        return Vec::new();
    }
    let mut leased: HashMap<&QueueName, Leased<'_>> = HashMap::new();
    for (queue, answer) in answers {
        let grants = answer.iter().flat_map(|grants| &grants.grants);
        let leased = leased.entry(queue).or_default();
        grants.for_each(|grant| leased.add(&grant.job));
    }
    let granted = leased.into_iter().filter(|(_, leased)| leased.jobs > 0);
    let spans = granted.filter_map(|(queue, leased)| {
        let decided = decide(None, leased.submits.linked(), 1)?;
        if !decided.is_sampled() {
            return None;
        }
        let span = Work::client(format!("lease {queue}"))
            .since(since)
            .linked_to(leased.submits.kept)
            .with("messaging.system", "tidegate")
            .with("messaging.operation.name", "lease")
            .with("messaging.operation.type", "receive")
            .with("messaging.destination.name", queue.shared())
            .with("messaging.batch.message_count", leased.jobs as i64)
            .begin_as(&decided)?;
        calls.done(&span.context(), leased.jobs, since);
        Some(span)
    });
    spans.collect()
}

/// What one call granted of a queue.
#[derive(Default)]
struct Leased<'a> {
    jobs: usize,
    submits: Lineage<'a>,
}

impl<'a> Leased<'a> {
    fn add(&mut self, job: &'a Job) {
        self.jobs += 1;
        self.submits
            .add(job.traceparent.as_deref(), job.tracestate.as_deref());
    }
}

/// Which spans many jobs come from, each once as long as jobs of one batch follow each other.
#[derive(Default)]
pub struct Lineage<'a> {
    /// The first [`LINKS_MAX`] that are kept.
    pub kept: Vec<TraceContext>,
    /// Jobs that come from none.
    pub roots: usize,
    jobs: usize,
    last: Option<&'a str>,
}

impl<'a> Lineage<'a> {
    pub fn add(&mut self, traceparent: Option<&'a str>, tracestate: Option<&str>) {
        self.jobs += 1;
        if traceparent.is_some() && traceparent == self.last {
            return;
        }
        match traceparent.and_then(|text| TraceContext::parse(text, tracestate)) {
            None => self.roots += 1,
            Some(span) => {
                self.last = traceparent;
                if span.is_sampled() && self.kept.len() < LINKS_MAX {
                    self.kept.push(span);
                }
            }
        }
    }

    /// Whether what is about these jobs is kept; `None`: nobody has decided about some of them.
    pub fn linked(&self) -> Option<bool> {
        if !self.kept.is_empty() {
            return Some(true);
        }
        (self.jobs > 0 && self.roots == 0).then_some(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_has_the_name_of_its_system() {
        for (url, system) in [
            ("redis://h:6379/0", "redis"),
            ("rediss://h", "redis"),
            ("sqlite:a.db", "sqlite"),
            ("memory:", "memory"),
        ] {
            assert_eq!(system_of(url), system, "{url}");
        }
    }

    #[test]
    fn what_jobs_come_from_decides_for_all_of_them() {
        const KEPT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        const OTHER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b8-01";
        const DROPPED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        for (jobs, links, roots, linked) in [
            (&[][..], 0, 0, None),
            (&[Some(KEPT), Some(KEPT), Some(OTHER)], 2, 0, Some(true)),
            (&[Some(DROPPED), Some(KEPT), None], 1, 1, Some(true)),
            (&[Some(DROPPED), Some(DROPPED)], 0, 0, Some(false)),
            (&[Some(DROPPED), None, None, Some("nonsense")], 0, 3, None),
        ] {
            let mut lineage = Lineage::default();
            jobs.iter().for_each(|text| lineage.add(*text, None));
            let found = (lineage.kept.len(), lineage.roots, lineage.linked());
            assert_eq!(found, (links, roots, linked), "{jobs:?}");
        }
    }
}
