//! Results as one HTML page with curves.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::Result;
use tidegate_sim::measure::quantile;

use super::{Arm, Figures, Row, Run, faults, suite::Judged, watch::Trace};
use crate::report::{Cell, Chart, Page};

/// Latencies and errors are shown by stretches of this many seconds.
const STRETCH_S: f64 = 5.0;
/// Reasons that say nothing of what was found.
const QUIET: [&str; 4] = ["DEMAND", "HYSTERESIS", "STEP_CAP", "COLD"];

/// Writes the page and its pictures into a folder, and beside it what was seen of every arm; gives the page's path.
pub fn write(all: &[Judged], folder: &Path) -> Result<PathBuf> {
    let mut page = Page::new("Scenarios on real servers");
    page.text(
        "Every arm has servers and workers of its own; all of them met the same arrivals at the same time. p99 is from when a \
         job was due to its success; jobs that had not ended count with the age that they had.",
    );
    for judged in all {
        of_run(&mut page, judged)?;
    }
    let path = page.write(folder)?;
    for judged in all {
        let traces = judged
            .run
            .figures
            .iter()
            .map(|figures| (figures.arm.to_string(), &figures.trace));
        let traces: BTreeMap<String, &Trace> = traces.collect();
        let name = format!("trace-{}-{}.json", judged.run.script.number, judged.repeat);
        std::fs::write(folder.join(name), serde_json::to_string(&traces)?)?;
    }
    Ok(path)
}

fn of_run(page: &mut Page, judged: &Judged) -> Result<()> {
    let run = &judged.run;
    let name = format!("{} ({})", run.script.model.name, judged.repeat);
    page.heading(&name);
    page.text(&format!("{}.", run.script.model.about));
    page.text(&format!(
        "Processors: {:.0} % of the machine, {:.0} % this run itself.{}",
        run.used.machine_pct,
        run.used.own_pct,
        if judged.is_void() {
            " Void: a busy machine shows nothing."
        } else {
            ""
        }
    ));
    let columns = [
        "arm",
        "submitted",
        "done",
        "dead",
        "lost",
        "p50 s",
        "p99 s",
        "errors %",
        "over cap",
        "exhausted %",
        "API p99 ms",
        "API errors",
    ];
    page.table(&columns, judged.rows.iter().map(cells));
    let goals = judged.checks.iter().map(|check| {
        let value = Cell::judged(format!("{:.3}", check.value), check.holds);
        vec![
            Cell::from(check.measure.as_str()),
            value,
            Cell::from(check.bounds.as_str()),
            Cell::from(check.why.as_str()),
        ]
    });
    page.table(&["measure", "value", "goal", "why"], goals);
    for chart in charts(run, &name) {
        page.chart(&chart)?;
    }
    Ok(())
}

fn cells(row: &Row) -> Vec<Cell> {
    let or_none =
        |value: Option<f64>| Cell::from(value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}")));
    vec![
        Cell::from(row.arm.as_str()),
        Cell::from(row.submitted.to_string()),
        Cell::from(row.succeeded.to_string()),
        Cell::from(row.dead.to_string()),
        Cell::from(row.lost.to_string()),
        Cell::from(format!("{:.2}", row.p50_s)),
        Cell::from(format!("{:.2}", row.p99_s)),
        Cell::from(format!("{:.2}", row.error_pct)),
        Cell::from(row.over_cap_samples.to_string()),
        or_none(row.pool_exhausted_pct),
        or_none(row.api_p99_ms),
        Cell::from(row.api_errors.to_string()),
    ]
}

/// Load, caps, running, use of the pool, latency, errors.
pub fn charts(run: &Run, name: &str) -> Vec<Chart> {
    let model = &run.script.model;
    let mut load = Chart::new(format!("{name}: load"), "a second");
    let seconds = || (0..=model.length_s as u32).map(f64::from);
    for (queue, setup) in &model.queues {
        load = load.steps(
            format!("jobs of {queue}"),
            seconds().map(|at| (at, setup.per_s.at(at))),
        );
    }
    for (resource, setup) in &model.resources {
        load = load.steps(
            format!("knee of {resource}"),
            seconds().map(|at| (at, setup.knee.at(at))),
        );
        if let Some(api) = &setup.api {
            load = load.steps("API calls", seconds().map(|at| (at, api.per_s.at(at))));
        }
    }
    for (at, step) in faults::steps(&run.script) {
        if !matches!(step, faults::Step::Knee(_)) {
            load = load.mark(at, format!("{step:?}"));
        }
    }
    let with_jobs = || run.figures.iter().filter(|figures| figures.arm.has_jobs());
    let mut charts = vec![load, caps(run, name)];
    let mut running = Chart::new(format!("{name}: running"), "slots");
    for figures in with_jobs() {
        let slots = figures.trace.queues.iter();
        let slots = slots.map(|(at, queues)| (*at, queues.iter().map(|queue| queue.slots as f64).sum()));
        running = running.curve(figures.arm.to_string(), slots);
    }
    charts.push(running);
    if let Some((hard, capacity)) = run.script.hard_cap() {
        let mut sessions = Chart::new(format!("{name}: use of the pool"), "sessions")
            .limit("all there are", f64::from(capacity))
            .limit("for jobs at most", f64::from(hard));
        for figures in &run.figures {
            let all = figures
                .trace
                .sessions
                .iter()
                .map(|(at, sessions)| (*at, f64::from(sessions.all)));
            sessions = sessions.curve(figures.arm.to_string(), all);
        }
        charts.push(sessions);
        charts.push(by_arm(run, &format!("{name}: API p99"), "ms", api_p99));
        charts.push(by_arm(run, &format!("{name}: API errors"), "in 5 s", api_errors));
    }
    charts.push(by_arm(run, &format!("{name}: latency, p99"), "s", latency));
    charts.push(by_arm(run, &format!("{name}: failed attempts"), "in 5 s", failed));
    charts
}

/// Caps of Tidegate's own arm and the sums of the others', with the reasons that say something.
fn caps(run: &Run, name: &str) -> Chart {
    let mut chart = Chart::new(format!("{name}: caps"), "slots");
    for figures in run.figures.iter().filter(|figures| figures.arm.has_jobs()) {
        let caps = figures.trace.queues.iter();
        let caps = caps.map(|(at, queues)| {
            (
                *at,
                queues.iter().filter_map(|queue| queue.cap).map(f64::from).sum(),
            )
        });
        chart = chart.steps(figures.arm.to_string(), caps);
    }
    let mine = run.figures.iter().find(|figures| figures.arm == Arm::Adaptive);
    let mut last = String::new();
    for (at, decided) in mine.iter().flat_map(|figures| &figures.trace.decided) {
        let loud = decided
            .iter()
            .find(|decided| !QUIET.contains(&decided.reason.as_str()));
        let reason = loud.map_or_else(String::new, |decided| decided.reason.clone());
        if reason != last && !reason.is_empty() {
            chart = chart.mark(*at, reason.clone());
        }
        last = reason;
    }
    chart
}

type Points = Vec<(f64, f64)>;

fn by_arm(run: &Run, title: &str, unit: &str, of: fn(&Figures, f64) -> Points) -> Chart {
    let curves = run.figures.iter();
    curves.fold(Chart::new(title, unit), |chart, figures| {
        chart.curve(figures.arm.to_string(), of(figures, run.script.model.length_s))
    })
}

/// Values (at, value) by stretches, each with what `of` makes of them; a stretch without any is left out.
fn stretches(values: impl Iterator<Item = (f64, f64)>, length_s: f64, of: fn(&[f32]) -> f64) -> Points {
    let count = (length_s / STRETCH_S).ceil() as usize;
    let mut parts: Vec<Vec<f32>> = vec![Vec::new(); count];
    for (at, value) in values {
        if let Some(part) = parts.get_mut((at / STRETCH_S) as usize) {
            part.push(value as f32);
        }
    }
    let middle = |place: usize| (place as f64 + 0.5) * STRETCH_S;
    let parts = parts.iter().enumerate().filter(|(_, part)| !part.is_empty());
    parts.map(|(place, part)| (middle(place), of(part))).collect()
}

fn latency(figures: &Figures, length_s: f64) -> Points {
    let done = figures
        .done
        .iter()
        .map(|job| (job.ended_s, job.ended_s - job.due_s));
    stretches(done, length_s, |part| quantile(part, 0.99))
}

fn api_p99(figures: &Figures, length_s: f64) -> Points {
    let done = figures.calls.iter().filter(|call| call.is_done);
    let done = done.map(|call| (call.due_s, 1_000.0 * call.took_s));
    stretches(done, length_s, |part| quantile(part, 0.99))
}

fn api_errors(figures: &Figures, length_s: f64) -> Points {
    let failed = figures
        .calls
        .iter()
        .map(|call| (call.due_s, if call.is_done { 0.0 } else { 1.0 }));
    stretches(failed, length_s, |part| f64::from(part.iter().sum::<f32>()))
}

fn failed(figures: &Figures, length_s: f64) -> Points {
    let sum = |counts: &[super::watch::Counts]| counts.iter().map(|counts| counts.failed).sum::<u64>() as f64;
    let steps = figures.trace.counts.windows(2).filter_map(|pair| {
        let [(_, before), (at, after)] = pair else {
            return None;
        };
        Some((*at, sum(after) - sum(before)))
    });
    stretches(steps, length_s, |part| f64::from(part.iter().sum::<f32>()))
}
