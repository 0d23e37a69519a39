//! Commands: real processes, well-behaved and not, and nothing left of them.

use std::time::Duration;

use tidegate_chassis::clock::Monotonic;
use tidegate_protocol::v1::{self, settlement::Outcome};
use tidegate_worker::{
    Worker,
    exec::{ExecDelivery, ExecSettings},
};

use crate::{
    Running, in_time,
    router::{Router, Session, job_id, kind},
};

struct Bench {
    session: Session,
    running: Running,
    dir: tempfile::TempDir,
    fence: u64,
    _router: Router,
}

impl Bench {
    /// A worker that runs this shell script; `$DIR` in it is a scratch directory.
    async fn start(script: &str, change: impl FnOnce(&mut ExecSettings)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let script = script.replace("$DIR", dir.path().to_str().expect("plain"));
        let mut settings = ExecSettings::new(["sh", "-c", &script]);
        settings.guard = Some(env!("CARGO_BIN_EXE_tidegate-worker").into());
        change(&mut settings);
        let mut router = Router::start();
        let worker = Worker::connect(&router.address, ())
            .deliver("email", ExecDelivery::new(settings).expect("it can run"))
            .slots(4);
        let running = Running::start(worker);
        let (mut session, _) = router.welcome().await;
        session.credit().await;
        Self {
            session,
            running,
            dir,
            fence: 0,
            _router: router,
        }
    }

    async fn run(&mut self, payload: &str, change: impl FnOnce(&mut v1::Grant)) -> v1::Settlement {
        self.fence += 1;
        self.session.grant_with(self.fence, payload, change).await;
        self.session.settled().await
    }

    /// What the script wrote, as soon as it has.
    async fn file(&self, name: &str) -> String {
        let path = self.dir.path().join(name);
        in_time(async {
            loop {
                match std::fs::read_to_string(&path) {
                    Ok(text) if text.ends_with('\n') => return text,
                    _ => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        })
        .await
    }
}

fn result(settlement: &v1::Settlement) -> String {
    match settlement.outcome.as_ref().expect("set") {
        Outcome::Succeeded(v1::Succeeded { result }) => String::from_utf8_lossy(result).into_owned(),
        other => panic!("{other:?}"),
    }
}

fn error(settlement: &v1::Settlement) -> &str {
    match settlement.outcome.as_ref().expect("set") {
        Outcome::Retry(v1::Retry { error, .. })
        | Outcome::Invalid(v1::Invalid { error })
        | Outcome::Released(v1::Released { error }) => error,
        other => panic!("{other:?}"),
    }
}

/// Gone, or dead and not yet collected by whoever is in charge of it now.
fn gone(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z "))
}

async fn all_gone(pids: &str) {
    assert!(!pids.trim().is_empty());
    in_time(async {
        while !pids.split_whitespace().all(gone) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_payload_comes_on_standard_input_and_the_rest_in_the_environment() {
    let script = "cat; env | grep ^TIDEGATE_ | sort";
    let mut bench = Bench::start(script, |_| {}).await;
    let settlement = bench
        .run("{\"n\":1}\n", |grant| {
            grant.attempt = 2;
            grant.deadline_ms = 1_000_000 + 60_000;
            grant.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned();
        })
        .await;
    let expected = format!(
        "{{\"n\":1}}\nTIDEGATE_ATTEMPT=2\nTIDEGATE_DEADLINE=1970-01-01T00:17:40.000Z\nTIDEGATE_FENCE=1\n\
         TIDEGATE_JOB_ID={}\nTIDEGATE_QUEUE=email\n\
         TIDEGATE_TRACEPARENT=00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\n",
        job_id(1)
    );
    assert_eq!(result(&settlement), expected);
    bench.running.stop().await;
}

#[tokio::test]
async fn exit_codes_decide_and_the_end_of_standard_error_is_the_error() {
    let script = "read code; echo noise >&2; echo \"no luck\" >&2; exit $code";
    let mut bench = Bench::start(script, |_| {}).await;
    for (code, expected, text) in [
        ("75", "retry", "exit code 75: noise\nno luck"),
        ("65", "invalid", "exit code 65: noise\nno luck"),
        ("3", "retry", "exit code 3: noise\nno luck"),
    ] {
        let settlement = bench.run(&format!("{code}\n"), |_| {}).await;
        assert_eq!((kind(&settlement), error(&settlement)), (expected, text));
    }
    bench.running.stop().await;
}

/// The payload is larger than a pipe, so a worker that wrote it to one would wait for ever.
#[tokio::test]
async fn a_command_need_not_read_and_may_write_much() {
    let script = "yes out | head -c 1000000; yes err | head -c 1000000 >&2";
    let mut bench = Bench::start(script, |_| {}).await;
    let settlement = bench.run(&"x".repeat(200_000), |_| {}).await;
    assert_eq!(result(&settlement).len(), 64 * 1024);
    bench.running.stop().await;
}

#[tokio::test]
async fn one_that_allocates_without_end_meets_its_limit() {
    let script = "exec python3 -c 'x = []\nwhile True: x.append(bytearray(10_000_000))'";
    let mut bench = Bench::start(script, |settings| settings.memory_bytes = Some(100 << 20)).await;
    let settlement = bench.run("", |_| {}).await;
    assert_eq!(kind(&settlement), "retry");
    assert!(error(&settlement).contains("MemoryError"), "{settlement:?}");
    bench.running.stop().await;
}

#[tokio::test]
async fn one_that_computes_without_end_meets_its_limit() {
    let mut bench = Bench::start("while :; do :; done", |settings| {
        settings.cpu = Some(Duration::from_secs(1));
        settings.open_files = Some(32);
    })
    .await;
    let settlement = bench.run("", |_| {}).await;
    // SIGXCPU
    assert_eq!(error(&settlement), "ended by signal 24 (exit code 152)");
    bench.running.stop().await;
}

#[tokio::test]
async fn sigterm_comes_before_the_deadline() {
    let script = "trap 'echo in time; exit 0' TERM; echo $$ > $DIR/pid; sleep 1000 & wait";
    let mut bench = Bench::start(script, |_| {}).await;
    let started = Monotonic::start();
    let settlement = bench.run("", |grant| grant.timeout_ms = 2_000).await;
    assert_eq!(result(&settlement), "in time\n");
    let took = started.elapsed();
    assert!(took < Duration::from_millis(1_950), "{took:?}");
    all_gone(&bench.file("pid").await).await;
    bench.running.stop().await;
}

/// And has children in its group and outside.
#[tokio::test]
async fn one_that_ignores_sigterm_is_killed_with_all_its_children() {
    let script = "trap '' TERM; (sleep 1000 & echo $! ; setsid sleep 1001 & echo $!; echo $$) > $DIR/pids; \
                  while :; do sleep 0.1; done";
    let mut bench = Bench::start(script, |_| {}).await;
    let settlement = bench.run("", |grant| grant.timeout_ms = 1_000).await;
    assert_eq!(error(&settlement), "timed out after 1000 ms");
    let pids = bench.file("pids").await;
    assert_eq!(pids.split_whitespace().count(), 3, "{pids}");
    // The attempt lasts until they are gone: nothing to wait for.
    assert!(pids.split_whitespace().all(gone), "{pids}");
    bench.running.stop().await;
}

#[tokio::test]
async fn what_a_command_leaves_behind_goes_with_it() {
    let script = "(sleep 1000 & echo $! ; setsid sh -c 'sleep 1001 & echo $!; wait' & sleep 0.2) > $DIR/pids; echo done";
    let mut bench = Bench::start(script, |_| {}).await;
    let settlement = bench.run("", |_| {}).await;
    assert_eq!(result(&settlement), "done\n");
    let pids = bench.file("pids").await;
    assert_eq!(pids.split_whitespace().count(), 2, "{pids}");
    assert!(pids.split_whitespace().all(gone), "{pids}");
    bench.running.stop().await;
}

#[tokio::test]
async fn a_cancelled_job_s_command_is_told_and_then_killed() {
    let script = "trap 'echo told > $DIR/told' TERM; echo $$ > $DIR/pid; while :; do sleep 0.05; done";
    let mut bench = Bench::start(script, |_| {}).await;
    bench.session.grant(1, "").await;
    let pid = bench.file("pid").await;
    let cancel = v1::Cancel {
        leases: vec![crate::router::lease(1)],
        reason: "by hand".to_owned(),
    };
    bench
        .session
        .send(v1::lease_response::Message::Cancel(cancel))
        .await;
    let settlement = bench.session.settled().await;
    assert_eq!(error(&settlement), "cancelled");
    assert_eq!(bench.file("told").await, "told\n");
    assert!(gone(pid.trim()));
    bench.running.stop().await;
}

#[tokio::test]
async fn a_dropped_worker_leaves_nothing() {
    let script = "echo $$ > $DIR/pid; sleep 1000";
    let mut bench = Bench::start(script, |_| {}).await;
    bench.session.grant(1, "").await;
    let pid = bench.file("pid").await;
    drop(bench.running);
    all_gone(&pid).await;
}

/// What it writes to standard error is a sign of life; one that falls silent is stopped.
#[tokio::test]
async fn a_command_that_says_nothing_for_long_is_stopped() {
    let script =
        "for n in 1 2 3 4 5 6; do sleep 0.2; echo step $n >&2; done; read hang && sleep 1000; echo done";
    let mut bench = Bench::start(script, |_| {}).await;
    let settlement = bench.run("", |grant| grant.heartbeat_timeout_ms = 900).await;
    assert_eq!(result(&settlement), "done\n");
    let settlement = bench
        .run("hang\n", |grant| grant.heartbeat_timeout_ms = 900)
        .await;
    assert_eq!(
        error(&settlement),
        "no heartbeat for 900 ms; last progress: step 6"
    );
    bench.running.stop().await;
}
