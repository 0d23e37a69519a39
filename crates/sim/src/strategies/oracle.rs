//! Who knows the plant: its knee, its other traffic and its outages, now and a little ahead, and every job that waits.
//! It obeys the same safety rules as the governor, so the distance to it is the price of having to find things out.

use super::{Choice, Rule, Seen};
use crate::{
    plant::Limit,
    scenario::{Queue, Resource, Scenario},
};

/// It decides this often, and knows what will be until then.
const TICK_S: f64 = 1.0;
/// Share of a pool that may be in use, and what others are given of what they use.
const USABLE: f64 = 0.95;
const OTHERS: f64 = 1.1;
/// Slots beyond the expected need, in standard deviations of it.
const RESERVE: f64 = 2.0;

pub struct Oracle;

impl Rule for Oracle {
    fn decide(&mut self, seen: &Seen<'_>) -> Vec<Choice> {
        let (scenario, now) = (seen.scenario, seen.truth.now);
        let queues: Vec<&Queue> = scenario.queues.values().collect();
        let costs: Vec<Vec<usize>> = queues.iter().map(|queue| scenario.costs(queue)).collect();
        let budgets: Vec<f64> = scenario
            .resources
            .values()
            .enumerate()
            .map(|(at, resource)| budget(scenario, resource, at, now))
            .collect();
        let is_down = |at: usize| {
            let resources = scenario.resources.values().enumerate();
            resources
                .filter(|(place, _)| costs[at].contains(place))
                .any(|(_, resource)| is_down(resource, now))
        };
        let demands: Vec<u32> = (0..queues.len())
            .map(|at| match is_down(at) {
                true => queues[at].min.max(1),
                false => demand(seen, at, queues[at]),
            })
            .collect();
        let given = divide(&queues, &costs, &demands, &budgets);
        let choices = given.into_iter().enumerate().map(|(at, cap)| {
            let limit = Limit {
                cap,
                retry_cap: cap,
                is_down: is_down(at),
                refuse: 0.0,
            };
            Choice {
                limit,
                ..Choice::default()
            }
        });
        choices.collect()
    }

    fn is_budgeted(&self) -> bool {
        true
    }

    fn tick_s(&self) -> Option<f64> {
        Some(TICK_S)
    }
}

fn is_down(resource: &Resource, now: f64) -> bool {
    resource
        .down_s
        .iter()
        .any(|(from, until)| now >= *from && now < *until)
}

/// What jobs may hold: within the hard cap, what others leave, and where the work goes fastest.
fn budget(scenario: &Scenario, resource: &Resource, place: usize, now: f64) -> f64 {
    let soon = now + TICK_S;
    let others = resource.api.as_ref().map_or(0.0, |api| {
        api.per_s.at(now).max(api.per_s.at(soon)) * api.work.mean()
    });
    let knee = resource.knee.at(now).min(resource.knee.at(soon));
    // A job counts for its whole run, but works on the resource only a part of it.
    let part = scenario
        .queues
        .values()
        .filter(|queue| scenario.costs(queue).contains(&place))
        .map(|queue| {
            let here: f64 = queue
                .work
                .iter()
                .filter(|work| {
                    scenario.resources.keys().position(|name| *name == work.resource) == Some(place)
                })
                .map(|work| work.time.mean())
                .sum();
            let all = queue.off.mean() + queue.work.iter().map(|work| work.time.mean()).sum::<f64>();
            all / here.max(1e-6)
        });
    let whole = part.fold(1.0, f64::max);
    let left = USABLE * f64::from(resource.capacity) - OTHERS * others;
    f64::from(resource.hard_cap())
        .min(left)
        .min((knee - others) * whole)
        .floor()
        .max(1.0)
}

fn demand(seen: &Seen<'_>, at: usize, queue: &Queue) -> u32 {
    let now = seen.truth.now;
    let report = &seen.truth.queues[at];
    let latency = seen
        .scenario
        .store
        .latency_ms
        .at(now)
        .max(seen.scenario.store.latency_ms.at(now + TICK_S));
    let work: f64 = queue.work.iter().map(|work| work.time.mean()).sum();
    let job_s = (queue.off.mean() + work) * queue.scale.at(now) + 2.0 * latency / 1_000.0 + 0.01;
    let rate = queue.per_s.at(now).max(queue.per_s.at(now + TICK_S));
    let busy = rate * job_s;
    let backlog = report.ready;
    let slots = busy + RESERVE * busy.sqrt() + 1.0 + backlog;
    (slots as u32).clamp(queue.min.max(1), queue.max.max(1))
}

/// Weighted max-min, slot by slot.
fn divide(queues: &[&Queue], costs: &[Vec<usize>], demands: &[u32], budgets: &[f64]) -> Vec<u32> {
    let mut given: Vec<u32> = (0..queues.len())
        .map(|at| if costs[at].is_empty() { demands[at] } else { 0 })
        .collect();
    let mut left = budgets.to_vec();
    loop {
        let open = (0..queues.len()).filter(|at| {
            !costs[*at].is_empty()
                && given[*at] < demands[*at]
                && costs[*at].iter().all(|place| left[*place] >= 1.0)
        });
        let level = |at: &usize| {
            let is_above_floor = given[*at] >= queues[*at].min;
            (is_above_floor, f64::from(given[*at]) / queues[*at].weight)
        };
        let least = open.min_by(|a, b| {
            let ((a_floor, a), (b_floor, b)) = (level(a), level(b));
            a_floor.cmp(&b_floor).then(a.total_cmp(&b))
        });
        let Some(at) = least else {
            return given;
        };
        given[at] += 1;
        costs[at].iter().for_each(|place| left[*place] -= 1.0);
    }
}
