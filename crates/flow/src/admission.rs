//! Whether to take a job that would wait longer than its queue allows.
//!
//! A queue that gets more than it can do grows without end, and then everybody in it waits too long. Refusing the rest
//! at the door keeps what is taken within its deadline. The wait is predicted by Little's law; what is taken is what can be
//! done, corrected so that the wait comes to half the deadline within half a deadline: at half of it as much is taken as
//! is done, at all of it nothing, below it more. So there is no edge to oscillate around, which a share refused by the
//! wait alone has when arrivals are many times the throughput. Tiers are queues: the most important one is refused last
//! because the division of budgets has served its demand first.

use crate::codec::plain;

/// Completions before which a throughput says nothing.
const COMPLETIONS_MIN: u64 = 30;
const COMPLETIONS_FEW: u64 = 5;
/// Weight of the newest tick in the throughput and the arrivals, over 5 s.
const ALPHA: f64 = 0.5;
const MEMORY_S: f64 = 5.0;

/// What is known of a queue at a tick.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Inputs {
    /// 0: it may wait for ever.
    pub deadline_s: f64,
    pub ready: u64,
    pub arrivals: u64,
    pub completions: u64,
    /// Mean of the completions; 0: there were none.
    pub run_time_s: f64,
    pub target: u32,
    pub slots: u64,
    pub seconds: f64,
}

/// What is remembered of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct State {
    completions: u64,
    /// Jobs a second.
    throughput: f64,
    arrivals: f64,
    /// Mean, seconds.
    run_time_s: f64,
    /// Of the last tick.
    ready: u64,
    target: u32,
}
plain!(State {
    completions,
    throughput,
    arrivals,
    run_time_s,
    ready,
    target
});

/// The gate until the next tick.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Gate {
    /// Share of submissions to refuse.
    pub refuse: f64,
    pub retry_after_s: f64,
    pub predicted_wait_s: f64,
}

impl State {
    pub fn take(&mut self, inputs: &Inputs) -> Gate {
        if inputs.slots == 0 {
            // Nobody is there, so nothing is done, and that says nothing of whoever comes next: a rate that has sunk
            // meanwhile would refuse everything until he is done with his first jobs.
            *self = Self::default();
            return Gate::default();
        }
        let seconds = if inputs.seconds.is_finite() {
            inputs.seconds.clamp(0.05, 60.0)
        } else {
            MEMORY_S
        };
        let weight = 1.0 - (1.0 - ALPHA).powf(seconds / MEMORY_S);
        let is_first = self.completions == 0;
        // Every slot had work all along.
        let was_busy =
            self.ready.min(inputs.ready) >= u64::from(self.target.max(1)) && self.target >= inputs.target;
        (self.ready, self.target) = (inputs.ready, inputs.target);
        self.completions = self.completions.saturating_add(inputs.completions);
        let mix = |old: f64, new: f64| if is_first { new } else { old + weight * (new - old) };
        let done = inputs.completions as f64 / seconds;
        self.throughput = mix(self.throughput, done);
        self.arrivals = mix(self.arrivals, inputs.arrivals as f64 / seconds);
        if inputs.run_time_s > 0.0 && inputs.run_time_s.is_finite() {
            self.run_time_s = mix(self.run_time_s, inputs.run_time_s);
        }
        // A rough throughput will do for a backlog that is long by any.
        let is_known = self.completions >= COMPLETIONS_MIN
            || (self.completions >= COMPLETIONS_FEW && inputs.ready >= COMPLETIONS_MIN);
        let has_deadline = inputs.deadline_s > 0.0 && inputs.deadline_s.is_finite();
        if !has_deadline || !is_known {
            return Gate::default();
        }
        let rate = self.rate(inputs, was_busy, done).max(1e-3);
        let wait = inputs.ready as f64 / rate;
        let half = inputs.deadline_s / 2.0;
        let taken = rate * (2.0 - wait / half).max(0.0);
        Gate {
            refuse: (1.0 - taken / self.arrivals.max(1e-9)).clamp(0.0, 1.0),
            retry_after_s: (wait - half).max(0.0),
            predicted_wait_s: wait,
        }
    }

    /// Jobs a second that can be done now.
    fn rate(&self, inputs: &Inputs, was_busy: bool, done: f64) -> f64 {
        if was_busy {
            // Whatever the slots promise: the time between two jobs, a store or a machine that is slow are in it.
            return self.throughput.max(done);
        }
        // What has been refused or has just been given more slots could be served, although it was not.
        let could = f64::from(inputs.target) / self.run_time_s.max(1e-3);
        self.throughput.max(could)
    }
}

/// A queue's refusal beside others that use the same thing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tiered {
    /// 0 is refused last.
    pub tier: u32,
    pub refuse: f64,
}

/// The less important give way first: whoever shares a resource with a more important queue that refuses, refuses at least
/// twice its share. So it has closed before the other one refuses half.
pub fn give_way(queues: &mut [Tiered]) {
    let mut order: Vec<usize> = (0..queues.len()).collect();
    order.sort_by_key(|at| queues[*at].tier);
    let (mut above, mut highest, mut tier) = (0.0_f64, 0.0_f64, 0);
    for at in order {
        let queue = &mut queues[at];
        if queue.tier != tier {
            (above, tier) = (highest, queue.tier);
        }
        queue.refuse = queue.refuse.max(2.0 * above).min(1.0);
        highest = highest.max(queue.refuse);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_under_a_backlog_is_all_that_can_be_done() {
        // Ten slots of a second each, and half of their time goes by on the way.
        let slow = |ready: u64| Inputs {
            completions: 25,
            ..tick(ready, 100)
        };
        let mut state = State::default();
        for _ in 0..20 {
            state.take(&slow(100));
        }
        assert!((state.take(&slow(100)).predicted_wait_s - 20.0).abs() < 0.5);
        // Without one, what the slots could do counts: nobody knows better.
        state.take(&slow(0));
        assert_eq!(state.take(&slow(40)).predicted_wait_s, 4.0);
        // So it does when there have just been more of them.
        state.take(&slow(100));
        let more = Inputs {
            target: 20,
            ..slow(100)
        };
        assert_eq!(state.take(&more).predicted_wait_s, 5.0);
    }

    #[test]
    fn the_less_important_refuse_first() {
        let tiers = |given: &[(u32, f64)]| {
            let mut queues: Vec<Tiered> = given
                .iter()
                .map(|&(tier, refuse)| Tiered { tier, refuse })
                .collect();
            give_way(&mut queues);
            queues.iter().map(|queue| queue.refuse).collect::<Vec<_>>()
        };
        assert_eq!(tiers(&[(2, 0.0), (0, 0.2), (1, 0.1)]), [0.8, 0.2, 0.4]);
        assert_eq!(tiers(&[(0, 0.5), (0, 0.0), (1, 0.0)]), [0.5, 0.0, 1.0]);
        assert_eq!(
            tiers(&[(0, 0.0), (1, 0.7)]),
            [0.0, 0.7],
            "nobody gives way upwards"
        );
    }

    fn tick(ready: u64, arrivals: u64) -> Inputs {
        Inputs {
            deadline_s: 10.0,
            ready,
            arrivals,
            completions: 50,
            run_time_s: 1.0,
            target: 10,
            slots: 20,
            seconds: 5.0,
        }
    }

    #[test]
    fn as_much_is_taken_as_is_done_at_half_the_deadline_and_nothing_at_all_of_it() {
        // Ten a second are done, twenty come.
        let refused = |ready: u64| {
            let mut state = State::default();
            state.take(&tick(0, 100));
            state.take(&tick(ready, 100)).refuse
        };
        assert_eq!(
            (refused(0), refused(50), refused(75), refused(120)),
            (0.0, 0.5, 0.75, 1.0)
        );
    }

    #[test]
    fn what_can_be_done_is_taken_up_to_the_deadline() {
        let mut state = State::default();
        let gate = state.take(&tick(50, 50));
        assert_eq!(
            (gate.predicted_wait_s, gate.refuse, gate.retry_after_s),
            (5.0, 0.0, 0.0)
        );
        assert!(state.take(&tick(95, 50)).refuse > 0.8);
    }

    #[test]
    fn jobs_that_come_before_the_first_worker_are_taken() {
        let mut state = State::default();
        let nobody = |ready| Inputs {
            completions: 0,
            run_time_s: 0.0,
            target: 0,
            slots: 0,
            ..tick(ready, 1_000)
        };
        for ready in [0, 1_000, 1_000_000] {
            assert_eq!(state.take(&nobody(ready)), Gate::default());
        }
        // He is there and has not ended a job yet.
        let first = Inputs {
            slots: 20,
            target: 10,
            ..nobody(1_000_000)
        };
        assert_eq!(state.take(&first), Gate::default());
    }

    #[test]
    fn whoever_comes_back_is_not_measured_by_the_time_when_nobody_was_there() {
        let mut state = State::default();
        for _ in 0..20 {
            state.take(&tick(50, 50));
        }
        let idle = |ready, slots, target| Inputs {
            completions: 0,
            run_time_s: 0.0,
            slots,
            target,
            ..tick(ready, 50)
        };
        for round in 1..=20 {
            assert_eq!(state.take(&idle(50 * round, 0, 0)), Gate::default());
        }
        // Slots are known before there is a target for them, and jobs last for some ticks.
        for target in [0, 10, 10, 10] {
            assert_eq!(state.take(&idle(1_000, 20, target)), Gate::default(), "{target}");
        }
        // What they do is known again soon, and a backlog beyond the deadline is refused.
        assert_eq!(state.take(&tick(900, 50)).refuse, 1.0);
    }

    #[test]
    fn nothing_is_predicted_without_evidence_deadline_or_worker() {
        let strangers = [
            Inputs {
                completions: 4,
                ..tick(900, 50)
            },
            Inputs {
                deadline_s: 0.0,
                ..tick(900, 50)
            },
            Inputs {
                deadline_s: f64::NAN,
                ..tick(900, 50)
            },
            Inputs {
                slots: 0,
                ..tick(900, 50)
            },
        ];
        for inputs in strangers {
            assert_eq!(State::default().take(&inputs).refuse, 0.0, "{inputs:?}");
        }
    }
}
