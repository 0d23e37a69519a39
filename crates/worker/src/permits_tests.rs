use super::*;

fn name(text: &str) -> QueueName {
    text.parse().expect("valid")
}

fn permits(slots: u32, queues: usize) -> Permits {
    Permits::new(slots, (0..queues).map(|i| name(&format!("q{i}"))))
}

/// The credits as the router knows them.
#[derive(Default)]
struct Router(HashMap<QueueName, u32>);

impl Router {
    fn hear(&mut self, permits: &mut Permits) -> &mut Self {
        self.0.extend(permits.offers(0));
        assert!(!permits.has_offers(0), "said once is enough");
        self
    }

    fn credit(&self, queue: &str) -> u32 {
        self.0.get(&name(queue)).copied().unwrap_or(0)
    }

    fn total(&self) -> u32 {
        self.0.values().sum()
    }

    /// Grants as much as it may, at most `jobs`.
    fn grant(&mut self, permits: &mut Permits, queue: &str, jobs: u32) -> u32 {
        let credit = self.0.entry(name(queue)).or_default();
        let granted = jobs.min(*credit);
        *credit -= granted;
        for _ in 0..granted {
            assert!(
                permits.take(&name(queue)),
                "credit is never more than there are slots"
            );
        }
        granted
    }
}

#[test]
fn one_queue_is_offered_every_slot() {
    let mut permits = permits(64, 1);
    let mut router = Router::default();
    assert_eq!(router.hear(&mut permits).credit("q0"), 64);
    assert_eq!(router.grant(&mut permits, "q0", 100), 64);
    assert_eq!(router.hear(&mut permits).credit("q0"), 0);
    permits.give_back(&name("q0"));
    assert_eq!(router.hear(&mut permits).credit("q0"), 1);
    assert!(!permits.wants_ticks());
}

#[test]
fn idle_queues_share_evenly_and_need_no_ticks() {
    let mut permits = permits(64, 3);
    let mut router = Router::default();
    router.hear(&mut permits);
    let mut credits: Vec<u32> = router.0.values().copied().collect();
    credits.sort_unstable();
    assert_eq!(credits, [21, 21, 22]);
    assert!(!permits.wants_ticks());
}

#[test]
fn a_busy_queue_gets_nearly_all_and_the_others_keep_one() {
    let mut permits = permits(64, 4);
    let mut router = Router::default();
    let mut running = 0;
    // A backlog that nobody else competes for.
    for _ in 0..10 {
        router.hear(&mut permits);
        assert_eq!(router.total() + running, 64, "every free slot is offered");
        running += router.grant(&mut permits, "q0", 1_000);
    }
    assert_eq!(running, 61);
    for queue in ["q1", "q2", "q3"] {
        assert_eq!(router.credit(queue), 1, "ready for its first job: {queue}");
    }
}

#[test]
fn two_busy_queues_become_equal() {
    let mut permits = permits(64, 2);
    let mut router = Router::default();
    for _ in 0..10 {
        router.hear(&mut permits);
        router.grant(&mut permits, "q0", 1_000);
    }
    let first = permits.usage().next().expect("it is there");
    assert_eq!(first.in_use, 63);
    // The other wakes up; from now on jobs of the first end one by one and both have a backlog.
    for _ in 0..200 {
        router.hear(&mut permits);
        router.grant(&mut permits, "q1", 1_000);
        router.grant(&mut permits, "q0", 1_000);
        let running = permits.usage().next().expect("it is there").in_use;
        if running > 32 {
            permits.give_back(&name("q0"));
        }
    }
    let usage: Vec<u32> = permits.usage().map(|usage| usage.in_use).collect();
    assert_eq!(usage, [32, 32]);
}

#[test]
fn demand_ends_and_the_offer_moves() {
    let mut permits = permits(64, 2);
    let mut router = Router::default();
    router.hear(&mut permits);
    router.grant(&mut permits, "q0", 1);
    permits.give_back(&name("q0"));
    router.hear(&mut permits);
    assert_eq!((router.credit("q0"), router.credit("q1")), (63, 1));
    for _ in 0..IDLE_TICKS {
        assert!(permits.wants_ticks());
        permits.tick();
    }
    router.hear(&mut permits);
    assert_eq!((router.credit("q0"), router.credit("q1")), (32, 32));
    assert!(!permits.wants_ticks(), "an idle worker is still");
}

/// A worker whose slots are all wanted by one queue, with others that have a job each: how long do those wait?
#[test]
fn nobody_starves_behind_a_busy_queue() {
    for (slots, queues, ticks_max) in [
        (1, 2, 16),
        (1, 5, 64),
        (4, 8, 30),
        (8, 3, 4),
        (64, 100, 24),
        (64, 8, 1),
    ] {
        let mut permits = permits(slots, queues);
        let mut router = Router::default();
        // Each tick the busy queue's jobs end and as many are granted as it may have.
        let mut running: Vec<QueueName> = Vec::new();
        let mut served = std::collections::HashSet::new();
        let mut lent = 0;
        for _ in 0..1_000 {
            running.drain(..).for_each(|queue| permits.give_back(&queue));
            router.hear(&mut permits);
            assert!(router.total() <= slots, "never more credit than slots");
            for _ in 0..router.grant(&mut permits, "q0", u32::MAX) {
                running.push(name("q0"));
            }
            lent += slots - running.len() as u32;
            permits.tick();
        }
        let share = f64::from(lent) / f64::from(slots * 1_000);
        assert!(
            share <= 0.126,
            "{slots} slots, {queues} queues: {share} of the slots stood idle"
        );
        // Now every other queue gets one job.
        let mut ticks = 0;
        while served.len() < queues - 1 {
            ticks += 1;
            assert!(
                ticks <= ticks_max,
                "{slots} slots, {queues} queues: {} served",
                served.len()
            );
            running.drain(..).for_each(|queue| permits.give_back(&queue));
            router.hear(&mut permits);
            for i in 1..queues {
                let queue = format!("q{i}");
                if !served.contains(&queue) && router.grant(&mut permits, &queue, 1) > 0 {
                    running.push(name(&queue));
                    served.insert(queue);
                }
            }
            for _ in 0..router.grant(&mut permits, "q0", u32::MAX) {
                running.push(name("q0"));
            }
            permits.tick();
        }
    }
}

/// The rhythm of the jobs must not decide who is served.
#[test]
fn long_jobs_do_not_shut_anyone_out() {
    for job_ticks in [1, 2, 7, 8, 16, 17, 40] {
        let mut permits = permits(1, 3);
        let mut router = Router::default();
        let mut served = HashMap::<&str, u32>::new();
        let mut running: Option<(&str, u32)> = None;
        for _ in 0..job_ticks * 60 + 600 {
            running = running.map(|(queue, left)| (queue, left - 1));
            if let Some((queue, 0)) = running {
                permits.give_back(&name(queue));
                running = None;
            }
            router.hear(&mut permits);
            // All three have a backlog.
            for queue in ["q0", "q1", "q2"] {
                if router.grant(&mut permits, queue, 1) > 0 {
                    *served.entry(queue).or_default() += 1;
                    running = Some((queue, job_ticks));
                }
            }
            permits.tick();
        }
        let fewest = ["q0", "q1", "q2"]
            .map(|queue| served.get(queue).copied().unwrap_or(0))
            .into_iter()
            .min();
        assert!(fewest >= Some(10), "{job_ticks} ticks a job: {served:?}");
    }
}

#[test]
fn a_lowered_target_takes_permits_only_as_jobs_end() {
    let mut permits = permits(8, 1);
    let mut router = Router::default();
    router.hear(&mut permits);
    router.grant(&mut permits, "q0", 6);
    permits.set_target(&name("q0"), 2);
    assert_eq!(router.hear(&mut permits).credit("q0"), 0);
    for left in (2..6).rev() {
        permits.give_back(&name("q0"));
        assert_eq!(permits.usage().next().expect("it is there").in_use, left);
        assert_eq!(router.hear(&mut permits).credit("q0"), 0, "{left} run");
    }
    permits.give_back(&name("q0"));
    assert_eq!(router.hear(&mut permits).credit("q0"), 1);
}

#[test]
fn what_crosses_a_withdrawn_offer_is_refused_beyond_the_slots() {
    let mut permits = permits(2, 2);
    assert_eq!(permits.offers(0).len(), 2);
    assert!(permits.take(&name("q0")));
    assert!(permits.take(&name("q1")));
    assert!(!permits.take(&name("q1")), "sent before it knew");
    assert!(!permits.take(&name("unknown")));
    let usage: Vec<u32> = permits.usage().map(|usage| usage.in_use).collect();
    assert_eq!(usage, [1, 1]);
}

#[test]
fn a_new_stream_hears_everything_again_and_a_drain_takes_all_back() {
    let mut permits = permits(8, 2);
    assert_eq!(permits.offers(0).len(), 2);
    assert_eq!(permits.offers(0), []);
    permits.new_stream();
    assert_eq!(permits.offers(0).len(), 2);
    permits.close();
    assert_eq!(permits.offers(0), [(name("q0"), 0), (name("q1"), 0)]);
    permits.new_stream();
    assert_eq!(permits.offers(0), []);
}

#[test]
fn held_back_slots_are_not_offered() {
    let mut permits = permits(8, 1);
    assert_eq!(permits.offers(3), [(name("q0"), 5)]);
    assert_eq!(permits.offers(9), [(name("q0"), 0)]);
}
