//! Smoothing that lets shifts of level through.
//!
//! A plain moving average lags three ticks behind a step, which is when it matters most. So a sample that is further
//! off than sampling noise explains replaces the average at once, and everything nearer is averaged.

use super::params::{ALPHA, EVIDENCE_S, SHIFT_SIGMAS};
use crate::codec::plain;

/// A moving average; empty until its first sample.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Smoothed {
    pub value: Option<f64>,
}
plain!(Smoothed { value });

impl Smoothed {
    /// Takes a sample of `seconds` whose standard error is `sigma`, and gives the new value. What is no number is held
    /// back: the last value stands.
    pub fn take(&mut self, sample: f64, sigma: f64, seconds: f64) -> f64 {
        let old = match (self.value, sample.is_finite()) {
            (Some(old), false) => return old,
            (None, false) => return 0.0,
            (None, true) => sample,
            (Some(old), true) => old,
        };
        let is_shift = (sample - old).abs() > SHIFT_SIGMAS * sigma.max(0.0);
        // Short ticks average more of them: the memory is of time.
        let weight = 1.0 - (1.0 - ALPHA).powf(seconds.max(0.0) / EVIDENCE_S);
        let value = if is_shift {
            sample
        } else {
            old + weight * (sample - old)
        };
        self.value = Some(value);
        value
    }

    pub fn or(&self, default: f64) -> f64 {
        self.value.unwrap_or(default)
    }
}

/// Standard error of a rate of which `count` events were seen in `seconds`.
pub fn of_rate(count: f64, seconds: f64) -> f64 {
    count.max(1.0).sqrt() / seconds.max(1e-3)
}

/// Standard error of a share that is about `share`, after `n` trials.
pub fn of_share(share: f64, n: f64) -> f64 {
    let share = share.clamp(0.01, 0.99);
    (share * (1.0 - share) / n.max(1.0)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_averaged_and_a_shift_passes_at_once() {
        let mut rate = Smoothed::default();
        assert_eq!(rate.take(10.0, 1.0, 5.0), 10.0);
        assert_eq!(rate.take(12.0, 1.0, 5.0), 10.8);
        assert_eq!(rate.take(20.0, 1.0, 5.0), 20.0);
        assert_eq!(rate.take(f64::NAN, 1.0, 5.0), 20.0);
    }

    #[test]
    fn the_memory_is_of_time_and_not_of_ticks() {
        let (mut slow, mut quick) = (Smoothed { value: Some(0.0) }, Smoothed { value: Some(0.0) });
        slow.take(1.0, 9.0, 5.0);
        for _ in 0..5 {
            quick.take(1.0, 9.0, 1.0);
        }
        assert!((slow.or(0.0) - quick.or(0.0)).abs() < 1e-9);
    }
}
