//! Speed, measured side by side with something everybody knows, so that figures of different machines compare.

pub mod admission;
pub mod controller;
pub mod hostile;
pub mod overload;
pub mod peers;
pub mod router;
mod stalls;
pub mod store;
pub mod telemetry;
pub mod worker;

use std::time::Instant;

use serde_json::{Map, Value};

use crate::Process;

/// The kernel counts processor time in hundredths of a second.
const TICKS_PER_SECOND: f64 = 100.0;

/// What the names of figures end with that are no whole numbers.
const FINE: [&str; 4] = ["_ms", "_pct", "_per_job", "_mb"];

/// Figures by name, in the order they were measured.
#[derive(Default)]
pub struct Figures(Vec<(String, Vec<f64>)>);

impl Figures {
    pub fn add(&mut self, name: &str, value: f64) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, values)) => values.push(value),
            None => self.0.push((name.to_owned(), vec![value])),
        }
    }

    /// The middle of what was measured under a name.
    pub fn median(&self, name: &str) -> Option<f64> {
        let (_, values) = self.0.iter().find(|(known, _)| known == name)?;
        let mut values = values.clone();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }

    pub fn json(&self) -> Value {
        let median = |(name, _): &(String, Vec<f64>)| {
            (
                name.clone(),
                // Three digits are enough for a time in ms, and all of a rate.
                Value::from((self.median(name).unwrap_or_default() * 1e3).round() / 1e3),
            )
        };
        self.0.iter().map(median).collect::<Map<_, _>>().into()
    }

    /// Name, median, lowest and highest of each figure, in the order they were measured.
    pub fn ranges(&self) -> impl Iterator<Item = (&str, f64, f64, f64)> {
        self.0.iter().map(|(name, values)| {
            let median = self.median(name).unwrap_or_default();
            let low = values.iter().copied().fold(f64::INFINITY, f64::min);
            let high = values.iter().copied().fold(0.0, f64::max);
            (name.as_str(), median, low, high)
        })
    }

    /// One line a figure: median, range, and its ratio to `base` where there is one.
    pub fn print(&self, base: &str) {
        let base = self.median(base);
        for (name, median, low, high) in self.ranges() {
            // No rates: small, and not to be compared.
            if FINE.iter().any(|end| name.ends_with(end)) {
                println!("{name:<32}{median:>12.2}   [{low:.2} .. {high:.2}]");
                continue;
            }
            if name.ends_with("_ratio") {
                println!("{name:<32}{median:>12.3}   [{low:.3} .. {high:.3}]");
                continue;
            }
            let ratio = base.map_or(String::new(), |base| format!("   x{:.2}", median / base));
            println!("{name:<32}{median:>12.0}   [{low:.0} .. {high:.0}]{ratio}");
        }
    }
}

/// The processor time of a process since a moment.
struct Taken {
    ticks: u64,
    at: Instant,
}

impl Taken {
    fn begin(process: &Process) -> Self {
        Self {
            ticks: process.cpu_ticks(),
            at: Instant::now(),
        }
    }

    /// Of one core.
    fn percent(&self, process: &Process) -> f64 {
        let ticks = (process.cpu_ticks() - self.ticks) as f64;
        100.0 * ticks / TICKS_PER_SECOND / self.at.elapsed().as_secs_f64()
    }
}
