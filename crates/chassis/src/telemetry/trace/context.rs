//! Which span something belongs to, as a value that can be kept, sent and linked to.

use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{SpanContext, TraceContextExt, TraceFlags, TraceState};
use opentelemetry::{Context, ContextGuard};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::ids;

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// The context of one span, here or in another process.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceContext(pub(super) SpanContext);

impl TraceContext {
    /// Of the W3C texts; `None`: they are not trace context.
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        let carrier = Carrier {
            parent: Some(traceparent.to_owned()),
            state: tracestate.map(str::to_owned),
        };
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
        Self::valid(context.span().span_context())
    }

    /// Of a span at hand, which begins by this; `None`: tracing is off.
    pub fn of(span: &Span) -> Option<Self> {
        Self::valid(span.context().span().span_context())
    }

    /// Of the span that this thread is in.
    pub fn current() -> Option<Self> {
        Context::map_current(|context| Self::valid(context.span().span_context()))
    }

    /// Of a span whose ids follow from what it is of; see [`super::begin_as`].
    pub fn derived(subject: &str, number: u64, is_sampled: bool) -> Self {
        let (trace, span) = ids::derived(subject, number);
        let flags = TraceFlags::default().with_sampled(is_sampled);
        Self(SpanContext::new(trace, span, flags, true, TraceState::default()))
    }

    /// `traceparent` and, unless it is empty, `tracestate`.
    pub fn texts(&self) -> (String, Option<String>) {
        let mut carrier = Carrier::default();
        let context = Context::new().with_remote_span_context(self.0.clone());
        TraceContextPropagator::new().inject_context(&context, &mut carrier);
        let state = carrier.state.filter(|state| !state.is_empty());
        (carrier.parent.unwrap_or_default(), state)
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

#[derive(Default)]
struct Carrier {
    parent: Option<String>,
    state: Option<String>,
}

impl Injector for Carrier {
    fn set(&mut self, key: &str, value: String) {
        match key {
            TRACEPARENT => self.parent = Some(value),
            TRACESTATE => self.state = Some(value),
            _ => {}
        }
    }
}

impl Extractor for Carrier {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            TRACEPARENT => self.parent.as_deref(),
            TRACESTATE => self.state.as_deref(),
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT, TRACESTATE]
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
        let context = TraceContext::parse(&unsampled, None).expect("valid");
        assert!(!context.is_sampled());
        assert_eq!(context.texts(), (unsampled, None));
    }

    #[test]
    fn what_is_no_trace_context_is_none() {
        for text in [
            "",
            "nonsense",
            "00-0-0-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(text, None), None, "{text}");
        }
        assert_eq!(TraceContext::current(), None);
        assert_eq!(TraceContext::of(&Span::none()), None);
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
