//! Who is refused before the store is asked, and what a refused caller is told.

use std::sync::Arc;

use tidegate_protocol::{domain::Policy, reason as why, v1, v1::attach_response::Message as Down};
use tidegate_router::RouterConfig;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use super::{
    controller::{Controller, Node, version},
    harness::*,
};

async fn submit(server: &Server, queue: &str, caller: Option<&str>) -> Result<(), Status> {
    let mut request = Request::new(v1::SubmitJobRequest {
        job: Some(new_job(queue)),
    });
    if let Some(caller) = caller {
        let metadata = request.metadata_mut();
        metadata.insert("tidegate-caller", caller.parse().unwrap());
    }
    server.jobs().submit_job(request).await.map(drop)
}

/// A router that has read these policies.
async fn with_policy(queue: &str, change: impl FnOnce(&mut Policy)) -> Server {
    let store = Arc::<Faulty>::default();
    store.policy(queue, change).await;
    Server::on(store).await
}

fn assert_pushback(status: &Status, reason_expected: &str, subject: &str) {
    assert_eq!(
        (status.code(), reason(status).as_str()),
        (Code::ResourceExhausted, reason_expected)
    );
    let details = status.get_error_details();
    assert_eq!(details.quota_failure().unwrap().violations[0].subject, subject);
    let delay = details.retry_info().unwrap().retry_delay.unwrap();
    let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap();
    assert_eq!(pushback.to_str().unwrap(), delay.as_millis().to_string());
    assert!(delay.as_millis() > 0);
}

#[tokio::test]
async fn a_queue_takes_its_rate_and_refuses_the_rest_of_a_batch_item_by_item() {
    let server = with_policy("email", |policy| {
        (policy.submit_rate, policy.submit_burst) = (1, 5);
    })
    .await;
    let request = v1::SubmitJobsRequest {
        jobs: vec![new_job("email"); 50],
    };
    let answer = server.jobs().submit_jobs(request).await.unwrap().into_inner();
    let mut taken = 0;
    for item in answer.items {
        match item.result.unwrap() {
            v1::submit_jobs_response::item::Result::Job(_) => taken += 1,
            v1::submit_jobs_response::item::Result::Error(error) => {
                assert_eq!(error.reason, why::RATE_LIMITED);
                assert_eq!(error.metadata["limit"], "submit_rate");
                assert!(error.retry_after_ms > 0);
            }
        }
    }
    assert!((5..=8).contains(&taken), "{taken} taken");
    let status = submit(&server, "email", None).await.unwrap_err();
    assert_pushback(&status, why::RATE_LIMITED, "queue:email");
    submit(&server, "other", None).await.unwrap();
    let text = server.metrics.render();
    let line = format!(
        r#"tidegate_rejections_total{{queue="email",reason="RATE_LIMITED"}} {}"#,
        51 - taken
    );
    assert!(text.contains(&line), "{line} is not in\n{text}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_greedy_caller_does_not_use_up_what_is_for_others() {
    let server = with_policy("email", |policy| {
        (policy.caller_rate, policy.caller_burst) = (1, 3);
    })
    .await;
    let mut taken = 0;
    for _ in 0..30 {
        match submit(&server, "email", Some("greedy")).await {
            Ok(()) => taken += 1,
            Err(status) => assert_pushback(&status, why::RATE_LIMITED, "queue:email"),
        }
    }
    assert!((3..=10).contains(&taken), "{taken} taken");
    submit(&server, "email", Some("modest")).await.unwrap();
    submit(&server, "email", None).await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test]
async fn max_running_refuses_while_it_is_reached() {
    let server = with_policy("email", |policy| policy.max_running = 2).await;
    server.submit_many("email", 3).await;
    let mut worker = server.worker(&["email"]).await;
    let grants = worker.take("email", 2).await;
    // By the router's next look at the store.
    eventually("submits are refused", async || {
        submit(&server, "email", None).await.is_err()
    })
    .await;
    let status = submit(&server, "email", None).await.unwrap_err();
    assert_pushback(&status, why::MAX_RUNNING, "queue:email");
    worker
        .settle(vec![settlement(lease_of(&grants[0]), success())])
        .await;
    eventually("submits are taken", async || {
        submit(&server, "email", None).await.is_ok()
    })
    .await;
    server.stop().await.unwrap();
}

async fn attached(controller: &mut Controller) -> (Server, Node) {
    let config = RouterConfig {
        controllers: vec![controller.address.clone()],
        ..RouterConfig::default()
    };
    let server = Server::with(Arc::default(), config).await;
    let (node, _) = controller.welcome("a", 1).await;
    (server, node)
}

fn gates(generation: u64, ttl_ms: u64, gates: Vec<v1::Gate>) -> Down {
    Down::Gates(v1::Gates {
        version: version(1, generation),
        gates,
        ttl_ms,
        routers: 1,
    })
}

fn gate(queue: &str, refuse_probability: f64, reason: &str) -> v1::Gate {
    let state = if refuse_probability < 1.0 {
        v1::GateState::Shedding
    } else {
        v1::GateState::Closed
    };
    v1::Gate {
        queue: queue.into(),
        state: state.into(),
        refuse_probability,
        retry_after_ms: 2_000,
        reason: reason.into(),
    }
}

#[tokio::test]
async fn gates_of_the_controller_are_obeyed_until_they_run_out() {
    let mut controller = Controller::start().await;
    let (server, node) = attached(&mut controller).await;
    let all = vec![
        gate("shut", 1.0, why::WAIT_TOO_LONG),
        gate("half", 0.5, why::WAIT_TOO_LONG),
        gate("down", 1.0, why::DOWNSTREAM_DOWN),
    ];
    node.send(gates(1, 60_000, all)).await;
    eventually("the gate is closed", async || {
        submit(&server, "shut", None).await.is_err()
    })
    .await;
    let status = submit(&server, "shut", None).await.unwrap_err();
    assert_pushback(&status, why::WAIT_TOO_LONG, "queue:shut");
    let delay = status
        .get_error_details()
        .retry_info()
        .unwrap()
        .retry_delay
        .unwrap();
    assert!((2_000..=3_000).contains(&delay.as_millis()), "{delay:?}");

    let status = submit(&server, "down", None).await.unwrap_err();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::Unavailable, why::DOWNSTREAM_DOWN)
    );
    assert!(status.get_error_details().retry_info().is_some());

    let mut taken = 0;
    for _ in 0..200 {
        taken += usize::from(submit(&server, "half", None).await.is_ok());
    }
    assert!((60..=140).contains(&taken), "{taken} of 200 taken at one half");

    // The whole state is replaced, and it does not outlive its time.
    node.send(gates(2, 400, vec![gate("half", 1.0, why::WAIT_TOO_LONG)]))
        .await;
    eventually("the other gate is open", async || {
        submit(&server, "shut", None).await.is_ok()
    })
    .await;
    eventually("this one opens by itself", async || {
        submit(&server, "half", None).await.is_ok()
    })
    .await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn the_controller_is_told_what_its_gate_refused_apart_from_what_limits_did() {
    let mut controller = Controller::start().await;
    let store = Arc::<Faulty>::default();
    store.policy("limited", |policy| policy.submit_rate = 1).await;
    let config = RouterConfig {
        controllers: vec![controller.address.clone()],
        ..RouterConfig::default()
    };
    let server = Server::with(store, config).await;
    let (mut node, _) = controller.welcome("a", 1).await;
    let shut = gate("shut", 1.0, why::WAIT_TOO_LONG);
    node.send(gates(1, 60_000, vec![shut])).await;
    eventually("both refuse", async || {
        let refused = [
            submit(&server, "shut", None).await,
            submit(&server, "limited", None).await,
        ];
        refused.iter().all(Result::is_err)
    })
    .await;
    let (mut shut, mut limited) = ((0, 0), (0, 0));
    while shut.0 == 0 || limited.0 == 0 {
        for queue in node.report().await.queues {
            let sum = if queue.queue == "shut" {
                &mut shut
            } else {
                &mut limited
            };
            (sum.0, sum.1) = (sum.0 + queue.refused, sum.1 + queue.gated);
        }
    }
    assert_eq!((shut.0, limited.1), (shut.1, 0));
    server.stop().await.unwrap();
}
