//! The order of changes that keeps a budget at every moment: lower first, and pay for a raise only with what is certain.
//!
//! A cap that was sent may be in force from then on, and the one before it until the answer; so a queue counts with the
//! largest of its acknowledged cap, every cap sent in a newer decision, and what was running in the same step that
//! acknowledged. A raise gets what is left of the budget then. An order whose answer never came counts until a newer one
//! is acknowledged: the store may have taken it.

use std::collections::BTreeMap;

/// Which leadership and which decision of it; the store refuses an older one than it has.
pub type Stamp = (u64, u64);

/// What is known of a queue's cap in the store.
#[derive(Clone, Debug, PartialEq)]
enum Known {
    /// Never answered for: it may hold anything.
    Nothing,
    /// The store has no cap of it. Whatever is ordered first binds it.
    Uncapped {
        slots: u64,
    },
    Cap {
        stamp: Stamp,
        cap: u32,
        slots: u64,
    },
}

#[derive(Clone, Debug)]
struct Account {
    costs: Vec<(String, u32)>,
    known: Known,
    /// Orders without an answer, oldest first. Caps fall strictly: an order that a later, larger one outlives never decides.
    sent: Vec<(Stamp, u32)>,
}

impl Account {
    fn sent_max(&self) -> u64 {
        self.sent.first().map_or(0, |(_, cap)| u64::from(*cap))
    }

    /// What it may hold; `None`: there is no saying.
    fn held(&self) -> Option<u64> {
        match self.known {
            Known::Nothing | Known::Uncapped { .. } => None,
            Known::Cap { cap, slots, .. } => Some(u64::from(cap).max(slots).max(self.sent_max())),
        }
    }

    /// The same, for a queue that is to get its first cap: two of those must not wait for each other.
    fn held_at_first(&self) -> Option<u64> {
        match self.known {
            Known::Uncapped { slots } => Some(slots.max(self.sent_max())),
            _ => self.held(),
        }
    }

    fn current(&self) -> Option<u32> {
        let acknowledged = match self.known {
            Known::Cap { cap, .. } => Some(cap),
            Known::Nothing | Known::Uncapped { .. } => None,
        };
        self.sent.last().map(|(_, cap)| *cap).or(acknowledged)
    }

    fn units(&self, resource: &str) -> u64 {
        let cost = self.costs.iter().find(|(name, _)| name == resource);
        cost.map_or(0, |(_, units)| u64::from(*units))
    }

    fn note(&mut self, stamp: Stamp, cap: u32) {
        self.sent.retain(|(_, earlier)| *earlier > cap);
        self.sent.push((stamp, cap));
    }
}

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    budgets: BTreeMap<String, u64>,
    queues: BTreeMap<String, Account>,
}

impl Ledger {
    pub fn set_budget(&mut self, resource: &str, units: u64) {
        self.budgets.insert(resource.to_owned(), units);
    }

    pub fn remove_budget(&mut self, resource: &str) {
        self.budgets.remove(resource);
    }

    /// A queue and what one of its running jobs holds. Known ones keep their cap.
    pub fn set_queue(&mut self, queue: &str, costs: Vec<(String, u32)>) {
        let account = self.queues.entry(queue.to_owned()).or_insert(Account {
            costs: Vec::new(),
            known: Known::Nothing,
            sent: Vec::new(),
        });
        account.costs = costs;
    }

    pub fn remove_queue(&mut self, queue: &str) {
        self.queues.remove(queue);
    }

    /// Whether the store has answered for it.
    pub fn is_adopted(&self, queue: &str) -> bool {
        let account = self.queues.get(queue);
        account.is_some_and(|account| account.known != Known::Nothing)
    }

    /// Nothing is certain any more: another leader may have written. Orders on their way still count.
    pub fn forget_answers(&mut self) {
        for account in self.queues.values_mut() {
            account.known = Known::Nothing;
        }
    }

    /// The newest order, or else the cap in the store.
    pub fn current(&self, queue: &str) -> Option<u32> {
        self.queues.get(queue)?.current()
    }

    /// What the store is known to have.
    pub fn acknowledged(&self, queue: &str) -> Option<u32> {
        match self.queues.get(queue)?.known {
            Known::Cap { cap, .. } => Some(cap),
            Known::Nothing | Known::Uncapped { .. } => None,
        }
    }

    /// Running when the store last answered for it.
    pub fn slots(&self, queue: &str) -> u64 {
        match self.queues.get(queue).map(|account| &account.known) {
            Some(Known::Cap { slots, .. } | Known::Uncapped { slots }) => *slots,
            Some(Known::Nothing) | None => 0,
        }
    }

    /// Orders no more than now; gives what was ordered.
    pub fn lower(&mut self, queue: &str, cap: u32, stamp: Stamp) -> Option<u32> {
        let account = self.queues.get_mut(queue)?;
        let cap = cap.min(account.current()?);
        account.note(stamp, cap);
        Some(cap)
    }

    /// Orders up to `cap`, as far as every resource can pay; gives what was ordered, which is never less than now.
    /// `None`: the queue is not adopted.
    pub fn raise(&mut self, queue: &str, cap: u32, stamp: Stamp) -> Option<u32> {
        if !self.is_adopted(queue) {
            return None;
        }
        let affordable = self.affordable(queue);
        let account = self.queues.get_mut(queue)?;
        let paid = u64::from(cap).min(affordable) as u32;
        let cap = paid.max(account.current().unwrap_or(0));
        account.note(stamp, cap);
        Some(cap)
    }

    /// The largest cap that the queue could be given now.
    pub fn affordable(&self, queue: &str) -> u64 {
        let Some(account) = self.queues.get(queue) else {
            return 0;
        };
        let is_first = matches!(account.known, Known::Uncapped { .. });
        let room = |(resource, units): &(String, u32)| {
            let budget = self.budgets.get(resource).copied().unwrap_or(0);
            let others = self.held_by_others(queue, resource, is_first);
            others.map_or(0, |others| {
                budget.saturating_sub(others) / u64::from((*units).max(1))
            })
        };
        let paid = account.costs.iter().map(room).min().unwrap_or(u64::MAX);
        // What it may hold anyway costs nothing more.
        paid.max(account.held_at_first().unwrap_or(0))
    }

    fn held_by_others(&self, queue: &str, resource: &str, is_first: bool) -> Option<u64> {
        let mut sum = 0;
        for (name, account) in &self.queues {
            let units = account.units(resource);
            if units == 0 || name == queue {
                continue;
            }
            let held = if is_first {
                account.held_at_first()
            } else {
                account.held()
            };
            sum += units * held?;
        }
        Some(sum)
    }

    /// Units of a resource that may be held now, as far as is known.
    pub fn granted(&self, resource: &str) -> u64 {
        let accounts = self.queues.values();
        accounts
            .map(|account| account.units(resource) * account.held_at_first().unwrap_or(account.sent_max()))
            .sum()
    }

    /// The store has answered: which cap it has now (`None`: none), by which decision, and what ran in the same step.
    pub fn acknowledge(&mut self, queue: &str, stamp: Stamp, cap: Option<u32>, slots: u64) {
        let Some(account) = self.queues.get_mut(queue) else {
            return;
        };
        if matches!(account.known, Known::Cap { stamp: newest, .. } if newest > stamp) {
            return;
        }
        match cap {
            Some(cap) => {
                account.known = Known::Cap { stamp, cap, slots };
                account.sent.retain(|(sent, _)| *sent > stamp);
            }
            None => account.known = Known::Uncapped { slots },
        }
    }

    /// No answer came. Nothing changes, on purpose: the order may be in force, so it counts until a newer one is
    /// acknowledged. Gives what the queue counts with; `None`: it is not adopted.
    pub fn timed_out(&self, queue: &str) -> Option<u64> {
        self.queues.get(queue)?.held_at_first()
    }
}

#[cfg(test)]
#[path = "caps_tests.rs"]
mod tests;
