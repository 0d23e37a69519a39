//! Edits, one at a time: planned by the state, kept by the ledger, and only then in force.

use std::{sync::Arc, time::Duration};

use tidegate_chassis::clock;
use tokio::{sync::Mutex, time::timeout};

use crate::{
    core::{Core, Standing, TuningError, model::Now},
    ledger::{Ledger, LedgerError, Note, Row, Stored},
    owner::{Gone, Handle},
    seed::Seed,
    status::Refusal,
};

/// For the edits before this one; a ledger that hangs must not make a queue of callers.
const TURN_MAX: Duration = Duration::from_secs(2);

/// See the [module](self).
pub struct Editor {
    owner: Handle,
    ledger: Arc<Ledger>,
    /// Edits of the ledger that the state has; held through an edit.
    known: Mutex<u64>,
}

impl Editor {
    pub fn new(owner: Handle, ledger: Arc<Ledger>) -> Self {
        Self {
            owner,
            ledger,
            known: Mutex::new(0),
        }
    }

    /// Makes the change that `plan` gives; `None`: there is none to make.
    pub async fn edit(
        &self,
        note: Note,
        plan: impl FnOnce(&Core, Now) -> Result<Option<Row>, TuningError> + Send + 'static,
    ) -> Result<Option<Row>, Refusal> {
        let turn = timeout(TURN_MAX, self.known.lock()).await;
        let mut known = turn.map_err(|_| Refusal::edits_stuck())?;
        let (epoch, row) = self.plan(plan).await?;
        let Some(row) = row else { return Ok(None) };
        let rows = [row];
        let edits = self.ledger.edit(epoch, &rows, &note, clock::wall_ms()).await?;
        let [row] = rows;
        let (kind, subject) = (row.kind(), row.subject());
        let Note { who, why } = note;
        tracing::info!(kind, subject, who, why, "an operator changed something");
        let kept = row.clone();
        self.owner.ask(move |core, now| core.commit(kept, now)).await?;
        // Should the caller have gone away before: the next renewal of the lease finds the difference.
        *known = edits;
        Ok(Some(row))
    }

    /// What `plan` would change, without changing it.
    pub async fn plan(
        &self,
        plan: impl FnOnce(&Core, Now) -> Result<Option<Row>, TuningError> + Send + 'static,
    ) -> Result<(u64, Option<Row>), Refusal> {
        let planned = self.owner.ask(move |core, now| {
            core.check_lease(now);
            match core.standing() {
                Standing::Leads(_) => Ok(plan(core, now).map(|row| (core.epoch(), row))),
                Standing::Standby(leader, _) => Err((leader.clone(), core.standby_reason())),
            }
        });
        match planned.await? {
            Ok(planned) => Ok(planned?),
            Err((leader, why)) => Err(Refusal::not_leading(leader, why)),
        }
    }

    /// A higher epoch, in the ledger first and then in the state; between two edits, since one that was planned under the
    /// old epoch would be refused as another leader's.
    pub async fn raise(&self, epoch: u64, to: u64) -> Result<(), LedgerError> {
        let _between = self.known.lock().await;
        self.ledger.raise_epoch(epoch, to).await?;
        let raised = self.owner.ask(move |core, now| core.raised(to, now));
        // An owner that has ended orders nothing any more.
        let (Ok(()) | Err(Gone)) = raised.await;
        Ok(())
    }

    /// A leadership begins: what the ledger has, after the file that it may be filled from.
    pub async fn begin(&self, epoch: u64, seed: Option<&Seed>) -> Result<Stored, LedgerError> {
        let mut known = self.known.lock().await;
        let mut stored = self.ledger.load().await?;
        let rows = seed.map_or_else(Vec::new, |seed| seed.rows(&stored));
        if let Some(seed) = seed.filter(|_| !rows.is_empty()) {
            self.ledger
                .edit(epoch, &rows, &seed.note(), clock::wall_ms())
                .await?;
            stored = self.ledger.load().await?;
        }
        *known = stored.edits;
        Ok(stored)
    }

    /// The ledger counts so many edits; one that the state does not have was kept without an answer.
    pub async fn reconcile(&self, edits: u64) -> Result<(), LedgerError> {
        let mut known = self.known.lock().await;
        if *known == edits {
            return Ok(());
        }
        let stored = self.ledger.load().await?;
        if *known != stored.edits {
            tracing::warn!(
                known = *known,
                kept = stored.edits,
                "the ledger has edits that were not answered: they are in force from now on"
            );
            *known = stored.edits;
            let taken = self.owner.ask(move |core, now| core.take_stored(stored, now));
            let (Ok(()) | Err(Gone)) = taken.await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
