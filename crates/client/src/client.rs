//! The handle that applications hold.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use serde::Serialize;
use tidegate_protocol::limits::MESSAGE_BYTES_MAX;
use tidegate_protocol::v1::{job_service_client::JobServiceClient, queue_service_client::QueueServiceClient};
use tonic::transport::Channel;

use crate::{
    ClientError, Queue, Submission, Submit,
    batch::Batcher,
    call::{Caller, Plan},
    deadline::Deadline,
    endpoints::Endpoints,
    observe::Observer,
};

/// How long a call may take, retries included, when the caller does not say.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// A client of the routers. Cheap to clone; clones share connections, batches and the retry budget.
#[derive(Clone)]
pub struct Client {
    pub(crate) caller: Arc<Caller>,
    pub(crate) batcher: Arc<Batcher>,
    pub(crate) timeout: Duration,
}

impl Client {
    /// A client of one or more routers of one job store (`http://host:port`, `https://host:port` or `host:port`). No
    /// connection is made before the first call, which must be inside a tokio runtime.
    pub fn connect(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Result<Self, ClientError> {
        let caller = Arc::new(Caller::new(Endpoints::new(endpoints)?));
        let batcher = Arc::new(Batcher::new(Arc::clone(&caller)));
        Ok(Self {
            caller,
            batcher,
            timeout: TIMEOUT_DEFAULT,
        })
    }

    /// How long a call of this handle may take, retries included. 5 s by default.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Tells of each call to a router that has ended, for metrics; the first observer of a client and its clones stays. A
    /// call that answers with a stream has ended when the stream begins.
    #[must_use]
    pub fn observed(self, observer: Observer) -> Self {
        self.caller.observe(observer);
        self
    }

    /// Submits a typed payload as JSON. Set options on what it returns, then `send()`.
    pub fn submit<T: Serialize>(&self, queue: &Queue<T>, payload: impl std::borrow::Borrow<T>) -> Submit {
        Submit::new(self.clone(), Submission::new(queue, payload))
    }

    /// Submits bytes as they are.
    pub fn submit_raw(&self, queue: impl Into<String>, payload: impl Into<Bytes>) -> Submit {
        Submit::new(self.clone(), Submission::raw(queue, payload))
    }

    /// Waits until everything submitted through this client and its clones has its answer, and joins the task that sends
    /// batches. The client can be used again afterwards. Dropping the client instead lets the task end by itself.
    pub async fn close(&self) {
        self.batcher.close().await;
    }

    pub(crate) fn deadline(&self) -> Deadline {
        Deadline::after(self.timeout)
    }

    pub(crate) fn read_plan(&self, method: &'static str) -> Plan {
        Plan::repeatable(method, self.deadline())
    }

    pub(crate) fn write_plan(&self, method: &'static str) -> Plan {
        Plan::once(method, self.deadline())
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// tonic's defaults are unlimited one way; both are set.
pub(crate) fn jobs(channel: Channel) -> JobServiceClient<Channel> {
    JobServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn queues(channel: Channel) -> QueueServiceClient<Channel> {
    QueueServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}
