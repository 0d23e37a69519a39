//! The node's end of a control link.

use tidegate_protocol::v1::{self, attach_request::Message as Up};
use tokio::sync::{mpsc, oneshot};

/// What a node may have said that is not sent yet.
const SAID_MAX: usize = 64;
/// Orders that wait for the node; what is beyond waits in the network.
const EVENTS_MAX: usize = 16;

/// What the node hears.
#[derive(Debug)]
pub enum ControlEvent {
    /// A stream opens: say who you are, and your full state. The link fills in what was applied of which ledger.
    Hello(oneshot::Sender<v1::NodeHello>),
    Connected {
        controller: String,
        /// Why the job store is not trusted, for a router; empty: it is.
        store_refused: String,
    },
    Disconnected,
    /// A controller of another leadership was refused.
    Refused,
    Targets(v1::Targets),
    Policies(v1::Policies),
    Caps(v1::Caps),
    Gates(v1::Gates),
    Command(v1::command::Command),
}

/// The node's end. Dropping it ends the link.
#[derive(Debug)]
pub struct ControlPort {
    pub events: mpsc::Receiver<ControlEvent>,
    said: mpsc::Sender<Up>,
}

/// The node's mouth, to be handed to several of its parts.
#[derive(Clone, Debug)]
pub struct ControlVoice(mpsc::Sender<Up>);

impl ControlPort {
    /// The node's end, and the link's: what is said, and where events go.
    pub(super) fn new() -> (Self, mpsc::Receiver<Up>, mpsc::Sender<ControlEvent>) {
        let (said, to_say) = mpsc::channel(SAID_MAX);
        let (events, heard) = mpsc::channel(EVENTS_MAX);
        (Self { events: heard, said }, to_say, events)
    }

    pub fn voice(&self) -> ControlVoice {
        ControlVoice(self.said.clone())
    }
}

impl ControlVoice {
    /// `false`: it was not taken, because the link is behind. Keep the counts and say them next time.
    pub fn report(&self, report: v1::Report) -> bool {
        self.0.try_send(Up::Report(report)).is_ok()
    }

    /// An order is carried out.
    pub fn applied(&self, version: Option<v1::Version>) {
        self.say(Up::Applied(v1::Applied { version }));
    }

    pub fn cap_answers(&self, answers: v1::CapAnswers) {
        self.say(Up::CapAnswers(answers));
    }

    /// A controller takes an order without an answer for one that may have been carried out, and repeats it.
    fn say(&self, message: Up) {
        if self.0.try_send(message).is_err() {
            tracing::warn!("an answer to the controller was dropped: too many are waiting");
        }
    }
}
