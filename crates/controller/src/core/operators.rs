//! What operators do by hand: freeze the loop, pin a demand.

use tidegate_protocol::{convert::Invalid, domain::QueueName, reason};

use super::{
    Core, TuningError,
    facts::{Pin, Queue},
    model::{Now, StreamId},
};
use crate::ledger::{Override, Row};

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
    /// The row that stops, or allows again, every change of caps and targets; what is in force stays in force.
    pub fn plan_freeze(&self, subject: &Subject, frozen: bool, now: Now) -> Result<Row, TuningError> {
        Ok(match subject {
            Subject::Everything => Row::Override {
                queue: String::new(),
                held: Override { frozen, pin: None },
            },
            Subject::Queue(name) => Row::Override {
                queue: name.to_string(),
                held: Override {
                    frozen,
                    ..held(self.known(name)?, now)
                },
            },
        })
    }

    /// The row that replaces a queue's demand; never the budget. 0 ms: the default.
    pub fn plan_pin(&self, name: &QueueName, value: u32, ttl_ms: u64, now: Now) -> Result<Row, TuningError> {
        let ttl_ms = if ttl_ms == 0 { PIN_MS_DEFAULT } else { ttl_ms };
        let queue = self.known(name)?;
        let policy = queue.policy();
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
        Ok(Row::Override {
            queue: name.to_string(),
            held: Override {
                pin: Some((value, now.wall_ms.saturating_add(ttl_ms))),
                ..held(queue, now)
            },
        })
    }

    pub fn plan_unpin(&self, name: &QueueName, now: Now) -> Result<Row, TuningError> {
        Ok(Row::Override {
            queue: name.to_string(),
            held: Override {
                pin: None,
                ..held(self.known(name)?, now)
            },
        })
    }

    pub(super) fn put_override(&mut self, queue: &str, held: Override, now: Now) {
        if queue.is_empty() {
            self.frozen = held.frozen;
            return;
        }
        let Ok(name) = queue.parse() else { return };
        if !self.meet(&name) {
            return;
        }
        if let Some(queue) = self.queues.get_mut(&name) {
            queue.frozen = held.frozen;
            // By the wall clock in the ledger, by ours from here on.
            let pin = held.pin.map(|(value, until_ms)| Pin {
                value,
                until_ms: now.mono_ms + until_ms.saturating_sub(now.wall_ms),
            });
            queue.pin = pin.filter(|pin| pin.until_ms > now.mono_ms);
        }
    }

    pub(super) fn expire_pins(&mut self, now: Now) {
        for queue in self.queues.values_mut() {
            if queue.pin.is_some_and(|pin| pin.until_ms <= now.mono_ms) {
                queue.pin = None;
            }
        }
    }

    fn known(&self, name: &QueueName) -> Result<&Queue, TuningError> {
        self.queues
            .get(name)
            .ok_or_else(|| TuningError::NoQueue(name.to_string()))
    }

    /// The stream that writes caps.
    pub fn cap_writer(&self) -> Option<StreamId> {
        self.writer
    }
}

/// As it is now.
fn held(queue: &Queue, now: Now) -> Override {
    let until_ms = |pin: Pin| now.wall_ms + pin.until_ms.saturating_sub(now.mono_ms);
    Override {
        frozen: queue.frozen,
        pin: queue.pin.map(|pin| (pin.value, until_ms(pin))),
    }
}
