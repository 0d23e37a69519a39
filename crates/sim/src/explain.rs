//! A decision of a run with everything that led to it.

use std::fmt::Write as _;

use anyhow::{Result, bail};

use crate::{
    run::{Setup, run},
    scenario::Scenario,
};

/// The last tick at or before `at_s`, in words.
pub fn explain(scenario: &Scenario, strategy: &str, setup: &Setup, at_s: f64) -> Result<String> {
    let outcome = run(
        scenario,
        strategy,
        &Setup {
            keeps_log: true,
            ..setup.clone()
        },
    )?;
    let Some(tick) = outcome.ticks.iter().rfind(|tick| tick.at <= at_s) else {
        bail!("there was no tick at or before {at_s} s");
    };
    let before = outcome.ticks.iter().rfind(|earlier| earlier.at < tick.at);
    let mut text = format!(
        "{}, seed {}, {strategy}, tick at {} s\n",
        scenario.name, setup.seed, tick.at
    );
    for (at, name) in scenario.queues.keys().enumerate() {
        let (choice, cap) = (&tick.choices[at], tick.caps[at]);
        let previous = before.map_or(0, |before| before.caps[at]);
        let _ = writeln!(
            text,
            "\n{name}: cap {previous} -> {cap} of {} decided, {}",
            choice.limit.cap, choice.reason
        );
        if choice.limit.retry_cap < cap {
            let _ = writeln!(text, "  retries at most {}", choice.limit.retry_cap);
        }
        for (number, value) in &choice.numbers {
            let _ = writeln!(text, "  {number:<18} {value:>12.3}");
        }
    }
    Ok(text)
}
