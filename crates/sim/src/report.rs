//! Rows as a table for people and as JSON for programs.

use std::fmt::Write as _;

use anyhow::{Context, Result};

use crate::suite::Row;

/// One table a scenario; below it what was not met, with the reason of the range.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut scenario = None;
    for row in rows {
        if scenario != Some(&row.scenario) {
            scenario = Some(&row.scenario);
            let _ = writeln!(
                text,
                "\n{}\n  {:<10} {:>6} {:>5} {:>8} {:>7} {:>8} {:>7} {:>5} {:>6} {:>6} {:>6} {:>7}  ",
                row.scenario,
                "strategy",
                "seed",
                "tick",
                "goodput",
                "p50 s",
                "p99 s",
                "err %",
                "lost",
                "over %",
                "exh %",
                "conv s",
                "churn"
            );
        }
        let _ = writeln!(
            text,
            "  {:<10} {:>6} {:>5} {:>8.2} {:>7.2} {:>8.2} {:>7.3} {:>5} {:>6.2} {:>6.2} {:>6.0} {:>7.1}  {}",
            row.strategy,
            row.seed,
            row.tick_s,
            row.goodput_pct,
            row.p50_s,
            row.p99_s,
            row.error_pct,
            row.lost,
            row.over_cap_pct,
            row.pool_exhausted_pct,
            row.convergence_s,
            row.churn_per_min,
            if row.pass { "pass" } else { "FAIL" }
        );
        for check in row.checks.iter().filter(|check| !check.holds) {
            let _ = writeln!(
                text,
                "      {} is {:.3}, not {}: {}",
                check.measure, check.value, check.bounds, check.why
            );
        }
    }
    let passed = rows.iter().filter(|row| row.pass).count();
    let _ = writeln!(text, "\n{passed} of {} runs pass", rows.len());
    text
}

/// Every check of every row, met or not.
pub fn details(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let _ = writeln!(
            text,
            "{} {} seed {} tick {} s",
            row.scenario, row.strategy, row.seed, row.tick_s
        );
        for check in &row.checks {
            let mark = if check.holds { "ok  " } else { "FAIL" };
            let _ = writeln!(
                text,
                "  {mark} {:<22} {:>10.3}  {}",
                check.measure, check.value, check.bounds
            );
        }
    }
    text
}

pub fn json(rows: &[Row]) -> Result<String> {
    serde_json::to_string_pretty(rows).context("write the result as JSON")
}
