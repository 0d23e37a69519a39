//! What becomes of fifty running jobs when their worker is killed.

use std::{collections::BTreeMap, time::Duration};

use anyhow::ensure;
use tokio::time::Instant;

use super::arena::Arena;
use super::peer::Peer;
use crate::{Process, Sandbox, bench::Figures};

const JOBS: u32 = 50;
/// Longer than it takes until all have started and the kill has been sent.
const JOB_MS: u32 = 2_000;
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// BullMQ takes 60 s; others are given up sooner, see [`Peer::recovers`].
const WATCHED: Duration = Duration::from_secs(90);
const WATCHED_SHORT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(20);

/// `recovery_s` until the last of them runs again, `recovery_first_s`, `lost` (not run again in the time watched) and
/// `twice` (finished more than once).
///
/// # Errors
/// A worker that does not start all of them.
pub async fn run(peer: Peer, figures: &mut Figures) -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let arena = Arena::start(&sandbox, peer, false).await;
    let victim = arena.worker(JOBS, JOB_MS).await.process;
    arena.submit(&["count", &JOBS.to_string()]).await?;
    let waited = Instant::now() + START_TIMEOUT;
    while ids(&victim, "start ").len() < JOBS as usize {
        ensure!(
            Instant::now() < waited,
            "{} did not start {JOBS} jobs",
            peer.name()
        );
        tokio::time::sleep(POLL).await;
    }
    victim.kill9();
    let killed = Instant::now();
    let heir = arena.worker(JOBS, JOB_MS).await.process;
    let watched = if peer.recovers() { WATCHED } else { WATCHED_SHORT };
    let (mut first, mut last) = (None, None);
    while last.is_none() && killed.elapsed() < watched {
        let started = ids(&heir, "start ").len();
        let now = killed.elapsed().as_secs_f64();
        first = first.or((started > 0).then_some(now));
        last = (started >= JOBS as usize).then_some(now);
        tokio::time::sleep(POLL).await;
    }
    // They have to end, too, and none of them twice.
    tokio::time::sleep(Duration::from_millis(u64::from(JOB_MS) * 2)).await;
    let mut ended = ids(&victim, "end ");
    for (id, times) in ids(&heir, "end ") {
        *ended.entry(id).or_default() += times;
    }
    if let (Some(first), Some(last)) = (first, last) {
        figures.add("recovery_first_s", first);
        figures.add("recovery_s", last);
    }
    figures.add("lost", f64::from(JOBS) - ended.len() as f64);
    figures.add("twice", ended.values().filter(|times| **times > 1).count() as f64);
    Ok(())
}

/// How often each job is named in lines that begin so.
fn ids(process: &Process, begin: &str) -> BTreeMap<String, u32> {
    let mut ids = BTreeMap::new();
    for id in process
        .stdout()
        .lines()
        .filter_map(|line| line.strip_prefix(begin))
    {
        *ids.entry(id.to_owned()).or_default() += 1;
    }
    ids
}
