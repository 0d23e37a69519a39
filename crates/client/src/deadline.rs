//! Until when a caller waits, and how long something has lasted. The one place of this crate that reads a clock.

#![allow(
    clippy::disallowed_methods,
    reason = "applications link this crate without the chassis; what is left of a deadline needs a clock"
)]

use std::time::Duration;

use tokio::time::Instant;

/// Longer waits are mistakes of unit; also keeps the addition to the clock from overflowing.
const WAIT_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn after(wait: Duration) -> Self {
        Self(Instant::now() + wait.min(WAIT_MAX))
    }

    /// `None`: it has passed.
    pub(crate) fn remaining(self) -> Option<Duration> {
        let left = self.0.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    pub(crate) fn instant(self) -> Instant {
        self.0
    }
}

/// Milliseconds since it was made, as the plain numbers that pure code takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    pub(crate) fn ms(self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
