//! Counting: what is known of a lane becomes figures, in the simulation's own terms.

use std::collections::BTreeMap;

use tidegate_protocol::domain::JobState;
use tidegate_sim::{
    plant::{Meter, PoolMeter, QueueMeter, Second},
    run::Outcome,
};

use super::{
    Arm, Figures, Script,
    lane::Costs,
    watch::{Counts, Trace},
};

/// A job as the store has it in the end.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub state: JobState,
    pub finished_ms: u64,
}

/// One submit: its queue's place, when it was due (seconds since the start), and the id that was acknowledged.
#[derive(Clone, Debug)]
pub struct Submitted {
    pub queue: usize,
    pub due_s: f64,
    pub id: Option<String>,
}

/// One call of the other users. Seconds.
#[derive(Clone, Copy, Debug)]
pub struct Called {
    pub due_s: f64,
    pub took_s: f64,
    pub is_done: bool,
}

/// A job that succeeded. Seconds since the start.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    pub queue: usize,
    pub due_s: f64,
    pub ended_s: f64,
}

/// Everything that is known of a lane.
#[derive(Default)]
pub struct Facts {
    /// The start, by the clock that the store shares.
    pub start_ms: u64,
    pub submitted: Vec<Submitted>,
    pub calls: Vec<Called>,
    /// Of each queue, in the order of the scenario.
    pub jobs: Vec<BTreeMap<String, Ended>>,
    pub succeeded_total: Vec<u64>,
    pub counts: Vec<Counts>,
    pub trace: Trace,
    /// At both ends of the scenario's window.
    pub costs: Option<(Costs, Costs)>,
}

impl Figures {
    pub fn of(arm: Arm, script: &Script, facts: Facts) -> Self {
        let length_s = script.model.length_s;
        let mut meter = Meter::new(script.model.queues.len(), script.model.resources.len());
        let mut figures = Self {
            arm,
            outcome: Outcome {
                meter: Meter::default(),
                length_s,
                ticks: Vec::new(),
                moved: 0,
                last_change_s: 0.0,
            },
            trace: Trace::default(),
            calls: Vec::new(),
            done: Vec::new(),
            succeeded: 0,
            lost: 0,
            double_results: 0,
            over_cap_samples: 0,
            costs: facts.costs.clone(),
        };
        figures.count_jobs(&facts, length_s, &mut meter.queues);
        if let (Some(pool), Some((hard, capacity))) = (meter.pools.first_mut(), script.hard_cap()) {
            figures.over_cap_samples = count_pool(&facts, length_s, hard, capacity, pool);
        }
        meter.seconds = seconds(&facts.trace, length_s);
        (figures.outcome.moved, figures.outcome.last_change_s) = moves(&facts.trace);
        figures.outcome.meter = meter;
        (figures.trace, figures.calls) = (facts.trace, facts.calls);
        figures
    }

    fn count_jobs(&mut self, facts: &Facts, length_s: f64, meters: &mut [QueueMeter]) {
        for job in &facts.submitted {
            let meter = &mut meters[job.queue];
            meter.submitted += 1;
            let Some(id) = &job.id else {
                meter.refused += 1;
                continue;
            };
            let ended = facts.jobs[job.queue].get(id);
            let ended_s = ended.map_or(0.0, |ended| {
                (ended.finished_ms as f64 - facts.start_ms as f64) / 1_000.0
            });
            match ended.map(|ended| ended.state) {
                None => self.lost += 1,
                Some(JobState::Succeeded) => {
                    self.succeeded += 1;
                    let sojourn = (ended_s - job.due_s).max(0.0) as f32;
                    // The end of the run is the end of what counts as done.
                    match ended_s <= length_s {
                        true => meter.sojourns.push(sojourn),
                        false => meter.unfinished.push(sojourn),
                    }
                    self.done.push(Done {
                        queue: job.queue,
                        due_s: job.due_s,
                        ended_s,
                    });
                }
                Some(JobState::Dead | JobState::Expired | JobState::Cancelled) => meter.dead += 1,
                Some(JobState::Scheduled | JobState::Ready | JobState::Running) => {
                    meter.unfinished.push((length_s - job.due_s).max(0.0) as f32);
                }
            }
        }
        for (place, meter) in meters.iter_mut().enumerate() {
            let counts = facts.counts.get(place).copied().unwrap_or_default();
            meter.attempts = counts.succeeded + counts.failed;
            (meter.failed, meter.redelivered) = (counts.failed, counts.leases_lost);
            let distinct = facts.jobs.get(place).map_or(0, |jobs| {
                jobs.values()
                    .filter(|job| job.state == JobState::Succeeded)
                    .count() as u64
            });
            let recorded = facts.succeeded_total.get(place).copied().unwrap_or(0);
            self.double_results += recorded.saturating_sub(distinct);
        }
    }
}

/// Fills a pool's meter; answers how many samples were above the hard cap.
fn count_pool(facts: &Facts, length_s: f64, hard: u32, capacity: u32, pool: &mut PoolMeter) -> u64 {
    let sessions = &facts.trace.sessions;
    let share = |count: u64| length_s * count as f64 / sessions.len().max(1) as f64;
    let over = sessions
        .iter()
        .filter(|(_, seen)| seen.jobs_at_work > hard)
        .count() as u64;
    let full = sessions.iter().filter(|(_, seen)| seen.all >= capacity).count() as u64;
    (pool.over_s, pool.exhausted_s) = (share(over), share(full));
    pool.calls = facts.calls.len() as u64;
    let done = facts.calls.iter().filter(|call| call.is_done);
    pool.call_times = done.map(|call| call.took_s as f32).collect();
    pool.calls_failed = pool.calls - pool.call_times.len() as u64;
    over
}

/// Means of each second; one without a look is as the one before.
fn seconds(trace: &Trace, length_s: f64) -> Vec<Second> {
    let mut seconds = Vec::new();
    let mut last = Second::default();
    for second in 0..length_s as usize {
        let looks = trace.queues.iter().filter(|(at, _)| *at as usize == second);
        let looks: Vec<(f64, f64)> = looks
            .map(|(_, queues)| {
                let slots: u64 = queues.iter().map(|queue| queue.slots).sum();
                let ready: u64 = queues.iter().map(|queue| queue.ready).sum();
                (slots as f64, ready as f64)
            })
            .collect();
        if !looks.is_empty() {
            let mean = |of: fn(&(f64, f64)) -> f64| looks.iter().map(of).sum::<f64>() / looks.len() as f64;
            last = Second {
                running: mean(|look| look.0),
                ready: mean(|look| look.1),
                done: 0,
            };
        }
        seconds.push(last);
    }
    seconds
}

/// Slots that caps were seen to move by, and when they did last.
fn moves(trace: &Trace) -> (u64, f64) {
    let (mut moved, mut last_s) = (0, 0.0);
    for pair in trace.queues.windows(2) {
        let [(_, before), (at, after)] = pair else {
            continue;
        };
        let caps = before
            .iter()
            .zip(after)
            .filter_map(|(before, after)| before.cap.zip(after.cap));
        let step: u64 = caps
            .map(|(before, after)| u64::from(before.abs_diff(after)))
            .sum();
        if step > 0 {
            (moved, last_s) = (moved + step, *at);
        }
    }
    (moved, last_s)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{cpu::Used, plant::Sessions, watch::QueueLook};

    fn facts() -> Facts {
        let job = |id: Option<&str>, due_s| Submitted {
            queue: 0,
            due_s,
            id: id.map(str::to_owned),
        };
        let ended = |state, at_s: f64| Ended {
            state,
            finished_ms: 1_000_000 + (at_s * 1e3) as u64,
        };
        let sessions = |at, jobs_at_work, all| (at, Sessions { jobs_at_work, all });
        let look = |at, cap, epoch| {
            let look = QueueLook {
                ready: 3,
                slots: 20,
                cap: Some(cap),
                epoch,
                idle: false,
            };
            (at, vec![look])
        };
        let call = |due_s, took_s, is_done| Called {
            due_s,
            took_s,
            is_done,
        };
        Facts {
            start_ms: 1_000_000,
            submitted: vec![
                job(Some("a"), 1.0),
                job(Some("b"), 2.0),
                job(Some("c"), 3.0),
                job(Some("gone"), 4.0),
                job(Some("late"), 290.0),
                job(None, 5.0),
            ],
            calls: vec![
                call(1.0, 0.1, true),
                call(62.0, 0.9, true),
                call(70.0, 1.0, false),
            ],
            jobs: vec![BTreeMap::from([
                ("a".to_owned(), ended(JobState::Succeeded, 3.0)),
                ("b".to_owned(), ended(JobState::Dead, 9.0)),
                ("c".to_owned(), ended(JobState::Ready, 0.0)),
                ("late".to_owned(), ended(JobState::Succeeded, 310.0)),
            ])],
            succeeded_total: vec![3],
            counts: vec![Counts {
                succeeded: 3,
                failed: 1,
                leases_lost: 2,
            }],
            trace: Trace {
                sessions: vec![sessions(0.1, 35, 50), sessions(0.2, 36, 49)],
                queues: vec![look(0.0, 10, 1), look(0.5, 14, 1), look(150.0, 12, 2)],
                ..Trace::default()
            },
            costs: None,
        }
    }

    #[test]
    fn what_was_acknowledged_is_accounted_for() {
        let script = Script::named("4").expect("it is there");
        let figures = Figures::of(Arm::Adaptive, &script, facts());
        let get = |name: &str| figures.get(name, &script, &figures.outcome).expect(name);
        assert_eq!((get("lost"), get("dead"), get("double_results")), (1.0, 1.0, 1.0));
        assert_eq!(
            (get("attempts"), get("error_pct"), get("leases_lost")),
            (4.0, 25.0, 2.0)
        );
        // `c` has waited since its third second, and `late` was later than the end.
        assert_eq!((get("p50_s"), get("p99_s")), (20.0, 297.0));
        assert_eq!((get("over_cap_samples"), get("pool_exhausted_pct")), (1.0, 50.0));
        assert_eq!((get("api_errors"), get("api_p99_ms").round()), (1.0, 900.0));
        assert_eq!(
            get("api_p99_ms.later").round(),
            100.0,
            "the first tick of a wave is apart"
        );
        assert_eq!(figures.outcome.moved, 6);
        assert_eq!(figures.outcome.last_change_s, 150.0);
        assert_eq!(figures.leader_s(120.0), 30.0);
        assert_eq!(figures.cap_used_pct((0.0, 1.0)), 355.0);
        let used = Used {
            machine_pct: 61.0,
            own_pct: 20.0,
        };
        let row = figures
            .row(&script, &figures.outcome, 1, used)
            .expect("every measure");
        assert_eq!((row.submitted, row.succeeded, row.void), (5, 2, true));
    }
}
