//! Who decides: the governor of `flow` in its three strategies, and rules that exist only here, to be compared with.

mod governed;
mod gradient2;
mod oracle;
mod vegas;

use anyhow::{Result, bail};
use tidegate_flow::governor;

use crate::{
    plant::{Limit, News, Report},
    scenario::Scenario,
};

/// What a strategy sees at a tick.
pub struct Seen<'a> {
    /// As it was reported.
    pub report: &'a Report,
    /// As it is; for the oracle only.
    pub truth: &'a Report,
    pub scenario: &'a Scenario,
    pub tick_s: f64,
}

/// A decision for one queue, with its reason and numbers if the rule gives any.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    pub limit: Limit,
    pub reason: &'static str,
    pub numbers: Vec<(&'static str, f64)>,
}

/// One rule with its memory. Choices are in the order of the scenario's queues.
pub trait Rule {
    fn decide(&mut self, seen: &Seen<'_>) -> Vec<Choice>;

    /// Whether others use so much more of a resource (by its place) since the last tick that one is called for now.
    fn is_wave(&self, _scenario: &Scenario, _pool: usize, _others: f64) -> bool {
        false
    }

    /// Whether they use so much less; two looks in a row that say so call for a tick.
    fn is_wave_over(&self, _scenario: &Scenario, _pool: usize, _others: f64) -> bool {
        false
    }

    /// Whether a resource that had room is full, by two looks in a row.
    fn is_filled(&self, _scenario: &Scenario, _pool: usize, _in_use: f64) -> bool {
        false
    }

    /// Whether it obeys the hard cap: raises then wait for what other queues still hold.
    fn is_budgeted(&self) -> bool;

    /// Whether its workers have the reflexes of Tidegate's, and tell it at once when they set in.
    fn has_reflexes(&self) -> bool {
        self.is_budgeted()
    }

    /// Whether what a queue (by its place) has seen in so many seconds since the last tick calls for one now.
    fn is_news(&self, _scenario: &Scenario, _queue: usize, _news: News<'_>, _seconds: f64) -> bool {
        false
    }

    /// Seconds between its ticks, if they are its own choice.
    fn tick_s(&self) -> Option<f64> {
        None
    }
}

/// What `--strategy` takes.
pub const NAMES: &[&str] = &[
    "adaptive",
    "ema_aimd",
    "fixed",
    "static10",
    "static25",
    "static50",
    "static500",
    "vegas",
    "gradient2",
    "oracle",
];

/// A rule by its name; any `staticN` is one.
pub fn by_name(name: &str, scenario: &Scenario) -> Result<Box<dyn Rule>> {
    let queues = scenario.queues.len();
    Ok(match name {
        "adaptive" => Box::new(governed::Governed::new(governor::Strategy::Adaptive)),
        "ema_aimd" => Box::new(governed::Governed::new(governor::Strategy::EmaAimd)),
        "fixed" => Box::new(governed::Governed::new(governor::Strategy::Fixed)),
        "vegas" => Box::new(vegas::Vegas::new(queues)),
        "gradient2" => Box::new(gradient2::Gradient2::new(queues)),
        "oracle" => Box::new(oracle::Oracle),
        other => match other.strip_prefix("static").and_then(|n| n.parse().ok()) {
            Some(cap) if cap > 0 => Box::new(Static { cap }),
            _ => bail!(
                "there is no strategy {other:?}: there are {} and any staticN",
                NAMES.join(", ")
            ),
        },
    })
}

/// A number from a config file, for every queue.
struct Static {
    cap: u32,
}

impl Rule for Static {
    fn decide(&mut self, seen: &Seen<'_>) -> Vec<Choice> {
        let limit = Limit {
            cap: self.cap,
            retry_cap: self.cap,
            ..Limit::default()
        };
        vec![
            Choice {
                limit,
                ..Choice::default()
            };
            seen.report.queues.len()
        ]
    }

    fn is_budgeted(&self) -> bool {
        false
    }
}

/// Median of a tick's run times, seconds.
fn median(times: &[f64]) -> Option<f64> {
    let mut sorted: Vec<f64> = times.iter().copied().filter(|time| time.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

fn limit_of(limit: f64, queue: &crate::scenario::Queue) -> Choice {
    let cap = (limit as u32).clamp(queue.min.max(1), queue.max.max(1));
    Choice {
        limit: Limit {
            cap,
            retry_cap: cap,
            ..Limit::default()
        },
        ..Choice::default()
    }
}
