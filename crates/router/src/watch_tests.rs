use tidegate_store::{Durability, Pulse};

use super::*;

const TTL: u64 = 10_000;
const EPOCH: u64 = 1_700_000_000_000;

fn pulse(clock_ms: u64, watermark_ms: u64) -> Pulse {
    Pulse {
        clock_ms,
        watermark_ms,
        incarnation: "one".into(),
        run_id: "first".into(),
        durability: Durability::Memory,
    }
}

/// A store whose clock runs with ours, pulsed each second until `until`.
fn running(until: u64) -> Watch {
    let mut watch = Watch::new(0);
    for at in (0..=until).step_by(1_000) {
        let noticed = watch.on_pulse(at, at, &pulse(EPOCH + at, EPOCH + at.saturating_sub(1_000)));
        assert_eq!(noticed, []);
    }
    watch
}

#[test]
fn nothing_is_taken_back_for_one_ttl_after_the_start() {
    let watch = running(9_000);
    assert_eq!(watch.reclaim_until_ms(9_999, TTL), None);
    assert_eq!(watch.reclaim_until_ms(10_000, TTL), Some(EPOCH + 9_000));
    assert_eq!(
        Watch::new(0).reclaim_until_ms(20_000, TTL),
        None,
        "a store that was never heard of"
    );
    assert!(
        watch.may_grant(0, true, TTL),
        "granting needs no wait after the router's own start"
    );
}

#[test]
fn what_each_pulse_means() {
    type Case = (&'static str, u64, u64, i64, i64, Vec<Noticed>);
    // (name, sent, answered, clock and watermark after the last pulse at 20 s, what is noticed)
    let cases: [Case; 10] = [
        ("in time", 21_000, 21_010, 1_005, 0, vec![]),
        ("slow but within bounds", 21_000, 21_900, 1_000, 0, vec![]),
        (
            "slow answer",
            21_000,
            22_100,
            2_050,
            0,
            vec![Noticed::Stall { silent_ms: 2_100 }],
        ),
        (
            "gone for a minute",
            80_000,
            80_000,
            60_000,
            0,
            vec![Noticed::Stall { silent_ms: 60_000 }],
        ),
        ("a little fast", 21_000, 21_000, 1_900, 0, vec![]),
        (
            "forward jump",
            21_000,
            21_000,
            3_000,
            0,
            vec![Noticed::ClockJump { by_ms: 2_000 }],
        ),
        (
            "backward jump",
            21_000,
            21_000,
            -1_000,
            0,
            vec![Noticed::ClockJump { by_ms: -2_000 }],
        ),
        (
            "clock far back",
            21_000,
            21_000,
            -11_000,
            0,
            vec![
                Noticed::ClockJump { by_ms: -12_000 },
                Noticed::Rewound(Rewound::Clock { behind_ms: 11_000 }),
            ],
        ),
        (
            "restored from an hour ago",
            21_000,
            21_000,
            1_000,
            -3_600_000,
            vec![Noticed::Rewound(Rewound::Watermark { behind_ms: 3_600_000 })],
        ),
        (
            "lost two seconds of writes",
            21_000,
            21_000,
            1_000,
            -2_000,
            vec![],
        ),
    ];
    for (name, sent, answered, clock, watermark, expected) in cases {
        let mut watch = running(20_000);
        let at = |offset: i64| (EPOCH + 20_000).checked_add_signed(offset).unwrap();
        let noticed = watch.on_pulse(sent, answered, &pulse(at(clock), at(watermark)));
        assert_eq!(noticed, expected, "{name}");
        let barred = expected
            .iter()
            .any(|notice| matches!(notice, Noticed::Stall { .. } | Noticed::ClockJump { .. }));
        assert_eq!(
            watch.reclaim_until_ms(answered + TTL - 1, TTL).is_some(),
            !barred,
            "{name}"
        );
        assert!(watch.reclaim_until_ms(answered + TTL, TTL).is_some(), "{name}");
        let jumped = expected
            .iter()
            .any(|notice| matches!(notice, Noticed::ClockJump { .. }));
        assert_eq!(watch.hold_due(), jumped, "{name}");
    }
}

#[test]
fn a_sweep_before_the_next_pulse_takes_nothing_that_the_last_one_had_not_seen_end() {
    // Whatever the store's clock does after the pulse at 20 s, and however long the store is away then.
    let watch = running(20_000);
    for at in [20_000, 20_999, 28_000] {
        assert_eq!(watch.reclaim_until_ms(at, TTL), Some(EPOCH + 20_000));
    }
}

#[test]
fn a_hold_is_written_once() {
    let mut watch = running(20_000);
    watch.on_pulse(21_000, 21_000, &pulse(EPOCH + 30_000, EPOCH + 20_000));
    assert!(watch.hold_due());
    watch.hold_written();
    assert!(!watch.hold_due());
}

#[test]
fn after_a_restart_only_queues_without_a_resource_are_granted_from() {
    let mut watch = running(20_000);
    let restarted = Pulse {
        run_id: "second".into(),
        ..pulse(EPOCH + 21_000, EPOCH + 20_000)
    };
    assert_eq!(watch.on_pulse(21_000, 21_000, &restarted), [Noticed::Restart]);
    assert!(watch.may_grant(21_000, false, TTL));
    assert!(!watch.may_grant(30_999, true, TTL));
    assert!(watch.may_grant(31_000, true, TTL));
    assert_eq!(watch.reclaim_until_ms(30_999, TTL), None);
}

#[test]
fn a_step_back_stops_grants_until_the_clock_has_passed_the_highest() {
    let mut watch = running(20_000);
    watch.on_pulse(21_000, 21_000, &pulse(EPOCH + 19_500, EPOCH + 20_000));
    assert!(watch.rewound().is_none() && !watch.may_grant(21_000, false, TTL));
    watch.on_pulse(22_000, 22_000, &pulse(EPOCH + 20_500, EPOCH + 20_000));
    assert!(watch.may_grant(22_000, false, TTL));
}

#[test]
fn a_clock_that_catches_up_is_trusted_again_but_a_restored_store_is_not() {
    let mut watch = running(20_000);
    watch.on_pulse(21_000, 21_000, &pulse(EPOCH, EPOCH + 20_000));
    assert!(watch.rewound().is_some() && !watch.may_grant(21_000, false, TTL));
    let noticed = watch.on_pulse(42_000, 42_000, &pulse(EPOCH + 21_000, EPOCH + 20_000));
    assert!(noticed.contains(&Noticed::CaughtUp) && watch.rewound().is_none());

    let mut watch = running(20_000);
    watch.on_pulse(21_000, 21_000, &pulse(EPOCH + 21_000, EPOCH - 3_600_000));
    watch.on_pulse(22_000, 22_000, &pulse(EPOCH + 22_000, EPOCH + 21_000));
    assert!(
        watch.rewound().is_some(),
        "its own pulses must not hide what it lost"
    );
}

#[test]
fn another_store_under_the_same_address_is_refused() {
    let mut watch = running(20_000);
    let other = Pulse {
        incarnation: "two".into(),
        ..pulse(EPOCH + 21_000, EPOCH + 20_999)
    };
    assert_eq!(
        watch.on_pulse(21_000, 21_000, &other),
        [Noticed::Rewound(Rewound::Incarnation)]
    );
}

#[test]
fn a_router_that_starts_sees_a_clock_that_went_back() {
    let mut watch = Watch::new(0);
    let noticed = watch.on_pulse(0, 0, &pulse(EPOCH, EPOCH + 60_000));
    assert_eq!(noticed, [Noticed::Rewound(Rewound::Clock { behind_ms: 60_000 })]);
}

#[test]
fn the_stores_clock_is_told_between_pulses() {
    assert_eq!(Watch::new(0).clock_ms(5), 0);
    assert_eq!(running(20_000).clock_ms(20_300), EPOCH + 20_300);
}

#[test]
fn an_operator_accepts_the_store_that_is_there_and_no_other() {
    let mut watch = running(20_000);
    let restored = pulse(EPOCH + 21_000, EPOCH + 5_000);
    watch.on_pulse(21_000, 21_000, &restored);
    assert!(
        watch.doubt().is_some_and(|why| why.contains("15 s")),
        "{:?}",
        watch.doubt()
    );
    assert!(!watch.may_grant(40_000, false, TTL));
    assert!(!watch.accept("another"));
    assert!(watch.accept("one") && watch.untrusted().is_none());
    watch.on_pulse(22_000, 22_000, &pulse(EPOCH + 22_000, EPOCH + 21_000));
    assert!(watch.may_grant(22_000, false, TTL));
    watch.refuse("the ledger remembers more".to_owned());
    assert!(!watch.may_grant(22_000, false, TTL) && watch.doubt().is_none());
    assert!(watch.accept("one"));
    assert!(watch.may_grant(22_000, false, TTL));
}
