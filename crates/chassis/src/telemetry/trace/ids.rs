//! Ids of spans: random, or derived from what a span is of.
//!
//! Whoever links to a span must know its ids. Those of an attempt are a hash of the job and the fence, so the next
//! attempt, on another worker and perhaps days later, can link to it although nothing was kept or sent for that.

use std::cell::Cell;

use opentelemetry::trace::{SpanId, TraceId};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use sha2::{Digest, Sha256};

thread_local! {
    /// Ids for the next span that begins on this thread.
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

/// Runs `begin`, in which one root span begins, with the ids of `number` of `subject` for it.
pub(super) fn with_derived<R>(subject: &str, number: u64, begin: impl FnOnce() -> R) -> R {
    NEXT.set(Some(derived(subject, number)));
    let begun = begin();
    NEXT.set(None); // it was not a root, or tracing is off
    begun
}

/// Random ids, but where [`with_derived`] says otherwise.
#[derive(Clone, Debug, Default)]
pub(in crate::telemetry) struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        match NEXT.take() {
            Some((trace, _)) => trace,
            None => self.0.new_trace_id(),
        }
    }

    // The SDK asks for it first.
    fn new_span_id(&self) -> SpanId {
        let next = NEXT.take();
        NEXT.set(next);
        next.map_or_else(|| self.0.new_span_id(), |(_, span)| span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_ids_are_used_once() {
        let ids = Ids::default();
        let wanted = derived("email:0:1", 7);
        let (span, trace, after) = with_derived("email:0:1", 7, || {
            (ids.new_span_id(), ids.new_trace_id(), ids.new_span_id())
        });
        assert_eq!((trace, span), wanted);
        assert_ne!(after, wanted.1);
        with_derived("email:0:1", 7, || {});
        assert_ne!(ids.new_trace_id(), wanted.0);
    }
}
