//! Ids of spans: random, or derived from what a span is of.
//!
//! Whoever links to a span must know its ids. Those of an attempt are a hash of the job and the fence, so the next
//! attempt, on another worker and perhaps days later, can link to it although nothing was kept or sent for that.

use std::cell::Cell;

use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use sha2::{Digest, Sha256};

thread_local! {
    /// Ids of the span that is being made on this thread.
    static NEXT: Cell<Option<(TraceId, SpanId)>> = const { Cell::new(None) };
}

/// The ids of the span of `number` of `subject`. The hash is as evenly spread as random ids are, which is what samplers
/// that go by the trace id need.
pub(super) fn derived(subject: &str, number: u64) -> (TraceId, SpanId) {
    let mut hash = Sha256::new();
    hash.update(subject.as_bytes());
    hash.update(number.to_be_bytes());
    let hash = hash.finalize();
    let (mut trace, mut span) = ([0; 16], [0; 8]);
    trace.copy_from_slice(&hash[..16]);
    span.copy_from_slice(&hash[16..24]);
    (TraceId::from_bytes(trace), SpanId::from_bytes(span))
}

pub(super) fn random_trace() -> TraceId {
    RandomIdGenerator::default().new_trace_id()
}

pub(super) fn random_span() -> SpanId {
    RandomIdGenerator::default().new_span_id()
}

/// Runs `begin`, in which one span begins, with these ids for it. (They are decided upon before there is a span, and a
/// builder takes none.)
pub(super) fn with<R>(ids: (TraceId, SpanId), begin: impl FnOnce() -> R) -> R {
    NEXT.set(Some(ids));
    let begun = begin();
    NEXT.set(None);
    begun
}

/// Whether this is called within [`with`].
pub(super) fn are_given() -> bool {
    NEXT.get().is_some()
}

/// Those of [`with`], and random ones elsewhere.
#[derive(Clone, Debug, Default)]
pub(in crate::telemetry) struct Ids;

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        NEXT.get().map_or_else(random_trace, |(trace, _)| trace)
    }

    fn new_span_id(&self) -> SpanId {
        NEXT.get().map_or_else(random_span, |(_, span)| span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_are_given_are_those_of_one_span() {
        let wanted = derived("email:0:1", 7);
        assert_eq!(with(wanted, || (Ids.new_trace_id(), Ids.new_span_id())), wanted);
        assert_ne!(Ids.new_span_id(), wanted.1);
        assert_ne!(Ids.new_trace_id(), wanted.0);
    }
}
