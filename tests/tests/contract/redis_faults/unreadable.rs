//! Jobs of which a server keeps other bytes than were written: each is set aside with its bytes, and holds up nobody.

use tidegate_protocol::{
    domain::{Job, JobId, JobState, Outcome, SettleResult, SubmitOutcome},
    reason,
};
use tidegate_store::{Action, ActionAnswer, ListRequest};
use tidegate_tests::{Redis, Sandbox};

use crate::fixture::{Fixture, Worker, job, lease_of, ok, queue, redis_server, retry, settlement};

const GONE: &str = "redis.call('HDEL', key, id)";
/// The body's version is in the upper half of its byte 11, the head's is its first byte.
const NEWER_BODY: &str = "redis.call('HSET', key, id, old:sub(1, 10) .. '\\144' .. old:sub(12))";
pub(super) const NEWER_HEAD: &str = "redis.call('HSET', key, id, '\\9' .. old:sub(2))";
const NO_TEXT: &str = "redis.call('HSET', key, id, (old:gsub('colour', 'col\\255ur')))";

/// Does `damage` to what is kept of a job in `part` of its queue; answers, in hexadecimal, what is there then.
pub(super) async fn damage(redis: &Redis<'_>, id: &JobId, part: &str, damage: &str) -> String {
    let script = format!(
        "local key, id = '{{tg:{queue}:0}}:{part}', ('{local}'):gsub('..', function(two) \
           return string.char(tonumber(two, 16)) end) \
         local old = redis.call('HGET', key, id) or '' {damage} \
         return ((redis.call('HGET', key, id) or ''):gsub('.', function(c) return ('%02x'):format(c:byte()) end))",
        queue = id.queue,
        local = id.local.simple(),
    );
    let hex = redis.must(&["EVAL", &script, "0"]).await;
    hex.trim().trim_matches('"').to_owned()
}

async fn cut(redis: &Redis<'_>, id: &JobId, part: &str, bytes: usize) -> String {
    let cut = format!("redis.call('HSET', key, id, old:sub(1, {bytes}))");
    damage(redis, id, part, &cut).await
}

async fn page(f: &Fixture, name: &str, state: JobState) -> Vec<Job> {
    let request = ListRequest {
        queue: queue(name),
        state,
        limit: 100,
        cursor: None,
    };
    f.store.list(request).await.unwrap().jobs
}

pub(super) async fn act(f: &Fixture, action: Action, ids: &[JobId]) -> Vec<ActionAnswer> {
    let answers = f.store.act(action, ids.to_vec()).await;
    answers.into_iter().map(Result::unwrap).collect()
}

#[track_caller]
fn is_set_aside(job: &Job) {
    let told = (job.state, job.reason.as_str());
    assert_eq!(told, (JobState::Dead, reason::UNREADABLE));
    assert!(
        job.error.contains("cannot be read") && job.error.contains(":unreadable"),
        "{job:?}"
    );
}

#[tokio::test]
async fn at_the_head_of_a_queue_they_do_not_stop_it() {
    let sandbox = Sandbox::new();
    let redis = redis_server(&sandbox).await;
    let f = Fixture::redis_at(&redis.url(), 0).await;
    let mut jobs: Vec<_> = (0..6).map(|i| job("sms", &format!("payload {i}"))).collect();
    jobs[2].headers = vec![("colour".into(), "red".into())];
    let ids: Vec<_> = jobs.iter().map(|job| job.id.clone()).collect();
    assert!(f.store.submit(jobs).await.iter().all(Result::is_ok));
    let kept = [
        cut(&redis, &ids[0], "bodies", 5).await,
        damage(&redis, &ids[1], "bodies", NEWER_BODY).await,
        // Only this side knows that it is no text.
        damage(&redis, &ids[2], "bodies", NO_TEXT).await,
    ];
    assert!(kept[1].contains("90") && kept[2].contains("ff"), "{kept:?}");
    // Of this one nothing is left that could be kept.
    damage(&redis, &ids[3], "bodies", GONE).await;

    // Who looks first, finds what can be read; the others are told apart from then on.
    let shown: Vec<_> = page(&f, "sms", JobState::Ready)
        .await
        .into_iter()
        .map(|job| job.id)
        .collect();
    assert_eq!(shown, ids[4..]);
    let granted = f.lease("sms", &Worker::new(1), 10).await.grants;
    let granted: Vec<_> = granted.iter().map(|grant| lease_of(&grant.job)).collect();
    assert_eq!(
        granted.iter().map(|lease| lease.id.clone()).collect::<Vec<_>>(),
        ids[4..]
    );
    let recorded = SettleResult::Recorded(JobState::Succeeded);
    assert_eq!(f.settle(&granted[0], ok()).await, recorded);

    let stats = f.stats("sms").await;
    assert_eq!(
        (stats.dead, stats.unreadable, stats.ready),
        (3, 3, 0),
        "{stats:?}"
    );
    assert_eq!(
        (stats.running, stats.slots, stats.succeeded),
        (1, 1, 1),
        "{stats:?}"
    );
    let dead = page(&f, "sms", JobState::Dead).await;
    assert_eq!(dead.len(), 3);
    dead.iter().for_each(is_set_aside);
    for (id, kept) in ids.iter().zip(&kept) {
        is_set_aside(&f.get(id).await);
        // There was no head.
        let bytes = damage(&redis, id, "unreadable", "").await;
        assert_eq!(bytes, format!("00000000{kept}"));
    }

    // An operator's batches answer the same however often they are repeated.
    for _ in 0..2 {
        let refused = act(&f, Action::Redrive, &ids[..3]).await;
        assert_eq!(refused, vec![ActionAnswer::WrongState(JobState::Dead); 3]);
    }
    assert_eq!(
        act(&f, Action::Delete, &ids[..3]).await,
        vec![ActionAnswer::Done(None); 3]
    );
    assert_eq!(
        act(&f, Action::Delete, &ids[..4]).await,
        vec![ActionAnswer::NotFound; 4]
    );
    let stats = f.stats("sms").await;
    assert_eq!((stats.dead, stats.unreadable), (0, 0), "{stats:?}");
    assert_eq!(redis.must(&["EXISTS", "{tg:sms:0}:unreadable"]).await.trim(), "0");
    assert_eq!(f.settle(&granted[1], ok()).await, recorded);
    f.store.close().await;
}

/// A lease meets them first, where a retry waits before others.
#[tokio::test]
async fn a_lease_passes_them_in_both_lanes() {
    let sandbox = Sandbox::new();
    let redis = redis_server(&sandbox).await;
    let f = Fixture::redis_at(&redis.url(), 0).await;
    let worker = Worker::new(1);
    let ids = f.fill("email", 4).await;
    let again = Outcome::Released { error: String::new() };
    for grant in f.lease("email", &worker, 2).await.grants {
        let outcome = if grant.job.id == ids[0] {
            retry()
        } else {
            again.clone()
        };
        f.settle(&lease_of(&grant.job), outcome).await;
    }
    assert_eq!(f.stats("email").await.ready + f.stats("email").await.scheduled, 4);
    cut(&redis, &ids[1], "heads", 40).await;
    cut(&redis, &ids[2], "bodies", 0).await;
    damage(&redis, &ids[0], "heads", NEWER_HEAD).await;
    let granted = f.lease("email", &worker, 10).await.grants;
    assert_eq!(
        granted.iter().map(|grant| &grant.job.id).collect::<Vec<_>>(),
        [&ids[3]]
    );
    f.sweep("email").await;
    for id in &ids[..3] {
        is_set_aside(&f.get(id).await);
    }
    // Only heads were damaged here: what was submitted is shown.
    assert_eq!(f.get(&ids[0]).await.payload, "payload 0");
    let stats = f.stats("email").await;
    assert_eq!(
        (stats.ready, stats.scheduled, stats.running, stats.unreadable),
        (0, 0, 1, 3),
        "{stats:?}"
    );
    // And the counts are right for what comes.
    let new = f.fill("email", 2).await;
    assert_eq!(f.stats("email").await.ready, 2);
    let granted = f.lease("email", &worker, 10).await.grants;
    assert_eq!(
        granted
            .iter()
            .map(|grant| grant.job.id.clone())
            .collect::<Vec<_>>(),
        new
    );
    f.store.close().await;
}

#[tokio::test]
async fn running_scheduled_and_ended_ones_fail_no_call() {
    let sandbox = Sandbox::new();
    let redis = redis_server(&sandbox).await;
    let f = Fixture::redis_at(&redis.url(), 0).await;
    let mut policy = crate::fixture::costly();
    (policy.costs, policy.lease_ttl_ms) = (Vec::new(), 1_000);
    f.put("email", policy).await;
    let mut keyed = job("email", "keyed");
    keyed.idempotency_key = Some("order-1".into());
    let mut later = job("email", "later");
    later.delay_ms = 500;
    let ended = f.submit(keyed.clone()).await.unwrap().id;
    let worker = Worker::new(1);
    let granted = f.lease("email", &worker, 1).await.grants.remove(0);
    f.settle(&lease_of(&granted.job), ok()).await;
    let scheduled = f.submit(later).await.unwrap().id;
    let running = f.fill("email", 3).await;
    let leases: Vec<_> = f
        .lease("email", &worker, 3)
        .await
        .grants
        .iter()
        .map(|grant| lease_of(&grant.job))
        .collect();
    for id in [&ended, &scheduled, &running[0]] {
        damage(&redis, id, "heads", NEWER_HEAD).await;
    }
    damage(&redis, &running[1], "bodies", GONE).await;

    for state in JobState::ALL {
        page(&f, "email", state).await;
    }
    // In one call with others; where the body alone is gone, the head still knows what it was.
    let items = leases.iter().map(|lease| settlement(lease, ok())).collect();
    let answers: Vec<_> = f
        .store
        .settle(items)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(answers[0], SettleResult::Stale(JobState::Dead));
    assert_eq!(answers[2], SettleResult::Recorded(JobState::Succeeded));
    tokio::time::sleep(std::time::Duration::from_millis(1_200)).await;
    f.sweep("email").await;
    for id in [&ended, &scheduled, &running[0]] {
        is_set_aside(&f.get(id).await);
    }
    let stats = f.stats("email").await;
    assert_eq!(
        (stats.running, stats.slots, stats.scheduled, stats.ready),
        (0, 0, 0, 0),
        "{stats:?}"
    );
    // The key still stands for it: nothing runs a second time unasked.
    let duplicate = f.submit(keyed).await.unwrap();
    assert_eq!(
        (duplicate.outcome, duplicate.state),
        (SubmitOutcome::Duplicate, Some(JobState::Dead))
    );
    assert_eq!(duplicate.id, ended);
    f.store.close().await;
}

/// Whatever is cut off at whatever place: every call answers, and every job is somewhere.
#[tokio::test]
async fn no_cut_anywhere_fails_a_call() {
    let sandbox = Sandbox::new();
    let redis = redis_server(&sandbox).await;
    let f = Fixture::redis_at(&redis.url(), 0).await;
    let (worker, mut all) = (Worker::new(1), Vec::new());
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..40_u32 {
        let name = "email";
        let jobs: Vec<_> = (0..6)
            .map(|i| {
                let mut new = job(name, "{}");
                new.idempotency_key = (i % 2 == 0).then(|| format!("{round} {i}"));
                new.headers = vec![("colour".into(), "red".into())];
                new.delay_ms = if i == 5 { 1 } else { 0 };
                new.want_result = i == 4;
                new
            })
            .collect();
        all.extend(
            f.store
                .submit(jobs)
                .await
                .into_iter()
                .map(|answer| answer.unwrap().id),
        );
        let grants = f.lease(name, &worker, 4).await.grants;
        assert!(grants.iter().all(|grant| !grant.job.payload.is_empty()));
        let leases: Vec<_> = grants.iter().map(|grant| lease_of(&grant.job)).collect();
        let victims: Vec<_> = (0..3).map(|_| all[random.usize(..all.len())].clone()).collect();
        for id in &victims {
            let (part, length) = if random.bool() {
                ("heads", 130)
            } else {
                ("bodies", 28)
            };
            let cut = format!(
                "if old ~= '' then redis.call('HSET', key, id, old:sub(1, {})) end",
                random.usize(1..length)
            );
            damage(&redis, id, part, &cut).await;
        }

        let outcomes = [
            ok(),
            retry(),
            Outcome::Failed { error: "no".into() },
            Outcome::Released { error: String::new() },
        ];
        let items = leases
            .iter()
            .zip(outcomes)
            .map(|(lease, outcome)| settlement(lease, outcome))
            .collect();
        assert!(f.store.settle(items).await.iter().all(Result::is_ok));

        match random.u8(..4) {
            0 => drop(act(&f, Action::Cancel, &victims).await),
            1 => drop(act(&f, Action::Redrive, &all).await),
            2 => {
                for state in JobState::ALL {
                    page(&f, name, state).await;
                }
            }
            _ => f.fill(name, 1).await.into_iter().for_each(|id| all.push(id)),
        }

        assert!(f.renew(&leases[0]).await.is_ok());
        f.sweep(name).await;
        f.stats(name).await;
    }
    // What can still run does.
    loop {
        let grants = f.lease("email", &worker, 100).await.grants;
        assert!(grants.iter().all(|grant| !grant.job.payload.is_empty()));
        let items: Vec<_> = grants
            .iter()
            .map(|grant| settlement(&lease_of(&grant.job), ok()))
            .collect();
        if items.is_empty() && f.stats("email").await.scheduled == 0 {
            break;
        }
        assert!(f.store.settle(items).await.iter().all(Result::is_ok));
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        f.sweep("email").await;
    }
    let stats = f.stats("email").await;
    assert_eq!((stats.ready, stats.scheduled), (0, 0), "{stats:?}");
    assert!(
        stats.unreadable > 20 && stats.dead >= stats.unreadable,
        "{stats:?}"
    );
    let mut unreadable = 0;
    for answer in f.store.get(all.clone()).await {
        // Some that have succeeded are kept no more.
        if let Some(job) = answer.unwrap() {
            unreadable += u64::from(job.reason == reason::UNREADABLE);
        }
    }
    assert_eq!(f.stats("email").await.unreadable, unreadable);
    f.store.close().await;
}
