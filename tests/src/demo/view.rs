//! What the terminal shows: a table that is redrawn, or a line a second where nobody looks at a screen.

use std::{
    io::{IsTerminal, Write},
    time::Duration,
};

use super::{
    QUEUES,
    lane::{Kind, Look},
    load::{Clock, Plan},
    report::Report,
};

const WIDTH: usize = 58;

pub struct View {
    tty: bool,
    drawn: usize,
    said_at: Duration,
    length: Duration,
    slow: std::ops::Range<Duration>,
    burst: std::ops::Range<Duration>,
}

fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    // A reader that has gone away is no error.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

impl View {
    pub fn new(plan: &Plan) -> Self {
        Self {
            tty: std::io::stdout().is_terminal(),
            drawn: 0,
            said_at: Duration::ZERO,
            length: plan.length,
            slow: plan.slow.clone(),
            burst: plan.burst.clone(),
        }
    }

    pub fn say(&self, text: &str) {
        print(&format!("{text}\n"));
    }

    pub fn show(&mut self, clock: &Clock, looks: &[Look]) {
        let now = clock.elapsed();
        if self.tty {
            let lines = self.table(now, looks);
            // Back over what was drawn last.
            let up = if self.drawn > 0 {
                format!("\x1b[{}A", self.drawn)
            } else {
                String::new()
            };
            self.drawn = lines.len();
            let text: String = lines.iter().map(|line| format!("{line}\x1b[K\n")).collect();
            print(&(up + &text));
        } else if now >= self.said_at {
            self.said_at = now + Duration::from_secs(1);
            for look in looks {
                print(&format!("{}\n", line(now, look)));
            }
        }
    }

    fn phase(&self, now: Duration) -> &'static str {
        match (self.slow.contains(&now), self.burst.contains(&now)) {
            _ if now > self.length => "no more arrivals, draining",
            (true, true) => "half the capacity, three times the load",
            (true, false) => "half the capacity",
            (false, true) => "three times the load",
            (false, false) => "calm",
        }
    }

    fn table(&self, now: Duration, looks: &[Look]) -> Vec<String> {
        let mut lines = vec![
            format!("{:5.1} s  {}", now.as_secs_f64(), self.phase(now)),
            String::new(),
        ];
        let title = |look: &Look| match look.kind {
            Kind::Fixed => format!("FIXED concurrency 25      app: {} in flight", look.in_flight),
            Kind::Adaptive => format!("ADAPTIVE                  app: {} in flight", look.in_flight),
        };
        lines.push(
            looks
                .iter()
                .map(|look| format!("{:<WIDTH$}", title(look)))
                .collect(),
        );
        let header = format!(
            "{:<8}{:>7}{:>8}{:>7}{:>9}{:>7}  {}",
            "queue", "waits", "running", "target", "p99", "errors", "why"
        );
        lines.push(looks.iter().map(|_| format!("{header:<WIDTH$}")).collect());
        for i in 0..QUEUES.len() {
            lines.push(
                looks
                    .iter()
                    .map(|look| format!("{:<WIDTH$}", row(i, look)))
                    .collect(),
            );
        }
        lines
    }
}

fn row(i: usize, look: &Look) -> String {
    let queue = &look.queues[i];
    let p99 = queue
        .p99_ms
        .map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0} ms"));
    format!(
        "{:<8}{:>7}{:>8}{:>7}{:>9}{:>7}  {:.12}",
        QUEUES[i].name, queue.waiting, queue.running, queue.target, p99, queue.errors, queue.reason
    )
}

fn line(now: Duration, look: &Look) -> String {
    let queues = look.queues.iter().zip(&QUEUES).map(|(queue, load)| {
        let p99 = queue.p99_ms.unwrap_or_default();
        format!(
            "{} waits={} running={} target={} p99_ms={p99:.0} errors={} {}",
            load.name, queue.waiting, queue.running, queue.target, queue.errors, queue.reason
        )
    });
    let queues: Vec<_> = queues.map(|text| text.trim_end().to_owned()).collect();
    format!(
        "{:5.1} s {:<8} {}",
        now.as_secs_f64(),
        look.kind.name(),
        queues.join(" | ")
    )
}

/// Both lanes side by side.
pub fn summary(reports: &[(Kind, Report)]) {
    let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0} ms"));
    type Cell = fn(&Report) -> String;
    let rows: [(&str, Cell); 9] = [
        ("jobs acknowledged", |r| r.submitted.to_string()),
        ("delivered", |r| r.succeeded.to_string()),
        ("dead", |r| r.dead.to_string()),
        ("still open", |r| r.open.to_string()),
        ("lost", |r| r.lost().to_string()),
        ("failed deliveries", |r| r.http_errors.to_string()),
        ("retries", |r| r.retries.to_string()),
        ("time over capacity", |r| format!("{:.1} %", r.over_capacity_pct)),
        ("changes of a target", |r| r.target_changes.to_string()),
    ];
    let cells = |text: &str, of: &dyn Fn(&Report) -> String| {
        let values: String = reports
            .iter()
            .map(|(_, report)| format!("{:>12}", of(report)))
            .collect();
        print(&format!("{text:<24}{values}\n"));
    };
    let names: String = reports
        .iter()
        .map(|(kind, _)| format!("{:>12}", kind.name()))
        .collect();
    print(&format!("\n{:<24}{names}\n", ""));
    for (text, of) in rows {
        cells(text, &of);
    }
    cells("submit to done, p50", &|report| ms(report.p50_ms));
    cells("submit to done, p99", &|report| ms(report.p99_ms));
}
