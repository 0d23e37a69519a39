//! Trace context as the two texts that travel with a job: `traceparent` and `tracestate` (W3C).
//!
//! A job's spans are linked, not parented: a job may run hours after its submit and many times, and one trace
//! that spans all of it can be neither sampled nor read.

mod bridge;
mod context;
mod decisions;
mod ids;
#[cfg(test)]
mod kept;
mod limit;
mod sampler;
mod work;

use futures_util::future::Either;
use opentelemetry::Context;
use opentelemetry::trace::{FutureExt, TraceContextExt};

pub(super) use bridge::layer;
pub use context::TraceContext;
pub(super) use decisions::Decisions;
pub(super) use ids::Ids;
pub(super) use work::install;
pub use work::{LINKS_MAX, Since, Work, WorkSpan, decide, decide_as, is_on};

/// Runs `future` as a part of the span `of`, in this process or another one.
///
/// No `async fn`, which would be three times as large as its `future`.
pub fn within<F: Future>(of: Option<TraceContext>, future: F) -> impl Future<Output = F::Output> {
    match of {
        Some(of) => {
            let context = Context::new().with_remote_span_context(of.span_context().clone());
            Either::Left(future.with_context(context))
        }
        None => Either::Right(future),
    }
}

/// `f` as a part of what this thread is in now, its trace and its span, on whichever thread it runs.
pub fn carried<R>(f: impl FnOnce() -> R) -> impl FnOnce() -> R {
    let (context, span) = (Context::current(), tracing::Span::current());
    move || {
        let _context = context.attach();
        span.in_scope(f)
    }
}
