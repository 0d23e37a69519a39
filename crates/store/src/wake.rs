//! How a store tells its routers that something changed.

use tokio::sync::broadcast;

use crate::StoreEvent;

/// Events kept for a slow subscriber; one that falls further behind is told so and looks at everything again.
const EVENTS_KEPT: usize = 4_096;

/// The in-process end of the wake subscription.
#[derive(Clone, Debug)]
pub(crate) struct Events(broadcast::Sender<StoreEvent>);

impl Events {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(EVENTS_KEPT))
    }

    /// Nobody listening is fine: who subscribes later looks at everything first.
    pub(crate) fn send(&self, event: StoreEvent) {
        let _ = self.0.send(event);
    }

    pub(crate) fn subscribe(&self) -> broadcast::Receiver<StoreEvent> {
        self.0.subscribe()
    }
}
