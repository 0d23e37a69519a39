use super::*;
use crate::test_random::Random;

fn ledger(queues: &[(&str, u32)], budget: u64) -> Ledger {
    let mut ledger = Ledger::default();
    ledger.set_budget("pg", budget);
    for (queue, units) in queues {
        ledger.set_queue(queue, vec![("pg".to_owned(), *units)]);
    }
    ledger
}

#[test]
fn nothing_is_raised_before_all_are_adopted() {
    let mut ledger = ledger(&[("a", 1), ("b", 1)], 35);
    assert_eq!(ledger.raise("a", 10, (1, 1)), None);
    ledger.acknowledge("a", (1, 1), Some(5), 5);
    assert_eq!(ledger.raise("a", 10, (1, 2)), Some(5));
    ledger.acknowledge("b", (1, 1), Some(20), 3);
    assert_eq!(ledger.raise("a", 30, (1, 3)), Some(15));
}

#[test]
fn a_raise_waits_for_the_answer_to_the_lowering_that_pays_it() {
    let mut ledger = ledger(&[("a", 1), ("b", 1)], 35);
    ledger.acknowledge("a", (1, 1), Some(30), 30);
    ledger.acknowledge("b", (1, 1), Some(5), 5);
    assert_eq!(ledger.lower("a", 10, (1, 2)), Some(10));
    assert_eq!(ledger.raise("b", 25, (1, 2)), Some(5));
    // Lowered, but the jobs still run.
    ledger.acknowledge("a", (1, 2), Some(10), 18);
    assert_eq!(ledger.raise("b", 25, (1, 3)), Some(17));
    ledger.acknowledge("a", (1, 4), Some(10), 10);
    assert_eq!(ledger.raise("b", 25, (1, 5)), Some(25));
}

#[test]
fn an_order_without_an_answer_counts_until_a_newer_one_is_acknowledged() {
    let mut ledger = ledger(&[("a", 1), ("b", 1)], 35);
    ledger.acknowledge("a", (1, 1), Some(5), 0);
    ledger.acknowledge("b", (1, 1), Some(5), 0);
    assert_eq!(ledger.raise("a", 30, (1, 2)), Some(30));
    assert_eq!(ledger.timed_out("a"), Some(30));
    assert_eq!(ledger.lower("a", 5, (1, 3)), Some(5));
    assert_eq!(ledger.raise("b", 30, (1, 3)), Some(5));
    ledger.acknowledge("a", (1, 1), Some(5), 0);
    assert_eq!(ledger.raise("b", 30, (1, 4)), Some(5));
    ledger.acknowledge("a", (1, 3), Some(5), 0);
    assert_eq!(ledger.raise("b", 30, (1, 5)), Some(30));
}

#[test]
fn queues_without_a_cap_get_their_first_one_within_the_budget() {
    let mut ledger = ledger(&[("a", 2), ("b", 1)], 5);
    ledger.acknowledge("a", (1, 1), None, 1);
    ledger.acknowledge("b", (1, 1), None, 0);
    assert_eq!(ledger.raise("b", 9, (1, 2)), Some(3));
    assert_eq!(ledger.raise("a", 9, (1, 2)), Some(1));
    ledger.acknowledge("b", (1, 2), Some(3), 0);
    assert_eq!(ledger.raise("b", 9, (1, 3)), Some(3), "a is still without a cap");
}

#[test]
fn a_queue_that_costs_nothing_is_never_short() {
    let mut ledger = ledger(&[], 5);
    ledger.set_queue("free", Vec::new());
    ledger.acknowledge("free", (1, 1), None, 7);
    assert_eq!(ledger.raise("free", 500, (1, 2)), Some(500));
}

#[test]
fn every_resource_of_a_queue_must_pay() {
    let mut ledger = ledger(&[("a", 1)], 30);
    ledger.set_budget("smtp", 6);
    ledger.set_queue("a", vec![("pg".to_owned(), 1), ("smtp".to_owned(), 2)]);
    ledger.acknowledge("a", (1, 1), Some(0), 0);
    assert_eq!(ledger.raise("a", 30, (1, 2)), Some(3));
    ledger.set_queue("a", vec![("gone".to_owned(), 1)]);
    assert_eq!(ledger.affordable("a"), 3);
}

/// The store's side: the lease step and the rule about versions, and a network that loses, repeats and reorders.
struct World {
    ledger: Ledger,
    caps: BTreeMap<&'static str, Option<(Stamp, u32)>>,
    running: BTreeMap<&'static str, u64>,
    orders: Vec<(&'static str, Stamp, Option<u32>)>,
    answers: Vec<(&'static str, Stamp, Option<u32>, u64)>,
    generation: u64,
}

const QUEUES: [(&str, u64); 3] = [("a", 1), ("b", 2), ("c", 1)];
const BUDGET: u64 = 35;

impl World {
    fn new() -> Self {
        let costs: Vec<(&str, u32)> = QUEUES
            .iter()
            .map(|(name, units)| (*name, *units as u32))
            .collect();
        Self {
            ledger: ledger(&costs, BUDGET),
            caps: QUEUES.iter().map(|(name, _)| (*name, None)).collect(),
            running: QUEUES.iter().map(|(name, _)| (*name, 0)).collect(),
            orders: Vec::new(),
            answers: Vec::new(),
            generation: 0,
        }
    }

    fn decide(&mut self, random: &mut Random) {
        self.generation += 1;
        let stamp = (1, self.generation);
        for (queue, _) in QUEUES {
            if !self.ledger.is_adopted(queue) {
                self.orders.push((queue, stamp, None));
                continue;
            }
            let wanted = random.below(BUDGET + 5) as u32;
            let current = self.ledger.current(queue).unwrap_or(0);
            let ordered = if wanted < current {
                self.ledger.lower(queue, wanted, stamp)
            } else {
                self.ledger.raise(queue, wanted, stamp)
            };
            self.orders.extend(ordered.map(|cap| (queue, stamp, Some(cap))));
        }
    }

    fn store_takes(&mut self, at: usize) {
        let (queue, stamp, cap) = self.orders[at];
        let stored = self.caps.get_mut(queue).expect("a known queue");
        if stored.is_none_or(|(newest, _)| stamp >= newest) {
            let value = cap.or(stored.map(|(_, cap)| cap));
            *stored = value.map(|cap| (stamp, cap)).or(*stored);
        }
        let (stamp, cap) = stored.map_or((stamp, None), |(stamp, cap)| (stamp, Some(cap)));
        self.answers.push((queue, stamp, cap, self.running[queue]));
    }

    /// The lease step: up to the cap; and jobs end.
    fn work(&mut self, random: &mut Random) {
        for (queue, _) in QUEUES {
            let cap = self.caps[queue].map_or(0, |(_, cap)| u64::from(cap));
            let running = self.running.get_mut(queue).expect("a known queue");
            if random.below(2) == 0 {
                *running = (*running).max(cap);
            } else {
                *running -= random.below(*running + 1);
            }
        }
        let used: u64 = QUEUES
            .iter()
            .map(|(queue, units)| units * self.running[queue])
            .sum();
        assert!(used <= BUDGET, "{used} of {BUDGET}: {:?}", self.running);
    }

    fn network(&mut self, random: &mut Random) {
        if !self.orders.is_empty() {
            let at = random.below(self.orders.len() as u64) as usize;
            match random.below(10) {
                0 => drop(self.orders.swap_remove(at)),
                1 => self.store_takes(at),
                _ => {
                    self.store_takes(at);
                    self.orders.swap_remove(at);
                }
            }
        }
        if !self.answers.is_empty() {
            let at = random.below(self.answers.len() as u64) as usize;
            let (queue, stamp, cap, slots) = self.answers.swap_remove(at);
            match random.below(10) {
                0 => drop(self.ledger.timed_out(queue)),
                _ => self.ledger.acknowledge(queue, stamp, cap, slots),
            }
        }
    }
}

#[test]
fn no_order_of_events_breaks_the_budget() {
    for seed in 0..400 {
        let mut random = Random(seed);
        let mut world = World::new();
        for _ in 0..300 {
            match random.below(4) {
                0 => world.decide(&mut random),
                1 => world.work(&mut random),
                _ => world.network(&mut random),
            }
        }
        for account in world.ledger.queues.values() {
            assert!(
                account
                    .sent
                    .windows(2)
                    .all(|pair| pair[0].1 > pair[1].1 && pair[0].0 < pair[1].0)
            );
        }
    }
}
