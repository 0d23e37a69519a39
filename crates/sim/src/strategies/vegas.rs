//! TCP Vegas for concurrency, as the public limiters have it: the queue at the server, estimated from the best run time
//! ever seen, is kept between two bounds that grow with the logarithm of the limit.

use super::{Choice, Rule, Seen, limit_of, median};

const START: f64 = 20.0;
/// Windows after which the best run time is forgotten.
const PROBE_WINDOWS: u32 = 300;

#[derive(Clone, Debug)]
struct Queue {
    limit: f64,
    best: f64,
    windows: u32,
}

pub struct Vegas {
    queues: Vec<Queue>,
}

impl Vegas {
    pub fn new(queues: usize) -> Self {
        Self {
            queues: vec![
                Queue {
                    limit: START,
                    best: f64::INFINITY,
                    windows: 0
                };
                queues
            ],
        }
    }
}

impl Rule for Vegas {
    fn decide(&mut self, seen: &Seen<'_>) -> Vec<Choice> {
        let queues = self
            .queues
            .iter_mut()
            .zip(&seen.report.queues)
            .zip(seen.scenario.queues.values());
        queues
            .map(|((queue, report), setup)| {
                let failed = report.overload + report.down + report.errors;
                let log = queue.limit.log10().max(1.0);
                if failed > 0 {
                    queue.limit -= log;
                } else if let Some(now) = median(&report.run_times) {
                    queue.windows += 1;
                    if queue.windows > PROBE_WINDOWS {
                        (queue.windows, queue.best) = (0, now);
                    }
                    queue.best = queue.best.min(now);
                    let waiting = queue.limit * (1.0 - queue.best / now);
                    // A limit that is not used says nothing.
                    if report.in_flight * 2.0 >= queue.limit {
                        queue.limit += match waiting {
                            few if few <= log => 6.0 * log,
                            few if few < 3.0 * log => log,
                            many if many > 6.0 * log => -log,
                            _ => 0.0,
                        };
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
