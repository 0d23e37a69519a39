//! The contract, promise by promise.

use tidegate_protocol::{
    domain::{JobState, LeaseRef, Loss, Outcome, Policy, QueueName, SettleResult, SubmitOutcome},
    reason,
};
use tidegate_store::{
    Action, ActionAnswer, CapOrder, Clock as _, LeaseRequest, ListRequest, Reclaim, ReleaseCause,
    RenewAnswer, StoreError, StoreEvent, Want,
};
use tokio::sync::broadcast;

use tidegate_tests::Sandbox;

use crate::fixture::{
    Fixture, START_MS, Worker, clock, costly, job, lease_of, ok, queue, redis_server, retry, settlement,
};

/// Each case becomes one test per store.
macro_rules! contract {
    ($($case:ident),+ $(,)?) => {
        mod memory {
            use super::*;
            $(#[tokio::test] async fn $case() { super::$case(Fixture::memory(clock())).await })+
        }
        mod sqlite {
            use super::*;
            $(#[tokio::test] async fn $case() { super::$case(Fixture::sqlite(clock()).await).await })+
        }
        mod redis {
            use super::*;
            $(#[tokio::test] async fn $case() {
                let sandbox = Sandbox::new();
                let server = redis_server(&sandbox).await;
                super::$case(Fixture::redis(&server, clock()).await).await
            })+
        }
    };
}

contract! {
    a_job_goes_all_the_way,
    a_key_is_one_job_for_its_window,
    a_request_id_is_one_job_for_ten_minutes,
    a_full_queue_refuses_and_says_so,
    a_scheduled_job_waits_for_its_time,
    a_deadline_ends_a_waiting_job,
    retries_wait_and_end_dead,
    an_old_fence_changes_nothing,
    a_settle_repeated_gets_the_same_answer,
    many_are_settled_as_one_is,
    an_expired_lease_comes_back_once_at_once_then_later_then_dead,
    who_lost_a_job_is_known_until_it_succeeds_or_starts_afresh,
    a_broken_session_leaves_ghosts_where_it_costs,
    a_reclaim_keeps_what_is_listed_and_returns_the_rest,
    many_go_back_as_one_does,
    a_loss_is_taken_back_when_the_process_is_seen_again,
    the_cap_is_never_exceeded,
    an_expired_cap_sinks_to_its_safe_value,
    older_caps_and_policies_are_refused,
    retries_have_a_lane_and_a_cap_of_their_own,
    cancel_frees_no_slot_before_the_holder_says_so,
    redrive_starts_afresh_and_minds_the_key,
    a_paused_queue_grants_nothing,
    a_hungry_queue_is_woken_once,
    jobs_handed_over_wake_others_for_what_is_left,
    finished_jobs_are_kept_as_long_as_promised,
    lists_page_through_a_state,
    handing_back_in_a_row_is_slowed_and_parked_jobs_end,
    a_hold_stops_every_reclaim_by_time,
    a_sweep_takes_back_only_what_had_ended_by_the_moment_it_names,
}

async fn a_job_goes_all_the_way(f: Fixture) {
    let id = f.submit(job("email", "{}")).await.unwrap().id;
    let worker = Worker::new(1);
    let grants = f.lease("email", &worker, 5).await;
    assert_eq!(grants.grants.len(), 1);
    let leased = &grants.grants[0].job;
    assert_eq!((leased.state, leased.fence), (JobState::Running, START_MS));
    assert_eq!(&leased.payload[..], b"{}");
    assert_eq!(f.stats("email").await.slots, 1);
    assert_eq!(
        f.settle(&lease_of(leased), ok()).await,
        SettleResult::Recorded(JobState::Succeeded)
    );
    let done = f.get(&id).await;
    assert_eq!(
        (done.state, &done.result[..], done.attempts),
        (JobState::Succeeded, &b"done"[..], 1)
    );
    let stats = f.stats("email").await;
    assert_eq!(
        (stats.slots, stats.running, stats.succeeded, stats.succeeded_total),
        (0, 0, 1, 1)
    );
}

async fn a_key_is_one_job_for_its_window(f: Fixture) {
    let keyed = |payload: &str| {
        let mut new = job("email", payload);
        new.idempotency_key = Some("inv-17".into());
        new
    };
    let first = f.submit(keyed("a")).await.unwrap();
    let again = f.submit(keyed("a")).await.unwrap();
    assert_eq!((again.outcome, &again.id), (SubmitOutcome::Duplicate, &first.id));
    assert_eq!(
        f.submit(keyed("b")).await,
        Err(StoreError::KeyReused { id: first.id.clone() })
    );

    let grants = f.lease("email", &Worker::new(1), 1).await;
    f.settle(&lease_of(&grants.grants[0].job), ok()).await;
    let after = f.submit(keyed("a")).await.unwrap();
    assert_eq!(
        (after.state, after.result.as_deref()),
        (Some(JobState::Succeeded), Some(&b"done"[..]))
    );

    // The job itself goes, the key stays.
    f.store
        .act(Action::Delete, vec![first.id.clone()])
        .await
        .remove(0)
        .unwrap();
    let gone = f.submit(keyed("a")).await.unwrap();
    assert!(gone.result_expired && gone.id == first.id);
    // The window, and the 64th that saves most jobs a second entry.
    f.clock.advance(86_399_999);
    assert_eq!(f.submit(keyed("a")).await.unwrap().id, first.id);
    f.clock.advance(1 + 86_400_000 / 64);
    f.sweep("email").await;
    assert_eq!(
        f.submit(keyed("b")).await.unwrap().outcome,
        SubmitOutcome::Created
    );
}

async fn a_request_id_is_one_job_for_ten_minutes(f: Fixture) {
    let tagged = || {
        let mut new = job("email", "a");
        new.request_id = Some("0190163d".into());
        new
    };
    let first = f.submit(tagged()).await.unwrap();
    assert_eq!(f.submit(tagged()).await.unwrap().id, first.id);
    f.clock.advance(600_000);
    assert_ne!(f.submit(tagged()).await.unwrap().id, first.id);
}

async fn a_full_queue_refuses_and_says_so(f: Fixture) {
    f.put(
        "email",
        Policy {
            max_depth: 2,
            max_keys: 1,
            ..Policy::default()
        },
    )
    .await;
    let answers = f
        .store
        .submit(vec![job("email", "1"), job("email", "2"), job("email", "3")])
        .await;
    assert!(answers[0].is_ok() && answers[1].is_ok());
    assert_eq!(answers[2], Err(StoreError::QueueFull { depth: 2, max: 2 }));
    let grants = f.lease("email", &Worker::new(1), 2).await;
    for grant in &grants.grants {
        f.settle(&lease_of(&grant.job), ok()).await;
    }
    let keyed = |key: &str| {
        let mut new = job("email", "k");
        new.idempotency_key = Some(key.into());
        new
    };
    assert!(f.submit(keyed("one")).await.is_ok());
    assert_eq!(f.submit(keyed("two")).await, Err(StoreError::KeysFull { max: 1 }));
}

async fn a_scheduled_job_waits_for_its_time(f: Fixture) {
    let mut new = job("email", "later");
    new.delay_ms = 5_000;
    let id = f.submit(new).await.unwrap().id;
    assert_eq!(f.get(&id).await.due_ms, START_MS + 5_000);
    f.clock.advance(4_999);
    assert_eq!(f.sweep("email").await.promoted, 0);
    assert!(f.lease("email", &Worker::new(1), 1).await.grants.is_empty());
    f.clock.advance(1);
    assert_eq!(f.sweep("email").await.promoted, 1);
    assert_eq!(f.lease("email", &Worker::new(1), 1).await.grants.len(), 1);
}

async fn a_deadline_ends_a_waiting_job(f: Fixture) {
    let mut new = job("email", "soon");
    new.deadline_after_ms = 100;
    let swept = f.submit(new.clone()).await.unwrap().id;
    f.clock.advance(100);
    assert_eq!(f.sweep("email").await.expired, 1);
    assert_eq!(f.get(&swept).await.state, JobState::Expired);

    // Also when nobody swept before a worker asks.
    new.id = job("email", "").id;
    let met = f.submit(new).await.unwrap().id;
    f.clock.advance(100);
    assert!(f.lease("email", &Worker::new(1), 1).await.grants.is_empty());
    assert_eq!(f.get(&met).await.state, JobState::Expired);
}

async fn retries_wait_and_end_dead(f: Fixture) {
    let id = f.fill("email", 1).await.remove(0);
    let worker = Worker::new(1);
    for attempt in 1..=3_u32 {
        let grants = f.lease("email", &worker, 1).await;
        let expected = if attempt < 3 {
            JobState::Scheduled
        } else {
            JobState::Dead
        };
        let settled = f.settle(&lease_of(&grants.grants[0].job), retry()).await;
        assert_eq!(settled, SettleResult::Recorded(expected));
        // random 0.5 of base 2 s, doubled each time.
        let wait = 1_000 << (attempt - 1);
        f.clock.advance(wait - 1);
        assert_eq!(f.sweep("email").await.promoted, 0);
        f.clock.advance(1);
        f.sweep("email").await;
    }
    let dead = f.get(&id).await;
    assert_eq!(
        (dead.reason.as_str(), dead.error.as_str(), dead.attempts),
        (reason::ATTEMPTS_EXHAUSTED, "no luck", 3)
    );
    assert_eq!(f.stats("email").await.dead, 1);
}

async fn an_old_fence_changes_nothing(f: Fixture) {
    f.fill("email", 1).await;
    let first = lease_of(&f.lease("email", &Worker::new(1), 1).await.grants[0].job);
    f.clock.advance(10_001);
    assert_eq!(f.sweep("email").await.reclaimed, 1);
    let second = lease_of(&f.lease("email", &Worker::new(2), 1).await.grants[0].job);
    assert!(second.fence > first.fence);
    assert_eq!(
        f.settle(&first, ok()).await,
        SettleResult::Stale(JobState::Running)
    );
    assert_eq!(f.store.renew(vec![first]).await, vec![Ok(RenewAnswer::Lost)]);
    assert_eq!(
        f.settle(&second, ok()).await,
        SettleResult::Recorded(JobState::Succeeded)
    );
}

async fn a_settle_repeated_gets_the_same_answer(f: Fixture) {
    f.fill("email", 1).await;
    let lease = lease_of(&f.lease("email", &Worker::new(1), 1).await.grants[0].job);
    assert_eq!(
        f.settle(&lease, ok()).await,
        SettleResult::Recorded(JobState::Succeeded)
    );
    assert_eq!(
        f.settle(&lease, ok()).await,
        SettleResult::Recorded(JobState::Succeeded)
    );
    assert_eq!(
        f.settle(&lease, retry()).await,
        SettleResult::Stale(JobState::Succeeded)
    );
    assert_eq!(f.stats("email").await.succeeded_total, 1);
}

/// Redis works through them in pieces, and writes several of those at once.
async fn many_are_settled_as_one_is(f: Fixture) {
    let policy = Policy {
        keep_finished: 1_000,
        ..Policy::default()
    };
    f.put("email", policy).await;
    let ids = f.fill("email", 200).await;
    let grants = f.lease("email", &Worker::new(1), 200).await.grants;
    let items = grants
        .iter()
        .map(|grant| settlement(&lease_of(&grant.job), ok()))
        .collect();
    for answer in f.store.settle(items).await {
        assert_eq!(answer, Ok(SettleResult::Recorded(JobState::Succeeded)));
    }
    let states = f
        .store
        .get(ids)
        .await
        .into_iter()
        .map(|job| job.unwrap().unwrap().state);
    assert_eq!(states.filter(|state| *state == JobState::Succeeded).count(), 200);
}

async fn an_expired_lease_comes_back_once_at_once_then_later_then_dead(f: Fixture) {
    let id = f.fill("email", 1).await.remove(0);
    let mut lost = Vec::new();
    for loss in 1..=3_u128 {
        let worker = Worker::new(loss);
        assert_eq!(f.lease("email", &worker, 1).await.grants.len(), 1, "loss {loss}");
        f.clock.advance(10_000);
        assert_eq!(f.sweep("email").await.reclaimed, 1);
        lost.push(Loss {
            at_ms: f.clock.now_ms(),
            incarnation: worker.incarnation,
        });
        assert_eq!(f.get(&id).await.lost, lost);
        if loss == 1 {
            assert_eq!(f.get(&id).await.state, JobState::Ready);
        } else if loss == 2 {
            assert_eq!(f.get(&id).await.state, JobState::Scheduled);
            f.clock.advance(2_000);
            f.sweep("email").await;
        }
    }
    let dead = f.get(&id).await;
    assert_eq!(
        (dead.state, dead.reason.as_str(), dead.attempts),
        (JobState::Dead, reason::LEASE_LOST, 0)
    );
    assert!(dead.result.is_empty(), "it has none");
}

async fn who_lost_a_job_is_known_until_it_succeeds_or_starts_afresh(f: Fixture) {
    let ids = f.fill("email", 2).await;
    let (away, heir) = (Worker::new(1), Worker::new(2));
    f.lease("email", &away, 2).await;
    f.release("email", &away, ReleaseCause::Broken).await;
    for id in &ids {
        assert_eq!(f.get(id).await.lost.len(), 1);
    }
    let held = f.lease("email", &heir, 2).await.grants;
    let [first, second] = [lease_of(&held[0].job), lease_of(&held[1].job)];
    f.settle(&first, ok()).await;
    f.settle(&second, Outcome::Failed { error: "no".into() }).await;
    let (done, dead) = (f.get(&first.id).await, f.get(&second.id).await);
    assert_eq!(
        (done.losses, done.lost.len(), &done.result[..]),
        (1, 0, &b"done"[..])
    );
    assert_eq!((dead.losses, dead.lost.len()), (1, 1));
    f.store.act(Action::Redrive, vec![second.id.clone()]).await;
    let afresh = f.get(&second.id).await;
    assert_eq!((afresh.losses, afresh.lost.len()), (0, 0));
}

async fn a_broken_session_leaves_ghosts_where_it_costs(f: Fixture) {
    for (name, policy, slots_after) in [("free", Policy::default(), 0), ("costly", costly(), 2)] {
        f.put(name, policy).await;
        f.cap(name, 3, (1, 1), 0).await;
        f.fill(name, 2).await;
        let worker = Worker::new(1);
        let held = f.lease(name, &worker, 2).await.grants;
        assert_eq!(f.release(name, &worker, ReleaseCause::Broken).await, 2);
        let stats = f.stats(name).await;
        assert_eq!(
            (stats.slots, stats.ready, stats.running),
            (slots_after, 2, 0),
            "{name}"
        );
        // The worker that was cut off says it has stopped: its slot is free at once.
        assert_eq!(
            f.settle(&lease_of(&held[0].job), ok()).await,
            SettleResult::Stale(JobState::Ready)
        );
        assert_eq!(f.stats(name).await.slots, slots_after.saturating_sub(1), "{name}");
        f.clock.advance(10_000);
        f.sweep(name).await;
        assert_eq!(f.stats(name).await.slots, 0, "{name}");
    }
}

async fn a_reclaim_keeps_what_is_listed_and_returns_the_rest(f: Fixture) {
    f.fill("email", 2).await;
    let old = Worker::new(1);
    let held = f.lease("email", &old, 2).await.grants;
    let new = old.reconnected(2);
    let reclaim = Reclaim {
        session: new.session,
        incarnation: new.incarnation,
        replaces: vec![old.session],
        queues: vec![queue("email")],
        leases: vec![
            lease_of(&held[0].job),
            LeaseRef {
                fence: 1,
                ..lease_of(&held[0].job)
            },
        ],
    };
    let answer = f.store.reclaim(reclaim).await.unwrap();
    assert_eq!(answer.kept, vec![lease_of(&held[0].job)]);
    assert_eq!(
        answer.lost,
        vec![LeaseRef {
            fence: 1,
            ..lease_of(&held[0].job)
        }]
    );
    assert_eq!(answer.returned, 1);
    let returned = f.get(&held[1].job.id).await;
    assert_eq!((returned.state, returned.losses), (JobState::Ready, 0));
    // The old session is nobody's any more.
    assert_eq!(f.release("email", &old, ReleaseCause::Broken).await, 0);
    assert_eq!(
        f.settle(&lease_of(&held[0].job), ok()).await,
        SettleResult::Recorded(JobState::Succeeded)
    );
}

/// First by a reclaim that lists every second one, then by the end of the session.
async fn many_go_back_as_one_does(f: Fixture) {
    let ids = f.fill("email", 300).await;
    let old = Worker::new(1);
    let held = f.lease("email", &old, 300).await.grants;
    let leases: Vec<_> = held.iter().step_by(2).map(|grant| lease_of(&grant.job)).collect();
    let new = old.reconnected(2);
    let reclaim = Reclaim {
        session: new.session,
        incarnation: new.incarnation,
        replaces: vec![old.session],
        queues: vec![queue("email")],
        leases: leases.clone(),
    };
    let answer = f.store.reclaim(reclaim).await.unwrap();
    assert_eq!(
        (answer.kept.len(), answer.lost.len(), answer.returned),
        (150, 0, 150)
    );
    let stats = f.stats("email").await;
    assert_eq!((stats.running, stats.ready, stats.slots), (150, 150, 150));
    assert_eq!(f.release("email", &new, ReleaseCause::Bye).await, 150);
    let stats = f.stats("email").await;
    assert_eq!((stats.running, stats.ready, stats.slots), (0, 300, 0));
    for job in f.store.get(ids).await {
        let job = job.unwrap().unwrap();
        assert_eq!((job.state, job.losses), (JobState::Ready, 0));
    }
    let again = f.lease("email", &Worker::new(3), 300).await.grants;
    assert_eq!(again.len(), 300);
}

async fn a_loss_is_taken_back_when_the_process_is_seen_again(f: Fixture) {
    let id = f.fill("email", 1).await.remove(0);
    let old = Worker::new(1);
    f.lease("email", &old, 1).await;
    f.release("email", &old, ReleaseCause::Broken).await;
    let lost = f.get(&id).await;
    assert_eq!((lost.losses, lost.lost.len()), (1, 1));
    let new = old.reconnected(2);
    let reclaim = Reclaim {
        session: new.session,
        incarnation: new.incarnation,
        replaces: vec![old.session],
        queues: vec![queue("email")],
        leases: vec![],
    };
    f.store.reclaim(reclaim).await.unwrap();
    let found = f.get(&id).await;
    assert_eq!((found.losses, found.lost.len()), (0, 0));
}

async fn the_cap_is_never_exceeded(f: Fixture) {
    f.put("email", costly()).await;
    f.fill("email", 10).await;
    let worker = Worker::new(1);
    assert_eq!(
        f.lease("email", &worker, 10).await.grants.len(),
        0,
        "a queue that costs has cap 0 until its first"
    );
    f.cap("email", 4, (1, 1), 0).await;
    assert_eq!(f.lease("email", &worker, 3).await.grants.len(), 3);
    let last = f.lease("email", &worker, 10).await;
    assert_eq!((last.grants.len(), last.unmet), (1, true));
    assert_eq!(f.cap("email", 2, (1, 2), 0).await.slots, 4);
    f.settle(&lease_of(&last.grants[0].job), ok()).await;
    assert_eq!(
        f.lease("email", &worker, 10).await.grants.len(),
        0,
        "three run, two may"
    );
}

async fn an_expired_cap_sinks_to_its_safe_value(f: Fixture) {
    f.put("email", costly()).await;
    f.fill("email", 10).await;
    f.cap("email", 4, (1, 1), 30_000).await;
    f.clock.advance(30_000);
    assert_eq!(f.lease("email", &Worker::new(1), 10).await.grants.len(), 1);
}

async fn older_caps_and_policies_are_refused(f: Fixture) {
    assert!(f.cap("email", 4, (2, 5), 0).await.applied);
    for older in [(1, 9), (2, 4)] {
        let refused = f.cap("email", 9, older, 0).await;
        assert!(!refused.applied);
        assert_eq!(refused.record.unwrap().cap.cap, 4);
    }
    assert!(
        f.cap("email", 4, (2, 5), 0).await.applied,
        "the same order again is accepted"
    );
    let version = tidegate_protocol::domain::Version {
        epoch: 3,
        generation: 0,
    };
    let adopt = CapOrder {
        queue: queue("email"),
        cap: None,
        version,
        ttl_ms: 5_000,
    };
    let adopted = f
        .store
        .set_caps(vec![adopt])
        .await
        .remove(0)
        .unwrap()
        .record
        .unwrap();
    assert_eq!(
        (adopted.cap.cap, adopted.version, adopted.expires_ms),
        (4, version, START_MS + 5_000)
    );
}

async fn retries_have_a_lane_and_a_cap_of_their_own(f: Fixture) {
    f.put("email", costly()).await;
    let cap = tidegate_protocol::domain::Cap {
        cap: 4,
        retry_cap: 1,
        safe: 1,
    };
    let version = tidegate_protocol::domain::Version {
        epoch: 1,
        generation: 1,
    };
    f.store
        .set_caps(vec![CapOrder {
            queue: queue("email"),
            cap: Some(cap),
            version,
            ttl_ms: 0,
        }])
        .await;
    f.fill("email", 3).await;
    let worker = Worker::new(1);
    for grant in f.lease("email", &worker, 3).await.grants {
        f.settle(
            &lease_of(&grant.job),
            Outcome::Retry {
                error: "x".into(),
                after_ms: 1,
            },
        )
        .await;
    }
    f.clock.advance(1);
    f.sweep("email").await;
    f.fill("email", 10).await;
    let grants = f.lease("email", &worker, 10).await.grants;
    let retries = grants.iter().filter(|grant| grant.job.attempts > 0).count();
    assert_eq!((grants.len(), retries), (4, 1));
    let stats = f.stats("email").await;
    assert_eq!((stats.slots_retries, stats.ready_retries, stats.ready), (1, 2, 9));
}

async fn cancel_frees_no_slot_before_the_holder_says_so(f: Fixture) {
    let id = f.fill("email", 1).await.remove(0);
    let lease = lease_of(&f.lease("email", &Worker::new(1), 1).await.grants[0].job);
    let answer = f
        .store
        .act(Action::Cancel, vec![id.clone()])
        .await
        .remove(0)
        .unwrap();
    assert_eq!(answer, ActionAnswer::Done(Some(JobState::Cancelled)));
    assert_eq!(f.stats("email").await.slots, 1);
    assert_eq!(
        f.store.renew(vec![lease.clone()]).await,
        vec![Ok(RenewAnswer::Cancelled)]
    );
    let released = Outcome::Released { error: String::new() };
    assert_eq!(
        f.settle(&lease, released).await,
        SettleResult::Stale(JobState::Cancelled)
    );
    assert_eq!(f.stats("email").await.slots, 0);
    let again = f.store.act(Action::Cancel, vec![id]).await.remove(0).unwrap();
    assert_eq!(again, ActionAnswer::WrongState(JobState::Cancelled));
}

async fn redrive_starts_afresh_and_minds_the_key(f: Fixture) {
    let keyed = || {
        let mut new = job("email", "a");
        new.idempotency_key = Some("k".into());
        new
    };
    let first = f.submit(keyed()).await.unwrap().id;
    let lease = lease_of(&f.lease("email", &Worker::new(1), 1).await.grants[0].job);
    f.settle(
        &lease,
        Outcome::Failed {
            error: "no such address".into(),
        },
    )
    .await;
    let redriven = f
        .store
        .act(Action::Redrive, vec![first.clone()])
        .await
        .remove(0)
        .unwrap();
    assert_eq!(redriven, ActionAnswer::Done(Some(JobState::Ready)));
    assert_eq!(f.get(&first).await.attempts, 0);

    let lease = lease_of(&f.lease("email", &Worker::new(1), 1).await.grants[0].job);
    f.settle(
        &lease,
        Outcome::Failed {
            error: "no such address".into(),
        },
    )
    .await;
    f.clock.advance(86_400_000 + 86_400_000 / 64);
    f.sweep("email").await;
    let second = f.submit(keyed()).await.unwrap().id;
    let taken = f.store.act(Action::Redrive, vec![first]).await.remove(0).unwrap();
    assert_eq!(taken, ActionAnswer::KeyTaken(second));
}

async fn a_paused_queue_grants_nothing(f: Fixture) {
    f.fill("email", 1).await;
    assert_eq!(
        f.store.pause(vec![queue("email"), queue("nobody")], true).await,
        vec![Ok(true), Ok(false)]
    );
    assert!(f.lease("email", &Worker::new(1), 1).await.grants.is_empty());
    assert!(f.stats("email").await.paused);
    f.store
        .pause(vec![queue("email")], false)
        .await
        .remove(0)
        .unwrap();
    assert_eq!(f.lease("email", &Worker::new(1), 1).await.grants.len(), 1);
}

/// The queue of the next wake.
async fn woken(events: &mut broadcast::Receiver<StoreEvent>) -> QueueName {
    let wake = async {
        loop {
            if let StoreEvent::Wake(name) = events.recv().await.unwrap() {
                return name;
            }
        }
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(5), wake);
    waited.await.expect("woken")
}

async fn a_hungry_queue_is_woken_once(f: Fixture) {
    let mut events = f.store.subscribe();
    assert!(f.lease("email", &Worker::new(1), 1).await.unmet);
    f.fill("email", 2).await;
    assert_eq!(woken(&mut events).await, queue("email"));
    f.fill("email", 2).await;
    let more = tokio::time::timeout(std::time::Duration::from_millis(100), events.recv()).await;
    assert!(more.is_err(), "not hungry, not woken: {more:?}");
}

async fn jobs_handed_over_wake_others_for_what_is_left(f: Fixture) {
    let (here, elsewhere) = (Worker::new(1), Worker::new(2));
    let request = |worker: &Worker, max| LeaseRequest {
        queue: queue("email"),
        wants: vec![Want {
            session: worker.session,
            incarnation: worker.incarnation,
            max,
        }],
    };
    assert!(f.lease("email", &here, 2).await.unmet);
    assert!(f.lease("email", &elsewhere, 2).await.unmet);
    let mut events = f.store.subscribe();
    let jobs = vec![
        job("email", "a"),
        job("sms", "b"),
        job("email", "c"),
        job("email", "d"),
    ];
    let ids: Vec<_> = jobs.iter().map(|job| job.id.clone()).collect();
    let requests = vec![request(&here, 2)];
    let (submitted, granted) = f.store.submit_and_lease(jobs, requests).await;
    let submitted: Vec<_> = submitted.into_iter().map(|answer| answer.unwrap().id).collect();
    assert_eq!(submitted, ids, "in their order, of whatever queue");
    let grants = granted.into_iter().next().unwrap().unwrap();
    assert_eq!((grants.grants.len(), grants.unmet), (2, false));
    assert!(grants.grants.iter().all(|grant| grant.session == here.session));
    assert_eq!(woken(&mut events).await, queue("email"));
    assert_eq!(f.lease("email", &elsewhere, 2).await.grants.len(), 1);
}

async fn finished_jobs_are_kept_as_long_as_promised(f: Fixture) {
    f.put(
        "email",
        Policy {
            keep_finished: 2,
            ..Policy::default()
        },
    )
    .await;
    let ids = f.fill("email", 4).await;
    let mut wanted = job("email", "w");
    wanted.want_result = true;
    let wanted = f.submit(wanted).await.unwrap().id;
    let worker = Worker::new(1);
    for grant in f.lease("email", &worker, 5).await.grants {
        f.clock.advance(1);
        f.settle(&lease_of(&grant.job), ok()).await;
    }
    let kept = f
        .store
        .get(ids.clone())
        .await
        .into_iter()
        .map(|job| job.unwrap().is_some());
    assert_eq!(kept.collect::<Vec<_>>(), [false, false, true, true]);
    assert_eq!(f.get(&wanted).await.state, JobState::Succeeded);
    f.clock.advance(60_000);
    f.sweep("email").await;
    assert_eq!(f.stats("email").await.succeeded, 2);
    assert_eq!(f.stats("email").await.succeeded_total, 5);
}

async fn lists_page_through_a_state(f: Fixture) {
    let mut ids = f.fill("email", 5).await;
    let mut seen = Vec::new();
    let mut cursor = None;
    loop {
        let request = ListRequest {
            queue: queue("email"),
            state: JobState::Ready,
            limit: 2,
            cursor,
        };
        let page = f.store.list(request).await.unwrap();
        assert!(page.jobs.len() <= 2 && page.jobs.iter().all(|job| job.payload.is_empty()));
        seen.extend(page.jobs.into_iter().map(|job| job.id));
        match page.next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    seen.sort();
    ids.sort();
    assert_eq!(seen, ids);
    let request = ListRequest {
        queue: queue("email"),
        state: JobState::Ready,
        limit: 2,
        cursor: Some("?".into()),
    };
    assert!(matches!(f.store.list(request).await, Err(StoreError::Invalid(_))));
}

async fn handing_back_in_a_row_is_slowed_and_parked_jobs_end(f: Fixture) {
    let id = f.fill("email", 1).await.remove(0);
    let released = || Outcome::Released { error: String::new() };
    for state in [JobState::Ready, JobState::Ready, JobState::Scheduled] {
        let lease = lease_of(&f.lease("email", &Worker::new(1), 1).await.grants[0].job);
        assert_eq!(f.settle(&lease, released()).await, SettleResult::Recorded(state));
    }
    assert_eq!(f.get(&id).await.attempts, 0);
    f.clock.advance(86_400_001);
    f.sweep("email").await;
    let lease = lease_of(&f.lease("email", &Worker::new(1), 1).await.grants[0].job);
    let throttled = Outcome::Throttled {
        error: "503".into(),
        after_ms: 1_000,
    };
    assert_eq!(
        f.settle(&lease, throttled).await,
        SettleResult::Recorded(JobState::Dead)
    );
    assert_eq!(f.get(&id).await.reason, reason::PARKED_TOO_LONG);
}

async fn a_hold_stops_every_reclaim_by_time(f: Fixture) {
    f.fill("email", 1).await;
    f.lease("email", &Worker::new(1), 1).await;
    f.clock.advance(20_000);
    let ever = Some(u64::MAX);
    for (until_ms, hold_ms) in [(None, 0), (ever, 10_000), (ever, 0)] {
        assert_eq!(f.sweep_until("email", until_ms, hold_ms).await.reclaimed, 0);
    }
    f.clock.advance(10_000);
    assert_eq!(f.sweep("email").await.reclaimed, 1);
}

/// The clock leaps after a router has found it in order, and before it sweeps.
async fn a_sweep_takes_back_only_what_had_ended_by_the_moment_it_names(f: Fixture) {
    f.fill("email", 3).await;
    f.lease("email", &Worker::new(1), 1).await;
    f.clock.advance(4_000);
    f.lease("email", &Worker::new(2), 2).await;
    f.clock.advance(6_000);
    // The first lease ends at this very moment.
    let in_order = f.clock.now_ms();
    f.clock.advance(3_600_000);
    assert_eq!(f.sweep_until("email", Some(in_order - 1), 0).await.reclaimed, 0);
    assert_eq!(f.sweep_until("email", Some(in_order), 0).await.reclaimed, 1);
    assert_eq!(f.stats("email").await.running, 2);
    assert_eq!(f.sweep("email").await.reclaimed, 2);
}
