//! The gates as the controller pushed them last, for as long as they are to be believed.

use std::{collections::HashMap, time::Duration};

use tidegate_protocol::{domain::QueueName, reason, v1};

use crate::status::Refusal;

/// Of a message that does not say: three of the controller's usual ticks.
const TTL_MS_DEFAULT: u64 = 15_000;
/// Whatever a controller says: a caller must not be sent away for good.
const RETRY_MS_MAX: u64 = 3_600_000;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Gates {
    by_queue: HashMap<QueueName, Gate>,
    until_ms: u64,
    routers: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Gate {
    refuse: f64,
    retry_after: Duration,
    is_down: bool,
}

impl Gates {
    /// A whole new state. What cannot be read of it is open.
    pub(super) fn replace(&mut self, wire: v1::Gates, at_ms: u64) {
        let ttl_ms = if wire.ttl_ms == 0 {
            TTL_MS_DEFAULT
        } else {
            wire.ttl_ms
        };
        self.until_ms = at_ms.saturating_add(ttl_ms);
        self.routers = wire.routers;
        self.by_queue = wire.gates.into_iter().filter_map(gate).collect();
    }

    /// Routers that share a rate; 1 if nobody said.
    pub(super) fn routers(&self) -> u32 {
        self.routers.max(1)
    }

    /// `random`: in [0, 1), asked for only when it decides.
    pub(super) fn admit(
        &self,
        queue: &QueueName,
        now_ms: u64,
        random: impl FnOnce() -> f64,
    ) -> Result<(), Refusal> {
        if self.by_queue.is_empty() || now_ms >= self.until_ms {
            return Ok(());
        }
        match self.by_queue.get(queue) {
            Some(gate) if random() < gate.refuse => Err(match gate.is_down {
                true => Refusal::downstream_down(queue, gate.retry_after),
                false => Refusal::wait_too_long(queue, gate.retry_after),
            }),
            _ => Ok(()),
        }
    }
}

fn gate(wire: v1::Gate) -> Option<(QueueName, Gate)> {
    let refuse = match wire.state() {
        v1::GateState::Closed => 1.0,
        v1::GateState::Shedding => wire.refuse_probability,
        v1::GateState::Open | v1::GateState::Unspecified => return None,
    };
    let gate = Gate {
        refuse: if refuse.is_finite() { refuse } else { 0.0 },
        retry_after: Duration::from_millis(wire.retry_after_ms.min(RETRY_MS_MAX)),
        is_down: wire.reason == reason::DOWNSTREAM_DOWN,
    };
    Some((wire.queue.parse().ok()?, gate))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(queue: &str, state: v1::GateState, refuse_probability: f64) -> v1::Gate {
        v1::Gate {
            queue: queue.into(),
            state: state.into(),
            refuse_probability,
            retry_after_ms: 2_000,
            reason: reason::WAIT_TOO_LONG.into(),
        }
    }

    #[test]
    fn a_gate_refuses_its_share_until_it_is_old_news() {
        let mut gates = Gates::default();
        let all = vec![
            wire("half", v1::GateState::Shedding, 0.5),
            wire("shut", v1::GateState::Closed, 0.0),
            wire("odd", v1::GateState::Shedding, f64::NAN),
            wire("open", v1::GateState::Open, 1.0),
        ];
        let order = v1::Gates {
            gates: all,
            ttl_ms: 3_000,
            ..Default::default()
        };
        gates.replace(order, 1_000);
        let taken = |gates: &Gates, queue: &str, now, random| {
            gates.admit(&queue.parse().unwrap(), now, || random).is_ok()
        };
        assert!(taken(&gates, "half", 1_000, 0.5) && !taken(&gates, "half", 1_000, 0.49));
        assert!(!taken(&gates, "shut", 3_999, 0.999_999));
        assert!(taken(&gates, "odd", 1_000, 0.0) && taken(&gates, "open", 1_000, 0.0));
        assert!(taken(&gates, "stranger", 1_000, 0.0));
        assert!(
            taken(&gates, "shut", 4_000, 0.0),
            "without news for its time it is open"
        );
        gates.replace(v1::Gates::default(), 2_000);
        assert!(taken(&gates, "shut", 2_000, 0.0), "the whole state is replaced");
    }

    #[test]
    fn a_downstream_that_is_gone_is_said_to_be_gone() {
        let mut gates = Gates::default();
        let down = v1::Gate {
            reason: reason::DOWNSTREAM_DOWN.into(),
            ..wire("email", v1::GateState::Closed, 1.0)
        };
        let order = v1::Gates {
            gates: vec![down],
            ..Default::default()
        };
        gates.replace(order, 0);
        let refused = gates
            .admit(&"email".parse().unwrap(), 14_999, || 0.0)
            .unwrap_err();
        assert_eq!(refused.reason(), reason::DOWNSTREAM_DOWN);
    }
}
