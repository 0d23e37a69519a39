//! How many jobs a second are traced where nobody has decided about them. Pure: time is an argument.

/// Traces that may begin, counted in jobs: a submit of a thousand jobs brings a thousand attempts with it.
#[derive(Debug)]
pub(super) struct Limit {
    per_second: f64,
    /// Below zero after a batch that was larger than what was left.
    left: f64,
    at_ms: u64,
}

impl Limit {
    /// Full at time 0. `per_second` is above 0.
    pub(super) fn new(per_second: f64) -> Self {
        Self {
            per_second,
            left: Self::most(per_second),
            at_ms: 0,
        }
    }

    /// Whether a trace of so many jobs begins. It is kept whole or not at all; what a batch takes beyond what was left is
    /// made good before the next trace begins, so the rate holds in the mean.
    pub(super) fn takes(&mut self, jobs: usize, now_ms: u64) -> bool {
        let gained = now_ms.saturating_sub(self.at_ms) as f64 / 1_000.0 * self.per_second;
        self.at_ms = self.at_ms.max(now_ms);
        self.left = (self.left + gained).min(Self::most(self.per_second));
        let takes = self.left >= 1.0;
        if takes {
            self.left -= jobs as f64;
        }
        takes
    }

    /// What gathers while nothing happens: a second's worth, and at least one job.
    fn most(per_second: f64) -> f64 {
        per_second.max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of submits of `jobs`, one each `every_ms`, over ten seconds: how many are kept.
    fn kept(per_second: f64, jobs: usize, every_ms: usize) -> usize {
        let mut limit = Limit::new(per_second);
        (0..10_000)
            .step_by(every_ms)
            .filter(|now_ms| limit.takes(jobs, *now_ms))
            .count()
    }

    #[test]
    fn below_the_rate_every_job_is_kept() {
        assert_eq!(kept(100.0, 1, 10), 1_000, "100 a second");
        assert_eq!(kept(100.0, 50, 500), 20, "100 a second in batches");
        assert_eq!(kept(0.5, 1, 2_000), 5, "one in two seconds");
    }

    #[test]
    fn above_it_the_rate_is_kept() {
        let all = kept(100.0, 1, 1);
        assert!(
            (1_000..=1_100).contains(&all),
            "a second's worth, and the rate: {all}"
        );
        // 1,000 jobs at once are nine seconds of debt: a second's worth was there.
        assert_eq!(kept(100.0, 1_000, 1), 2);
    }

    #[test]
    fn a_clock_that_stands_or_goes_back_gives_nothing() {
        let mut limit = Limit::new(1.0);
        assert!(limit.takes(1, 5_000));
        assert!(!limit.takes(1, 5_000));
        assert!(!limit.takes(1, 1_000));
        assert!(!limit.takes(1, 5_999));
        assert!(limit.takes(1, 6_000));
    }
}
