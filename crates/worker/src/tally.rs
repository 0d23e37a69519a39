//! What this worker saw of each queue since its last report: run times, failures, and how many ran. Pure: the time is an
//! argument.
//!
//! Run times are those of attempts that succeeded; failures are counted beside them by class, so that a flood of refused
//! connections does not look like a queue that has become fast.

use std::collections::HashMap;

use tidegate_client::control::wire_histogram;
use tidegate_flow::histogram::Histogram;
use tidegate_protocol::{
    convert::failure_class_code,
    domain::{FailureClass, QueueName},
    v1,
};

use crate::reflex::Sign;

const CLASSES: [FailureClass; 4] = [
    FailureClass::Overload,
    FailureClass::Down,
    FailureClass::Error,
    FailureClass::Job,
];

#[derive(Debug, Default)]
struct Window {
    run_time: Histogram,
    failures: [u64; CLASSES.len()],
    in_flight: u32,
    /// Job-milliseconds up to `counted_ms`.
    area: u64,
    counted_ms: u64,
}

impl Window {
    fn count_to(&mut self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.counted_ms);
        self.area += passed * u64::from(self.in_flight);
        self.counted_ms = self.counted_ms.max(now_ms);
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Tally {
    queues: HashMap<QueueName, Window>,
    since_ms: u64,
}

impl Tally {
    pub(crate) fn new(names: impl IntoIterator<Item = QueueName>) -> Self {
        let queues = names.into_iter().map(|name| (name, Window::default()));
        Self {
            queues: queues.collect(),
            since_ms: 0,
        }
    }

    pub(crate) fn began(&mut self, now_ms: u64, queue: &QueueName) {
        if let Some(window) = self.queues.get_mut(queue) {
            window.count_to(now_ms);
            window.in_flight += 1;
        }
    }

    pub(crate) fn ended(&mut self, now_ms: u64, queue: &QueueName, sign: Sign, run_ms: u64) {
        let Some(window) = self.queues.get_mut(queue) else {
            return;
        };
        window.count_to(now_ms);
        window.in_flight = window.in_flight.saturating_sub(1);
        match sign {
            Sign::Success => window.run_time.add(run_ms as f64),
            Sign::Failure(class) => {
                let counts = CLASSES.iter().zip(&mut window.failures);
                counts.filter(|(of, _)| **of == class).for_each(|(_, n)| *n += 1);
            }
            Sign::None => {}
        }
    }

    pub(crate) fn window_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.since_ms)
    }

    /// The counts of a queue up to now.
    pub(crate) fn report(&self, now_ms: u64, queue: &QueueName) -> v1::QueueReport {
        let Some(window) = self.queues.get(queue) else {
            return v1::QueueReport::default();
        };
        let passed = now_ms.saturating_sub(window.counted_ms);
        let area = window.area + passed * u64::from(window.in_flight);
        let failure = |(class, count): (&FailureClass, &u64)| v1::FailureCount {
            class: failure_class_code(Some(*class)),
            count: *count,
        };
        let failures = CLASSES.iter().zip(&window.failures);
        v1::QueueReport {
            queue: queue.to_string(),
            run_time: (!window.run_time.is_empty()).then(|| wire_histogram(&window.run_time)),
            failures: failures.filter(|(_, n)| **n > 0).map(failure).collect(),
            mean_in_flight: area as f64 / self.window_ms(now_ms).max(1) as f64,
            in_flight: window.in_flight,
            ..Default::default()
        }
    }

    /// The counts were taken: a new window begins.
    pub(crate) fn begin(&mut self, now_ms: u64) {
        self.since_ms = now_ms;
        for window in self.queues.values_mut() {
            *window = Window {
                in_flight: window.in_flight,
                counted_ms: now_ms,
                ..Window::default()
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_counts_what_ended_in_it_and_the_mean_of_what_ran() {
        let queue: QueueName = "email".parse().expect("valid");
        let mut tally = Tally::new([queue.clone()]);
        tally.began(0, &queue);
        tally.began(500, &queue);
        tally.ended(750, &queue, Sign::Success, 750);
        tally.ended(1_000, &queue, Sign::Failure(FailureClass::Down), 500);
        tally.began(1_000, &queue);
        let report = tally.report(2_000, &queue);
        // 750 + 500 + 1,000 job-milliseconds in 2,000 ms.
        assert_eq!((report.mean_in_flight, report.in_flight), (1.125, 1));
        let run_time = report.run_time.expect("one succeeded");
        assert_eq!((run_time.count, run_time.sum_ms), (1, 750.0));
        let down = v1::FailureCount {
            class: v1::FailureClass::Down.into(),
            count: 1,
        };
        assert_eq!(report.failures, [down]);
        assert_eq!(tally.window_ms(2_000), 2_000);

        tally.begin(2_000);
        let report = tally.report(2_500, &queue);
        assert_eq!(
            (report.mean_in_flight, report.in_flight),
            (1.0, 1),
            "it still runs"
        );
        assert!(report.run_time.is_none() && report.failures.is_empty());
    }

    #[test]
    fn what_was_stopped_only_ends() {
        let queue: QueueName = "email".parse().expect("valid");
        let mut tally = Tally::new([queue.clone()]);
        tally.began(0, &queue);
        tally.ended(10, &queue, Sign::None, 10);
        let report = tally.report(10, &queue);
        assert_eq!((report.in_flight, report.run_time), (0, None));
    }
}
