//! Which worker runs how many: a queue's target divided over the workers that serve it.
//!
//! In proportion to free slots, jointly over all queues, so that a worker's targets fit into its slots. What rounding
//! leaves goes first to workers that hold it already: a job that moves between workers costs caches and connections.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BinaryHeap},
};

/// Turns of the fractional division; what is left then is less than a slot in all practical cases.
const ROUNDS_MAX: usize = 32;
/// Slots that a turn moves, below which the division has come to rest.
const POURED: f64 = 1e-6;

/// One worker as the division sees it.
#[derive(Clone, Debug)]
pub struct Worker {
    pub id: String,
    pub slots: u32,
    /// Indexes of the queues it serves.
    pub serves: Vec<usize>,
    /// Its targets of the last division.
    pub held: BTreeMap<usize, u32>,
}

/// One worker's targets, by queue.
pub type Targets = BTreeMap<usize, u32>;

/// Divides `wanted` (by queue). A queue may get less than wanted where slots are short; never more, and none gets nothing
/// while another one on the same worker has two.
pub fn divide(wanted: &[u32], workers: &[Worker]) -> Vec<Targets> {
    let mut table = Table::new(wanted, workers);
    // One each first: what is divided in proportion leaves small queues with fractions.
    let floors: Vec<u32> = wanted.iter().map(|wanted| (*wanted).min(1)).collect();
    table.deal(&floors);
    table.pour();
    table.deal(wanted);
    for (queue, wanted) in wanted.iter().enumerate() {
        while table.given[queue] < *wanted && table.make_room(queue) {}
    }
    table.into_targets()
}

/// One queue at one worker.
struct Place {
    worker: usize,
    queue: usize,
    target: u32,
    held: u32,
    /// Its part of what is wanted, with fractions.
    quota: f64,
}

/// Places by worker and by queue. Free slots only ever become fewer, which is what keeps every walk over it short.
struct Table<'a> {
    workers: &'a [Worker],
    wanted: Vec<u32>,
    places: Vec<Place>,
    /// First place of each worker, and the end.
    of_worker: Vec<usize>,
    of_queue: Vec<Vec<usize>>,
    free: Vec<u32>,
    given: Vec<u32>,
    /// Order of the workers' ids: ties go to the first.
    rank: Vec<usize>,
    /// For each queue, how many of its places are known to have no free slot.
    full: Vec<usize>,
}

impl<'a> Table<'a> {
    fn new(wanted: &[u32], workers: &'a [Worker]) -> Self {
        let mut places = Vec::new();
        let mut of_worker = Vec::with_capacity(workers.len() + 1);
        let mut of_queue = vec![Vec::new(); wanted.len()];
        for (at, worker) in workers.iter().enumerate() {
            of_worker.push(places.len());
            let mut serves: Vec<usize> = worker
                .serves
                .iter()
                .copied()
                .filter(|q| *q < wanted.len())
                .collect();
            serves.sort_unstable();
            serves.dedup();
            for queue in serves {
                of_queue[queue].push(places.len());
                let held = worker.held.get(&queue).copied().unwrap_or(0);
                places.push(Place {
                    worker: at,
                    queue,
                    target: 0,
                    held,
                    quota: 0.0,
                });
            }
        }
        of_worker.push(places.len());
        let mut order: Vec<usize> = (0..workers.len()).collect();
        order.sort_by(|a, b| workers[*a].id.cmp(&workers[*b].id));
        let mut rank = vec![0; workers.len()];
        order
            .into_iter()
            .enumerate()
            .for_each(|(place, worker)| rank[worker] = place);
        Self {
            workers,
            wanted: wanted.to_vec(),
            places,
            of_worker,
            of_queue,
            free: workers.iter().map(|worker| worker.slots).collect(),
            given: vec![0; wanted.len()],
            rank,
            full: vec![0; wanted.len()],
        }
    }

    fn give(&mut self, place: usize, slots: u32) {
        let Place { worker, queue, .. } = self.places[place];
        self.places[place].target += slots;
        self.free[worker] -= slots;
        self.given[queue] += slots;
    }

    /// How much a place should be the next to get one: held before, then the largest missing fraction, then its id.
    fn turn(&self, place: usize) -> Turn {
        let at = &self.places[place];
        Turn {
            holds_more: at.held > at.target,
            missing: at.quota - f64::from(at.target),
            rank: self.rank[at.worker],
            place,
        }
    }

    /// Deals free slots up to what is wanted: one a queue and turn, to those with least first.
    fn deal(&mut self, wanted: &[u32]) {
        let mut open: Vec<usize> = (0..wanted.len())
            .filter(|queue| self.given[*queue] < wanted[*queue])
            .collect();
        let mut turns: Vec<BinaryHeap<Turn>> = (0..wanted.len()).map(|_| BinaryHeap::new()).collect();
        for queue in &open {
            turns[*queue] = self.of_queue[*queue]
                .iter()
                .map(|place| self.turn(*place))
                .collect();
        }
        // Ends: each turn gives at least one slot, or closes every queue.
        while !open.is_empty() {
            open.sort_by_key(|queue| self.given[*queue]);
            open.retain(|queue| {
                // Who is full now stays full.
                let next = loop {
                    match turns[*queue].pop() {
                        Some(turn) if self.free[self.places[turn.place].worker] == 0 => {}
                        next => break next,
                    }
                };
                let Some(Turn { place, .. }) = next else {
                    return false;
                };
                self.give(place, 1);
                turns[*queue].push(self.turn(place));
                self.given[*queue] < wanted[*queue]
            });
        }
    }

    /// The fractional division: every queue pours what it still wants over its workers by their free slots; a worker
    /// that would overflow takes its share of each. Whole slots are given at once, fractions are what is dealt by later.
    fn pour(&mut self) {
        let mut left: Vec<f64> = self
            .wanted
            .iter()
            .zip(&self.given)
            .map(|(wanted, given)| f64::from(wanted - given.min(wanted)))
            .collect();
        let mut free: Vec<f64> = self.free.iter().map(|free| f64::from(*free)).collect();
        for _ in 0..ROUNDS_MAX {
            let mut reach = vec![0.0; left.len()];
            self.places
                .iter()
                .for_each(|place| reach[place.queue] += free[place.worker]);
            let mut moved = vec![0.0; left.len()];
            for (worker, free) in free.iter_mut().enumerate() {
                let places = &mut self.places[self.of_worker[worker]..self.of_worker[worker + 1]];
                let share = |place: &Place| match reach[place.queue] > 0.0 {
                    true => left[place.queue] * *free / reach[place.queue],
                    false => 0.0,
                };
                let offered: f64 = places.iter().map(share).sum();
                let fits = if offered > *free { *free / offered } else { 1.0 };
                for place in places {
                    let taken = share(place) * fits;
                    place.quota += taken;
                    moved[place.queue] += taken;
                }
                *free = (*free - offered * fits).max(0.0);
            }
            left.iter_mut()
                .zip(&moved)
                .for_each(|(left, moved)| *left -= moved);
            if moved.iter().sum::<f64>() < POURED {
                break;
            }
        }
        for place in 0..self.places.len() {
            let whole = (self.places[place].quota + 1e-9).floor() as u32;
            // From here on the quota is of everything that it holds.
            self.places[place].quota += f64::from(self.places[place].target);
            self.give(place, whole.min(self.free[self.places[place].worker]));
        }
    }

    /// One slot more for a queue whose workers are all full: a job of another queue moves on to a worker with room.
    fn make_room(&mut self, queue: usize) -> bool {
        for at in 0..self.of_queue[queue].len() {
            let here = self.of_queue[queue][at];
            let worker = self.places[here].worker;
            for other in self.of_worker[worker]..self.of_worker[worker + 1] {
                if self.places[other].queue == queue || self.places[other].target == 0 {
                    continue;
                }
                let Some(to) = self.with_room(self.places[other].queue) else {
                    continue;
                };
                self.places[other].target -= 1;
                self.places[to].target += 1;
                self.free[self.places[to].worker] -= 1;
                self.places[here].target += 1;
                self.given[queue] += 1;
                return true;
            }
        }
        false
    }

    /// A place of the queue with a free slot.
    fn with_room(&mut self, queue: usize) -> Option<usize> {
        while let Some(place) = self.of_queue[queue].get(self.full[queue]).copied() {
            if self.free[self.places[place].worker] > 0 {
                return Some(place);
            }
            self.full[queue] += 1;
        }
        None
    }

    fn into_targets(self) -> Vec<Targets> {
        (0..self.workers.len())
            .map(|worker| {
                let places = &self.places[self.of_worker[worker]..self.of_worker[worker + 1]];
                places.iter().map(|place| (place.queue, place.target)).collect()
            })
            .collect()
    }
}

/// A place in the line of its queue; the greatest comes first.
struct Turn {
    holds_more: bool,
    missing: f64,
    rank: usize,
    place: usize,
}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_hold = self.holds_more.cmp(&other.holds_more);
        by_hold
            .then(self.missing.total_cmp(&other.missing))
            .then(other.rank.cmp(&self.rank))
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

    fn worker(id: &str, slots: u32, serves: &[usize], held: &[(usize, u32)]) -> Worker {
        Worker {
            id: id.to_owned(),
            slots,
            serves: serves.to_vec(),
            held: held.iter().copied().collect(),
        }
    }

    #[test]
    fn in_proportion_to_slots() {
        let workers = [worker("a", 30, &[0], &[]), worker("b", 10, &[0], &[])];
        let targets = divide(&[20], &workers);
        assert_eq!((targets[0][&0], targets[1][&0]), (15, 5));
        let targets = divide(&[99], &workers);
        assert_eq!((targets[0][&0], targets[1][&0]), (30, 10));
    }

    #[test]
    fn the_remainder_stays_where_it_was() {
        let mut workers = ["a", "b", "c"].map(|id| worker(id, 10, &[0], &[]));
        let one = |targets: &[Targets]| targets.iter().map(|t| t[&0]).collect::<Vec<_>>();
        assert_eq!(one(&divide(&[1], &workers)), [1, 0, 0]);
        workers[2].held.insert(0, 1);
        assert_eq!(one(&divide(&[1], &workers)), [0, 0, 1]);
        assert_eq!(one(&divide(&[5], &workers)), [2, 1, 2]);
    }

    #[test]
    fn queues_share_the_slots_of_one_worker() {
        let workers = [worker("a", 10, &[0, 1], &[]), worker("b", 10, &[1], &[])];
        let targets = divide(&[8, 12], &workers);
        let sum = |queue: usize| targets.iter().filter_map(|t| t.get(&queue)).sum::<u32>();
        assert_eq!((sum(0), sum(1)), (8, 12), "{targets:?}");
        assert!(targets[0].values().sum::<u32>() <= 10);
    }

    /// Of each case: wanted, slots of workers that serve everything.
    #[test]
    fn nobody_is_left_with_nothing_while_another_has_two() {
        let cases: [(&[u32], &[u32]); 5] = [
            (&[10, 10, 10, 10, 10, 10], &[4]),
            (&[1_000, 10], &[20]),
            (&[1_000, 1], &[64, 64, 64]),
            (&[10, 10, 10, 10, 10, 10, 10], &[6, 6, 6]),
            (&[1_000, 1, 1, 1, 1], &[10]),
        ];
        for (wanted, slots) in cases {
            let serves: Vec<usize> = (0..wanted.len()).collect();
            let workers: Vec<Worker> = slots
                .iter()
                .enumerate()
                .map(|(i, slots)| worker(&i.to_string(), *slots, &serves, &[]))
                .collect();
            let targets = divide(wanted, &workers);
            let sums: Vec<u32> = (0..wanted.len())
                .map(|queue| targets.iter().filter_map(|targets| targets.get(&queue)).sum())
                .collect();
            let (least, most) = (sums.iter().min().unwrap(), sums.iter().max().unwrap());
            assert!(*least > 0 || *most < 2, "{wanted:?} on {slots:?}: {sums:?}");
            assert_eq!(
                sums.iter().sum::<u32>(),
                wanted.iter().sum::<u32>().min(slots.iter().sum())
            );
        }
    }

    #[test]
    fn nobody_serves_it() {
        assert_eq!(divide(&[7], &[worker("a", 5, &[], &[])]), [Targets::new()]);
        assert!(divide(&[7], &[]).is_empty());
    }

    #[test]
    fn sums_hold_and_no_slot_is_wasted() {
        let mut random = Random(3);
        for _ in 0..300 {
            let queues = 1 + random.below(4) as usize;
            let wanted: Vec<u32> = (0..queues).map(|_| random.below(40) as u32).collect();
            let workers: Vec<Worker> = (0..random.below(6))
                .map(|id| {
                    let serves: Vec<usize> = (0..queues)
                        .map(|queue| (queue, random.below(2)))
                        .filter(|(_, serves)| *serves == 1)
                        .map(|(queue, _)| queue)
                        .collect();
                    worker(&id.to_string(), random.below(20) as u32, &serves, &[])
                })
                .collect();
            let targets = divide(&wanted, &workers);
            for (worker, targets) in workers.iter().zip(&targets) {
                assert!(targets.values().sum::<u32>() <= worker.slots);
                assert!(targets.keys().all(|queue| worker.serves.contains(queue)));
            }
            for (queue, wanted) in wanted.iter().enumerate() {
                let given: u32 = targets.iter().filter_map(|t| t.get(&queue)).sum();
                assert!(given <= *wanted);
                let full = |(worker, targets): (&Worker, &Targets)| {
                    !worker.serves.contains(&queue) || targets.values().sum::<u32>() == worker.slots
                };
                assert!(given == *wanted || workers.iter().zip(&targets).all(full));
            }
        }
    }
}
