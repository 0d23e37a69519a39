//! What a newcomer types first.

use std::time::Duration;

use tidegate_tests::{Dev, DevOptions, Process, Sandbox};

async fn cli(sandbox: &Sandbox, args: &[&str]) -> (i32, String) {
    let process = Process::tidegate(sandbox, args, &[]);
    let code = process.wait_exit(Duration::from_secs(30)).await;
    (code, process.stdout())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_command_delivers_a_job_and_survives_a_restart() {
    let sandbox = Sandbox::new();
    let db = sandbox.path().join("dev.db").display().to_string();
    let options = || DevOptions {
        db: Some(db.clone()),
        ..DevOptions::default()
    };
    let dev = Dev::start(&sandbox, options()).await;
    let url = dev.grpc_url();
    let (code, out) = cli(
        &sandbox,
        &["submit", "email", "{\"n\":1}", "--wait", "--endpoint", &url],
    )
    .await;
    assert_eq!(code, 0, "{out}\n{}", dev.process.tail());

    // A job for later outlives a kill -9.
    let args = [
        "submit",
        "email",
        "{\"n\":2}",
        "--delay",
        "1h",
        "-o",
        "json",
        "--endpoint",
        &url,
    ];
    let (code, out) = cli(&sandbox, &args).await;
    assert_eq!(code, 0, "{out}");
    dev.process.kill9();
    dev.process.wait_exit(Duration::from_secs(5)).await;
    let dev = Dev::start(&sandbox, options()).await;
    let args = [
        "queue",
        "get",
        "email",
        "-o",
        "json",
        "--endpoint",
        &dev.grpc_url(),
    ];
    let (code, out) = cli(&sandbox, &args).await;
    let queue: serde_json::Value =
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"));
    assert_eq!(code, 0);
    assert_eq!(queue["scheduled"], 1, "{out}");

    dev.process.sigterm();
    assert_eq!(dev.process.wait_exit(Duration::from_secs(30)).await, 0);
}
