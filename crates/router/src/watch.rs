//! What the store's pulse says about its time: whether leases may be taken back by it, whether queues that cost a
//! resource may be granted from, and whether this is still the store that acknowledged our jobs.
//!
//! A lease is lost when the *store's* clock has passed its end. That is only fair while workers could renew: not right
//! after this router started (their streams come back one by one), not after the store was away, not after its clock
//! jumped. Then nothing is taken back for one ttl, in which every living worker renews at least twice.
//!
//! Pure: all times are arguments, `at` of this process's monotonic clock and `clock_ms` of the store's, in milliseconds.

use tidegate_store::Pulse;

/// A pulse is sent this often.
pub const PULSE_INTERVAL_MS: u64 = 1_000;
/// No answer for longer than this beyond the interval is a stall. The shortest lease that a policy may ask for is 1 s:
/// a shorter pause of the store cannot have cost any worker its lease.
pub const STALL_MS: u64 = 1_000;
/// A store clock that moves this much more or less than ours has jumped. Less is the noise of two machines.
pub const CLOCK_JUMP_MS: u64 = 1_000;
/// A store whose time is this far behind what it was is not trusted to hold what it acknowledged.
pub const REWOUND_MS: u64 = 10_000;

/// See the [module](self).
#[derive(Debug)]
pub struct Watch {
    /// Since when leases have been safe from being taken back.
    barred_at: u64,
    /// When the store was seen to have restarted.
    restarted_at: Option<u64>,
    hold_due: bool,
    rewound: Option<Rewound>,
    /// The controller's ledger remembers more than the store holds: why.
    refused: Option<String>,
    /// Watermark and clock of the store at the first pulse.
    found: Option<(u64, u64)>,
    last: Option<Last>,
    /// The highest clock or watermark ever seen.
    highest_ms: u64,
}

#[derive(Debug)]
struct Last {
    sent_at: u64,
    answered_at: u64,
    clock_ms: u64,
    run_id: String,
    incarnation: String,
}

/// Why the store is not trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rewound {
    /// Another store answers under the same address.
    Incarnation,
    /// It holds less than it once held.
    Watermark { behind_ms: u64 },
    /// Its clock went back; mends itself when the clock has caught up.
    Clock { behind_ms: u64 },
}

impl std::fmt::Display for Rewound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Rewound::Incarnation => f.write_str("another store answers in its place, or it was emptied"),
            Rewound::Watermark { behind_ms } => {
                write!(f, "it came back as it was {} s before", behind_ms / 1_000)
            }
            Rewound::Clock { behind_ms } => write!(f, "its clock went back by {} s", behind_ms / 1_000),
        }
    }
}

/// What a pulse changed, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Noticed {
    Stall { silent_ms: u64 },
    ClockJump { by_ms: i64 },
    Restart,
    Rewound(Rewound),
    CaughtUp,
}

impl Watch {
    /// The router starts at `at`.
    pub fn new(at: u64) -> Self {
        Self {
            barred_at: at,
            restarted_at: None,
            hold_due: false,
            rewound: None,
            refused: None,
            found: None,
            last: None,
            highest_ms: 0,
        }
    }

    /// An answered pulse; `sent_at` and `answered_at` bound the moment at which the store read its clock.
    pub fn on_pulse(&mut self, sent_at: u64, answered_at: u64, pulse: &Pulse) -> Vec<Noticed> {
        let mut noticed = Vec::new();
        self.found.get_or_insert((pulse.watermark_ms, pulse.clock_ms));
        if let Some(last) = &self.last {
            noticed.extend(stall(last, answered_at));
            noticed.extend(clock_jump(last, sent_at, answered_at, pulse.clock_ms));
            if last.run_id != pulse.run_id {
                noticed.push(Noticed::Restart);
            }
        }
        for notice in &noticed {
            self.barred_at = answered_at;
            match notice {
                Noticed::ClockJump { .. } => self.hold_due = true,
                Noticed::Restart => self.restarted_at = Some(answered_at),
                _ => {}
            }
        }
        noticed.extend(self.check_rewound(pulse));
        self.highest_ms = self.highest_ms.max(pulse.clock_ms).max(pulse.watermark_ms);
        self.last = Some(Last {
            sent_at,
            answered_at,
            clock_ms: pulse.clock_ms,
            run_id: pulse.run_id.clone(),
            incarnation: pulse.incarnation.clone(),
        });
        noticed
    }

    /// A restored or replaced store stays refused until an operator accepts it, because the store's own pulses soon hide what
    /// it lost. Only a clock that went back can be seen to be right again.
    fn check_rewound(&mut self, pulse: &Pulse) -> Option<Noticed> {
        let behind = |ms: u64| self.highest_ms.max(pulse.watermark_ms).saturating_sub(ms);
        let replaced = self
            .last
            .as_ref()
            .is_some_and(|last| last.incarnation != pulse.incarnation);
        let now = if replaced {
            Some(Rewound::Incarnation)
        } else if behind(pulse.clock_ms) > REWOUND_MS {
            Some(Rewound::Clock {
                behind_ms: behind(pulse.clock_ms),
            })
        } else if behind(pulse.watermark_ms) > REWOUND_MS {
            Some(Rewound::Watermark {
                behind_ms: behind(pulse.watermark_ms),
            })
        } else {
            None
        };
        match (&self.rewound, now) {
            (None | Some(Rewound::Clock { .. }), Some(found)) => {
                let first =
                    self.rewound.as_ref().map(std::mem::discriminant) != Some(std::mem::discriminant(&found));
                self.rewound = Some(found.clone());
                first.then_some(Noticed::Rewound(found))
            }
            (Some(Rewound::Clock { .. }), None) if pulse.clock_ms >= self.highest_ms => {
                self.rewound = None;
                Some(Noticed::CaughtUp)
            }
            _ => None,
        }
    }

    /// Leases and ghosts of a queue with this ttl that ended by this moment of the store's clock may be taken back by time.
    /// It is what the last pulse read: a sweep runs more often than the pulse, and must not be the first to meet a clock
    /// that has leapt, nor a store that was away.
    pub fn reclaim_until_ms(&self, at: u64, ttl_ms: u64) -> Option<u64> {
        let last = self.last.as_ref()?;
        (at.saturating_sub(self.barred_at) >= ttl_ms).then_some(last.clock_ms)
    }

    /// Whether jobs of a queue may be granted.
    pub fn may_grant(&self, at: u64, costs_a_resource: bool, ttl_ms: u64) -> bool {
        let settled = self
            .restarted_at
            .is_none_or(|restarted| at.saturating_sub(restarted) >= ttl_ms);
        self.untrusted().is_none() && !self.is_behind() && (!costs_a_resource || settled)
    }

    /// The clock is below the highest seen: a fence given out now could repeat an old one.
    fn is_behind(&self) -> bool {
        self.last
            .as_ref()
            .is_some_and(|last| last.clock_ms < self.highest_ms)
    }

    /// Whether every router's sweep is to be held: the clock jumped, and others may not have noticed.
    pub fn hold_due(&self) -> bool {
        self.hold_due
    }

    pub fn hold_written(&mut self) {
        self.hold_due = false;
    }

    #[cfg(test)]
    pub fn rewound(&self) -> Option<&Rewound> {
        self.rewound.as_ref()
    }

    /// Why the store is not the one to go on with, by this router or by the controller; `None`: it is.
    pub fn untrusted(&self) -> Option<String> {
        let own = self.rewound.as_ref().map(Rewound::to_string);
        own.or_else(|| self.refused.clone())
    }

    /// What only an operator can decide: a clock that is behind catches up by itself.
    pub fn doubt(&self) -> Option<String> {
        let lasting = self
            .rewound
            .as_ref()
            .filter(|rewound| !matches!(rewound, Rewound::Clock { .. }));
        lasting.map(Rewound::to_string)
    }

    /// Watermark and clock of the store when this router first looked.
    pub fn found(&self) -> Option<(u64, u64)> {
        self.found
    }

    pub fn refuse(&mut self, why: String) {
        self.refused = Some(why);
    }

    /// An operator goes on with the store as it is. `false`: it is another one by now. While its clock is below the highest
    /// seen nothing is granted all the same, so that every fence is above those that were given out.
    pub fn accept(&mut self, incarnation: &str) -> bool {
        let is_it = self
            .last
            .as_ref()
            .is_none_or(|last| last.incarnation == incarnation);
        if is_it {
            self.refused = None;
            self.rewound = self
                .rewound
                .take()
                .filter(|rewound| matches!(rewound, Rewound::Clock { .. }));
        }
        is_it
    }

    /// The store's clock by the last pulse, if that was sent after `at`.
    pub fn clock_read_after(&self, at: u64) -> Option<u64> {
        self.last
            .as_ref()
            .filter(|last| last.sent_at > at)
            .map(|last| last.clock_ms)
    }

    /// How long the store has not answered.
    pub fn silent_ms(&self, at: u64) -> Option<u64> {
        self.last.as_ref().map(|last| at.saturating_sub(last.answered_at))
    }

    /// The store's incarnation (empty before the first pulse), and the highest clock or watermark ever seen.
    pub fn identity(&self) -> (String, u64) {
        let incarnation = self.last.as_ref().map(|last| last.incarnation.clone());
        (incarnation.unwrap_or_default(), self.highest_ms)
    }

    /// The store's clock now, as far as this process can tell; 0 before the first pulse.
    pub fn clock_ms(&self, at: u64) -> u64 {
        self.last
            .as_ref()
            .map_or(0, |last| last.clock_ms + at.saturating_sub(last.answered_at))
    }
}

fn stall(last: &Last, answered_at: u64) -> Option<Noticed> {
    let silent_ms = answered_at.saturating_sub(last.answered_at);
    (silent_ms > PULSE_INTERVAL_MS + STALL_MS).then_some(Noticed::Stall { silent_ms })
}

/// The store read its clock at some moment between a pulse's sending and its answer, so between two readings at least
/// and at most this much time has passed here. Only what lies outside of it is a jump, however slow the answers are.
fn clock_jump(last: &Last, sent_at: u64, answered_at: u64, clock_ms: u64) -> Option<Noticed> {
    let at_least = sent_at.saturating_sub(last.answered_at) as i64;
    let at_most = answered_at.saturating_sub(last.sent_at) as i64;
    let moved = clock_ms as i64 - last.clock_ms as i64;
    let by_ms = if moved < at_least {
        moved - at_least
    } else {
        (moved - at_most).max(0)
    };
    (by_ms.unsigned_abs() > CLOCK_JUMP_MS).then_some(Noticed::ClockJump { by_ms })
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
