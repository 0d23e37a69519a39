//! What operators do by hand: freeze the loop, pin a demand.

use tidegate_protocol::{convert::Invalid, domain::QueueName, reason};

use super::{
    Core, TuningError,
    facts::Pin,
    model::{Now, StreamId},
};

/// A pin that nobody remembers would run the queue for ever: at most a week.
const PIN_MS_MAX: u64 = 604_800_000;
/// When the caller does not say.
const PIN_MS_DEFAULT: u64 = 3_600_000;

/// What a freeze is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    Everything,
    Queue(QueueName),
}

impl Core {
    /// Stops, or allows again, every change of caps and targets; what is in force stays in force.
    pub fn freeze(&mut self, subject: &Subject, frozen: bool, now: Now) -> Result<(), TuningError> {
        match subject {
            Subject::Everything => self.frozen = frozen,
            Subject::Queue(name) => self.known(name)?.frozen = frozen,
        }
        self.tick_soon(now);
        Ok(())
    }

    /// Replaces a queue's demand; never the budget. 0 ms: the default.
    pub fn pin(&mut self, name: &QueueName, value: u32, ttl_ms: u64, now: Now) -> Result<(), TuningError> {
        let ttl_ms = if ttl_ms == 0 { PIN_MS_DEFAULT } else { ttl_ms };
        let policy = self.known(name)?.policy();
        let wrong = |field: &str, message: String| {
            Err(TuningError::Invalid(vec![Invalid::new(
                field,
                reason::INVALID_ARGUMENT,
                message,
            )]))
        };
        if value < policy.min || value > policy.max {
            let message = format!(
                "{value} is outside the policy's min and max, {} to {}",
                policy.min, policy.max
            );
            return wrong("value", message);
        }
        if ttl_ms > PIN_MS_MAX {
            return wrong("ttl_ms", format!("must be at most {PIN_MS_MAX}: a week"));
        }
        self.known(name)?.pin = Some(Pin {
            value,
            until_ms: now.mono_ms + ttl_ms,
        });
        self.tick_soon(now);
        Ok(())
    }

    pub fn unpin(&mut self, name: &QueueName, now: Now) -> Result<(), TuningError> {
        self.known(name)?.pin = None;
        self.tick_soon(now);
        Ok(())
    }

    pub(super) fn expire_pins(&mut self, now: Now) {
        for queue in self.queues.values_mut() {
            if queue.pin.is_some_and(|pin| pin.until_ms <= now.mono_ms) {
                queue.pin = None;
            }
        }
    }

    fn known(&mut self, name: &QueueName) -> Result<&mut super::Queue, TuningError> {
        self.queues
            .get_mut(name)
            .ok_or_else(|| TuningError::NoQueue(name.to_string()))
    }

    /// The stream that writes caps.
    pub fn cap_writer(&self) -> Option<StreamId> {
        self.writer
    }
}
