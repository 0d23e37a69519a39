//! `cargo xtask load`: the load test of the article's checklist, and what of its other lines a running fleet shows.
//!
//! An open-loop load of two queues that share one Postgres: short jobs (5 ms of the database) and long ones (150 ms).
//! Baseline, three times of it, then the database is eight times slower, then recovery. The program is producer and
//! application in one, as any program with the worker library is; routers, controller and stores are processes of their
//! own, started here or somebody's. Latency counts from when a job was *due* to be sent to the end of its handler.

mod app;
mod ground;
mod judge;
mod offer;
mod plan;
mod show;
mod watch;

use std::{path::PathBuf, time::Duration};

use anyhow::Context;

use self::{
    app::Application,
    ground::{Given, Ground},
    judge::Verdict,
    plan::Plan,
    watch::Watch,
};
use crate::Sandbox;

pub struct Options {
    /// A running fleet; `None`: a fleet of its own.
    pub routers: Vec<String>,
    pub controller: Option<String>,
    /// Where the jobs work; `None`: a Postgres behind a PgBouncer of its own.
    pub postgres: Option<String>,
    /// Connections of that role, of which the jobs may hold seven in ten.
    pub capacity: u32,
    /// Metrics pages of a running fleet.
    pub metrics: Vec<String>,
    /// Short jobs a second at the baseline.
    pub rate: f64,
    /// Length of each phase.
    pub phase: Duration,
    pub json: Option<PathBuf>,
    pub report: Option<PathBuf>,
}

/// How long what was admitted may take to end after the last submit; what has not by then is lost.
const DRAIN_MAX: Duration = Duration::from_secs(60);

/// Answers whether everything that was looked at holds.
///
/// # Errors
/// What kept it from starting or from writing its answer.
pub async fn run(options: Options) -> anyhow::Result<bool> {
    let plan = Plan::new(options.phase, options.rate);
    let sandbox = Sandbox::new();
    let given = Given::of(&options)?;
    println!("{}", plan.in_words());
    let ground = Ground::start(&sandbox, given, options.capacity).await?;
    let measured = measure(&ground, &plan).await;
    // Also after a failure: somebody's fleet is left as it was.
    let restored = ground.restore().await;
    let verdict = measured?;
    print!("{}", show::table(&verdict));
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&show::json(&verdict))?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(folder) = &options.report {
        let page = show::page(&plan, &ground, &verdict)?.write(folder)?;
        println!("report: {}", page.display());
    }
    restored?;
    Ok(verdict.holds())
}

async fn measure(ground: &Ground<'_>, plan: &Plan) -> anyhow::Result<Verdict> {
    let application = Application::start(ground, plan).await?;
    let watch = Watch::start(ground)?;
    let (start, offered) = offer::offer(ground, plan, &application).await?;
    let ran = application.record.drained(&offered, DRAIN_MAX).await;
    let seen = watch.stop().await;
    let shown = ground.look(&application.metrics()).await;
    application.stop().await?;
    let offered = (start, offered);
    Ok(judge::judge(plan, ground.budget(), offered, ran, seen, &shown))
}
