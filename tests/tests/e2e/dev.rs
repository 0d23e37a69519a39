//! What a newcomer types first.

use std::time::Duration;

use tidegate_tests::{Dev, DevOptions, Process, Sandbox, eventually};

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

    // Router and worker are attached to its controller, which says why the queue runs as it does.
    let controller = dev.controller_url();
    eventually(
        Duration::from_secs(30),
        "a decision about the queue",
        async || {
            let (code, out) = cli(
                &sandbox,
                &["control", "status", "-o", "json", "--controller", &controller],
            )
            .await;
            assert_eq!(code, 0, "{out}");
            let status: serde_json::Value = serde_json::from_str(&out).ok()?;
            let roles: Vec<_> = status["nodes"]
                .as_array()?
                .iter()
                .map(|node| node["role"].clone())
                .collect();
            let decided = status["decisions"]
                .as_array()?
                .iter()
                .any(|decision| decision["queue"] == "email");
            (roles.len() == 2 && decided).then_some(())
        },
    )
    .await;

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
    // Caps of the process before are in force; this one takes them over at once.
    let controller = dev.controller_url();
    eventually(Duration::from_secs(10), "it leads", async || {
        let (_, out) = cli(
            &sandbox,
            &["control", "status", "-o", "json", "--controller", &controller],
        )
        .await;
        let status: serde_json::Value = serde_json::from_str(&out).ok()?;
        (status["leader"] == true).then_some(())
    })
    .await;
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
