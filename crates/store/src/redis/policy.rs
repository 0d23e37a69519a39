//! A queue's record: the policy as JSON for us, and the numbers that the operations decide by beside it.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
};

use tidegate_protocol::domain::{Cap, CapRecord, Policy, QueueName, Version};

use super::reply::Reply;
use crate::{QueueStats, StoreError, StoreResult};

/// What the operations decide by, and a digest of the whole, by which a caller knows that it knows it.
pub(crate) fn numbers(policy: &Policy, digest: u64) -> [(&'static str, u64); 11] {
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
        ("digest", digest),
    ]
}

/// The same as one text.
pub(crate) fn numbers_text(policy: &Policy, digest: u64) -> String {
    numbers(policy, digest)
        .map(|(_, value)| value.to_string())
        .join(" ")
}

/// FNV-1a, for it has to tell texts apart and needs no more; a number that survives being a double. 0 = no policy.
pub(crate) fn digest(json: &[u8]) -> u64 {
    if json.is_empty() {
        return 0;
    }
    let hash = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    json.iter().fold(0xcbf2_9ce4_8422_2325, hash) >> 11
}

/// Everything that is written for a policy, as fields and values by turns.
pub(crate) fn fields(policy: &Policy) -> StoreResult<[String; 4]> {
    let json = serde_json::to_string(policy).map_err(|error| StoreError::Invalid(error.to_string()))?;
    let numbers = numbers_text(policy, digest(json.as_bytes()));
    Ok(["policy".to_owned(), json, "numbers".to_owned(), numbers])
}

/// Policies that were read, so that they are read once.
#[derive(Default)]
pub(crate) struct KnownPolicies(Mutex<HashMap<QueueName, (u64, Policy)>>);

impl KnownPolicies {
    fn lock(&self) -> MutexGuard<'_, HashMap<QueueName, (u64, Policy)>> {
        self.0.lock().expect("nothing panics under this lock")
    }

    pub fn digest(&self, queue: &QueueName) -> Option<u64> {
        self.lock().get(queue).map(|(digest, _)| *digest)
    }

    /// What a lease said of the policy: nothing if it is the known one.
    pub fn learn(&self, queue: &QueueName, json: Reply) -> StoreResult<Policy> {
        if json.is_nil() {
            let known = self.lock();
            return Ok(known
                .get(queue)
                .map_or_else(Policy::default, |(_, policy)| policy.clone()));
        }
        let json = json.bytes()?;
        let mut known = self.lock();
        // Jobs have been leased by then: to refuse them here would lose them one after the other. A newer version may have
        // written what this one does not know.
        let policy = parse(&json).unwrap_or_else(|error| {
            tracing::error!(%queue, %error, "a policy cannot be read here: the last one that could be counts, else the default");
            known.get(queue).map_or_else(Policy::default, |(_, policy)| policy.clone())
        });
        known.insert(queue.clone(), (digest(&json), policy.clone()));
        Ok(policy)
    }
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

/// `cap retry_cap safe expires epoch generation`, as `caps.lua` writes it.
pub(crate) fn cap_record(text: &[u8]) -> StoreResult<CapRecord> {
    let text = String::from_utf8_lossy(text);
    let numbers: Vec<u64> = text.split(' ').filter_map(|number| number.parse().ok()).collect();
    let [cap, retry_cap, safe, expires_ms, epoch, generation] = numbers[..] else {
        return Err(StoreError::Corrupt(format!("the cap {text:?}")));
    };
    // Written from u32 values.
    let [cap, retry_cap, safe] = [cap, retry_cap, safe].map(|n| n.min(u64::from(u32::MAX)) as u32);
    Ok(CapRecord {
        cap: Cap { cap, retry_cap, safe },
        expires_ms,
        version: Version { epoch, generation },
    })
}

/// From the answer of `stats.lua`.
pub(crate) fn stats(queue: QueueName, reply: Reply) -> StoreResult<QueueStats> {
    let [
        clock_ms,
        slots,
        slots_retries,
        since,
        ready,
        ready_retries,
        scheduled,
        running,
        succeeded,
        dead,
        cancelled,
        expired,
        unreadable,
        paused,
        meta,
    ] = reply.fixed()?;
    let meta = Fields::new(meta)?;
    let version = match meta.number("policy_epoch")? {
        None => None,
        Some(epoch) => Some(Version {
            epoch,
            generation: meta.or_zero("policy_generation")?,
        }),
    };
    Ok(QueueStats {
        queue,
        paused: paused.number()? == 1,
        scheduled: scheduled.number()?,
        ready: ready.number()?,
        ready_retries: ready_retries.number()?,
        running: running.number()?,
        slots: slots.number()?,
        slots_retries: slots_retries.number()?,
        succeeded: succeeded.number()?,
        dead: dead.number()?,
        cancelled: cancelled.number()?,
        expired: expired.number()?,
        unreadable: unreadable.number()?,
        submitted_total: meta.or_zero("submitted_total")?,
        succeeded_total: meta.or_zero("succeeded_total")?,
        dead_total: meta.or_zero("dead_total")?,
        oldest_ready_ms: u64::try_from(since.int()?).ok(),
        policy: parse(meta.text("policy").unwrap_or_default())?,
        policy_version: version,
        cap: meta.text("cap").map(cap_record).transpose()?,
        clock_ms: clock_ms.number()?,
    })
}
