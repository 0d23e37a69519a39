//! Waiting for something that another process does: always bounded, and a timeout says what did not happen.

use std::fmt::Display;
use std::future::Future;
use std::panic::Location;
use std::time::{Duration, Instant};

/// How long a started process may take until it is ready. Generous: a loaded CI machine must not fail a test that
/// measures nothing.
pub const START_TIMEOUT: Duration = Duration::from_secs(20);

const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Asks `probe` until it answers `Some`, and panics at the caller's line after `timeout`.
///
/// A probe that hangs is cut off at the deadline too.
#[track_caller]
pub fn eventually<T>(
    timeout: Duration,
    what: impl Display,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> impl Future<Output = T> {
    let caller = Location::caller();
    async move {
        let started = Instant::now();
        let mut pause = PAUSE_MIN;
        let mut answered_no = 0_u32;
        loop {
            let left = timeout.saturating_sub(started.elapsed());
            match tokio::time::timeout(left, probe()).await {
                Ok(Some(value)) => return value,
                Ok(None) => answered_no += 1,
                Err(_) => {
                    panic!(
                        "{caller}: waited {timeout:?} for {what} (asked {answered_no} times, then cut off)"
                    )
                }
            }
            if started.elapsed() >= timeout {
                panic!("{caller}: waited {timeout:?} for {what} (asked {answered_no} times)");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}
