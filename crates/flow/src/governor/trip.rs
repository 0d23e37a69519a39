//! A downstream that is gone: a few jobs ask for it, and it is loaded step by step once it answers.
//!
//! Failures of class down trip it at once. Overload does not: a resource that refuses is there, and taking everything
//! away from it costs more than it saves (measured: 20 s in the halved-capacity scenario).

use super::{inputs::QueueInputs, params::DOWN};
use crate::codec::{plain, plain_choice};

/// Results that say something about a downstream.
const RESULTS_MIN: u64 = 5;
/// Ticks in a row with at least [`DOWN`] failures of any class that mean the same.
const BAD_TICKS_MAX: u32 = 3;
/// Failures among probes that still count as an answer.
const PROBES_FAILED_MAX: f64 = 0.34;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Closed,
    Open,
    /// It answers; the limit doubles.
    Half,
}

impl Phase {
    pub const ALL: &[Phase] = &[Phase::Closed, Phase::Open, Phase::Half];
}
plain_choice!(Phase);

/// See the [module](self).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trip {
    pub phase: Phase,
    pub limit: u32,
    /// What ran before, to come back to.
    pub before: u32,
    pub bad_ticks: u32,
    /// A worker had seen it gone at the last tick: only the news of it counts, because a worker that gets no jobs any
    /// more does not learn that it is over.
    pub was_down: bool,
    pub has_just_closed: bool,
}
plain!(Trip {
    phase,
    limit,
    before,
    bad_ticks,
    was_down,
    has_just_closed,
});

impl Trip {
    pub fn take(&mut self, inputs: &QueueInputs, target: u32, busy: u32) {
        let results = inputs.results();
        let share = |n: u64| n as f64 / results.max(1) as f64;
        let is_bad = results >= RESULTS_MIN && share(inputs.failures()) >= DOWN;
        self.bad_ticks = if is_bad {
            self.bad_ticks.saturating_add(1)
        } else {
            0
        };
        let is_gone = results >= RESULTS_MIN && share(inputs.down) >= DOWN;
        let is_news = inputs.is_down && !self.was_down && inputs.down > 0;
        self.was_down = inputs.is_down;
        self.has_just_closed = false;
        let floor = inputs.min.max(1);
        match self.phase {
            Phase::Closed if is_news || is_gone || self.bad_ticks >= BAD_TICKS_MAX => {
                self.phase = Phase::Open;
                self.limit = floor;
                self.before = target.min(busy).max(floor);
                self.bad_ticks = 0;
            }
            Phase::Closed => {}
            Phase::Open if results > 0 && share(inputs.failures()) <= PROBES_FAILED_MAX => {
                self.phase = Phase::Half;
                self.limit = floor.saturating_mul(2);
            }
            Phase::Half if results > 0 && share(inputs.down.saturating_add(inputs.errors)) >= DOWN => {
                self.phase = Phase::Open;
                self.limit = floor;
            }
            // Without results nothing has been learned.
            Phase::Half if results > 0 => {
                self.limit = self.limit.saturating_mul(2).min(self.before);
                if self.limit >= self.before {
                    self.phase = Phase::Closed;
                    self.has_just_closed = true;
                    self.bad_ticks = 0;
                }
            }
            Phase::Open | Phase::Half => {}
        }
    }

    /// What it leaves; `None`: everything.
    pub fn limit(&self) -> Option<u32> {
        (self.phase != Phase::Closed).then_some(self.limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::Histogram;

    fn results(good: u32, down: u64, overload: u64) -> QueueInputs {
        let run_time = Histogram::from_parts(&[good], 0.0, 0.0);
        QueueInputs {
            min: 1,
            run_time,
            down,
            overload,
            ..QueueInputs::default()
        }
    }

    #[test]
    fn down_trips_it_and_good_probes_bring_it_back_by_doubling() {
        let mut trip = Trip::default();
        trip.take(&results(4, 6, 0), 14, 99);
        assert_eq!((trip.phase, trip.limit()), (Phase::Open, Some(1)));
        trip.take(&results(0, 0, 0), 1, 99);
        assert_eq!(trip.phase, Phase::Open, "nothing was learned");
        trip.take(&results(0, 1, 0), 1, 99);
        let mut limits = Vec::new();
        while trip.phase != Phase::Closed {
            trip.take(&results(3, 0, 0), 1, 99);
            limits.extend(trip.limit());
        }
        assert_eq!(limits, [2, 4, 8]);
    }

    #[test]
    fn failures_on_the_way_back_open_it_again() {
        let mut trip = Trip {
            phase: Phase::Half,
            limit: 8,
            before: 20,
            ..Trip::default()
        };
        trip.take(&results(1, 3, 0), 8, 99);
        assert_eq!((trip.phase, trip.limit), (Phase::Open, 1));
    }

    #[test]
    fn a_word_of_a_worker_trips_it_and_overload_only_after_three_ticks() {
        let mut trip = Trip::default();
        trip.take(
            &QueueInputs {
                is_down: true,
                down: 5,
                min: 2,
                ..QueueInputs::default()
            },
            9,
            99,
        );
        assert_eq!((trip.phase, trip.limit), (Phase::Open, 2));
        let mut trip = Trip::default();
        let phases: Vec<Phase> = (0..3)
            .map(|_| {
                trip.take(&results(2, 0, 8), 9, 99);
                trip.phase
            })
            .collect();
        assert_eq!(phases, [Phase::Closed, Phase::Closed, Phase::Open]);
    }
}
