#![allow(
    clippy::disallowed_methods,
    reason = "a submitter is ended in the middle of its work, as nothing does that is joined"
)]

use std::time::Duration;

use tidegate_chassis::{admin::Readiness, tasks::Tasks, telemetry};
use tidegate_protocol::{
    domain::{JobId, NewJob},
    v1,
};
use tidegate_store::{OpenOptions, QueueStats};
use tokio::{
    task::JoinHandle,
    time::{sleep, timeout},
};
use tonic::Status;
use uuid::Uuid;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
const SESSION: Session = Session(Uuid::from_u128(1));

fn queue() -> QueueName {
    "email".parse().expect("a name")
}

fn job() -> NewJob {
    let id = JobId {
        queue: queue(),
        shard: 0,
        local: Uuid::now_v7(),
    };
    NewJob::new(id, "{}")
}

/// A dispatcher on an empty store, and a worker's stream.
struct World {
    store: Arc<dyn JobStore>,
    dispatch: Dispatch,
    stream: mpsc::Receiver<Result<v1::LeaseResponse, Status>>,
    draining: CancellationToken,
    dispatcher: JoinHandle<()>,
    _tasks: Tasks,
}

impl World {
    async fn ends(self) {
        self.draining.cancel();
        timeout(PATIENCE, self.dispatcher)
            .await
            .expect("it ends")
            .expect("in order");
    }

    /// The worker waits for so many jobs in vain.
    async fn waiting(free: u32) -> Self {
        let store = tidegate_store::open("memory:", &OpenOptions::default())
            .await
            .expect("there is always memory");
        let metrics = Arc::new(Metrics::new(&telemetry::meter()));
        let draining = CancellationToken::new();
        let tasks = Tasks::new(CancellationToken::new());
        let condition = Arc::new(Condition::new(
            metrics.clone(),
            Readiness::new(),
            draining.clone(),
        ));
        condition.on_pulse(condition.at(), store.pulse().await);
        let handback = Handback::new(store.clone(), tasks.group("hand-backs", HANDBACKS_MAX));
        let calls = StoreCalls {
            system: "memory",
            op: "lease",
        };
        let catalog = Arc::new(Catalog::default());
        let (dispatcher, dispatch) =
            Dispatcher::new(store.clone(), calls, condition, catalog, metrics, handback);
        let dispatcher = tokio::spawn(dispatcher.run(draining.clone()));
        let (outbox, stream) = mpsc::channel(64);
        dispatch
            .join(Stream {
                session: SESSION,
                incarnation: Incarnation(Uuid::from_u128(2)),
                outbox,
                counter: Arc::default(),
                ending: Arc::default(),
            })
            .await;
        Self::wants(&dispatch, free).await;
        Self {
            store,
            dispatch,
            stream,
            draining,
            dispatcher,
            _tasks: tasks,
        }
    }

    /// Of a worker that has seen no grant yet.
    async fn wants(dispatch: &Dispatch, free: u32) {
        let credit = CreditOf {
            queue: queue(),
            free,
            last_grant_seq: 0,
        };
        dispatch.credits(SESSION, vec![credit]).await;
    }

    async fn handover(dispatch: &Dispatch) -> Handover {
        let entering = async {
            loop {
                // As soon as the store has said that it has nothing.
                if let Some(handover) = dispatch.entering(vec![queue()]).await {
                    return handover;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, entering).await.expect("somebody waits")
    }

    /// Jobs of the next messages, so many of them.
    async fn granted(&mut self, count: usize) {
        let mut jobs = 0;
        while jobs < count {
            let next = timeout(PATIENCE, self.stream.recv()).await.expect("in time");
            let message = next
                .expect("the dispatcher runs")
                .expect("no fault")
                .message
                .expect("one");
            if let v1::lease_response::Message::Grants(grants) = message {
                jobs += grants.grants.len();
            }
        }
        assert_eq!(jobs, count);
    }

    async fn stats(&self) -> QueueStats {
        let stats = self.store.stats(vec![queue()]).await.remove(0);
        stats.expect("memory answers").expect("the queue exists")
    }
}

#[tokio::test]
async fn a_submitter_that_vanishes_gives_back_what_it_had_reserved() {
    let mut world = World::waiting(2).await;
    let (told, is_asked) = oneshot::channel();
    let dispatch = world.dispatch.clone();
    let submitter = tokio::spawn(async move {
        let handover = World::handover(&dispatch).await;
        assert_eq!(handover.requests()[0].wants[0].max, 2);
        told.send(()).expect("the test waits");
        std::future::pending::<()>().await;
        drop(handover);
    });
    is_asked.await.expect("it asks");
    submitter.abort();
    // All of the worker's credit is there for who comes next.
    let submitted = world.store.submit(vec![job(), job()]).await;
    assert!(submitted.iter().all(Result::is_ok));
    world.granted(2).await;
    world.ends().await;
}

#[tokio::test]
async fn a_drain_waits_for_a_handover_and_hands_it_back() {
    let world = World::waiting(1).await;
    let handover = World::handover(&world.dispatch).await;
    let (submitted, grants) = world
        .store
        .submit_and_lease(vec![job()], handover.requests())
        .await;
    assert!(submitted[0].is_ok() && grants[0].as_ref().is_ok_and(|grants| grants.grants.len() == 1));
    world.draining.cancel();
    sleep(Duration::from_millis(100)).await;
    assert!(!world.dispatcher.is_finished());
    assert_eq!(world.stats().await.running, 1);
    handover.done(grants);
    let store = world.store.clone();
    timeout(PATIENCE, world.dispatcher)
        .await
        .expect("it ends")
        .expect("in order");
    let stats = store.stats(vec![queue()]).await.remove(0);
    let stats = stats.expect("memory answers").expect("the queue exists");
    assert_eq!((stats.running, stats.ready), (0, 1));
}

#[tokio::test]
async fn answers_that_overtake_each_other_are_no_clock_that_went_back() {
    let mut world = World::waiting(2).await;
    let handover = World::handover(&world.dispatch).await;
    let (_, slow) = world
        .store
        .submit_and_lease(vec![job()], handover.requests())
        .await;
    // Asked later and answered earlier, by a later clock.
    sleep(Duration::from_millis(20)).await;
    World::wants(&world.dispatch, 3).await;
    assert!(world.store.submit(vec![job()]).await[0].is_ok());
    world.granted(1).await;
    handover.done(slow);
    world.granted(1).await;
    assert_eq!(world.stats().await.running, 2);
    world.ends().await;
}

#[tokio::test]
async fn a_clock_that_went_back_holds_for_all_that_was_in_flight() {
    let mut world = World::waiting(3).await;
    let early = World::handover(&world.dispatch).await;
    let (_, slow) = world.store.submit_and_lease(vec![job()], early.requests()).await;
    sleep(Duration::from_millis(20)).await;
    World::wants(&world.dispatch, 5).await;
    assert!(world.store.submit(vec![job()]).await[0].is_ok());
    world.granted(1).await;
    let late = World::handover(&world.dispatch).await;
    let (_, mut rewound) = world.store.submit_and_lease(vec![job()], late.requests()).await;
    rewound[0].as_mut().expect("memory answers").clock_ms = 1;
    late.done(rewound);
    // Nobody had seen a clock when it was asked for.
    early.done(slow);
    let handed_back = async {
        while world.stats().await.ready < 2 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, handed_back).await.expect("both go back");
    assert_eq!(world.stats().await.running, 1);
    world.ends().await;
}
