use super::*;

const TTL: u64 = 10_000;

fn lease(n: u64) -> LeaseRef {
    let id = format!("email:0:{n:032x}").parse().expect("valid");
    LeaseRef { id, fence: n }
}

fn none() -> HashSet<LeaseRef> {
    HashSet::new()
}

/// A stream on which counters 1, 2, 3 were sent at 1 s, 2 s, 3 s.
fn stream() -> Leases {
    let mut leases = Leases::default();
    leases.new_stream();
    for at in [1_000, 2_000, 3_000] {
        leases.count(at);
    }
    leases
}

#[test]
fn a_grant_is_believed_from_when_its_counter_was_sent() {
    // (counter echoed, arrives at, taken, fenced at)
    for (counter, now, taken, fenced_at) in [
        (1, 1_500, true, 9_000),
        (2, 3_500, true, 10_000),
        (3, 3_500, true, 11_000),
        (1, 8_999, true, 9_000),
        (1, 9_000, false, 0), // ttl - margin old: nothing may be started on it
        (1, 60_000, false, 0),
        (0, 3_500, false, 0), // an echo of nothing
        (4, 3_500, false, 0), // an echo of what was never sent
    ] {
        let mut leases = stream();
        let case = format!("counter {counter} at {now}");
        assert_eq!(leases.grant(now, counter, lease(1), TTL), taken, "{case}");
        assert!(
            leases.holds(&lease(1)),
            "kept alive until it is handed back: {case}"
        );
        if taken {
            assert_eq!(leases.self_fence(fenced_at - 1), [], "{case}");
            assert_eq!(leases.self_fence(fenced_at), [lease(1)], "{case}");
            assert_eq!(leases.self_fence(fenced_at + 1), [], "named once: {case}");
        } else {
            assert_eq!(leases.self_fence(u64::MAX), [], "{case}");
        }
    }
}

#[test]
fn an_answer_prolongs_from_the_sending_not_from_the_answer() {
    let mut leases = stream();
    assert!(leases.grant(3_100, 3, lease(1), TTL));
    let renewal = leases.renew(5_000);
    assert_eq!(
        renewal,
        Renewal {
            counter: 4,
            leases: vec![lease(1)]
        }
    );
    // The answer takes 5 s; the belief ends 8 s after the sending all the same.
    assert!(leases.renewed(4, &none()));
    assert_eq!(leases.self_fence(12_999), []);
    assert_eq!(leases.self_fence(13_000), [lease(1)]);
}

#[test]
fn a_newer_echo_counts_but_only_for_what_was_listed() {
    let mut leases = stream();
    assert!(leases.grant(3_000, 3, lease(1), TTL));
    leases.renew(5_000); // 4
    assert!(leases.grant(5_500, 3, lease(2), TTL)); // not in the renewal
    leases.count(7_000); // 5: credits
    assert!(leases.renewed(5, &none()), "asked of the store after 5 was seen");
    assert_eq!(leases.self_fence(11_000), [lease(2)], "believed from 3,000");
    assert_eq!(leases.self_fence(14_999), []);
    assert_eq!(leases.self_fence(15_000), [lease(1)], "believed from 7,000");
}

#[test]
fn lost_and_unknown_leases_are_not_prolonged() {
    let mut leases = stream();
    for n in 1..=3 {
        assert!(leases.grant(3_000, 3, lease(n), TTL));
    }
    leases.renew(5_000);
    assert!(leases.renewed(4, &HashSet::from([lease(1), lease(2)])));
    let mut fenced = leases.self_fence(11_000);
    fenced.sort();
    assert_eq!(fenced, [lease(1), lease(2)], "the old time goes on");
    assert_eq!(leases.self_fence(13_000), [lease(3)]);
}

#[test]
fn answers_to_nothing_are_ignored() {
    let mut leases = stream();
    assert!(leases.grant(3_000, 3, lease(1), TTL));
    assert!(!leases.renewed(3, &none()), "no renewal was sent");
    leases.renew(5_000); // 4
    assert!(!leases.renewed(3, &none()), "older than the renewal");
    assert!(!leases.renewed(9, &none()), "never sent");
    assert!(leases.renewed(4, &none()));
    assert!(!leases.renewed(4, &none()), "answered already");
    leases.renew(7_000);
    leases.new_stream();
    assert!(!leases.renewed(5, &none()), "of the old stream");
}

#[test]
fn one_renewal_at_a_time_every_quarter_of_the_shortest_ttl() {
    let mut leases = Leases::default();
    assert_eq!(leases.renew_at_ms(), Some(0), "at once on a new stream");
    leases.renew(100);
    assert_eq!(leases.renew_at_ms(), None, "one waits");
    assert_eq!(leases.give_up_at_ms(), Some(5_100));
    assert!(leases.renewed(1, &none()));
    assert_eq!(leases.renew_at_ms(), Some(2_600), "also when it holds nothing");
    assert!(leases.grant(200, 1, lease(1), 1_000));
    assert_eq!(leases.renew_at_ms(), Some(350));
    leases.renew(350);
    assert_eq!(
        leases.give_up_at_ms(),
        Some(850),
        "before the fence at 900 or later"
    );
    leases.remove(&lease(1));
    assert_eq!(leases.len(), 0);
}

#[test]
fn settling_leases_are_renewed_but_not_fenced() {
    let mut leases = stream();
    assert!(leases.grant(3_000, 3, lease(1), TTL));
    leases.settle(&lease(1));
    assert_eq!(leases.renew(5_000).leases, [lease(1)]);
    assert_eq!(leases.self_fence(u64::MAX), []);
}

#[test]
fn counters_sent_together_share_the_earliest_time_and_history_is_bounded() {
    let mut leases = Leases::default();
    for at in 0..9 {
        leases.count(at);
    }
    assert_eq!(leases.sent_ms(9), Some(0));
    for i in 0..20_000 {
        leases.count(100 + i * SENT_RESOLUTION_MS);
    }
    assert_eq!(leases.sent.len(), SENT_ENTRIES_MAX);
    assert_eq!(leases.sent_ms(5), None, "too long ago to know");
    assert_eq!(leases.sent_ms(20_009), Some(100 + 19_999 * SENT_RESOLUTION_MS));
}
