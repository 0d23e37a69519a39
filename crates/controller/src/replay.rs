//! Decisions made again from a ledger: what the governor was told, through the same rule, must give the same bytes.

use tidegate_flow::{
    codec::Plain as _,
    governor::{self, Inputs, State},
};

use crate::ledger::{Ledger, LedgerError, OpenError, Place, Tick};

/// Ticks read at once.
const PAGE: usize = 200;
/// Told one by one; beyond that they are only counted.
const MISMATCHES_MAX: usize = 100;

/// A record that is not what it was, or a decision that would not be made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    pub epoch: u64,
    pub tick: u64,
    pub at_ms: u64,
    pub what: String,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Ticks that were decided again, all alike but for the mismatches.
    pub ticks: u64,
    /// Before the first state that was kept, or after a gap: nothing to start from.
    pub skipped: u64,
    pub snapshots: u64,
    /// Places where ticks are missing: they were dropped or removed.
    pub gaps: u64,
    pub mismatches: Vec<Mismatch>,
    pub mismatches_in_all: u64,
}

/// Replays every tick that the ledger has, from an epoch on.
///
/// # Errors
/// The ledger cannot be opened or read.
pub async fn replay(url: &str, from_epoch: u64) -> Result<Replayed, OpenError> {
    let ledger = Ledger::open_to_read(url).await?;
    let replayed = all(&ledger, from_epoch).await;
    ledger.close().await;
    Ok(replayed?)
}

pub(crate) async fn all(ledger: &Ledger, from_epoch: u64) -> Result<Replayed, LedgerError> {
    let mut replay = Replay::default();
    let mut from = Place {
        epoch: from_epoch,
        number: 0,
    };
    loop {
        let page = ledger.ticks(from, PAGE).await?;
        let Some((last, _)) = page.last() else {
            return Ok(replay.done);
        };
        from = Place {
            number: last.place.number + 1,
            ..last.place
        };
        for (tick, is_whole) in page {
            replay.look_at_state(ledger, &tick).await?;
            replay.tick(&tick, is_whole);
        }
    }
}

#[derive(Default)]
struct Replay {
    /// Before the next tick; `None`: not known.
    state: Option<State>,
    last: Option<Place>,
    done: Replayed,
}

impl Replay {
    /// A state that was kept before this tick is the one to go on with; it must be the one that was come to.
    async fn look_at_state(&mut self, ledger: &Ledger, tick: &Tick) -> Result<(), LedgerError> {
        let follows = self
            .last
            .is_some_and(|last| last.epoch == tick.place.epoch && last.number + 1 == tick.place.number);
        if !follows {
            self.done.gaps += u64::from(self.last.is_some_and(|last| last.epoch == tick.place.epoch));
            self.state = None;
        }
        self.last = Some(tick.place);
        let Some((snapshot, is_whole)) = ledger.snapshot(tick.place).await? else {
            return Ok(());
        };
        self.done.snapshots += 1;
        if !is_whole {
            self.mismatch(tick, "the state that was kept before it is damaged");
        }
        match State::from_bytes(&snapshot.state) {
            Ok(state) => {
                if is_whole
                    && self
                        .state
                        .as_ref()
                        .is_some_and(|known| known.to_bytes() != snapshot.state)
                {
                    self.mismatch(tick, "the state that was kept before it is another one");
                }
                self.state = Some(state);
            }
            Err(error) => {
                self.mismatch(tick, &format!("the state that was kept before it: {error}"));
            }
        }
        Ok(())
    }

    fn tick(&mut self, tick: &Tick, is_whole: bool) {
        if !is_whole {
            self.mismatch(tick, "its record is damaged");
        }
        let inputs = match Inputs::from_bytes(&tick.inputs) {
            Ok(inputs) => inputs,
            Err(error) => {
                self.mismatch(tick, &format!("its inputs cannot be read: {error}"));
                self.state = None;
                return;
            }
        };
        let Some(state) = self.state.take() else {
            self.done.skipped += 1;
            return;
        };
        let (state, decisions) = governor::decide(state, &inputs, tick.now_ms);
        self.state = Some(state);
        self.done.ticks += 1;
        if governor::decisions_to_bytes(&decisions) != tick.decisions {
            self.mismatch(tick, "the same inputs lead to other decisions");
            // What follows would differ for the same reason.
            self.state = None;
        }
    }

    fn mismatch(&mut self, tick: &Tick, what: &str) {
        self.done.mismatches_in_all += 1;
        if self.done.mismatches.len() < MISMATCHES_MAX {
            self.done.mismatches.push(Mismatch {
                epoch: tick.place.epoch,
                tick: tick.place.number,
                at_ms: tick.at_ms,
                what: what.to_owned(),
            });
        }
    }
}
