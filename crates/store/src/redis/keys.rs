//! What is kept in Redis, and under which keys.
//!
//! Every key of a queue begins with its tag, `{tg:<queue>:<shard>}`, so that each operation stays in one slot of a
//! cluster while queues spread over it. Queue names cannot contain `:`, `{` or `}`, so keys cannot collide.
//!
//! **Jobs.** Two hashes hold all of a queue's jobs, by id (16 bytes): bodies, which never change, and heads, which say
//! what has become of a job ([`super::blob`]). A job that was submitted and waits for nothing has no head yet, and the
//! heads of jobs that were leased or settled together are equal, so that a call makes them once. Large hashes cost half of
//! what a hash per job does, in memory and in time.
//!
//! **Waiting.** A list per lane holds the ready jobs in order: the id of a job without a head; else id and `seq`, a number
//! that the head carries too. A job that leaves the list other than by its head (cancel, delete, expiry) just stops being
//! ready: its entry is stale, and whoever meets it drops it, so nothing ever searches a list. How many entries are stale is
//! counted; the rest is ready. Scheduled jobs are in a sorted set by due time, waiting ones with a deadline in another one.
//!
//! **Running.** A sorted set per lane holds the leases: members are (id, fence), scores the leases' ends. Ghosts, slots
//! whose lease is nobody's any more, are in another one. The sizes of the two together are what counts against the cap.
//! When a lease ends is said there alone, and who is a member is running with that fence, so a renewal reads no job. A
//! session's leases are a set, the jobs with a loss blamed on a process a sorted set with equal scores.
//!
//! **Ended.** A list of those that succeeded in the order of their ends, a sorted set by time for each other terminal
//! state, and one per state for those whose result is still awaited.
//!
//! **Names.** Idempotency keys and request ids are kept in generations, hashes whose end says until when; see
//! `lua/names.lua`. One that has ended is dropped as a whole by UNLINK; nothing is left to EXPIRE, which would stall the
//! server.
//!
//! **Unreadable.** A job whose head or body is not what it should be is set aside by whoever meets it: dead, with its bytes
//! in a hash of their own; see `lua/aside.lua`.
//!
//! **The rest.** `meta` holds the queue's record, its cap, state and totals, as texts that are readable by hand. Every
//! count of jobs is the size of a set or list.

use tidegate_protocol::domain::QueueName;

/// One shard a queue for now; part of the tag, so that more can be added without moving what exists.
pub(crate) const SHARD: u16 = 0;

/// Names of all queues, equal scores: they order by name. A queue's name is written before its first use.
pub(crate) const QUEUES: &str = "{tg}:queues";
/// The store's own record: `incarnation`, `schema`, `watermark_ms`.
pub(crate) const STORE: &str = "{tg}:store";
/// Channel: a queue's name, when it was hungry and something changed in its favour.
pub(crate) const WAKE: &str = "tg:wake";
/// Channel: `<queue>:<shard>:`, then ids of 16 bytes each, of jobs with an awaited result that have ended.
pub(crate) const DONE: &str = "tg:done";

/// Version of what is kept and where. A store of another version is refused.
pub(crate) const SCHEMA: u64 = 2;

pub(crate) fn other_schema(found: u64) -> String {
    let what = if found > SCHEMA {
        "a newer Tidegate: use that version or a newer one"
    } else {
        "an older Tidegate, which this one cannot read: let the old routers finish their jobs, or use another database"
    };
    format!("it was written by {what} (schema {found}, this version has {SCHEMA})")
}

/// What every key of a queue begins with. The suffixes are in `lua/lib.lua` and `lua/names.lua`, which alone use them:
///
/// | suffix | type | holds |
/// |---|---|---|
/// | `:meta` | hash | `policy`, its `numbers`, `cap`, `state`, generations of `keys` and `ids`, totals |
/// | `:bodies`, `:heads` | hash | id -> what never changes, what does |
/// | `:ready:<lane>` | list | id, or id and seq |
/// | `:scheduled`, `:deadlines` | sorted set | id by due time, by deadline |
/// | `:leases:<lane>`, `:ghosts:<lane>` | sorted set | id and fence by end of the lease |
/// | `:session:<16 bytes>` | set | id and fence |
/// | `:blamed:<16 bytes>` | sorted set | id, score 0 |
/// | `:ended:4` | list | ids of the succeeded |
/// | `:ended:<state>`, `:awaited:<state>` | sorted set | id by time of end |
/// | `:keys:<end>`, `:ids:<end>` | hash | name -> id, payload hash, ended state |
/// | `:unreadable` | hash | id -> length of the head (4 bytes), head, body: what could not be read, as it was |
pub(crate) fn tag(queue: &QueueName) -> String {
    format!("{{tg:{queue}:{SHARD}}}")
}
