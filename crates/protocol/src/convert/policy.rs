//! What operators say, and the caps that are in force.

use std::collections::HashSet;

use crate::{
    domain::{Cap, CapRecord, Policy, QueueName, ResourceCost, Retry, Strategy, Version, WhenDown},
    reason, v1,
};

use super::{DELAY_MS_MAX, Invalid, queue_name};

/// Shorter leases would be lost to an ordinary pause of a worker or a network.
pub const LEASE_TTL_MS_MIN: u64 = 1_000;
/// A dead worker's jobs must come back within the hour.
pub const LEASE_TTL_MS_MAX: u64 = 3_600_000;
/// A week.
pub const TIMEOUT_MS_MAX: u64 = 604_800_000;
/// Resources that one queue may cost: caps are computed for all of them together.
const COSTS_MAX: usize = 16;

/// Zero and unset take the documented default.
pub fn policy(wire: v1::Policy) -> Result<(QueueName, Policy), Invalid> {
    let (queue, policy) = policy_unchecked(wire)?;
    check_policy(&policy)?;
    Ok((queue, policy))
}

/// The same for a caller that wants all mistakes at once: see [`policy_violations`].
pub fn policy_unchecked(wire: v1::Policy) -> Result<(QueueName, Policy), Invalid> {
    let queue = queue_name("queue", &wire.queue)?;
    let default = Policy::default();
    let retry = wire.retry.unwrap_or_default();
    let policy = Policy {
        min: or(wire.min, default.min),
        max: or(wire.max, default.max),
        weight: if wire.weight == 0.0 {
            default.weight
        } else {
            wire.weight
        },
        tier: wire.tier,
        costs: wire.costs.into_iter().map(ResourceCost::from).collect(),
        max_wait_ms: wire.max_wait_ms,
        max_depth: or(wire.max_depth, default.max_depth),
        max_running: wire.max_running,
        retry: Retry {
            max_attempts: or(retry.max_attempts, default.retry.max_attempts),
            backoff_base_ms: or(retry.backoff_base_ms, default.retry.backoff_base_ms),
            backoff_max_ms: or(retry.backoff_max_ms, default.retry.backoff_max_ms),
        },
        lease_ttl_ms: or(wire.lease_ttl_ms, default.lease_ttl_ms),
        timeout_ms: or(wire.timeout_ms, default.timeout_ms),
        heartbeat_timeout_ms: wire.heartbeat_timeout_ms,
        keep_finished: or(wire.keep_finished, default.keep_finished),
        idempotency_window_ms: or(wire.idempotency_window_ms, default.idempotency_window_ms),
        max_keys: or(wire.max_keys, default.max_keys),
        max_park_ms: or(wire.max_park_ms, default.max_park_ms),
        payload_schema: wire.payload_schema,
        strategy: strategy(wire.strategy)?,
        when_down: when_down(wire.when_down)?,
        submit_rate: wire.submit_rate,
        submit_burst: wire.submit_burst,
        caller_rate: wire.caller_rate,
        caller_burst: wire.caller_burst,
    };
    Ok((queue, policy))
}

fn or<T: Default + PartialEq>(value: T, default: T) -> T {
    if value == T::default() { default } else { value }
}

/// The rules that hold for one policy alone, wherever it was written; the first mistake. Fields are named as in the
/// domain.
pub fn check_policy(policy: &Policy) -> Result<(), Invalid> {
    match policy_violations(policy).into_iter().next() {
        Some(first) => Err(first),
        None => Ok(()),
    }
}

/// Every mistake in a policy alone.
pub fn policy_violations(policy: &Policy) -> Vec<Invalid> {
    let mut found = Vec::new();
    let mut wrong = |field: &str, message: String| {
        found.push(Invalid::new(field, reason::INVALID_ARGUMENT, message));
    };
    if policy.max == 0 {
        wrong("max", "must be at least 1; pause the queue to run nothing".into());
    }
    if policy.min > policy.max {
        wrong("min", format!("{} is above max, {}", policy.min, policy.max));
    }
    if !policy.weight.is_finite() || policy.weight <= 0.0 {
        wrong("weight", "must be a number above 0".into());
    }
    if policy.retry.max_attempts == 0 {
        wrong(
            "retry.max_attempts",
            "must be at least 1: the first attempt counts".into(),
        );
    }
    if policy.retry.backoff_base_ms > policy.retry.backoff_max_ms {
        wrong("retry.backoff_base", "is above retry.backoff_max".into());
    }
    if policy.max_depth == 0 {
        wrong("max_depth", "must be at least 1".into());
    }
    if policy.max_keys == 0 {
        wrong("max_keys", "must be at least 1".into());
    }
    for (rate, burst, field) in [
        (policy.submit_rate, policy.submit_burst, "submit_burst"),
        (policy.caller_rate, policy.caller_burst, "caller_burst"),
    ] {
        if rate == 0 && burst > 0 {
            let rate = field.replace("burst", "rate");
            wrong(field, format!("says nothing without {rate}"));
        }
    }
    if !policy.payload_schema.is_empty() {
        found.extend(schema(&policy.payload_schema));
    }
    found.extend(durations(policy));
    found.extend(costs(&policy.costs));
    found
}

/// Only servers compile schemas; whoever does not leaves a bad one to them.
#[cfg(feature = "schema")]
fn schema(text: &str) -> Option<Invalid> {
    crate::schema::PayloadSchema::compile(text).err()
}

#[cfg(not(feature = "schema"))]
fn schema(_: &str) -> Option<Invalid> {
    None
}

fn durations(policy: &Policy) -> impl Iterator<Item = Invalid> {
    let ranges = [
        (
            "lease_ttl",
            policy.lease_ttl_ms,
            LEASE_TTL_MS_MIN,
            LEASE_TTL_MS_MAX,
        ),
        ("timeout", policy.timeout_ms, 1, TIMEOUT_MS_MAX),
        (
            "heartbeat_timeout",
            policy.heartbeat_timeout_ms,
            0,
            TIMEOUT_MS_MAX,
        ),
        ("max_wait", policy.max_wait_ms, 0, DELAY_MS_MAX),
        ("retry.backoff_max", policy.retry.backoff_max_ms, 0, DELAY_MS_MAX),
        (
            "idempotency_window",
            policy.idempotency_window_ms,
            1,
            DELAY_MS_MAX,
        ),
        ("max_park", policy.max_park_ms, 1, DELAY_MS_MAX),
    ];
    let outside = ranges
        .into_iter()
        .filter(|(_, value, min, max)| value < min || value > max);
    outside.map(|(field, value, min, max)| {
        let message = format!("{value} ms is outside {min} to {max} ms");
        Invalid::new(field, reason::INVALID_ARGUMENT, message)
    })
}

fn costs(costs: &[ResourceCost]) -> Vec<Invalid> {
    if costs.len() > COSTS_MAX {
        let message = format!("{} resources; at most {COSTS_MAX} are taken", costs.len());
        return vec![Invalid::new("costs", reason::INVALID_ARGUMENT, message)];
    }
    let mut seen = HashSet::new();
    let check = |(at, cost): (usize, &ResourceCost)| {
        let field = format!("costs[{at}]");
        if let Err(invalid) = queue_name(&format!("{field}.resource"), &cost.resource) {
            return Some(invalid);
        }
        let is_new = seen.insert(cost.resource.clone());
        let message = match cost.units {
            0 => "must be at least 1",
            _ if !is_new => "names a resource twice",
            _ => return None,
        };
        Some(Invalid::new(field, reason::INVALID_ARGUMENT, message))
    };
    costs.iter().enumerate().filter_map(check).collect()
}

/// A policy for people and controllers; `version` says which decision it is, if one was ever written.
impl From<(QueueName, Policy, Option<Version>)> for v1::Policy {
    fn from((queue, policy, version): (QueueName, Policy, Option<Version>)) -> Self {
        Self {
            queue: queue.to_string(),
            min: policy.min,
            max: policy.max,
            weight: policy.weight,
            tier: policy.tier,
            costs: policy.costs.into_iter().map(v1::ResourceCost::from).collect(),
            max_wait_ms: policy.max_wait_ms,
            max_depth: policy.max_depth,
            max_running: policy.max_running,
            retry: Some(v1::RetryPolicy {
                max_attempts: policy.retry.max_attempts,
                backoff_base_ms: policy.retry.backoff_base_ms,
                backoff_max_ms: policy.retry.backoff_max_ms,
            }),
            lease_ttl_ms: policy.lease_ttl_ms,
            timeout_ms: policy.timeout_ms,
            heartbeat_timeout_ms: policy.heartbeat_timeout_ms,
            keep_finished: policy.keep_finished,
            idempotency_window_ms: policy.idempotency_window_ms,
            max_keys: policy.max_keys,
            max_park_ms: policy.max_park_ms,
            payload_schema: policy.payload_schema,
            strategy: v1::Strategy::from(policy.strategy).into(),
            when_down: v1::WhenDown::from(policy.when_down).into(),
            submit_rate: policy.submit_rate,
            submit_burst: policy.submit_burst,
            caller_rate: policy.caller_rate,
            caller_burst: policy.caller_burst,
            version: version.map(v1::Version::from),
        }
    }
}

impl From<v1::ResourceCost> for ResourceCost {
    fn from(wire: v1::ResourceCost) -> Self {
        Self {
            resource: wire.resource,
            units: wire.units,
        }
    }
}

impl From<ResourceCost> for v1::ResourceCost {
    fn from(cost: ResourceCost) -> Self {
        Self {
            resource: cost.resource,
            units: cost.units,
        }
    }
}

/// Unspecified is the default; a strategy of a newer contract is refused, because another one would be obeyed instead.
fn strategy(code: i32) -> Result<Strategy, Invalid> {
    match v1::Strategy::try_from(code) {
        Ok(v1::Strategy::Unspecified) => Ok(Strategy::default()),
        Ok(v1::Strategy::Adaptive) => Ok(Strategy::Adaptive),
        Ok(v1::Strategy::Fixed) => Ok(Strategy::Fixed),
        Ok(v1::Strategy::EmaAimd) => Ok(Strategy::EmaAimd),
        Err(_) => Err(Invalid::new(
            "strategy",
            reason::INVALID_ARGUMENT,
            "is not known to this version",
        )),
    }
}

impl From<Strategy> for v1::Strategy {
    fn from(strategy: Strategy) -> Self {
        match strategy {
            Strategy::Adaptive => v1::Strategy::Adaptive,
            Strategy::Fixed => v1::Strategy::Fixed,
            Strategy::EmaAimd => v1::Strategy::EmaAimd,
        }
    }
}

fn when_down(code: i32) -> Result<WhenDown, Invalid> {
    match v1::WhenDown::try_from(code) {
        Ok(v1::WhenDown::Unspecified) => Ok(WhenDown::default()),
        Ok(v1::WhenDown::Accept) => Ok(WhenDown::Accept),
        Ok(v1::WhenDown::Refuse) => Ok(WhenDown::Refuse),
        Err(_) => Err(Invalid::new(
            "when_down",
            reason::INVALID_ARGUMENT,
            "is not known to this version",
        )),
    }
}

impl From<WhenDown> for v1::WhenDown {
    fn from(when_down: WhenDown) -> Self {
        match when_down {
            WhenDown::Accept => v1::WhenDown::Accept,
            WhenDown::Refuse => v1::WhenDown::Refuse,
        }
    }
}

/// An absent version is the oldest one.
pub fn version(wire: Option<v1::Version>) -> Version {
    wire.map_or_else(Version::default, |v| Version {
        epoch: v.epoch,
        generation: v.generation,
    })
}

impl From<Version> for v1::Version {
    fn from(version: Version) -> Self {
        Self {
            epoch: version.epoch,
            generation: version.generation,
        }
    }
}

pub fn cap_record(wire: v1::Cap) -> CapRecord {
    CapRecord {
        cap: Cap {
            cap: wire.cap,
            retry_cap: wire.retry_cap,
            safe: wire.safe,
        },
        expires_ms: wire.expires_at_ms,
        version: version(wire.version),
    }
}

impl From<CapRecord> for v1::Cap {
    fn from(record: CapRecord) -> Self {
        Self {
            cap: record.cap.cap,
            retry_cap: record.cap.retry_cap,
            safe: record.cap.safe,
            expires_at_ms: record.expires_ms,
            version: Some(record.version.into()),
        }
    }
}
