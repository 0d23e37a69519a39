//! How many a second: a token bucket, kept as one number.
//!
//! The generic cell rate algorithm: instead of tokens that somebody has to add, the time at which the bucket will be full
//! again. It costs a comparison and an addition, and a bucket that is full needs no place in a table at all.
//!
//! Time is an argument, in microseconds of any monotonic clock.

/// What is allowed. No rate: everything.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// 0: no limit.
    pub per_second: f64,
    /// At once, after a pause. At least one is always let through then.
    pub burst: f64,
}

impl Rate {
    /// `burst` 0 is a second's worth. `sharers` share both evenly.
    pub fn new(per_second: u32, burst: u32, sharers: u32) -> Self {
        let share = f64::from(sharers.max(1));
        let burst = if burst == 0 { per_second } else { burst };
        Self {
            per_second: f64::from(per_second) / share,
            burst: (f64::from(burst) / share).max(1.0),
        }
    }

    pub fn is_unlimited(&self) -> bool {
        self.per_second <= 0.0
    }
}

/// See the [module](self). The default is full.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bucket {
    full_at_us: f64,
}

impl Bucket {
    /// Takes one; else how long to wait for it, in microseconds.
    pub fn take(&mut self, now_us: u64, rate: &Rate) -> Result<(), u64> {
        if rate.is_unlimited() {
            return Ok(());
        }
        let (now, each) = (now_us as f64, 1e6 / rate.per_second);
        let full_at = self.full_at_us.max(now) + each;
        let too_early = full_at - now - each * rate.burst.max(1.0);
        // A rounding error must not make the last of a burst wait.
        if too_early > each * 1e-6 {
            return Err(too_early.ceil() as u64);
        }
        self.full_at_us = full_at;
        Ok(())
    }

    /// Nothing is remembered that a new bucket would not have.
    pub fn is_full(&self, now_us: u64) -> bool {
        self.full_at_us <= now_us as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate() {
        let rate = Rate::new(10, 5, 1);
        let mut bucket = Bucket::default();
        let taken =
            |bucket: &mut Bucket, now| (0..100).take_while(|_| bucket.take(now, &rate).is_ok()).count();
        let start = 7_000_000;
        assert_eq!(taken(&mut bucket, start), 5);
        assert_eq!(
            bucket.take(start, &rate),
            Err(100_000),
            "the next one is there in a tenth of a second"
        );
        assert_eq!(taken(&mut bucket, start + 100_000), 1);
        assert_eq!(
            taken(&mut bucket, start + 60_000_000),
            5,
            "a pause saves no more than a burst"
        );
        assert!(!bucket.is_full(start + 60_000_000) && bucket.is_full(start + 60_500_000));
    }

    #[test]
    fn over_a_long_time_exactly_the_rate() {
        let rate = Rate::new(1_000, 0, 4);
        assert_eq!((rate.per_second, rate.burst), (250.0, 250.0));
        let mut bucket = Bucket::default();
        let taken = (0..10_000_000)
            .step_by(100)
            .filter(|now| bucket.take(*now, &rate).is_ok())
            .count();
        assert!((2_749..=2_751).contains(&taken), "{taken} in 10 s");
        assert!((0..10_000).all(|_| Bucket::default().take(0, &Rate::default()).is_ok()));
    }
}
