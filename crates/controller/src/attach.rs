//! Nodes: one stream each, from hello to its end.

use std::time::Duration;

use tidegate_chassis::{CancellationToken, tasks::Group};
use tidegate_protocol::v1::{self, attach_request::Message as Up};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::{
    core::model::{Hello, StreamId},
    owner::{Handle, Link, Outbox},
    status::Refusal,
    wire,
};

/// Nodes attached at once: what one owner can hear once a second.
pub const STREAMS_MAX: usize = 4_096;
/// Messages that a node may be behind; a node reads one in microseconds, so more means that it does not read.
const OUTBOX_MESSAGES: usize = 64;
/// A stream that says nothing holds a place for nobody.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// For the last words to a node that may not read them.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The service.
pub struct Attaching {
    pub owner: Handle,
    pub streams: Group,
    pub draining: CancellationToken,
}

#[async_trait]
impl v1::control_service_server::ControlService for Attaching {
    type AttachStream = ReceiverStream<Result<v1::AttachResponse, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<v1::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        if self.draining.is_cancelled() {
            return Err(Refusal::draining().into_status());
        }
        // Answered before the hello is read: some clients send nothing until they have seen the headers.
        let (outbox, stream) = mpsc::channel(OUTBOX_MESSAGES);
        let node = Attached {
            owner: self.owner.clone(),
            draining: self.draining.clone(),
            inbound: request.into_inner(),
            outbox,
        };
        self.streams
            .spawn(node.serve())
            .map_err(|why| Refusal::group(&why, "nodes"))?;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

struct Attached {
    owner: Handle,
    draining: CancellationToken,
    inbound: Streaming<v1::AttachRequest>,
    outbox: Outbox,
}

impl Attached {
    async fn serve(mut self) {
        if let Err(refusal) = self.talk().await {
            tracing::info!(reason = refusal.reason(), "a node's stream was refused or ended");
            let last = self.outbox.send(Err(refusal.into_status()));
            // Whoever does not read it learns the same from the end of the stream.
            let _ = timeout(LAST_WORDS, last).await;
        }
    }

    async fn talk(&mut self) -> Result<(), Refusal> {
        let hello = tokio::select! {
            biased;
            () = self.draining.cancelled() => return Err(Refusal::draining()),
            hello = timeout(HELLO_TIMEOUT, first(&mut self.inbound)) => {
                hello.map_err(|_| Refusal::hello_expected())??
            }
        };
        let Some(hello) = hello else { return Ok(()) };
        let end = CancellationToken::new();
        let link = Link {
            outbox: self.outbox.clone(),
            end: end.clone(),
        };
        let stream = self.owner.join(hello, link).await?;
        let ended = self.listen(stream, &end).await;
        self.owner.left(stream).await;
        ended
    }

    async fn listen(&mut self, stream: StreamId, end: &CancellationToken) -> Result<(), Refusal> {
        loop {
            let message = tokio::select! {
                biased;
                () = self.draining.cancelled() => return Err(Refusal::draining()),
                // What it was told before it is closed is still delivered.
                () = end.cancelled() => return self.closed(),
                () = self.outbox.closed() => return Ok(()),
                message = self.inbound.message() => message,
            };
            let Ok(Some(message)) = message else {
                return Ok(());
            };
            match wire::said(message)? {
                Some(said) => self.owner.said(stream, said).await?,
                None => tracing::debug!(stream, "an unknown message was ignored"),
            }
        }
    }

    fn closed(&self) -> Result<(), Refusal> {
        match self.outbox.capacity() {
            0 => Err(Refusal::slow_reader()),
            _ => Ok(()),
        }
    }
}

/// `None`: the node left without a word.
async fn first(inbound: &mut Streaming<v1::AttachRequest>) -> Result<Option<Hello>, Refusal> {
    match inbound.message().await {
        Ok(Some(v1::AttachRequest {
            message: Some(Up::Hello(hello)),
        })) => Ok(Some(
            wire::hello(hello).map_err(|invalid| invalid.within("hello"))?,
        )),
        Ok(Some(_)) => Err(Refusal::hello_expected()),
        Ok(None) | Err(_) => Ok(None),
    }
}
