use std::collections::HashSet;

use tidegate_protocol::v1::lease_response::Message as Down;

use super::*;
use crate::{JobError, OVERDUE_MAX};

mod control;
mod gather;
mod stuck;

const TTL: u64 = 10_000;

fn core(slots: u32) -> Core {
    Core::new(Settings {
        slots,
        queues: vec!["email".parse().expect("valid")],
        incarnation: Uuid::from_u128(7),
        labels: HashMap::new(),
    })
}

fn id(n: u64) -> String {
    format!("email:0:{n:032x}")
}

fn reference(n: u64) -> v1::LeaseRef {
    v1::LeaseRef {
        job_id: id(n),
        fence: n,
    }
}

fn lease(n: u64) -> LeaseRef {
    lease_ref(&reference(n)).expect("valid")
}

fn grant(n: u64) -> v1::Grant {
    v1::Grant {
        job_id: id(n),
        queue: "email".to_owned(),
        fence: n,
        attempt: 1,
        max_attempts: 3,
        lease_ttl_ms: TTL,
        timeout_ms: 60_000,
        ..Default::default()
    }
}

fn down(message: Down) -> v1::LeaseResponse {
    v1::LeaseResponse {
        message: Some(message),
    }
}

/// Everything there is to say now.
fn said(core: &mut Core, now_ms: u64) -> Vec<Up> {
    std::iter::from_fn(|| core.outgoing(now_ms))
        .filter_map(|message| message.message)
        .collect()
}

fn settled(messages: &[Up]) -> Vec<v1::Settlement> {
    let settles = messages.iter().filter_map(|message| match message {
        Up::Settle(settle) => Some(settle.settlements.clone()),
        _ => None,
    });
    settles.flatten().collect()
}

fn credit(messages: &[Up]) -> Option<(u32, u64)> {
    let mut credits = messages.iter().filter_map(|message| match message {
        Up::Credits(credits) => Some((credits.credits[0].free, credits.credits[0].last_grant_seq)),
        _ => None,
    });
    credits.next_back()
}

fn welcome(core: &mut Core, now_ms: u64, lost: &[u64]) {
    let lost = lost.iter().map(|n| reference(*n)).collect();
    core.received(
        now_ms,
        down(Down::Welcome(v1::Welcome {
            lost,
            ..Default::default()
        })),
        0.0,
    );
}

/// A core that was welcomed at 0 and has said its first renewal (counter 1) and credits (counter 2).
fn connected(slots: u32) -> Core {
    let mut core = core(slots);
    core.open(Uuid::from_u128(1));
    assert!(said(&mut core, 0).is_empty(), "nothing before the welcome");
    welcome(&mut core, 0, &[]);
    let first = said(&mut core, 0);
    assert!(matches!(&first[..], [Up::Renew(_), Up::Credits(_)]), "{first:?}");
    core
}

fn granted(core: &mut Core, now_ms: u64, seq: u64, grants: Vec<v1::Grant>) -> Vec<Start> {
    let grants = v1::Grants {
        seq,
        counter: 2,
        store_clock_ms: 1_000_000,
        grants,
    };
    match core.received(now_ms, down(Down::Grants(grants)), 0.0) {
        Received::Starts(starts) => starts,
        other => panic!("{other:?}"),
    }
}

fn renewed(core: &mut Core, now_ms: u64, counter: u64, lost: &[u64], cancelled: &[u64]) {
    let refs = |list: &[u64]| list.iter().map(|n| reference(*n)).collect();
    let renewed = v1::Renewed {
        counter,
        lost: refs(lost),
        cancelled: refs(cancelled),
        ..Default::default()
    };
    core.received(now_ms, down(Down::Renewed(renewed)), 0.0);
}

fn answered(core: &mut Core, n: u64, result: v1::SettleResult) {
    let item = v1::settled::Item {
        lease: Some(reference(n)),
        result: result.into(),
        ..Default::default()
    };
    core.received(0, down(Down::Settled(v1::Settled { items: vec![item] })), 0.0);
}

fn ended(core: &mut Core, n: u64, verdict: Option<Verdict>) {
    ended_at(core, 0, n, verdict);
}

fn ended_at(core: &mut Core, now_ms: u64, n: u64, verdict: Option<Verdict>) {
    let ended = Ended {
        lease: lease(n),
        verdict,
        run_ms: 5,
        span: None,
    };
    core.ended(now_ms, ended);
}

fn done() -> Option<Verdict> {
    Some(Verdict::succeeded("ok"))
}

#[test]
fn a_job_from_grant_to_answer() {
    let mut core = connected(2);
    let starts = granted(&mut core, 10, 1, vec![grant(1)]);
    assert_eq!((starts.len(), starts[0].time_ms), (1, 60_000));
    assert_eq!(
        credit(&said(&mut core, 10)),
        None,
        "the router counts down by itself"
    );
    ended(&mut core, 1, done());
    let messages = said(&mut core, 20);
    assert_eq!(
        settled(&messages)[0].outcome,
        Some(v1::settlement::Outcome::Succeeded(v1::Succeeded {
            result: "ok".into()
        }))
    );
    assert_eq!(
        credit(&messages),
        Some((2, 1)),
        "the slot is free, up to grants number 1"
    );
    assert_eq!(core.held(), 1, "kept alive until it is recorded");
    answered(&mut core, 1, v1::SettleResult::Recorded);
    assert_eq!(core.held(), 0);
}

#[test]
fn stopped_attempts_settle_what_their_cause_says() {
    use v1::settlement::Outcome::{Released, Retry, Succeeded};
    type Case = (
        &'static str,
        fn(&mut Core),
        Option<Verdict>,
        fn(&v1::settlement::Outcome) -> bool,
    );
    let cases: [Case; 7] = [
        (
            "lost",
            |core| renewed(core, 20, 2, &[1], &[]),
            done(),
            |o| matches!(o, Released(_)),
        ),
        (
            "cancelled",
            |core| renewed(core, 20, 2, &[], &[1]),
            None,
            |o| matches!(o, Released(_)),
        ),
        (
            "fenced",
            |core| core.tick(8_000).expect("fine"),
            done(),
            |o| matches!(o, Released(_)),
        ),
        (
            "timed out",
            |core| time_out(core),
            done(),
            |o| matches!(o, Retry(_)),
        ),
        (
            "timed out, then lost",
            |core| {
                time_out(core);
                core.stop(61_000, &lease(1), Cause::Lost);
            },
            done(),
            |o| matches!(o, Released(_)),
        ),
        (
            "drained, done in time",
            |core| drain(core),
            done(),
            |o| matches!(o, Succeeded(_)),
        ),
        (
            "drained, gave up",
            |core| drain(core),
            Some(JobError::retry("x").into()),
            |o| matches!(o, Released(_)),
        ),
    ];
    for (name, tell, verdict, expected) in cases {
        let mut core = connected(2);
        let starts = granted(&mut core, 10, 1, vec![grant(1)]);
        tell(&mut core);
        assert!(starts[0].stop.is_told(), "{name}");
        ended(&mut core, 1, verdict);
        let settlements = settled(&said(&mut core, 70_000));
        let outcome = settlements[0].outcome.as_ref().expect("set");
        assert!(expected(outcome), "{name}: {outcome:?}");
    }
}

fn time_out(core: &mut Core) {
    // Renewed all along, so that only the timeout is left.
    core.leases.settle(&lease(1));
    core.tick(60_010).expect("fine");
}

fn drain(core: &mut Core) {
    core.drain(20, 1_000);
    core.tick(1_020).expect("fine");
}

#[test]
fn grants_that_cannot_run_are_handed_back_unrun() {
    let mut late = grant(1);
    late.deadline_ms = 999_999; // the store's clock says 1,000,000
    let mut soon = grant(1);
    soon.deadline_ms = 1_000_500;
    for (name, now_ms, grants, started) in [
        ("fresh", 10, vec![grant(1)], 1),
        ("as old as it may be", 7_999, vec![grant(1)], 1),
        ("too old", 8_000, vec![grant(1)], 0),
        ("past its deadline", 10, vec![late], 0),
        ("near its deadline", 10, vec![soon], 1),
        ("beyond the slots", 10, vec![grant(1), grant(2), grant(3)], 2),
        ("twice", 10, vec![grant(1), grant(1)], 1),
    ] {
        let mut core = connected(2);
        let repeats = grants.len() - grants.iter().map(|g| &g.job_id).collect::<HashSet<_>>().len();
        let count = grants.len() - repeats;
        let starts = granted(&mut core, now_ms, 1, grants);
        assert_eq!(starts.len(), started, "{name}");
        let messages = said(&mut core, now_ms);
        assert_eq!(settled(&messages).len(), count - started, "{name}");
        assert!(
            settled(&messages)
                .iter()
                .all(|s| matches!(s.outcome, Some(v1::settlement::Outcome::Released(_))))
        );
        assert_eq!(
            core.held(),
            count,
            "{name}: what is handed back is kept alive until it is"
        );
    }
}

#[test]
fn a_deadline_before_the_timeout_stops_the_attempt() {
    let mut core = connected(2);
    let mut soon = grant(1);
    soon.deadline_ms = 1_000_500;
    let starts = granted(&mut core, 10, 1, vec![soon]);
    assert_eq!(starts[0].time_ms, 500);
    core.tick(509).expect("fine");
    assert!(!starts[0].stop.is_told());
    core.tick(510).expect("fine");
    assert!(starts[0].stop.is_told());
}

#[test]
fn a_new_stream_names_what_it_replaces_and_reclaims_and_sends_again() {
    let mut core = connected(4);
    granted(&mut core, 10, 1, vec![grant(1), grant(2)]);
    ended(&mut core, 2, done());
    assert_eq!(settled(&said(&mut core, 20)).len(), 1);
    core.closed(true);
    let hello = core.open(Uuid::from_u128(2));
    core.closed(false); // never got there: nothing to replace
    core.open(Uuid::from_u128(3));
    core.closed(true); // it may have got there, no welcome came
    let hello_again = core.open(Uuid::from_u128(4));
    let (one, three) = (Uuid::from_u128(1).to_string(), Uuid::from_u128(3).to_string());
    assert_eq!(hello.replaces, std::slice::from_ref(&one));
    assert_eq!(hello_again.replaces, [one, three]);
    let mut reclaim = hello_again.reclaim.clone();
    reclaim.sort_by_key(|lease| lease.fence);
    assert_eq!(
        reclaim,
        [reference(1), reference(2)],
        "the one that runs and the one not yet recorded"
    );
    welcome(&mut core, 100, &[]);
    let messages = said(&mut core, 100);
    assert!(matches!(&messages[0], Up::Renew(renew) if renew.counter == 1 && renew.leases.len() == 2));
    assert_eq!(settled(&messages).len(), 1, "the same settlement again");
    assert_eq!(credit(&messages), Some((3, 0)), "from nothing");
    core.closed(true);
    let hello = core.open(Uuid::from_u128(5));
    assert_eq!(
        hello.replaces,
        [Uuid::from_u128(4).to_string()],
        "the welcome acknowledged the others"
    );
}

#[test]
fn what_is_not_reclaimed_is_stopped() {
    let mut core = connected(4);
    let starts = granted(&mut core, 10, 1, vec![grant(1), grant(2)]);
    core.closed(true);
    core.open(Uuid::from_u128(2));
    welcome(&mut core, 100, &[2]);
    assert!(!starts[0].stop.is_told());
    assert!(starts[1].stop.is_told());
    assert_eq!(core.running(), 2, "it keeps its permit until it has ended");
    ended(&mut core, 2, done());
    let settlements = settled(&said(&mut core, 110));
    assert!(matches!(
        settlements[0].outcome,
        Some(v1::settlement::Outcome::Released(_))
    ));
    answered(&mut core, 2, v1::SettleResult::Stale);
    assert_eq!((core.running(), core.held()), (1, 1));
}

#[test]
fn handlers_that_do_not_end_keep_their_permits_until_there_are_too_many() {
    for (stuck, survives) in [(OVERDUE_MAX as u64, true), (OVERDUE_MAX as u64 + 1, false)] {
        let mut core = connected(16);
        granted(&mut core, 10, 1, (1..=stuck).map(grant).collect());
        core.tick(8_000).expect("fenced");
        core.tick(9_499).expect("within the grace");
        assert_eq!(core.tick(9_500).is_ok(), survives, "{stuck} overdue");
        assert_eq!(core.running() as u64, stuck);
        let renew = said(&mut core, 9_500)
            .into_iter()
            .find_map(|message| match message {
                Up::Renew(renew) => Some(renew.leases.len() as u64),
                _ => None,
            });
        assert!(renew.is_none_or(|leases| leases == stuck), "renewed all the same");
    }
}

#[test]
fn a_drain_waits_for_what_runs_and_for_every_answer() {
    let mut core = connected(2);
    granted(&mut core, 10, 1, vec![grant(1)]);
    assert!(!core.is_drained(10));
    core.drain(20, 1_000);
    assert_eq!(credit(&said(&mut core, 20)), Some((0, 1)));
    assert!(
        granted(&mut core, 21, 2, vec![grant(2)]).is_empty(),
        "crossed on the wire: handed back"
    );
    ended(&mut core, 1, done());
    assert_eq!(settled(&said(&mut core, 30)).len(), 2);
    assert!(!core.is_drained(30), "not answered for");
    answered(&mut core, 1, v1::SettleResult::Recorded);
    answered(&mut core, 2, v1::SettleResult::Recorded);
    assert!(core.is_drained(30));
}

#[test]
fn a_drain_ends_in_time_whatever_happens() {
    let mut core = connected(2);
    granted(&mut core, 10, 1, vec![grant(1)]);
    core.drain(20, 1_000);
    core.tick(1_020).expect("fine");
    assert!(!core.is_drained(5_019));
    assert!(core.is_drained(5_020));
    assert_eq!(core.running(), 1);
}

#[test]
fn outcomes_that_pile_up_hold_back_credit() {
    let mut core = connected(2);
    for n in 0..4 {
        assert_eq!(granted(&mut core, 10, n, vec![grant(n)]).len(), 1);
        ended(&mut core, n, done());
        said(&mut core, 10);
    }
    // Four outcomes wait, two slots: nothing is offered any more.
    core.closed(true);
    core.open(Uuid::from_u128(2));
    welcome(&mut core, 20, &[]);
    assert_eq!(credit(&said(&mut core, 20)), None);
    (0..3).for_each(|n| answered(&mut core, n, v1::SettleResult::Recorded));
    assert_eq!(credit(&said(&mut core, 20)), Some((2, 0)));
}

#[test]
fn a_job_that_gives_no_sign_of_life_is_stopped_before_its_timeout() {
    let mut core = connected(8);
    let grant = v1::Grant {
        heartbeat_timeout_ms: 3_000,
        ..grant(1)
    };
    let start = granted(&mut core, 100, 1, vec![grant]).remove(0);
    let told = |core: &mut Core, now_ms: u64| {
        core.tick(now_ms).expect("goes on");
        start.stop.is_told()
    };
    assert!(!told(&mut core, 3_099));
    start.stop.heartbeat().beat(2_000, "row 7".to_owned());
    assert!(!told(&mut core, 4_999), "it was heard at 2,000");
    assert!(told(&mut core, 5_000));
    ended_at(&mut core, 5_001, 1, None);
    let settled = settled(&said(&mut core, 5_001)).remove(0);
    let retry = v1::Retry {
        error: "no heartbeat for 3000 ms; last progress: row 7".to_owned(),
        after_ms: 0,
    };
    assert_eq!(settled.outcome, Some(v1::settlement::Outcome::Retry(retry)));
}
