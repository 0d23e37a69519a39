use super::*;

const TICK: u64 = 5_000;

fn idle() -> Seen {
    Seen {
        min: 1,
        max: 200,
        tick_ms: TICK,
        ..Seen::default()
    }
}

/// A queue with a backlog, whose limit is all in use.
fn busy(running: u64) -> Seen {
    Seen {
        ready: 400,
        running,
        slots: 200,
        completions: 100,
        ..idle()
    }
}

struct Rule {
    state: QueueState,
    now_ms: u64,
}

impl Rule {
    fn new() -> Self {
        Self {
            state: QueueState::default(),
            now_ms: 0,
        }
    }

    fn tick(&mut self, inputs: &Seen) -> (u32, Reason) {
        self.now_ms += TICK;
        let (state, decision) = decide(self.state.clone(), inputs, self.now_ms);
        self.state = state;
        (decision.demand, decision.reason)
    }

    /// Started, at a limit.
    fn at(limit: f64) -> Self {
        let state = QueueState {
            limit,
            ..QueueState::default()
        };
        Self { state, now_ms: 0 }
    }
}

#[test]
fn it_starts_at_ten_or_where_the_last_leader_stood() {
    assert_eq!(Rule::new().tick(&busy(0)), (10, Reason::Cold));
    let adopted = Seen {
        adopted: Some(23),
        ..busy(0)
    };
    assert_eq!(Rule::new().tick(&adopted), (23, Reason::Cold));
    let small = Seen { max: 4, ..busy(0) };
    assert_eq!(Rule::new().tick(&small), (4, Reason::Cold));
}

#[test]
fn it_raises_only_with_backlog_and_use() {
    assert_eq!(Rule::at(20.0).tick(&busy(20)), (25, Reason::StepCap));
    let short = Seen {
        ready: 15,
        ..busy(20)
    };
    assert_eq!(Rule::at(20.0).tick(&short), (22, Reason::Demand));
    assert_eq!(Rule::at(20.0).tick(&busy(12)), (20, Reason::Hysteresis));
    let no_backlog = Seen { ready: 0, ..busy(20) };
    assert_eq!(Rule::at(20.0).tick(&no_backlog), (20, Reason::Hysteresis));
}

#[test]
fn it_never_raises_in_a_tick_with_errors() {
    for failing in [
        Seen {
            errors: 3,
            ..busy(20)
        },
        Seen {
            overload: 1,
            ..busy(20)
        },
        Seen { down: 1, ..busy(20) },
    ] {
        let (demand, _) = Rule::at(20.0).tick(&failing);
        assert!(demand <= 20, "{failing:?} gave {demand}");
    }
}

#[test]
fn overload_cuts_by_a_third_and_then_waits() {
    let mut rule = Rule::at(40.0);
    let overloaded = Seen {
        overload: 20,
        ..busy(40)
    };
    assert_eq!(rule.tick(&overloaded), (28, Reason::ErrorCut));
    assert_eq!(rule.tick(&overloaded), (28, Reason::Hysteresis));
    assert_eq!(rule.tick(&overloaded), (28, Reason::Hysteresis));
    assert_eq!(rule.tick(&overloaded).1, Reason::ErrorCut);
}

#[test]
fn a_cut_starts_from_what_runs() {
    let overloaded = Seen {
        overload: 20,
        ..busy(10)
    };
    assert_eq!(Rule::at(100.0).tick(&overloaded), (14, Reason::ErrorCut));
}

#[test]
fn each_signal_has_its_cut() {
    let full = Seen {
        pool_saturation: 0.95,
        ..busy(40)
    };
    assert_eq!(Rule::at(40.0).tick(&full), (28, Reason::PoolSaturation));
    let slow = Seen {
        store_latency_ms: 180.0,
        ..busy(40)
    };
    assert_eq!(Rule::at(40.0).tick(&slow), (28, Reason::StoreLatency));
    let failing = Seen {
        errors: 20,
        ..busy(40)
    };
    assert_eq!(Rule::at(40.0).tick(&failing), (28, Reason::ErrorCut));
}

#[test]
fn one_slow_tick_of_the_store_is_smoothed_away() {
    let mut rule = Rule::at(40.0);
    let calm = Seen { ready: 0, ..busy(30) };
    rule.tick(&calm);
    let slow = Seen {
        store_latency_ms: 250.0,
        ..calm
    };
    assert_eq!(rule.tick(&slow), (40, Reason::Hysteresis));
}

#[test]
fn a_downstream_that_is_gone_gets_a_probe_and_doubles_back() {
    let mut rule = Rule::at(40.0);
    let gone = Seen {
        completions: 0,
        down: 12,
        ..busy(40)
    };
    assert_eq!(rule.tick(&gone), (1, Reason::BreakerOpen));
    let silent = Seen {
        completions: 0,
        ..busy(1)
    };
    assert_eq!(rule.tick(&silent), (1, Reason::BreakerOpen));
    let demands: Vec<u32> = [2, 4, 8, 16, 32, 40].map(|_| rule.tick(&busy(1)).0).into();
    assert_eq!(demands, [2, 4, 8, 16, 32, 40]);
    assert_eq!(rule.tick(&busy(40)).1, Reason::StepCap);
}

#[test]
fn idleness_decays_to_the_warm_floor() {
    let mut rule = Rule::at(100.0);
    let idle = idle();
    assert_eq!(rule.tick(&idle), (75, Reason::IdleDecay));
    let last = (0..20).map(|_| rule.tick(&idle)).last();
    assert_eq!(last, Some((10, Reason::Hysteresis)));
}

#[test]
fn a_limit_grows_to_twice_the_fleet_and_no_further() {
    let mut rule = Rule::at(10.0);
    let short_of_slots = Seen { slots: 8, ..busy(8) };
    let last = (0..20).map(|_| rule.tick(&short_of_slots).0).last();
    assert_eq!(last, Some(16));
    let nobody = Seen { slots: 0, ..busy(0) };
    assert_eq!(rule.tick(&nobody).0, 16);
}

/// A downstream that answers `knee` jobs at once and refuses what is beyond.
#[test]
fn it_finds_a_knee_and_stays_near_it() {
    let mut rule = Rule::new();
    let knee = 40;
    let (mut limit, mut seen) = (0, Vec::new());
    for _ in 0..120 {
        let running = u64::from(limit);
        let overload = running.saturating_sub(knee) * 3;
        limit = rule
            .tick(&Seen {
                overload,
                ..busy(running)
            })
            .0;
        seen.push(limit);
    }
    let late = &seen[40..];
    let mean = late.iter().sum::<u32>() as f64 / late.len() as f64;
    assert!((30.0..=42.0).contains(&mean), "mean {mean}: {seen:?}");
    assert!(late.iter().all(|limit| *limit <= 46), "{seen:?}");
}

/// Of a fraction nothing can run: whatever the limit, a backlog that has all of it in use gets more.
#[test]
fn no_limit_is_a_trap_while_jobs_wait() {
    for tenths in 10..200_u32 {
        let limit = f64::from(tenths) / 10.0;
        let mut rule = Rule::at(limit);
        let mut demand = limit.floor() as u32;
        for _ in 0..3 {
            demand = rule.tick(&busy(u64::from(demand))).0;
        }
        assert!(demand > limit.floor() as u32, "stuck at {limit}");
    }
}
