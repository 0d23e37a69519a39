//! Gradient2 of the public limiters: the limit follows the ratio of a long and a short average of the run time, and a
//! constant allowance lets it grow.

use super::{Choice, Rule, Seen, limit_of};

const START: f64 = 20.0;
const ALLOWANCE: f64 = 4.0;
/// Weight of the newest window in the long average.
const LONG: f64 = 2.0 / 601.0;
const SMOOTH: f64 = 0.2;
const TOLERANCE: f64 = 1.5;

#[derive(Clone, Debug)]
struct Queue {
    limit: f64,
    long: Option<f64>,
}

pub struct Gradient2 {
    queues: Vec<Queue>,
}

impl Gradient2 {
    pub fn new(queues: usize) -> Self {
        Self {
            queues: vec![
                Queue {
                    limit: START,
                    long: None
                };
                queues
            ],
        }
    }
}

impl Rule for Gradient2 {
    fn decide(&mut self, seen: &Seen<'_>) -> Vec<Choice> {
        let queues = self
            .queues
            .iter_mut()
            .zip(&seen.report.queues)
            .zip(seen.scenario.queues.values());
        queues
            .map(|((queue, report), setup)| {
                let times: Vec<f64> = report
                    .run_times
                    .iter()
                    .copied()
                    .filter(|time| time.is_finite())
                    .collect();
                if !times.is_empty() {
                    let short = (times.iter().sum::<f64>() / times.len() as f64).max(1e-6);
                    let mut long = queue.long.unwrap_or(short);
                    long += LONG * (short - long);
                    if long / short > 2.0 {
                        long *= 0.95;
                    }
                    queue.long = Some(long);
                    if report.in_flight >= queue.limit / 2.0 {
                        let gradient = (TOLERANCE * long / short).clamp(0.5, 1.0);
                        let next = queue.limit * gradient + ALLOWANCE;
                        queue.limit = queue.limit * (1.0 - SMOOTH) + next * SMOOTH;
                    }
                }
                queue.limit = queue.limit.clamp(1.0, f64::from(setup.max));
                limit_of(queue.limit, setup)
            })
            .collect()
    }

    fn is_budgeted(&self) -> bool {
        false
    }
}
