//! The only place that reads a clock.
//!
//! Everything else takes time as an argument or asks here, so a search for clock reads has one result and
//! `clippy.toml` can ban `SystemTime::now` and `Instant::now` everywhere else. Monotonic reads go through
//! tokio, so that a test with a paused clock moves them.

#![allow(clippy::disallowed_methods, reason = "the home of clock reads")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Wall clock: milliseconds since the Unix epoch; 0 if the clock stands before it.
///
/// It may jump: for display and for timestamps on the wire, never to measure a duration.
pub fn wall_ms() -> u64 {
    since_epoch().as_millis().try_into().unwrap_or(u64::MAX)
}

/// Wall clock as whole seconds since the Unix epoch (Standard Webhooks, Prometheus timestamps).
pub fn wall_s() -> u64 {
    since_epoch().as_secs()
}

/// Wall clock as the standard library's type.
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Monotonic clock; follows a paused tokio clock in tests.
pub fn now() -> Instant {
    Instant::now()
}

/// A monotonic stopwatch: milliseconds since it was made, as the plain numbers that pure code takes.
#[derive(Clone, Copy, Debug)]
pub struct Monotonic {
    start: Instant,
}

impl Monotonic {
    /// Starts at 0 now.
    pub fn start() -> Self {
        Self { start: now() }
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Milliseconds since the start.
    pub fn ms(&self) -> u64 {
        self.elapsed().as_millis().try_into().unwrap_or(u64::MAX)
    }

    /// Seconds since the start, as histograms take them.
    pub fn seconds(&self) -> f64 {
        self.elapsed().as_secs_f64()
    }
}

fn since_epoch() -> Duration {
    wall().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn monotonic_follows_the_paused_clock() {
        let watch = Monotonic::start();
        tokio::time::advance(Duration::from_millis(1500)).await;
        assert_eq!(watch.ms(), 1500);
        assert_eq!(watch.seconds(), 1.5);
    }

    #[test]
    fn wall_is_after_2024() {
        assert!(wall_ms() > 1_704_000_000_000);
        assert_eq!(wall_s() / 10, wall_ms() / 10_000);
    }
}
