//! Two of the scenarios on real servers, made short: what `cargo xtask scenario` does, with debug builds and two arms.
//!
//! A binary of its own, because cargo runs the binaries of tests one after another: nothing else is measured, or computes,
//! beside these, and they sleep for most of their time. What is promised is asserted as it is promised; what is better only
//! as a ratio with much room, because a busy machine slows all arms down.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "test code: real time, and a panic is the way to report"
)]

use tidegate_tests::scenario::{Arm, Figures, Run, Script, once};
use tokio::sync::Mutex;

/// Everything happens in this time.
const SECONDS: f64 = 45.0;
/// No goal of a scenario was judged, or tuned, by it.
const SEED: u64 = 23;
/// Four lanes at once are more than two processors run with debug builds.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
/// Of ten looks a second at the sessions at work, on a machine that is too busy; fewer would show nothing.
const LOOKS_MIN: usize = 100;

/// The scenario under the governor and under a constant of 50, once.
async fn short(name: &str) -> Run {
    let _one = ONE_AT_A_TIME.lock().await;
    let script = Script::named(name).unwrap().in_seconds(SECONDS);
    let run = once(&script, &[Arm::Adaptive, Arm::Fixed(50)], SEED)
        .await
        .unwrap();
    for figures in &run.figures {
        let get = |measure: &str| figures.get(measure, &run.script, &run.oracle).unwrap();
        println!(
            "{} {}: p99 {:.1} s, dead {}, attempts {}, errors {:.1} %, exhausted {:.1} %, API errors {}",
            run.script.model.name,
            figures.arm,
            get("p99_s"),
            get("dead"),
            get("attempts"),
            get("error_pct"),
            get("pool_exhausted_pct"),
            get("api_errors"),
        );
        assert_eq!(get("lost"), 0.0, "{} lost what it had acknowledged", figures.arm);
        assert_eq!(get("double_results"), 0.0, "{} recorded a job twice", figures.arm);
        assert!(
            figures.trace.sessions.len() >= LOOKS_MIN,
            "{}",
            figures.trace.sessions.len()
        );
    }
    run
}

/// The governor's and the constant's figures.
fn both(run: &Run) -> (&Figures, &Figures) {
    (&run.figures[0], &run.figures[1])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_load_rises_twelvefold() {
    let run = Box::pin(short("seed-step")).await;
    let (governed, constant) = both(&run);
    let of = |figures: &Figures, measure: &str| figures.get(measure, &run.script, &run.oracle).unwrap();
    assert_eq!(governed.over_cap_samples, 0, "jobs held more than they may");
    assert!(
        constant.over_cap_samples > 0,
        "the load is none: 50 jobs never ran"
    );
    for measure in ["pool_exhausted_pct", "error_pct"] {
        let (mine, its) = (of(governed, measure), of(constant, measure));
        assert!(mine < 0.7 * its, "{measure} {mine}, {its} under a constant");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_downstream_dies_with_jobs_waiting() {
    let run = Box::pin(short("retry-storm")).await;
    let (governed, constant) = both(&run);
    let of = |figures: &Figures, measure: &str| figures.get(measure, &run.script, &run.oracle).unwrap();
    assert_eq!(governed.over_cap_samples, 0, "jobs held more than they may");
    assert_eq!(
        of(governed, "dead"),
        0.0,
        "attempts were used up by a server that was not there"
    );
    let (mine, its) = (of(governed, "attempts"), of(constant, "attempts"));
    assert!(mine < 0.8 * its, "{mine} attempts, {its} under a constant");
}
