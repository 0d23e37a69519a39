//! Opening a control stream.

use std::time::Duration;

use tidegate_protocol::{
    limits::MESSAGE_BYTES_MAX,
    v1::{self, attach_request::Message, control_service_client::ControlServiceClient},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Streaming,
    transport::{Channel, Endpoint},
};

use crate::observe::{Observed, Observer};

const METHOD: &str = "tidegate.v1.ControlService/Attach";
/// For the connection, and again for the stream's first answer.
const OPEN_MAX: Duration = Duration::from_secs(3);
/// Messages that may wait for the network.
const OUTBOX: usize = 16;
/// For a last word to get out.
const LAST_WORD_MAX: Duration = Duration::from_secs(1);

pub(super) struct Stream {
    pub(super) up: mpsc::Sender<v1::AttachRequest>,
    pub(super) down: Streaming<v1::AttachResponse>,
    pub(super) call: Observed,
}

/// A connection of its own for every stream: whatever was wrong with the last one is gone with it.
pub(super) async fn connect(endpoint: &Endpoint) -> Result<Channel, String> {
    let endpoint = endpoint.clone().keep_alive_while_idle(true);
    match tokio::time::timeout(OPEN_MAX, endpoint.connect()).await {
        Ok(connected) => connected.map_err(|error| with_causes(&error)),
        Err(_) => Err("no connection in time".to_owned()),
    }
}

pub(super) async fn open(
    channel: Channel,
    hello: v1::NodeHello,
    observer: &Observer,
) -> Result<Stream, String> {
    let (up, outbox) = mpsc::channel(OUTBOX);
    // It is the first in a new channel: there is room.
    up.try_send(request(Message::Hello(hello)))
        .map_err(|error| error.to_string())?;
    let mut client = ControlServiceClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let call = observer.begin(METHOD);
    match tokio::time::timeout(OPEN_MAX, client.attach(ReceiverStream::new(outbox))).await {
        Ok(Ok(response)) => Ok(Stream {
            up,
            down: response.into_inner(),
            call,
        }),
        Ok(Err(status)) => {
            call.end(status.code());
            Err(with_causes(&status))
        }
        Err(_) => Err("no answer in time".to_owned()),
    }
}

impl Stream {
    /// Says it and ends the stream.
    pub(super) async fn end_with(self, last: Message) {
        let Self { up, mut down, call } = self;
        let say = async {
            let _ = up.send(request(last)).await;
            drop(up);
            // The controller ends the stream when it has heard it.
            while let Ok(Some(_)) = down.message().await {}
        };
        if tokio::time::timeout(LAST_WORD_MAX, say).await.is_ok() {
            call.end(Code::Ok);
        }
    }
}

pub(super) fn request(message: Message) -> v1::AttachRequest {
    v1::AttachRequest {
        message: Some(message),
    }
}

/// "transport error" alone helps nobody.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
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
