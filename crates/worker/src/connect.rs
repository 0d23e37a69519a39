//! Opening a lease stream, and hearing it.

use std::{pin::Pin, time::Duration};

use tidegate_client::observe::{Observed, Observer};
use tidegate_protocol::{
    limits::MESSAGE_BYTES_MAX,
    v1::{self, lease_request::Message, lease_service_client::LeaseServiceClient},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming, transport::Endpoint};

const METHOD: &str = "tidegate.v1.LeaseService/Lease";
/// For the connection and the stream's first answer; a router that takes longer is left for the next.
const OPEN_MAX: Duration = Duration::from_secs(3);
/// Messages that may wait for the network. What does not fit stays where it can still be merged.
const OUTBOX: usize = 16;

/// An open stream. Dropping it closes it on our side: nothing of it is heard any more.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) up: mpsc::Sender<v1::LeaseRequest>,
    pub(crate) down: Streaming<v1::LeaseResponse>,
    /// Told of when the stream ends; dropped with it otherwise.
    pub(crate) call: Option<Observed>,
}

impl Opened {
    fn ended(&mut self, code: Code) {
        if let Some(call) = self.call.take() {
            call.end(code);
        }
    }
}

#[derive(Debug)]
pub(crate) struct OpenError {
    pub(crate) message: String,
    /// Whether a router may have seen the hello.
    pub(crate) hello_sent: bool,
}

type Opening = Pin<Box<dyn Future<Output = Result<Opened, OpenError>> + Send>>;

/// The link's stream, as far as it has got.
#[allow(clippy::large_enum_variant, reason = "there is one in a process")]
pub(crate) enum Connection {
    /// Until it is time to try again.
    Waiting {
        until_ms: u64,
    },
    Opening(Opening),
    Open {
        stream: Box<Opened>,
        since_ms: u64,
        welcomed: bool,
    },
}

pub(crate) enum Heard {
    Opened(Result<Opened, OpenError>),
    Message(v1::LeaseResponse),
    /// Why the stream ended.
    Broken(String),
}

impl Connection {
    pub(crate) async fn next(&mut self) -> Heard {
        match self {
            // The wake-up of the link's loop ends the wait.
            Self::Waiting { .. } => std::future::pending().await,
            Self::Opening(opening) => Heard::Opened(opening.await),
            Self::Open { stream, .. } => match stream.down.message().await {
                Ok(Some(message)) => Heard::Message(message),
                Ok(None) => {
                    stream.ended(Code::Ok);
                    Heard::Broken("the router closed the stream".to_owned())
                }
                Err(status) => {
                    stream.ended(status.code());
                    Heard::Broken(with_causes(&status))
                }
            },
        }
    }
}

/// A connection of its own for every stream: whatever was wrong with the last one is gone with it.
pub(crate) async fn open(
    endpoint: Endpoint,
    hello: v1::Hello,
    observer: Observer,
) -> Result<Opened, OpenError> {
    let failed = |hello_sent, message: String| OpenError { message, hello_sent };
    let channel = match tokio::time::timeout(OPEN_MAX, endpoint.connect()).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(error)) => return Err(failed(false, with_causes(&error))),
        Err(_) => return Err(failed(false, "no connection in time".to_owned())),
    };
    let (up, outbox) = mpsc::channel(OUTBOX);
    let hello = v1::LeaseRequest {
        message: Some(Message::Hello(hello)),
    };
    // It is the first in a new channel: there is room.
    up.try_send(hello)
        .map_err(|error| failed(false, error.to_string()))?;
    let mut client = LeaseServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let call = observer.begin(METHOD);
    match tokio::time::timeout(OPEN_MAX, client.lease(ReceiverStream::new(outbox))).await {
        Ok(Ok(response)) => Ok(Opened {
            up,
            down: response.into_inner(),
            call: Some(call),
        }),
        Ok(Err(status)) => {
            call.end(status.code());
            Err(failed(true, with_causes(&status)))
        }
        Err(_) => Err(failed(true, "no answer in time".to_owned())),
    }
}

/// "transport error" alone helps nobody.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    // Chains are short; the bound is for errors that quote themselves.
    for _ in 0..8 {
        let Some(error) = cause else { break };
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
