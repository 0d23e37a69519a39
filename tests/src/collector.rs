//! An OpenTelemetry collector that keeps what it gets: a real OTLP receiver over gRPC.

use crate::wait::eventually;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
    metrics_service_server::{MetricsService, MetricsServiceServer},
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

/// A span with the resource that it came from.
#[derive(Clone, Debug)]
pub struct Received {
    pub service: String,
    pub resource: BTreeMap<String, String>,
    pub span: Span,
}

impl Received {
    /// An attribute as text.
    pub fn attribute(&self, key: &str) -> Option<String> {
        attributes(&self.span.attributes).remove(key)
    }
}

#[derive(Default)]
struct Kept {
    spans: Vec<Received>,
    metrics: BTreeSet<String>,
    headers: Vec<MetadataMap>,
    /// Before each answer.
    delay: Duration,
}

/// Has a runtime of its own: closed, its connections are cut at once.
pub struct Collector {
    address: SocketAddr,
    kept: Arc<Mutex<Kept>>,
    runtime: Option<Runtime>,
}

impl Collector {
    pub fn start() -> Self {
        Self::start_slow(Duration::ZERO)
    }

    /// Takes so long before each answer.
    pub fn start_slow(delay: Duration) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener
            .set_nonblocking(true)
            .expect("a listener can be made non-blocking");
        let address = listener.local_addr().expect("a bound listener has an address");
        let kept = Arc::new(Mutex::new(Kept {
            delay,
            ..Kept::default()
        }));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("test-collector")
            .enable_all()
            .build()
            .expect("start the collector's runtime");
        let traces =
            TraceServiceServer::new(Receiver(kept.clone())).accept_compressed(CompressionEncoding::Gzip);
        let metrics =
            MetricsServiceServer::new(Receiver(kept.clone())).accept_compressed(CompressionEncoding::Gzip);
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("adopt the listener");
            Server::builder()
                .add_service(traces)
                .add_service(metrics)
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .expect("serve until the runtime ends");
        });
        Self {
            address,
            kept,
            runtime: Some(runtime),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Settings with which a process exports to it, soon.
    pub fn env(&self) -> Vec<(String, String)> {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", self.url().as_str()),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "500"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    /// Everything so far.
    pub fn spans(&self) -> Vec<Received> {
        lock(&self.kept).spans.clone()
    }

    /// Names of the metrics so far, as the instruments have them.
    pub fn metrics(&self) -> BTreeSet<String> {
        lock(&self.kept).metrics.clone()
    }

    /// Of each export of spans.
    pub fn headers(&self) -> Vec<MetadataMap> {
        lock(&self.kept).headers.clone()
    }

    /// Waits until `enough` of the spans are there; answers all.
    pub async fn wait_for(
        &self,
        timeout: Duration,
        what: &str,
        enough: impl Fn(&[Received]) -> bool,
    ) -> Vec<Received> {
        eventually(timeout, format!("spans: {what}"), async || {
            let spans = self.spans();
            enough(&spans).then_some(spans)
        })
        .await
    }

    /// Gone: connections are refused from now on.
    pub fn close(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.close();
    }
}

struct Receiver(Arc<Mutex<Kept>>);

impl Receiver {
    async fn pause(&self) {
        let delay = lock(&self.0).delay;
        tokio::time::sleep(delay).await;
    }
}

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.pause().await;
        let mut kept = lock(&self.0);
        kept.headers.push(request.metadata().clone());
        for of_resource in request.into_inner().resource_spans {
            let resource = of_resource
                .resource
                .map(|resource| attributes(&resource.attributes));
            let resource = resource.unwrap_or_default();
            let spans = of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            kept.spans.extend(spans.map(|span| Received {
                service: resource.get("service.name").cloned().unwrap_or_default(),
                resource: resource.clone(),
                span,
            }));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Receiver {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.pause().await;
        let scopes = request.into_inner().resource_metrics.into_iter();
        let metrics = scopes
            .flat_map(|resource| resource.scope_metrics)
            .flat_map(|scope| scope.metrics);
        lock(&self.0).metrics.extend(metrics.map(|metric| metric.name));
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

/// Values as text.
pub fn attributes(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| {
        let value = attribute.value.as_ref().and_then(|value| value.value.as_ref());
        let text = match value {
            Some(Value::StringValue(text)) => text.clone(),
            Some(Value::IntValue(number)) => number.to_string(),
            Some(Value::DoubleValue(number)) => number.to_string(),
            Some(Value::BoolValue(is)) => is.to_string(),
            other => format!("{other:?}"),
        };
        (attribute.key.clone(), text)
    };
    attributes.iter().map(text).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
