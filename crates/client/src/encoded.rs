//! Jobs on the wire. A job is encoded once, by the task that submits it: batches, and repeats of them, take the bytes as
//! they are.

use bytes::Bytes;
use prost::Message;
use tidegate_protocol::{codec::Messages, limits::MESSAGE_BYTES_MAX, v1};
use tonic::{
    GrpcMethod, Request, Response, Status, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel,
};

const SERVICE: &str = "tidegate.v1.JobService";
const METHOD: &str = "SubmitJobs";
const PATH: &str = "/tidegate.v1.JobService/SubmitJobs";
/// Tag and length of a job inside a request.
const OVERHEAD_BYTES: usize = 8;

/// An encoded `NewJob`. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct EncodedJob(Bytes);

impl EncodedJob {
    pub(crate) fn new(job: &v1::NewJob) -> Self {
        Self(job.encode_to_vec().into())
    }

    /// What it takes of a request.
    pub(crate) fn bytes(&self) -> usize {
        self.0.len() + OVERHEAD_BYTES
    }
}

/// `SubmitJobsRequest` as it travels: a message in a message is its bytes.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EncodedJobs {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    jobs: Vec<Bytes>,
}

impl FromIterator<EncodedJob> for EncodedJobs {
    fn from_iter<I: IntoIterator<Item = EncodedJob>>(jobs: I) -> Self {
        Self {
            jobs: jobs.into_iter().map(|job| job.0).collect(),
        }
    }
}

/// As the generated client does it.
pub(crate) async fn submit_jobs(
    channel: Channel,
    mut request: Request<EncodedJobs>,
) -> Result<Response<v1::SubmitJobsResponse>, Status> {
    let mut grpc = Grpc::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let not_ready = |error| Status::unknown(format!("service was not ready: {error}"));
    grpc.ready().await.map_err(not_ready)?;
    request.extensions_mut().insert(GrpcMethod::new(SERVICE, METHOD));
    let codec = Messages::<EncodedJobs, v1::SubmitJobsResponse>::default();
    grpc.unary(request, PathAndQuery::from_static(PATH), codec).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_jobs_are_the_request_of_the_contract() {
        let job = |queue: &str| v1::NewJob {
            queue: queue.to_owned(),
            payload: "x".into(),
            ..v1::NewJob::default()
        };
        let jobs = vec![job("a"), job("b")];
        let encoded: EncodedJobs = jobs.iter().map(EncodedJob::new).collect();
        let request = v1::SubmitJobsRequest { jobs };
        assert_eq!(encoded.encode_to_vec(), request.encode_to_vec());
        let bytes: usize = request.jobs.iter().map(|job| EncodedJob::new(job).bytes()).sum();
        assert!(bytes >= request.encoded_len());
    }
}
