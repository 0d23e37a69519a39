//! Random operation sequences against every store at once: each answer and the final state must be equal, and no
//! interleaving may ever exceed a cap.
//!
//! `TIDEGATE_TEST_SEED=n` replays one sequence, `TIDEGATE_TEST_SEQUENCES=n` runs more of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use bytes::Bytes;
use fastrand::Rng;
use tidegate_protocol::domain::{
    Cap, CapRecord, Job, JobId, JobState, LeaseRef, NewJob, Outcome, Policy, QueueName, ResourceCost, Retry,
    Session, Settlement, Version,
};
use tidegate_store::{
    Action, CapOrder, Clock, LeaseRequest, ListRequest, QueueRecord, Reclaim, ReleaseCause, SessionRelease,
    SettleItem, StoreResult, SweepRequest, Want,
};
use uuid::Uuid;

use tidegate_tests::{Redis, Sandbox};

use crate::fixture::{Fixture, Worker, clock, hash, lease_of, queue, redis_server};

const STEPS: usize = 120;
const SEQUENCES: u64 = 1_000;
/// Worlds at once, each with a Redis of its own.
const LANES: u64 = 2;
const QUEUES: [&str; 2] = ["free", "costly"];
/// A Redis script works through its jobs in pieces of 64: so many are several of them.
const MANY: std::ops::Range<usize> = 65..300;

/// What a sequence has learned so far, from answers that were equal in all stores.
struct World {
    seed: u64,
    rng: Rng,
    stores: Vec<(&'static str, Fixture)>,
    ids: Vec<JobId>,
    leases: Vec<LeaseRef>,
    workers: Vec<Worker>,
    next_id: u128,
    trace: Vec<String>,
}

/// Runs one operation on every store and demands equal answers.
macro_rules! same {
    ($world:expr, $what:expr, |$store:ident| $call:expr) => {{
        let what: String = $what;
        $world.trace.push(what);
        let mut first = None;
        for (name, fixture) in &$world.stores {
            let $store = &fixture.store;
            let answer = $call.await;
            match &first {
                None => first = Some(answer),
                Some(expected) => demand_equal(name, expected, &answer, $world.seed, &$world.trace),
            }
        }
        first.expect("at least one store")
    }};
}

fn demand_equal<T: Debug>(name: &str, expected: &T, answer: &T, seed: u64, trace: &[String]) {
    let (expected, answer) = (format!("{expected:#?}"), format!("{answer:#?}"));
    if expected != answer {
        let tail = trace[trace.len().saturating_sub(15)..].join("\n  ");
        let differing = differing_lines(&expected, &answer);
        panic!(
            "{name} disagrees with memory; replay with TIDEGATE_TEST_SEED={seed}\n{differing}\nlast operations:\n  {tail}"
        );
    }
}

/// Where two long texts part, with some lines around it.
fn differing_lines(expected: &str, answer: &str) -> String {
    let (a, b): (Vec<_>, Vec<_>) = (expected.lines().collect(), answer.lines().collect());
    let first = a
        .iter()
        .zip(&b)
        .position(|(a, b)| a != b)
        .unwrap_or(a.len().min(b.len()));
    let around = |lines: &[&str]| {
        lines[first.saturating_sub(8).min(lines.len())..(first + 8).min(lines.len())].join("\n")
    };
    format!("memory: {}\nother: {}", around(&a), around(&b))
}

#[test]
fn all_stores_agree_on_random_sequences() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    if let Some(seed) = number("TIDEGATE_TEST_SEED") {
        return run_all(vec![seed]);
    }
    let sequences = number("TIDEGATE_TEST_SEQUENCES").unwrap_or(SEQUENCES);
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            scope.spawn(move || run_all((0..sequences).filter(|seed| seed % LANES == lane).collect()));
        }
    });
}

fn run_all(seeds: Vec<u64>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let sandbox = Sandbox::new();
        let server = redis_server(&sandbox).await;
        for seed in seeds {
            run_one(seed, &server).await;
        }
    });
}

async fn run_one(seed: u64, server: &Redis<'_>) {
    let mut world = World::new(seed, server).await;
    if world.has_many() {
        for name in QUEUES {
            world.put(queue(name), Version::default()).await;
        }
    }
    for _ in 0..STEPS {
        world.step().await;
    }
    world.compare_all().await;
    world.reopen().await;
    world.compare_all().await;
}

impl World {
    async fn new(seed: u64, server: &Redis<'_>) -> Self {
        let clock = clock();
        let stores = vec![
            ("memory", Fixture::memory(clock.clone())),
            ("sqlite", Fixture::sqlite(clock.clone()).await),
            ("redis", Fixture::redis(server, clock).await),
        ];
        let workers = (1..=4).map(Worker::new).collect();
        let rng = Rng::with_seed(seed);
        Self {
            seed,
            rng,
            stores,
            ids: vec![],
            leases: vec![],
            workers,
            next_id: 1,
            trace: vec![],
        }
    }

    fn queue(&mut self) -> QueueName {
        queue(QUEUES[self.rng.usize(..QUEUES.len())])
    }

    fn worker(&mut self) -> Worker {
        self.workers[self.rng.usize(..self.workers.len())]
    }

    /// Mostly a few; in some sequences sometimes many.
    fn how_many(&mut self, few: std::ops::Range<usize>) -> usize {
        match self.rng.u8(..16) {
            0 if self.has_many() => self.rng.usize(MANY),
            _ => self.rng.usize(few),
        }
    }

    /// Of many jobs a promise leaves open in which order a session's go back, and how many more finished ones are kept than
    /// should be until they go together: sequences with many do without.
    fn has_many(&self) -> bool {
        self.seed % 8 >= 6
    }

    fn keep_finished(&mut self) -> u32 {
        match self.seed % 8 {
            6 => *self.rng.choice(&[0, 1, 2, 3]).unwrap(),
            7 => 100_000,
            _ => *self.rng.choice(&[0, 1, 2, 3, 16]).unwrap(),
        }
    }

    fn some_ids(&mut self) -> Vec<JobId> {
        let n = self.how_many(1..4);
        (0..n)
            .filter_map(|_| self.rng.choice(&self.ids).cloned())
            .collect()
    }

    /// Mostly leases that were granted lately; sometimes with a fence of another time.
    fn some_leases(&mut self) -> Vec<LeaseRef> {
        let n = self.how_many(1..5);
        let recent = self.leases.len().saturating_sub(n.max(12));
        let mut picked = Vec::new();
        for _ in 0..n {
            let Some(lease) = self.rng.choice(&self.leases[recent..]).cloned() else {
                break;
            };
            let off = u64::from(self.rng.u8(..10) == 0);
            let lease = LeaseRef {
                fence: lease.fence + off,
                ..lease
            };
            if !picked.contains(&lease) {
                picked.push(lease);
            }
        }
        picked
    }

    async fn step(&mut self) {
        match self.rng.u8(..100) {
            0..20 => self.submit().await,
            20..40 => self.lease().await,
            40..58 => self.settle().await,
            58..63 => self.renew().await,
            63..71 if self.has_many() => self.settle().await,
            63..67 => self.release_session().await,
            67..71 => self.reclaim().await,
            71..79 => self.act().await,
            79..82 => self.put_queue().await,
            82..86 => self.set_caps().await,
            86..88 => self.pause().await,
            88..94 => self.sweep().await,
            94 => self.reopen().await,
            _ => self.advance(),
        }
    }

    /// The file is the whole truth: a store opened from it goes on as if nothing had happened.
    async fn reopen(&mut self) {
        self.trace.push("reopen".to_owned());
        for (_, fixture) in &mut self.stores {
            fixture.reopen().await;
        }
    }

    fn advance(&mut self) {
        let ms = *self
            .rng
            .choice(&[1_u64, 10, 500, 2_000, 10_000, 61_000, 700_000, 90_000_000])
            .unwrap();
        // Long jumps end everything: rare, so that sequences have a middle.
        let ms = if ms > 10_000 && self.rng.u8(..4) > 0 {
            100
        } else {
            ms
        };
        self.trace.push(format!("advance {ms}"));
        self.stores[0].1.clock.advance(ms);
    }

    fn new_job(&mut self) -> NewJob {
        let local = Uuid::from_u128(self.next_id << 64 | u128::from(self.rng.u64(..)));
        self.next_id += 1;
        let payload = *self.rng.choice(&["a", "b", "{}"]).unwrap();
        let mut job = NewJob::new(
            JobId {
                queue: self.queue(),
                shard: 0,
                local,
            },
            Bytes::from_static(payload.as_bytes()),
        );
        job.payload_hash = hash(payload);
        match self.rng.u8(..6) {
            0 | 1 => job.idempotency_key = Some(format!("key-{}", self.rng.u8(..6))),
            2 => job.request_id = Some(format!("request-{}", self.rng.u8(..6))),
            _ => {}
        }
        if self.rng.u8(..4) == 0 {
            job.delay_ms = self.rng.u64(1..3_000);
        }
        if self.rng.u8(..5) == 0 {
            job.deadline_after_ms = self.rng.u64(1..20_000);
        }
        job.want_result = self.rng.u8(..4) == 0;
        job.headers = vec![("x-n".into(), self.next_id.to_string())];
        job
    }

    async fn submit(&mut self) {
        let n = self.how_many(1..6);
        let jobs: Vec<_> = (0..n).map(|_| self.new_job()).collect();
        let answers = same!(self, format!("submit {jobs:?}"), |store| store
            .submit(jobs.clone()));
        self.ids
            .extend(answers.into_iter().flatten().map(|submitted| submitted.id));
    }

    async fn lease(&mut self) {
        let mut wants: Vec<Want> = Vec::new();
        for _ in 0..self.rng.usize(1..3) {
            let worker = self.worker();
            if wants.iter().all(|want| want.session != worker.session) {
                let max = self.how_many(0..4) as u32;
                wants.push(Want {
                    session: worker.session,
                    incarnation: worker.incarnation,
                    max,
                });
            }
        }
        let request = LeaseRequest {
            queue: self.queue(),
            wants,
        };
        let before = self.slots(&request.queue).await;
        // Sometimes together with a submit.
        let n = self.rng.usize(..8).saturating_sub(4);
        let jobs: Vec<_> = (0..n).map(|_| self.new_job()).collect();
        let answers = if jobs.is_empty() {
            same!(self, format!("lease {request:?}"), |store| store
                .lease(vec![request.clone()]))
        } else {
            let what = format!("submit {jobs:?} and lease {request:?}");
            let (submitted, granted) = same!(self, what, |store| store
                .submit_and_lease(jobs.clone(), vec![request.clone()]));
            let ids = submitted.into_iter().flatten().map(|submitted| submitted.id);
            self.ids.extend(ids);
            granted
        };
        let after = self.slots(&request.queue).await;
        for ((slots_before, _), (slots, cap)) in before.into_iter().zip(after) {
            // A lowered cap may leave more running than it allows; then nothing new is granted on top.
            assert!(
                slots <= u64::from(cap).max(slots_before),
                "{slots} slots, {slots_before} before, cap {cap}; replay with TIDEGATE_TEST_SEED={}",
                self.seed
            );
        }
        for grant in answers.into_iter().flatten().flat_map(|grants| grants.grants) {
            self.leases.push(lease_of(&grant.job));
        }
    }

    /// Of each store: slots taken and the cap in force.
    async fn slots(&self, name: &QueueName) -> Vec<(u64, u32)> {
        let mut all = Vec::new();
        for (_, fixture) in &self.stores {
            if let Some(stats) = fixture.store.stats(vec![name.clone()]).await.remove(0).unwrap() {
                let costs = stats.policy.costs_a_resource();
                let cap = CapRecord::effective(stats.cap.as_ref(), costs, stats.paused, stats.clock_ms);
                all.push((stats.slots, cap.map_or(u32::MAX, |(cap, _)| cap)));
            }
        }
        all
    }

    async fn settle(&mut self) {
        let leases = self.some_leases();
        let mut items = Vec::new();
        // A store may be quicker where all are alike.
        let outcomes = if self.rng.u8(..3) == 0 { 0..4 } else { 0..12 };
        for lease in leases {
            let error = format!("error {}", self.rng.u8(..9));
            let after_ms = *self.rng.choice(&[0, 1, 700]).unwrap();
            let outcome = match self.rng.u8(outcomes.clone()) {
                0..4 => Outcome::Succeeded {
                    result: Bytes::from_static(b"r"),
                },
                4..7 => Outcome::Retry { error, after_ms },
                7 => Outcome::Failed { error },
                8 => Outcome::Invalid { error },
                9 | 10 => Outcome::Released { error },
                _ => Outcome::Throttled { error, after_ms },
            };
            let settlement = Settlement {
                lease,
                outcome,
                class: None,
                run_ms: 1,
            };
            items.push(SettleItem {
                settlement,
                random: self.rng.f64(),
            });
        }
        let over = if items.len() < MANY.start {
            vec![false; items.len()]
        } else {
            self.over(&items).await
        };
        same!(self, format!("settle {items:?}"), |store| async {
            let answers = store.settle(items.clone()).await;
            let told = answers
                .into_iter()
                .zip(&over)
                .map(|(answer, over)| (!over).then_some(answer));
            told.collect::<Vec<_>>()
        });
    }

    /// Which of them end nothing: their job does not run, or one before them ends it. Such a job may be forgotten while many
    /// are settled, or after.
    async fn over(&self, items: &[SettleItem]) -> Vec<bool> {
        let ids: Vec<JobId> = items
            .iter()
            .map(|item| item.settlement.lease.id.clone())
            .collect();
        let jobs = self.stores[0].1.store.get(ids.clone()).await;
        let runs = |job: &Job| job.state == JobState::Running;
        let mut seen = BTreeSet::new();
        let ends = |(id, job): (JobId, StoreResult<Option<Job>>)| {
            seen.insert(id) && job.is_ok_and(|job| job.as_ref().is_some_and(runs))
        };
        ids.into_iter().zip(jobs).map(ends).map(|ends| !ends).collect()
    }

    async fn renew(&mut self) {
        let leases = self.some_leases();
        same!(self, format!("renew {leases:?}"), |store| store
            .renew(leases.clone()));
    }

    async fn release_session(&mut self) {
        let cause = *self
            .rng
            .choice(&[ReleaseCause::Broken, ReleaseCause::Bye])
            .unwrap();
        let seed = self.rng.u32(1..1_000_000);
        let session = self.worker().session;
        let release = SessionRelease {
            queue: self.queue(),
            session,
            cause,
            seed,
        };
        same!(self, format!("{release:?}"), |store| store
            .release_session(vec![release.clone()]));
    }

    async fn reclaim(&mut self) {
        let index = self.rng.usize(..self.workers.len());
        let old = self.workers[index];
        let new = old.reconnected(u128::from(self.rng.u64(1_000..)));
        self.workers[index] = new;
        let replaces: Vec<Session> = if self.rng.bool() {
            vec![old.session]
        } else {
            vec![]
        };
        let reclaim = Reclaim {
            session: new.session,
            incarnation: new.incarnation,
            replaces,
            queues: QUEUES.map(queue).to_vec(),
            leases: self.some_leases(),
        };
        same!(self, format!("{reclaim:?}"), |store| store
            .reclaim(reclaim.clone()))
        .expect("reclaim answers");
    }

    async fn act(&mut self) {
        let action = *self
            .rng
            .choice(&[Action::Cancel, Action::Redrive, Action::Redrive, Action::Delete])
            .unwrap();
        let ids = self.some_ids();
        same!(self, format!("{action:?} {ids:?}"), |store| store
            .act(action, ids.clone()));
    }

    async fn put_queue(&mut self) {
        let queue = self.queue();
        let version = Version {
            epoch: self.rng.u64(..3),
            generation: self.rng.u64(..3),
        };
        self.put(queue, version).await;
    }

    async fn put(&mut self, queue: QueueName, version: Version) {
        let mut policy = Policy {
            max_depth: *self.rng.choice(&[5, 20, 60, 1_000]).unwrap(),
            max_keys: 100,
            idempotency_window_ms: *self.rng.choice(&[86_400_000, 600_000, 3_000]).unwrap(),
            keep_finished: self.keep_finished(),
            retry: Retry {
                max_attempts: self.rng.u32(1..4),
                ..Retry::default()
            },
            ..Policy::default()
        };
        if queue.as_str() == "costly" {
            policy.costs = vec![ResourceCost {
                resource: "pg-main".into(),
                units: 1,
            }];
        }
        let record = QueueRecord {
            queue,
            policy,
            version,
        };
        same!(self, format!("{record:?}"), |store| store
            .put_queue(vec![record.clone()]));
    }

    async fn set_caps(&mut self) {
        let cap = Cap {
            cap: self.rng.u32(..8),
            retry_cap: self.rng.u32(..4),
            safe: self.rng.u32(..4),
        };
        let order = CapOrder {
            queue: self.queue(),
            cap: (self.rng.u8(..5) > 0).then_some(cap),
            version: Version {
                epoch: self.rng.u64(..3),
                generation: self.rng.u64(..3),
            },
            ttl_ms: *self.rng.choice(&[0, 5_000, 30_000]).unwrap(),
        };
        same!(self, format!("{order:?}"), |store| store
            .set_caps(vec![order.clone()]));
    }

    async fn pause(&mut self) {
        let (name, paused) = (self.queue(), self.rng.u8(..3) == 0);
        same!(self, format!("pause {name} {paused}"), |store| store
            .pause(vec![name.clone()], paused));
    }

    async fn sweep(&mut self) {
        // Not at all, of what had ended some time ago, or of all that has ended.
        let now_ms = self.stores[0].1.clock.now_ms();
        let reclaim_until_ms = match self.rng.u8(..4) {
            0 => None,
            1 => Some(now_ms - self.rng.u64(..15_000)),
            _ => Some(u64::MAX),
        };
        let request = SweepRequest {
            queue: self.queue(),
            reclaim_until_ms,
            hold_ms: if self.rng.u8(..12) == 0 { 5_000 } else { 0 },
            limit: *self.rng.choice(&[2, 1_000]).unwrap(),
            seed: self.rng.u32(1..1_000_000),
        };
        // When expired keys leave is a store's own affair, as long as nobody finds them.
        same!(self, format!("{request:?}"), |store| async {
            store
                .sweep(vec![request.clone()])
                .await
                .into_iter()
                .map(|report| {
                    report.map(|mut report| {
                        report.keys_forgotten = 0;
                        report.more = false;
                        report
                    })
                })
                .collect::<Vec<_>>()
        });
    }

    async fn compare_all(&mut self) {
        let ids = self.ids.clone();
        same!(self, "get all".to_owned(), |store| store.get(ids.clone()));
        same!(self, "stats".to_owned(), |store| store
            .stats(QUEUES.map(queue).to_vec()));
        for name in QUEUES {
            for state in JobState::ALL {
                let request = ListRequest {
                    queue: queue(name),
                    state,
                    limit: 1_000,
                    cursor: None,
                };
                same!(self, format!("{request:?}"), |store| async {
                    let page = store.list(request.clone()).await.unwrap();
                    page.jobs
                        .into_iter()
                        .map(|job| (job.id.clone(), job))
                        .collect::<BTreeMap<_, _>>()
                });
            }
        }
    }
}
