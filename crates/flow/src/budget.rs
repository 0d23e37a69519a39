//! Who gets how much when a resource is short: weighted max-min over several resources at once.
//!
//! Progressive filling: slot by slot, the queue that has the least of its dominant resource for its weight gets the next
//! one, as long as it wants it and every resource it costs has room. So no queue can get more without another, that has
//! no more than it for its weight, getting less. Floors come first.

use std::{cmp::Ordering, collections::BinaryHeap};

/// What one queue asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// Given before anybody gets more than that.
    pub min: u32,
    pub demand: u32,
    pub weight: f64,
    /// (index of the resource, units that a running job holds).
    pub costs: Vec<(usize, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    pub slots: u32,
    /// The resource that had no room for what was still wanted.
    pub limited_by: Option<usize>,
}

/// The units of a resource that jobs may hold. The small addition keeps 0.7 * 50 from being 34.999.
pub fn budget(capacity: u32, headroom: f64) -> u64 {
    (f64::from(capacity) * headroom + 1e-9).floor().max(0.0) as u64
}

/// Divides the budgets. A queue that costs nothing gets what it asks for. The sum of units x slots is within every
/// budget, whatever the floors say.
pub fn allocate(claims: &[Claim], budgets: &[u64]) -> Vec<Allocation> {
    let mut left = budgets.to_vec();
    let mut allocations: Vec<Allocation> = claims
        .iter()
        .map(|claim| Allocation {
            slots: if claim.costs.is_empty() {
                claim.demand.max(claim.min)
            } else {
                0
            },
            limited_by: None,
        })
        .collect();
    let costing = claims
        .iter()
        .enumerate()
        .filter(|(_, claim)| !claim.costs.is_empty());
    let mut heap: BinaryHeap<Turn> = costing
        .map(|(index, claim)| Turn::of(index, claim, 0, budgets))
        .collect();
    // Ends: every turn gives a slot or takes the queue out.
    while let Some(turn) = heap.pop() {
        let claim = &claims[turn.index];
        let allocation = &mut allocations[turn.index];
        if allocation.slots >= claim.demand.max(claim.min) {
            continue;
        }
        if let Some(resource) = short_of(claim, &left, budgets) {
            allocation.limited_by = Some(resource);
            continue;
        }
        for (resource, units) in &claim.costs {
            left[*resource] -= u64::from(*units);
        }
        allocation.slots += 1;
        heap.push(Turn::of(turn.index, claim, allocation.slots, budgets));
    }
    allocations
}

/// The resource that cannot pay for one more: the one that the queue takes the largest part of, if there are several.
fn short_of(claim: &Claim, left: &[u64], budgets: &[u64]) -> Option<usize> {
    let is_short =
        |(resource, units): &&(usize, u32)| left.get(*resource).is_none_or(|left| *left < u64::from(*units));
    let short = claim.costs.iter().filter(is_short);
    let by_share = short.max_by(|a, b| share(a, budgets).total_cmp(&share(b, budgets)));
    by_share.map(|(resource, _)| *resource)
}

fn share((resource, units): &(usize, u32), budgets: &[u64]) -> f64 {
    let budget = budgets.get(*resource).copied().unwrap_or(0).max(1);
    f64::from(*units) / budget as f64
}

/// What remains in force when no controller answers: floors, and beyond them each queue's share of a small part of the
/// budget, because nobody watches the resource then.
pub fn safe(claims: &[Claim], budgets: &[u64]) -> Vec<u32> {
    const UNWATCHED_SHARE: f64 = 0.3;
    let floors = |resource: usize| -> u64 {
        let of = |claim: &Claim| {
            let units = claim.costs.iter().filter(|(at, _)| *at == resource);
            units
                .map(|(_, units)| u64::from(*units) * u64::from(claim.min))
                .sum::<u64>()
        };
        claims.iter().map(of).sum()
    };
    let parts: Vec<u64> = budgets
        .iter()
        .enumerate()
        .map(|(resource, budget)| {
            let share = (*budget as f64 * UNWATCHED_SHARE).floor() as u64;
            share.max(floors(resource)).min(*budget)
        })
        .collect();
    allocate(claims, &parts)
        .iter()
        .map(|allocation| allocation.slots)
        .collect()
}

/// A queue's place in the line; the greatest comes first.
struct Turn {
    index: usize,
    above_floor: bool,
    level: f64,
}

impl Turn {
    fn of(index: usize, claim: &Claim, slots: u32, budgets: &[u64]) -> Self {
        let dominant = claim
            .costs
            .iter()
            .map(|cost| share(cost, budgets))
            .fold(0.0, f64::max);
        // A weight is checked where policies are taken; here it must only not divide by zero.
        let weight = if claim.weight > 0.0 { claim.weight } else { 1.0 };
        Self {
            index,
            above_floor: slots >= claim.min,
            level: f64::from(slots) * dominant / weight,
        }
    }
}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_floor = other.above_floor.cmp(&self.above_floor);
        by_floor
            .then(other.level.total_cmp(&self.level))
            .then(other.index.cmp(&self.index))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Turn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Turn {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_random::Random;

    fn claim(min: u32, demand: u32, weight: f64, costs: &[(usize, u32)]) -> Claim {
        Claim {
            min,
            demand,
            weight,
            costs: costs.to_vec(),
        }
    }

    fn slots(claims: &[Claim], budgets: &[u64]) -> Vec<u32> {
        allocate(claims, budgets).iter().map(|a| a.slots).collect()
    }

    #[test]
    fn the_budget_is_what_the_headroom_says() {
        assert_eq!(
            (budget(50, 0.7), budget(10, 0.7), budget(3, 0.7), budget(50, 1.0)),
            (35, 7, 2, 50)
        );
    }

    #[test]
    fn what_one_leaves_the_others_get() {
        let all = [
            claim(1, 5, 1.0, &[(0, 1)]),
            claim(1, 100, 1.0, &[(0, 1)]),
            claim(1, 100, 1.0, &[(0, 1)]),
        ];
        assert_eq!(slots(&all, &[35]), [5, 15, 15]);
        let limited = allocate(&all, &[35]);
        assert_eq!((limited[0].limited_by, limited[1].limited_by), (None, Some(0)));
    }

    #[test]
    fn weights_floors_and_units() {
        assert_eq!(
            slots(
                &[claim(1, 99, 3.0, &[(0, 1)]), claim(1, 99, 1.0, &[(0, 1)])],
                &[40]
            ),
            [30, 10]
        );
        assert_eq!(
            slots(
                &[claim(8, 99, 1.0, &[(0, 1)]), claim(0, 99, 9.0, &[(0, 1)])],
                &[10]
            ),
            [8, 2]
        );
        assert_eq!(
            slots(
                &[claim(1, 99, 1.0, &[(0, 3)]), claim(1, 99, 1.0, &[(0, 1)])],
                &[12]
            ),
            [2, 6]
        );
    }

    #[test]
    fn several_resources_bind_each_on_its_own() {
        let all = [claim(1, 99, 1.0, &[(0, 1), (1, 1)]), claim(1, 99, 1.0, &[(0, 1)])];
        assert_eq!(slots(&all, &[30, 5]), [5, 25]);
        assert_eq!(allocate(&all, &[30, 5])[0].limited_by, Some(1));
    }

    #[test]
    fn a_queue_without_costs_gets_its_demand_and_an_unknown_resource_gives_nothing() {
        assert_eq!(slots(&[claim(2, 77, 1.0, &[])], &[]), [77]);
        assert_eq!(slots(&[claim(2, 77, 1.0, &[(3, 1)])], &[9]), [0]);
    }

    #[test]
    fn safe_values_are_floors_and_a_share_of_the_rest() {
        let all = [claim(1, 99, 1.0, &[(0, 1)]), claim(4, 99, 1.0, &[(0, 1)])];
        assert_eq!(safe(&all, &[35]), [5, 5]);
        assert_eq!(safe(&[claim(20, 99, 1.0, &[(0, 1)])], &[35]), [20]);
    }

    #[test]
    fn whatever_is_asked_the_budgets_hold() {
        let mut random = Random(7);
        for _ in 0..500 {
            let budgets: Vec<u64> = (0..3).map(|_| random.below(60)).collect();
            let all: Vec<Claim> = (0..random.below(8))
                .map(|_| {
                    let costs: Vec<(usize, u32)> = (0..3)
                        .filter(|_| random.below(2) == 0)
                        .collect::<Vec<usize>>()
                        .into_iter()
                        .map(|resource| (resource, 1 + random.below(4) as u32))
                        .collect();
                    let min = random.below(6) as u32;
                    claim(min, random.below(50) as u32, 0.5 + random.below(5) as f64, &costs)
                })
                .collect();
            for given in [slots(&all, &budgets), safe(&all, &budgets)] {
                for (resource, budget) in budgets.iter().enumerate() {
                    let used: u64 = all
                        .iter()
                        .zip(&given)
                        .flat_map(|(claim, slots)| claim.costs.iter().map(move |cost| (cost, slots)))
                        .filter(|((at, _), _)| *at == resource)
                        .map(|((_, units), slots)| u64::from(*units) * u64::from(*slots))
                        .sum();
                    assert!(used <= *budget, "{all:?} on {budgets:?} got {given:?}");
                }
            }
        }
    }
}
