//! Trace context as the two texts that travel with a job: `traceparent` and `tracestate` (W3C).
//!
//! A job's spans are linked, not parented: a job may run hours after its submit and many times, and one trace
//! that spans all of it can be neither sampled nor read.

mod context;
mod ids;
mod sampler;
mod work;

use opentelemetry::Context;
use opentelemetry::trace::{FutureExt, TraceContextExt};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

pub use context::TraceContext;
pub(super) use ids::Ids;
pub(super) use sampler::ByLineage;
pub(super) use work::install;
pub use work::{LINKS_MAX, Since, Work, WorkSpan, is_on};

/// Target of spans that no log line is written in: the log does without their fields, which cost as much as the span.
pub const TRACES_ONLY: &str = "tidegate::trace";

/// `traceparent` and `tracestate` of the current span; `None` when tracing is off.
pub fn current_traceparent() -> Option<(String, Option<String>)> {
    traceparent_of(&Span::current())
}

/// The same for a span at hand.
pub fn traceparent_of(span: &Span) -> Option<(String, Option<String>)> {
    Some(TraceContext::of(span)?.texts())
}

/// Links `span` to a remote span (submit, previous attempt). Texts that are not trace context do nothing.
pub fn link_remote(span: &Span, traceparent: &str, tracestate: Option<&str>) {
    if let Some(remote) = TraceContext::parse(traceparent, tracestate) {
        link(span, &remote);
    }
}

/// Links `span` to another one. A sampler sees only links made before the span begins.
pub fn link(span: &Span, to: &TraceContext) {
    span.add_link(to.span_context().clone());
}

/// Makes a remote span (the caller of an RPC) the parent of `span`, which must not have been entered yet.
pub fn set_remote_parent(span: &Span, traceparent: &str, tracestate: Option<&str>) {
    if let Some(remote) = TraceContext::parse(traceparent, tracestate) {
        // An error means that tracing is off or the span has begun: it then keeps the parent that it has.
        let _ = span.set_parent(Context::new().with_remote_span_context(remote.span_context().clone()));
    }
}

/// Runs `future` as a part of the span `of`, in this process or another one.
pub async fn within<F: Future>(of: Option<TraceContext>, future: F) -> F::Output {
    let context = of.map_or_else(Context::new, |of| {
        Context::new().with_remote_span_context(of.span_context().clone())
    });
    future.with_context(context).await
}

/// Begins `span`, a root that has not been entered yet, as [`TraceContext::derived`] of the same subject and number.
pub fn begin_as(span: &Span, subject: &str, number: u64) -> Option<TraceContext> {
    ids::with_derived(subject, number, || TraceContext::of(span))
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::Layer;
    use tracing_subscriber::filter::filter_fn;
    use tracing_subscriber::layer::SubscriberExt;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    /// Keeps what it is given. (The SDK's own needs a feature that would compile the stack twice.)
    #[derive(Clone, Debug, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().expect("not poisoned").extend(batch);
            Ok(())
        }
    }

    #[test]
    fn without_tracing_there_is_no_context() {
        assert_eq!(current_traceparent(), None);
        link_remote(&Span::none(), PARENT, None);
    }

    #[test]
    fn links_and_parents_reach_the_exporter() {
        let exporter = Kept::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .build();
        // Filtered like the real one: a filter that hides the layer would make all of this a no-op.
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("test"))
            .with_filter(filter_fn(|_| true));
        let subscriber = tracing_subscriber::registry().with(Some(layer));

        tracing::subscriber::with_default(subscriber, || {
            let submit = tracing::info_span!("submit");
            set_remote_parent(&submit, PARENT, Some("a=b"));
            let (parent, state) = submit.in_scope(current_traceparent).expect("tracing is on");
            assert!(
                parent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"),
                "{parent}"
            );
            assert_eq!(state.as_deref(), Some("a=b"));
            let process = tracing::info_span!("process");
            link_remote(&process, &parent, state.as_deref());
            link_remote(&process, "nonsense", None);
            drop(process.entered());
        });

        let spans = exporter.0.lock().expect("not poisoned");
        let process = spans
            .iter()
            .find(|span| span.name == "process")
            .expect("it ended");
        let submit = spans.iter().find(|span| span.name == "submit").expect("it ended");
        assert_eq!(process.links.links.len(), 1);
        assert_eq!(
            process.links.links[0].span_context.span_id(),
            submit.span_context.span_id()
        );
        assert_ne!(process.span_context.trace_id(), submit.span_context.trace_id());
    }
}
