//! The programs of `examples/` do what they say, with a real router and worker.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tidegate_protocol::v1::JobState;
use tidegate_tests::{
    Process, Router, RouterOptions, START_TIMEOUT, Sandbox, WorkerOptions, WorkerProc, eventually,
};

use crate::{
    delivery::{PATIENCE, exec_worker, finished, job, policies, result, submit},
    producer::queue_stats,
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER_SECRET: &str = "whsec_b3RoZXIgb3RoZXIgb3RoZXIgb3RoZXIgb3RoZXI=";
const SOON: &str = "[queues.email]\nretry = { max_attempts = 3, backoff_base = \"20ms\" }\n";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Starts an example app on a free port and gives its URL.
async fn app(sandbox: &Sandbox, program: &str, file: &str, secrets: &str) -> String {
    let mut command = Command::new(program);
    command
        .arg(repository().join("examples").join(file))
        .arg("0")
        .env("WEBHOOK_SECRET", secrets);
    let process = Process::start(sandbox, command);
    let line = process.wait_for_line("listening on ", START_TIMEOUT).await;
    line.trim_start_matches("listening on ").to_owned()
}

async fn worker(sandbox: &Sandbox, router: &Router, app: &str, queue: &str, secrets: &str) -> WorkerProc {
    let options = WorkerOptions {
        env: vec![("TIDEGATE_WORKER__HTTP__SECRETS".to_owned(), secrets.to_owned())],
        ..WorkerOptions::default()
    };
    WorkerProc::start(sandbox, &[router.grpc_url()], app, &[queue], options).await
}

#[tokio::test]
async fn python_http_answers_retries_calls_back_and_checks_signatures() {
    let sandbox = Sandbox::new();
    let router = Router::start(&sandbox, "memory:", policies(SOON)).await;
    // The app still knows the old secret, the worker already signs with the new one, too.
    let app = app(&sandbox, "python3", "python-http/app.py", SECRET).await;
    let secrets = format!("{OTHER_SECRET},{SECRET}");
    let _worker = worker(&sandbox, &router, &app, "email", &secrets).await;

    let plain = submit(&router, "email", r#"{"to":"ada"}"#, |_| {}).await;
    let busy = submit(&router, "email", r#"{"to":"bob","busy":true}"#, |_| {}).await;
    let failing = submit(&router, "email", r#"{"to":"eve","fail":1}"#, |_| {}).await;
    let later = submit(&router, "email", r#"{"to":"zoe","seconds":0.3}"#, |_| {}).await;
    let wrong = submit(&router, "email", r#"{"two":2}"#, |_| {}).await;
    let expected = format!(r#"{{"to": "ada", "attempt": 1, "job": "{plain}"}}"#);
    assert_eq!(result(&router, &plain).await, expected);
    assert!(result(&router, &failing).await.contains(r#""attempt": 2"#));
    assert_eq!(result(&router, &later).await, r#"{"to": "zoe", "later": true}"#);
    let wrong = finished(&router, &wrong).await;
    assert_eq!((wrong.state(), wrong.reason.as_str()), (JobState::Dead, "FAILED"));
    // Told to wait a second, again and again: an attempt that was throttled is not used up.
    let throttled = async || {
        let job = queue_stats(&router.grpc_url(), "email").await?;
        (job.scheduled == 1).then_some(())
    };
    eventually(PATIENCE, format!("the second turn of {busy}"), throttled).await;
}

#[tokio::test]
async fn python_http_takes_nothing_that_is_not_signed() {
    let sandbox = Sandbox::new();
    let router = Router::start(&sandbox, "memory:", policies(SOON)).await;
    let app = app(&sandbox, "python3", "python-http/app.py", SECRET).await;
    let _worker = worker(&sandbox, &router, &app, "email", OTHER_SECRET).await;
    let id = submit(&router, "email", r#"{"to":"ada"}"#, |_| {}).await;
    let job = finished(&router, &id).await;
    assert_eq!(job.state(), JobState::Dead, "{job:?}");
    assert!(job.error.contains("401"), "{job:?}");
}

#[tokio::test]
async fn node_http_answers_what_is_signed() {
    let sandbox = Sandbox::new();
    let router = Router::start(&sandbox, "memory:", RouterOptions::default()).await;
    let app = app(&sandbox, "node", "node-http/app.mjs", SECRET).await;
    let signing = worker(&sandbox, &router, &app, "thumbnails", SECRET).await;
    let id = submit(&router, "thumbnails", r#"{"width":200}"#, |_| {}).await;
    assert_eq!(
        result(&router, &id).await,
        r#"{"width":200,"height":400,"attempt":1}"#
    );
    let wrong = submit(&router, "thumbnails", "{}", |_| {}).await;
    assert_eq!(finished(&router, &wrong).await.state(), JobState::Dead);
    signing.process.sigterm();
    signing.process.wait_exit(PATIENCE).await;

    let _forging = worker(&sandbox, &router, &app, "thumbnails", OTHER_SECRET).await;
    let id = submit(&router, "thumbnails", r#"{"width":200}"#, |_| {}).await;
    assert!(finished(&router, &id).await.error.contains("401"));
}

#[tokio::test]
async fn a_shell_script_is_a_job() {
    let sandbox = Sandbox::new();
    let router = Router::start(&sandbox, "memory:", policies(&SOON.replace("email", "words"))).await;
    let script = repository().join("examples/shell-exec/words.sh");
    let script = script.to_str().expect("a plain path");
    let args = ["--queue", "words", "--exec-memory", "64MiB", "--exec", script];
    let _worker = exec_worker(&sandbox, &router, &args).await;
    let id = submit(&router, "words", "to be or not", |_| {}).await;
    let expected = "{\"words\": 4, \"queue\": \"words\", \"attempt\": 1}\n";
    assert_eq!(result(&router, &id).await, expected);
    let busy = submit(&router, "words", "busy", |_| {}).await;
    assert!(result(&router, &busy).await.contains("\"attempt\": 2"));
    let empty = submit(&router, "words", "", |_| {}).await;
    let job = finished(&router, &empty).await;
    assert_eq!((job.state(), job.reason.as_str()), (JobState::Dead, "INVALID"));
    assert_eq!(job.error, "exit code 65: the payload is empty");
}

/// The packages of the example in an environment of their own, made once; and the generated code beside it.
fn python_grpc() -> (PathBuf, PathBuf) {
    let example = repository().join("examples/python-grpc");
    let requirements = std::fs::read_to_string(example.join("requirements.txt")).expect("it is there");
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-grpc");
    let (python, generated) = (home.join("venv/bin/python"), home.join("gen"));
    let complete = home.join("complete");
    if std::fs::read_to_string(&complete).is_ok_and(|made| made == requirements) {
        return (python, generated);
    }
    let _ = std::fs::remove_dir_all(&home);
    std::fs::create_dir_all(&generated).expect("a directory under target");
    let run = |what: &str, command: &mut Command| {
        let output = command.output().unwrap_or_else(|error| panic!("{what}: {error}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{what}:\n{said}");
    };
    run(
        "a virtual environment was not made; on Debian: apt-get install python3-venv",
        Command::new("python3")
            .args(["-m", "venv"])
            .arg(home.join("venv")),
    );
    let requirements_file = example.join("requirements.txt");
    run(
        "the packages of examples/python-grpc/requirements.txt were not installed; pip needs a package index \
         that it can reach",
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"])
            .args(["--only-binary", ":all:", "--requirement"])
            .arg(&requirements_file),
    );
    let proto = repository().join("proto");
    run(
        "protoc failed",
        Command::new(&python)
            .args(["-m", "grpc_tools.protoc", "-I"])
            .arg(&proto)
            .arg(format!("--python_out={}", generated.display()))
            .arg(format!("--grpc_python_out={}", generated.display()))
            .args(["common", "lease"].map(|name| proto.join(format!("tidegate/v1/{name}.proto")))),
    );
    std::fs::write(&complete, requirements).expect("written");
    (python, generated)
}

fn python_worker(sandbox: &Sandbox, routers: &[&Router]) -> Process {
    let (python, generated) = python_grpc();
    let mut command = Command::new(python);
    command
        .arg(repository().join("examples/python-grpc/worker.py"))
        .args(["--queue", "report", "--slots", "4"])
        .env("PYTHONPATH", generated);
    for router in routers {
        command.args(["--router", router.grpc_url().trim_start_matches("http://")]);
    }
    Process::start(sandbox, command)
}

/// Leases of a second, jobs of three: without renewals they would be lost. Then one router goes away for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_in_python_speaks_the_protocol() {
    let sandbox = Sandbox::new();
    let redis = tidegate_tests::Redis::start(&sandbox, tidegate_tests::RedisOptions::default()).await;
    let policy = "[queues.report]\nlease_ttl = \"2s\"\ntimeout = \"8s\"\nretry = { max_attempts = 3, backoff_base = \"20ms\" }\n";
    let first = Router::start(&sandbox, &redis.url(), policies(policy)).await;
    let process = python_worker(&sandbox, &[&first]);
    process.wait_for_line("ready router=", START_TIMEOUT).await;

    let numbers = |n: u32| format!("{{\"numbers\": [1, {n}]}}");
    let mut quick = Vec::new();
    for n in 0..20 {
        quick.push(submit(&first, "report", &numbers(n), |_| {}).await);
    }
    for (n, id) in quick.iter().enumerate() {
        assert_eq!(
            result(&first, id).await,
            format!("{{\"sum\": {}, \"attempt\": 1}}", n + 1)
        );
    }
    let failing = submit(&first, "report", &numbers(1), |job| {
        job.headers.insert("fail-once".to_owned(), "1".to_owned());
    })
    .await;
    assert_eq!(result(&first, &failing).await, "{\"sum\": 2, \"attempt\": 2}");
    let wrong = submit(&first, "report", "[]", |_| {}).await;
    assert_eq!(finished(&first, &wrong).await.reason, "INVALID");

    let slow = |job: &mut tidegate_protocol::v1::NewJob| {
        job.headers.insert("seconds".to_owned(), "5".to_owned());
    };
    let renewed = submit(&first, "report", &numbers(2), slow).await;
    eventually(PATIENCE, "the slow job to run", async || {
        let queue = queue_stats(&first.grpc_url(), "report").await?;
        (queue.running == 1).then_some(())
    })
    .await;
    // The router is killed under it and comes back: the worker reclaims its lease, and nothing starts twice.
    let fence = job(&first, &renewed).await.expect("it is there").fence;
    let listen = Some(first.grpc_address());
    first.process.kill9();
    first.process.wait_exit(PATIENCE).await;
    let second = Router::start(
        &sandbox,
        &redis.url(),
        RouterOptions {
            listen,
            ..policies(policy)
        },
    )
    .await;
    assert_eq!(result(&second, &renewed).await, "{\"sum\": 3, \"attempt\": 1}");
    let job = job(&second, &renewed).await.expect("it is there");
    assert_eq!((job.fence, job.losses), (fence, 0));

    // SIGTERM: what runs is finished and settled.
    let last = submit(&second, "report", &numbers(3), |job| {
        job.headers.insert("seconds".to_owned(), "1".to_owned());
    })
    .await;
    eventually(PATIENCE, "the last job to run", async || {
        let queue = queue_stats(&second.grpc_url(), "report").await?;
        (queue.running == 1).then_some(())
    })
    .await;
    process.sigterm();
    assert_eq!(
        process.wait_exit(Duration::from_secs(15)).await,
        0,
        "{}",
        process.tail()
    );
    assert_eq!(result(&second, &last).await, "{\"sum\": 4, \"attempt\": 1}");
}
