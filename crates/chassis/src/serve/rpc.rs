//! What every call gets, in one place instead of in each handler: `rpc.server.call.duration`, an answer where tonic or a
//! panic would have spoken for us, and a bound on what waits to be read.
//!
//! The status of a gRPC call stands in the trailers, after the body, so the body is watched to its end. A call that is
//! dropped before counts as CANCELLED: the client went away.

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Bytes;
use futures_util::FutureExt;
use futures_util::future::CatchUnwind;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};
use tower_service::Service;

use super::paced::Paced;
use super::peer::PeerInfo;
use super::routes::{Handled, Routes, service_of};
use crate::clock::Monotonic;
use crate::telemetry::rpc::code_name;
use crate::telemetry::{Histogram, KeyValue, meter, metric::RPC_SERVER_DURATION};

/// Instead of the path of a call that no service of ours has: paths are the client's to invent, labels are not.
const OTHER: &str = "_OTHER";

/// Why a call has no answer of its handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// The handler panicked.
    Panicked,
    /// What came is not a message of this call.
    Malformed,
    /// The message is larger than a message may be.
    TooLarge,
}

/// Makes the answer of a call that has none of its handler.
pub type Answer = fn(Unanswered) -> Response<Body>;

/// What is to be known about every call.
pub(super) struct Known {
    pub routes: Routes,
    /// The services whose calls are named.
    pub names: Vec<&'static str>,
    pub answer: Answer,
    pub unread_bytes_max: usize,
    duration: Histogram<f64>,
}

impl Known {
    pub fn new(routes: Routes, names: Vec<&'static str>, answer: Answer, unread_bytes_max: usize) -> Self {
        Self {
            routes,
            names,
            answer,
            unread_bytes_max,
            duration: RPC_SERVER_DURATION.f64_histogram(&meter()),
        }
    }
}

/// The services with every call measured and guarded.
#[derive(Clone)]
pub(super) struct Calls(pub Arc<Known>);

impl Service<Request<Body>> for Calls {
    type Response = Response<Watched>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        let known = self.0.clone();
        let call = Call::begin(request.uri().path(), &known.names, known.duration.clone());
        let peer = request.extensions().get::<PeerInfo>().cloned();
        Answering {
            handled: AssertUnwindSafe(known.routes.call(request)).catch_unwind(),
            call: Some(call),
            peer,
            known,
        }
    }
}

/// A call until its headers are answered.
pub(super) struct Answering {
    handled: CatchUnwind<AssertUnwindSafe<Handled>>,
    call: Option<Call>,
    peer: Option<PeerInfo>,
    known: Arc<Known>,
}

impl Future for Answering {
    type Output = Result<Response<Watched>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer_for = self.known.answer;
        let answer = match ready!(self.handled.poll_unpin(cx)) {
            Ok(Ok(answer)) => match unread_by_handler(answer.headers()) {
                Some(why) => answer_for(why),
                None => answer,
            },
            Ok(Err(never)) => match never {},
            Err(_panic) => {
                // What it said is in the log already: the process's panic hook wrote it.
                let method = self.call.as_ref().map(|call| call.method.as_str());
                tracing::error!(method, "a handler panicked; its call is answered INTERNAL");
                answer_for(Unanswered::Panicked)
            }
        };
        let (peer, unread_bytes_max) = (self.peer.take(), self.known.unread_bytes_max);
        let paced = |body| Paced::new(body, peer, unread_bytes_max);
        Poll::Ready(Ok(watch(self.call.take(), answer, paced)))
    }
}

/// The client went away, or its deadline passed.
impl Drop for Answering {
    fn drop(&mut self) {
        if let Some(call) = self.call.take() {
            call.end(Code::Cancelled);
        }
    }
}

fn watch(
    mut call: Option<Call>,
    answer: Response<Body>,
    paced: impl FnOnce(Body) -> Paced,
) -> Response<Watched> {
    // A refused call has its status in the headers and no body.
    if let Some(code) = status(answer.headers())
        && let Some(call) = call.take()
    {
        call.end(code);
    }
    answer.map(|inner| Watched {
        inner: paced(inner),
        call,
    })
}

/// tonic says INTERNAL of a message that it cannot decode, and OUT_OF_RANGE of one that is too large: neither is true of a
/// caller's mistake. What our handlers say has details, so what has none is tonic's.
fn unread_by_handler(headers: &HeaderMap) -> Option<Unanswered> {
    if headers.contains_key("grpc-status-details-bin") {
        return None;
    }
    match status(headers)? {
        Code::Internal => Some(Unanswered::Malformed),
        Code::OutOfRange => Some(Unanswered::TooLarge),
        _ => None,
    }
}

/// A status without details.
pub(super) fn plain(why: Unanswered) -> Response<Body> {
    let (code, message) = match why {
        Unanswered::Panicked => ("13", "internal error"),
        Unanswered::Malformed => ("3", "not a message of this call"),
        Unanswered::TooLarge => ("8", "the message is too large"),
    };
    let mut answer = Response::new(Body::empty());
    let headers = answer.headers_mut();
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static(code));
    headers.insert("grpc-message", HeaderValue::from_static(message));
    answer
}

struct Call {
    method: String,
    started: Monotonic,
    duration: Histogram<f64>,
}

impl Call {
    fn begin(path: &str, known: &[&'static str], duration: Histogram<f64>) -> Self {
        let method = if known.contains(&service_of(path)) {
            path.trim_start_matches('/')
        } else {
            OTHER
        };
        Self {
            method: method.to_owned(),
            started: Monotonic::start(),
            duration,
        }
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
pub(super) struct Watched {
    inner: Paced,
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
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    fn text_body() -> Body {
        Body::new(axum::body::Body::from("x"))
    }

    fn unpaced(body: Body) -> Paced {
        Paced::new(body, None, 0)
    }

    fn call(metrics: &Metrics, path: &str) -> Call {
        let duration = RPC_SERVER_DURATION.f64_histogram(&metrics.meter());
        Call::begin(path, &["t.v1.JobService"], duration)
    }

    #[tokio::test]
    async fn a_call_is_counted_once_with_its_status() {
        let metrics = Metrics::for_test("tidegate-test");
        let refused = Response::builder()
            .header("grpc-status", "8")
            .body(Body::empty())
            .expect("a response");
        watch(
            Some(call(&metrics, "/t.v1.JobService/SubmitJob")),
            refused,
            unpaced,
        );
        let answered = |method| watch(Some(call(&metrics, method)), Response::new(text_body()), unpaced);
        let read = answered("/t.v1.JobService/GetJob").into_body();
        let body = axum::body::to_bytes(axum::body::Body::new(read), 10)
            .await
            .expect("a body");
        assert_eq!(body, "x");
        drop(answered("/t.v1.JobService/WatchJob"));
        drop(Answering {
            handled: AssertUnwindSafe(Box::pin(std::future::pending()) as Handled).catch_unwind(),
            call: Some(call(&metrics, "/t.v1.JobService/ListJobs")),
            peer: None,
            known: Arc::new(Known::new(Routes::default(), Vec::new(), plain, 0)),
        });
        call(&metrics, "/nonsense/123").end(Code::Unimplemented);

        let text = metrics.render();
        for (method, code) in [
            ("t.v1.JobService/SubmitJob", "RESOURCE_EXHAUSTED"),
            ("t.v1.JobService/GetJob", "OK"),
            ("t.v1.JobService/WatchJob", "CANCELLED"),
            ("t.v1.JobService/ListJobs", "CANCELLED"),
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
