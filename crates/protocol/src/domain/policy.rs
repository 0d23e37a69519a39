//! What operators say about a queue, and the caps that are in force.

use serde::{Deserialize, Serialize};

/// Which leadership and which decision of it. Orders lexicographically; receivers refuse anything older.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash, Serialize, Deserialize)]
pub struct Version {
    pub epoch: u64,
    pub generation: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    #[default]
    Adaptive,
    Fixed,
    EmaAimd,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenDown {
    #[default]
    Accept,
    Refuse,
}

/// How retries wait: attempt n + 1 starts a random time in `[0, min(max, base * 2^(n-1))]` after attempt n failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Retry {
    /// Attempts in all.
    pub max_attempts: u32,
    pub backoff_base_ms: u64,
    pub backoff_max_ms: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            backoff_base_ms: 2_000,
            backoff_max_ms: 3_600_000,
        }
    }
}

/// Units of a resource that one running job holds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ResourceCost {
    pub resource: String,
    pub units: u32,
}

/// Everything an operator says about one queue; `Default` is what a queue without a record gets.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// Floor and ceiling of the queue's concurrency over the fleet.
    pub min: u32,
    pub max: u32,
    pub weight: f64,
    /// 0 is refused last.
    pub tier: u32,
    /// A queue that costs a resource runs nothing until its first cap.
    pub costs: Vec<ResourceCost>,
    /// 0 = never refuse by expected wait.
    pub max_wait_ms: u64,
    /// Jobs kept at most: waiting, running and dead.
    pub max_depth: u64,
    /// 0 = off.
    pub max_running: u32,
    pub retry: Retry,
    pub lease_ttl_ms: u64,
    /// How long a handler may run.
    pub timeout_ms: u64,
    /// 0 = none.
    pub heartbeat_timeout_ms: u64,
    /// Succeeded, cancelled and expired jobs kept, of each.
    pub keep_finished: u32,
    pub idempotency_window_ms: u64,
    pub max_keys: u64,
    /// How long a job may go without running to an outcome of its own before `released` or `throttled` ends it dead.
    pub max_park_ms: u64,
    /// JSON Schema of the payload; empty = any bytes.
    pub payload_schema: String,
    pub strategy: Strategy,
    pub when_down: WhenDown,
    /// Jobs a second, and how many at once after a pause; 0: unlimited, and a second's worth.
    pub submit_rate: u32,
    pub submit_burst: u32,
    /// The same for each caller alone.
    pub caller_rate: u32,
    pub caller_burst: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            min: 1,
            max: 1_000,
            weight: 1.0,
            tier: 0,
            costs: Vec::new(),
            max_wait_ms: 0,
            max_depth: 1_000_000,
            max_running: 0,
            retry: Retry::default(),
            lease_ttl_ms: 10_000,
            timeout_ms: 300_000,
            heartbeat_timeout_ms: 0,
            keep_finished: 100,
            idempotency_window_ms: 86_400_000,
            max_keys: 10_000_000,
            max_park_ms: 86_400_000,
            payload_schema: String::new(),
            strategy: Strategy::default(),
            when_down: WhenDown::default(),
            submit_rate: 0,
            submit_burst: 0,
            caller_rate: 0,
            caller_burst: 0,
        }
    }
}

impl Policy {
    pub fn costs_a_resource(&self) -> bool {
        !self.costs.is_empty()
    }
}

/// The value of a cap as its sender orders it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cap {
    pub cap: u32,
    pub retry_cap: u32,
    /// In force after expiry: `min(cap, safe)`.
    pub safe: u32,
}

/// A cap as the store keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CapRecord {
    pub cap: Cap,
    /// Absolute; 0 = never.
    pub expires_ms: u64,
    pub version: Version,
}

impl CapRecord {
    /// What the lease step enforces at `now_ms`: (running in all, running retries); `None` = unlimited.
    ///
    /// `cap` is the queue's record if one was ever set; a queue that costs a resource has cap 0 until then. Retries get
    /// at least one slot whenever there is one, so that they cannot starve.
    pub fn effective(
        cap: Option<&CapRecord>,
        costs_a_resource: bool,
        paused: bool,
        now_ms: u64,
    ) -> Option<(u32, u32)> {
        match cap {
            _ if paused => Some((0, 0)),
            None if costs_a_resource => Some((0, 0)),
            None => None,
            Some(record) if record.expires_ms != 0 && now_ms >= record.expires_ms => {
                let cap = record.cap.cap.min(record.cap.safe);
                Some((cap, cap))
            }
            Some(record) => {
                let Cap { cap, retry_cap, .. } = record.cap;
                Some((cap, retry_cap.max(1).min(cap)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(cap: u32, retry_cap: u32, safe: u32, expires_ms: u64) -> CapRecord {
        CapRecord {
            cap: Cap { cap, retry_cap, safe },
            expires_ms,
            version: Version::default(),
        }
    }

    #[test]
    fn effective_cap_by_case() {
        let r = record(10, 0, 4, 1_000);
        assert_eq!(CapRecord::effective(Some(&r), true, false, 999), Some((10, 1)));
        assert_eq!(CapRecord::effective(Some(&r), true, false, 1_000), Some((4, 4)));
        assert_eq!(CapRecord::effective(Some(&r), true, true, 999), Some((0, 0)));
        assert_eq!(CapRecord::effective(None, true, false, 0), Some((0, 0)));
        assert_eq!(CapRecord::effective(None, false, false, 0), None);
        assert_eq!(CapRecord::effective(None, false, true, 0), Some((0, 0)));
        assert_eq!(
            CapRecord::effective(Some(&record(0, 5, 9, 0)), true, false, 7),
            Some((0, 0))
        );
        assert_eq!(
            CapRecord::effective(Some(&record(3, 9, 9, 0)), true, false, 7),
            Some((3, 3))
        );
    }
}
