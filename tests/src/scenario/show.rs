//! Results as text.

use std::{collections::BTreeMap, fmt::Write as _};

use super::{Row, suite::Judged};

const HEAD: &str = "arm        submitted  done  dead lost twice attempts leases   p50 s   p99 s  err %  over exh %  api p99 ms errors conv s  churn";

/// One run: a line an arm, then the goals.
pub fn text(judged: &Judged) -> String {
    let run = &judged.run;
    let mut text = format!(
        "\n{}, repeat {}, seed {}, {} s: {}\n  processors: {:.0} % of the machine, {:.0} % this run itself{}\n  {HEAD}\n",
        run.script.model.name,
        judged.repeat,
        run.seed,
        run.script.model.length_s,
        run.script.model.about,
        run.used.machine_pct,
        run.used.own_pct,
        if judged.is_void() {
            ": VOID, a busy machine shows nothing"
        } else {
            ""
        },
    );
    for row in &judged.rows {
        let _ = writeln!(text, "  {}", line(row));
    }
    for check in &judged.checks {
        let mark = if check.holds { "pass" } else { "FAIL" };
        let _ = writeln!(
            text,
            "  {mark} {} is {:.3}, goal {}: {}",
            check.measure, check.value, check.bounds, check.why
        );
    }
    text
}

fn line(row: &Row) -> String {
    let or_none = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
    format!(
        "{:<10} {:>9} {:>5} {:>5} {:>4} {:>5} {:>8} {:>6} {:>7.2} {:>7.2} {:>6.2} {:>5} {:>5} {:>11} {:>6} {:>6.0} {:>6.1}",
        row.arm,
        row.submitted,
        row.succeeded,
        row.dead,
        row.lost,
        row.double_results,
        row.attempts,
        row.leases_lost,
        row.p50_s,
        row.p99_s,
        row.error_pct,
        row.over_cap_samples,
        or_none(row.pool_exhausted_pct),
        or_none(row.api_p99_ms),
        row.api_errors,
        row.convergence_s,
        row.churn_per_min,
    )
}

/// Medians and ranges over the repeats, and how many runs met every goal.
pub fn summary(all: &[Judged]) -> String {
    let mut groups: BTreeMap<(usize, String), Vec<&Row>> = BTreeMap::new();
    let mut names: Vec<&str> = Vec::new();
    for judged in all {
        let name = judged.run.script.model.name.as_str();
        let place = names.iter().position(|known| *known == name).unwrap_or_else(|| {
            names.push(name);
            names.len() - 1
        });
        for row in &judged.rows {
            groups.entry((place, row.arm.clone())).or_default().push(row);
        }
    }
    let mut text = "\np99 in seconds and errors in percent, median [range]\n".to_owned();
    for ((place, arm), rows) in &groups {
        let _ = writeln!(
            text,
            "  {:<22} {arm:<10} {} s  {} %",
            names[*place],
            median(rows, |row| row.p99_s),
            median(rows, |row| row.error_pct)
        );
    }
    let void = all.iter().filter(|judged| judged.is_void()).count();
    let passed = all
        .iter()
        .filter(|judged| !judged.is_void() && judged.checks.iter().all(|check| check.holds));
    let _ = writeln!(
        text,
        "{} of {} runs pass, {void} are void",
        passed.count(),
        all.len()
    );
    text
}

fn median(rows: &[&Row], of: fn(&Row) -> f64) -> String {
    let mut values: Vec<f64> = rows.iter().map(|row| of(row)).collect();
    values.sort_by(f64::total_cmp);
    let middle = values[values.len() / 2];
    let (low, high) = (values[0], values[values.len() - 1]);
    format!("{middle:.2} [{low:.2} .. {high:.2}]")
}
