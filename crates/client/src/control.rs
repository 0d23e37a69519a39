//! A node's way to the controller: one stream, kept open, that a router or a worker attaches by.
//!
//! ```text
//!   node <-- events: Hello?, Connected, orders -- ControlLink <== Attach ==> one of the controllers
//!        --- reports, applied, answers --------->
//! ```
//!
//! A node never waits for it: what the node says goes into a bounded queue or is dropped, and without any controller
//! the link does nothing. Reports are dropped while there is no stream, because the hello of the next one carries the
//! full state. The link decides whom to obey ([`Obeyed`]); what the orders mean is the node's business.

mod obeyed;
mod port;
mod stream;
mod wire;

use std::time::Duration;

use tidegate_flow::backoff::full_jitter_ms;
use tidegate_protocol::{
    convert,
    v1::{self, attach_request::Message as Up, attach_response::Message as Down},
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Streaming, transport::Endpoint};

pub use self::obeyed::{Kind, NotObeyed, Obeyed};
pub use self::port::{ControlEvent, ControlPort, ControlVoice};
use self::stream::{Stream, connect, open, request, with_causes};
pub use self::wire::{histogram, wire_histogram};
use crate::{ClientError, deadline::Stopwatch, endpoint, observe::Observer};

/// Most breaks are one controller's restart, and another one takes over.
const RECONNECT_BASE_MS: u64 = 50;
/// A new leader should know its fleet within two ticks.
const RECONNECT_MAX_MS: u64 = 2_000;
/// A stream that lasted this long was a good one: the next failure is a first one again.
const GOOD_AFTER_MS: u64 = 5_000;
/// From hello to welcome.
const WELCOME_MAX: Duration = Duration::from_secs(5);
/// For the node to say who it is.
const HELLO_MAX: Duration = Duration::from_secs(5);
/// Work goes on without a controller: no need to say more often that there is none.
const WARN_EVERY_MS: u64 = 30_000;
/// The address of a controller cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid controller address {url:?}: {message}")]
pub struct InvalidController {
    pub url: String,
    pub message: String,
}

/// See the [module](self).
pub struct ControlLink {
    controllers: Vec<Endpoint>,
    /// Which one is used now, or next.
    current: usize,
    /// The order whose time to live says how long a leadership is in force.
    binding: Kind,
    obeyed: Obeyed,
    said: mpsc::Receiver<Up>,
    events: mpsc::Sender<ControlEvent>,
    clock: Stopwatch,
    /// Failures since the last good stream.
    failures: u32,
    warned_ms: Option<u64>,
    refused_ms: Option<u64>,
    observer: Observer,
}

/// How a stream ended, or why there was none.
enum Ended {
    Failed(String),
    /// The controller sent us away.
    SentAway(v1::Refused),
    NotObeyed {
        ledger_id: String,
        why: NotObeyed,
    },
    NodeGone,
}

impl ControlLink {
    /// The link and the node's end of it. `binding` is the order that carries a time to live for this node: targets for
    /// a worker, caps for a router. No controllers: the link does nothing.
    ///
    /// # Errors
    /// An address cannot be used.
    pub fn new(controllers: &[String], binding: Kind) -> Result<(Self, ControlPort), InvalidController> {
        let controllers = controllers
            .iter()
            .map(|url| address(url))
            .collect::<Result<Vec<_>, _>>()?;
        let (port, said, events) = ControlPort::new();
        let link = Self {
            controllers,
            current: 0,
            binding,
            obeyed: Obeyed::default(),
            said,
            events,
            clock: Stopwatch::start(),
            failures: 0,
            warned_ms: None,
            refused_ms: None,
            observer: Observer::default(),
        };
        Ok((link, port))
    }

    /// Tells of each stream that has ended.
    #[must_use]
    pub fn observed(mut self, observer: Observer) -> Self {
        self.observer = observer;
        self
    }

    /// Keeps a stream open until `stop`, or until the node's end is dropped.
    pub async fn run(mut self, stop: CancellationToken) {
        let closed = self.events.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = closed.closed() => {}
            () = self.keep_attached() => {}
        }
    }

    async fn keep_attached(&mut self) {
        if self.controllers.is_empty() {
            // What is said is heard by nobody; it must not pile up.
            while self.said.recv().await.is_some() {}
            return;
        }
        loop {
            let mut welcomed_ms = None;
            let ended = self.attach(&mut welcomed_ms).await;
            if welcomed_ms.is_some() {
                let _ = self.events.send(ControlEvent::Disconnected).await;
            }
            if welcomed_ms.is_some_and(|since| self.clock.ms() >= since + GOOD_AFTER_MS) {
                self.failures = 0;
            }
            if matches!(ended, Ended::NodeGone) {
                return;
            }
            self.tell(ended).await;
            self.failures = self.failures.saturating_add(1);
            self.current = (self.current + 1) % self.controllers.len();
            let random = fastrand::f64();
            let wait_ms = full_jitter_ms(RECONNECT_BASE_MS, RECONNECT_MAX_MS, self.failures, random);
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        }
    }

    /// One stream, from its opening to its end.
    async fn attach(&mut self, welcomed_ms: &mut Option<u64>) -> Ended {
        let channel = match connect(&self.controllers[self.current]).await {
            Ok(channel) => channel,
            Err(error) => return Ended::Failed(error),
        };
        // Said to a stream that is gone; the hello says it all anew.
        while self.said.try_recv().is_ok() {}
        let hello = match self.hello().await {
            Ok(hello) => hello,
            Err(ended) => return ended,
        };
        let mut stream = match open(channel, hello, &self.observer).await {
            Ok(stream) => stream,
            Err(error) => return Ended::Failed(error),
        };
        let welcome = match welcome(&mut stream.down).await {
            Ok(welcome) => welcome,
            Err(ended) => return ended,
        };
        let epoch = convert::version(welcome.version).epoch;
        let (now_ms, ledger_id) = (self.clock.ms(), welcome.ledger_id);
        if let Err(why) = self.obeyed.welcome(now_ms, &ledger_id, epoch) {
            let refusal = v1::Refusal {
                obeyed: Some(self.obeyed.version().into()),
                ledger_id: self.obeyed.ledger_id().to_owned(),
                reason: why.to_string(),
            };
            stream.end_with(Up::Refusal(refusal)).await;
            return Ended::NotObeyed { ledger_id, why };
        }
        *welcomed_ms = Some(now_ms);
        self.warned_ms = None;
        let (address, controller) = (self.address(), welcome.controller);
        let store_refused = welcome.store_refused;
        tracing::info!(address, controller, ledger_id, epoch, "attached to a controller");
        if self
            .events
            .send(ControlEvent::Connected {
                controller,
                store_refused,
            })
            .await
            .is_err()
        {
            return Ended::NodeGone;
        }
        self.converse(stream).await
    }

    /// Asks the node.
    async fn hello(&mut self) -> Result<v1::NodeHello, Ended> {
        let (reply, answer) = oneshot::channel();
        let asked = self.events.send(ControlEvent::Hello(reply)).await;
        asked.map_err(|_| Ended::NodeGone)?;
        let Ok(Ok(mut hello)) = tokio::time::timeout(HELLO_MAX, answer).await else {
            return Err(Ended::Failed("this node was too busy to say hello".to_owned()));
        };
        hello.applied = Some(self.obeyed.version().into());
        hello.ledger_id = self.obeyed.ledger_id().to_owned();
        Ok(hello)
    }

    async fn converse(&mut self, stream: Stream) -> Ended {
        let Stream { up, mut down, call } = stream;
        let mut waiting = None;
        loop {
            tokio::select! {
                // Both ways at once: a controller that is slow to hear us must not keep us from hearing it.
                message = down.message() => match message {
                    Ok(Some(response)) => {
                        if let Err(ended) = self.heard(response).await {
                            return ended;
                        }
                    }
                    Ok(None) => {
                        call.end(Code::Ok);
                        return Ended::Failed("the controller closed the stream".to_owned());
                    }
                    Err(status) => {
                        call.end(status.code());
                        return Ended::Failed(with_causes(&status));
                    }
                },
                said = self.said.recv(), if waiting.is_none() => match said {
                    Some(message) => waiting = Some(message),
                    None => return Ended::NodeGone,
                },
                place = up.reserve(), if waiting.is_some() => match (place, waiting.take()) {
                    (Ok(place), Some(message)) => place.send(request(message)),
                    _ => return Ended::Failed("the stream takes nothing more".to_owned()),
                },
            }
        }
    }

    async fn heard(&mut self, response: v1::AttachResponse) -> Result<(), Ended> {
        let event = match response.message {
            Some(Down::Refused(refused)) => return Err(Ended::SentAway(refused)),
            // A second welcome says nothing; what a newer controller says we do not know.
            Some(Down::Welcome(_)) | None => None,
            Some(Down::Targets(targets)) => self
                .obeys(Kind::Targets, targets.version, targets.ttl_ms)
                .then_some(ControlEvent::Targets(targets)),
            Some(Down::Policies(policies)) => self
                .obeys(Kind::Policies, policies.version, 0)
                .then_some(ControlEvent::Policies(policies)),
            Some(Down::Caps(caps)) => self
                .obeys(Kind::Caps, caps.version, caps.ttl_ms)
                .then_some(ControlEvent::Caps(caps)),
            Some(Down::Gates(gates)) => self
                .obeys(Kind::Gates, gates.version, 0)
                .then_some(ControlEvent::Gates(gates)),
            Some(Down::Command(command)) => command.command.map(ControlEvent::Command),
        };
        let Some(event) = event else { return Ok(()) };
        self.events.send(event).await.map_err(|_| Ended::NodeGone)
    }

    fn obeys(&mut self, kind: Kind, version: Option<v1::Version>, ttl_ms: u64) -> bool {
        let version = convert::version(version);
        let ttl_ms = if kind == self.binding { ttl_ms } else { 0 };
        let taken = self.obeyed.order(self.clock.ms(), kind, version, ttl_ms);
        if !taken {
            let heard = self.obeyed.version();
            tracing::warn!(
                ?kind,
                ?version,
                ?heard,
                "an older order of the controller was ignored"
            );
        }
        taken
    }

    async fn tell(&mut self, ended: Ended) {
        let (now_ms, address) = (self.clock.ms(), self.address());
        let due = |last: Option<u64>| last.is_none_or(|last| now_ms >= last + WARN_EVERY_MS);
        match ended {
            Ended::NodeGone => {}
            Ended::Failed(error) => {
                if due(self.warned_ms) {
                    self.warned_ms = Some(now_ms);
                    tracing::warn!(address, error, "no controller: work goes on as it was last told");
                }
            }
            Ended::SentAway(v1::Refused {
                newer,
                ledger_id,
                reason,
            }) => {
                tracing::info!(
                    address,
                    ?newer,
                    ledger_id,
                    reason,
                    "this controller does not lead"
                );
            }
            Ended::NotObeyed { ledger_id, why } => {
                if due(self.refused_ms) {
                    self.refused_ms = Some(now_ms);
                    tracing::error!(address, ledger_id, %why, "a controller of another leadership was refused");
                }
                let _ = self.events.send(ControlEvent::Refused).await;
            }
        }
    }

    fn address(&self) -> String {
        self.controllers[self.current].uri().to_string()
    }
}

/// The first message must be a welcome.
async fn welcome(down: &mut Streaming<v1::AttachResponse>) -> Result<v1::ControlWelcome, Ended> {
    let failed = |text: &str| Err(Ended::Failed(text.to_owned()));
    match tokio::time::timeout(WELCOME_MAX, down.message()).await {
        Err(_) => failed("the controller says nothing"),
        Ok(Err(status)) => Err(Ended::Failed(with_causes(&status))),
        Ok(Ok(None)) => failed("the controller closed the stream"),
        Ok(Ok(Some(response))) => match response.message {
            Some(Down::Welcome(welcome)) => Ok(welcome),
            Some(Down::Refused(refused)) => Err(Ended::SentAway(refused)),
            _ => failed("the controller gave an order before its welcome"),
        },
    }
}

fn address(url: &str) -> Result<Endpoint, InvalidController> {
    endpoint(url).map_err(|error| match error {
        ClientError::InvalidEndpoint { endpoint, message } => InvalidController {
            url: endpoint,
            message,
        },
        other => InvalidController {
            url: url.to_owned(),
            message: other.to_string(),
        },
    })
}
