//! Spans on their way to a collector: a bounded number waits, and what is lost is counted.
//!
//! The SDK's batch processor is bounded too, but it tells how much it has dropped only at its end. So a gate stands
//! before it, as wide as its queue; the exporter behind it opens the gate again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use opentelemetry::{Context, StringValue, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor,
};

use super::limits::Limits;

/// How spans fared since the start.
#[derive(Debug, Default)]
pub(in crate::telemetry) struct Counts {
    waiting: AtomicUsize,
    exported: AtomicU64,
    queue_full: AtomicU64,
    export_failed: AtomicU64,
}

impl Counts {
    /// By outcome.
    pub(in crate::telemetry) fn read(&self) -> [(&'static str, u64); 3] {
        [
            ("exported", &self.exported),
            ("queue_full", &self.queue_full),
            ("export_failed", &self.export_failed),
        ]
        .map(|(outcome, count)| (outcome, count.load(Ordering::Relaxed)))
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Bounded {
    batches: BatchSpanProcessor,
    counts: Arc<Counts>,
    waiting_max: usize,
    value_length_max: Option<usize>,
}

impl Bounded {
    pub(super) fn new(exporter: impl SpanExporter + 'static, limits: &Limits, counts: Arc<Counts>) -> Self {
        let exporter = Counted {
            exporter,
            counts: counts.clone(),
        };
        // Everything else of it stands in `OTEL_BSP_*`, which the SDK reads.
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(limits.queue_size)
            .build();
        Self {
            batches: BatchSpanProcessor::builder(exporter)
                .with_batch_config(config)
                .build(),
            counts,
            waiting_max: limits.queue_size,
            value_length_max: limits.value_length,
        }
    }
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.batches.on_start(span, context);
    }

    fn on_end(&self, mut span: SpanData) {
        if !span.span_context.is_sampled() {
            return;
        }
        if self.counts.waiting.fetch_add(1, Ordering::Relaxed) >= self.waiting_max {
            self.counts.waiting.fetch_sub(1, Ordering::Relaxed);
            self.counts.queue_full.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if let Some(max) = self.value_length_max {
            let of_events = span
                .events
                .events
                .iter_mut()
                .flat_map(|event| &mut event.attributes);
            let of_links = span.links.links.iter_mut().flat_map(|link| &mut link.attributes);
            span.attributes
                .iter_mut()
                .chain(of_events)
                .chain(of_links)
                .for_each(|attribute| cut(&mut attribute.value, max));
        }
        self.batches.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

/// Texts longer than that, in characters as the specification counts, lose their end.
fn cut(value: &mut Value, max: usize) {
    if let Value::String(text) = value
        && let Some((at, _)) = text.as_str().char_indices().nth(max)
    {
        *value = Value::String(StringValue::from(text.as_str()[..at].to_owned()));
    }
}

#[derive(Debug)]
struct Counted<E> {
    exporter: E,
    counts: Arc<Counts>,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        self.counts.waiting.fetch_sub(spans, Ordering::Relaxed);
        let exported = self.exporter.export(batch).await;
        let count = match exported {
            Ok(()) => &self.counts.exported,
            Err(_) => &self.counts.export_failed,
        };
        count.fetch_add(spans as u64, Ordering::Relaxed);
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::KeyValue;
    use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::error::OTelSdkError;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use std::sync::Mutex;
    use std::sync::mpsc::{Receiver, channel};

    /// Takes a batch when the test lets it, fails those of fewer than two spans.
    #[derive(Debug)]
    struct Slow(Mutex<Receiver<()>>, Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Slow {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            let go = self
                .0
                .lock()
                .expect("not poisoned")
                .recv_timeout(Duration::from_secs(10));
            go.expect("the test lets it");
            let failed = batch.len() < 2;
            self.1.lock().expect("not poisoned").extend(batch);
            match failed {
                true => Err(OTelSdkError::InternalFailure("unreachable".into())),
                false => Ok(()),
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_all_is_counted() {
        let (go, wait) = channel();
        let kept = Arc::new(Mutex::new(Vec::new()));
        let counts = Arc::new(Counts::default());
        let limits = Limits {
            queue_size: 3,
            value_length: Some(2),
            ..Limits::default()
        };
        let bounded = Bounded::new(Slow(Mutex::new(wait), kept.clone()), &limits, counts.clone());
        let provider = SdkTracerProvider::builder().with_span_processor(bounded).build();
        let tracer = provider.tracer("test");
        let spans = |n: usize| {
            for _ in 0..n {
                let builder = tracer
                    .span_builder("x")
                    .with_attributes([KeyValue::new("a", "äöü")]);
                let mut span = builder.start(&tracer);
                span.add_event("e", vec![KeyValue::new("a", "äöü")]);
            }
        };
        spans(5);
        go.send(()).expect("it listens");
        provider.force_flush().expect("exported");
        assert_eq!(
            counts.read(),
            [("exported", 3), ("queue_full", 2), ("export_failed", 0)]
        );
        spans(1);
        go.send(()).expect("it listens");
        let _ = provider.force_flush();
        assert_eq!(
            counts.read(),
            [("exported", 3), ("queue_full", 2), ("export_failed", 1)]
        );
        let kept = kept.lock().expect("not poisoned");
        assert!(kept.iter().all(|span| span.attributes[0].value.as_str() == "äö"));
        let of_event = |span: &SpanData| span.events.events[0].attributes[0].value.as_str() == "äö";
        assert!(kept.iter().all(of_event));
    }
}
