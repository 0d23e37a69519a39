//! `cargo xtask demo`: the same arrivals at the same time through a fixed concurrency and through an adaptive one.
//!
//! Each lane has its own job store, router, workers and HTTP app; the right lane has a controller too. The apps lose half
//! of their capacity for the middle third, and meanwhile a burst of three times the load arrives. Everything is measured
//! where it happens: latency and failures in the apps, counts in the stores, over-concurrency by sampling.

mod app;
mod lane;
mod load;
mod report;
mod view;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;

use self::{
    lane::{Kind, Lane},
    load::{Clock, Plan},
    report::Report,
    view::View,
};
use crate::Sandbox;

pub struct Options {
    pub seconds: u64,
    /// `None`: an embedded store each. A Redis URL: its database and the next one, which must be empty.
    pub store: Option<String>,
    pub json: Option<PathBuf>,
}

/// What the lanes share: names, rates and how long a job takes when nothing is in its way.
pub struct QueueLoad {
    pub name: &'static str,
    pub per_second: f64,
    pub work_ms: f64,
}

/// Eleven jobs at once on average, which is a third of what the app can do.
pub const QUEUES: [QueueLoad; 3] = [
    QueueLoad {
        name: "webhook",
        per_second: 60.0,
        work_ms: 60.0,
    },
    QueueLoad {
        name: "email",
        per_second: 30.0,
        work_ms: 120.0,
    },
    QueueLoad {
        name: "pdf",
        per_second: 8.0,
        work_ms: 500.0,
    },
];

/// Jobs that the app works on at once without slowing down; half of it in the middle third.
pub const CAPACITY: u32 = 30;
/// What people write into a config file.
pub const FIXED: u32 = 25;
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Jobs arrive for this share of the time; the rest is for what waits to be done.
const ARRIVING: f64 = 0.9;

/// Runs both lanes to their end, or until Ctrl-C.
///
/// # Errors
/// What kept it from starting or from writing its answer.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let sandbox = Sandbox::new();
    let whole = Duration::from_secs(options.seconds);
    let plan = Arc::new(Plan::new(whole.mul_f64(ARRIVING)));
    let mut view = View::new(&plan);
    view.say(&format!(
        "two lanes, {} jobs each in {:.0} s; capacity {CAPACITY}, half of it from {:.0} s to {:.0} s; a burst of 3x from {:.0} s to {:.0} s",
        plan.arrivals.len(),
        plan.length.as_secs_f64(),
        plan.slow.start.as_secs_f64(),
        plan.slow.end.as_secs_f64(),
        plan.burst.start.as_secs_f64(),
        plan.burst.end.as_secs_f64(),
    ));
    let clock = Clock::default();
    let store = |lane| store_url(options.store.as_deref(), lane);
    let fixed = Lane::start(&sandbox, Kind::Fixed, store(0)?, plan.clone(), clock.clone()).await?;
    let adaptive = Lane::start(&sandbox, Kind::Adaptive, store(1)?, plan.clone(), clock.clone()).await?;
    let lanes = [fixed, adaptive];
    clock.start();

    let loads = futures_util::future::join_all(lanes.iter().map(|lane| load::submit(lane, &plan, &clock)));
    let watching = async {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            let looks = futures_util::future::join_all(lanes.iter().map(Lane::look)).await;
            view.show(&clock, &looks);
            let idle = looks.iter().all(|look| look.open() == 0);
            if clock.elapsed() > plan.length && idle || clock.elapsed() > whole {
                return;
            }
        }
    };
    tokio::select! {
        (acknowledged, ()) = async { tokio::join!(loads, watching) } => {
            finish(&lanes, &acknowledged, &options).await
        }
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

async fn finish(lanes: &[Lane; 2], acknowledged: &[usize], options: &Options) -> anyhow::Result<()> {
    let mut reports = Vec::new();
    for (lane, acknowledged) in lanes.iter().zip(acknowledged) {
        reports.push((lane.kind, Report::of(lane, *acknowledged).await?));
    }
    view::summary(&reports);
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&report::json(&reports))?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The lane's own database of a given Redis.
fn store_url(given: Option<&str>, lane: u32) -> anyhow::Result<Option<String>> {
    let Some(url) = given else { return Ok(None) };
    let host = url
        .strip_prefix("redis://")
        .context("--store takes redis://HOST:PORT/DB")?;
    let (host, db) = host.split_once('/').unwrap_or((host, "0"));
    let db: u32 = db
        .parse()
        .ok()
        .context("--store takes redis://HOST:PORT/DB, with a number for DB")?;
    Ok(Some(format!("redis://{host}/{}", db + lane)))
}
