//! What is kept in Redis, and under which keys.
//!
//! Every key of a queue begins with its tag, `{tg:<queue>:<shard>}`, so that each operation stays in one slot of a
//! cluster while queues spread over it. Queue names cannot contain `:`, `{` or `}`, so keys cannot collide.
//!
//! **Jobs.** One hash holds all of a queue's jobs: id (16 bytes) -> blob ([`super::blob`]). A large hash of blobs costs
//! half of what a hash per job does, in memory and in time.
//!
//! **Waiting.** A list per lane holds the ready jobs in order, as id and `seq`, a number that the job's blob carries too.
//! A job that leaves the list other than by its head (cancel, delete, expiry) just stops being ready: its entry is stale
//! and whoever meets it drops it, so nothing ever searches a list. How many jobs are ready is counted apart. Scheduled
//! jobs are in a sorted set by due time, waiting ones with a deadline in another one.
//!
//! **Running.** A sorted set per lane holds the leases: members are (id, fence), scores the leases' ends. Ghosts, slots
//! whose lease is nobody's any more, are in another one. The sizes of the two together are what counts against the cap.
//! When a lease ends is said there alone, and who is a member is running with that fence, so a renewal reads no job. A session's leases and the jobs with a loss blamed on a process are sorted sets with equal
//! scores: they order by member, so that long ones can be worked off piece by piece.
//!
//! **Ended.** A sorted set per terminal state by time of end, and another one for those whose result is still awaited.
//!
//! **Names.** Idempotency keys and request ids are maps cut into [`PARTS`] hashes, each with lists of what ends in an
//! hour (a minute for request ids). Nothing is left to EXPIRE: expiring a hash of millions of fields stalls the server.
//! Entries leave in the order of their ends, at the first sweep after that; only when a queue's idempotency window was
//! shortened may some leave up to an hour late. Until then they count toward `max_keys`, and no lookup finds them.
//!
//! **The rest.** `meta` holds the queue's record, its cap and flags, `counts` its counters; both are readable by hand.

use tidegate_protocol::domain::QueueName;

/// One shard a queue for now; part of the tag, so that more can be added without moving what exists.
pub(crate) const SHARD: u16 = 0;

/// Names of all queues, equal scores: they order by name. A queue's name is written before its first use.
pub(crate) const QUEUES: &str = "{tg}:queues";
/// The store's own record: `incarnation`, `watermark_ms`.
pub(crate) const STORE: &str = "{tg}:store";
/// Channel: a queue's name, when it was hungry and something changed in its favour.
pub(crate) const WAKE: &str = "tg:wake";
/// Channel: `<queue>:<shard>:`, then ids of 16 bytes each, of jobs with an awaited result that have ended.
pub(crate) const DONE: &str = "tg:done";

/// Hashes of one map of names: 10 million keys make parts of about 10,000 fields. Written into jobs and names.
pub(crate) const PARTS: u32 = 1_024;

/// What every key of a queue begins with. The suffixes are in `lua/lib.lua`, `lua/index.lua` and `lua/keys.lua`, which
/// alone use them:
///
/// | suffix | type | holds |
/// |---|---|---|
/// | `:meta` | hash | record, cap, `paused`, `hungry`, `turn`, `hold_until` |
/// | `:counts` | hash | jobs by state, `ready_retries`, totals, `keys`, `ids`, `seq` |
/// | `:jobs` | hash | id -> blob |
/// | `:ready:<lane>` | list | id and seq |
/// | `:scheduled`, `:deadlines` | sorted set | id by due time, by deadline |
/// | `:leases:<lane>`, `:ghosts:<lane>` | sorted set | id and fence by end of the lease |
/// | `:session:<16 bytes>` | sorted set | id and fence, score 0 |
/// | `:blamed:<16 bytes>` | sorted set | id, score 0 |
/// | `:ended:<state>`, `:awaited:<state>` | sorted set | id by time of end |
/// | `:keys:<part>`, `:ids:<part>` | hash | name -> id, payload hash, ended state, end |
/// | `:keys:ends:<hour>`, `:ids:ends:<minute>` | list | end, part and name |
/// | `:keys:spans`, `:ids:spans` | sorted set | the hours, the minutes that have a list |
pub(crate) fn tag(queue: &QueueName) -> String {
    format!("{{tg:{queue}:{SHARD}}}")
}

/// In which part a name is: FNV-1a, for it has to stay the same for ever and needs no more.
pub(crate) fn part(name: &str) -> u16 {
    let hash = name.bytes().fold(2_166_136_261_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(16_777_619)
    });
    (hash % PARTS) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stored data depends on it.
    #[test]
    fn parts_never_change() {
        assert_eq!(
            [part(""), part("a"), part("inv-17")].map(u32::from),
            [2_166_136_261 % 1_024, 0xe40c_292c % 1_024, 343]
        );
    }

    #[test]
    fn parts_are_of_like_size() {
        let mut sizes = [0_u32; PARTS as usize];
        (0..102_400).for_each(|i| sizes[usize::from(part(&format!("order-{i}")))] += 1);
        assert!(sizes.iter().all(|&n| (40..200).contains(&n)), "{sizes:?}");
    }
}
