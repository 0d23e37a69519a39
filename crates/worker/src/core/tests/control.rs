//! Targets, reflexes and reports.

use tidegate_protocol::domain::FailureClass;

use super::*;

fn target(core: &mut Core, now_ms: u64, target: u32) {
    let target = v1::Target {
        queue: "email".to_owned(),
        target,
        ..Default::default()
    };
    core.set_targets(now_ms, &[target]);
}

fn failing(class: FailureClass) -> Option<Verdict> {
    Some(JobError::retry("x").with_class(class).into())
}

fn queue_report(core: &Core, now_ms: u64) -> v1::QueueReport {
    core.report(now_ms).queues.remove(0)
}

/// Grants and ends this many jobs.
fn run(core: &mut Core, now_ms: u64, fences: std::ops::Range<u64>, verdict: &Option<Verdict>) {
    for fence in fences {
        granted(core, now_ms, fence, vec![grant(fence)]);
        ended_at(core, now_ms, fence, verdict.clone());
    }
}

#[test]
fn a_target_is_the_next_credit() {
    let mut core = connected(8);
    target(&mut core, 10, 3);
    assert_eq!(credit(&said(&mut core, 10)), Some((3, 0)));
    target(&mut core, 10, 100);
    assert_eq!(
        credit(&said(&mut core, 10)),
        Some((8, 0)),
        "never above the slots"
    );
    core.set_targets(
        10,
        &[v1::Target {
            queue: "No Such".to_owned(),
            ..Default::default()
        }],
    );
    assert_eq!(credit(&said(&mut core, 10)), None);
}

#[test]
fn a_target_of_none_ends_with_the_word_of_who_gave_it() {
    let mut core = connected(8);
    target(&mut core, 10, 0);
    assert_eq!(credit(&said(&mut core, 10)), Some((0, 0)));
    core.targets_ended(40_000);
    assert_eq!(credit(&said(&mut core, 40_000)), Some((1, 0)));
    target(&mut core, 40_000, 5);
    core.targets_ended(80_000);
    assert_eq!(queue_report(&core, 80_000).target, 5, "others stay");
}

#[test]
fn overload_halves_the_credit_for_a_second() {
    let mut core = connected(8);
    run(&mut core, 100, 1..2, &failing(FailureClass::Overload));
    let said_now = said(&mut core, 100);
    assert_eq!(settled(&said_now).len(), 1);
    assert!(
        matches!(
            settled(&said_now)[0].outcome,
            Some(v1::settlement::Outcome::Throttled(_))
        ),
        "however the handler put it"
    );
    assert_eq!(credit(&said_now), Some((4, 1)));
    assert!(core.is_alarming());
    assert_eq!(queue_report(&core, 100).reflex_limit, 4);
    assert!(core.wake_at_ms() <= 1_100);
    core.tick(1_100).expect("nothing is overdue");
    assert_eq!(credit(&said(&mut core, 1_100)), Some((8, 1)));
    assert_eq!(queue_report(&core, 1_100).reflex_limit, 0);
}

#[test]
fn what_is_down_is_left_alone_until_it_is_back() {
    let mut core = connected(8);
    run(&mut core, 0, 1..6, &failing(FailureClass::Down));
    assert_eq!(credit(&said(&mut core, 0)), Some((0, 5)));
    assert!(core.is_alarming());
    let report = core.report(0);
    core.reported(0, report);
    let report = queue_report(&core, 0);
    assert_eq!((report.down, report.reflex_limit, report.target), (true, 1, 8));
    core.tick(500).expect("nothing is overdue");
    assert_eq!(credit(&said(&mut core, 500)), Some((1, 5)));
    run(&mut core, 500, 6..7, &done());
    assert_eq!(credit(&said(&mut core, 500)), Some((8, 6)));
    assert!(!queue_report(&core, 500).down);
    assert!(
        core.is_alarming(),
        "the way back begins with the first good answer"
    );
}

#[test]
fn a_lost_lease_alarms_and_a_cancelled_one_does_not() {
    for (lost, cancelled, alarms) in [(&[1][..], &[][..], true), (&[], &[1], false)] {
        let mut core = connected(8);
        granted(&mut core, 0, 1, vec![grant(1)]);
        renewed(&mut core, 10, 1, lost, cancelled);
        assert_eq!(core.is_alarming(), alarms);
    }
}

#[test]
fn a_worker_that_drains_has_no_slots_to_divide() {
    let mut core = connected(8);
    assert_eq!((core.report(0).slots, core.node().slots), (8, 8));
    core.drain(0, 1_000);
    assert_eq!((core.report(0).slots, core.node().slots), (0, 0));
}

#[test]
fn a_report_names_handlers_that_do_not_stop() {
    let mut core = connected(8);
    granted(&mut core, 0, 1, vec![grant(1), grant(2)]);
    core.cancel_leases(0, &[reference(1)]);
    assert_eq!(queue_report(&core, 1_000).overdue, 0);
    let report = queue_report(&core, 1_500);
    assert_eq!((report.overdue, report.in_flight), (1, 2));
    assert_eq!(report.mean_in_flight, 2.0);
}

#[test]
fn a_hello_takes_no_counts_from_the_report_that_follows() {
    let mut core = connected(8);
    run(&mut core, 100, 1..3, &done());
    let state = core.state(200);
    assert_eq!((state.window_ms, state.queues[0].run_time.as_ref()), (0, None));
    assert_eq!((state.queues[0].target, state.slots), (8, 8));
    let report = core.report(300);
    let run_time = report.queues[0].run_time.as_ref().expect("two ended");
    assert_eq!((report.window_ms, run_time.count), (300, 2));
}

#[test]
fn only_what_has_changed_is_news() {
    let mut core = connected(8);
    let report = core.news(1_000);
    assert_eq!(report.queues.len(), 1, "a new stream is told everything");
    core.reported(1_000, report);
    assert_eq!(core.news(2_000).queues, []);
    assert_eq!(core.news(2_000).slots, 8, "that it lives is said each time");
    granted(&mut core, 2_000, 1, vec![grant(1)]);
    let report = core.news(3_000);
    assert_eq!((report.queues.len(), report.queues[0].in_flight), (1, 1));
    core.reported(3_000, report);
    // It runs on: the mean of a whole window is news once.
    let report = core.news(4_000);
    assert_eq!(report.queues[0].mean_in_flight, 1.0);
    core.reported(4_000, report);
    assert_eq!(core.news(5_000).queues, []);
    ended_at(&mut core, 5_000, 1, done());
    assert!(
        core.news(5_000).queues[0].run_time.is_some(),
        "counts are always news"
    );
    core.tell_anew();
    assert_eq!(core.news(5_000).queues.len(), 1);
}

#[test]
fn callers_that_wait_for_a_connection_halve_the_credit_and_alarm() {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    let waiters = Arc::new(AtomicU32::new(3));
    let waiting = waiters.clone();
    let stats = move || crate::PoolUsage {
        in_use: 4,
        waiters: waiting.load(Ordering::SeqCst),
        size: 4,
        ..crate::PoolUsage::default()
    };
    let pool = Pool::new("pg-main".to_owned(), Vec::new(), Arc::new(stats));
    let mut core = connected(8).with_pools(vec![pool]);
    core.tick(10).expect("nothing is overdue");
    assert!(!core.is_alarming(), "one look is not a wait");
    core.tick(110).expect("nothing is overdue");
    assert!(core.is_alarming());
    assert_eq!(credit(&said(&mut core, 110)), Some((4, 0)));
    let report = core.news(110);
    assert_eq!(
        (report.alarm, report.queues[0].reflex_limit, report.queues[0].down),
        (true, 4, false)
    );
    assert_eq!(
        (report.resources[0].resource.as_str(), report.resources[0].waiters),
        ("pg-main", 3)
    );
    core.reported(110, report);
    core.tick(1_000).expect("nothing is overdue");
    assert!(!core.is_alarming(), "at most once a second");
    core.tick(1_110).expect("nothing is overdue");
    assert!(core.is_alarming(), "they wait on");
    waiters.store(0, Ordering::SeqCst);
    core.tick(2_110).expect("nothing is overdue");
    assert_eq!(credit(&said(&mut core, 2_110)), Some((8, 0)));
    assert_eq!(core.report(2_110).resources[0].waiters, 0);
}

#[derive(Default)]
struct Follower(std::sync::Mutex<Vec<u32>>);

impl crate::PoolStats for std::sync::Arc<Follower> {
    fn usage(&self) -> crate::PoolUsage {
        crate::PoolUsage::default()
    }

    fn on_target(&self, jobs: u32) {
        self.0.lock().expect("no holder panics").push(jobs);
    }
}

#[test]
fn a_pool_is_told_its_target_when_it_changes() {
    let follower = std::sync::Arc::new(Follower::default());
    let pool = crate::pools::Pool::new(
        "pg".to_owned(),
        Vec::new(),
        std::sync::Arc::new(std::sync::Arc::clone(&follower)),
    );
    let mut core = core(8).with_pools(vec![pool]);
    for wanted in [3, 3, 100, 0] {
        target(&mut core, 10, wanted);
    }
    core.targets_ended(20);
    let told = follower.0.lock().expect("no holder panics").clone();
    assert_eq!(told, [8, 3, 8, 0, 1], "never more than slots");
}

/// The controller moves targets between workers all the time; a job that runs keeps what it was started with.
#[test]
fn a_pool_shrinks_with_what_runs_and_not_under_it() {
    let follower = std::sync::Arc::new(Follower::default());
    let pool = crate::pools::Pool::new(
        "pg".to_owned(),
        Vec::new(),
        std::sync::Arc::new(std::sync::Arc::clone(&follower)),
    );
    let mut core = connected(8).with_pools(vec![pool]);
    target(&mut core, 10, 3);
    granted(&mut core, 10, 1, vec![grant(1), grant(2), grant(3)]);
    target(&mut core, 20, 1);
    for (fence, at) in [(1, 100), (2, 200), (3, 300)] {
        ended_at(&mut core, at, fence, done());
        core.tick(at).expect("nothing is overdue");
    }
    let told = follower.0.lock().expect("no holder panics").clone();
    assert_eq!(told, [8, 3, 2, 1]);
}
