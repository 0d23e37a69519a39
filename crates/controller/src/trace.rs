//! Spans of the loop: each tick, and in it each decision with its reason and the numbers that led to it.

use tidegate_chassis::telemetry::trace::{Since, TraceContext, Work, WorkSpan, is_on};

use crate::core::{
    FleetView,
    model::{Decision, Role},
};

/// A tick; it ends when what followed from it has been sent.
pub fn tick(fleet: impl FnOnce() -> FleetView, since: Since) -> Option<WorkSpan> {
    if !is_on() {
        return None;
    }
    let fleet = fleet();
    let nodes = |role| {
        fleet
            .nodes
            .iter()
            .filter(|node| node.role == role && !node.is_silent)
            .count() as i64
    };
    Work::internal("tick")
        .since(since)
        .with("tidegate.routers", nodes(Role::Router))
        .with("tidegate.workers", nodes(Role::Worker))
        .with("tidegate.queues", fleet.queues.len() as i64)
        .with("tidegate.resources", fleet.resources.len() as i64)
        .begin()
}

/// A decision; `tick`: the one that it was made in, `None` for one that somebody asked for.
pub fn decision(decision: &Decision, tick: Option<&TraceContext>) {
    if !is_on() {
        return;
    }
    let mut span = Work::internal(format!("decide {}", decision.queue))
        .with("tidegate.queue", decision.queue.to_string())
        .with("tidegate.reason", decision.reason.as_str())
        .with("tidegate.cap", i64::from(decision.cap))
        .with("tidegate.previous_cap", i64::from(decision.previous_cap))
        .with("tidegate.wanted", i64::from(decision.wanted))
        .with("tidegate.target", i64::from(decision.target))
        .with("tidegate.epoch", number(decision.version.epoch))
        .with("tidegate.generation", number(decision.version.generation));
    for (signal, value) in &decision.inputs {
        span = span.with(format!("tidegate.input.{signal}"), *value);
    }
    match tick {
        Some(tick) => span.child_of(tick).done(),
        None => span.done(),
    }
}

/// Attributes are signed.
fn number(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
