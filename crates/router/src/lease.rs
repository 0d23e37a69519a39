//! Workers' streams. Each stream is a task that opens with a hello, then answers renewals and settlements and passes
//! credits on to the dispatcher; how it ends decides what becomes of the jobs its worker held.

mod hello;
mod registry;
mod release;
mod renewal;
mod settling;
mod stream;

use std::{sync::Arc, time::Duration};

use tidegate_chassis::{CancellationToken, tasks::Group};
use tidegate_protocol::v1;
use tidegate_store::JobStore;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

pub use registry::{Ending, Registry};

use crate::{condition::Condition, dispatcher::Dispatch, metrics::Metrics, pipes::Pipes, status::Refusal};

/// Streams of workers on one router.
pub const STREAMS_MAX: usize = 10_000;
/// Broken streams whose jobs are about to go back; beyond that their leases end by time.
pub const RELEASES_MAX: usize = 10_000;
/// Messages that wait for a worker to read them.
const OUTBOX_MESSAGES: usize = 64;

/// What a stream sends its worker.
pub type Outbox = mpsc::Sender<Result<v1::LeaseResponse, Status>>;

/// What every stream works with.
pub struct Shared {
    pub store: Arc<dyn JobStore>,
    pub pipes: Pipes,
    pub condition: Arc<Condition>,
    pub metrics: Arc<Metrics>,
    pub registry: Arc<Registry>,
    pub dispatch: Dispatch,
    pub releases: Group,
    pub draining: CancellationToken,
    /// How this router calls itself to workers.
    pub name: String,
    /// How long workers may take to leave a draining router.
    pub drain_patience: Duration,
}

/// The service.
pub struct Leases {
    pub shared: Arc<Shared>,
    pub streams: Group,
}

#[async_trait]
impl v1::lease_service_server::LeaseService for Leases {
    type LeaseStream = ReceiverStream<Result<v1::LeaseResponse, Status>>;

    async fn lease(
        &self,
        request: Request<Streaming<v1::LeaseRequest>>,
    ) -> Result<Response<Self::LeaseStream>, Status> {
        if self.shared.draining.is_cancelled() {
            return Err(Refusal::draining().into_status());
        }
        // Answered before the hello is read: some clients send nothing until they have seen the headers.
        let (outbox, stream) = mpsc::channel(OUTBOX_MESSAGES);
        let task = stream::serve(self.shared.clone(), request.into_inner(), outbox);
        self.streams
            .spawn(task)
            .map_err(|why| Refusal::group(&why, "worker streams"))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

fn message(message: v1::lease_response::Message) -> v1::LeaseResponse {
    v1::LeaseResponse {
        message: Some(message),
    }
}
