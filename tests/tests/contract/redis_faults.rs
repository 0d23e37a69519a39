//! What can go wrong with a Redis, each fault provoked at a real server: the error says what it is, the store goes on
//! when the fault has passed, and nothing that was acknowledged is lost.

mod contents;
mod cuts;
mod failover;
mod pressure;
mod replicas;
mod stray;
mod unreadable;

use std::time::Duration;

use tidegate_protocol::domain::{JobId, JobState, LeaseRef, Policy, SettleResult, Version};
use tidegate_store::{
    Action, CapOrder, ListRequest, QueueRecord, Reclaim, RenewAnswer, StoreError, StoreResult, SweepRequest,
};
use tidegate_tests::{Redis, eventually};

use crate::fixture::{Fixture, Worker, job, lease_of, ok, queue};

/// For what takes moments unless the machine is very busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// The calls that only read: a server that takes no writes answers them. `stats` drops what is stale, so it writes.
const READS: [&str; 3] = ["get", "list", "queues"];

type Answers = Vec<(&'static str, StoreResult<()>)>;

/// A queue in the middle of its life: what is acknowledged, and what runs.
struct Life {
    ids: Vec<JobId>,
    lease: LeaseRef,
}

/// Three jobs, of which one runs.
async fn life(f: &Fixture) -> Life {
    let ids = f.fill("email", 3).await;
    let grants = f.lease("email", &Worker::new(1), 1).await;
    let lease = lease_of(&grants.grants[0].job);
    Life { ids, lease }
}

impl Life {
    /// Makes one call of each kind, over each connection of the store. A submit that goes well is acknowledged, too.
    async fn each(&mut self, f: &Fixture) -> Answers {
        let mut answers = vec![
            ("submit", self.submit(f).await),
            ("renew", f.renew(&self.lease).await.map(drop)),
            ("lease", f.try_lease("email", &Worker::new(2), 0).await.map(drop)),
        ];
        answers.extend(of_an_operator(f).await);
        answers.extend(reads(f, &self.ids[0]).await);
        answers
    }

    async fn submit(&mut self, f: &Fixture) -> StoreResult<()> {
        let submitted = f.submit(job("email", "{}")).await?;
        self.ids.push(submitted.id);
        Ok(())
    }

    /// The fault has passed: every call goes well, the lease is held and settled, and each acknowledged job comes to its
    /// end once.
    async fn goes_on(mut self, f: &Fixture) {
        demand(self.each(f).await, &[], |_| false);
        assert!(matches!(f.renew(&self.lease).await, Ok(RenewAnswer::Held { .. })));
        let recorded = SettleResult::Recorded(JobState::Succeeded);
        assert_eq!(f.try_settle(&self.lease, ok()).await, Ok(recorded));
        let worker = Worker::new(3);
        let waiting = f.lease("email", &worker, 1_000).await.grants;
        assert_eq!(waiting.len() + 1, self.ids.len());
        for grant in waiting {
            assert_eq!(f.settle(&lease_of(&grant.job), ok()).await, recorded);
        }
        for id in &self.ids {
            assert_eq!(f.get(id).await.state, JobState::Succeeded);
        }
        assert_eq!(f.stats("email").await.succeeded_total, self.ids.len() as u64);
        f.store.close().await;
    }
}

async fn of_an_operator(f: &Fixture) -> Answers {
    let sweep = SweepRequest {
        queue: queue("email"),
        reclaim_until_ms: Some(u64::MAX),
        hold_ms: 0,
        limit: 100,
        seed: 7,
    };
    let order = CapOrder {
        queue: queue("email"),
        cap: None,
        version: Version::default(),
        ttl_ms: 0,
    };
    let record = QueueRecord {
        queue: queue("email"),
        policy: Policy::default(),
        version: Version::default(),
    };
    let nobody = Worker::new(77);
    let reclaim = Reclaim {
        session: nobody.session,
        incarnation: nobody.incarnation,
        replaces: Vec::new(),
        queues: vec![queue("email")],
        leases: Vec::new(),
    };
    let nothing = job("email", "").id;
    vec![
        ("sweep", f.store.sweep(vec![sweep]).await.remove(0).map(drop)),
        (
            "cancel",
            f.store
                .act(Action::Cancel, vec![nothing])
                .await
                .remove(0)
                .map(drop),
        ),
        ("pulse", f.store.pulse().await.map(drop)),
        (
            "set_caps",
            f.store.set_caps(vec![order]).await.remove(0).map(drop),
        ),
        (
            "put_queue",
            f.store.put_queue(vec![record]).await.remove(0).map(drop),
        ),
        (
            "pause",
            f.store
                .pause(vec![queue("email")], false)
                .await
                .remove(0)
                .map(drop),
        ),
        ("reclaim", f.store.reclaim(reclaim).await.map(drop)),
    ]
}

async fn reads(f: &Fixture, id: &JobId) -> Answers {
    let list = ListRequest {
        queue: queue("email"),
        state: JobState::Ready,
        limit: 10,
        cursor: None,
    };
    vec![
        ("get", f.store.get(vec![id.clone()]).await.remove(0).map(drop)),
        ("list", f.store.list(list).await.map(drop)),
        ("queues", f.store.queues().await.map(drop)),
        (
            "stats",
            f.store.stats(vec![queue("email")]).await.remove(0).map(drop),
        ),
    ]
}

/// Each of the `refused` calls must fail as `fault` says, and every other one go well.
#[track_caller]
fn demand(answers: Answers, refused: &[&str], fault: impl Fn(&StoreError) -> bool) {
    for (call, answer) in answers {
        match answer {
            Err(error) if refused.contains(&call) => assert!(fault(&error), "{call}: {error:?}"),
            other => assert!(
                other.is_ok() && !refused.contains(&call),
                "{call} answered {other:?}"
            ),
        }
    }
}

/// All kinds of calls but these.
fn all_but(spared: &[&str]) -> Vec<&'static str> {
    let writes = [
        "submit",
        "renew",
        "lease",
        "sweep",
        "cancel",
        "pulse",
        "set_caps",
        "put_queue",
        "pause",
        "reclaim",
        "stats",
    ];
    let all = writes.into_iter().chain(READS);
    all.filter(|call| !spared.contains(call)).collect()
}

/// Waits until a command is answered with a text that has `part` in it.
async fn answered(redis: &Redis<'_>, words: &[&str], part: &str) {
    eventually(
        PATIENCE,
        format!("{part:?} in the answer to {words:?}"),
        async || redis.command(words).await.ok()?.contains(part).then_some(()),
    )
    .await;
}
