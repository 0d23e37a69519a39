//! The worker's end of the control stream: orders in, reports out. It lives on the link's thread, where no handler can
//! keep a target from being obeyed.

use tidegate_client::control::{ControlEvent, ControlPort, ControlVoice};
use tidegate_protocol::v1::{self, command::Command};

use crate::{core::Core, telemetry::Instruments};

/// The governor's tick is 5 s; a report each second lets it see an alarm's cause and leaves ticks of 1 s possible.
const REPORT_EVERY_MS: u64 = 1_000;
/// Counts of a time without a controller say nothing of now: they are dropped when they cover more than this.
const WINDOW_MS_MAX: u64 = 10_000;

/// See the [module](self).
pub(crate) struct Control {
    port: ControlPort,
    voice: ControlVoice,
    name: String,
    connected: bool,
    report_at_ms: u64,
    /// No alarm before this.
    alarm_at_ms: u64,
    /// When the targets in force are nobody's word any more.
    targets_end_ms: Option<u64>,
}

/// What the link has to do about an event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Todo {
    Nothing,
    Drain,
}

impl Control {
    pub(crate) fn new(port: ControlPort, name: String) -> Self {
        Self {
            voice: port.voice(),
            port,
            name,
            connected: false,
            report_at_ms: 0,
            alarm_at_ms: 0,
            targets_end_ms: None,
        }
    }

    pub(crate) async fn next(&mut self) -> ControlEvent {
        match self.port.events.recv().await {
            Some(event) => event,
            // The link ends only with this thread.
            None => std::future::pending().await,
        }
    }

    pub(crate) fn on(
        &mut self,
        now_ms: u64,
        event: ControlEvent,
        core: &mut Core,
        instruments: &Instruments,
    ) -> Todo {
        match event {
            ControlEvent::Hello(reply) => {
                let hello = v1::NodeHello {
                    name: self.name.clone(),
                    state: Some(core.state(now_ms)),
                    ..core.node()
                };
                let _ = reply.send(hello); // the stream may be gone by now
            }
            ControlEvent::Connected { .. } => {
                drop_old(now_ms, core);
                core.tell_anew();
                self.connected = true;
                self.report_at_ms = now_ms + REPORT_EVERY_MS;
                instruments.controller_connected(true);
            }
            ControlEvent::Disconnected => {
                self.connected = false;
                instruments.controller_connected(false);
            }
            ControlEvent::Refused => instruments.controller_refused(),
            ControlEvent::Targets(targets) => {
                core.set_targets(now_ms, &targets.targets);
                self.targets_end_ms =
                    Some(now_ms.saturating_add(targets.ttl_ms)).filter(|_| targets.ttl_ms > 0);
                self.voice.applied(targets.version);
            }
            ControlEvent::Command(Command::Drain(_)) => {
                tracing::info!("the controller asks this worker to drain");
                return Todo::Drain;
            }
            ControlEvent::Command(Command::Cancel(cancel)) => core.cancel_leases(now_ms, &cancel.leases),
            // A router's business.
            ControlEvent::Command(
                Command::AcceptStore(_) | Command::RefuseStore(_) | Command::CapWriter(_),
            )
            | ControlEvent::Policies(_)
            | ControlEvent::Caps(_)
            | ControlEvent::Gates(_) => {}
        }
        Todo::Nothing
    }

    /// Reports when it is time, or at once when something is wrong.
    pub(crate) fn tick(&mut self, now_ms: u64, core: &mut Core) {
        if self.targets_end_ms.is_some_and(|end| now_ms >= end) {
            self.targets_end_ms = None;
            core.targets_ended(now_ms);
        }
        if !self.connected {
            return drop_old(now_ms, core);
        }
        if now_ms < self.wake_at_ms(core) {
            return;
        }
        let report = core.news(now_ms);
        if report.alarm {
            self.alarm_at_ms = now_ms + REPORT_EVERY_MS;
        }
        self.report_at_ms = now_ms + REPORT_EVERY_MS;
        // One that was not taken is said with the next.
        if self.voice.report(report.clone()) {
            core.reported(now_ms, report);
        }
    }

    pub(crate) fn wake_at_ms(&self, core: &Core) -> u64 {
        let report_at_ms = match (self.connected, core.is_alarming()) {
            (false, _) => u64::MAX,
            (true, false) => self.report_at_ms,
            (true, true) => self.report_at_ms.min(self.alarm_at_ms),
        };
        self.targets_end_ms
            .map_or(report_at_ms, |end| report_at_ms.min(end))
    }
}

fn drop_old(now_ms: u64, core: &mut Core) {
    if core.window_ms(now_ms) > WINDOW_MS_MAX {
        core.forget_counts(now_ms);
    }
}
