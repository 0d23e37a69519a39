//! KEDA's scaler, asked by a client made from its public contract.

use std::sync::{Arc, Mutex};

use tidegate_protocol::{
    externalscaler::{self as keda, external_scaler_client::ExternalScalerClient},
    v1::{self, attach_request::Message as Up},
};
use tokio::time::timeout;
use tonic::{Code, transport::Channel};

use super::harness::{Node, PATIENCE, Router, Server, Store, Stored, eventually, hello, reason};

fn object(queues: &str) -> keda::ScaledObjectRef {
    let metadata = [
        ("scalerAddress", "controller:7601"),
        ("queues", queues),
        ("slotsPerWorker", "10"),
    ];
    keda::ScaledObjectRef {
        name: "worker".into(),
        namespace: "default".into(),
        scaler_metadata: metadata
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
    }
}

struct Scaler(ExternalScalerClient<Channel>);

impl Scaler {
    fn of(server: &Server) -> Self {
        Self(ExternalScalerClient::new(server.channel.clone()))
    }

    async fn slots(&mut self, queues: &str) -> Result<i64, tonic::Status> {
        let request = keda::GetMetricsRequest {
            scaled_object_ref: Some(object(queues)),
            metric_name: "tidegate-slots".into(),
        };
        let values = self.0.get_metrics(request).await?.into_inner().metric_values;
        assert_eq!(
            (values.len(), values[0].metric_name.as_str()),
            (1, "tidegate-slots")
        );
        assert_eq!(values[0].metric_value_float, values[0].metric_value as f64);
        Ok(values[0].metric_value)
    }

    async fn is_active(&mut self, queues: &str) -> Result<bool, tonic::Status> {
        Ok(self.0.is_active(object(queues)).await?.into_inner().result)
    }
}

/// So much waits and runs.
fn store(queues: &[(&str, u64, u64)]) -> Arc<Mutex<Store>> {
    let queues = queues.iter().map(|(name, ready, running)| {
        let stored = Stored {
            ready: *ready,
            running: *running,
            ..Stored::default()
        };
        ((*name).to_owned(), stored)
    });
    let mut store = Store::default();
    store.queues.extend(queues);
    Arc::new(Mutex::new(store))
}

/// What a worker of ten slots reports while ten of its jobs of a second run.
fn worked() -> v1::Report {
    let mut run_time = tidegate_flow::histogram::Histogram::default();
    (0..40).for_each(|n| run_time.add(950.0 + f64::from(n % 10) * 10.0));
    let queue = v1::QueueReport {
        queue: "jobs".into(),
        run_time: Some(v1::Histogram {
            buckets: run_time.buckets().to_vec(),
            count: run_time.count(),
            sum_ms: run_time.sum_ms(),
            sum_squares_ms: run_time.sum_squares_ms(),
        }),
        mean_in_flight: 10.0,
        in_flight: 10,
        ..v1::QueueReport::default()
    };
    v1::Report {
        queues: vec![queue],
        slots: 10,
        ..v1::Report::default()
    }
}

#[tokio::test]
async fn a_fleet_grows_from_nothing_and_from_one_worker() {
    let server = Server::start("").await;
    let mut scaler = Scaler::of(&server);
    let router = Router::start(&server, store(&[("jobs", 1, 0), ("idle", 0, 0)])).await;
    eventually("the queues are decided about", async || {
        scaler.slots("jobs,idle").await.is_ok()
    })
    .await;
    assert!(
        scaler.is_active("jobs").await.unwrap(),
        "one waits and nobody is there"
    );
    assert!(!scaler.is_active("idle").await.unwrap());
    assert_eq!(
        scaler.slots("jobs").await.unwrap(),
        1,
        "one job needs one slot, as far as is known"
    );
    router.store.lock().unwrap().queues.get_mut("jobs").unwrap().ready = 500;
    eventually("more than one worker's slots are wanted", async || {
        scaler.slots("jobs").await.unwrap() > 10
    })
    .await;
    // One worker comes and works. 500 jobs of a second are to be done in ten: it is not enough.
    let worker = Node::attach(&server, hello(v1::NodeRole::Worker, &["jobs"], 10)).await;
    router
        .store
        .lock()
        .unwrap()
        .queues
        .get_mut("jobs")
        .unwrap()
        .running = 10;
    eventually("one worker does not limit what is wanted", async || {
        worker.say(Up::Report(worked())).await;
        router.cap("jobs") == 10 && (50..100).contains(&scaler.slots("jobs").await.unwrap())
    })
    .await;
    let spec = scaler
        .0
        .get_metric_spec(object("jobs"))
        .await
        .unwrap()
        .into_inner();
    let spec = &spec.metric_specs[0];
    assert_eq!(
        (
            spec.metric_name.as_str(),
            spec.target_size,
            spec.target_size_float
        ),
        ("tidegate-slots", 10, 10.0)
    );
    // The fleet goes home and three more jobs come.
    drop(worker);
    *router.store.lock().unwrap().queues.get_mut("jobs").unwrap() = Stored {
        ready: 3,
        ..Stored::default()
    };
    eventually("three jobs need three slots", async || {
        scaler.slots("jobs").await.unwrap() == 3
    })
    .await;
    // What runs is never less than what is said.
    router
        .store
        .lock()
        .unwrap()
        .queues
        .get_mut("idle")
        .unwrap()
        .running = 77;
    eventually("running counts", async || {
        scaler.slots("idle").await.unwrap() >= 77
    })
    .await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_number_that_is_not_of_now_is_an_error_and_never_zero() {
    let server = Server::start("").await;
    let mut scaler = Scaler::of(&server);
    let early = scaler.slots("jobs").await.unwrap_err();
    assert_eq!(
        (early.code(), reason(&early).as_str()),
        (Code::Unavailable, "NOT_LEADER"),
        "{early}"
    );
    let router = Router::start(&server, store(&[("jobs", 5, 0)])).await;
    eventually("it is known", async || scaler.slots("jobs").await.is_ok()).await;
    let nobody = scaler.slots("jobs,nobodys").await.unwrap_err();
    assert_eq!(
        (nobody.code(), reason(&nobody).as_str()),
        (Code::NotFound, "QUEUE_NOT_FOUND")
    );

    let mut active = scaler
        .0
        .stream_is_active(object("jobs"))
        .await
        .unwrap()
        .into_inner();
    let first = timeout(PATIENCE, active.message()).await.unwrap().unwrap();
    assert_eq!(first, Some(keda::IsActiveResponse { result: true }));
    router.kill();
    eventually("no router says what waits", async || {
        let stale = scaler.slots("jobs").await.err();
        stale.is_some_and(|stale| stale.code() == Code::Unavailable && reason(&stale) == "STALE")
    })
    .await;
    assert_eq!(
        scaler.is_active("jobs").await.unwrap_err().code(),
        Code::Unavailable
    );
    let end = timeout(PATIENCE, async {
        loop {
            if let Err(status) = active.message().await {
                return status;
            }
        }
    });
    assert_eq!(end.await.unwrap().code(), Code::Unavailable);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_controller_that_is_not_obeyed_says_so() {
    let server = Server::start("").await;
    let mut scaler = Scaler::of(&server);
    let _router = Router::start(&server, store(&[("jobs", 5, 0)])).await;
    eventually("it is known", async || scaler.slots("jobs").await.is_ok()).await;
    let mut node = Node::attach(&server, hello(v1::NodeRole::Worker, &[], 0)).await;
    node.next().await.unwrap();
    let refusal = v1::Refusal {
        obeyed: Some(v1::Version {
            epoch: 41,
            generation: 3,
        }),
        ledger_id: "other".into(),
        reason: "its caps are in force".into(),
    };
    let mut seen = false;
    for _ in 0..50 {
        node.say(Up::Refusal(refusal.clone())).await;
        let status = scaler.slots("jobs").await.err();
        seen |= status.is_some_and(|status| reason(&status) == "NOT_LEADER");
        if seen {
            break;
        }
        node = Node::attach(&server, hello(v1::NodeRole::Worker, &[], 0)).await;
        node.next().await.unwrap();
    }
    assert!(seen);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn metadata_that_means_nothing_is_refused_by_name() {
    let server = Server::start("").await;
    let mut scaler = Scaler::of(&server);
    let mut wrong = object("jobs");
    wrong.scaler_metadata.insert("slotPerWorker".into(), "5".into());
    let status = scaler.0.get_metric_spec(wrong).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(
        status
            .message()
            .starts_with("scalerMetadata.slotPerWorker: is not known"),
        "{status}"
    );
    server.stop().await.unwrap();
}
