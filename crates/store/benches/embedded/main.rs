//! Speed and size of the embedded store: `cargo bench -p tidegate-store`, or with the names of parts to measure
//! (`-- lifecycles keys size reads sweep`). Beside it the memory store, which shows what the file costs.
//!
//! A lifecycle is a submit with an idempotency key, a lease under a cap and a fenced settle, in batches of 256 from four
//! callers; payloads have 200 bytes.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a program for developers: real time, and a panic is the way to report"
)]

mod load;
mod sweep;

use std::{path::Path, sync::Arc, time::Instant};

use tidegate_protocol::domain::JobState;
use tidegate_store::{JobStore, ListRequest, OpenOptions, open};

use self::load::{fill, finish, lifecycles, prepare, queue};

const SECONDS: f64 = 4.0;
const ROUNDS: usize = 3;
const BACKLOG: usize = 500_000;
const MANY: usize = 1_000_000;
/// Of calls that are measured one by one.
const SAMPLES: usize = 500;

#[tokio::main]
async fn main() {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"))
        .collect();
    let wants = |part: &str| wanted.is_empty() || wanted.iter().any(|name| name == part);
    if wants("lifecycles") {
        measure_lifecycles().await;
    }
    if wants("keys") {
        measure_keys().await;
    }
    if wants("size") || wants("reads") {
        measure_size_and_reads().await;
    }
    if wants("sweep") {
        for url in ["memory:", "sqlite:"] {
            sweep::measure(url).await;
        }
    }
}

fn say(name: &str, value: impl std::fmt::Display) {
    println!("{name:<44} {value:>12}");
}

async fn file(path: &Path) -> Arc<dyn JobStore> {
    let url = format!("sqlite:{}", path.display());
    open(&url, &OpenOptions::default()).await.unwrap()
}

/// The middle of three rounds.
async fn rate(store: &Arc<dyn JobStore>) -> u64 {
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        rates.push(lifecycles(store, SECONDS).await as u64);
    }
    rates.sort_unstable();
    rates[ROUNDS / 2]
}

async fn measure_lifecycles() {
    let dir = tempfile::tempdir().unwrap();
    let store = file(&dir.path().join("jobs.db")).await;
    prepare(&store).await;
    say("lifecycles/s, empty", rate(&store).await);
    fill(&store, BACKLOG).await;
    say("lifecycles/s, 500,000 queued", rate(&store).await);
    store.close().await;
}

async fn measure_keys() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let store = file(&path).await;
    prepare(&store).await;
    let before = resident_bytes();
    for _ in 0..MANY / 1_000 {
        fill(&store, 1_000).await;
        finish(&store, 1_000).await;
    }
    say(
        "bytes of memory a remembered key",
        (resident_bytes() - before) / MANY as u64,
    );
    say("lifecycles/s, 1,000,000 keys remembered", rate(&store).await);
    store.close().await;
}

async fn measure_size_and_reads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jobs.db");
    let store = file(&path).await;
    prepare(&store).await;
    let before = resident_bytes();
    let slowest = fill(&store, MANY).await;
    say("slowest submit of 1,000, ms", format!("{slowest:.1}"));
    say(
        "bytes of memory a queued job",
        (resident_bytes() - before) / MANY as u64,
    );
    measure_reads(&store).await;
    store.close().await;
    drop(store);
    say(
        "bytes of file a queued job",
        std::fs::metadata(&path).unwrap().len() / MANY as u64,
    );
    let started = Instant::now();
    let store = file(&path).await;
    say("open with 1,000,000 queued, ms", started.elapsed().as_millis());
    store.close().await;
    drop(store);
    let memory = open("memory:", &OpenOptions::default()).await.unwrap();
    prepare(&memory).await;
    let slowest = fill(&memory, MANY).await;
    say("slowest submit of 1,000 in memory, ms", format!("{slowest:.1}"));
}

async fn measure_reads(store: &Arc<dyn JobStore>) {
    let request = |cursor| ListRequest {
        queue: queue(),
        state: JobState::Ready,
        limit: 100,
        cursor,
    };
    let page = store.list(request(None)).await.unwrap();
    let id = page.jobs[50].id.clone();
    let (mut stats, mut get, mut list) = (Vec::new(), Vec::new(), Vec::new());
    let mut cursor = page.next;
    for _ in 0..SAMPLES {
        stats.push(timed(store.stats(vec![queue()])).await.0);
        get.push(timed(store.get(vec![id.clone()])).await.0);
        let (ms, page) = timed(store.list(request(cursor))).await;
        list.push(ms);
        cursor = page.unwrap().next;
    }
    for (name, times) in [("stats", stats), ("get", get), ("list 100", list)] {
        let (p50, max) = spread(times);
        say(
            &format!("{name} at 1,000,000 jobs, p50 / max ms"),
            format!("{p50:.3} / {max:.3}"),
        );
    }
}

async fn timed<T>(call: impl Future<Output = T>) -> (f64, T) {
    let started = Instant::now();
    let answer = call.await;
    (started.elapsed().as_secs_f64() * 1e3, answer)
}

fn spread(mut times: Vec<f64>) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() - 1])
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
