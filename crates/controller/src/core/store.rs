//! Whether the job store is the one that acknowledged our jobs, as far as the ledger remembers it.
//!
//! Routers see a store that goes back in time while they run; what happened while none ran only the ledger can see. A
//! store that is not trusted gets no caps; routers take no submits and grant nothing until an operator accepts it.

use super::{
    Core, TuningError,
    model::{Effect, Now, Order, Role, StoreSeen, StreamId},
};
use crate::ledger::{Record, Row, StoreMark};

/// A store that holds less than it held this much later has lost what it acknowledged. Less is lost by design: a crash of
/// a store that syncs each second, and the time between two notes in the ledger.
const BEHIND_MS: u64 = 10_000;
/// The ledger's memory of the store is this old at most.
const NOTE_MS: u64 = 2_000;
/// A clock that is further ahead of ours is no clock.
const AHEAD_MS_MAX: u64 = 24 * 3_600 * 1_000;

/// What is remembered of the store.
#[derive(Clone, Debug, Default)]
pub(super) struct Trust {
    mark: StoreMark,
    /// How far the store had come when no router had looked at it for a while: what routers that started later found
    /// is compared with it.
    before_ms: u64,
    noted_ms: Option<u64>,
}

impl Trust {
    pub fn load(&mut self, mark: StoreMark) {
        if self.mark.watermark_ms <= mark.watermark_ms || self.mark.incarnation != mark.incarnation {
            self.mark = mark;
        }
    }

    /// Empty: it is trusted.
    pub fn refused(&self) -> &str {
        &self.mark.refused
    }

    pub fn mark(&self) -> &StoreMark {
        &self.mark
    }

    /// Takes what a router says; whether something has to be told at once.
    fn see(&mut self, seen: &StoreSeen, wall_ms: u64) -> bool {
        if seen.incarnation.is_empty() || !self.mark.refused.is_empty() {
            return false;
        }
        if self.mark.incarnation.is_empty() {
            self.mark.incarnation = seen.incarnation.clone();
            self.mark.watermark_ms = seen.clock_ms;
            return true;
        }
        if seen.found_clock_ms > self.mark.watermark_ms {
            self.before_ms = self.mark.watermark_ms;
        }
        if let Some(why) = self.doubt(seen) {
            self.mark.refused = why;
            return true;
        }
        let limit_ms = wall_ms.max(self.mark.watermark_ms).saturating_add(AHEAD_MS_MAX);
        if seen.clock_ms <= limit_ms {
            self.mark.watermark_ms = self.mark.watermark_ms.max(seen.clock_ms);
        }
        false
    }

    fn doubt(&self, seen: &StoreSeen) -> Option<String> {
        if !seen.untrusted.is_empty() {
            return Some(seen.untrusted.clone());
        }
        if seen.incarnation != self.mark.incarnation {
            let (known, other) = (&self.mark.incarnation, &seen.incarnation);
            return Some(format!("the ledger knows the store {known}, this one is {other}"));
        }
        let is_later = seen.found_clock_ms > self.before_ms;
        let behind_ms = self.before_ms.saturating_sub(seen.found_watermark_ms);
        (is_later && behind_ms > BEHIND_MS).then(|| {
            format!(
                "it came back as it was {} s before it was last seen",
                behind_ms / 1_000
            )
        })
    }
}

impl Core {
    /// A router has said what its store is; one that has just come hears the verdict in its welcome.
    pub(super) fn see_store(&mut self, stream: StreamId, seen: StoreSeen, now: Now) {
        if let Some(node) = self.nodes.get_mut(&stream) {
            node.store_incarnation.clone_from(&seen.incarnation);
            node.store_clock_ms = seen.clock_ms;
        }
        let was_refused = !self.trust.refused().is_empty();
        let is_news = self.trust.see(&seen, now.wall_ms);
        if !was_refused && !self.trust.refused().is_empty() {
            tracing::error!(
                why = self.trust.refused(),
                "the job store is not trusted: submits and grants are refused until `tidegate control accept-store`"
            );
            self.caps.forget_answers();
            self.is_leader = false;
            self.routers()
                .into_iter()
                .for_each(|router| self.refuse_store(router));
        }
        let is_due = self
            .trust
            .noted_ms
            .is_none_or(|noted| now.mono_ms.saturating_sub(noted) >= NOTE_MS);
        if is_news || is_due {
            self.note_store(now);
        }
    }

    fn note_store(&mut self, now: Now) {
        if self.trust.mark.incarnation.is_empty() {
            return;
        }
        self.trust.noted_ms = Some(now.mono_ms);
        let record = Record::Store {
            epoch: self.version.epoch,
            mark: self.trust.mark.clone(),
        };
        self.effects.push(Effect::Keep(record));
    }

    fn refuse_store(&mut self, router: StreamId) {
        let order = Order::RefuseStore(self.trust.refused().to_owned());
        self.effects.push(Effect::Send(router, order));
    }

    /// Whether nothing may be ordered, whatever the tick says.
    pub(super) fn is_held(&self) -> bool {
        self.raising.is_some() || !self.trust.refused().is_empty()
    }

    /// The row that says to go on with the store as it is now; `None`: there is nothing to accept.
    pub fn plan_acceptance(&self) -> Result<Option<Row>, TuningError> {
        if self.trust.refused().is_empty() {
            return Ok(None);
        }
        let routers = self
            .nodes
            .values()
            .filter(|node| node.role == Role::Router && !node.store_incarnation.is_empty());
        // The one that was heard last.
        let newest = routers
            .max_by_key(|node| node.reported_ms)
            .ok_or(TuningError::NoStore)?;
        Ok(Some(Row::StoreAccepted {
            incarnation: newest.store_incarnation.clone(),
            watermark_ms: newest.store_clock_ms,
        }))
    }

    pub(super) fn put_store(&mut self, incarnation: String, watermark_ms: u64, now: Now) {
        let mark = StoreMark {
            incarnation,
            watermark_ms,
            refused: String::new(),
        };
        tracing::warn!(
            incarnation = mark.incarnation,
            "the job store is accepted as it is"
        );
        let order = Order::AcceptStore {
            incarnation: mark.incarnation.clone(),
            watermark_ms: mark.watermark_ms,
        };
        self.trust.before_ms = 0;
        self.trust.mark = mark;
        for router in self.routers() {
            self.effects.push(Effect::Send(router, order.clone()));
        }
        for queue in self.queues.values_mut() {
            queue.store = Default::default();
        }
        self.caps.forget_answers();
        // Policies follow the answers: the store may have lost its records.
        self.is_leader = false;
        self.adopt(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(found_watermark_ms: u64, found_clock_ms: u64, clock_ms: u64) -> StoreSeen {
        StoreSeen {
            incarnation: "a".to_owned(),
            clock_ms,
            found_watermark_ms,
            found_clock_ms,
            untrusted: String::new(),
        }
    }

    fn known(watermark_ms: u64) -> Trust {
        let mut trust = Trust::default();
        trust.load(StoreMark {
            incarnation: "a".to_owned(),
            watermark_ms,
            refused: String::new(),
        });
        trust
    }

    #[test]
    fn a_store_that_was_down_is_trusted_and_one_that_was_restored_is_not() {
        let mut trust = known(1_000_000);
        trust.see(&seen(999_000, 9_000_000, 9_000_000), 0);
        assert_eq!(trust.refused(), "");
        let mut trust = known(1_000_000);
        assert!(trust.see(&seen(980_000, 9_000_000, 9_000_000), 0));
        assert!(trust.refused().contains("20 s"), "{}", trust.refused());
    }

    #[test]
    fn a_router_that_found_less_is_believed_though_another_one_has_hidden_it() {
        let mut trust = known(1_000_000);
        // The second router started when the first had already raised the watermark.
        trust.see(&seen(8_999_000, 9_000_000, 9_001_000), 9_000_000);
        assert_eq!(trust.refused(), "");
        trust.see(&seen(500_000, 8_990_000, 9_002_000), 9_000_000);
        assert_ne!(trust.refused(), "");
    }

    #[test]
    fn a_router_from_before_is_not_asked_what_it_once_found() {
        let mut trust = known(1_000_000);
        trust.see(&seen(1, 500_000, 1_001_000), 0);
        trust.see(&seen(1, 500_000, 2_000_000), 0);
        assert_eq!(trust.refused(), "");
    }

    #[test]
    fn another_store_or_a_router_s_own_doubt_refuses() {
        let mut trust = known(1_000);
        let mut other = seen(1_000, 1_000, 1_000);
        other.incarnation = "b".to_owned();
        trust.see(&other, 0);
        assert!(trust.refused().contains("this one is b"), "{}", trust.refused());
        let mut trust = known(1_000);
        let mut doubtful = seen(1_000, 1_000, 1_000);
        doubtful.untrusted = "it is behind".to_owned();
        trust.see(&doubtful, 0);
        assert_eq!(trust.refused(), "it is behind");
    }

    #[test]
    fn a_clock_of_another_age_does_not_move_the_mark() {
        let mut trust = known(1_000);
        trust.see(&seen(1_000, 500, u64::MAX), 2_000);
        assert_eq!(trust.mark().watermark_ms, 1_000);
    }
}
