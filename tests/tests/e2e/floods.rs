//! A seeded random fuzzer, streams by the thousand and connections that say nothing, against a real router: others go on.
//!
//! It runs for a few seconds; `TIDEGATE_FUZZ_SECONDS=n` makes it longer, and `TIDEGATE_TEST_SEED=n` replays one run (by what
//! is sent, not by when). How much slower others become is measured by `cargo xtask bench hostile`.

use std::time::{Duration, Instant};

use tidegate_client::Client;
use tidegate_tests::{
    Router, RouterOptions, Sandbox,
    attack::{bad_messages, many_streams, slow_headers},
};
use tokio::time::sleep;

const SECONDS: u64 = 4;

/// Submits one by one; how long each took.
async fn bystander(client: &Client, end: Instant) -> Vec<Duration> {
    let mut times = Vec::new();
    while Instant::now() < end {
        let begin = Instant::now();
        let submitted = client.submit_raw("email", "{}").send().await;
        submitted.expect("others do not notice");
        times.push(begin.elapsed());
        sleep(Duration::from_millis(2)).await;
    }
    times.sort_unstable();
    times
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fuzzer_and_floods_hurt_nobody_else() {
    let seed = number("TIDEGATE_TEST_SEED").unwrap_or_else(|| fastrand::u64(..));
    let seconds = number("TIDEGATE_FUZZ_SECONDS").unwrap_or(SECONDS);
    println!("TIDEGATE_TEST_SEED={seed}");
    let random = || fastrand::Rng::with_seed(seed);
    let sandbox = Sandbox::new();
    let router = Router::start(&sandbox, "memory:", RouterOptions::default()).await;
    let client = Client::connect([router.grpc_url()]).expect("an address");
    let address = router.grpc_address().parse().expect("an address");
    let calm = bystander(&client, Instant::now() + Duration::from_secs(seconds.min(3))).await;

    let attack = async |time: Duration| {
        let end = Instant::now() + time;
        tokio::join!(
            bad_messages(address, random(), end),
            many_streams(address, end),
            slow_headers(address, random(), end),
            bystander(&client, end),
        )
    };
    let (first, ..) = attack(Duration::from_secs(2)).await;
    let before_kb = router.process.rss_kb();
    let (second, (), (), attacked) = attack(Duration::from_secs(seconds)).await;
    let after_kb = router.process.rss_kb();

    let at = |times: &[Duration], q: f64| times[((times.len() - 1) as f64 * q) as usize];
    let (calm_p99, attacked_p99) = (at(&calm, 0.99), at(&attacked, 0.99));
    println!(
        "{} bad messages; others: calm p50 {:.1?} p99 {calm_p99:.1?}, attacked p50 {:.1?} p99 {attacked_p99:.1?}; \
         rss {before_kb} -> {after_kb} kB",
        first + second,
        at(&calm, 0.5),
        at(&attacked, 0.5),
    );
    assert!(second > 50, "the fuzzer came to {second} messages");
    // Attackers and router share the cores, so others are slowed by the attackers' own work as well.
    assert!(
        attacked_p99 < calm_p99 * 10 + Duration::from_millis(100),
        "{calm_p99:?} -> {attacked_p99:?}"
    );
    // The jobs that bystanders leave behind are about a kilobyte each.
    let allowed = before_kb * 3 / 2 + 30_000;
    assert!(after_kb < allowed, "{before_kb} -> {after_kb} kB");
    assert_eq!(router.process.exit_code(), None, "it goes on");
}
