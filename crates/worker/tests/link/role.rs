//! The role that delivers jobs to an app by HTTP, as a process would run it.

use std::sync::{Arc, Mutex};

use axum::{Router as App, routing::post};
use tidegate_chassis::{admin::Readiness, tasks::Tasks, telemetry::Metrics};
use tidegate_protocol::v1;
use tidegate_worker::{Host, Ready, WorkerConfig, run_on};
use tokio::{net::TcpListener, sync::oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    controller::Controller,
    in_time,
    router::{Router, job_id, kind},
};

#[tokio::test]
async fn jobs_reach_the_app_and_its_answers_the_router() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let see = Arc::clone(&seen);
    let app = App::new().route(
        "/jobs",
        post(move |headers: axum::http::HeaderMap, body: String| async move {
            see.lock()
                .unwrap()
                .push((headers["ce-id"].to_str().unwrap().to_owned(), body));
            "thanks"
        }),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/jobs", listener.local_addr().expect("bound"));
    let apps = Tasks::new(CancellationToken::new());
    apps.spawn("app", async move { axum::serve(listener, app).await });

    let mut router = Router::start();
    let config = WorkerConfig {
        routers: vec![router.address.clone()],
        app: url,
        queues: vec!["email".to_owned()],
        ..WorkerConfig::default()
    };
    let metrics = Metrics::for_test("tidegate-worker");
    let admin = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = admin.local_addr().expect("bound");
    let readiness = Readiness::new();
    let host = Host {
        admin: Some((admin, metrics.clone())),
        readiness: readiness.clone(),
    };
    let shutdown = CancellationToken::new();
    let (tell, told) = oneshot::channel::<Ready>();
    let roles = Tasks::new(shutdown.clone());
    let role = run_on(config, host, shutdown.clone(), |ready| {
        tell.send(ready).expect("the test waits")
    });
    roles.spawn("role", role);

    let (mut stream, _) = router.hello().await;
    assert!(!readiness.is_ready(), "no router has taken it in");
    stream
        .send(v1::lease_response::Message::Welcome(v1::Welcome::default()))
        .await;
    let ready = in_time(told).await.expect("ready");
    assert_eq!(ready.to_string(), format!("ready role=worker metrics={address}"));
    assert!(readiness.is_ready());
    stream.credit().await;
    stream.grant(1, "{\"to\":\"a\"}").await;
    let settled = stream.settled().await;
    assert_eq!(kind(&settled), "succeeded");
    assert_eq!(*seen.lock().unwrap(), [(job_id(1), "{\"to\":\"a\"}".to_owned())]);
    let text = metrics.render();
    for series in [
        "tidegate_job_run_duration_seconds_count{outcome=\"succeeded\",queue=\"email\"} 1",
        "tidegate_concurrency_target{queue=\"email\"} 64",
        "tidegate_worker_utilization_ratio{queue=\"email\"} 0",
    ] {
        assert!(text.contains(series), "{series} in {text}");
    }
    shutdown.cancel();
    drop(stream);
    in_time(roles.run()).await.expect("it ends well");
    assert!(!readiness.is_ready());
}

#[tokio::test]
async fn a_worker_that_the_controller_sends_home_ends_well() {
    let (mut router, mut controller) = (Router::start(), Controller::start());
    let config = WorkerConfig {
        routers: vec![router.address.clone()],
        controllers: vec![controller.address.clone()],
        name: "home".to_owned(),
        app: "http://127.0.0.1:1/".to_owned(),
        queues: vec!["email".to_owned()],
        ..WorkerConfig::default()
    };
    let metrics = Metrics::for_test("tidegate-worker");
    let host = Host {
        admin: Some((
            TcpListener::bind("127.0.0.1:0").await.expect("a free port"),
            metrics.clone(),
        )),
        readiness: Readiness::new(),
    };
    let process = CancellationToken::new();
    let role = Box::pin(run_on(config, host, process.clone(), |_| {}));
    let script = async {
        let (mut stream, _) = router.welcome().await;
        stream.credit().await;
        let (mut node, hello) = controller.welcome("a", 1).await;
        assert_eq!(hello.name, "home");
        node.report().await;
        assert!(metrics.render().contains("tidegate_controller_connected 1"));
        let command = Some(v1::command::Command::Drain(v1::Drain {}));
        node.send(v1::attach_response::Message::Command(v1::Command { command }))
            .await;
        stream
            .until(|message| matches!(message, v1::lease_request::Message::Bye(_)).then_some(()))
            .await;
    };
    let (ended, ()) = in_time(async { tokio::join!(role, script) }).await;
    ended.expect("it was told to");
    assert!(!process.is_cancelled(), "the process is not its to end");
}
