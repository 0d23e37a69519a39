//! The role that delivers jobs to an app by HTTP, as a process would run it.

use std::sync::{Arc, Mutex};

use axum::{Router as App, routing::post};
use tidegate_chassis::{admin::Readiness, tasks::Tasks, telemetry::Metrics};
use tidegate_protocol::v1;
use tidegate_worker::{Host, Ready, WorkerConfig, run_on};
use tokio::{net::TcpListener, sync::oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
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
