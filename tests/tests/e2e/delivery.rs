//! Delivery by the real worker process: to a command, and to an app that calls back.

use std::time::Duration;

use tidegate_protocol::v1::{GetJobRequest, Job, JobState, NewJob, job_service_client::JobServiceClient};
use tidegate_tests::{
    Answer, App, Process, Router, RouterOptions, START_TIMEOUT, Sandbox, WorkerOptions, WorkerProc,
    eventually,
};

use crate::producer::{new_job, try_batch};

pub const PATIENCE: Duration = Duration::from_secs(30);

/// Submits one job and gives its id.
pub async fn submit(router: &Router, queue: &str, payload: &str, change: impl FnOnce(&mut NewJob)) -> String {
    let mut job = NewJob {
        want_result: true,
        ..new_job(queue, payload.to_owned())
    };
    change(&mut job);
    let ids = try_batch(router.grpc_url(), &[job]).await;
    ids.expect("it is taken").remove(0)
}

/// The job as it is now; `None` while the router does not answer.
pub async fn job(router: &Router, id: &str) -> Option<Job> {
    let mut client = JobServiceClient::connect(router.grpc_url()).await.ok()?;
    let request = GetJobRequest {
        job_id: id.to_owned(),
    };
    client.get_job(request).await.ok()?.into_inner().job
}

/// The job in its last state.
pub async fn finished(router: &Router, id: &str) -> Job {
    let ended = [
        JobState::Succeeded,
        JobState::Dead,
        JobState::Cancelled,
        JobState::Expired,
    ];
    eventually(PATIENCE, format!("the end of job {id}"), async || {
        job(router, id).await.filter(|job| ended.contains(&job.state()))
    })
    .await
}

/// The result of a job that must succeed.
pub async fn result(router: &Router, id: &str) -> String {
    let job = finished(router, id).await;
    assert_eq!(job.state(), JobState::Succeeded, "{job:?}");
    String::from_utf8(job.result.to_vec()).expect("a text")
}

/// A worker that runs a command; its last arguments are `--exec` and the command.
pub async fn exec_worker(sandbox: &Sandbox, router: &Router, args: &[&str]) -> Process {
    let url = router.grpc_url();
    let mut all = vec!["worker", "--metrics-listen", "127.0.0.1:0", "--router", &url];
    all.extend(args);
    let process = Process::tidegate(sandbox, all, &[]);
    process.wait_for_line("ready role=worker ", START_TIMEOUT).await;
    process
}

pub fn policies(text: &str) -> RouterOptions {
    RouterOptions {
        policies: Some(text.to_owned()),
        ..RouterOptions::default()
    }
}

/// Gone, or dead and not yet collected by whoever is in charge of it now.
fn gone(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

#[tokio::test]
async fn a_killed_worker_leaves_no_command_behind() {
    let sandbox = Sandbox::new();
    let router = Router::start(&sandbox, "memory:", RouterOptions::default()).await;
    let script = "sleep 1000 & echo $! >> pids; setsid sleep 1001 & echo $! >> pids; echo $$ >> pids; echo all >> pids; wait";
    let worker = exec_worker(
        &sandbox,
        &router,
        &["--queue", "email", "--exec", "sh", "-c", script],
    )
    .await;
    submit(&router, "email", "{}", |_| {}).await;
    let path = sandbox.path().join("pids");
    let pids = eventually(PATIENCE, "the command's processes", async || {
        let text = std::fs::read_to_string(&path).ok()?;
        text.strip_suffix("all\n").map(str::to_owned)
    })
    .await;
    assert_eq!(pids.split_whitespace().count(), 3);
    assert!(!pids.split_whitespace().any(gone), "they run: {pids}");
    worker.kill9();
    eventually(PATIENCE, format!("the end of {pids}"), async || {
        pids.split_whitespace().all(gone).then_some(())
    })
    .await;
}

/// One allocates, one computes, one hangs and ignores SIGTERM: each on its own, and the operator sees which.
#[tokio::test]
async fn commands_that_go_wrong_do_not_disturb_the_others() {
    let sandbox = Sandbox::new();
    let policy = "[queues.email]\ntimeout = \"5s\"\nretry = { max_attempts = 1 }\n";
    let router = Router::start(&sandbox, "memory:", policies(policy)).await;
    let script = "case $(cat) in \
        allocate) exec python3 -c 'x = []\nwhile True: x.append(bytearray(10_000_000))';; \
        compute) while :; do :; done;; \
        hang) trap '' TERM; while :; do sleep 0.1; done;; \
        *) echo fine;; esac";
    let limits = ["--exec-memory", "100MiB", "--exec-cpu", "1s"];
    let args = [
        &["--queue", "email", "--slots", "8"],
        &limits[..],
        &["--exec", "sh", "-c", script],
    ]
    .concat();
    let worker = exec_worker(&sandbox, &router, &args).await;
    let mut bad = Vec::new();
    for payload in ["allocate", "compute", "hang"] {
        bad.push(submit(&router, "email", payload, |_| {}).await);
    }
    for _ in 0..10 {
        let id = submit(&router, "email", "good", |_| {}).await;
        assert_eq!(result(&router, &id).await, "fine\n");
    }
    let hanging = job(&router, &bad[2]).await.expect("it is there");
    assert_eq!(hanging.state(), JobState::Running);
    for (id, error) in bad
        .iter()
        .zip(["MemoryError", "signal 24", "timed out after 5000 ms"])
    {
        let job = finished(&router, id).await;
        assert_eq!(job.state(), JobState::Dead);
        assert!(job.error.contains(error), "{job:?}");
        assert!(worker.stdout().contains(id), "{}", worker.stdout());
    }
}

/// Longer than a lease: the worker renews while the app works elsewhere.
#[tokio::test]
async fn an_app_that_answers_202_is_waited_for_and_calls_once() {
    let sandbox = Sandbox::new();
    let router = Router::start(
        &sandbox,
        "memory:",
        policies("[queues.email]\nlease_ttl = \"1s\"\n"),
    )
    .await;
    let app = App::start(|_| Answer::status(202));
    // Proxies of the environment are not used.
    let options = WorkerOptions {
        env: vec![("http_proxy".to_owned(), "http://127.0.0.1:9".to_owned())],
        ..WorkerOptions::default()
    };
    let worker = WorkerProc::start(&sandbox, &[router.grpc_url()], &app.url(), &["email"], options).await;
    let id = submit(&router, "email", "{}", |_| {}).await;
    let delivery = app.wait_for(1, PATIENCE).await.remove(0);
    let url = delivery
        .header("tidegate-callback")
        .expect("it says where to call")
        .to_owned();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let done = r#"{"outcome":"succeeded","result":{"n":1}}"#;
    assert_eq!(post(&url, done).await, 204);
    assert_eq!(result(&router, &id).await, r#"{"n":1}"#);
    assert_eq!(post(&url, done).await, 409, "a repeat");
    assert_eq!(
        post(
            &url.replace(&id, "email:0:00000000000000000000000000000001"),
            done
        )
        .await,
        403,
        "forged"
    );
    assert_eq!(app.deliveries().len(), 1, "no second attempt");
    let metrics = worker.metrics().await;
    for series in [
        r#"tidegate_callbacks_total{result="accepted"} 1"#,
        r#"tidegate_callbacks_total{result="replayed"} 1"#,
        r#"tidegate_callbacks_total{result="forged"} 1"#,
        r#"tidegate_deliveries_total{delivery="http",result="called_back"} 1"#,
    ] {
        assert!(metrics.contains(series), "{series} in {metrics}");
    }
}

async fn post(url: &str, body: &str) -> u16 {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (address, path) = url.trim_start_matches("http://").split_once('/').unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let request =
        format!("POST /{path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Where a secret could show: logs, metrics, errors, the printed configuration.
#[tokio::test]
async fn webhook_secrets_are_not_shown_anywhere() {
    const CANARY: &str = "Q0FOQVJZQ0FOQVJZQ0FOQVJZQ0FOQVJZQ0FOQVJZ";
    let sandbox = Sandbox::new();
    let router = Router::start(&sandbox, "memory:", RouterOptions::default()).await;
    let app = App::start(|_| Answer::ok());
    let secrets = sandbox.write("secrets", &format!("whsec_{CANARY}\n"));
    let env = vec![
        ("TIDEGATE_WORKER__HTTP__SECRETS_FILE".to_owned(), secrets.clone()),
        ("RUST_LOG".to_owned(), "trace".to_owned()),
    ];
    let options = WorkerOptions {
        env,
        ..WorkerOptions::default()
    };
    let worker = WorkerProc::start(&sandbox, &[router.grpc_url()], &app.url(), &["email"], options).await;
    let id = submit(&router, "email", "{}", |_| {}).await;
    finished(&router, &id).await;
    let delivery = app.wait_for(1, PATIENCE).await.remove(0);
    let signature = delivery
        .header("webhook-signature")
        .expect("it is signed")
        .to_owned();
    assert!(signature.starts_with("v1,"));
    let env = [("TIDEGATE_WORKER__HTTP__SECRETS_FILE", secrets.as_str())];
    let print = Process::tidegate(&sandbox, ["config", "print", "--origin"], &env);
    assert_eq!(print.wait_exit(PATIENCE).await, 0);
    assert!(
        print.stdout().contains("worker.http.secrets"),
        "{}",
        print.stdout()
    );
    let broken = [("TIDEGATE_WORKER__HTTP__SECRETS", "CANARY-that-is-no-secret")];
    let args = ["worker", "--app", "http://127.0.0.1:9/", "--queue", "a"];
    let broken = Process::tidegate(&sandbox, args, &broken);
    assert_eq!(broken.wait_exit(PATIENCE).await, 2);
    assert!(broken.stderr().contains("openssl rand"), "{}", broken.stderr());
    let shown = [
        worker.process.stdout(),
        worker.process.stderr(),
        worker.metrics().await,
        print.stdout(),
        print.stderr(),
        broken.stderr(),
        broken.stdout(),
    ];
    for text in shown {
        assert!(!text.contains("CANARY") && !text.contains(CANARY), "{text}");
    }
}
