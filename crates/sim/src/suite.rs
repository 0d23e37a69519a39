//! Scenarios by strategies by seeds, two at a time, judged.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Result;
use serde::Serialize;

use crate::{
    measure::Measures,
    run::{Outcome, Setup, run},
    scenario::{Expect, Scenario},
};

/// One scenario on one seed, under several strategies.
pub struct Job<'a> {
    pub scenario: &'a Scenario,
    pub seed: u64,
    pub tick_s: f64,
    pub strategies: &'a [String],
}

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub scenario: String,
    pub strategy: String,
    pub seed: u64,
    pub tick_s: f64,
    pub goodput_pct: f64,
    pub p50_s: f64,
    pub p99_s: f64,
    pub error_pct: f64,
    pub lost: u64,
    pub over_cap_pct: f64,
    pub pool_exhausted_pct: f64,
    /// `null`: it never came to rest.
    pub convergence_s: f64,
    pub churn_per_min: f64,
    pub pass: bool,
    /// Of each expectation: what it is about, its value, and whether it holds.
    #[serde(skip)]
    pub checks: Vec<Check>,
}

#[derive(Clone, Debug)]
pub struct Check {
    pub measure: String,
    pub bounds: String,
    /// As numbers, whatever they were said in.
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub value: f64,
    pub holds: bool,
    pub why: String,
}

/// Runs every job; rows come in the order of the jobs. As many at a time as there are cores.
pub fn rows_of(jobs: &[Job<'_>]) -> Result<Vec<Row>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let results: Mutex<BTreeMap<usize, Result<Vec<Row>>>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..cores.min(jobs.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(at) else { return };
                    let rows = job.run();
                    results
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(at, rows);
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut rows = Vec::new();
    for result in results.into_values() {
        rows.extend(result?);
    }
    Ok(rows)
}

/// Each expectation, by the values of measures: of the run that is judged (`None`), and of those it is compared with.
pub fn judge(expects: &[Expect], value: impl Fn(&str, Option<&str>) -> Result<f64>) -> Result<Vec<Check>> {
    let check = |expect: &Expect| {
        let unit = match &expect.times {
            Some(other) => value(&expect.measure, Some(other))?,
            None => 1.0,
        };
        let (min, max) = (expect.min.map(|min| min * unit), expect.max.map(|max| max * unit));
        let value = value(&expect.measure, None)?;
        let bound = |sign: &str, bound: Option<f64>| {
            let times = expect
                .times
                .as_ref()
                .map_or_else(String::new, |times| format!(" x {times}"));
            bound.map_or_else(String::new, |bound| format!("{sign} {bound}{times} "))
        };
        Ok(Check {
            measure: expect.measure.clone(),
            bounds: format!("{}{}", bound(">=", expect.min), bound("<=", expect.max))
                .trim()
                .to_owned(),
            min,
            max,
            value,
            holds: min.is_none_or(|min| value >= min) && max.is_none_or(|max| value <= max),
            why: expect.why.clone(),
        })
    };
    expects.iter().map(check).collect()
}

impl Job<'_> {
    fn run(&self) -> Result<Vec<Row>> {
        let setup = Setup {
            seed: self.seed,
            tick_s: self.tick_s,
            keeps_log: false,
        };
        let mut outcomes: BTreeMap<&str, Outcome> = BTreeMap::new();
        let compared = self
            .scenario
            .expect
            .iter()
            .filter_map(|expect| expect.times.as_deref());
        for name in self
            .strategies
            .iter()
            .map(String::as_str)
            .chain(compared)
            .chain(["oracle"])
        {
            if !outcomes.contains_key(name) {
                // A constant has no tick; the rules that are compared with run at the tick that they were made for.
                outcomes.insert(name, run(self.scenario, name, &setup)?);
            }
        }
        self.strategies
            .iter()
            .map(|name| self.row(name, &outcomes))
            .collect()
    }

    fn row(&self, name: &str, outcomes: &BTreeMap<&str, Outcome>) -> Result<Row> {
        let of = |name: &str| Measures {
            scenario: self.scenario,
            outcome: &outcomes[name],
            oracle: &outcomes["oracle"],
        };
        let measures = of(name);
        let value = |measure: &str, strategy: Option<&str>| of(strategy.unwrap_or(name)).get(measure);
        let checks = judge(&self.scenario.expect, value)?;
        Ok(Row {
            scenario: self.scenario.name.clone(),
            strategy: name.to_owned(),
            seed: self.seed,
            tick_s: self.tick_s,
            goodput_pct: measures.get("goodput_pct")?,
            p50_s: measures.get("p50_s")?,
            p99_s: measures.get("p99_s")?,
            error_pct: measures.get("error_pct")?,
            lost: measures.get("lost")? as u64,
            over_cap_pct: measures.get("over_cap_pct")?,
            pool_exhausted_pct: measures.get("pool_exhausted_pct")?,
            convergence_s: measures.get("convergence_s")?,
            churn_per_min: measures.get("churn_per_min")?,
            pass: checks.iter().all(|check| check.holds),
            checks,
        })
    }
}
