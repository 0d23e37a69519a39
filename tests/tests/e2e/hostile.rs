//! Apps that mean harm, or are broken: refused or cut, counted, and tried again by rule.

use std::net::SocketAddr;
use std::time::Duration;

use tidegate_protocol::v1::{Job, JobState};
use tidegate_tests::{Answer, App, Router, Sandbox, WorkerOptions, WorkerProc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::delivery::{finished, policies, submit};

const POLICY: &str =
    "[queues.email]\ntimeout = \"1s\"\nretry = { max_attempts = 2, backoff_base = \"20ms\" }\n";

/// Does with each request what its payload says; one request a connection.
async fn app(listener: TcpListener) {
    let mut all = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        all.spawn(answer(stream));
    }
}

async fn answer(mut stream: TcpStream) -> Option<()> {
    let mut request = vec![0; 64 * 1024];
    let mut length = 0;
    // Head and body come together or one after the other.
    while !request[..length].ends_with(b"!") {
        length += stream
            .read(&mut request[length..])
            .await
            .ok()
            .filter(|read| *read > 0)?;
    }
    let request = String::from_utf8_lossy(&request[..length]).into_owned();
    let what = request.rsplit("\r\n\r\n").next()?;
    match what {
        "redirect!" => {
            let head = "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/latest/meta-data/\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(head.as_bytes()).await.ok()?;
        }
        "status!" => stream.write_all(b"HTTP/1.1 20x Fine\r\n\r\n").await.ok()?,
        "drip!" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.ok()?;
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        "gigabyte!" => {
            let head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n";
            stream.write_all(head).await.ok()?;
            let chunk = vec![b'x'; 1 << 20];
            for _ in 0..1_000 {
                stream.write_all(&chunk).await.ok()?;
            }
        }
        _ => stream
            .write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nfine")
            .await
            .ok()?,
    }
    // Held open: whoever waits for its end waits long.
    tokio::time::sleep(Duration::from_secs(60)).await;
    Some(())
}

fn ended(job: &Job) -> (JobState, &str, u32) {
    (job.state(), job.reason.as_str(), job.attempts)
}

#[tokio::test]
async fn hostile_answers_cost_their_own_job_and_nothing_else() {
    let sandbox = Sandbox::new();
    let router = Router::start(&sandbox, "memory:", policies(POLICY)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let mut apps = JoinSet::new();
    apps.spawn(app(listener));
    let worker = WorkerProc::start(
        &sandbox,
        &[router.grpc_url()],
        &url,
        &["email"],
        WorkerOptions::default(),
    )
    .await;
    let before_kb = worker.process.rss_kb();

    let mut ids = Vec::new();
    for what in ["redirect!", "status!", "drip!", "gigabyte!", "good!"] {
        ids.push(submit(&router, "email", what, |_| {}).await);
    }
    let good = finished(&router, &ids[4]).await;
    assert_eq!(
        (good.state(), &good.result[..]),
        (JobState::Succeeded, &b"fine"[..])
    );
    let redirect = finished(&router, &ids[0]).await;
    assert_eq!(ended(&redirect), (JobState::Dead, "FAILED", 1), "{redirect:?}");
    for id in &ids[1..3] {
        let job = finished(&router, id).await;
        assert_eq!(ended(&job), (JobState::Dead, "ATTEMPTS_EXHAUSTED", 2), "{job:?}");
    }
    let gigabyte = finished(&router, &ids[3]).await;
    assert_eq!(
        (gigabyte.state(), gigabyte.result.len()),
        (JobState::Succeeded, 64 * 1024)
    );
    let grown_kb = worker.process.rss_kb().saturating_sub(before_kb);
    assert!(grown_kb < 32 * 1024, "{grown_kb} KiB");
    let metrics = worker.metrics().await;
    for series in [
        r#"tidegate_deliveries_total{delivery="http",result="redirect"} 1"#,
        r#"tidegate_deliveries_total{delivery="http",result="not_http"} 2"#,
        r#"tidegate_deliveries_total{delivery="http",result="succeeded"} 2"#,
        r#"tidegate_delivery_results_cut_total{delivery="http"} 1"#,
        r#"tidegate_job_run_duration_seconds_count{outcome="stopped",queue="email"} 2"#,
    ] {
        assert!(metrics.contains(series), "{series} in {metrics}");
    }
}

/// `127.1` is no address to a program that looks for one in the text, and one to the system's resolver.
#[tokio::test]
async fn a_name_that_leads_to_loopback_is_not_connected_to() {
    let sandbox = Sandbox::new();
    let router = Router::start(&sandbox, "memory:", policies(POLICY)).await;
    let app = App::start(|_| Answer::ok());
    let SocketAddr::V4(address) = app.address() else {
        panic!("it is IPv4")
    };
    let url = format!("http://127.1:{}/", address.port());
    let options = |args: &[&str]| WorkerOptions {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        ..WorkerOptions::default()
    };
    let routers = [router.grpc_url()];
    let worker = WorkerProc::start(&sandbox, &routers, &url, &["email"], options(&[])).await;
    let id = submit(&router, "email", "{}", |_| {}).await;
    let job = finished(&router, &id).await;
    assert!(
        job.error.contains("loopback") && job.error.contains("--app-allow"),
        "{job:?}"
    );
    assert_eq!(app.deliveries().len(), 0);
    let refused = r#"tidegate_deliveries_total{delivery="http",result="address_refused"} 2"#;
    let metrics = worker.metrics().await;
    assert!(metrics.contains(refused), "{metrics}");
    worker.process.sigterm();
    worker.process.wait_exit(Duration::from_secs(30)).await;

    let allowing = options(&["--app-allow", "127.1"]);
    let _worker = WorkerProc::start(&sandbox, &routers, &url, &["email"], allowing).await;
    let id = submit(&router, "email", "{}", |_| {}).await;
    assert_eq!(finished(&router, &id).await.state(), JobState::Succeeded);
}
