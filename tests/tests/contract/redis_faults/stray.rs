//! What a damaged entry must not do to its neighbours.

use tidegate_protocol::domain::{JobState, Policy, SettleResult, SubmitOutcome};
use tidegate_store::{Action, ActionAnswer};
use tidegate_tests::Sandbox;

use super::unreadable::{NEWER_HEAD, act, damage};
use crate::fixture::{Fixture, Worker, job, lease_of, ok, redis_server, settlement};

/// The lane is the head's third byte.
const NO_LANE: &str = "redis.call('HSET', key, id, old:sub(1, 2) .. '\\7' .. old:sub(4))";

#[tokio::test]
async fn a_running_job_without_a_lease_can_be_cancelled_and_deleted() {
    let sandbox = Sandbox::new();
    let redis = redis_server(&sandbox).await;
    let f = Fixture::redis_at(&redis.url(), 0).await;
    let ids = f.fill("email", 3).await;
    let grants = f.lease("email", &Worker::new(1), 3).await.grants;
    for id in &ids[1..] {
        let script = format!(
            "for _, entry in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do \
               local hex = entry:sub(1, 16):gsub('.', function(c) return ('%02x'):format(c:byte()) end) \
               if hex == '{}' then redis.call('ZREM', KEYS[1], entry) end end",
            id.local.simple()
        );
        redis.must(&["EVAL", &script, "1", "{tg:email:0}:leases:0"]).await;
    }
    assert_eq!(f.get(&ids[1]).await.state, JobState::Running);
    let cancelled = act(&f, Action::Cancel, &ids[..2]).await;
    assert!(
        cancelled
            .iter()
            .all(|answer| matches!(answer, ActionAnswer::Done(_))),
        "{cancelled:?}"
    );
    assert_eq!(f.get(&ids[1]).await.state, JobState::Cancelled);
    let deleted = act(&f, Action::Delete, &ids[2..]).await;
    assert!(matches!(deleted[..], [ActionAnswer::Done(_)]), "{deleted:?}");
    // The healthy one beside it has lost nothing: its holder's word frees its slot.
    f.settle(&lease_of(&grants[0].job), ok()).await;
    let stats = f.stats("email").await;
    assert_eq!((stats.slots, stats.running), (0, 0), "{stats:?}");
    f.store.close().await;
}

#[tokio::test]
async fn a_lane_that_there_is_none_of_fails_no_settle_of_others() {
    let sandbox = Sandbox::new();
    let redis = redis_server(&sandbox).await;
    let f = Fixture::redis_at(&redis.url(), 0).await;
    let ids = f.fill("email", 3).await;
    let grants = f.lease("email", &Worker::new(1), 3).await.grants;
    damage(&redis, &ids[0], "heads", NO_LANE).await;
    let items = grants
        .iter()
        .map(|grant| settlement(&lease_of(&grant.job), ok()))
        .collect();
    let answers = f.store.settle(items).await;
    assert_eq!(answers[0], Ok(SettleResult::Stale(JobState::Dead)));
    for answer in &answers[1..] {
        assert_eq!(answer, &Ok(SettleResult::Recorded(JobState::Succeeded)));
    }
    f.store.close().await;
}

/// The key of a job that ended long ago is another's by now.
#[tokio::test]
async fn setting_an_old_job_aside_takes_nobodys_key() {
    let sandbox = Sandbox::new();
    let redis = redis_server(&sandbox).await;
    let f = Fixture::redis_at(&redis.url(), 0).await;
    let policy = Policy {
        idempotency_window_ms: 1_000,
        ..Policy::default()
    };
    f.put("email", policy).await;
    let keyed = || {
        let mut new = job("email", "keyed");
        new.idempotency_key = Some("order-1".into());
        new
    };
    let old = f.submit(keyed()).await.unwrap().id;
    let grant = f.lease("email", &Worker::new(1), 1).await.grants.remove(0);
    f.settle(&lease_of(&grant.job), ok()).await;
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    let new = f.submit(keyed()).await.unwrap();
    assert_eq!(new.outcome, SubmitOutcome::Created);
    damage(&redis, &old, "heads", NEWER_HEAD).await;
    assert_eq!(f.get(&old).await.state, JobState::Dead);
    let again = f.submit(keyed()).await.unwrap();
    assert_eq!((again.outcome, again.id), (SubmitOutcome::Duplicate, new.id));
    f.store.close().await;
}

/// A newer router may have written it.
#[tokio::test]
async fn a_policy_that_cannot_be_read_loses_no_job() {
    let sandbox = Sandbox::new();
    let redis = redis_server(&sandbox).await;
    let f = Fixture::redis_at(&redis.url(), 0).await;
    f.fill("email", 2).await;
    let meta = ["HSET", "{tg:email:0}:meta", "policy", r#"{"strategy":"quantum"}"#];
    redis.must(&meta).await;
    let grants = f.lease("email", &Worker::new(1), 2).await.grants;
    assert_eq!(grants.len(), 2);
    for grant in grants {
        assert_eq!(
            f.settle(&lease_of(&grant.job), ok()).await,
            SettleResult::Recorded(JobState::Succeeded)
        );
    }
    f.store.close().await;
}
