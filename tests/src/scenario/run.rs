//! One scenario once: every arm at the same time, on the same arrivals.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use futures_util::future::try_join_all;
use tidegate_sim::{
    plan::{self, Arrival, Call},
    run::{Outcome, Setup},
};

use super::{
    Arm, Figures, Lane, Script, api,
    count::{Called, Facts, Submitted},
    cpu::{Cpu, Used},
    faults::{self, Step},
    lane::Costs,
    watch::{self, Watch},
};
use crate::{Sandbox, load::open_loop};

/// From the last lane's start to the first arrival.
const LEAD: Duration = Duration::from_millis(500);
/// For what still runs or waits when the load has ended. What takes longer counts as not done.
const DRAIN_MAX: Duration = Duration::from_secs(20);
const DRAIN_PAUSE: Duration = Duration::from_millis(250);
/// The simulation's tick, which is the product's default.
const TICK_S: f64 = 5.0;

/// What came of a scenario.
pub struct Run {
    pub script: Script,
    pub seed: u64,
    /// In the order of the arms.
    pub figures: Vec<Figures>,
    /// Who knows everything, on the same arrivals, in the simulation.
    pub oracle: Outcome,
    pub used: Used,
}

/// The load, made before it begins.
struct Plan {
    jobs: Vec<Arrival>,
    calls: Vec<Call>,
}

/// Runs a scenario under these arms.
///
/// # Errors
/// What a server or the simulation says.
pub async fn once(script: &Script, arms: &[Arm], seed: u64) -> Result<Run> {
    let model = script.model.clone();
    let calls = model.resources.values().next();
    let plan = Arc::new(Plan {
        jobs: plan::arrivals(&model, seed),
        calls: calls.map_or_else(Vec::new, |resource| {
            plan::calls(resource, 0, model.length_s, seed)
        }),
    });
    let setup = Setup {
        seed,
        tick_s: TICK_S,
        keeps_log: false,
    };
    let oracle =
        tokio::task::spawn_blocking(move || tidegate_sim::run::run(&model, "oracle", &setup)).await??;
    let sandbox = Sandbox::new();
    let lanes = try_join_all(arms.iter().map(|arm| Lane::start(&sandbox, script, *arm))).await?;
    let start = Instant::now() + LEAD;
    let length = Duration::from_secs_f64(script.model.length_s);
    let measuring = async {
        tokio::time::sleep_until(start.into()).await;
        let begun = Cpu::now();
        tokio::time::sleep_until((start + length).into()).await;
        Cpu::now().since(&begun)
    };
    let driving = try_join_all(lanes.iter().map(|lane| drive(lane, script, &plan, start)));
    let (facts, used) = tokio::join!(driving, measuring);
    let figures = arms.iter().zip(facts?);
    Ok(Run {
        figures: figures
            .map(|(arm, facts)| Figures::of(*arm, script, facts))
            .collect(),
        script: script.clone(),
        seed,
        oracle,
        used,
    })
}

async fn drive(lane: &Lane<'_>, script: &Script, plan: &Arc<Plan>, start: Instant) -> Result<Facts> {
    tokio::time::sleep_until(start.into()).await;
    let start_ms = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)?
        .as_millis() as u64;
    let watch = Watch::begin(lane, script);
    let end = start + Duration::from_secs_f64(script.model.length_s);
    let watching = async {
        tokio::time::sleep_until(end.into()).await;
        watch.end().await
    };
    let (submitted, calls, costs, trace) = tokio::join!(
        submits(lane, script, plan, start),
        calls(lane, script, plan, start),
        steps(lane, script, start),
        watching
    );
    drain(lane, script).await?;
    let names: Vec<String> = script.model.queues.keys().cloned().collect();
    let mut facts = Facts {
        start_ms,
        submitted,
        calls,
        trace,
        costs: costs?,
        counts: watch::counts(&lane.router.metrics_url(), &names)
            .await
            .context("the router does not show its counts")?,
        ..Facts::default()
    };
    for name in &names {
        facts.jobs.push(lane.jobs(name).await?);
        facts
            .succeeded_total
            .push(lane.client.get_queue(name).await?.succeeded_total);
    }
    Ok(facts)
}

async fn submits(lane: &Lane<'_>, script: &Script, plan: &Arc<Plan>, start: Instant) -> Vec<Submitted> {
    if !lane.arm.has_jobs() {
        return Vec::new();
    }
    let names: Vec<&String> = script.model.queues.keys().collect();
    let times: Vec<Duration> = plan
        .jobs
        .iter()
        .map(|job| Duration::from_secs_f64(job.at))
        .collect();
    let sent = open_loop(start, &times, |number| {
        let job = &plan.jobs[number];
        let payload = format!(
            "{{\"off_ms\":{:.3},\"ms\":{:.3}}}",
            1_000.0 * job.off,
            1_000.0 * job.work
        );
        let submit = lane.client.submit_raw(names[job.queue], payload);
        async move { submit.send().await.map(|submitted| submitted.id.to_string()).ok() }
    })
    .await;
    let submitted = sent.into_iter().map(|sent| Submitted {
        queue: plan.jobs[sent.number].queue,
        due_s: plan.jobs[sent.number].at,
        id: sent.answer,
    });
    submitted.collect()
}

async fn calls(lane: &Lane<'_>, script: &Script, plan: &Plan, start: Instant) -> Vec<Called> {
    let (Some(url), Some((_, capacity))) = (lane.api_url(), script.hard_cap()) else {
        return Vec::new();
    };
    let down = script
        .model
        .resources
        .values()
        .flat_map(|resource| resource.down_s.clone());
    let down: Vec<(f64, f64)> = down.collect();
    let sent = api::calls(&url, capacity, start, &plan.calls, &down).await;
    let called = sent.into_iter().map(|sent| Called {
        due_s: (sent.due - start).as_secs_f64(),
        took_s: sent.latency().as_secs_f64(),
        is_done: sent.answer == api::Answer::Done,
    });
    called.collect()
}

/// Does what the scenario does, and looks at the costs at both ends of its window.
async fn steps(lane: &Lane<'_>, script: &Script, start: Instant) -> Result<Option<(Costs, Costs)>> {
    let (mut opened, mut closed) = (None, None);
    for (at, step) in faults::steps(script) {
        tokio::time::sleep_until((start + Duration::from_secs_f64(at)).into()).await;
        match step {
            Step::WindowOpens => opened = Some(lane.costs().await),
            Step::WindowCloses => closed = Some(lane.costs().await),
            _ => lane
                .apply(step)
                .await
                .with_context(|| format!("{step:?} at {at} s"))?,
        }
    }
    Ok(opened.zip(closed))
}

/// Until nothing is left to do, or the time for it is over; then everything stands still and can be counted.
async fn drain(lane: &Lane<'_>, script: &Script) -> Result<()> {
    let names: Vec<String> = script.model.queues.keys().cloned().collect();
    let begun = Instant::now();
    while begun.elapsed() < DRAIN_MAX {
        let looks = watch::looks(&lane.client, &names).await.unwrap_or_default();
        if !looks.is_empty() && looks.iter().all(|queue| queue.idle) {
            return Ok(());
        }
        tokio::time::sleep(DRAIN_PAUSE).await;
    }
    lane.pause(script).await?;
    while begun.elapsed() < 2 * DRAIN_MAX {
        let looks = watch::looks(&lane.client, &names).await.unwrap_or_default();
        if looks.iter().all(|queue| queue.slots == 0) {
            break;
        }
        tokio::time::sleep(DRAIN_PAUSE).await;
    }
    Ok(())
}
