//! Which worker runs how many: a queue's target divided over the workers that serve it.
//!
//! In proportion to free slots, jointly over all queues, so that a worker's targets fit into its slots. What rounding
//! leaves goes first to workers that hold it already: a job that moves between workers costs caches and connections.

use std::collections::BTreeMap;

/// Turns of the fractional division; what is left then is less than a slot in all practical cases.
const ROUNDS_MAX: usize = 32;

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
    let nothing = vec![0; wanted.len()];
    let mut targets: Vec<Targets> = quotas(&nothing, workers)
        .iter()
        .map(|quotas| quotas.keys().map(|queue| (*queue, 0)).collect())
        .collect();
    let mut free: Vec<u32> = workers.iter().map(|worker| worker.slots).collect();
    // One each first: what is divided in proportion leaves small queues with fractions.
    let floors: Vec<u32> = wanted.iter().map(|wanted| (*wanted).min(1)).collect();
    deal(
        &floors,
        workers,
        &quotas(&nothing, workers),
        &mut targets,
        &mut free,
    );

    let rest: Vec<u32> = (0..wanted.len())
        .map(|queue| wanted[queue].saturating_sub(given(queue, &targets)))
        .collect();
    let with_room: Vec<Worker> = workers
        .iter()
        .zip(&free)
        .map(|(worker, free)| Worker {
            slots: *free,
            ..worker.clone()
        })
        .collect();
    let mut quotas = quotas(&rest, &with_room);
    for (at, quotas) in quotas.iter_mut().enumerate() {
        for (queue, quota) in quotas {
            let target = targets[at].entry(*queue).or_default();
            let whole = (*quota + 1e-9).floor() as u32;
            free[at] = free[at].saturating_sub(whole);
            // From here on the quota is of everything that it holds.
            *quota += f64::from(*target);
            *target += whole;
        }
    }
    deal(wanted, workers, &quotas, &mut targets, &mut free);
    for (queue, wanted) in wanted.iter().enumerate() {
        for _ in given(queue, &targets)..*wanted {
            if !make_room(queue, workers, &mut targets, &mut free) {
                break;
            }
        }
    }
    targets
}

fn given(queue: usize, targets: &[Targets]) -> u32 {
    targets.iter().filter_map(|targets| targets.get(&queue)).sum()
}

/// Deals free slots up to what is wanted: one a queue and turn, to those with least first.
fn deal(
    wanted: &[u32],
    workers: &[Worker],
    quotas: &[BTreeMap<usize, f64>],
    targets: &mut [Targets],
    free: &mut [u32],
) {
    let mut open: Vec<usize> = (0..wanted.len())
        .filter(|queue| given(*queue, targets) < wanted[*queue])
        .collect();
    // Ends: each turn gives at least one slot, or closes every queue.
    while !open.is_empty() {
        open.sort_by_key(|queue| given(*queue, targets));
        open.retain(|queue| {
            let Some(at) = turn(*queue, workers, quotas, targets, free).first().copied() else {
                return false;
            };
            let target = targets[at].entry(*queue).or_default();
            *target += 1;
            free[at] -= 1;
            given(*queue, targets) < wanted[*queue]
        });
    }
}

/// One slot more for a queue whose workers are all full: a job of another queue moves on to a worker with room.
fn make_room(queue: usize, workers: &[Worker], targets: &mut [Targets], free: &mut [u32]) -> bool {
    let roomy: Vec<usize> = (0..workers.len()).filter(|at| free[*at] > 0).collect();
    for at in (0..workers.len()).filter(|at| workers[*at].serves.contains(&queue)) {
        let movable = targets[at]
            .iter()
            .filter(|(other, held)| **other != queue && **held > 0);
        let way = movable
            .filter_map(|(other, _)| {
                let to = roomy.iter().find(|to| workers[**to].serves.contains(other))?;
                Some((*other, *to))
            })
            .next();
        let Some((other, to)) = way else { continue };
        *targets[at].entry(other).or_default() -= 1;
        *targets[to].entry(other).or_default() += 1;
        *targets[at].entry(queue).or_default() += 1;
        free[to] -= 1;
        return true;
    }
    false
}

/// Who may take one more of the queue, best first.
fn turn(
    queue: usize,
    workers: &[Worker],
    quotas: &[BTreeMap<usize, f64>],
    targets: &[Targets],
    free: &[u32],
) -> Vec<usize> {
    let given = |at: usize| targets[at].get(&queue).copied().unwrap_or(0);
    let missing = |at: usize| {
        let quota = quotas[at].get(&queue).copied().unwrap_or(0.0);
        quota - f64::from(given(at))
    };
    let holds_more = |at: usize| workers[at].held.get(&queue).is_some_and(|held| *held > given(at));
    let mut able: Vec<usize> = (0..workers.len())
        .filter(|at| free[*at] > 0 && workers[*at].serves.contains(&queue))
        .collect();
    able.sort_by(|a, b| {
        let by_hold = holds_more(*b).cmp(&holds_more(*a));
        by_hold
            .then(missing(*b).total_cmp(&missing(*a)))
            .then(workers[*a].id.cmp(&workers[*b].id))
    });
    able
}

/// The fractional division: every queue pours what it still wants over its workers by their free slots; a worker that
/// would overflow takes its share of each.
fn quotas(wanted: &[u32], workers: &[Worker]) -> Vec<BTreeMap<usize, f64>> {
    let mut quotas: Vec<BTreeMap<usize, f64>> = workers
        .iter()
        .map(|worker| {
            let known = worker.serves.iter().filter(|queue| **queue < wanted.len());
            known.map(|queue| (*queue, 0.0)).collect()
        })
        .collect();
    let mut left: Vec<f64> = wanted.iter().map(|wanted| f64::from(*wanted)).collect();
    let mut free: Vec<f64> = workers.iter().map(|worker| f64::from(worker.slots)).collect();
    for _ in 0..ROUNDS_MAX {
        let mut reach = vec![0.0; wanted.len()];
        for (at, quotas) in quotas.iter().enumerate() {
            quotas.keys().for_each(|queue| reach[*queue] += free[at]);
        }
        let mut moved = vec![0.0; wanted.len()];
        for (at, quotas) in quotas.iter_mut().enumerate() {
            let share = |queue: usize| match reach[queue] > 0.0 {
                true => left[queue] * free[at] / reach[queue],
                false => 0.0,
            };
            let offered: f64 = quotas.keys().map(|queue| share(*queue)).sum();
            let fits = if offered > free[at] {
                free[at] / offered
            } else {
                1.0
            };
            for (queue, quota) in quotas.iter_mut() {
                let taken = share(*queue) * fits;
                *quota += taken;
                moved[*queue] += taken;
            }
            free[at] = (free[at] - offered * fits).max(0.0);
        }
        left.iter_mut()
            .zip(&moved)
            .for_each(|(left, moved)| *left -= moved);
        if moved.iter().sum::<f64>() < 1e-6 {
            break;
        }
    }
    quotas
}

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
            let sums: Vec<u32> = (0..wanted.len()).map(|queue| given(queue, &targets)).collect();
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
