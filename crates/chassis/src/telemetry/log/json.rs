//! A log line as one JSON object: a fixed sentence in `message`, everything that varies in fields of its own, and the
//! trace that it belongs to.

use std::fmt::{self, Write as _};

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Longer texts in a field lose their end: a line is for people and log stores, not for payloads.
const TEXT_BYTES_MAX: usize = 4 * 1024;

/// See the [module](self).
pub(super) struct Json;

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut line = Map::new();
        line.insert("timestamp".to_owned(), time.into());
        line.insert("level".to_owned(), event.metadata().level().as_str().into());
        line.insert("target".to_owned(), event.metadata().target().into());
        event.record(&mut Fields(&mut line));
        add_span(&mut line, context);
        add_trace(&mut line);
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// What the innermost span is about: the job, for what a handler says.
fn add_span<S, N>(line: &mut Map<String, Value>, context: &FmtContext<'_, S, N>)
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    let Some(span) = context.lookup_current() else {
        return;
    };
    let extensions = span.extensions();
    let fields = extensions
        .get::<FormattedFields<N>>()
        .map_or("{}", |fields| fields.as_str());
    // Written as JSON by the layer; what is not is a text all the same.
    let fields = serde_json::from_str(fields).unwrap_or_else(|_| Value::from(fields));
    line.insert("span".to_owned(), fields);
}

/// The trace that the thread is in, where there is one.
fn add_trace(line: &mut Map<String, Value>) {
    Context::map_current(|context| {
        let span = context.span();
        let span = span.span_context();
        if span.is_valid() {
            line.insert("trace_id".to_owned(), span.trace_id().to_string().into());
            line.insert("span_id".to_owned(), span.span_id().to_string().into());
        }
    });
}

struct Fields<'a>(&'a mut Map<String, Value>);

impl Fields<'_> {
    /// A field that has the name of one of the line's own gets an underscore: both are kept.
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        let name = match field.name() {
            name @ ("timestamp" | "level" | "target" | "span" | "trace_id" | "span_id") => format!("{name}_"),
            name => name.to_owned(),
        };
        self.0.insert(name, value.into());
    }
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let end = value.floor_char_boundary(TEXT_BYTES_MAX);
        self.put(field, &value[..end]);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        // Writing to a string fails only when the value's own formatting does: then what there is must do.
        let _ = write!(text, "{value:?}");
        self.record_str(field, &text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::trace::TraceContext;
    use std::io;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::fmt::MakeWriter;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Kept {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_line_is_a_sentence_its_fields_and_its_trace() {
        let kept = Kept::default();
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(tracing_subscriber::fmt::format::JsonFields::new())
            .event_format(Json)
            .with_writer(kept.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(op = "lease", level = 4, items = 3, ratio = 0.5, kept_out = %"a\"b", "the job store failed");
            let span = TraceContext::derived("job", 1, true);
            let _entered = span.enter();
            let job = tracing::info_span!("process", tidegate.attempt = 2);
            let _job = job.enter();
            tracing::info!(long = "ä".repeat(TEXT_BYTES_MAX), "in a span");
        });
        let text = String::from_utf8(kept.0.lock().expect("not poisoned").clone()).expect("text");
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(
            (
                &lines[0]["message"],
                &lines[0]["level"],
                &lines[0]["items"],
                &lines[0]["kept_out"]
            ),
            (
                &"the job store failed".into(),
                &"WARN".into(),
                &3.into(),
                &"a\"b".into()
            )
        );
        assert!(lines[0].get("trace_id").is_none() && lines[0]["timestamp"].is_string());
        let (traceparent, _) = TraceContext::derived("job", 1, true).texts();
        assert!(traceparent.contains(lines[1]["trace_id"].as_str().expect("a text")));
        assert!(traceparent.contains(lines[1]["span_id"].as_str().expect("a text")));
        assert_eq!(lines[0]["level_"], 4);
        assert_eq!(lines[1]["span"]["tidegate.attempt"], 2);
        assert_eq!(lines[1]["long"].as_str().map(str::len), Some(TEXT_BYTES_MAX));
    }
}
