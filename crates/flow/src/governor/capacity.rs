//! How much a resource takes, found from the speed of jobs and from what gets done.
//!
//! The capacity counts all users of the resource; jobs may use what others leave, so a wave of other traffic neither
//! lowers it nor keeps it low. It is infinite until jobs have been slower than usual *because of* their number. That is
//! what the test after each cut is for: if less runs and the speed stays where it was, the slowness has another cause
//! (a far store, a changed job), the cut is taken back and the new speed becomes the usual one.

use super::{
    params::{ALARM, ALPHA, CUT, EVIDENCE_S, FULL, HARMLESS, ROOM},
    reason::Reason,
    smooth::Smoothed,
    speed::Pooled,
};
use crate::codec::plain;

/// Units under which a load is never called heavy.
const LOADED_MIN: f64 = 4.0;
/// What is forgotten of the largest good load, each [`EVIDENCE_S`].
const FORGET: f64 = 0.01;
/// Deviations for a slowdown to count, in two windows or in one.
const SURE: f64 = 2.5;
const VERY_SURE: f64 = 4.0;
/// Beyond what ran when a downstream was seen to be back.
const RESUME: f64 = 1.25;
/// Where little is known, a slowdown of up to this much may be none.
const ERROR_MAX: f64 = 0.1;
/// Slowdown from which a cut is twice as deep.
const SEVERE: f64 = 2.0;
/// Beyond Little's number, so that a cut does not undercut what the resource really serves.
const SERVED: f64 = 1.05;
/// Growth towards the last knee: a step at first, half of all at most; one by one around the knee (CUBIC's plateau).
const GROWTH_MIN: f64 = 0.1;
const GROWTH_MAX: f64 = 0.5;
const AROUND_KNEE: std::ops::RangeInclusive<f64> = 0.85..=1.1;
/// Windows in a row that run well around a knee, after which it is not believed any more.
const GOOD_MAX: u32 = 3;
/// It does not grow further beyond what jobs may hold anyway.
const BEYOND: f64 = 1.15;
/// Share of what jobs may use that is in use when the capacity is what binds.
const BOUND: f64 = 0.8;
/// A cut of this much must have arrived for its effect to be judged.
const ARRIVED: f64 = 0.9;
/// A test that has too few jobs by then is over: the cut stands.
const TEST_WINDOWS_MAX: u32 = 6;
/// Windows that throughput is measured over before and after a step up, and after steps that were in vain.
const CLIMB_WINDOWS: u32 = 3;
const CLIMB_WINDOWS_MAX: u32 = 24;
const CLIMB: f64 = 0.1;
/// Share of the largest load that ran well below which a capacity is far from the knee.
const FAR: f64 = 0.7;
/// Steps double while they are worth it, up to this.
const CLIMB_MAX: f64 = 0.4;
/// Throughput gained for capacity given that makes a step worth keeping.
const CLIMB_WORTH: f64 = 0.5;

/// One window of a domain.
#[derive(Clone, Copy, Debug)]
pub struct Evidence {
    pub pooled: Pooled,
    /// Since the last cut, weighted as before it; `None`: too few jobs have ended.
    pub trial: Option<f64>,
    pub seconds: f64,
    /// Mean units that jobs held, and others.
    pub in_flight: f64,
    pub others: f64,
    /// What others hold by now: callers that were slow because of the jobs may be gone.
    pub others_now: f64,
    /// Units that jobs may hold whatever the capacity.
    pub room: f64,
    pub is_waiting: bool,
    /// Usual run time, seconds.
    pub run_time_s: f64,
    /// The resource refuses jobs or lets them time out: then it is full, whatever their speed says.
    pub is_refused: bool,
    /// A queue's downstream is gone: nothing is learned of a resource then.
    pub is_tripped: bool,
}

/// What a window has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    None,
    /// Less runs from here on, and a test begins whether that helps.
    Cut,
    /// It did not: the speed since the cut is the usual one.
    Rebase,
}

/// The test of a cut: did running less help?
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Test {
    /// Infinite: it can't be told any more.
    pub slowdown: f64,
    pub in_flight: f64,
    pub others: f64,
    /// The capacity before the cut.
    pub before: f64,
    pub windows_left: u32,
    pub windows: u32,
    pub seconds: f64,
    pub in_flight_s: f64,
}
plain!(Test {
    slowdown,
    in_flight,
    others,
    before,
    windows_left,
    windows,
    seconds,
    in_flight_s
});

/// A step up in the band where speed alone does not tell: is more done with more?
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Climb {
    /// The capacity before the step; 0: the throughput before it is still measured.
    pub from: f64,
    pub rate_before: f64,
    pub windows: u32,
    pub seconds: f64,
    pub work_s: f64,
}
plain!(Climb {
    from,
    rate_before,
    windows,
    seconds,
    work_s
});

/// See the [module](self).
#[derive(Clone, Debug, PartialEq)]
pub struct Capacity {
    /// Infinite: no limit has been met.
    pub units: f64,
    /// Where the last cut says that the resource is full.
    pub knee: f64,
    pub growth: f64,
    /// Windows in a row that ran well around the knee.
    pub good: u32,
    /// The largest load that ran well.
    pub well: f64,
    pub slowdown: Smoothed,
    /// Slowdown and deviations of the last window.
    pub newest: (f64, f64),
    pub hot: u32,
    /// Mean slowdown of those windows.
    pub hot_mean: f64,
    pub has_met_limit: bool,
    pub test: Option<Test>,
    pub climb: Option<Climb>,
    pub climb_windows: u32,
    pub reason: Reason,
}
plain!(Capacity {
    units,
    knee,
    growth,
    good,
    well,
    slowdown,
    newest,
    hot,
    hot_mean,
    has_met_limit,
    test,
    climb,
    climb_windows,
    reason,
});

impl Default for Capacity {
    fn default() -> Self {
        Self {
            units: f64::INFINITY,
            knee: 0.0,
            growth: GROWTH_MIN,
            good: 0,
            well: 0.0,
            slowdown: Smoothed::default(),
            newest: (1.0, 0.0),
            hot: 0,
            hot_mean: 0.0,
            has_met_limit: false,
            test: None,
            climb: None,
            climb_windows: CLIMB_WINDOWS,
            reason: Reason::Demand,
        }
    }
}

impl Capacity {
    /// Takes a window.
    pub fn judge(&mut self, seen: &Evidence) -> Verdict {
        let (slowdown, z) = (seen.pooled.slowdown(), seen.pooled.z());
        self.newest = (slowdown, z);
        let smooth = self.slowdown.take(slowdown, seen.pooled.error(), seen.seconds);
        let heavy = LOADED_MIN.max(HARMLESS * self.well);
        // What is not tried is not forgotten either.
        if seen.in_flight >= heavy {
            self.well *= (1.0 - FORGET).powf(seen.seconds / EVIDENCE_S);
        }
        if smooth < ROOM {
            self.well = self.well.max(seen.in_flight);
        }
        if slowdown > FULL && z > SURE {
            self.hot = self.hot.saturating_add(1);
            self.hot_mean += (slowdown - self.hot_mean) / f64::from(self.hot);
        } else {
            (self.hot, self.hot_mean) = (0, 0.0);
        }
        if seen.is_tripped {
            self.test = None;
            self.climb = None;
            return Verdict::None;
        }
        if let Some(test) = self.test.take() {
            return self.test_of(test, seen);
        }
        let is_loaded = seen.in_flight >= heavy;
        let is_full = smooth > FULL && self.hot >= 2;
        let jobs = (self.units - seen.others).max(0.0);
        let is_bound = seen.is_waiting || seen.in_flight >= BOUND * jobs - 1.0;
        if is_loaded && (is_full || (slowdown > ALARM && z > VERY_SURE)) {
            self.cut_for_speed(seen, smooth.max(self.hot_mean));
            return Verdict::Cut;
        } else if is_bound
            && (!is_loaded || smooth < ROOM.max(1.0 + (seen.pooled.error() / 2.0).min(ERROR_MAX)))
        {
            self.grow(jobs, seen.room);
        } else if is_bound && seen.is_waiting && smooth < FULL {
            self.good = 0;
            self.climb_on(seen, jobs);
        } else {
            self.good = 0;
            self.climb = None;
        }
        Verdict::None
    }

    fn cut_for_speed(&mut self, seen: &Evidence, smooth: f64) {
        let before = self.units;
        // Little: what is in use by its slowdown is what is really served.
        let served = SERVED * (seen.in_flight + seen.others) / smooth - seen.others_now;
        // Where jobs take twice their time a small cut would not show.
        let least = if smooth > SEVERE { CUT * CUT } else { CUT };
        let to = (least * seen.in_flight).max(served);
        self.cut(to, seen.in_flight, seen.others_now, Reason::LatencyCut);
        // What was too much is what there was.
        self.knee += (seen.others - seen.others_now) / 2.0;
        let run_time_s = seen.run_time_s * smooth;
        self.test = Some(Test {
            slowdown: seen.pooled.slowdown(),
            in_flight: seen.in_flight,
            others: seen.others,
            before,
            windows_left: if run_time_s < 0.2 * EVIDENCE_S { 1 } else { 2 },
            windows: 0,
            seconds: 0.0,
            in_flight_s: 0.0,
        });
    }

    /// Jobs may use `to` units beside `others` from here on, if that is less than now.
    pub fn cut(&mut self, to: f64, in_flight: f64, others: f64, reason: Reason) {
        // Less than what is never called heavy could not be judged any more.
        let least = LOADED_MIN.max(HARMLESS * self.well);
        self.units = self.units.min(to.max(least) + others);
        // It lies between what was too much and what is left of it.
        self.knee = (in_flight + others + self.units) / 2.0;
        self.growth = GROWTH_MIN;
        self.good = 0;
        self.has_met_limit = true;
        (self.hot, self.hot_mean) = (0, 0.0);
        self.climb = None;
        // Two cuts at once can't be told apart: the test is only waited for, because jobs of before it still end.
        if let Some(test) = &mut self.test {
            test.slowdown = f64::INFINITY;
        }
        self.reason = reason;
    }

    /// A downstream has come back and takes so much.
    pub fn resume(&mut self, in_flight: f64, others: f64) {
        self.units = self.units.min(RESUME * in_flight + others);
        self.knee = self.units;
        self.growth = GROWTH_MIN;
        self.has_met_limit = true;
        self.slowdown = Smoothed { value: Some(1.0) };
        (self.hot, self.hot_mean) = (0, 0.0);
        self.reason = Reason::BreakerReopen;
    }

    fn test_of(&mut self, mut test: Test, seen: &Evidence) -> Verdict {
        test.windows_left = test.windows_left.saturating_sub(1);
        test.windows += 1;
        test.seconds += seen.seconds;
        test.in_flight_s += seen.in_flight * seen.seconds;
        let Some(slowdown) = seen.trial.filter(|_| test.windows_left == 0) else {
            if test.windows < TEST_WINDOWS_MAX {
                self.test = Some(test);
            }
            return Verdict::None;
        };
        // What was smoothed before the cut says nothing of now.
        self.slowdown.value = Some(seen.pooled.slowdown());
        let in_flight = test.in_flight_s / test.seconds.max(1e-3);
        let load = (in_flight + seen.others) / (test.in_flight + test.others).max(1e-3);
        let expected = (test.slowdown * load).max(1.0);
        let is_exogenous =
            in_flight <= ARRIVED * test.in_flight && slowdown > (test.slowdown + expected) / 2.0;
        if !is_exogenous || seen.is_refused {
            return Verdict::None;
        }
        self.units = test.before;
        self.has_met_limit = test.before.is_finite();
        self.slowdown = Smoothed { value: Some(1.0) };
        (self.hot, self.hot_mean) = (0, 0.0);
        self.reason = Reason::Rebase;
        Verdict::Rebase
    }

    fn grow(&mut self, jobs: f64, room: f64) {
        self.climb = None;
        // What something else keeps from running says nothing of the capacity.
        if !self.units.is_finite() || jobs > BEYOND * room {
            return;
        }
        let is_around = AROUND_KNEE.contains(&(self.units / self.knee.max(1.0)));
        self.good = if is_around { self.good.saturating_add(1) } else { 0 };
        if self.good >= GOOD_MAX {
            // It is not there any more.
            self.knee = 0.0;
        }
        self.units += if is_around {
            1.0
        } else {
            (self.growth * jobs).max(1.0)
        };
        if !is_around {
            self.growth = (1.5 * self.growth).min(GROWTH_MAX);
        }
        self.reason = Reason::ProbeUp;
    }

    fn climb_on(&mut self, seen: &Evidence, jobs: f64) {
        if !self.units.is_finite() {
            return;
        }
        let mut climb = self.climb.take().unwrap_or_default();
        climb.windows += 1;
        // The first window after a step still ends what was started before it.
        if climb.from == 0.0 || climb.windows > 1 {
            climb.seconds += seen.seconds;
            climb.work_s += seen.pooled.work_s;
        }
        let rate = climb.work_s / climb.seconds.max(1e-3);
        let is_before = climb.from == 0.0;
        if is_before && climb.windows >= self.climb_windows {
            self.climb_step(rate, CLIMB, jobs);
            self.reason = Reason::GradientProbe;
            return;
        }
        if is_before || climb.windows < CLIMB_WINDOWS {
            self.climb = Some(climb);
            return;
        }
        let gained = rate / climb.rate_before.max(1e-9) - 1.0;
        let given = self.units / climb.from - 1.0;
        if gained >= CLIMB_WORTH * given {
            self.climb_windows = CLIMB_WINDOWS;
            // Far below what ran well there is far to go.
            let by = if jobs < FAR * self.well {
                (2.0 * given).min(CLIMB_MAX)
            } else {
                CLIMB
            };
            self.climb_step(rate, by, jobs);
            self.reason = Reason::GradientUp;
        } else {
            self.units = climb.from;
            self.climb_windows = (2 * self.climb_windows).min(CLIMB_WINDOWS_MAX);
            self.reason = Reason::GradientRevert;
        }
    }

    fn climb_step(&mut self, rate: f64, by: f64, jobs: f64) {
        self.climb = Some(Climb {
            from: self.units,
            rate_before: rate,
            ..Climb::default()
        });
        self.units += (by * jobs).max(1.0);
    }

    /// How much slower jobs run than usual, smoothed; never less than 1.
    pub fn slowdown(&self) -> f64 {
        self.slowdown.or(1.0).max(1.0)
    }
}

const _: () = assert!(ALPHA > 0.0 && ROOM < FULL && FULL < ALARM);

#[cfg(test)]
#[path = "capacity_tests.rs"]
mod tests;
