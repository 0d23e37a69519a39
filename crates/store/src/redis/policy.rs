//! A queue's record: the policy as JSON for us, and the numbers that the operations decide by beside it.

use std::collections::HashMap;

use tidegate_protocol::domain::{Cap, CapRecord, Policy, QueueName, Version};

use super::reply::Reply;
use crate::{QueueStats, StoreError, StoreResult};

/// Fields of `meta` that the operations read.
pub(crate) fn numbers(policy: &Policy) -> [(&'static str, u64); 10] {
    [
        ("costs", u64::from(policy.costs_a_resource())),
        ("max_depth", policy.max_depth),
        ("max_attempts", u64::from(policy.retry.max_attempts)),
        ("backoff_base_ms", policy.retry.backoff_base_ms),
        ("backoff_max_ms", policy.retry.backoff_max_ms),
        ("lease_ttl_ms", policy.lease_ttl_ms),
        ("keep_finished", u64::from(policy.keep_finished)),
        ("idempotency_window_ms", policy.idempotency_window_ms),
        ("max_keys", policy.max_keys),
        ("max_park_ms", policy.max_park_ms),
    ]
}

/// Everything that is written for a policy, as fields and values by turns.
pub(crate) fn fields(policy: &Policy) -> StoreResult<Vec<String>> {
    let json = serde_json::to_string(policy).map_err(|error| StoreError::Invalid(error.to_string()))?;
    let numbers = numbers(policy)
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value.to_string()]);
    Ok(["policy".to_owned(), json].into_iter().chain(numbers).collect())
}

/// The policy of a record; empty text = there is none.
pub(crate) fn parse(json: &[u8]) -> StoreResult<Policy> {
    if json.is_empty() {
        return Ok(Policy::default());
    }
    serde_json::from_slice(json).map_err(|error| StoreError::Corrupt(format!("a policy record: {error}")))
}

/// Fields of a hash, by name.
pub(crate) struct Fields(HashMap<String, Vec<u8>>);

impl Fields {
    pub fn new(reply: Reply) -> StoreResult<Self> {
        let mut values = reply.list()?.into_iter();
        let mut fields = HashMap::new();
        while let (Some(name), Some(value)) = (values.next(), values.next()) {
            fields.insert(
                String::from_utf8_lossy(&name.bytes()?).into_owned(),
                value.bytes()?,
            );
        }
        Ok(Self(fields))
    }

    pub fn text(&self, name: &str) -> Option<&[u8]> {
        self.0.get(name).map(Vec::as_slice)
    }

    pub fn number(&self, name: &str) -> StoreResult<Option<u64>> {
        let parse = |bytes: &[u8]| std::str::from_utf8(bytes).ok()?.parse().ok();
        match self.text(name) {
            None => Ok(None),
            Some(bytes) => parse(bytes)
                .map(Some)
                .ok_or_else(|| StoreError::Corrupt(format!("field {name}"))),
        }
    }

    pub fn or_zero(&self, name: &str) -> StoreResult<u64> {
        self.number(name).map(Option::unwrap_or_default)
    }
}

/// A cap of six numbers in the order of `caps.lua`.
pub(crate) fn cap_record(numbers: [u64; 6]) -> CapRecord {
    let [cap, retry_cap, safe, expires_ms, epoch, generation] = numbers;
    // Written from u32 values.
    let [cap, retry_cap, safe] = [cap, retry_cap, safe].map(|n| n.min(u64::from(u32::MAX)) as u32);
    CapRecord {
        cap: Cap { cap, retry_cap, safe },
        expires_ms,
        version: Version { epoch, generation },
    }
}

fn stored_cap(meta: &Fields) -> StoreResult<Option<CapRecord>> {
    if meta.text("cap").is_none() {
        return Ok(None);
    }
    let mut numbers = [0; 6];
    let names = [
        "cap",
        "retry_cap",
        "safe",
        "cap_expires",
        "cap_epoch",
        "cap_generation",
    ];
    for (number, name) in numbers.iter_mut().zip(names) {
        *number = meta.or_zero(name)?;
    }
    Ok(Some(cap_record(numbers)))
}

/// From the answer of `stats.lua`.
pub(crate) fn stats(queue: QueueName, reply: Reply) -> StoreResult<QueueStats> {
    let [clock_ms, slots, slots_retries, since, counts, meta] = reply.fixed()?;
    let (counts, meta) = (Fields::new(counts)?, Fields::new(meta)?);
    let version = match meta.number("policy_epoch")? {
        None => None,
        Some(epoch) => Some(Version {
            epoch,
            generation: meta.or_zero("policy_generation")?,
        }),
    };
    Ok(QueueStats {
        queue,
        paused: meta.or_zero("paused")? == 1,
        scheduled: counts.or_zero("scheduled")?,
        ready: counts.or_zero("ready")?,
        ready_retries: counts.or_zero("ready_retries")?,
        running: counts.or_zero("running")?,
        slots: slots.number()?,
        slots_retries: slots_retries.number()?,
        succeeded: counts.or_zero("succeeded")?,
        dead: counts.or_zero("dead")?,
        cancelled: counts.or_zero("cancelled")?,
        expired: counts.or_zero("expired")?,
        submitted_total: counts.or_zero("submitted_total")?,
        succeeded_total: counts.or_zero("succeeded_total")?,
        dead_total: counts.or_zero("dead_total")?,
        oldest_ready_ms: u64::try_from(since.int()?).ok(),
        policy: parse(meta.text("policy").unwrap_or_default())?,
        policy_version: version,
        cap: stored_cap(&meta)?,
        clock_ms: clock_ms.number()?,
    })
}
