//! The answer: a table, JSON, and a page with the article's four panels.

use std::{fmt::Write as _, time::Duration};

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    ground::Ground,
    judge::{Check, Figures, Verdict},
    offer::Answer,
    plan::{Kind, Plan},
    watch::Look,
};
use crate::{
    load::Latencies,
    report::{Cell, Chart, Page},
};

/// A second whose slowest hundredth is one job says little, but shows where to look.
const SLICE: Duration = Duration::from_secs(1);

fn word(check: &Check) -> &'static str {
    match check.holds {
        Some(true) => "ok",
        Some(false) => "FAILED",
        None => "-",
    }
}

const COLUMNS: [&str; 11] = [
    "phase", "queue", "sent", "admitted", "refused", "failed", "lost", "retried", "p50 ms", "p99 ms",
    "max ms",
];

fn row(figures: &Figures) -> [String; COLUMNS.len()] {
    let ms = |value: f64| format!("{value:.1}");
    [
        figures.phase.to_owned(),
        figures.queue.to_owned(),
        figures.sent.to_string(),
        figures.admitted.to_string(),
        figures.refused.to_string(),
        figures.failed.to_string(),
        figures.lost.to_string(),
        figures.retried.to_string(),
        ms(figures.p50_ms),
        ms(figures.p99_ms),
        ms(figures.max_ms),
    ]
}

pub fn table(verdict: &Verdict) -> String {
    let mut text = String::new();
    let line = |cells: &[String]| {
        let cells = cells.iter().enumerate().map(|(at, cell)| match at {
            0 | 1 => format!("{cell:<11}"),
            _ => format!("{cell:>9}"),
        });
        cells.collect::<String>()
    };
    let _ = writeln!(text, "{}", line(&COLUMNS.map(str::to_owned)));
    for figures in &verdict.figures {
        let _ = writeln!(text, "{}", line(&row(figures)));
    }
    text.push('\n');
    for check in &verdict.checks {
        let _ = writeln!(
            text,
            "{:<7} {:<14} {}: {}",
            word(check),
            check.id,
            check.wanted,
            check.found
        );
    }
    text
}

pub fn json(verdict: &Verdict) -> Value {
    let phases: Vec<Value> = verdict
        .figures
        .iter()
        .map(|one| {
            json!({
                "phase": one.phase, "queue": one.queue, "sent": one.sent, "admitted": one.admitted,
                "refused": one.refused, "failed": one.failed, "lost": one.lost, "retried": one.retried,
                "errors_pct": one.errors_pct(), "p50_ms": one.p50_ms, "p99_ms": one.p99_ms, "max_ms": one.max_ms,
            })
        })
        .collect();
    let checks: Vec<Value> = verdict
        .checks
        .iter()
        .map(|one| json!({ "id": one.id, "wanted": one.wanted, "found": one.found, "holds": one.holds }))
        .collect();
    json!({ "ok": verdict.holds(), "phases": phases, "checks": checks })
}

pub fn page(plan: &Plan, ground: &Ground<'_>, verdict: &Verdict) -> Result<Page> {
    let mut page = Page::new("Load test of the checklist");
    page.text(&plan.in_words());
    page.text(match ground.is_given() {
        true => "A running fleet; the two queues of the load were added for it.",
        false => "A fleet of its own: Redis, two routers, a controller, Postgres behind PgBouncer.",
    });
    page.heading("Answer");
    let checks = verdict.checks.iter().map(|check| {
        let judged = match check.holds {
            Some(holds) => Cell::judged(word(check), holds),
            None => Cell::from(word(check)),
        };
        vec![check.wanted.clone().into(), check.found.clone().into(), judged]
    });
    page.table(&["wanted", "found", ""], checks);
    page.heading("Phases");
    let rows = verdict
        .figures
        .iter()
        .map(|figures| row(figures).map(Cell::from).into());
    page.table(&COLUMNS, rows);
    page.heading("Curves");
    for chart in charts(plan, ground.budget(), verdict) {
        let phased = plan.phases.iter().fold(chart, |chart, phase| {
            chart.phase(phase.name, phase.from.as_secs_f64(), phase.to.as_secs_f64())
        });
        page.chart(&phased)?;
    }
    Ok(page)
}

/// What one second of arrivals came to.
#[derive(Default)]
struct Slice {
    short: Latencies,
    sent: u64,
    refused: u64,
    errors: u64,
    retried: u64,
}

fn slices(plan: &Plan, verdict: &Verdict) -> Vec<Slice> {
    let count = (plan.length().as_secs_f64() / SLICE.as_secs_f64()).ceil() as usize;
    let mut slices: Vec<Slice> = (0..count).map(|_| Slice::default()).collect();
    for (offered, ran) in verdict.offered.iter().zip(&verdict.ran) {
        let at = (offered.arrival.due.as_secs_f64() / SLICE.as_secs_f64()) as usize;
        let Some(slice) = slices.get_mut(at) else { continue };
        slice.sent += 1;
        match (&offered.answer, ran.done) {
            (Answer::Refused(_), _) => slice.refused += 1,
            (Answer::Failed(_), _) | (Answer::Admitted { .. }, None) => slice.errors += 1,
            (Answer::Admitted { .. }, Some(done)) => {
                slice.retried += u64::from(ran.attempts > 1);
                if offered.arrival.kind == Kind::Short {
                    slice.short.add(done.saturating_duration_since(offered.due));
                }
            }
        }
    }
    slices
}

/// The article's four panels, and the load.
fn charts(plan: &Plan, budget: u32, verdict: &Verdict) -> [Chart; 5] {
    let slices = slices(plan, verdict);
    let per_second = |of: &dyn Fn(&Slice) -> f64| -> Vec<(f64, f64)> {
        let points = slices.iter().enumerate();
        points
            .map(|(at, slice)| ((at as f64 + 0.5) * SLICE.as_secs_f64(), of(slice)))
            .collect()
    };
    let quantile = |at: f64| {
        per_second(&move |slice| match slice.short.count() {
            0 => f64::NAN,
            _ => slice.short.ms(at),
        })
    };
    let before = verdict.start.saturating_duration_since(verdict.seen.start);
    let looks = |of: &dyn Fn(&Look) -> Option<f64>| -> Vec<(f64, f64)> {
        let looks = verdict.seen.looks.seen.iter();
        looks
            .filter_map(|(at, look)| Some((at.checked_sub(before)?.as_secs_f64(), of(look)?)))
            .collect()
    };
    let load = Chart::new("Load", "jobs a second")
        .curve("sent", per_second(&|slice| slice.sent as f64))
        .curve("refused", per_second(&|slice| slice.refused as f64));
    let latency = Chart::new("Latency of short jobs from due to done", "ms")
        .curve("p50", quantile(0.5))
        .curve("p99", quantile(0.99))
        .limit("goal at the peak", 50.0);
    let mut depth = Chart::new("Depth", "jobs waiting");
    let mut control = Chart::new("Running and cap", "jobs");
    for (number, kind) in Kind::ALL.into_iter().enumerate() {
        let queue = kind.queue();
        depth = depth.curve(queue, looks(&|look| Some(look.queues[number].waiting as f64)));
        control = control
            .curve(
                format!("{queue} running"),
                looks(&|look| Some(look.queues[number].running as f64)),
            )
            .steps(
                format!("{queue} cap"),
                looks(&|look| look.queues[number].cap.map(f64::from)),
            );
    }
    control = control
        .curve("connections at work", looks(&|look| look.at_work.map(f64::from)))
        .limit("0.7 of the pool", f64::from(budget));
    for (at, reason) in reasons(verdict, before) {
        control = control.mark(at, reason);
    }
    let errors = Chart::new("Errors and retries", "jobs a second")
        .curve("errors", per_second(&|slice| slice.errors as f64))
        .curve(
            "not by the first attempt",
            per_second(&|slice| slice.retried as f64),
        );
    [load, latency, depth, control, errors]
}

/// Each change of why the short jobs' cap is what it is.
fn reasons(verdict: &Verdict, before: Duration) -> Vec<(f64, String)> {
    let mut changes: Vec<(f64, String)> = Vec::new();
    for (at, look) in &verdict.seen.looks.seen {
        let reason = &look.queues[0].reason;
        let is_new = changes.last().is_none_or(|(_, last)| last != reason);
        if let Some(at) = at.checked_sub(before)
            && is_new
            && !reason.is_empty()
        {
            changes.push((at.as_secs_f64(), reason.clone()));
        }
    }
    changes
}
