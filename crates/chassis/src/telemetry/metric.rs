//! What a metric is, said once: the instrument is built from it, and so is its line in the reference.

use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};

use super::{DURATION_BUCKETS_S, exemplars::TracedHistogram};

/// One metric of a service. Its name carries no unit and no suffix: see [`Metric::on_page`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    /// As OpenTelemetry writes units: `s`; empty: a number of things.
    pub unit: &'static str,
    pub labels: &'static [&'static str],
    /// A sentence without a full stop.
    pub help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Grows while the process lives.
    Counter,
    /// Is what it is now.
    Gauge,
    /// With these bounds of its buckets.
    Histogram(&'static [f64]),
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        }
    }
}

impl Metric {
    pub const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self::new(name, Kind::Counter, "", labels, help)
    }

    pub const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self::new(name, Kind::Gauge, "", labels, help)
    }

    /// A point in time: seconds since the Unix epoch.
    pub const fn timestamp(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self::new(name, Kind::Gauge, "s", labels, help)
    }

    /// A histogram of seconds, in [`DURATION_BUCKETS_S`].
    pub const fn duration(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Self {
        Self::duration_in(name, &DURATION_BUCKETS_S, labels, help)
    }

    /// A histogram of seconds that needs a finer eye somewhere.
    pub const fn duration_in(
        name: &'static str,
        bounds_s: &'static [f64],
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self::new(name, Kind::Histogram(bounds_s), "s", labels, help)
    }

    pub const fn sizes(
        name: &'static str,
        bounds: &'static [f64],
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self::new(name, Kind::Histogram(bounds), "", labels, help)
    }

    const fn new(
        name: &'static str,
        kind: Kind,
        unit: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self {
            name,
            kind,
            unit,
            labels,
            help,
        }
    }

    /// Its name on `/metrics`: dots become underscores, the unit and `_total` are added.
    pub fn on_page(&self) -> String {
        let mut name = self.name.replace('.', "_");
        if self.unit == "s" {
            name.push_str("_seconds");
        }
        if self.kind == Kind::Counter {
            name.push_str("_total");
        }
        name
    }

    /// A label on `/metrics`.
    pub fn label_on_page(label: &str) -> String {
        label.replace('.', "_")
    }

    pub fn u64_counter(&self, meter: &Meter) -> Counter<u64> {
        self.is(self.kind == Kind::Counter);
        meter.u64_counter(self.name).with_description(self.help).build()
    }

    pub fn u64_gauge(&self, meter: &Meter) -> Gauge<u64> {
        self.is(self.kind == Kind::Gauge);
        let gauge = meter.u64_gauge(self.name).with_description(self.help);
        gauge.with_unit(self.unit).build()
    }

    pub fn f64_gauge(&self, meter: &Meter) -> Gauge<f64> {
        self.is(self.kind == Kind::Gauge);
        let gauge = meter.f64_gauge(self.name).with_description(self.help);
        gauge.with_unit(self.unit).build()
    }

    pub fn f64_histogram(&self, meter: &Meter) -> Histogram<f64> {
        let histogram = meter.f64_histogram(self.name).with_description(self.help);
        histogram
            .with_unit(self.unit)
            .with_boundaries(self.bounds())
            .build()
    }

    /// One whose buckets have exemplars: a [`Metric::duration`].
    pub fn traced_histogram(&self, meter: &Meter) -> TracedHistogram {
        self.is(self.kind == Kind::Histogram(&DURATION_BUCKETS_S));
        TracedHistogram::new(self, self.f64_histogram(meter))
    }

    pub fn u64_histogram(&self, meter: &Meter) -> Histogram<u64> {
        let histogram = meter.u64_histogram(self.name).with_description(self.help);
        histogram.with_boundaries(self.bounds()).build()
    }

    fn bounds(&self) -> Vec<f64> {
        match self.kind {
            Kind::Histogram(bounds) => bounds.to_vec(),
            Kind::Counter | Kind::Gauge => {
                self.is(false);
                Vec::new()
            }
        }
    }

    /// What is built is what is written about it.
    fn is(&self, same: bool) {
        debug_assert!(same, "{} is a {}", self.name, self.kind.as_str());
    }
}

/// Constants of these names, and `METRICS`, all of them: so no metric can be made and not be listed.
#[macro_export]
macro_rules! metrics {
    ($($name:ident = $metric:expr;)*) => {
        $(pub(crate) const $name: $crate::telemetry::Metric = $metric;)*
        /// Every metric of this service, beside those of every process.
        pub const METRICS: &[$crate::telemetry::Metric] = &[$($name),*];
    };
}

/// Metrics that every process has.
pub const EVERY_PROCESS: &[Metric] = &[
    BUILD_INFO,
    TELEMETRY_SPANS,
    RPC_SERVER_DURATION,
    RPC_CLIENT_DURATION,
];

pub const BUILD_INFO: Metric = Metric::gauge(
    "tidegate_build_info",
    &["version"],
    "Always 1; the label is the running version",
);

/// Only with an OTLP endpoint.
pub const TELEMETRY_SPANS: Metric = Metric::counter(
    "tidegate_telemetry_spans",
    &["outcome"],
    "Spans by what became of them (exported, queue_full, export_failed); all but exported are lost",
);

pub const RPC_SERVER_DURATION: Metric = Metric::duration(
    "rpc.server.call.duration",
    &["rpc.system.name", "rpc.method", "rpc.status_code"],
    "Duration of a call as the server sees it; a stream lasts until it ends",
);

pub const RPC_CLIENT_DURATION: Metric = Metric::duration(
    "rpc.client.call.duration",
    &["rpc.system.name", "rpc.method", "rpc.status_code"],
    "Duration of a call to another service; a stream lasts until it ends",
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{KeyValue, Metrics};

    #[test]
    fn the_name_on_the_page_is_what_it_says() {
        const SIZE: Metric = Metric::sizes("size", &[1.0, 2.0], &[], "Of it");
        const AT: Metric = Metric::timestamp("at", &[], "When");
        let metrics = Metrics::for_test("tidegate-test");
        let meter = metrics.meter();
        RPC_SERVER_DURATION.f64_histogram(&meter).record(1.0, &[]);
        RPC_CLIENT_DURATION.f64_histogram(&meter).record(1.0, &[]);
        TELEMETRY_SPANS
            .u64_counter(&meter)
            .add(1, &[KeyValue::new("outcome", "exported")]);
        BUILD_INFO.u64_gauge(&meter).record(1, &[]);
        SIZE.u64_histogram(&meter).record(2, &[]);
        AT.f64_gauge(&meter).record(2.5, &[]);
        let text = metrics.render();
        for metric in EVERY_PROCESS.iter().chain([&SIZE, &AT]) {
            let line = format!("# TYPE {} {}\n", metric.on_page(), metric.kind.as_str());
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
        assert!(text.contains("size_bucket{le=\"2\"} 1"), "{text}");
    }
}
