use super::*;

/// A window of 100 jobs that are this much slower than usual.
fn seen(slowdown: f64, in_flight: f64) -> Evidence {
    let pooled = Pooled {
        now: 100.0 * slowdown,
        usual: 100.0,
        variance: 25.0,
        work_s: in_flight * 5.0 / slowdown,
    };
    Evidence {
        pooled,
        trial: Some(slowdown),
        seconds: 5.0,
        in_flight,
        others: 0.0,
        others_now: 0.0,
        room: 1_000.0,
        is_waiting: true,
        run_time_s: 0.4,
        is_refused: false,
        is_tripped: false,
    }
}

#[test]
fn one_slow_window_is_not_enough_and_two_are() {
    let mut capacity = Capacity::default();
    capacity.judge(&seen(1.0, 20.0));
    assert_eq!(capacity.judge(&seen(1.4, 30.0)), Verdict::None);
    assert_eq!(capacity.judge(&seen(1.4, 30.0)), Verdict::Cut);
    assert!((23.9..24.1).contains(&capacity.units), "{}", capacity.units);
    assert_eq!(capacity.reason, Reason::LatencyCut);
}

#[test]
fn a_cut_that_helps_stands_and_one_that_does_not_is_taken_back() {
    for (after, verdict) in [(1.1, Verdict::None), (2.0, Verdict::Rebase)] {
        let mut capacity = Capacity::default();
        assert_eq!(capacity.judge(&seen(2.0, 30.0)), Verdict::Cut);
        let cut = capacity.units;
        // Little: half of what runs is served.
        assert_eq!(capacity.judge(&seen(after, cut)), verdict);
        assert_eq!(
            capacity.units.is_infinite(),
            verdict == Verdict::Rebase,
            "{after}"
        );
    }
}

#[test]
fn few_jobs_are_never_called_heavy_and_no_cut_goes_below_that() {
    let mut capacity = Capacity::default();
    assert_eq!(capacity.judge(&seen(3.0, 3.0)), Verdict::None);
    capacity.cut(0.0, 10.0, 2.0, Reason::ErrorCut);
    assert_eq!(capacity.units, LOADED_MIN + 2.0);
}

#[test]
fn with_room_it_grows_faster_and_faster_and_one_by_one_around_the_knee() {
    let mut capacity = Capacity::default();
    capacity.cut(10.0, 20.0, 0.0, Reason::LatencyCut);
    let mut sizes = vec![capacity.units];
    for _ in 0..7 {
        let full = seen(1.0, *sizes.last().expect("one"));
        capacity.judge(&full);
        sizes.push(capacity.units);
    }
    let steps: Vec<f64> = sizes.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(steps[1] > steps[0] && steps[2] > steps[1], "{sizes:?}");
    assert_eq!(steps[4], 1.0, "{sizes:?}");
}

#[test]
fn in_the_band_only_more_throughput_raises_it() {
    for (gain, grows) in [(1.1, true), (0.95, false)] {
        let mut capacity = Capacity::default();
        capacity.cut(20.0, 20.0, 0.0, Reason::LatencyCut);
        for _ in 0..CLIMB_WINDOWS {
            capacity.judge(&seen(1.1, 20.0));
        }
        assert_eq!((capacity.units, capacity.reason), (22.0, Reason::GradientProbe));
        for _ in 0..CLIMB_WINDOWS {
            let mut more = seen(1.1, 22.0);
            more.pooled.work_s = seen(1.1, 20.0).pooled.work_s * gain;
            capacity.judge(&more);
        }
        assert_eq!(capacity.units > 20.0, grows, "{gain}");
    }
}

#[test]
fn while_a_downstream_is_gone_nothing_is_learned_of_a_resource() {
    let mut capacity = Capacity::default();
    let gone = Evidence {
        is_tripped: true,
        ..seen(9.0, 30.0)
    };
    assert_eq!(capacity.judge(&gone), Verdict::None);
    assert!(capacity.units.is_infinite());
}

#[test]
fn a_cut_for_refusals_ends_the_test_of_another() {
    let mut capacity = Capacity::default();
    assert_eq!(capacity.judge(&seen(2.0, 30.0)), Verdict::Cut);
    let left = capacity.units;
    capacity.cut(0.5 * left, left, 0.0, Reason::ErrorCut);
    // As slow as before with half of them: by the first cut alone that would be nobody's fault here.
    assert_ne!(capacity.judge(&seen(2.0, capacity.units)), Verdict::Rebase);
    assert!(capacity.units < left);
}

#[test]
fn callers_that_are_gone_leave_nothing_behind_in_a_cut() {
    let crowded = Evidence {
        others: 15.0,
        others_now: 3.0,
        ..seen(2.0, 20.0)
    };
    let mut capacity = Capacity::default();
    assert_eq!(capacity.judge(&crowded), Verdict::Cut);
    assert!(capacity.units <= 20.0, "half of 35 is served: {}", capacity.units);
}

#[test]
fn it_does_not_grow_where_something_else_is_what_binds() {
    let mut capacity = Capacity {
        units: 30.0,
        ..Capacity::default()
    };
    let kept_small = Evidence {
        room: 12.0,
        ..seen(1.0, 12.0)
    };
    for _ in 0..20 {
        capacity.judge(&kept_small);
    }
    assert_eq!(capacity.units, 30.0);
    capacity.judge(&Evidence {
        room: 40.0,
        ..seen(1.0, 30.0)
    });
    assert!(capacity.units > 30.0);
}
