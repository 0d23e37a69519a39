//! One run: a plant under a strategy, tick by tick, under the rules that every cap is changed by.

use anyhow::Result;

use crate::{
    misreport::Liar,
    plant::{Limit, Meter, Plant},
    scenario::Scenario,
    strategies::{self, Choice, Rule, Seen},
};

/// Early ticks are at least this far apart.
const EARLY_TICK_S: f64 = 1.0;
/// Looks in a row after which others are believed to have gone, or a pool to be full.
const HINTS: u32 = 2;
/// Nodes report this often.
const REPORT_S: f64 = 1.0;

/// How to run.
#[derive(Clone, Debug)]
pub struct Setup {
    pub seed: u64,
    pub tick_s: f64,
    /// Whether to keep each tick's numbers, for `explain` and plots.
    pub keeps_log: bool,
}

/// A tick as it was.
#[derive(Clone, Debug)]
pub struct Tick {
    pub at: f64,
    /// As decided, and the caps that came of it.
    pub choices: Vec<Choice>,
    pub caps: Vec<u32>,
}

/// What came of a run.
pub struct Outcome {
    pub meter: Meter,
    pub length_s: f64,
    pub ticks: Vec<Tick>,
    /// Slots that caps moved by, over all queues.
    pub moved: u64,
    /// When the caps changed last.
    pub last_change_s: f64,
}

pub fn run(scenario: &Scenario, strategy: &str, setup: &Setup) -> Result<Outcome> {
    let mut plant = Plant::new(scenario, setup.seed);
    let rule = strategies::by_name(strategy, scenario)?;
    plant.has_reflexes = rule.has_reflexes();
    let tick_s = rule.tick_s().unwrap_or(setup.tick_s);
    let mut course = Course {
        scenario,
        rule,
        plant,
        decided: Vec::new(),
        caps: vec![0; scenario.queues.len()],
        outcome: Outcome {
            meter: Meter::default(),
            length_s: scenario.length_s,
            ticks: Vec::new(),
            moved: 0,
            last_change_s: 0.0,
        },
    };
    let mut liar = Liar::default();
    let (mut last, mut next) = (0.0, 0.0);
    loop {
        let wave = course.wait(last, next);
        let now = course.plant.now;
        if now >= scenario.length_s {
            break;
        }
        // At the start nothing has been seen yet.
        let mut truth = course.plant.report(if now > 0.0 { now - last } else { tick_s });
        for (at, in_use, by_jobs) in wave {
            (truth.pools[at].in_use, truth.pools[at].by_jobs) = (Some(in_use), Some(by_jobs));
        }
        let report = liar.distort(&scenario.misreports, &truth);
        let seen = Seen {
            report: &report,
            truth: &truth,
            scenario,
            tick_s,
        };
        course.decided = course.rule.decide(&seen);
        course.order();
        if setup.keeps_log {
            course.outcome.ticks.push(Tick {
                at: now,
                choices: course.decided.clone(),
                caps: course.caps.clone(),
            });
        }
        (last, next) = (now, (now + tick_s).min(scenario.length_s));
    }
    course.outcome.meter = course.plant.meter;
    Ok(course.outcome)
}

/// A run on its way.
struct Course<'a> {
    scenario: &'a Scenario,
    rule: Box<dyn Rule>,
    plant: Plant,
    /// Of the last tick, and what has been ordered of it.
    decided: Vec<Choice>,
    caps: Vec<u32>,
    outcome: Outcome,
}

impl Course<'_> {
    /// Runs the plant to the next tick, which an alarm, a surge, a queue's first end or a wave brings forward; reports come
    /// once a second. Gives the newest look at the pools, if that is why.
    fn wait(&mut self, last: f64, mut next: f64) -> Vec<(usize, f64, f64)> {
        let (mut looked_at, mut wave) = (last, Vec::new());
        let mut hints = vec![0; self.scenario.resources.len()];
        while self.plant.now < next {
            let until = next.min(self.plant.now.floor() + REPORT_S);
            let mut is_early = self.plant.run(until) && self.rule.has_reflexes();
            if self.plant.now == until {
                if self.plant.now < next && self.is_waiting() {
                    self.order();
                }
                let (plant, rule, scenario) = (&mut self.plant, self.rule.as_ref(), self.scenario);
                let looks = plant.look(plant.now - looked_at);
                looked_at = plant.now;
                let since = plant.now - last;
                is_early |= (0..plant.queues()).any(|at| rule.is_news(scenario, at, plant.news(at), since));
                let mut is_wave = false;
                for (at, all, jobs) in &looks {
                    let is_hint =
                        rule.is_wave_over(scenario, *at, all - jobs) || rule.is_filled(scenario, *at, *all);
                    hints[*at] = if is_hint { hints[*at] + 1 } else { 0 };
                    is_wave |= hints[*at] == HINTS || rule.is_wave(scenario, *at, all - jobs);
                }
                if is_wave {
                    is_early = true;
                    wave = looks;
                }
            }
            if is_early {
                next = next.min((last + EARLY_TICK_S).max(self.plant.now));
            }
        }
        wave
    }

    /// Whether a raise waits for slots that are still held.
    fn is_waiting(&self) -> bool {
        let mut pairs = self.decided.iter().zip(&self.caps);
        self.rule.is_budgeted() && pairs.any(|(choice, cap)| *cap < choice.limit.cap)
    }

    /// Orders what was decided, as far as it can be paid now.
    fn order(&mut self) {
        let before = self.caps.clone();
        apply(self.rule.as_ref(), &self.decided, &mut self.caps, &self.plant);
        let pairs = self.caps.iter().zip(&before);
        let moved: u64 = pairs.map(|(new, old)| u64::from(new.abs_diff(*old))).sum();
        // The first caps are no change.
        if self.plant.now > 0.0 {
            self.outcome.moved += moved;
        }
        if moved > 0 {
            self.outcome.last_change_s = self.plant.now;
        }
        self.plant.set_limits(&limits(&self.decided, &self.caps));
    }
}

fn limits(choices: &[Choice], caps: &[u32]) -> Vec<Limit> {
    let pairs = choices.iter().zip(caps);
    pairs
        .map(|(choice, cap)| Limit {
            cap: *cap,
            retry_cap: choice.limit.retry_cap.min(*cap),
            ..choice.limit.clone()
        })
        .collect()
}

/// Lowers at once; raises from what is certain: the hard cap minus what every queue may hold now.
fn apply(rule: &dyn Rule, choices: &[Choice], caps: &mut [u32], plant: &Plant) {
    if !rule.is_budgeted() {
        caps.iter_mut()
            .zip(choices)
            .for_each(|(cap, choice)| *cap = choice.limit.cap);
        return;
    }
    caps.iter_mut()
        .zip(choices)
        .for_each(|(cap, choice)| *cap = choice.limit.cap.min(*cap));
    let hard = plant.hard_caps();
    for at in 0..caps.len() {
        let room = plant.costs(at).iter().map(|place| {
            let others = (0..caps.len()).filter(|other| *other != at && plant.costs(*other).contains(place));
            let held: u32 = others.map(|other| caps[other].max(plant.running(other))).sum();
            hard[*place].saturating_sub(held)
        });
        let affordable = room.min().unwrap_or(u32::MAX);
        caps[at] = choices[at].limit.cap.min(affordable.max(caps[at]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEADY: &str = r#"
        name = "a"
        about = "b"
        length_s = 60
        [resources.pg]
        capacity = 50
        knee = 32
        [queues.q]
        per_s = 10
        work = [{ resource = "pg", time = "er4(0.3)" }]
    "#;

    #[test]
    fn the_same_seed_is_the_same_run_and_another_is_not() {
        let scenario = Scenario::parse(STEADY).expect("valid");
        let sojourns = |seed: u64| {
            let setup = Setup {
                seed,
                tick_s: 5.0,
                keeps_log: false,
            };
            run(&scenario, "adaptive", &setup).expect("runs").meter.queues[0]
                .sojourns
                .clone()
        };
        assert_eq!(sojourns(1), sojourns(1));
        assert_ne!(sojourns(1), sojourns(2));
    }

    #[test]
    fn strategies_meet_the_same_arrivals() {
        let scenario = Scenario::parse(STEADY).expect("valid");
        let submitted = |strategy: &str| {
            let setup = Setup {
                seed: 5,
                tick_s: 5.0,
                keeps_log: false,
            };
            run(&scenario, strategy, &setup).expect("runs").meter.queues[0].submitted
        };
        assert!(submitted("oracle") > 500);
        assert_eq!(submitted("oracle"), submitted("static10"));
    }
}
