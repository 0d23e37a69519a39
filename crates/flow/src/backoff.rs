//! How long to wait before trying again, and how often trying again is fair at all.
//!
//! Full jitter (a uniform wait in `[0, ceiling)`) and not "equal" or "decorrelated" jitter: after an outage thousands of
//! clients fail in the same instant, and only a wait that may also be near zero spreads them evenly over the whole
//! interval. The price, an occasional immediate retry, is what [`RetryBudget`] bounds: retries can never become more
//! than a small share of the traffic, however many callers retry at once.

/// The wait before try `n + 1`, when try `n` (counting from 1) has failed: `random * min(max, base * 2^(n-1))`, floored.
///
/// `random` is uniform in `[0, 1)`. Values outside are clamped, so that no caller can exceed the ceiling.
pub fn full_jitter_ms(base_ms: u64, max_ms: u64, n: u32, random: f64) -> u64 {
    let ceiling = ceiling_ms(base_ms, max_ms, n);
    let random = if random.is_finite() {
        random.clamp(0.0, 1.0)
    } else {
        0.0
    };
    // A float holds integers up to 2^53 exactly; beyond (285,000 years) the rounding does not matter, the clamp does.
    ((ceiling as f64 * random) as u64).min(ceiling)
}

/// `min(max, base * 2^(n-1))` without overflow.
fn ceiling_ms(base_ms: u64, max_ms: u64, n: u32) -> u64 {
    let doublings = n.saturating_sub(1);
    let grown = match 1_u64.checked_shl(doublings) {
        Some(factor) => base_ms.saturating_mul(factor),
        None if base_ms == 0 => 0,
        None => u64::MAX,
    };
    grown.min(max_ms)
}

/// Tokens are counted in hundredths of a retry, so that the budget stays integer arithmetic.
const TOKENS_PER_RETRY: u64 = 100;

/// Lets retries be at most a given share of requests, with a small reserve for callers that send little.
///
/// Each request puts in `percent` hundredths of a retry, each retry takes a whole one. Without it, `k` retries on every
/// layer multiply the load of a system that is already failing (retry storms); with it the extra load is bounded by
/// `percent`, whatever happens. There is no clock: the reserve does not refill by time, only by requests, so an idle
/// client that meets an outage retries `reserve` times and then once in `100 / percent` requests.
#[derive(Debug, Clone)]
pub struct RetryBudget {
    percent: u64,
    tokens: u64,
    tokens_max: u64,
}

impl RetryBudget {
    /// Retries that a fresh or idle client has in hand. Enough to ride out one router's restart.
    pub const RESERVE_DEFAULT: u32 = 10;
    /// Share of retries in all requests, percent.
    pub const PERCENT_DEFAULT: u32 = 10;

    /// A budget of `percent` (at most 100), starting with `reserve` retries, which is also the most that it saves up.
    pub fn new(percent: u32, reserve: u32) -> Self {
        let tokens_max = u64::from(reserve.max(1)) * TOKENS_PER_RETRY;
        Self {
            percent: u64::from(percent.min(100)),
            tokens: tokens_max,
            tokens_max,
        }
    }

    /// A first try was sent.
    pub fn on_request(&mut self) {
        self.tokens = (self.tokens + self.percent).min(self.tokens_max);
    }

    /// Takes the right to one retry; `false` = the budget is used up, give the error to the caller.
    #[must_use]
    pub fn try_retry(&mut self) -> bool {
        let granted = self.tokens >= TOKENS_PER_RETRY;
        if granted {
            self.tokens -= TOKENS_PER_RETRY;
        }
        granted
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self::new(Self::PERCENT_DEFAULT, Self::RESERVE_DEFAULT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_by_case() {
        for (base, max, n, random, expected) in [
            (2_000, 3_600_000, 1, 0.0, 0),
            (2_000, 3_600_000, 1, 0.5, 1_000),
            (2_000, 3_600_000, 2, 0.5, 2_000),
            (2_000, 3_600_000, 3, 0.999_999_9, 7_999),
            (2_000, 3_600_000, 12, 0.5, 1_800_000), // the ceiling holds
            (2_000, 3_600_000, 64, 0.5, 1_800_000),
            (2_000, 3_600_000, 65, 0.5, 1_800_000), // 2^64 does not fit
            (2_000, 3_600_000, u32::MAX, 0.5, 1_800_000),
            (2_000, 3_600_000, 0, 0.5, 1_000), // n counts from 1; 0 is taken as 1
            (0, 3_600_000, u32::MAX, 0.9, 0),
            (2_000, 0, 5, 0.9, 0),
            (5_000, 1_000, 1, 0.5, 500), // max below base
            (2_000, 10_000, 1, 7.0, 2_000),
            (2_000, 10_000, 1, -1.0, 0),
            (2_000, 10_000, 1, f64::NAN, 0),
            (u64::MAX, u64::MAX, 2, 1.0, u64::MAX),
        ] {
            assert_eq!(
                full_jitter_ms(base, max, n, random),
                expected,
                "base {base} max {max} n {n} random {random}"
            );
        }
    }

    #[test]
    fn retries_stay_a_tenth_of_requests_after_the_reserve() {
        let mut budget = RetryBudget::new(10, 3);
        let mut retries = 0;
        for _ in 0..1_000 {
            budget.on_request();
            retries += u32::from(budget.try_retry());
        }
        // 3 in reserve, then one for each ten requests.
        assert_eq!(retries, 102);
    }

    #[test]
    fn the_reserve_is_not_saved_beyond_its_bound() {
        let mut budget = RetryBudget::new(10, 2);
        (0..10_000).for_each(|_| budget.on_request());
        assert_eq!((0..10).filter(|_| budget.try_retry()).count(), 2);
        assert!(!budget.try_retry());
    }
}
