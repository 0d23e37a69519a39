//! What came of it, measured.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::lane::{Kind, Lane};

pub struct Report {
    /// Acknowledged by the router.
    pub submitted: u64,
    pub succeeded: u64,
    pub dead: u64,
    /// Not at their end when the demo was.
    pub open: u64,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub http_errors: u64,
    pub retries: u64,
    pub over_capacity_pct: f64,
    pub target_changes: u64,
}

impl Report {
    pub async fn of(lane: &Lane, acknowledged: usize) -> anyhow::Result<Self> {
        let views = lane.queue_views().await?;
        let sum = |of: fn(&tidegate_client::QueueView) -> u64| views.iter().map(of).sum::<u64>();
        let counts = &lane.app.counts;
        Ok(Self {
            submitted: acknowledged as u64,
            succeeded: sum(|view| view.succeeded_total),
            dead: sum(|view| view.dead_total),
            open: sum(|view| view.ready + view.scheduled + view.running),
            p50_ms: counts.latency(None, usize::MAX, 0.5),
            p99_ms: counts.latency(None, usize::MAX, 0.99),
            http_errors: counts
                .errors
                .iter()
                .map(|errors| errors.load(Ordering::Relaxed))
                .sum(),
            retries: counts.retries(),
            over_capacity_pct: counts.over_capacity_pct(),
            target_changes: lane.target_changes(),
        })
    }

    /// Acknowledged jobs that are in no state at all: must be 0.
    pub fn lost(&self) -> i64 {
        self.submitted as i64 - (self.succeeded + self.dead + self.open) as i64
    }

    fn json(&self) -> Value {
        json!({
            "submitted": self.submitted, "succeeded": self.succeeded, "dead": self.dead, "open": self.open,
            "lost": self.lost(), "p50_ms": self.p50_ms, "p99_ms": self.p99_ms, "http_errors": self.http_errors,
            "retries": self.retries, "over_capacity_pct": self.over_capacity_pct,
            "target_changes": self.target_changes,
        })
    }
}

pub fn json(reports: &[(Kind, Report)]) -> Value {
    let lanes: serde_json::Map<String, Value> = reports
        .iter()
        .map(|(kind, report)| (kind.name().to_owned(), report.json()))
        .collect();
    json!({ "lanes": lanes })
}
