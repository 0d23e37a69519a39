//! The share of attempts that ended in a retry, over the last minute. Pure: the time is an argument.

/// The window moves in steps of this.
const STEP_MS: u64 = 5_000;
const STEPS: usize = 12;

#[derive(Clone, Copy, Debug, Default)]
struct Step {
    /// Counted from the start; a step of another minute is empty.
    number: u64,
    settled: u64,
    retried: u64,
}

/// See the [module](self). Of one queue.
#[derive(Debug, Default)]
pub(super) struct Retries([Step; STEPS]);

impl Retries {
    pub(super) fn settled(&mut self, now_ms: u64, is_retry: bool, count: u64) {
        let number = now_ms / STEP_MS;
        let step = &mut self.0[number as usize % STEPS];
        if step.number != number {
            *step = Step {
                number,
                ..Step::default()
            };
        }
        step.settled += count;
        step.retried += count * u64::from(is_retry);
    }

    /// 0 when nothing was settled.
    pub(super) fn ratio(&self, now_ms: u64) -> f64 {
        let number = now_ms / STEP_MS;
        let recent = self.0.iter().filter(|step| step.number + STEPS as u64 > number);
        let (settled, retried) = recent.fold((0, 0), |(settled, retried), step| {
            (settled + step.settled, retried + step.retried)
        });
        match settled {
            0 => 0.0,
            settled => retried as f64 / settled as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_minute_counts() {
        let mut retries = Retries::default();
        assert_eq!(retries.ratio(0), 0.0);
        for (now_ms, is_retry) in [
            (0, true),
            (30_000, true),
            (30_000, false),
            (30_001, false),
            (54_000, false),
        ] {
            retries.settled(now_ms, is_retry, 1);
        }
        assert_eq!(retries.ratio(59_999), 0.4);
        assert_eq!(retries.ratio(60_000), 0.25, "the first step is over");
        assert_eq!(retries.ratio(89_999), 0.25);
        assert_eq!(retries.ratio(90_000), 0.0);
        retries.settled(120_000, true, 3);
        assert_eq!(retries.ratio(120_000), 1.0, "steps are used anew");
    }
}
