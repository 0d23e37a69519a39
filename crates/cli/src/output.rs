//! Printing: aligned columns for people, JSON for programs.

use std::io::Write as _;

use serde_json::{Value, json};
use tidegate_client::{JobView, QueueView};

/// Prints a line; a reader that has gone away (`| head`) is no error.
pub fn line(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

pub fn json_line(value: &Value) {
    line(value);
}

/// Columns as wide as their widest cell.
pub fn table(header: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .map(|row| row.get(column).map_or(0, |cell| cell.chars().count()));
        cells.chain([header[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let print = |cells: Vec<&str>| {
        let padded: Vec<String> = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        line(padded.join("  ").trim_end());
    };
    print(header.to_vec());
    for row in rows {
        print(row.iter().map(String::as_str).collect());
    }
}

/// Bytes as JSON if they are, as text if they are, else their length.
pub fn payload(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes)
        .or_else(|_| std::str::from_utf8(bytes).map(|text| Value::from(text.to_owned())))
        .unwrap_or_else(|_| json!({ "bytes": bytes.len() }))
}

pub fn job(job: &JobView) -> Value {
    let lost: Vec<Value> = job
        .lost
        .iter()
        .map(|loss| json!({ "at_ms": loss.at_ms, "incarnation": loss.incarnation }))
        .collect();
    json!({
        "id": job.id.to_string(), "queue": job.queue().as_str(), "state": job.state.as_str(),
        "payload": payload(&job.payload), "headers": job.headers, "key": job.idempotency_key,
        "attempts": job.attempts, "max_attempts": job.max_attempts, "losses": job.losses, "lost": lost, "fence": job.fence,
        "created_ms": job.created_ms, "due_ms": job.due_ms, "deadline_ms": job.deadline_ms,
        "finished_ms": job.finished_ms, "error": job.error, "reason": job.reason, "result": payload(&job.result),
    })
}

pub fn queue(queue: &QueueView) -> Value {
    let cap = queue.cap.map(|record| {
        json!({
            "cap": record.cap.cap, "retry_cap": record.cap.retry_cap, "safe": record.cap.safe,
            "expires_ms": record.expires_ms, "epoch": record.version.epoch, "generation": record.version.generation,
        })
    });
    json!({
        "name": queue.name, "paused": queue.paused, "scheduled": queue.scheduled, "ready": queue.ready,
        "ready_retries": queue.ready_retries, "running": queue.running, "slots": queue.slots, "dead": queue.dead,
        "succeeded": queue.succeeded, "cancelled": queue.cancelled, "expired": queue.expired,
        "submitted_total": queue.submitted_total, "succeeded_total": queue.succeeded_total,
        "dead_total": queue.dead_total, "oldest_ready_age_ms": queue.oldest_ready_age_ms,
        "effective_cap": queue.effective_cap, "cap": cap, "sessions": queue.sessions,
    })
}
