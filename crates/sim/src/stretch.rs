//! The same scenario in another time: what happens, happens sooner or later; jobs, rates and limits are what they are.

use crate::{
    scenario::Scenario,
    shape::{Curve, Form},
};

impl Scenario {
    /// Every moment of it, and its length, times `factor`.
    #[must_use]
    pub fn stretched(&self, factor: f64) -> Self {
        let mut scenario = self.clone();
        scenario.length_s *= factor;
        let store = &mut scenario.store;
        store.op_ms = store.op_ms.stretched(factor);
        store.latency_ms = store.latency_ms.stretched(factor);
        stretch_all(&mut store.down_s, factor);
        for change in &mut scenario.fleet.changes {
            change.at_s *= factor;
        }
        for resource in scenario.resources.values_mut() {
            resource.knee = resource.knee.stretched(factor);
            stretch_all(&mut resource.down_s, factor);
            if let Some(api) = &mut resource.api {
                api.per_s = api.per_s.stretched(factor);
            }
        }
        for queue in scenario.queues.values_mut() {
            queue.per_s = queue.per_s.stretched(factor);
            queue.scale = queue.scale.stretched(factor);
            queue.fails = queue.fails.stretched(factor);
            queue.bursts.iter_mut().for_each(|(at, _)| *at *= factor);
        }
        for misreport in &mut scenario.misreports {
            misreport.from_s *= factor;
            misreport.until_s *= factor;
        }
        scenario.events.iter_mut().for_each(|event| event.at_s *= factor);
        scenario
    }
}

fn stretch_all(stretches: &mut [(f64, f64)], factor: f64) {
    for (from, until) in stretches {
        *from *= factor;
        *until *= factor;
    }
}

impl Curve {
    #[must_use]
    pub fn stretched(&self, factor: f64) -> Self {
        let points = |points: &[(f64, f64)]| points.iter().map(|(at, value)| (at * factor, *value)).collect();
        match self {
            Curve::Always(value) => Curve::Always(*value),
            Curve::Steps(steps) => Curve::Steps(points(steps)),
            Curve::Form(Form::Lines(lines)) => Curve::Form(Form::Lines(points(lines))),
            Curve::Form(Form::Wave { low, high, period_s }) => Curve::Form(Form::Wave {
                low: *low,
                high: *high,
                period_s: period_s * factor,
            }),
            Curve::Form(Form::Square { low, high, period_s }) => Curve::Form(Form::Square {
                low: *low,
                high: *high,
                period_s: period_s * factor,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    #[test]
    fn a_stretched_scenario_is_the_same_at_its_own_times() {
        for file in cli::all_files().expect("files") {
            let whole = Scenario::load(&file).expect("valid");
            let half = whole.stretched(0.5);
            assert_eq!(half.length_s, whole.length_s / 2.0);
            for at in [0.0, 60.5, 130.0, 199.0, 250.0] {
                for (name, queue) in &whole.queues {
                    let same = half.queues[name].per_s.at(at / 2.0);
                    assert!((same - queue.per_s.at(at)).abs() < 1e-9, "{name} at {at}");
                }
                for (name, resource) in &whole.resources {
                    let same = half.resources[name].knee.at(at / 2.0);
                    assert!((same - resource.knee.at(at)).abs() < 1e-9, "{name} at {at}");
                }
            }
        }
    }
}
