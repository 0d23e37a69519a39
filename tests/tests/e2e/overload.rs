//! Overload: what cannot be done in time is refused at once, and forgotten at once.
//!
//! `TIDEGATE_LONG=1` is the whole exercise, for a release build on a quiet machine: 35 slots of 100 ms, a minute long, with
//! the figures that are promised (`cargo xtask bench overload` measures the same). Without it a seventh of that load,
//! shorter, and bounds that a busy machine keeps.

use std::time::Duration;

use tidegate_tests::bench::overload::{DEADLINE, Scale, measure};

struct Bounds {
    scale: Scale,
    goodput_min: f64,
    refusal_ms_max: f64,
    /// Times the deadline.
    wait_max: f64,
}

impl Bounds {
    fn of_environment() -> Self {
        if std::env::var("TIDEGATE_LONG").is_ok_and(|value| value == "1") {
            return Self {
                scale: Scale::WHOLE,
                goodput_min: 0.9,
                refusal_ms_max: 5.0,
                wait_max: 1.6,
            };
        }
        Self {
            scale: Scale {
                slots: 10,
                run: Duration::from_millis(200),
                time: Duration::from_secs(12),
            },
            goodput_min: 0.6,
            refusal_ms_max: 200.0,
            wait_max: 2.0,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_times_the_capacity_is_refused_politely_and_forgotten_at_once() {
    let bounds = Bounds::of_environment();
    let seen = measure(bounds.scale).await.expect("nothing fails");
    println!("{seen:#?}");
    assert!(seen.goodput >= bounds.goodput_min, "{seen:?}");
    let (refusals, waits) = (&seen.refusals, &seen.waits);
    assert!(
        refusals.count as usize * 3 >= seen.offered,
        "two thirds cannot be done: {seen:?}"
    );
    let refused_in_time =
        refusals.p50_ms < bounds.refusal_ms_max / 2.0 && refusals.p99_ms < bounds.refusal_ms_max;
    assert!(refused_in_time, "{seen:?}");
    let deadline_ms = DEADLINE.as_secs_f64() * 1e3;
    assert!(waits.max_ms <= deadline_ms * bounds.wait_max, "{seen:?}");
    assert!(seen.normal_after <= Duration::from_secs(10), "{seen:?}");
    for (before, after) in [seen.router_kb, seen.worker_kb] {
        assert!(after < before * 5 / 4 + 20_000, "{seen:?}");
    }
}
