//! Outcomes on their way to the router, kept until it has answered for each.
//!
//! A settlement that is not acknowledged may have been recorded or not; sent again with the same fence it gets the same
//! answer. So everything that has no final answer is sent again: on the next stream, after an UNKNOWN, and when an answer
//! stays out. Pure: time and random values are arguments.

use std::collections::{HashMap, VecDeque};

use prost::Message;
use tidegate_chassis::telemetry::trace::{TraceContext, WorkSpan};
use tidegate_flow::backoff::full_jitter_ms;
use tidegate_protocol::{
    domain::{LeaseRef, Settlement},
    limits::{BATCH_BYTES_MAX, BATCH_ITEMS_MAX},
    v1,
};

use crate::telemetry::settle_span;

/// Messages without an answer at a time: one travels while the router works on another; the rest gathers.
const IN_FLIGHT_MAX: usize = 2;
/// An answer that stays out this long is not coming.
const ANSWER_MAX_MS: u64 = 5_000;
/// The store is away: soon at first, then about once a second.
const UNKNOWN_BASE_MS: u64 = 50;
const UNKNOWN_MAX_MS: u64 = 1_000;

#[derive(Debug)]
struct Entry {
    settlement: v1::Settlement,
    /// Of the attempt, where it is kept.
    span: Option<TraceContext>,
    bytes: usize,
    /// UNKNOWN answers so far.
    unknowns: u32,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Queued,
    InFlight {
        batch: u64,
    },
    /// After an UNKNOWN.
    Again {
        at_ms: u64,
    },
}

#[derive(Debug)]
struct Batch {
    number: u64,
    sent_ms: u64,
    /// Items without an answer.
    open: usize,
    /// Ends with the batch.
    span: Option<WorkSpan>,
}

impl Batch {
    fn unanswered(self, error_type: &'static str) {
        if let Some(mut span) = self.span {
            span.fail(error_type);
        }
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Settles {
    entries: HashMap<LeaseRef, Entry>,
    queue: VecDeque<LeaseRef>,
    batches: VecDeque<Batch>,
    batch_number: u64,
    /// Entries in stage `Again`: none, nearly always, so that nobody need look for them.
    again: usize,
}

impl Settles {
    /// Of a job that was not run here.
    pub(crate) fn push(&mut self, settlement: Settlement) {
        self.push_attempt(settlement, None);
    }

    /// `span`: of the attempt that it ends.
    pub(crate) fn push_attempt(&mut self, settlement: Settlement, span: Option<TraceContext>) {
        let lease = settlement.lease.clone();
        let settlement = v1::Settlement::from(settlement);
        let bytes = settlement.encoded_len() + 8; // and its tag and length
        let entry = Entry {
            settlement,
            span,
            bytes,
            unknowns: 0,
            stage: Stage::Queued,
        };
        if self.entries.insert(lease.clone(), entry).is_none() {
            self.queue.push_back(lease);
        }
    }

    /// What the router has not answered for.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The stream is gone, and its answers with it: everything is sent again.
    pub(crate) fn new_stream(&mut self) {
        for batch in self.batches.drain(..) {
            batch.unanswered("stream_broken");
        }
        self.again = 0;
        self.queue = self.entries.keys().cloned().collect();
        self.entries
            .values_mut()
            .for_each(|entry| entry.stage = Stage::Queued);
    }

    pub(crate) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    pub(crate) fn has_next(&self) -> bool {
        self.has_queued() && self.batches.len() < IN_FLIGHT_MAX
    }

    /// The next message, up to the bounds of one.
    pub(crate) fn next(&mut self, now_ms: u64) -> Option<v1::Settle> {
        if !self.has_next() {
            return None;
        }
        self.batch_number += 1;
        let mut settlements = Vec::new();
        let mut attempts = Vec::new();
        let mut bytes = 0;
        while settlements.len() < BATCH_ITEMS_MAX {
            let Some(lease) = self.queue.front() else { break };
            // It may have been answered for, late, since it was queued.
            if let Some(entry) = self
                .entries
                .get_mut(lease)
                .filter(|entry| entry.stage == Stage::Queued)
            {
                bytes += entry.bytes;
                if bytes > BATCH_BYTES_MAX && !settlements.is_empty() {
                    break;
                }
                entry.stage = Stage::InFlight {
                    batch: self.batch_number,
                };
                settlements.push(entry.settlement.clone());
                attempts.extend(entry.span.clone().map(|span| (span, lease.id.queue.clone())));
            }
            self.queue.pop_front();
        }
        if settlements.is_empty() {
            return None;
        }
        let open = settlements.len();
        let (spans, queues) = (
            attempts.iter().map(|(span, _)| span),
            attempts.iter().map(|(_, queue)| queue),
        );
        let span = settle_span(spans, queues, open);
        let texts = span.as_ref().map(|span| span.context().texts());
        let (traceparent, tracestate) = texts.unwrap_or_default();
        self.batches.push_back(Batch {
            number: self.batch_number,
            sent_ms: now_ms,
            open,
            span,
        });
        Some(v1::Settle {
            settlements,
            traceparent,
            tracestate: tracestate.unwrap_or_default(),
        })
    }

    /// An item's answer. `true`: it is final, and the lease is done with.
    pub(crate) fn answered(
        &mut self,
        now_ms: u64,
        lease: &LeaseRef,
        result: v1::SettleResult,
        random: f64,
    ) -> bool {
        let Some(entry) = self.entries.get_mut(lease) else {
            return false;
        };
        if let Stage::InFlight { batch } = entry.stage {
            self.batches
                .iter_mut()
                .filter(|b| b.number == batch)
                .for_each(|b| b.open -= 1);
            self.batches.retain(|batch| batch.open > 0);
        }
        if matches!(entry.stage, Stage::Again { .. }) {
            self.again -= 1;
        }
        match result {
            v1::SettleResult::Unknown | v1::SettleResult::Unspecified => {
                entry.unknowns = entry.unknowns.saturating_add(1);
                let wait_ms = full_jitter_ms(UNKNOWN_BASE_MS, UNKNOWN_MAX_MS, entry.unknowns, random);
                entry.stage = Stage::Again {
                    at_ms: now_ms + wait_ms,
                };
                self.again += 1;
                false
            }
            v1::SettleResult::Recorded
            | v1::SettleResult::Stale
            | v1::SettleResult::NotFound
            | v1::SettleResult::Refused => {
                self.entries.remove(lease);
                true
            }
        }
    }

    /// When [`Self::tick`] has something to do.
    pub(crate) fn wake_at_ms(&self) -> Option<u64> {
        let answers = self
            .batches
            .iter()
            .map(|batch| batch.sent_ms + ANSWER_MAX_MS)
            .min();
        if self.again == 0 {
            return answers;
        }
        let again = self.entries.values().filter_map(|entry| match entry.stage {
            Stage::Again { at_ms } => Some(at_ms),
            Stage::Queued | Stage::InFlight { .. } => None,
        });
        again.chain(answers).min()
    }

    /// Queues again what has waited long enough.
    pub(crate) fn tick(&mut self, now_ms: u64) {
        if self.wake_at_ms().is_none_or(|at_ms| now_ms < at_ms) {
            return;
        }
        let mut silent = Vec::new();
        let dead = |batch: &mut Batch| now_ms >= batch.sent_ms + ANSWER_MAX_MS;
        while let Some(batch) = self.batches.pop_front_if(dead) {
            silent.push(batch.number);
            batch.unanswered("timeout");
        }
        for (lease, entry) in &mut self.entries {
            let due = match entry.stage {
                Stage::Queued => false,
                Stage::InFlight { batch } => silent.contains(&batch),
                Stage::Again { at_ms } => now_ms >= at_ms,
            };
            if due {
                self.again -= usize::from(matches!(entry.stage, Stage::Again { .. }));
                entry.stage = Stage::Queued;
                self.queue.push_back(lease.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_protocol::domain::Outcome;

    use super::*;

    fn settlement(n: u64, result_bytes: usize) -> Settlement {
        let id = format!("email:0:{n:032x}").parse().expect("valid");
        Settlement {
            lease: LeaseRef { id, fence: n },
            outcome: Outcome::Succeeded {
                result: vec![0; result_bytes].into(),
            },
            class: None,
            run_ms: 1,
        }
    }

    fn sent(settles: &mut Settles, now_ms: u64) -> Option<usize> {
        settles.next(now_ms).map(|settle| settle.settlements.len())
    }

    #[test]
    fn gathers_while_two_are_in_flight() {
        let mut settles = Settles::default();
        for n in 0..2 {
            settles.push(settlement(n, 0));
            assert_eq!(sent(&mut settles, 0), Some(1));
        }
        (2..9).for_each(|n| settles.push(settlement(n, 0)));
        assert_eq!(sent(&mut settles, 0), None, "two are in flight");
        assert!(settles.answered(1, &settlement(0, 0).lease, v1::SettleResult::Recorded, 0.0));
        assert_eq!(sent(&mut settles, 1), Some(7), "the rest in one");
        assert_eq!(settles.len(), 8);
    }

    #[test]
    fn final_answers_end_it_and_unknown_ones_do_not() {
        for (result, is_final) in [
            (v1::SettleResult::Recorded, true),
            (v1::SettleResult::Stale, true),
            (v1::SettleResult::NotFound, true),
            (v1::SettleResult::Refused, true),
            (v1::SettleResult::Unknown, false),
            (v1::SettleResult::Unspecified, false),
        ] {
            let mut settles = Settles::default();
            settles.push(settlement(1, 0));
            let first = settles.next(0).expect("there is one");
            let lease = settlement(1, 0).lease;
            assert_eq!(settles.answered(10, &lease, result, 0.5), is_final, "{result:?}");
            assert_eq!(settles.is_empty(), is_final, "{result:?}");
            if !is_final {
                assert_eq!(settles.wake_at_ms(), Some(35), "half of 50 ms later");
                settles.tick(34);
                assert_eq!(settles.next(34), None);
                settles.tick(35);
                assert_eq!(settles.next(35), Some(first), "the same again, fence and all");
            }
        }
    }

    #[test]
    fn a_new_stream_and_a_silent_router_send_again() {
        let mut settles = Settles::default();
        settles.push(settlement(1, 0));
        assert_eq!(sent(&mut settles, 0), Some(1));
        settles.new_stream();
        assert_eq!(sent(&mut settles, 100), Some(1));
        settles.tick(5_099);
        assert_eq!(sent(&mut settles, 5_099), None);
        settles.tick(5_100);
        assert_eq!(sent(&mut settles, 5_100), Some(1));
        assert!(!settles.answered(6_000, &settlement(2, 0).lease, v1::SettleResult::Recorded, 0.0));
    }

    #[test]
    fn messages_keep_their_bounds() {
        let mut settles = Settles::default();
        (0..2_100).for_each(|n| settles.push(settlement(n, 0)));
        assert_eq!(sent(&mut settles, 0), Some(1_000));
        let mut settles = Settles::default();
        (0..60).for_each(|n| settles.push(settlement(n, 64 * 1024)));
        assert_eq!(sent(&mut settles, 0), Some(47), "3 MiB of 64 KiB results");
    }
}
