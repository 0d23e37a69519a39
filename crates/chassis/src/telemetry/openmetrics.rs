//! The page in OpenMetrics 1.0, which is the Prometheus text format with exemplars. Names and labels are the same in both,
//! so that a scraper may change its mind.

use std::fmt::Write as _;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

use super::exemplars::{self, Exemplar};

/// What a scraper that takes it asks for, and is answered.
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text";
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A counter's family is called without it.
const TOTAL: &str = "_total";

pub(super) fn render(families: &[MetricFamily]) -> String {
    let mut text = String::new();
    for family in families {
        let full = family.name();
        let kind = family.get_field_type();
        let (name, word) = match kind {
            MetricType::COUNTER => (full.strip_suffix(TOTAL).unwrap_or(full), "counter"),
            MetricType::HISTOGRAM => (full, "histogram"),
            MetricType::SUMMARY => (full, "summary"),
            MetricType::GAUGE => (full, "gauge"),
            MetricType::UNTYPED => (full, "unknown"),
        };
        let _ = writeln!(text, "# TYPE {name} {word}");
        if !family.help().is_empty() {
            let _ = writeln!(text, "# HELP {name} {}", escaped(family.help()));
        }
        for metric in family.get_metric() {
            match kind {
                MetricType::COUNTER => {
                    let value = metric.get_counter().get_value();
                    sample(&mut text, (name, TOTAL), metric.get_label(), None, value, None);
                }
                MetricType::GAUGE => {
                    let value = metric.get_gauge().get_value();
                    sample(&mut text, (name, ""), metric.get_label(), None, value, None);
                }
                MetricType::HISTOGRAM => histogram(&mut text, name, metric),
                // The exporter makes neither.
                MetricType::SUMMARY | MetricType::UNTYPED => {}
            }
        }
    }
    text.push_str("# EOF\n");
    text
}

fn histogram(text: &mut String, name: &str, metric: &Metric) {
    let labels = metric.get_label();
    let pairs = labels
        .iter()
        .map(|label| (label.name().to_owned(), label.value().to_owned()));
    let kept = exemplars::of(name, pairs);
    let exemplar = |bucket: usize| kept.as_ref()?.get(bucket)?.as_ref();
    let histogram = metric.get_histogram();
    let bounds = histogram
        .get_bucket()
        .iter()
        .filter(|bucket| bucket.upper_bound().is_finite());
    let mut bucket = 0;
    for of_bound in bounds {
        let le = of_bound.upper_bound().to_string();
        let count = of_bound.cumulative_count() as f64;
        sample(
            text,
            (name, "_bucket"),
            labels,
            Some(&le),
            count,
            exemplar(bucket),
        );
        bucket += 1;
    }
    let count = histogram.get_sample_count() as f64;
    sample(
        text,
        (name, "_bucket"),
        labels,
        Some("+Inf"),
        count,
        exemplar(bucket),
    );
    sample(
        text,
        (name, "_sum"),
        labels,
        None,
        histogram.get_sample_sum(),
        None,
    );
    sample(text, (name, "_count"), labels, None, count, None);
}

fn sample(
    text: &mut String,
    (name, suffix): (&str, &str),
    labels: &[LabelPair],
    le: Option<&str>,
    value: f64,
    exemplar: Option<&Exemplar>,
) {
    text.push_str(name);
    text.push_str(suffix);
    let pairs = labels.iter().map(|label| (label.name(), label.value()));
    for (number, (label, value)) in pairs.chain(le.map(|le| ("le", le))).enumerate() {
        let _ = write!(
            text,
            "{}{label}=\"{}\"",
            if number == 0 { '{' } else { ',' },
            escaped(value)
        );
    }
    if !labels.is_empty() || le.is_some() {
        text.push('}');
    }
    let _ = write!(text, " {value}");
    if let Some(Exemplar {
        trace_id,
        span_id,
        seconds,
        at,
    }) = exemplar
    {
        let _ = write!(
            text,
            " # {{trace_id=\"{trace_id}\",span_id=\"{span_id}\"}} {seconds} {:.3}",
            at.as_secs_f64()
        );
    }
    text.push('\n');
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use crate::telemetry::{KeyValue, Metric, Metrics, trace::TraceContext};

    #[test]
    fn it_is_the_same_page_with_exemplars_and_an_end() {
        const RUN: Metric = Metric::duration("openmetrics_of_a_test", &["queue"], "For \"one\" test");
        const DONE: Metric = Metric::counter("openmetrics_done", &["queue"], "Of it");
        const FULL: Metric = Metric::gauge("openmetrics_full_ratio", &[], "Of all");
        let metrics = Metrics::for_test("tidegate-test");
        let meter = metrics.meter();
        let queue = [KeyValue::new("queue", "e\"mail")];
        let trace = || TraceContext::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", None);
        RUN.traced_histogram(&meter).record(0.06, &queue, trace);
        DONE.u64_counter(&meter).add(2, &queue);
        FULL.f64_gauge(&meter).record(0.5, &[]);
        let page = metrics.render_open();
        for line in [
            "# TYPE openmetrics_of_a_test_seconds histogram",
            "# HELP openmetrics_of_a_test_seconds For \\\"one\\\" test",
            "# TYPE openmetrics_done counter",
            "openmetrics_done_total{queue=\"e\\\"mail\"} 2",
            "openmetrics_full_ratio 0.5",
            "openmetrics_of_a_test_seconds_bucket{queue=\"e\\\"mail\",le=\"0.05\"} 0",
            "openmetrics_of_a_test_seconds_bucket{queue=\"e\\\"mail\",le=\"+Inf\"} 1",
            "openmetrics_of_a_test_seconds_sum{queue=\"e\\\"mail\"} 0.06",
            "openmetrics_of_a_test_seconds_count{queue=\"e\\\"mail\"} 1",
        ] {
            assert!(
                page.lines().any(|found| found == line),
                "{line} is not in\n{page}"
            );
        }
        let with_exemplar = "le=\"0.075\"} 1 # {trace_id=\"4bf92f3577b34da6a3ce929d0e0e4736\",\
                             span_id=\"00f067aa0ba902b7\"} 0.06 ";
        assert!(page.contains(with_exemplar), "{page}");
        assert_eq!(page.matches(" # {").count(), 1, "{page}");
        assert!(page.ends_with("\n# EOF\n"));
        // The plain page has the same series and no exemplars.
        let series = |page: &str| -> Vec<String> {
            let samples = page.lines().filter(|line| !line.starts_with('#'));
            let mut series: Vec<String> = samples
                .filter_map(|line| Some(line.split(" # ").next()?.rsplit_once(' ')?.0.to_owned()))
                .collect();
            series.sort();
            series
        };
        assert_eq!(series(&page), series(&metrics.render()));
        assert!(!metrics.render().contains("trace_id"));
    }
}
