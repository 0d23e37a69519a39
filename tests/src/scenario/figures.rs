//! What came of a lane: counted from what the store has, what Postgres showed and what callers got, in the simulation's own
//! terms, so that one code judges both.

use anyhow::Result;
use serde::Serialize;
use tidegate_sim::{
    measure::{Measures, quantile},
    plant::QueueMeter,
    run::Outcome,
    scenario::Needs,
};

use super::{
    Arm, Script,
    count::{Called, Done},
    cpu::Used,
    lane::Costs,
    watch::{QueueLook, Trace},
};

/// A wave of others is answered within a tick: calls of this long after its beginning are judged apart.
const FIRST_TICK_S: f64 = 5.0;
/// Above this share of the machine's processors a run says more about the machine.
const CPU_PCT_MAX: f64 = 60.0;

/// The figures of one lane; [`Figures::get`] has them by name.
pub struct Figures {
    pub arm: Arm,
    /// In the simulation's terms.
    pub outcome: Outcome,
    pub trace: Trace,
    pub calls: Vec<Called>,
    pub done: Vec<Done>,
    pub succeeded: u64,
    /// Acknowledged, and not to be found any more.
    pub lost: u64,
    /// Successes that the store recorded beyond one a job.
    pub double_results: u64,
    pub over_cap_samples: u64,
    pub(super) costs: Option<(Costs, Costs)>,
}

/// A line of the JSON. `null`: it does not apply, or never came.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    pub scenario: String,
    pub arm: String,
    pub repeat: usize,
    pub submitted: u64,
    pub succeeded: u64,
    pub dead: u64,
    pub lost: u64,
    pub double_results: u64,
    pub attempts: u64,
    pub leases_lost: u64,
    pub p50_s: f64,
    pub p99_s: f64,
    pub error_pct: f64,
    pub over_cap_samples: u64,
    pub pool_exhausted_pct: Option<f64>,
    pub api_p99_ms: Option<f64>,
    pub api_errors: u64,
    pub convergence_s: f64,
    pub churn_per_min: f64,
    pub cpu_pct: f64,
    pub void: bool,
}

/// Whether a run shows anything.
pub fn is_void(used: Used) -> bool {
    used.machine_pct > CPU_PCT_MAX
}

impl Figures {
    /// By the names that scenarios use: those of the JSON, of the simulation, and a few that only real servers have.
    ///
    /// # Errors
    /// There is no such measure.
    pub fn get(&self, name: &str, script: &Script, oracle: &Outcome) -> Result<f64> {
        let queue = |name: &str| script.model.queues.keys().position(|known| known == name);
        let workers = script.slots().len().max(1) as f64;
        let window = script.live.window_s.unwrap_or((0.0, script.model.length_s));
        Ok(match name.split_once('.') {
            Some(("in_time_pct", of)) if queue(of).is_some() => {
                self.in_time_pct(script, queue(of).unwrap_or(0))
            }
            Some(("api_p99_ms", "later")) => self.later_api_p99_ms(script),
            Some(("cap_used_pct", "window")) => self.cap_used_pct(window),
            _ => match name {
                "dead" => self.sum(|queue| queue.dead) as f64,
                "lost" => self.lost as f64,
                "double_results" => self.double_results as f64,
                "leases_lost" => self.sum(|queue| queue.redelivered) as f64,
                "over_cap_samples" => self.over_cap_samples as f64,
                "api_errors" => self.api_errors() as f64,
                "done_in_window" => self.done_in(window) as f64,
                "leader_s" => self.leader_s(script.live.kill_leader_s.unwrap_or(0.0)),
                "controller_cpu_pct" => self.a_second(window, |costs| costs.controller_ticks),
                "worker_cpu_pct" => self.a_second(window, |costs| costs.worker_ticks) / workers,
                "store_ops_per_worker" => self.a_second(window, |costs| costs.store_calls) / workers,
                _ => self.measures(script, oracle).get(name)?,
            },
        })
    }

    fn measures<'a>(&'a self, script: &'a Script, oracle: &'a Outcome) -> Measures<'a> {
        Measures {
            scenario: &script.model,
            outcome: &self.outcome,
            oracle,
        }
    }

    fn sum(&self, of: fn(&QueueMeter) -> u64) -> u64 {
        self.outcome.meter.queues.iter().map(of).sum()
    }

    pub fn api_errors(&self) -> u64 {
        self.calls.iter().filter(|call| !call.is_done).count() as u64
    }

    /// Of all that were submitted.
    fn in_time_pct(&self, script: &Script, queue: usize) -> f64 {
        let deadline = script
            .model
            .queues
            .values()
            .nth(queue)
            .and_then(|queue| queue.deadline_s);
        let in_time =
            |job: &&Done| job.queue == queue && job.ended_s - job.due_s <= deadline.unwrap_or(f64::INFINITY);
        let submitted = self.outcome.meter.queues[queue].submitted.max(1);
        100.0 * self.done.iter().filter(in_time).count() as f64 / submitted as f64
    }

    fn later_api_p99_ms(&self, script: &Script) -> f64 {
        let waves = script
            .model
            .events
            .iter()
            .filter(|event| event.needs == Needs::Less);
        let waves: Vec<f64> = waves.map(|event| event.at_s).collect();
        let is_first = |call: &Called| {
            waves
                .iter()
                .any(|at| (*at..at + FIRST_TICK_S).contains(&call.due_s))
        };
        let later = self.calls.iter().filter(|call| call.is_done && !is_first(call));
        let times: Vec<f32> = later.map(|call| call.took_s as f32).collect();
        1_000.0 * quantile(&times, 0.99)
    }

    /// Mean of the sessions of jobs at work, in percent of the caps of the moment.
    pub(super) fn cap_used_pct(&self, (from, until): (f64, f64)) -> f64 {
        let cap_at = |at: f64| {
            let looks = self.trace.queues.iter().take_while(|(seen, _)| *seen <= at);
            let caps = looks
                .last()
                .map(|(_, queues)| queues.iter().filter_map(|queue| queue.cap).sum::<u32>());
            f64::from(caps.unwrap_or(0).max(1))
        };
        let sessions = self
            .trace
            .sessions
            .iter()
            .filter(|(at, _)| (from..until).contains(at));
        let used: Vec<f64> = sessions
            .map(|(at, sessions)| 100.0 * f64::from(sessions.jobs_at_work) / cap_at(*at))
            .collect();
        used.iter().sum::<f64>() / used.len().max(1) as f64
    }

    fn done_in(&self, (from, until): (f64, f64)) -> usize {
        self.done
            .iter()
            .filter(|job| (from..until).contains(&job.ended_s))
            .count()
    }

    /// From the death of a leader until the store has a cap of the next one.
    pub(super) fn leader_s(&self, killed_s: f64) -> f64 {
        let epoch = |looks: &[QueueLook]| looks.iter().map(|queue| queue.epoch).max().unwrap_or(0);
        let before = self.trace.queues.iter().take_while(|(at, _)| *at < killed_s);
        let before = before.last().map_or(0, |(_, looks)| epoch(looks));
        let next = self.trace.queues.iter().find(|(_, looks)| epoch(looks) > before);
        next.map_or(f64::INFINITY, |(at, _)| at - killed_s)
    }

    /// What was taken in the window, by its seconds. Hundredths of a second of a processor, each second, are percent of it.
    fn a_second(&self, (from, until): (f64, f64), of: fn(&Costs) -> u64) -> f64 {
        let taken = |(opened, closed): &(Costs, Costs)| of(closed).saturating_sub(of(opened)) as f64;
        self.costs.as_ref().map_or(f64::NAN, taken) / (until - from)
    }

    /// # Errors
    /// As [`Self::get`].
    pub fn row(&self, script: &Script, oracle: &Outcome, repeat: usize, used: Used) -> Result<Row> {
        let get = |name: &str| self.get(name, script, oracle);
        let has_pool = !self.outcome.meter.pools.is_empty();
        Ok(Row {
            scenario: script.number.clone(),
            arm: self.arm.to_string(),
            repeat,
            submitted: self.sum(|queue| queue.submitted - queue.refused),
            succeeded: self.succeeded,
            dead: self.sum(|queue| queue.dead),
            lost: self.lost,
            double_results: self.double_results,
            attempts: self.sum(|queue| queue.attempts),
            leases_lost: self.sum(|queue| queue.redelivered),
            p50_s: rounded(get("p50_s")?),
            p99_s: rounded(get("p99_s")?),
            error_pct: rounded(get("error_pct")?),
            over_cap_samples: self.over_cap_samples,
            pool_exhausted_pct: has_pool
                .then(|| get("pool_exhausted_pct"))
                .transpose()?
                .map(rounded),
            api_p99_ms: has_pool.then(|| get("api_p99_ms")).transpose()?.map(rounded),
            api_errors: self.api_errors(),
            convergence_s: get("convergence_s")?,
            churn_per_min: rounded(get("churn_per_min")?),
            cpu_pct: rounded(used.machine_pct),
            void: is_void(used),
        })
    }
}

/// More digits than these are noise.
fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
