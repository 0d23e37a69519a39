//! What an application says with `tracing` inside its handlers becomes a part of the trace of the job.
//!
//! `tracing-opentelemetry` makes a span a child of the OpenTelemetry context that the thread is in, and while a handler runs
//! that is the attempt's (`super::within`). Two kinds of spans are kept from it: our own, which are for log lines and have
//! their counterpart in a [`super::Work`], and those in a context that is not kept, which must cost next to nothing. Both
//! carry the context that they began in, and whoever enters them, in another task or on another thread, is in it: so what
//! is made there has the right parent, or is not made either.

use std::cell::RefCell;

use opentelemetry::trace::TraceContextExt;
use opentelemetry::{Context, ContextGuard};
use opentelemetry_sdk::trace::SdkTracer;
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing::subscriber::Interest;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context as Of, Filter};
use tracing_subscriber::registry::LookupSpan;

/// Of less weight than this is for log lines only. `RUST_LOG` is another matter: `warn` there does not switch traces off.
const LEAST: Level = Level::INFO;
/// Crates whose spans are not the application's.
const OURS: [&str; 7] = [
    "tidegate",
    "tidegate_chassis",
    "tidegate_client",
    "tidegate_controller",
    "tidegate_router",
    "tidegate_store",
    "tidegate_worker",
];
/// The exporter's transport would export itself.
const TRANSPORT: [&str; 5] = ["h2", "hyper", "tonic", "tower", "opentelemetry"];

/// See the [module](self).
pub(in crate::telemetry) fn layer<S>(tracer: SdkTracer) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    let made = tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(Made);
    Carry.with_filter(Carried).and_then(made).boxed()
}

fn is_of(metadata: &Metadata<'_>, is_crate: impl Fn(&str) -> bool) -> bool {
    is_crate(metadata.target().split("::").next().unwrap_or_default())
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    is_of(metadata, |name| OURS.contains(&name))
}

fn is_concerned(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= LEAST
        && !is_of(metadata, |name| {
            TRANSPORT.iter().any(|other| name.starts_with(other))
        })
}

/// Whether this thread is in a context that is kept; `None`: in none.
fn is_kept() -> Option<bool> {
    Context::map_current(|context| {
        let span = context.span();
        let span = span.span_context();
        span.is_valid().then(|| span.is_sampled())
    })
}

/// Lets through what becomes a span, or an event of one.
struct Made;

impl<S> Filter<S> for Made {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Of<'_, S>) -> bool {
        Self::may(metadata) && is_kept() != Some(false)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        match Self::may(metadata) {
            true => Interest::sometimes(),
            false => Interest::never(),
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(LEAST))
    }
}

impl Made {
    fn may(metadata: &Metadata<'_>) -> bool {
        is_concerned(metadata) && !(metadata.is_span() && is_ours(metadata))
    }
}

/// Lets through what may carry its context.
struct Carried;

impl<S> Filter<S> for Carried {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Of<'_, S>) -> bool {
        metadata.is_span() && is_concerned(metadata)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        match metadata.is_span() && is_concerned(metadata) {
            true => Interest::always(),
            false => Interest::never(),
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(LEAST))
    }
}

/// What a span began in that is none itself.
#[derive(Clone)]
struct BeganIn(Context);

thread_local! {
    /// Of the spans that are entered on this thread. They may be left in any order.
    static ENTERED: RefCell<Vec<(Id, ContextGuard)>> = const { RefCell::new(Vec::new()) };
}

struct Carry;

impl<S> Layer<S> for Carry
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, of: Of<'_, S>) {
        let carries = is_kept().is_some_and(|kept| !kept || is_ours(attributes.metadata()));
        if carries && let Some(span) = of.span(id) {
            span.extensions_mut().insert(BeganIn(Context::current()));
        }
    }

    fn on_enter(&self, id: &Id, of: Of<'_, S>) {
        let Some(span) = of.span(id) else { return };
        let began_in = span.extensions().get::<BeganIn>().cloned();
        if let Some(BeganIn(context)) = began_in {
            let entered = (id.clone(), context.attach());
            ENTERED.with_borrow_mut(|all| all.push(entered));
        }
    }

    fn on_exit(&self, id: &Id, _: Of<'_, S>) {
        let left = ENTERED.with_borrow_mut(|all| {
            let at = all.iter().rposition(|(other, _)| other == id)?;
            Some(all.remove(at))
        });
        drop(left); // not while it is borrowed: what is dropped with it may enter spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::trace::{Decisions, Ids, TraceContext, carried, kept::Kept};
    use opentelemetry::trace::{SpanId, TracerProvider as _};
    use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData};
    use tracing::{Dispatch, Span, info, info_span};
    use tracing_subscriber::layer::SubscriberExt;

    /// A span of the application: this crate's are ours.
    macro_rules! of_app {
        ($name:literal) => {
            info_span!(target: "app", $name)
        };
    }

    /// What `run` makes exported, by a sampler with room for `roots` traces.
    fn exported(roots: &str, run: impl FnOnce()) -> Vec<SpanData> {
        let exporter = Kept::default();
        let decisions = Decisions::from_env(|name| match name {
            "OTEL_TRACES_SAMPLER" => Some("parentbased_ratelimited".to_owned()),
            _ => Some(roots.to_owned()),
        });
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .with_sampler(decisions.expect("valid"))
            .with_id_generator(Ids)
            .build();
        let subscriber = tracing_subscriber::registry().with(layer(provider.tracer("test")));
        tracing::subscriber::with_default(subscriber, run);
        exporter.spans()
    }

    /// On another thread, which is in nothing, with the same subscriber.
    fn elsewhere(run: impl FnOnce() + Send) {
        let dispatch = tracing::dispatcher::get_default(Dispatch::clone);
        std::thread::scope(|scope| {
            scope.spawn(|| tracing::dispatcher::with_default(&dispatch, run));
        });
    }

    /// A handler at work: spans in it, in a task of it, on a thread of it.
    fn handle(attempt: &TraceContext) {
        let _within = attempt.enter();
        let log = info_span!(target: "tidegate_worker::telemetry", "process");
        let _log = log.enter();
        info!("in no span of the application");
        elsewhere(carried(|| of_app!("on a thread").in_scope(|| ())));
        elsewhere(|| log.in_scope(|| of_app!("in a task").in_scope(|| ())));
        let outer = of_app!("outer");
        outer.in_scope(|| {
            info!(sent = 3, "halfway");
            of_app!("inner").in_scope(|| ());
            let here = Span::current();
            elsewhere(|| here.in_scope(|| of_app!("in a task of it").in_scope(|| ())));
        });
    }

    fn parents(spans: &[SpanData]) -> Vec<(&str, SpanId)> {
        let named = |id| spans.iter().find(|span| span.span_context.span_id() == id);
        assert!(named(SpanId::INVALID).is_none());
        spans
            .iter()
            .map(|span| (&*span.name, span.parent_span_id))
            .collect()
    }

    #[test]
    fn spans_of_a_handler_are_children_of_its_attempt() {
        let attempt = TraceContext::derived("email:0:1", 7, true);
        let spans = exported("1", || handle(&attempt));
        let outer = spans.iter().find(|span| span.name == "outer").expect("made");
        let (attempt, within) = (attempt.span_context(), outer.span_context.span_id());
        assert_eq!(
            parents(&spans),
            [
                ("on a thread", attempt.span_id()),
                ("in a task", attempt.span_id()),
                ("inner", within),
                ("in a task of it", within),
                ("outer", attempt.span_id()),
            ]
        );
        assert!(
            spans
                .iter()
                .all(|span| span.span_context.trace_id() == attempt.trace_id())
        );
        let events: Vec<_> = outer.events.iter().map(|event| &*event.name).collect();
        assert_eq!(events, ["halfway"]);
    }

    #[test]
    fn of_an_attempt_that_is_not_kept_nothing_is_made_and_nothing_begins() {
        let attempt = TraceContext::derived("email:0:1", 7, false);
        let spans = exported("100", || {
            handle(&attempt);
            let log = of_app!("of no job");
            log.in_scope(|| assert!(TraceContext::current().expect("in a span").is_sampled()));
        });
        assert_eq!(parents(&spans), [("of no job", SpanId::INVALID)]);
    }

    #[test]
    fn spans_outside_of_jobs_follow_the_sampler() {
        let spans = exported("1", || {
            for _ in 0..3 {
                let root = of_app!("root");
                root.in_scope(|| of_app!("child").in_scope(|| ()));
                elsewhere(|| root.in_scope(|| of_app!("child").in_scope(|| ())));
            }
        });
        let names: Vec<_> = spans.iter().map(|span| &*span.name).collect();
        assert_eq!(names, ["child", "child", "root"], "one trace, and it is whole");
    }

    #[test]
    fn a_context_is_left_with_its_span() {
        exported("1", || {
            let attempt = TraceContext::derived("email:0:1", 7, false);
            let of_two = {
                let _within = attempt.enter();
                [of_app!("a"), of_app!("b")]
            };
            let [a, b] = of_two.each_ref().map(Span::enter);
            drop(a);
            assert_eq!(
                TraceContext::current().map(|context| context.ids()),
                Some(attempt.ids())
            );
            drop(b);
            assert_eq!(TraceContext::current(), None);
        });
    }
}
