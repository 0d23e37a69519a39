//! Calls of this process to other services.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Histogram, Meter};
use tonic::Code;

use super::metric::RPC_CLIENT_DURATION;

/// `rpc.client.call.duration`.
#[derive(Clone, Debug)]
pub struct RpcClient(Histogram<f64>);

impl RpcClient {
    pub fn new(meter: &Meter) -> Self {
        Self(RPC_CLIENT_DURATION.f64_histogram(meter))
    }

    /// `method`: `tidegate.v1.JobService/SubmitJob`.
    pub fn ended(&self, method: &'static str, code: Code, took: Duration) {
        let attributes = [
            KeyValue::new("rpc.system.name", "grpc"),
            KeyValue::new("rpc.method", method),
            KeyValue::new("rpc.status_code", code_name(code)),
        ];
        self.0.record(took.as_secs_f64(), &attributes);
    }
}

/// The name on the wire of conventions: `RESOURCE_EXHAUSTED`.
pub(crate) fn code_name(code: Code) -> &'static str {
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
