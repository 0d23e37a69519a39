//! Scenarios by repeats: run, judged, shown.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use tidegate_sim::{Check, judge, scenario::Expect};

use super::{Arm, Row, Run, Script, figures::is_void, once, page, show};

/// What is asked for.
pub struct Options {
    /// Numbers or names; `all`.
    pub names: Vec<String>,
    /// In place of those that a scenario names.
    pub arms: Vec<Arm>,
    pub repeats: usize,
    /// In place of the length of the scenario.
    pub seconds: Option<f64>,
    /// Of the first repeat; each one has the next.
    pub seed: u64,
    pub json: Option<PathBuf>,
    pub report: Option<PathBuf>,
}

/// One run with its rows, and what is thought of it.
pub struct Judged {
    pub run: Run,
    pub repeat: usize,
    pub rows: Vec<Row>,
    /// Of Tidegate's own arm.
    pub checks: Vec<Check>,
}

impl Judged {
    pub fn is_void(&self) -> bool {
        is_void(self.run.used)
    }
}

/// Runs everything; `false`: a goal was missed, or a run shows nothing.
///
/// # Errors
/// What cannot be run, drawn or written.
pub async fn run(options: &Options) -> Result<bool> {
    let scripts = options.scripts()?;
    let mut all = Vec::new();
    for script in &scripts {
        for repeat in 1..=options.repeats {
            let arms = match options.arms.is_empty() {
                true => &script.live.arms,
                false => &options.arms,
            };
            let seed = options.seed + repeat as u64 - 1;
            let done = Box::pin(once(script, arms, seed)).await;
            let done = done.with_context(|| format!("scenario {}", script.model.name))?;
            let judged = judged(done, repeat)?;
            print!("{}", show::text(&judged));
            all.push(judged);
        }
    }
    print!("{}", show::summary(&all));
    let rows: Vec<&Row> = all.iter().flat_map(|judged| &judged.rows).collect();
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&rows)? + "\n";
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(folder) = &options.report {
        println!("{}", page::write(&all, folder)?.display());
    }
    Ok(all
        .iter()
        .all(|judged| !judged.is_void() && judged.checks.iter().all(|check| check.holds)))
}

impl Options {
    fn scripts(&self) -> Result<Vec<Script>> {
        if self.repeats == 0 {
            bail!("--repeats must be at least 1");
        }
        let mut scripts = Vec::new();
        for name in &self.names {
            match name.as_str() {
                "all" => scripts.extend(Script::all()?),
                name => scripts.push(Script::named(name)?),
            }
        }
        let shortened = |script: Script| match self.seconds {
            Some(seconds) => script.in_seconds(seconds),
            None => script,
        };
        Ok(scripts.into_iter().map(shortened).collect())
    }
}

fn judged(run: Run, repeat: usize) -> Result<Judged> {
    let rows = run
        .figures
        .iter()
        .map(|figures| figures.row(&run.script, &run.oracle, repeat, run.used));
    Ok(Judged {
        rows: rows.collect::<Result<_>>()?,
        checks: checks(&run)?,
        repeat,
        run,
    })
}

/// Goals of the arm that is judged; those that compare it with an arm that was not run are left out.
pub(super) fn checks(run: &Run) -> Result<Vec<Check>> {
    let arm_named = |name: &str| run.figures.iter().find(|figures| figures.arm.to_string() == name);
    let Some(mine) = run.figures.iter().find(|figures| figures.arm.is_judged()) else {
        return Ok(Vec::new());
    };
    let can_compare = |expect: &&Expect| {
        let other = expect.times.as_deref().or(needed(&expect.measure));
        other.is_none_or(|other| other == "oracle" || arm_named(other).is_some())
    };
    let all: Vec<Expect> = promises(&run.script)
        .into_iter()
        .chain(run.script.live.expect.clone())
        .collect();
    let asked: Vec<Expect> = all.iter().filter(can_compare).cloned().collect();
    judge(&asked, |measure, other| {
        let get = |figures: &super::Figures, name: &str| figures.get(name, &run.script, &run.oracle);
        match (other, arm_named(other.unwrap_or_default())) {
            (Some("oracle"), _) => oracle(run, measure),
            (Some(_), Some(figures)) => get(figures, measure),
            _ if measure == OVER_CALM => {
                let calm = arm_named("calm").context("it needs the arm calm")?;
                Ok(get(mine, "p99_s")? - get(calm, "p99_s")?)
            }
            _ => get(mine, measure),
        }
    })
}

/// How much longer a hundredth of the jobs takes than without the fault.
const OVER_CALM: &str = "p99_over_calm_s";

/// The arm that a measure is a difference to.
fn needed(measure: &str) -> Option<&'static str> {
    (measure == OVER_CALM).then_some("calm")
}

fn oracle(run: &Run, measure: &str) -> Result<f64> {
    let measures = tidegate_sim::measure::Measures {
        scenario: &run.script.model,
        outcome: &run.oracle,
        oracle: &run.oracle,
    };
    measures.get(measure)
}

/// What holds in every scenario.
fn promises(script: &Script) -> Vec<Expect> {
    let none = |measure: &str, why: &str| Expect {
        measure: measure.to_owned(),
        min: None,
        max: Some(0.0),
        times: None,
        why: why.to_owned(),
    };
    let mut promises = vec![
        none("lost", "what was acknowledged comes to an end"),
        none("double_results", "one result a job"),
    ];
    if script.hard_cap().is_some() {
        promises.push(none(
            "over_cap_samples",
            "the hard cap is a promise, at every moment",
        ));
    }
    promises
}
