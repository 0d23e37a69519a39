//! What arrives when: pure.

use std::time::Duration;

use crate::load::poisson;

/// The two kinds of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Short,
    Long,
}

impl Kind {
    pub const ALL: [Self; 2] = [Self::Short, Self::Long];

    pub const fn queue(self) -> &'static str {
        match self {
            Self::Short => "load-short",
            Self::Long => "load-long",
        }
    }

    /// How long the database works on one, undisturbed.
    pub const fn work_ms(self) -> u64 {
        match self {
            Self::Short => 5,
            Self::Long => 150,
        }
    }

    /// One long job for so many short ones: both then ask for about as many slots.
    const fn share(self) -> f64 {
        match self {
            Self::Short => 1.0,
            Self::Long => 1.0 / 25.0,
        }
    }
}

/// Between two moments since the start.
#[derive(Clone, Debug)]
pub struct Phase {
    pub name: &'static str,
    pub from: Duration,
    pub to: Duration,
    /// Times the baseline's rate.
    pub load: f64,
    /// Times as long as undisturbed that the database works.
    pub slow: u32,
}

/// One job.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Arrival {
    pub kind: Kind,
    /// Since the start.
    pub due: Duration,
}

pub struct Plan {
    pub phases: Vec<Phase>,
    /// Short jobs a second at the baseline.
    pub rate: f64,
}

/// Caps and pools begin cold, which is another test; in parts of a phase.
const WARM_UP: f64 = 0.5;
pub const PEAK: f64 = 3.0;
/// A downstream in real trouble, and yet the load fits: else it would be a test of refusals.
const SLOW: u32 = 8;
const SEED: u64 = 20_260;

impl Plan {
    pub fn new(phase: Duration, rate: f64) -> Self {
        let shape = [
            ("warm-up", WARM_UP, 1.0, 1),
            ("baseline", 1.0, 1.0, 1),
            ("peak", 1.0, PEAK, 1),
            ("slowdown", 1.0, 1.0, SLOW),
            ("recovery", 1.0, 1.0, 1),
        ];
        let mut from = Duration::ZERO;
        let phases = shape.map(|(name, length, load, slow)| {
            let to = from + phase.mul_f64(length);
            let phase = Phase {
                name,
                from,
                to,
                load,
                slow,
            };
            from = to;
            phase
        });
        Self {
            phases: phases.into(),
            rate,
        }
    }

    pub fn length(&self) -> Duration {
        self.phases.last().map_or(Duration::ZERO, |phase| phase.to)
    }

    /// Of a moment; after the end, the last one.
    pub fn phase_at(&self, at: Duration) -> &Phase {
        let found = self.phases.iter().find(|phase| at < phase.to);
        found.unwrap_or_else(|| self.phases.last().expect("a plan has phases"))
    }

    /// In order of time.
    pub fn arrivals(&self) -> Vec<Arrival> {
        let mut all = Vec::new();
        for (number, kind) in Kind::ALL.into_iter().enumerate() {
            let rate = |at| self.rate * kind.share() * self.phase_at(at).load;
            let dues = poisson(SEED + number as u64, self.length(), rate);
            all.extend(dues.into_iter().map(|due| Arrival { kind, due }));
        }
        all.sort_by_key(|arrival| arrival.due);
        all
    }

    pub fn in_words(&self) -> String {
        let [short, long] = Kind::ALL.map(|kind| self.rate * kind.share());
        let phases: Vec<String> = self.phases.iter().map(|phase| phase.name.to_owned()).collect();
        format!(
            "{short:.0} short and {long:.1} long jobs a second, {PEAK} times that at the peak, a database {SLOW} times slower; \
             {} in {:.0} s",
            phases.join(", "),
            self.length().as_secs_f64()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_three_times_the_baseline() {
        let plan = Plan::new(Duration::from_secs(60), 100.0);
        assert_eq!(plan.length(), Duration::from_secs(270));
        let arrivals = plan.arrivals();
        assert!(arrivals.is_sorted_by_key(|arrival| arrival.due));
        let count = |name: &str, kind: Kind| {
            let phase = plan
                .phases
                .iter()
                .find(|phase| phase.name == name)
                .expect("a phase");
            let inside = arrivals
                .iter()
                .filter(|arrival| arrival.kind == kind && (phase.from..phase.to).contains(&arrival.due));
            inside.count() as f64
        };
        let ratio = count("peak", Kind::Short) / count("baseline", Kind::Short);
        assert!((2.8..3.2).contains(&ratio), "{ratio}");
        let share = count("peak", Kind::Short) / count("peak", Kind::Long);
        assert!((22.0..28.0).contains(&share), "{share}");
        assert_eq!(plan.phase_at(Duration::from_secs(999)).name, "recovery");
    }
}
