//! The newest decisions in memory, for whoever asks why; the ledger has the others.

use std::collections::VecDeque;

use tidegate_protocol::domain::QueueName;

use super::model::Decision;

/// Decisions kept over all queues.
const RECENT_MAX: usize = 1_000;

#[derive(Default)]
pub(super) struct History {
    ring: VecDeque<Decision>,
    /// Of the newest decision of this leadership.
    seq: u64,
}

impl History {
    /// Numbers the decision and keeps it.
    pub fn push(&mut self, mut decision: Decision) -> Decision {
        self.seq += 1;
        decision.seq = self.seq;
        if self.ring.len() == RECENT_MAX {
            self.ring.pop_front();
        }
        self.ring.push_back(decision.clone());
        decision
    }

    /// Newest first.
    pub fn recent(&self, queue: &QueueName, size: usize) -> Vec<Decision> {
        let of_queue = self.ring.iter().rev().filter(|decision| decision.queue == *queue);
        of_queue.take(size).cloned().collect()
    }
}
