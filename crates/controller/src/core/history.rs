//! Past decisions in memory, newest first for whoever asks.

use std::collections::VecDeque;

use tidegate_protocol::domain::QueueName;

use super::model::Decision;

/// Decisions kept: about a day of a fleet of a few queues, and a few MiB.
pub const HISTORY_MAX: usize = 10_000;

#[derive(Default)]
pub(super) struct History {
    ring: VecDeque<Decision>,
    /// Of the newest decision.
    seq: u64,
}

/// One page of it.
#[derive(Debug, PartialEq)]
pub struct HistoryPage {
    pub decisions: Vec<Decision>,
    /// The next page starts below this number.
    pub before: Option<u64>,
}

impl History {
    /// Numbers the decision and keeps it.
    pub fn push(&mut self, mut decision: Decision) -> Decision {
        self.seq += 1;
        decision.seq = self.seq;
        if self.ring.len() == HISTORY_MAX {
            self.ring.pop_front();
        }
        self.ring.push_back(decision.clone());
        decision
    }

    pub fn page(
        &self,
        queue: Option<&QueueName>,
        since_ms: u64,
        before: Option<u64>,
        size: usize,
    ) -> HistoryPage {
        let matches = |decision: &&Decision| {
            queue.is_none_or(|queue| *queue == decision.queue)
                && decision.at_ms >= since_ms
                && before.is_none_or(|before| decision.seq < before)
        };
        let mut rest = self.ring.iter().rev().filter(matches);
        let decisions: Vec<Decision> = rest.by_ref().take(size).cloned().collect();
        let more = rest.next().is_some();
        let before = decisions.last().map(|last| last.seq).filter(|_| more);
        HistoryPage { decisions, before }
    }
}
