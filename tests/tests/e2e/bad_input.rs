//! Bad input gets a clear error, the right exit code, and nothing is lost.

use std::time::Duration;

use tidegate_tests::{Process, Redis, RedisOptions, Router, RouterOptions, Sandbox, free_port};

/// Runs a command to its end: exit code and everything it said.
async fn fails(sandbox: &Sandbox, args: &[&str], code: i32, says: &str) {
    let process = Process::tidegate(sandbox, args, &[]);
    let got = process.wait_exit(Duration::from_secs(30)).await;
    let said = format!("{}{}", process.stdout(), process.stderr());
    assert_eq!(got, code, "{args:?} said: {said}");
    assert!(said.contains(says), "{args:?} should say {says:?}, said: {said}");
}

#[tokio::test]
async fn a_submit_that_cannot_be_is_refused_with_the_right_code() {
    let sandbox = Sandbox::new();
    let router = Router::start(&sandbox, "memory:", RouterOptions::default()).await;
    let url = router.grpc_url();
    fails(
        &sandbox,
        &["submit", "email", "{\"a\":", "--endpoint", &url],
        2,
        "JSON",
    )
    .await;
    fails(
        &sandbox,
        &["submit", "No Such Name", "{}", "--endpoint", &url],
        2,
        "a-z",
    )
    .await;
    let big = sandbox.write("big.json", &format!("\"{}\"", "x".repeat(300_000)));
    fails(
        &sandbox,
        &["submit", "email", "--file", &big, "--endpoint", &url],
        2,
        "256",
    )
    .await;
    fails(
        &sandbox,
        &["queue", "get", "nobody", "--endpoint", &url],
        3,
        "nobody",
    )
    .await;
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    fails(
        &sandbox,
        &["submit", "email", "{}", "--endpoint", &nowhere],
        5,
        "",
    )
    .await;
}

#[tokio::test]
async fn a_router_that_cannot_start_says_why() {
    let sandbox = Sandbox::new();
    let config = sandbox.write("typo.toml", "[router]\nlistn = \"127.0.0.1:0\"\n");
    let start = |rest: &[&str]| {
        let mut args = vec![
            "router",
            "--listen",
            "127.0.0.1:0",
            "--metrics-listen",
            "127.0.0.1:0",
        ];
        args.extend(rest);
        args.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let check = async |rest: &[&str], code: i32, says: &str| {
        let args = start(rest);
        fails(
            &sandbox,
            &args.iter().map(String::as_str).collect::<Vec<_>>(),
            code,
            says,
        )
        .await;
    };
    check(&["--config", &config], 2, "did you mean").await;
    check(&["--store", "mysql://x"], 2, "redis://").await;
    let nobody = format!("redis://user:s3cret@127.0.0.1:{}/0", free_port());
    check(
        &["--store", &nobody],
        5,
        "cannot reach the job store at redis://127.0.0.1",
    )
    .await;
    let settings = RedisOptions::default().with("maxmemory-policy", "allkeys-lru");
    let evicting = Redis::start(&sandbox, settings).await;
    check(
        &["--store", &evicting.url()],
        1,
        "set maxmemory-policy noeviction",
    )
    .await;
    let router = Router::start(&sandbox, "memory:", RouterOptions::default()).await;
    let taken = router.grpc_address();
    let args = [
        "router",
        "--listen",
        &taken,
        "--metrics-listen",
        "127.0.0.1:0",
        "--store",
        "memory:",
    ];
    fails(&sandbox, &args, 1, "in use").await;
}

#[tokio::test]
async fn config_print_says_where_each_value_comes_from_and_hides_secrets() {
    let sandbox = Sandbox::new();
    let config = sandbox.write(
        "tidegate.toml",
        "[router]\nname = \"edge-1\"\n[worker]\nslots = 7\n",
    );
    let env = [
        ("REDIS_URL", "redis://:s3cret@cache/0"),
        ("TIDEGATE_WORKER__APP", "http://app/"),
    ];
    let process = Process::tidegate(
        &sandbox,
        ["config", "print", "--origin", "--config", &config],
        &env,
    );
    assert_eq!(
        process.wait_exit(Duration::from_secs(30)).await,
        0,
        "{}",
        process.tail()
    );
    let said = process.stdout();
    for line in [
        format!("router.name = \"edge-1\"  # {config}"),
        "router.store = \"[redacted]\"  # env REDIS_URL".to_owned(),
        "worker.app = \"http://app/\"  # env TIDEGATE_WORKER__APP".to_owned(),
        format!("worker.slots = 7  # {config}"),
        "worker.metrics_listen = \"127.0.0.1:9466\"  # default".to_owned(),
    ] {
        assert!(said.contains(&line), "no {line:?} in {said}");
    }
    assert!(!said.contains("s3cret"), "{said}");
    fails(
        &sandbox,
        &["config", "print", "--config", "/nowhere.toml"],
        2,
        "/nowhere.toml",
    )
    .await;
}
