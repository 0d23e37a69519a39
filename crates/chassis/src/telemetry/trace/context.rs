//! Which span something belongs to, as a value that can be kept, sent and linked to.

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use opentelemetry::{Context, ContextGuard};
use opentelemetry_sdk::propagation::TraceContextPropagator;

use super::ids;

/// Of version 00: `00-`, 32 digits, `-`, 16 digits, `-`, 2 digits.
const TRACEPARENT_BYTES: usize = 55;

/// The context of one span, here or in another process.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceContext(pub(super) SpanContext);

impl TraceContext {
    /// Of the W3C texts; `None`: they are not trace context.
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let (trace, span, flags) = parts(traceparent)?;
        let state = tracestate.filter(|text| !text.is_empty());
        let state = state.and_then(|text| text.parse().ok()).unwrap_or_default();
        Self::valid(&SpanContext::new(trace, span, flags, true, state))
    }

    /// Of the span that this thread is in.
    pub fn current() -> Option<Self> {
        Context::map_current(|context| Self::valid(context.span().span_context()))
    }

    /// Of the span of `number` of `subject`: its ids follow from these.
    pub fn derived(subject: &str, number: u64, is_sampled: bool) -> Self {
        Self::of(ids::derived(subject, number), is_sampled, TraceState::default())
    }

    pub(super) fn of((trace, span): (TraceId, SpanId), is_sampled: bool, state: TraceState) -> Self {
        let flags = TraceFlags::default().with_sampled(is_sampled);
        Self(SpanContext::new(trace, span, flags, true, state))
    }

    /// `traceparent` and, unless it is empty, `tracestate`.
    pub fn texts(&self) -> (String, Option<String>) {
        let context = &self.0;
        let parent = format!(
            "00-{}-{}-{:02x}",
            context.trace_id(),
            context.span_id(),
            context.trace_flags().to_u8()
        );
        let state = Some(context.trace_state().header()).filter(|state| !state.is_empty());
        (parent, state)
    }

    /// Makes it the span that this thread is in, as far as log lines go, until the guard is dropped.
    pub fn enter(&self) -> ContextGuard {
        Context::new().with_remote_span_context(self.0.clone()).attach()
    }

    /// Whether its trace is kept.
    pub fn is_sampled(&self) -> bool {
        self.0.is_sampled()
    }

    /// Trace id and span id in hexadecimal digits.
    pub fn ids(&self) -> (String, String) {
        (self.0.trace_id().to_string(), self.0.span_id().to_string())
    }

    pub(super) fn span_context(&self) -> &SpanContext {
        &self.0
    }

    fn valid(context: &SpanContext) -> Option<Self> {
        context.is_valid().then(|| Self(context.clone()))
    }
}

/// Jobs bring what a check has let through, so the common form is read in place; any other is left to the SDK.
fn parts(text: &str) -> Option<(TraceId, SpanId, TraceFlags)> {
    let is_plain = text.len() == TRACEPARENT_BYTES
        && text.bytes().enumerate().all(|(at, byte)| match at {
            0 | 1 => byte == b'0',
            2 | 35 | 52 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        });
    if !is_plain {
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &Carrier(text));
        let span = context.span();
        let span = span.span_context();
        return Some((span.trace_id(), span.span_id(), span.trace_flags()));
    }
    let flags = u8::from_str_radix(&text[53..], 16).ok()?;
    Some((
        TraceId::from_hex(&text[3..35]).ok()?,
        SpanId::from_hex(&text[36..52]).ok()?,
        TraceFlags::new(flags) & TraceFlags::SAMPLED,
    ))
}

struct Carrier<'a>(&'a str);

impl Extractor for Carrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        (key == "traceparent").then_some(self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent"]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_and_written_alike() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = TraceContext::parse(parent, Some("a=b")).expect("valid");
        assert!(context.is_sampled());
        assert_eq!(context.texts(), (parent.to_owned(), Some("a=b".to_owned())));
        let unsampled = parent.replace("-01", "-00");
        let context = TraceContext::parse(&unsampled, Some("")).expect("valid");
        assert!(!context.is_sampled());
        assert_eq!(context.texts(), (unsampled, None));
        // A later version, and flags that are not known.
        let later = parent.replace("00-4", "01-4").replace("-01", "-03-more");
        let context = TraceContext::parse(&later, None).expect("valid");
        assert_eq!(context.texts().0, parent);
    }

    #[test]
    fn what_is_no_trace_context_is_none() {
        for text in [
            "",
            "nonsense",
            "00-0-0-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4BF92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-äbf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(text, None), None, "{text}");
        }
        assert_eq!(TraceContext::current(), None);
    }

    #[test]
    fn derived_contexts_follow_from_their_subject() {
        let first = TraceContext::derived("email:0:1", 7, true);
        assert_eq!(first, TraceContext::derived("email:0:1", 7, true));
        for other in [("email:0:1", 8), ("email:0:2", 7)] {
            let other = TraceContext::derived(other.0, other.1, true);
            assert_ne!(first.span_context().trace_id(), other.span_context().trace_id());
            assert_ne!(first.span_context().span_id(), other.span_context().span_id());
        }
    }
}
