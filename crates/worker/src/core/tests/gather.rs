//! Outcomes that nobody waits for are told a few at a time.

use super::*;

fn quiet() -> Option<Verdict> {
    Some(Verdict::succeeded(""))
}

/// Eight slots, of which this many jobs run.
fn running(jobs: u64) -> Core {
    let mut core = connected(8);
    granted(&mut core, 10, jobs, (1..=jobs).map(grant).collect());
    core
}

#[test]
fn plain_successes_are_told_together_and_soon_and_their_slots_with_them() {
    let mut core = running(3);
    ended_at(&mut core, 20, 1, quiet());
    core.tick(20).expect("nothing is overdue");
    assert_eq!((said(&mut core, 20), core.has_outgoing(20)), (vec![], false));
    assert_eq!(core.wake_at_ms(), 20 + GATHER_MS);
    ended_at(&mut core, 21, 2, quiet());
    assert!(said(&mut core, 21).is_empty(), "the first one says until when");
    core.tick(22).expect("nothing is overdue");
    let messages = said(&mut core, 22);
    assert_eq!(settled(&messages).len(), 2);
    assert_eq!(credit(&messages), Some((7, 3)));
}

#[test]
fn a_result_and_a_failure_are_told_at_once_and_what_waits_goes_with_them() {
    for news in [done(), Some(Verdict::from(JobError::failed("no")))] {
        let mut core = running(2);
        ended_at(&mut core, 20, 1, quiet());
        ended_at(&mut core, 20, 2, news);
        assert_eq!(settled(&said(&mut core, 20)).len(), 2);
    }
}

#[test]
fn nothing_gathers_where_a_slot_may_be_waited_for_or_in_a_drain() {
    let mut core = running(5);
    ended_at(&mut core, 20, 1, quiet());
    assert_eq!(
        settled(&said(&mut core, 20)).len(),
        1,
        "three of eight are offered"
    );
    let mut core = running(1);
    core.drain(15, 1_000);
    ended_at(&mut core, 20, 1, quiet());
    assert_eq!(settled(&said(&mut core, 20)).len(), 1);
}

#[test]
fn a_grant_that_is_handed_back_does_not_wait() {
    let mut core = running(2);
    ended_at(&mut core, 20, 1, quiet());
    let unreadable = v1::Grant {
        queue: "other".to_owned(),
        job_id: "other:0:00000000000000000000000000000009".to_owned(),
        ..grant(9)
    };
    assert!(granted(&mut core, 20, 3, vec![unreadable]).is_empty());
    assert_eq!(settled(&said(&mut core, 20)).len(), 2);
}

#[test]
fn while_answers_stay_out_nothing_is_put_off_again_and_again() {
    let mut core = running(4);
    for n in [1, 2] {
        ended_at(&mut core, 20, n, done());
        assert_eq!(settled(&said(&mut core, 20)).len(), 1);
    }
    ended_at(&mut core, 20, 3, quiet());
    core.tick(22).expect("nothing is overdue");
    assert!(
        said(&mut core, 22)
            .iter()
            .all(|message| !matches!(message, Up::Settle(_))),
        "two are in flight"
    );
    ended_at(&mut core, 22, 4, quiet());
    answered(&mut core, 1, v1::SettleResult::Recorded);
    assert_eq!(settled(&said(&mut core, 22)).len(), 2);
}
