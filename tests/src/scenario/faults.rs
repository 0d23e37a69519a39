//! What is done to a lane while it runs, and when: made of the scenario before it begins, the same for every arm.

use tidegate_sim::{scenario::Scenario, shape::Curve};

use super::Script;

/// How often a knee that moves steadily is set anew.
const KNEE_STEP_S: f64 = 0.5;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    Knee(f64),
    /// The resource refuses everybody.
    Down,
    Up,
    /// A round trip to the job store takes so much longer.
    StoreDelayMs(f64),
    KillLeader,
    Partition,
    Heal,
    /// The window of the scenario begins, and ends.
    WindowOpens,
    WindowCloses,
}

/// (second, what), in order of time.
pub fn steps(script: &Script) -> Vec<(f64, Step)> {
    let (model, live) = (&script.model, &script.live);
    let mut steps = knees(model);
    for (from, until) in model.resources.values().flat_map(|resource| &resource.down_s) {
        steps.extend([(*from, Step::Down), (*until, Step::Up)]);
    }
    let delays = changes(&model.store.latency_ms, model.length_s);
    if delays.iter().any(|(_, ms)| *ms > 0.0) {
        steps.extend(delays.into_iter().map(|(at, ms)| (at, Step::StoreDelayMs(ms))));
    }
    steps.extend(live.kill_leader_s.map(|at| (at, Step::KillLeader)));
    if let Some((from, until)) = live.partition_s {
        steps.extend([(from, Step::Partition), (until, Step::Heal)]);
    }
    if let Some((from, until)) = live.window_s {
        steps.extend([(from, Step::WindowOpens), (until, Step::WindowCloses)]);
    }
    steps.sort_by(|a, b| a.0.total_cmp(&b.0));
    steps
}

/// Of the first resource, from its beginning.
fn knees(model: &Scenario) -> Vec<(f64, Step)> {
    let knee = model.resources.values().next().map(|resource| &resource.knee);
    let knees = knee.map(|knee| changes(knee, model.length_s)).unwrap_or_default();
    knees.into_iter().map(|(at, n)| (at, Step::Knee(n))).collect()
}

/// Where a value over time is another one than before, and what it is from there on.
fn changes(curve: &Curve, length_s: f64) -> Vec<(f64, f64)> {
    let moments = (0..)
        .map(|n| f64::from(n) * KNEE_STEP_S)
        .take_while(|at| *at < length_s);
    let mut changes: Vec<(f64, f64)> = Vec::new();
    for at in moments {
        let value = curve.at(at);
        if changes.last().is_none_or(|(_, last)| *last != value) {
            changes.push((at, value));
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Vec<(f64, Step)> {
        steps(&Script::named(name).expect("it is there"))
    }

    #[test]
    fn a_scenario_becomes_steps() {
        let halves = [
            (0.0, Step::Knee(30.0)),
            (40.0, Step::Knee(15.0)),
            (180.0, Step::Knee(30.0)),
        ];
        assert_eq!(of("3"), halves);
        let far = [
            (0.0, Step::StoreDelayMs(0.0)),
            (60.0, Step::StoreDelayMs(180.0)),
            (180.0, Step::StoreDelayMs(0.0)),
        ];
        assert_eq!(of("5"), far);
        let storm = of("6");
        assert!(storm.contains(&(60.0, Step::Down)) && storm.contains(&(120.0, Step::Up)));
        let ramp = storm
            .iter()
            .filter(|(_, step)| matches!(step, Step::Knee(_)))
            .count();
        assert!(ramp > 100, "{storm:?}");
        assert!(of("11").contains(&(120.0, Step::KillLeader)));
        assert!(of("12").contains(&(180.0, Step::Heal)));
    }
}
