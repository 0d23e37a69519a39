//! Numbers of a run, by the names that scenario files and the JSON use.

use anyhow::{Result, bail};

use crate::{
    plant::{PoolMeter, QueueMeter, Second},
    run::Outcome,
    scenario::{Event, Needs, Scenario},
};

/// Recovery is over when it has lasted this long.
const LASTS_S: usize = 10;
/// Seconds that numbers of a second are averaged over for comparisons.
const SMOOTH_S: usize = 5;

/// A value in an ordered list below which a share of it lies; 0 for an empty one.
pub fn quantile(values: &[f32], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().map_or(0.0, f64::from)
}

fn share_pct(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

/// A run beside the oracle's on the same seed.
pub struct Measures<'a> {
    pub scenario: &'a Scenario,
    pub outcome: &'a Outcome,
    pub oracle: &'a Outcome,
}

impl Measures<'_> {
    /// By name; `NAME.QUEUE` is of one queue.
    pub fn get(&self, name: &str) -> Result<f64> {
        let meter = &self.outcome.meter;
        let (measure, only) = match name.split_once('.') {
            Some((measure, queue)) => match self.scenario.queues.keys().position(|known| known == queue) {
                Some(at) => (measure, Some(at)),
                None => bail!("{name}: there is no queue {queue}"),
            },
            None => (name, None),
        };
        let queues = || {
            meter
                .queues
                .iter()
                .enumerate()
                .filter(|(at, _)| only.is_none_or(|only| only == *at))
        };
        let sum = |of: fn(&QueueMeter) -> u64| queues().map(|(_, queue)| of(queue)).sum::<u64>();
        let done = || queues().map(|(_, queue)| queue.sojourns.len() as u64).sum();
        let waits = || -> Vec<f32> {
            queues()
                .flat_map(|(_, queue)| queue.sojourns.iter().chain(&queue.unfinished).copied())
                .collect()
        };
        let pools = &meter.pools;
        let length_s = self.outcome.length_s;
        let share_of_time =
            |of: fn(&PoolMeter) -> f64| pools.iter().map(of).fold(0.0, f64::max) * 100.0 / length_s;
        Ok(match measure {
            "goodput_pct" => self.goodput(only),
            "p50_s" => quantile(&waits(), 0.5),
            "p99_s" => quantile(&waits(), 0.99),
            "error_pct" => share_pct(sum(|queue| queue.failed), sum(|queue| queue.attempts)),
            "lost" => sum(|queue| queue.dead) as f64,
            "attempts" => sum(|queue| queue.attempts) as f64,
            "redelivered" => sum(|queue| queue.redelivered) as f64,
            "refused_pct" => share_pct(sum(|queue| queue.refused), sum(|queue| queue.submitted)),
            "served_pct" => share_pct(done(), sum(|queue| queue.submitted)),
            "over_cap_pct" => share_of_time(|pool| pool.over_s),
            "pool_exhausted_pct" => share_of_time(|pool| pool.exhausted_s),
            "api_error_pct" => {
                let calls = pools.iter().map(|pool| pool.calls).sum();
                share_pct(pools.iter().map(|pool| pool.calls_failed).sum(), calls)
            }
            "api_p99_ms" => {
                let times: Vec<f32> = pools
                    .iter()
                    .flat_map(|pool| pool.call_times.iter().copied())
                    .collect();
                1_000.0 * quantile(&times, 0.99)
            }
            "convergence_s" => self.convergence_s(),
            "churn_per_min" => {
                self.outcome.moved as f64 / (length_s / 60.0) / self.scenario.queues.len() as f64
            }
            other => bail!("{other} is no measure: see crates/sim/README.md"),
        })
    }

    fn goodput(&self, only: Option<usize>) -> f64 {
        let done = |outcome: &Outcome| -> usize {
            let queues = outcome.meter.queues.iter().enumerate();
            queues
                .filter(|(at, _)| only.is_none_or(|only| only == *at))
                .map(|(_, queue)| queue.sojourns.len())
                .sum()
        };
        100.0 * done(self.outcome) as f64 / done(self.oracle).max(1) as f64
    }

    /// Of the slowest recovery; 0 where nothing is to be recovered from.
    fn convergence_s(&self) -> f64 {
        self.scenario
            .events
            .iter()
            .map(|event| self.recovery_s(event))
            .fold(0.0, f64::max)
    }

    fn recovery_s(&self, event: &Event) -> f64 {
        if event.needs == Needs::Rest {
            return (self.outcome.last_change_s - event.at_s).max(0.0);
        }
        let from = event.at_s as usize;
        let end = self.outcome.length_s as usize;
        let (mine, best) = (
            smoothed(&self.outcome.meter.seconds),
            smoothed(&self.oracle.meter.seconds),
        );
        let is_well = |second: usize| {
            let (Some(mine), Some(best)) = (mine.get(second), best.get(second)) else {
                return true;
            };
            match event.needs {
                // A backlog that a few seconds of work clear holds nobody up.
                Needs::More => mine.running >= 0.9 * best.running - 1.0 || mine.ready <= 0.5 * mine.running,
                Needs::Less | Needs::Rest => mine.running <= 1.1 * best.running + 2.0,
            }
        };
        let mut well = 0;
        for second in from..end {
            well = if is_well(second) { well + 1 } else { 0 };
            if well >= LASTS_S {
                return (second + 1 - LASTS_S - from) as f64;
            }
        }
        f64::INFINITY
    }
}

/// Means over the seconds before, so that a single job more or less is no difference.
fn smoothed(seconds: &[Second]) -> Vec<Second> {
    let mean =
        |window: &[Second], of: fn(&Second) -> f64| window.iter().map(of).sum::<f64>() / window.len() as f64;
    (0..seconds.len())
        .map(|at| {
            let window =
                &seconds[at.saturating_sub(SMOOTH_S / 2)..(at + SMOOTH_S / 2 + 1).min(seconds.len())];
            Second {
                running: mean(window, |second| second.running),
                ready: mean(window, |second| second.ready),
                done: seconds[at].done,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_values() {
        let values: Vec<f32> = (1..=100).map(|n| n as f32).collect();
        assert_eq!(
            (
                quantile(&values, 0.5),
                quantile(&values, 0.99),
                quantile(&[], 0.5)
            ),
            (50.0, 99.0, 0.0)
        );
    }
}
