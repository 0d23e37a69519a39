//! The tables as they are written.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::duration;
use crate::domain::{self, Cap, Policy, Probe, ResourceCost, Retry, Strategy, WhenDown};

/// A queue's. Its default, serialised, is the list of keys that exist.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Queue {
    min: u32,
    max: u32,
    weight: f64,
    tier: u32,
    costs: BTreeMap<String, u32>,
    #[serde(with = "duration")]
    max_wait: Duration,
    max_depth: u64,
    max_running: u32,
    retry: RetryTable,
    #[serde(with = "duration")]
    lease_ttl: Duration,
    #[serde(with = "duration")]
    timeout: Duration,
    #[serde(with = "duration")]
    heartbeat_timeout: Duration,
    keep_finished: u32,
    #[serde(with = "duration")]
    idempotency_window: Duration,
    max_keys: u64,
    #[serde(with = "duration")]
    max_park: Duration,
    payload_schema: String,
    strategy: Strategy,
    when_down: WhenDown,
    submit_rate: u32,
    submit_burst: u32,
    caller_rate: u32,
    caller_burst: u32,
    /// Until a controller says otherwise.
    cap: Option<u32>,
    retry_cap: Option<u32>,
    safe: Option<u32>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RetryTable {
    max_attempts: u32,
    #[serde(with = "duration")]
    backoff_base: Duration,
    #[serde(with = "duration")]
    backoff_max: Duration,
}

impl Default for RetryTable {
    fn default() -> Self {
        let Retry {
            max_attempts,
            backoff_base_ms,
            backoff_max_ms,
        } = Retry::default();
        Self {
            max_attempts,
            backoff_base: Duration::from_millis(backoff_base_ms),
            backoff_max: Duration::from_millis(backoff_max_ms),
        }
    }
}

impl Default for Queue {
    fn default() -> Self {
        let policy = Policy::default();
        Self {
            min: policy.min,
            max: policy.max,
            weight: policy.weight,
            tier: policy.tier,
            costs: BTreeMap::new(),
            max_wait: Duration::from_millis(policy.max_wait_ms),
            max_depth: policy.max_depth,
            max_running: policy.max_running,
            retry: RetryTable::default(),
            lease_ttl: Duration::from_millis(policy.lease_ttl_ms),
            timeout: Duration::from_millis(policy.timeout_ms),
            heartbeat_timeout: Duration::from_millis(policy.heartbeat_timeout_ms),
            keep_finished: policy.keep_finished,
            idempotency_window: Duration::from_millis(policy.idempotency_window_ms),
            max_keys: policy.max_keys,
            max_park: Duration::from_millis(policy.max_park_ms),
            payload_schema: policy.payload_schema,
            strategy: policy.strategy,
            when_down: policy.when_down,
            submit_rate: policy.submit_rate,
            submit_burst: policy.submit_burst,
            caller_rate: policy.caller_rate,
            caller_burst: policy.caller_burst,
            cap: None,
            retry_cap: None,
            safe: None,
        }
    }
}

impl Queue {
    pub(super) fn cap(&self) -> Result<Option<Cap>, String> {
        let Some(cap) = self.cap else {
            let stray = [("retry_cap", self.retry_cap), ("safe", self.safe)]
                .into_iter()
                .find(|(_, v)| v.is_some());
            return match stray {
                Some((key, _)) => Err(format!("{key}: says nothing without cap")),
                None => Ok(None),
            };
        };
        let (retry_cap, safe) = (self.retry_cap.unwrap_or(cap), self.safe.unwrap_or(cap));
        if retry_cap > cap || safe > cap {
            return Err(format!("retry_cap and safe must not be above cap, {cap}"));
        }
        if cap < self.min {
            return Err(format!("cap: {cap} is below min, {}", self.min));
        }
        Ok(Some(Cap { cap, retry_cap, safe }))
    }

    pub(super) fn policy(self) -> Policy {
        let cost = |(resource, units)| ResourceCost { resource, units };
        Policy {
            min: self.min,
            max: self.max,
            weight: self.weight,
            tier: self.tier,
            costs: self.costs.into_iter().map(cost).collect(),
            max_wait_ms: ms(self.max_wait),
            max_depth: self.max_depth,
            max_running: self.max_running,
            retry: Retry {
                max_attempts: self.retry.max_attempts,
                backoff_base_ms: ms(self.retry.backoff_base),
                backoff_max_ms: ms(self.retry.backoff_max),
            },
            lease_ttl_ms: ms(self.lease_ttl),
            timeout_ms: ms(self.timeout),
            heartbeat_timeout_ms: ms(self.heartbeat_timeout),
            keep_finished: self.keep_finished,
            idempotency_window_ms: ms(self.idempotency_window),
            max_keys: self.max_keys,
            max_park_ms: ms(self.max_park),
            payload_schema: self.payload_schema,
            strategy: self.strategy,
            when_down: self.when_down,
            submit_rate: self.submit_rate,
            submit_burst: self.submit_burst,
            caller_rate: self.caller_rate,
            caller_burst: self.caller_burst,
        }
    }
}

fn ms(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

/// A resource's.
#[derive(Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Resource {
    capacity: u32,
    headroom: f64,
    probe: Probe,
}

impl Default for Resource {
    fn default() -> Self {
        Self {
            capacity: 0,
            headroom: domain::Resource::HEADROOM_DEFAULT,
            probe: Probe::default(),
        }
    }
}

impl Resource {
    pub(super) fn resource(self, name: &str) -> domain::Resource {
        domain::Resource {
            name: name.to_owned(),
            capacity: self.capacity,
            headroom: self.headroom,
            probe: self.probe,
        }
    }
}
