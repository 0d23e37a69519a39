//! Whom a node obeys: one ledger's leadership at a time, and nothing older of it than what it has heard.
//!
//! Two controllers that each believe to lead would pull a fleet apart. Leaders of one ledger are ordered by their epoch;
//! leaders of two ledgers (someone started a second controller group, or restored an old one) are not, so the first is
//! obeyed until its last order has run out. Pure: the time is an argument.

use tidegate_protocol::domain::Version;

/// Orders that replace each other; one kind says nothing of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Targets,
    Policies,
    Caps,
    Gates,
}

/// Why a leadership is not obeyed. Sent to it, and logged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotObeyed {
    #[error("orders of ledger {ledger_id} are in force for another {left_ms} ms")]
    OtherLedger { ledger_id: String, left_ms: u64 },
    #[error("epoch {epoch} is over: epoch {newer} was heard")]
    OldEpoch { epoch: u64, newer: u64 },
}

/// See the [module](self).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Obeyed {
    ledger_id: String,
    version: Version,
    expires_at_ms: u64,
    /// By kind. Generations of different kinds need not come in one order.
    newest: [Version; 4],
}

impl Obeyed {
    /// Empty: none yet.
    pub fn ledger_id(&self) -> &str {
        &self.ledger_id
    }

    /// The newest that was heard.
    pub fn version(&self) -> Version {
        self.version
    }

    /// A leader says which ledger and epoch it stands for.
    ///
    /// # Errors
    /// It is not to be obeyed; nothing has changed.
    pub fn welcome(&mut self, now_ms: u64, ledger_id: &str, epoch: u64) -> Result<(), NotObeyed> {
        if ledger_id != self.ledger_id {
            if now_ms < self.expires_at_ms {
                return Err(NotObeyed::OtherLedger {
                    ledger_id: self.ledger_id.clone(),
                    left_ms: self.expires_at_ms - now_ms,
                });
            }
            // Its numbers are another count: none of ours can be compared with them.
            *self = Self {
                ledger_id: ledger_id.to_owned(),
                ..Self::default()
            };
        }
        if epoch < self.version.epoch {
            let newer = self.version.epoch;
            return Err(NotObeyed::OldEpoch { epoch, newer });
        }
        let generation = 0;
        self.version = self.version.max(Version { epoch, generation });
        Ok(())
    }

    /// Whether to carry out an order of the leader that was welcomed: not if a newer one of its kind, or one of a newer
    /// epoch, was heard. `ttl_ms` > 0: it is in force for that long.
    pub fn order(&mut self, now_ms: u64, kind: Kind, version: Version, ttl_ms: u64) -> bool {
        let newest = &mut self.newest[kind as usize];
        if version < *newest || version.epoch < self.version.epoch {
            return false;
        }
        *newest = version;
        self.version = self.version.max(version);
        if ttl_ms > 0 {
            self.expires_at_ms = now_ms.saturating_add(ttl_ms);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v(epoch: u64, generation: u64) -> Version {
        Version { epoch, generation }
    }

    fn obeying(ledger: &str, epoch: u64) -> Obeyed {
        let mut obeyed = Obeyed::default();
        obeyed.welcome(0, ledger, epoch).expect("the first is obeyed");
        obeyed
    }

    #[test]
    fn older_orders_are_ignored_and_equal_ones_repeated() {
        let mut obeyed = obeying("a", 2);
        for (version, expected) in [
            (v(2, 5), true),
            (v(2, 5), true),
            (v(2, 4), false),
            (v(1, 9), false),
            (v(3, 0), true),
            (v(2, 6), false),
        ] {
            let taken = obeyed.order(0, Kind::Targets, version, 0);
            assert_eq!(taken, expected, "{version:?}");
        }
        assert_eq!(obeyed.version(), v(3, 0));
    }

    #[test]
    fn a_kind_says_nothing_of_another_but_the_epoch_does() {
        let mut obeyed = obeying("a", 2);
        assert!(obeyed.order(0, Kind::Caps, v(2, 50), 0));
        assert!(obeyed.order(0, Kind::Policies, v(2, 3), 0));
        assert_eq!(obeyed.version(), v(2, 50));
        assert!(obeyed.order(0, Kind::Caps, v(3, 1), 0));
        assert!(!obeyed.order(0, Kind::Policies, v(2, 4), 0));
    }

    #[test]
    fn another_ledger_waits_for_the_end_of_the_last_order() {
        let mut obeyed = obeying("a", 5);
        assert!(obeyed.order(1_000, Kind::Targets, v(5, 1), 30_000));
        let expected = NotObeyed::OtherLedger {
            ledger_id: "a".to_owned(),
            left_ms: 1,
        };
        assert_eq!(obeyed.welcome(30_999, "b", 9), Err(expected));
        assert_eq!(
            (obeyed.ledger_id(), obeyed.version()),
            ("a", v(5, 1)),
            "nothing has changed"
        );
        assert_eq!(obeyed.welcome(31_000, "b", 1), Ok(()));
        assert_eq!((obeyed.ledger_id(), obeyed.version()), ("b", v(1, 0)));
        assert!(
            obeyed.order(31_000, Kind::Targets, v(1, 1), 30_000),
            "its count is its own"
        );
        assert!(
            obeyed.welcome(31_001, "a", 6).is_err(),
            "now the second is in force"
        );
    }

    #[test]
    fn of_one_ledger_the_newer_leader_wins_at_once() {
        let mut obeyed = obeying("a", 5);
        assert!(obeyed.order(0, Kind::Targets, v(5, 9), 30_000));
        assert_eq!(obeyed.welcome(1, "a", 5), Ok(()), "it is back");
        assert_eq!(obeyed.welcome(1, "a", 6), Ok(()));
        assert_eq!(
            obeyed.welcome(2, "a", 5),
            Err(NotObeyed::OldEpoch { epoch: 5, newer: 6 })
        );
    }

    #[test]
    fn orders_without_ttl_bind_nobody() {
        let mut obeyed = obeying("a", 5);
        assert!(obeyed.order(1_000, Kind::Policies, v(5, 1), 0));
        assert_eq!(obeyed.welcome(1_000, "b", 1), Ok(()));
    }
}
