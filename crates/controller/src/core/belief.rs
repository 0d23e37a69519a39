//! Whether a probe is believed. One that fails or says nonsense is held at its last good word for a while, then it counts
//! as not measured: a number of long ago is worse than none. Pure: the time is an argument.

use std::fmt;

/// How long the last good word stands for a probe that says no other: three ticks of the usual length.
pub const HELD_MS: u64 = 15_000;
/// Good words in a row until one that was distrusted is believed again.
const GOOD_AGAIN: u32 = 3;
/// A number that has not moved for so long, while what jobs hold has, is not of now.
const FROZEN_MS: u64 = 60_000;
/// How far what jobs hold must have moved meanwhile: this share of the capacity, and no less than so many units.
const MOVED_SHARE: f64 = 0.1;
const MOVED_UNITS: u64 = 3;

/// What a probe saw at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// Units in use by everybody.
    pub in_use: f64,
    /// Of those, the jobs'. `None`: the probe cannot tell.
    pub by_jobs: Option<f64>,
    /// Callers or sessions that wait.
    pub waiters: Option<f64>,
    /// Units that there are, as the resource itself says.
    pub limit: Option<f64>,
    /// The other side's clock, where it has one: a word that is repeated has the same.
    pub stamp: Option<u64>,
    /// How long the answer took, milliseconds.
    pub took_ms: f64,
}

/// How far a probe is believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// It has not answered yet.
    #[default]
    Waiting,
    Good,
    /// Its last good word stands.
    Held,
    /// It counts as not measured.
    Distrusted,
}

impl Trust {
    pub const ALL: [Trust; 4] = [Trust::Waiting, Trust::Good, Trust::Held, Trust::Distrusted];

    pub fn as_str(self) -> &'static str {
        match self {
            Trust::Waiting => "waiting",
            Trust::Good => "good",
            Trust::Held => "held",
            Trust::Distrusted => "distrusted",
        }
    }
}

/// Since when a number is what it is, and what jobs held meanwhile.
#[derive(Clone, Copy, Debug)]
struct Still {
    in_use: f64,
    since_ms: u64,
    held: (u64, u64),
}

/// See the [module](self).
#[derive(Clone, Debug, Default)]
pub struct Belief {
    trust: Trust,
    good: Option<Reading>,
    good_ms: u64,
    begun_ms: Option<u64>,
    good_in_a_row: u32,
    still: Option<Still>,
    stamp: Option<u64>,
    /// What is wrong now; empty: nothing.
    fault: String,
}

impl Belief {
    /// The probe has answered, or could not. `held`: units that jobs hold by the store. Gives the reading if it is to be
    /// counted.
    pub fn take(
        &mut self,
        answer: Result<Reading, String>,
        capacity: u32,
        held: u64,
        now_ms: u64,
    ) -> Option<Reading> {
        let begun_ms = *self.begun_ms.get_or_insert(now_ms);
        let checked = answer.and_then(|reading| self.check(reading, capacity, held, now_ms));
        match checked {
            Ok(reading) => {
                self.good_in_a_row = self.good_in_a_row.saturating_add(1);
                self.good = Some(reading);
                if self.trust == Trust::Distrusted && self.good_in_a_row < GOOD_AGAIN {
                    return None;
                }
                self.good_ms = now_ms;
                self.trust = Trust::Good;
                self.fault.clear();
                Some(reading)
            }
            Err(fault) => {
                self.good_in_a_row = 0;
                self.fault = fault;
                let since_ms = if self.good.is_some() {
                    self.good_ms
                } else {
                    begun_ms
                };
                self.doubt(since_ms, now_ms);
                None
            }
        }
    }

    fn check(&mut self, reading: Reading, capacity: u32, held: u64, now_ms: u64) -> Result<Reading, String> {
        let Reading { in_use, by_jobs, .. } = reading;
        if !in_use.is_finite() {
            return Err(format!("it says {in_use}, which is no number"));
        }
        let by_jobs = by_jobs.unwrap_or(0.0);
        if in_use < 0.0 || !(0.0..=in_use).contains(&by_jobs) {
            return Err(format!(
                "it says {in_use} in use and {by_jobs} of them by jobs, which cannot be"
            ));
        }
        if in_use > f64::from(capacity) {
            let text = "the capacity is declared too low, or the probe counts something else";
            return Err(format!(
                "it says {in_use} in use of a capacity of {capacity}: {text}"
            ));
        }
        if reading.stamp.is_some() && reading.stamp == std::mem::replace(&mut self.stamp, reading.stamp) {
            return Err("it repeats an old answer: its clock stands still".to_owned());
        }
        if reading.stamp.is_none() && self.is_frozen(in_use, capacity, held, now_ms) {
            let text = "it has not moved for a minute, while what jobs hold has";
            return Err(format!("it says {in_use} again and again: {text}"));
        }
        Ok(reading)
    }

    fn is_frozen(&mut self, in_use: f64, capacity: u32, held: u64, now_ms: u64) -> bool {
        let still = match self.still {
            Some(still) if still.in_use == in_use => Still {
                held: (still.held.0.min(held), still.held.1.max(held)),
                ..still
            },
            _ => Still {
                in_use,
                since_ms: now_ms,
                held: (held, held),
            },
        };
        self.still = Some(still);
        let moved = ((f64::from(capacity) * MOVED_SHARE).ceil() as u64).max(MOVED_UNITS);
        now_ms.saturating_sub(still.since_ms) >= FROZEN_MS && still.held.1 - still.held.0 >= moved
    }

    /// At each tick: an answer that does not come at all is a fault, too.
    pub fn age(&mut self, late_ms: u64, now_ms: u64) {
        let Some(begun_ms) = self.begun_ms else {
            self.begun_ms = Some(now_ms);
            return;
        };
        let since_ms = if self.good.is_some() {
            self.good_ms
        } else {
            begun_ms
        };
        let silent_ms = now_ms.saturating_sub(since_ms);
        if silent_ms > late_ms && self.trust != Trust::Distrusted {
            if self.fault.is_empty() {
                self.fault = format!("no answer for {} s", silent_ms / 1_000);
            }
            self.doubt(since_ms, now_ms);
        }
    }

    fn doubt(&mut self, since_ms: u64, now_ms: u64) {
        let is_over = now_ms.saturating_sub(since_ms) > HELD_MS;
        self.trust = match self.trust {
            Trust::Distrusted => Trust::Distrusted,
            _ if is_over => Trust::Distrusted,
            Trust::Waiting => Trust::Waiting,
            Trust::Good | Trust::Held => Trust::Held,
        };
    }

    pub fn trust(&self) -> Trust {
        self.trust
    }

    /// What counts now: the last good word, as long as it stands.
    pub fn believed(&self) -> Option<Reading> {
        match self.trust {
            Trust::Good | Trust::Held => self.good,
            Trust::Waiting | Trust::Distrusted => None,
        }
    }
}

/// For people.
impl fmt::Display for Belief {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.trust {
            Trust::Waiting if self.fault.is_empty() => f.write_str("has not answered yet"),
            Trust::Waiting => write!(f, "has not answered yet: {}", self.fault),
            Trust::Good => f.write_str("is believed"),
            Trust::Held => write!(f, "is held at its last good word: {}", self.fault),
            Trust::Distrusted => write!(
                f,
                "is not believed, its resource counts as not measured: {}",
                self.fault
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(in_use: f64) -> Reading {
        Reading {
            in_use,
            ..Reading::default()
        }
    }

    fn good() -> Belief {
        let mut belief = Belief::default();
        assert_eq!(belief.take(Ok(reading(20.0)), 50, 5, 0), Some(reading(20.0)));
        belief
    }

    #[test]
    fn nonsense_is_held_then_distrusted_then_believed_again() {
        let lies = [
            Ok(reading(f64::NAN)),
            Ok(reading(f64::INFINITY)),
            Ok(reading(-1.0)),
            Ok(reading(1e9)),
            Ok(reading(51.0)),
            Ok(Reading {
                by_jobs: Some(21.0),
                ..reading(20.0)
            }),
            Err("connection refused".to_owned()),
        ];
        for lie in lies {
            let mut belief = good();
            for now_ms in (1_000..=HELD_MS).step_by(1_000) {
                assert_eq!(belief.take(lie.clone(), 50, 5, now_ms), None, "{lie:?}");
                assert_eq!(
                    (belief.trust(), belief.believed()),
                    (Trust::Held, Some(reading(20.0))),
                    "{lie:?}"
                );
            }
            assert!(
                belief.to_string().starts_with("is held at its last good word: "),
                "{belief}"
            );
            belief.take(lie.clone(), 50, 5, HELD_MS + 1);
            assert_eq!(
                (belief.trust(), belief.believed()),
                (Trust::Distrusted, None),
                "{lie:?}"
            );
            let later = HELD_MS + 1_000;
            assert_eq!(belief.take(Ok(reading(7.0)), 50, 5, later), None);
            belief.take(lie.clone(), 50, 5, later + 1_000);
            assert_eq!(
                belief.take(Ok(reading(7.0)), 50, 5, later + 2_000),
                None,
                "not in a row"
            );
            assert_eq!(belief.take(Ok(reading(8.0)), 50, 5, later + 3_000), None);
            assert_eq!(
                belief.take(Ok(reading(9.0)), 50, 5, later + 4_000),
                Some(reading(9.0))
            );
            assert_eq!(belief.to_string(), "is believed");
        }
    }

    #[test]
    fn one_spike_costs_nothing() {
        let mut belief = good();
        belief.take(Ok(reading(1e9)), 50, 5, 1_000);
        assert_eq!(belief.take(Ok(reading(21.0)), 50, 5, 2_000), Some(reading(21.0)));
        assert_eq!(belief.trust(), Trust::Good);
    }

    #[test]
    fn a_number_that_stands_while_jobs_come_and_go_is_frozen() {
        let mut belief = good();
        for second in 1..60 {
            let held = 5 + second % 8;
            assert!(
                belief.take(Ok(reading(20.0)), 50, held, second * 1_000).is_some(),
                "{second}"
            );
        }
        assert_eq!(belief.take(Ok(reading(20.0)), 50, 5, 60_000), None);
        assert!(belief.to_string().contains("has not moved"), "{belief}");
        assert!(
            belief.take(Ok(reading(21.0)), 50, 5, 61_000).is_some(),
            "it moves"
        );
        // Nothing happens: nothing need move.
        let mut quiet = good();
        for second in 1..600 {
            assert!(
                quiet.take(Ok(reading(20.0)), 50, 5, second * 1_000).is_some(),
                "{second}"
            );
        }
    }

    #[test]
    fn an_answer_with_a_clock_is_frozen_when_that_stands() {
        let mut belief = Belief::default();
        let at = |stamp| Reading {
            stamp: Some(stamp),
            ..reading(20.0)
        };
        for second in 0..200 {
            let held = second % 20;
            assert!(
                belief.take(Ok(at(second)), 50, held, second * 1_000).is_some(),
                "a true number may stand"
            );
        }
        assert_eq!(belief.take(Ok(at(199)), 50, 5, 200_000), None);
        assert!(belief.to_string().contains("clock stands still"), "{belief}");
    }

    #[test]
    fn a_probe_that_never_answers_is_told_of() {
        let mut belief = Belief::default();
        belief.age(3_000, 0);
        assert_eq!(belief.to_string(), "has not answered yet");
        belief.age(3_000, 4_000);
        assert_eq!(belief.to_string(), "has not answered yet: no answer for 4 s");
        belief.age(3_000, HELD_MS + 1);
        assert_eq!(belief.trust(), Trust::Distrusted);
        let mut silent = good();
        silent.age(3_000, 4_000);
        assert_eq!(silent.trust(), Trust::Held);
    }
}
