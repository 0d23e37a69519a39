//! Less is run when results go wrong, unless running less does not help.

use super::{
    params::{ERRORS, EVIDENCE_S, STEP},
    reason::Reason,
    smooth::{self, Smoothed},
};
use crate::codec::plain;

/// Failures that are part of life.
const ACCEPTED: f64 = 0.01;
/// Results in a tick that say something, and failures among them: one of few is an accident.
const RESULTS_MIN: u64 = 5;
const FAILED_MIN: u64 = 2;
/// Cuts in a row after which failures that have not fallen to [`HELPED`] are not this load's doing.
const CUTS_MAX: u32 = 3;
const HELPED: f64 = 0.8;
/// More failures than this are never accepted.
const ACCEPTED_MAX: f64 = 0.5;
/// Share of failures from which retries are held back.
const RETRIES_HELD_FROM: f64 = 0.02;

/// Failures of one kind, and the limit that they led to.
#[derive(Clone, Debug, PartialEq)]
pub struct Failures {
    /// Share of results.
    pub share: Smoothed,
    pub accepted: f64,
    pub cuts: u32,
    /// The share that the first of the cuts was made at.
    pub first: f64,
    pub since_cut_s: f64,
    /// Infinite: none.
    pub limit: f64,
}
plain!(Failures {
    share,
    accepted,
    cuts,
    first,
    since_cut_s,
    limit
});

impl Default for Failures {
    fn default() -> Self {
        Self {
            share: Smoothed::default(),
            accepted: ACCEPTED,
            cuts: 0,
            first: 0.0,
            since_cut_s: 2.0 * EVIDENCE_S,
            limit: f64::INFINITY,
        }
    }
}

impl Failures {
    /// A tick's failures of its results. `Some`: what runs must become this part of itself, or (1) nothing is cut any
    /// more because it did not help.
    pub fn take(&mut self, failed: u64, results: u64, seconds: f64) -> Option<(f64, Reason)> {
        self.since_cut_s += seconds;
        // What fails now was started before the cut.
        if results < RESULTS_MIN || self.since_cut_s < EVIDENCE_S * 0.9 {
            return None;
        }
        let now = failed as f64 / results as f64;
        let noise = smooth::of_share(self.share.or(now), results as f64);
        let share = self.share.take(now, noise, seconds);
        if share <= self.accepted + ERRORS {
            self.cuts = 0;
            return None;
        }
        if self.since_cut_s < 2.0 * EVIDENCE_S * 0.95 || failed < FAILED_MIN {
            return None;
        }
        self.since_cut_s = 0.0;
        if self.cuts >= CUTS_MAX && share > HELPED * self.first {
            self.accepted = share.min(ACCEPTED_MAX);
            self.cuts = 0;
            return Some((1.0, Reason::ErrRebase));
        }
        if self.cuts == 0 {
            self.first = share;
        }
        self.cuts += 1;
        self.share.value = None;
        let left = (1.0 - 2.0 * (share - self.accepted)).max(0.5);
        Some((left, Reason::ErrorCut))
    }

    /// The limit comes back while results are good again.
    pub fn recover(&mut self, in_use: f64, seconds: f64) {
        if !self.limit.is_finite()
            || self.since_cut_s < EVIDENCE_S
            || self.share.or(0.0) > self.accepted + ERRORS
        {
            return;
        }
        let grown = self.limit * STEP.powf(seconds / EVIDENCE_S) + seconds / EVIDENCE_S;
        self.limit = if grown > 4.0 * (in_use + 1.0) {
            f64::INFINITY
        } else {
            grown
        };
    }

    pub fn holds_retries(&self) -> bool {
        self.share.or(0.0) > RETRIES_HELD_FROM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_by_how_much_fails_and_not_again_before_it_can_have_helped() {
        let mut failures = Failures::default();
        assert_eq!(failures.take(5, 100, 5.0), None);
        let (left, reason) = failures.take(21, 100, 5.0).expect("a cut");
        assert!((left - 0.6).abs() < 0.01 && reason == Reason::ErrorCut, "{left}");
        assert_eq!(failures.take(80, 100, 1.0), None, "too soon");
        assert_eq!(failures.take(4, 4, 5.0), None, "too few");
        let mut quiet = Failures::default();
        assert_eq!(quiet.take(1, 6, 5.0), None, "an accident");
    }

    #[test]
    fn what_cuts_do_not_help_is_accepted() {
        let mut failures = Failures::default();
        let reasons: Vec<Reason> = (0..7)
            .filter_map(|_| failures.take(30, 100, 5.0))
            .map(|(_, reason)| reason)
            .collect();
        assert_eq!(
            reasons,
            [
                Reason::ErrorCut,
                Reason::ErrorCut,
                Reason::ErrorCut,
                Reason::ErrRebase
            ]
        );
        assert_eq!(failures.take(30, 100, 5.0), None);
    }

    #[test]
    fn a_limit_comes_back_with_good_results() {
        let mut failures = Failures {
            limit: 10.0,
            ..Failures::default()
        };
        failures.recover(10.0, 5.0);
        assert_eq!(failures.limit, 16.0);
        (0..5).for_each(|_| failures.recover(10.0, 5.0));
        assert!(failures.limit.is_infinite());
    }
}
