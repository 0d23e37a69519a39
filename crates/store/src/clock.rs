//! The store's clock, for stores that have none of their own. The only place of this crate that reads the machine's.
#![allow(clippy::disallowed_methods, reason = "the home of the clock in this crate")]

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// Milliseconds since the Unix epoch.
pub trait Clock: Send + Sync + 'static {
    fn now_ms(&self) -> u64;
}

/// Wall time at the start, monotonic from then on: a step of the machine's clock moves no schedule and no lease.
pub struct AnchoredClock {
    anchor: Instant,
    wall_ms: u64,
}

impl AnchoredClock {
    /// Starts at the wall clock, but never below `watermark_ms`: time that a store has seen does not come back.
    pub fn starting_at_least(watermark_ms: u64) -> Self {
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_millis() as u64);
        Self {
            anchor: Instant::now(),
            wall_ms: wall.max(watermark_ms),
        }
    }
}

impl Clock for AnchoredClock {
    fn now_ms(&self) -> u64 {
        self.wall_ms + self.anchor.elapsed().as_millis() as u64
    }
}

/// A clock that a test moves by hand.
#[derive(Debug)]
pub struct ManualClock(AtomicU64);

impl ManualClock {
    pub fn new(now_ms: u64) -> Self {
        Self(AtomicU64::new(now_ms))
    }

    pub fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}
