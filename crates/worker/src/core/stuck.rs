//! A worker that can do nothing any more: its slots, or the threads that its handlers run on, are all held by handlers
//! that were told to stop and go on.

use super::Core;
use crate::WorkerError;

/// Longer than any handler that still listens takes to end.
const STUCK_AFTER_MS: u64 = 10_000;

impl Core {
    /// Asked once a second. `untaken`: attempts stand ready and no thread takes them.
    ///
    /// # Errors
    /// Nothing has ended for so long that nothing will.
    pub(crate) fn watch_handlers(&mut self, now_ms: u64, untaken: bool) -> Result<(), WorkerError> {
        let overdue = self.overdue(now_ms);
        let count: u32 = overdue.values().sum();
        let is_stuck = count > 0 && (untaken || count >= self.settings.slots);
        let queues = WorkerError::queues(&overdue);
        if !is_stuck {
            self.stuck_since_ms = None;
            return Ok(());
        }
        let since_ms = *self.stuck_since_ms.get_or_insert(now_ms);
        if now_ms.saturating_sub(since_ms.max(self.ended_ms)) < STUCK_AFTER_MS {
            return Ok(());
        }
        Err(WorkerError::Stuck { count, queues })
    }
}
