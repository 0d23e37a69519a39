//! What each queue wishes for, and how far this tick goes towards it.

use super::{
    demand::{Need, Setting},
    inputs::Strategy,
    params::{EVIDENCE_S, STEP, WARM},
    reason::Reason,
    trip::Phase,
    turn::Turn,
};

/// A queue's wish on its way through the tick.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    /// Its domain, where it is judged.
    pub home: Option<usize>,
    pub need: Option<Need>,
    pub warm: u32,
    pub demand: u32,
    /// The demand of a fleet that is large enough, where the fleet is what limits it.
    pub beyond: Option<u32>,
    pub stepped: u32,
    pub reason: Reason,
    /// Its domain cannot serve every demand.
    pub is_contended: bool,
}

impl Turn<'_> {
    pub(super) fn wishes(&self) -> Vec<Wish> {
        let mut homes: Vec<Option<usize>> = vec![None; self.queues.len()];
        for (place, domain) in self.domains.iter().enumerate() {
            domain.judged.iter().for_each(|at| homes[*at] = Some(place));
        }
        let mut wishes: Vec<Wish> = homes
            .into_iter()
            .enumerate()
            .map(|(at, home)| self.wish(at, home))
            .collect();
        self.make_lean(&mut wishes);
        for (at, wish) in wishes.iter_mut().enumerate() {
            self.step(at, wish);
        }
        wishes
    }

    fn wish(&self, at: usize, home: Option<usize>) -> Wish {
        let (queue, state) = (self.queues[at], &self.states[at]);
        let max = queue.max.max(queue.min);
        let mut wish = Wish {
            home,
            need: None,
            warm: 0,
            demand: max,
            beyond: None,
            stepped: max,
            reason: Reason::Demand,
            is_contended: false,
        };
        if let Some(answer) = self.answers.get(&at) {
            (wish.demand, wish.reason) = (answer.demand, answer.reason);
        } else if let Some(home) = home {
            let domain = &self.domains[home];
            let units = domain
                .members
                .iter()
                .find(|(member, _)| *member == at)
                .map_or(1, |(_, units)| *units);
            let share = WARM * domain.hard / f64::from(units.max(1)) / domain.members.len().max(1) as f64;
            wish.warm = (share as u32).clamp(queue.min.min(max), max);
            wish.need = state.need(queue, wish.warm);
            wish.demand = match wish.need {
                Some(need) => need.slots,
                None => self.guess(at, wish.warm).min(max),
            };
        }
        wish
    }

    /// No job has ended yet: it starts warm or where it stood, and gets more while jobs wait and all of it is in use.
    fn guess(&self, at: usize, warm: u32) -> u32 {
        let (queue, state) = (self.queues[at], &self.states[at]);
        let Some(target) = state.target else {
            return queue.adopted.filter(|cap| *cap > 0).unwrap_or(warm).max(warm);
        };
        let is_full = queue.ready > 0 && self.in_flight[at] >= 0.9 * f64::from(target);
        let more = if is_full {
            STEP.powf(self.seconds / EVIDENCE_S)
        } else {
            1.0
        };
        ((f64::from(target) * more).ceil() as u32).max(warm)
    }

    /// Where a domain cannot serve every demand, nobody keeps an idle reserve.
    fn make_lean(&self, wishes: &mut [Wish]) {
        for (domain, budget) in self.domains.iter().zip(&self.budgets) {
            let sum = |slots: &dyn Fn(usize) -> u32| -> f64 {
                let members = domain.members.iter();
                members
                    .map(|(at, units)| f64::from(*units) * f64::from(slots(*at)))
                    .sum()
            };
            let asked = sum(&|at| wishes[at].demand);
            // What one keeps without a need may be what another is short of.
            let kept = sum(&|at| wishes[at].demand.max(self.states[at].target.unwrap_or(0)));
            if domain.members.len() < 2 || kept <= budget.units as f64 {
                continue;
            }
            for (at, _) in &domain.members {
                wishes[*at].is_contended = true;
                if asked <= budget.units as f64 {
                    continue;
                }
                if let Some(need) = wishes[*at].need {
                    wishes[*at].demand = wishes[*at].demand.min(need.lean);
                }
            }
        }
    }

    fn step(&self, at: usize, wish: &mut Wish) {
        let (queue, state) = (self.queues[at], &self.states[at]);
        if let Some(pinned) = queue.pinned {
            wish.demand = pinned;
        } else if let (Strategy::Adaptive, Some(home)) = (queue.strategy, wish.home) {
            let capacity = &self.domain_states[home].capacity;
            if queue.costs.is_empty() {
                let units = u32::try_from(self.budgets[home].units)
                    .unwrap_or(u32::MAX)
                    .max(queue.min);
                if units < wish.demand {
                    // What only the fleet's size keeps from it is wanted all the same: else one worker would be enough.
                    wish.beyond = (self.budgets[home].reason == Reason::HardCap).then_some(wish.demand);
                    (wish.demand, wish.reason) = (units, self.budgets[home].reason);
                }
            }
            let limit = state.failures.limit.max(f64::from(queue.min)) as u32;
            if limit < wish.demand {
                (wish.demand, wish.reason, wish.beyond) = (limit, Reason::ErrorCut, None);
            }
            if let Some(limit) = state.trip.limit() {
                wish.demand = wish.demand.min(limit).max(queue.min);
                (wish.stepped, wish.beyond) = (wish.demand, None);
                wish.reason = match state.trip.phase {
                    Phase::Open => Reason::BreakerOpen,
                    _ => Reason::BreakerReopen,
                };
                return;
            }
            let is_limit = wish.reason != Reason::Demand;
            let target = state.target.unwrap_or(0);
            // A limit is obeyed at once; only the wish goes in steps.
            if is_limit && wish.demand <= target {
                wish.stepped = wish.demand;
                return;
            }
            let setting = Setting {
                is_first: !capacity.has_met_limit,
                is_contended: wish.is_contended,
            };
            let (stepped, reason) = state.step(wish.demand, wish.warm, setting, self.seconds);
            wish.stepped = stepped;
            if !is_limit || reason == Reason::StepCap {
                wish.reason = reason;
            }
            return;
        }
        wish.stepped = wish.demand;
    }
}
