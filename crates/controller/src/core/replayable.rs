//! One call of the governor, kept so that it can be repeated byte for byte: what it was told, what it answered, and now
//! and then what it remembered.

use tidegate_flow::{
    codec::Plain as _,
    governor::{self, Decisions, Inputs},
};

use super::{
    Core,
    model::{Effect, Now},
};
use crate::ledger::{Place, Record, Snapshot, Tick};

/// The governor's memory is kept this often: what a new leader starts from is this old at most.
const SNAPSHOT_MS: u64 = 60_000;

impl Core {
    pub(super) fn decide(&mut self, inputs: &Inputs, now: Now) -> Decisions {
        let now_ms = now.mono_ms.saturating_add(self.governor_offset_ms);
        self.ticks += 1;
        let place = Place {
            epoch: self.version.epoch,
            number: self.ticks,
        };
        if now.mono_ms >= self.snapshot_due_ms {
            self.snapshot_due_ms = now.mono_ms + SNAPSHOT_MS;
            let snapshot = Snapshot {
                place,
                at_ms: now.wall_ms,
                now_ms,
                state: self.governor.to_bytes(),
            };
            self.effects.push(Effect::Keep(Record::Snapshot(snapshot)));
        }
        let state = std::mem::take(&mut self.governor);
        let (state, decisions) = governor::decide(state, inputs, now_ms);
        self.governor = state;
        let tick = Tick {
            place,
            at_ms: now.wall_ms,
            now_ms,
            inputs: inputs.to_bytes(),
            decisions: governor::decisions_to_bytes(&decisions),
        };
        self.effects.push(Effect::Keep(Record::Tick(tick)));
        decisions
    }
}
