//! Spans of work that no single task is in: a store call made for many requests, a message that settles many jobs, one
//! decision of a tick. They go past `tracing`, because there is nothing to enter, and because their links and their times
//! are known only when the work is done.

use std::borrow::Cow;
use std::sync::OnceLock;
use std::time::SystemTime;

use opentelemetry::trace::{Link, Span as _, SpanBuilder, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, Key, KeyValue, Value};
use opentelemetry_sdk::trace::{SdkTracer, Span};

use super::TraceContext;
use crate::clock::{self, Monotonic};

/// The process's tracer; not set: tracing is off.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Links of one span. A message carries up to 1,000 jobs; the SDK keeps no more than this by default.
pub const LINKS_MAX: usize = 128;

pub(in crate::telemetry) fn install(tracer: SdkTracer) {
    // A second telemetry of a process is refused before it gets here.
    let _ = TRACER.set(tracer);
}

/// Whether spans are made at all: what only they need can be left out otherwise.
pub fn is_on() -> bool {
    TRACER.get().is_some()
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
#[must_use = "a span is made by begin() or done()"]
pub struct Work {
    builder: SpanBuilder,
    parent: Option<TraceContext>,
}

impl Work {
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
        let attributes = self.builder.attributes.get_or_insert_default();
        attributes.push(KeyValue::new(key, value));
        self
    }

    /// Begins it; it ends when what is returned is dropped. `None`: tracing is off.
    pub fn begin(self) -> Option<WorkSpan> {
        let tracer = TRACER.get()?;
        let mut parent = Context::new();
        if let Some(context) = self.parent {
            parent = parent.with_remote_span_context(context.span_context().clone());
        }
        Some(WorkSpan(tracer.build_with_context(self.builder, &parent)))
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
