//! Signs of life of one attempt: the handler gives them on its thread, the link looks at them on its own.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// A line for people; more is cut.
const PROGRESS_BYTES_MAX: usize = 200;

#[derive(Debug, Default)]
pub(crate) struct Heartbeat {
    /// By the link's clock; 0: never.
    last_ms: AtomicU64,
    progress: Mutex<String>,
}

impl Heartbeat {
    pub(crate) fn beat(&self, now_ms: u64, mut progress: String) {
        progress.truncate(progress.floor_char_boundary(PROGRESS_BYTES_MAX));
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
        self.last_ms.store(now_ms, Ordering::Relaxed);
    }

    pub(crate) fn last_ms(&self) -> u64 {
        self.last_ms.load(Ordering::Relaxed)
    }

    /// Where the handler said that it was.
    pub(crate) fn progress(&self) -> String {
        self.progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
