//! Of a histogram's buckets, one trace each that fell into it: from a slow second on a panel to a job that was slow.
//!
//! The SDK keeps none, so they are kept beside it and written only where a scraper asks for OpenMetrics. What it costs is
//! bounded: a bucket takes one trace in 100 ms over all series, everything else is one look at an atomic.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Histogram;

use super::{DURATION_BUCKETS_S, metric::Metric, trace::TraceContext};
use crate::clock::Monotonic;

/// The buckets, and the one above the last bound.
const BUCKETS: usize = DURATION_BUCKETS_S.len() + 1;
/// Between two traces that a bucket takes; a scrape each 5 s sees the last one anyway.
const EVERY: Duration = Duration::from_millis(100);
/// Series of one histogram with exemplars; queues beyond 500 count together.
const SERIES_MAX: usize = 4_096;

/// Labels as they are on the page, in order.
type Labels = Vec<(String, String)>;

/// By name on the page. Histograms are made a few times in a process.
static KEPT: LazyLock<Mutex<BTreeMap<String, Arc<Exemplars>>>> = LazyLock::new(Mutex::default);

/// A histogram of seconds, whose buckets have exemplars.
#[derive(Clone, Debug)]
pub struct TracedHistogram {
    histogram: Histogram<f64>,
    exemplars: Arc<Exemplars>,
}

impl TracedHistogram {
    pub(super) fn new(metric: &Metric, histogram: Histogram<f64>) -> Self {
        let mut kept = lock(&KEPT);
        let exemplars = Arc::clone(kept.entry(metric.on_page()).or_default());
        Self { histogram, exemplars }
    }

    /// `trace` is asked for only when the bucket takes one; what is not sampled could not be looked up.
    pub fn record(&self, seconds: f64, labels: &[KeyValue], trace: impl FnOnce() -> Option<TraceContext>) {
        self.histogram.record(seconds, labels);
        let bucket = DURATION_BUCKETS_S.partition_point(|bound| *bound < seconds);
        if self.exemplars.takes(bucket)
            && let Some(trace) = trace().filter(TraceContext::is_sampled)
        {
            self.exemplars.keep(bucket, seconds, labels, &trace);
        }
    }
}

/// One trace in a bucket.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Exemplar {
    pub(super) trace_id: String,
    pub(super) span_id: String,
    pub(super) seconds: f64,
    /// Since the Unix epoch.
    pub(super) at: Duration,
}

type Buckets = [Option<Exemplar>; BUCKETS];

#[derive(Debug)]
pub(super) struct Exemplars {
    clock: Monotonic,
    /// When a bucket takes the next one, in ms of `clock`.
    next: [AtomicU64; BUCKETS],
    series: Mutex<HashMap<Labels, Buckets>>,
}

impl Default for Exemplars {
    fn default() -> Self {
        Self {
            clock: Monotonic::start(),
            next: std::array::from_fn(|_| AtomicU64::new(0)),
            series: Mutex::default(),
        }
    }
}

impl Exemplars {
    fn takes(&self, bucket: usize) -> bool {
        let now = self.clock.ms();
        let Some(next) = self.next.get(bucket) else {
            return false;
        };
        let due = next.load(Ordering::Relaxed);
        let after = now + EVERY.as_millis() as u64;
        due <= now
            && next
                .compare_exchange(due, after, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }

    fn keep(&self, bucket: usize, seconds: f64, labels: &[KeyValue], trace: &TraceContext) {
        let (trace_id, span_id) = trace.ids();
        #[allow(
            clippy::disallowed_methods,
            reason = "the time is for people and their trace store; nothing is decided by it"
        )]
        let now = SystemTime::now();
        let exemplar = Exemplar {
            trace_id,
            span_id,
            seconds,
            at: now.duration_since(UNIX_EPOCH).unwrap_or_default(),
        };
        let mut labels: Labels = labels
            .iter()
            .map(|label| (Metric::label_on_page(label.key.as_str()), label.value.to_string()))
            .collect();
        labels.sort();
        let mut series = lock(&self.series);
        if series.len() < SERIES_MAX || series.contains_key(&labels) {
            let buckets = series.entry(labels).or_default();
            if let Some(place) = buckets.get_mut(bucket) {
                *place = Some(exemplar);
            }
        }
    }
}

/// Of one series of a histogram: for each bucket, in order.
pub(super) fn of(name: &str, labels: impl Iterator<Item = (String, String)>) -> Option<Buckets> {
    let exemplars = Arc::clone(lock(&KEPT).get(name)?);
    let mut labels: Labels = labels.collect();
    labels.sort();
    let series = lock(&exemplars.series);
    series.get(&labels).cloned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn pairs(queue: &str) -> impl Iterator<Item = (String, String)> + use<> {
        [("queue".to_owned(), queue.to_owned())].into_iter()
    }

    #[test]
    fn a_bucket_keeps_a_sampled_trace_and_takes_few() {
        const METRIC: Metric = Metric::duration("exemplars_of_a_test", &["queue"], "For a test");
        let meter = Metrics::for_test("tidegate-test").meter();
        let histogram = METRIC.traced_histogram(&meter);
        let queue = [KeyValue::new("queue", "email")];
        let mut asked = 0;
        let mut record = |seconds: f64, traceparent: &str| {
            histogram.record(seconds, &queue, || {
                asked += 1;
                TraceContext::parse(traceparent, None)
            });
        };
        record(0.2, &SAMPLED.replace("-01", "-00"));
        assert_eq!(
            of("exemplars_of_a_test_seconds", pairs("email")),
            None,
            "it is not kept anywhere"
        );
        std::thread::sleep(EVERY * 2);
        record(0.2, SAMPLED);
        record(0.2, "00-11111111111111111111111111111111-2222222222222222-01");
        record(99.0, SAMPLED);
        assert_eq!(asked, 3, "the second one came too soon to be asked for");
        let buckets = of("exemplars_of_a_test_seconds", pairs("email")).expect("kept");
        let filled: Vec<usize> = (0..BUCKETS).filter(|bucket| buckets[*bucket].is_some()).collect();
        assert_eq!(filled, [6, BUCKETS - 1], "0.1 to 0.25, and above 10 s");
        let kept = buckets[6].clone().expect("it is filled");
        assert_eq!(kept.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!((kept.span_id.as_str(), kept.seconds), ("00f067aa0ba902b7", 0.2));
        assert_eq!(of("exemplars_of_a_test_seconds", pairs("other")), None);
    }
}
