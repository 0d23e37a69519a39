//! `rpc.server.call.duration` for every call, in one place instead of in each handler.
//!
//! The status of a gRPC call stands in the trailers, after the body, so the body is watched to its end. A call
//! whose body is dropped before counts as CANCELLED: the client went away.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use tonic::Code;
use tonic::service::Routes;

use crate::clock::Monotonic;
use crate::telemetry::{Histogram, KeyValue, meter};

/// Instead of the path of a call that no service of ours has: paths are the client's to invent, labels are not.
const OTHER: &str = "_OTHER";

/// The routes with every call measured. `known`: the services whose calls are named.
pub(super) fn observed(routes: Routes, known: Arc<[&'static str]>) -> Routes {
    let duration = meter()
        .f64_histogram("rpc.server.call.duration")
        .with_unit("s")
        .with_description("Duration of a call as the server sees it; a stream lasts until it ends")
        .build();
    let observe = from_fn(move |request: Request, next: Next| {
        let call = Call::begin(request.uri().path(), &known, duration.clone());
        async move { call.watch(next.run(request).await) }
    });
    routes.into_axum_router().layer(observe).into()
}

struct Call {
    method: String,
    started: Monotonic,
    duration: Histogram<f64>,
}

impl Call {
    fn begin(path: &str, known: &[&'static str], duration: Histogram<f64>) -> Self {
        let path = path.trim_start_matches('/');
        let service = path.split('/').next().unwrap_or_default();
        let method = if known.contains(&service) { path } else { OTHER };
        Self {
            method: method.to_owned(),
            started: Monotonic::start(),
            duration,
        }
    }

    fn watch(self, response: Response) -> Response {
        // A refused call has its status in the headers and no body.
        if let Some(code) = status(response.headers()) {
            self.end(code);
            return response;
        }
        response.map(|inner| {
            Body::new(Watched {
                inner,
                call: Some(self),
            })
        })
    }

    fn end(self, code: Code) {
        let method = match code {
            Code::Unimplemented => OTHER.to_owned(), // a known service, but a method of the client's invention
            _ => self.method,
        };
        let attributes = [
            KeyValue::new("rpc.system.name", "grpc"),
            KeyValue::new("rpc.method", method),
            KeyValue::new("rpc.status_code", code_name(code)),
        ];
        self.duration.record(self.started.seconds(), &attributes);
    }
}

/// A body that ends its call.
struct Watched {
    inner: Body,
    call: Option<Call>,
}

impl Watched {
    fn end(&mut self, code: Code) {
        if let Some(call) = self.call.take() {
            call.end(code);
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(code) = frame.trailers_ref().and_then(status) {
                    self.end(code);
                }
            }
            Some(Err(_)) => self.end(Code::Unknown),
            None => self.end(Code::Ok),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn status(headers: &HeaderMap) -> Option<Code> {
    headers
        .get("grpc-status")
        .map(|code| Code::from_bytes(code.as_bytes()))
}

/// The name on the wire of conventions: `RESOURCE_EXHAUSTED`.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    fn call(metrics: &Metrics, path: &str) -> Call {
        let duration = metrics
            .meter()
            .f64_histogram("rpc.server.call.duration")
            .with_unit("s")
            .build();
        Call::begin(path, &["t.v1.JobService"], duration)
    }

    #[tokio::test]
    async fn a_call_is_counted_once_with_its_status() {
        let metrics = Metrics::for_test("tidegate-test");
        let refused = Response::builder()
            .header("grpc-status", "8")
            .body(Body::empty())
            .expect("a response");
        call(&metrics, "/t.v1.JobService/SubmitJob").watch(refused);
        let answered = call(&metrics, "/t.v1.JobService/GetJob").watch(Response::new(Body::from("x")));
        let body = axum::body::to_bytes(answered.into_body(), 10)
            .await
            .expect("a body");
        assert_eq!(body, "x");
        drop(call(&metrics, "/t.v1.JobService/WatchJob").watch(Response::new(Body::from("x"))));
        call(&metrics, "/nonsense/123").end(Code::Unimplemented);

        let text = metrics.render();
        for (method, code) in [
            ("t.v1.JobService/SubmitJob", "RESOURCE_EXHAUSTED"),
            ("t.v1.JobService/GetJob", "OK"),
            ("t.v1.JobService/WatchJob", "CANCELLED"),
            ("_OTHER", "UNIMPLEMENTED"),
        ] {
            let line = format!(
                r#"rpc_server_call_duration_seconds_count{{rpc_method="{method}",rpc_status_code="{code}",rpc_system_name="grpc"}} 1"#
            );
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("nonsense"), "{text}");
    }
}
