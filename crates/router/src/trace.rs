//! The router's spans that no single task is in: calls to the store made for many requests at once, and leases.
//!
//! A batch belongs to everybody whose items are in it, so each of them gets a span of the call as a child of its own.

use std::collections::HashMap;

use tidegate_chassis::telemetry::trace::{LINKS_MAX, Since, TraceContext, Work, WorkSpan, is_on};
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
    let mut jobs: HashMap<&QueueName, Vec<&Job>> = HashMap::new();
    for (queue, answer) in answers {
        let grants = answer.iter().flat_map(|grants| &grants.grants);
        jobs.entry(queue)
            .or_default()
            .extend(grants.map(|grant| &grant.job));
    }
    let granted = jobs.into_iter().filter(|(_, jobs)| !jobs.is_empty());
    let spans = granted.filter_map(|(queue, jobs)| {
        let submits = jobs.iter().filter_map(|job| submit_of(job)).take(LINKS_MAX);
        let span = Work::client(format!("lease {queue}"))
            .since(since)
            .linked_to(submits)
            .with("messaging.system", "tidegate")
            .with("messaging.operation.name", "lease")
            .with("messaging.operation.type", "receive")
            .with("messaging.destination.name", queue.to_string())
            .with("messaging.batch.message_count", jobs.len() as i64)
            .begin()?;
        calls.done(&span.context(), jobs.len(), since);
        Some(span)
    });
    spans.collect()
}

fn submit_of(job: &Job) -> Option<TraceContext> {
    TraceContext::parse(job.traceparent.as_deref()?, job.tracestate.as_deref())
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
}
