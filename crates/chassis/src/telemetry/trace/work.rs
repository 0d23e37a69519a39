//! Spans, made only where they are kept, and decisions which are.
//!
//! They go past `tracing`: half of them are of work that no task is in (a store call made for many requests, a message that
//! settles many jobs), and of the others a job that is not kept must cost nothing.

use std::borrow::Cow;
use std::sync::OnceLock;
use std::time::SystemTime;

use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanKind, Status, TraceContextExt, TraceState, Tracer,
};
use opentelemetry::{Context, Key, KeyValue, Value};
use opentelemetry_sdk::trace::{SdkTracer, Span};

use super::{TraceContext, decisions::Decisions, ids};
use crate::clock::{self, Monotonic};

/// Not set: tracing is off.
static TRACES: OnceLock<Traces> = OnceLock::new();

/// The process's.
#[derive(Debug)]
struct Traces {
    tracer: SdkTracer,
    decisions: Decisions,
}

/// Links of one span. A message carries up to 1,000 jobs; the SDK keeps no more than this by default.
pub const LINKS_MAX: usize = 128;

/// Nearly every span has no more.
const ATTRIBUTES: usize = 8;

/// The tracer's provider asks the same for whatever is made elsewhere.
pub(in crate::telemetry) fn install(tracer: SdkTracer, decisions: Decisions) {
    let traces = Traces { tracer, decisions };
    // A second telemetry of a process is refused before it gets here.
    let _ = TRACES.set(traces);
}

/// Whether spans are made at all: what only they need can be left out otherwise.
pub fn is_on() -> bool {
    TRACES.get().is_some()
}

/// Decides about a span that is to begin, and names it: what is not kept has ids all the same, for what hangs on it.
/// `None`: tracing is off.
///
/// `linked`: whether any of the spans that it will be linked to is kept; `None`: there are none. `jobs`: how many the
/// span is about, where a trace begins.
pub fn decide(parent: Option<&TraceContext>, linked: Option<bool>, jobs: usize) -> Option<TraceContext> {
    let traces = TRACES.get()?;
    let trace = parent.map_or_else(ids::random_trace, |parent| parent.span_context().trace_id());
    let lineage = parent.map(TraceContext::is_sampled).or(linked);
    let is_kept = traces.decisions.keeps(lineage, trace, jobs);
    let state = parent.map_or_else(TraceState::default, |parent| {
        parent.span_context().trace_state().clone()
    });
    Some(TraceContext::of((trace, ids::random_span()), is_kept, state))
}

/// The same for a root that is [`TraceContext::derived`]. `None` also where a linked span has decided against it: then
/// that one is what its children, elsewhere, hang on.
pub fn decide_as(subject: &str, number: u64, linked: Option<bool>) -> Option<TraceContext> {
    let traces = TRACES.get()?;
    if traces.decisions.inherits(linked) == Some(false) {
        return None;
    }
    let ids = ids::derived(subject, number);
    let is_kept = traces.decisions.keeps(linked, ids.0, 1);
    Some(TraceContext::of(ids, is_kept, TraceState::default()))
}

/// When some work began.
#[derive(Clone, Copy, Debug)]
pub struct Since {
    at: SystemTime,
    clock: Monotonic,
}

impl Since {
    pub fn now() -> Self {
        Self {
            at: clock::wall(),
            clock: Monotonic::start(),
        }
    }

    /// How long ago, in seconds.
    pub fn seconds(&self) -> f64 {
        self.clock.seconds()
    }
}

/// A span in the making. Without tracing all of it does nothing.
#[derive(Debug)]
#[must_use = "a span is made by begin(), begin_as() or done()"]
pub struct Work {
    builder: SpanBuilder,
    parent: Option<TraceContext>,
}

impl Work {
    /// Jobs are handed over, to run later.
    pub fn producer(name: impl Into<Cow<'static, str>>) -> Self {
        Self::new(name, SpanKind::Producer)
    }

    /// A job is run.
    pub fn consumer(name: impl Into<Cow<'static, str>>) -> Self {
        Self::new(name, SpanKind::Consumer)
    }

    /// A call to somebody else.
    pub fn client(name: impl Into<Cow<'static, str>>) -> Self {
        Self::new(name, SpanKind::Client)
    }

    /// Something that happens in here.
    pub fn internal(name: impl Into<Cow<'static, str>>) -> Self {
        Self::new(name, SpanKind::Internal)
    }

    fn new(name: impl Into<Cow<'static, str>>, kind: SpanKind) -> Self {
        Self {
            builder: SpanBuilder::from_name(name).with_kind(kind),
            parent: None,
        }
    }

    pub fn child_of(mut self, parent: &TraceContext) -> Self {
        self.parent = Some(parent.clone());
        self
    }

    pub fn since(mut self, since: Since) -> Self {
        self.builder.start_time = Some(since.at);
        self
    }

    /// To the first [`LINKS_MAX`] of them.
    pub fn linked_to(mut self, spans: impl IntoIterator<Item = TraceContext>) -> Self {
        let link = |to: TraceContext| Link::with_context(to.span_context().clone());
        self.builder.links = Some(spans.into_iter().take(LINKS_MAX).map(link).collect());
        self
    }

    pub fn with(mut self, key: impl Into<Key>, value: impl Into<Value>) -> Self {
        let room = || Vec::with_capacity(ATTRIBUTES);
        let attributes = self.builder.attributes.get_or_insert_with(room);
        attributes.push(KeyValue::new(key, value));
        self
    }

    /// Begins it; it ends when what is returned is dropped. `None`: tracing is off, or it is not kept.
    pub fn begin(self) -> Option<WorkSpan> {
        let links = self.builder.links.iter().flatten();
        let linked = links
            .map(|link| link.span_context.is_sampled())
            .reduce(|a, b| a || b);
        let decided = decide(self.parent.as_ref(), linked, 1)?;
        self.begin_as(&decided)
    }

    /// As it was decided, by the same parent.
    pub fn begin_as(self, decided: &TraceContext) -> Option<WorkSpan> {
        if !decided.is_sampled() {
            return None;
        }
        Some(WorkSpan(self.build(&TRACES.get()?.tracer, decided)))
    }

    fn build(self, tracer: &SdkTracer, decided: &TraceContext) -> Span {
        let mut parent = Context::new();
        if let Some(context) = self.parent {
            parent = parent.with_remote_span_context(context.span_context().clone());
        }
        let decided = decided.span_context();
        ids::with((decided.trace_id(), decided.span_id()), || {
            tracer.build_with_context(self.builder, &parent)
        })
    }

    /// It is over already.
    pub fn done(self) {
        drop(self.begin());
    }
}

/// A span that is going on; dropped, it ends.
#[derive(Debug)]
pub struct WorkSpan(Span);

impl WorkSpan {
    /// To be sent along, so that others' spans are its children.
    pub fn context(&self) -> TraceContext {
        TraceContext(self.0.span_context().clone())
    }

    pub fn set(&mut self, key: impl Into<Key>, value: impl Into<Value>) {
        self.0.set_attribute(KeyValue::new(key, value));
    }

    /// It failed: `error_type` is one of few words, never a text of an error.
    pub fn fail(&mut self, error_type: &'static str) {
        self.set("error.type", error_type);
        self.0.set_status(Status::error(""));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData};

    use crate::telemetry::trace::kept::Kept;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn without_tracing_nothing_is_decided() {
        assert_eq!(decide(None, Some(true), 1), None);
        assert_eq!(decide_as("email:0:1", 7, None), None);
        assert!(Work::client("x").begin().is_none());
    }

    #[test]
    fn ids_parents_and_links_reach_the_exporter() {
        let exporter = Kept::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .with_sampler(Sampler::AlwaysOn)
            .with_id_generator(ids::Ids)
            .build();
        let tracer = provider.tracer("test");
        let caller = TraceContext::parse(PARENT, Some("a=b")).expect("valid");
        let ids = (caller.span_context().trace_id(), ids::random_span());
        let submit = TraceContext::of(ids, true, caller.span_context().trace_state().clone());
        let process = TraceContext::derived("email:0:1", 7, true);
        let begun = Work::producer("submit").child_of(&caller).build(&tracer, &submit);
        assert_eq!(begun.span_context().trace_state().header(), "a=b");
        drop(begun);
        drop(
            Work::consumer("process")
                .linked_to([submit.clone()])
                .build(&tracer, &process),
        );

        let spans = exporter.spans();
        let [first, second] = &spans[..] else {
            panic!("{spans:?}")
        };
        let of = |context: &TraceContext| {
            (
                context.span_context().trace_id(),
                context.span_context().span_id(),
            )
        };
        let is = |span: &SpanData| (span.span_context.trace_id(), span.span_context.span_id());
        assert_eq!((is(first), is(second)), (of(&submit), of(&process)));
        assert_eq!(first.parent_span_id, caller.span_context().span_id());
        let link = &second.links.links[0].span_context;
        assert_eq!((link.trace_id(), link.span_id()), of(&submit));
    }
}
