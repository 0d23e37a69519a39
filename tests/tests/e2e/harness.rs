//! The harness itself, proven before anything is judged by it.

use std::panic::AssertUnwindSafe;
use std::process::Command;
use std::time::{Duration, Instant};
use tidegate_tests::{Answer, App, End, Process, Redis, RedisOptions, Sandbox, eventually, http_get};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_secs(10);

fn shell(sandbox: &Sandbox, script: &str) -> Process {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    Process::start(sandbox, command)
}

/// What a panicking block said.
async fn panic_of(block: impl Future<Output = ()>) -> String {
    use futures_util::FutureExt;
    let payload = AssertUnwindSafe(block)
        .catch_unwind()
        .await
        .expect_err("the block panics");
    payload
        .downcast_ref::<String>()
        .expect("a formatted message")
        .clone()
}

#[tokio::test]
async fn eventually_returns_the_first_some() {
    let mut asked = 0;
    let value = eventually(SOON, "the third answer", async || {
        asked += 1;
        (asked == 3).then_some(asked)
    });
    assert_eq!(value.await, 3);
}

#[tokio::test]
async fn eventually_says_what_did_not_happen_and_where() {
    let timeout = Duration::from_millis(50);
    let message = panic_of(eventually(timeout, "the moon", async || None::<()>)).await;
    assert!(message.contains("waited 50ms for the moon"), "{message}");
    assert!(message.contains("harness.rs:"), "{message}");
}

#[tokio::test]
async fn eventually_cuts_off_a_probe_that_hangs() {
    let started = Instant::now();
    let never = eventually(Duration::from_millis(50), "the moon", async || {
        std::future::pending::<()>().await;
        None
    });
    let message = panic_of(never).await;
    assert!(message.contains("cut off"), "{message}");
    assert!(started.elapsed() < SOON);
}

#[tokio::test]
async fn process_output_exit_code_and_figures() {
    let sandbox = Sandbox::new();
    let process = shell(
        &sandbox,
        "echo before; echo to-stderr >&2; sleep 0.2; echo 'ready x=1'; exec sleep 60",
    );
    assert_eq!(process.wait_for_line("ready", SOON).await, "ready x=1");
    assert_eq!(process.wait_for_line("stderr", SOON).await, "to-stderr");
    assert!(process.rss_kb() > 0);
    assert!(process.cpu_ticks() < 1_000);
    assert_eq!(process.exit_code(), None);
    process.sigterm();
    assert_eq!(process.wait_exit(SOON).await, 128 + 15);

    let failing = shell(&sandbox, "echo broken >&2; exit 3");
    assert_eq!(failing.wait_exit(SOON).await, 3);
    let message = panic_of(async {
        failing.wait_for_line("ready", SOON).await;
    })
    .await;
    assert!(
        message.contains("exited with 3") && message.contains("broken"),
        "{message}"
    );
}

#[tokio::test]
async fn kill9_and_the_sandbox_end_the_whole_group() {
    let sandbox = Sandbox::new();
    let script = "sleep 1000 & echo child $!; wait";
    let (first, second) = (shell(&sandbox, script), shell(&sandbox, script));
    let mut children = Vec::new();
    for process in [&first, &second] {
        let line = process.wait_for_line("child ", SOON).await;
        children.push(line.trim_start_matches("child ").to_owned());
    }
    first.kill9();
    assert_eq!(first.wait_exit(SOON).await, 128 + 9);
    drop(sandbox);
    for child in children {
        eventually(SOON, format!("the end of the grandchild {child}"), async || {
            ended(&child).then_some(())
        })
        .await;
    }
}

/// Servers leave the group that they are started in.
#[tokio::test]
async fn the_sandbox_ends_children_in_groups_of_their_own() {
    let sandbox = Sandbox::new();
    let parent = shell(&sandbox, "setsid sleep 1000 & echo child $!; wait");
    let line = parent.wait_for_line("child ", SOON).await;
    let child = line.trim_start_matches("child ").to_owned();
    drop(sandbox);
    eventually(SOON, format!("the end of the child {child}"), async || {
        ended(&child).then_some(())
    })
    .await;
}

/// This test in a process of its own is killed in the middle, as by an impatient operator: nothing cleans up.
#[tokio::test]
async fn children_end_with_a_test_that_is_killed() {
    const INNER: &str = "HARNESS_TEST_IS_KILLED";
    if std::env::var_os(INNER).is_some() {
        let sandbox = std::mem::ManuallyDrop::new(Sandbox::new());
        let child = shell(&sandbox, "exec sleep 1000").pid();
        // Before it is what it is to be, it has not asked yet to be told of our end.
        let name = format!("/proc/{child}/comm");
        eventually(SOON, "the child sleeps", async || {
            (std::fs::read_to_string(&name).ok()?.trim() == "sleep").then_some(())
        })
        .await;
        println!("\nchild {child} in {}", sandbox.path().display());
        std::process::abort();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "harness::children_end_with_a_test_that_is_killed",
            "--nocapture",
        ])
        .env(INNER, "1");
    let output = command.output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stdout).unwrap();
    let line = said.lines().find_map(|line| line.strip_prefix("child "));
    let (child, dir) = line.and_then(|line| line.split_once(" in ")).expect(&said);
    eventually(SOON, format!("the end of the child {child}"), async || {
        ended(child).then_some(())
    })
    .await;
    std::fs::remove_dir_all(dir).unwrap();
}

/// Gone, or a zombie that nobody has reaped yet.
fn ended(pid: &str) -> bool {
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.contains(") Z "),
        Err(_) => true,
    }
}

#[tokio::test]
async fn redis_keeps_data_over_restart_and_crash() {
    let sandbox = Sandbox::new();
    let redis = Redis::start(&sandbox, RedisOptions::default().with("appendfsync", "always")).await;
    assert_eq!(redis.must(&["SET", "key", "two words"]).await, "OK");
    assert_eq!(redis.must(&["GET", "missing"]).await, "(nil)");
    assert_eq!(
        redis.must(&["CONFIG", "GET", "maxmemory-policy"]).await,
        "maxmemory-policy\nnoeviction"
    );
    assert_eq!(redis.must(&["DEBUG", "SLEEP", "0"]).await, "OK");

    redis.restart().await;
    assert_eq!(redis.must(&["GET", "key"]).await, "two words");
    redis.kill9().await;
    assert!(redis.command(&["PING"]).await.is_err());
    redis.restart().await;
    assert_eq!(redis.must(&["GET", "key"]).await, "two words");
    redis.shutdown().await;
    assert_eq!(redis.process().exit_code(), Some(0));
}

#[tokio::test]
async fn redis_servers_side_by_side_are_separate() {
    let sandbox = Sandbox::new();
    let options = RedisOptions::default;
    let (a, b) = tokio::join!(
        Redis::start(&sandbox, options()),
        Redis::start(&sandbox, options())
    );
    a.must(&["SET", "who", "a"]).await;
    b.must(&["SET", "who", "b"]).await;
    assert_eq!(a.must(&["GET", "who"]).await, "a");
    assert_ne!(a.url(), b.url());
}

/// Sends a delivery as a worker would and gives the connection, its answer unread.
async fn deliver(app: &App, job_id: &str, attempt: u32) -> TcpStream {
    let mut stream = TcpStream::connect(app.address()).await.unwrap();
    let request = format!(
        "POST /hook HTTP/1.1\r\nhost: app\r\nce-id: {job_id}\r\nce-type: email\r\nce-tidegateattempt: {attempt}\r\n\
         ce-tidegatefence: 1700000000000\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

async fn answer(mut stream: TcpStream) -> String {
    use tokio::io::AsyncReadExt;
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn app_records_deliveries_and_answers_as_told() {
    let app = App::start(|delivery| match delivery.attempt {
        1 => Answer::status(503).header("retry-after", "7").body("busy"),
        _ => Answer::ok().body("done"),
    });
    let first = answer(deliver(&app, "job-1", 1).await).await;
    assert!(first.starts_with("HTTP/1.1 503") && first.contains("retry-after: 7") && first.ends_with("busy"));
    let second = answer(deliver(&app, "job-1", 2).await).await;
    assert!(second.starts_with("HTTP/1.1 200") && second.ends_with("done"));

    let seen = app.wait_for_answers(2, SOON).await;
    assert_eq!((seen[0].attempt, seen[1].attempt), (1, 2));
    assert_eq!(
        (seen[0].end, seen[1].end),
        (End::Answered(503), End::Answered(200))
    );
    assert_eq!(
        (seen[0].job_id.as_str(), seen[0].queue.as_str()),
        ("job-1", "email")
    );
    assert_eq!(
        (seen[0].fence, &seen[0].body[..], seen[0].path.as_str()),
        (1_700_000_000_000, &b"hi"[..], "/hook")
    );
    assert_eq!(app.deliveries_of("job-2").len(), 0);
    assert_eq!(http_get(&app.url(), "/").await, (200, "done".to_owned()));
}

#[tokio::test]
async fn app_counts_concurrency_and_notices_a_caller_who_hangs_up() {
    let app = App::start(|_| Answer::ok().after(Duration::from_secs(60)));
    let mut open = Vec::new();
    for number in 0..3 {
        open.push(deliver(&app, &format!("job-{number}"), 1).await);
    }
    app.wait_for(3, SOON).await;
    assert_eq!((app.in_flight(), app.max_in_flight()), (3, 3));

    drop(open);
    eventually(SOON, "three hang-ups", async || {
        (app.in_flight() == 0).then_some(())
    })
    .await;
    assert!(
        app.deliveries()
            .iter()
            .all(|delivery| delivery.end == End::HungUp)
    );
    assert_eq!(app.max_in_flight(), 3);

    app.behave(|_| Answer::status(204));
    assert!(
        answer(deliver(&app, "job-4", 1).await)
            .await
            .starts_with("HTTP/1.1 204")
    );
}

#[tokio::test]
async fn app_dies_and_comes_back_at_its_address() {
    let mut app = App::start(|_| Answer::ok());
    let address = app.address();
    assert_eq!(http_get(&app.url(), "/").await.0, 200);
    app.close();
    eventually(SOON, "a refused connection", async || {
        TcpStream::connect(address).await.err()
    })
    .await;

    let again = App::start_at(address, |_| Answer::status(201));
    assert_eq!(http_get(&again.url(), "/").await.0, 201);
    assert_eq!(app.deliveries().len(), 1);
}

#[tokio::test]
async fn a_timeout_of_the_app_lists_what_did_arrive() {
    let app = App::start(|_| Answer::ok());
    answer(deliver(&app, "the-only-one", 1).await).await;
    let message = panic_of(async {
        app.wait_for(2, Duration::from_millis(50)).await;
    })
    .await;
    assert!(
        message.contains("2 deliveries") && message.contains("the-only-one"),
        "{message}"
    );
}
