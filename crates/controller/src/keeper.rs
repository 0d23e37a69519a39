//! The lease: taken, prolonged and given back. The owner hears of every change before anybody else could lead.

use std::{sync::Arc, time::Duration};

use tidegate_chassis::{CancellationToken, clock::Monotonic};
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use crate::{
    core::Lead,
    edits::Editor,
    ledger::{Claim, LEASE_MS, Leader, Ledger, LedgerError},
    owner::{Gone, Handle},
    seed::Seed,
};

/// Four of these fail before a lease runs out.
const RENEW_EVERY: Duration = Duration::from_secs(2);
/// After one that failed.
const RENEW_AGAIN: Duration = Duration::from_millis(500);
/// A standby asks this often, and when it expects the lease to end.
const CLAIM_EVERY: Duration = Duration::from_secs(1);
/// A leader stops this long before its lease ends: what it has sent arrives before another one leads, and two clocks need
/// not run alike.
const MARGIN_MS: u64 = 500;
/// Two standbys do not ask at the same moment.
const JITTER_MS: u64 = 100;
/// Epochs of two ledgers that outrank the same one differ by this at most: enough for chance to keep them apart.
const STRIDE_MAX: u64 = 1_000;
/// A ledger that is away is told of this often.
const WARN_EVERY_MS: u64 = 30_000;

/// See the [module](self).
pub struct Keeper {
    ledger: Arc<Ledger>,
    editor: Arc<Editor>,
    owner: Handle,
    clock: Monotonic,
    /// The epoch that the state asks for.
    raises: watch::Receiver<u64>,
    seed: Option<Seed>,
    alone: bool,
    /// Told when it is known who leads, or that nobody can say.
    settled: Arc<Notify>,
    held: Option<Held>,
    /// That the ledger does not have yet.
    wanted_epoch: Option<u64>,
    warned_ms: Option<u64>,
}

struct Held {
    epoch: u64,
    until_ms: Option<u64>,
}

impl Keeper {
    pub fn new(
        ledger: Arc<Ledger>,
        editor: Arc<Editor>,
        owner: Handle,
        clock: Monotonic,
        raises: watch::Receiver<u64>,
    ) -> Self {
        Self {
            ledger,
            editor,
            owner,
            clock,
            raises,
            seed: None,
            alone: false,
            settled: Arc::default(),
            held: None,
            wanted_epoch: None,
            warned_ms: None,
        }
    }

    /// Fills a new ledger.
    pub fn seed(mut self, seed: Option<Seed>) -> Self {
        self.seed = seed;
        self
    }

    /// Is told once, after the first attempt to lead.
    pub fn settled(&self) -> Arc<Notify> {
        self.settled.clone()
    }

    /// Nobody else can lead.
    pub fn alone(mut self, alone: bool) -> Self {
        self.alone = alone;
        self
    }

    /// Until `stop`; then the next one may lead at once.
    pub async fn run(mut self, stop: CancellationToken) {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            Err(Gone) = self.keep() => stop.cancelled().await,
        }
        if let Err(error) = self.ledger.release().await {
            tracing::warn!(%error, "the lease could not be given back: it ends by itself");
        }
    }

    async fn keep(&mut self) -> Result<(), Gone> {
        loop {
            let wait = match self.held {
                None => self.try_to_lead().await?,
                Some(_) => self.hold().await?,
            };
            self.settled.notify_one();
            tokio::select! {
                biased;
                changed = self.raises.changed() => {
                    changed.map_err(|_| Gone)?;
                    self.wanted_epoch = Some(*self.raises.borrow_and_update());
                }
                () = sleep(wait) => {}
            }
        }
    }

    fn until_ms(&self, sent_ms: u64) -> Option<u64> {
        // Counted from before the database was asked: its lease began later.
        (!self.ledger.is_exclusive()).then_some(sent_ms + LEASE_MS - MARGIN_MS)
    }

    async fn try_to_lead(&mut self) -> Result<Duration, Gone> {
        let sent_ms = self.clock.ms();
        match self.ledger.claim().await {
            Ok(Claim::Won {
                ledger_id,
                epoch,
                is_first,
            }) => {
                let stored = match self.editor.begin(epoch, self.seed.as_ref()).await {
                    Ok(stored) => stored,
                    Err(error) => return self.stand_by(None, &error).await,
                };
                let lead = Lead {
                    ledger_id,
                    epoch,
                    until_ms: self.until_ms(sent_ms),
                    is_first,
                    learns: !is_first && !self.alone,
                    stride: if self.alone {
                        0
                    } else {
                        fastrand::u64(..STRIDE_MAX)
                    },
                    stored,
                };
                tracing::info!(epoch, ledger = self.ledger.kind(), "this controller leads");
                self.held = Some(Held {
                    epoch,
                    until_ms: lead.until_ms,
                });
                self.warned_ms = None;
                self.wanted_epoch = None;
                self.raises.mark_unchanged();
                self.owner.ask(move |core, now| core.lead(lead, now)).await?;
                Ok(RENEW_EVERY)
            }
            Ok(Claim::Lost { leader, left_ms }) => {
                let why = String::new();
                let stand_by = self
                    .owner
                    .ask(move |core, now| core.stand_by(Some(leader), why, now));
                stand_by.await?;
                let wait = Duration::from_millis(left_ms + fastrand::u64(..JITTER_MS));
                Ok(wait.min(CLAIM_EVERY))
            }
            Err(error) => self.stand_by(None, &error).await,
        }
    }

    async fn stand_by(&mut self, leader: Option<Leader>, error: &LedgerError) -> Result<Duration, Gone> {
        self.held = None;
        self.warn(error);
        let why = error.to_string();
        let stand_by = self.owner.ask(move |core, now| core.stand_by(leader, why, now));
        stand_by.await?;
        Ok(CLAIM_EVERY)
    }

    fn warn(&mut self, error: &LedgerError) {
        let now_ms = self.clock.ms();
        if self
            .warned_ms
            .is_none_or(|warned| now_ms >= warned + WARN_EVERY_MS)
        {
            self.warned_ms = Some(now_ms);
            tracing::error!(%error, "the ledger does not answer as it should: jobs go on");
        }
    }

    async fn hold(&mut self) -> Result<Duration, Gone> {
        let Some(Held { epoch, until_ms }) = self.held else {
            return Ok(Duration::ZERO);
        };
        let sent_ms = self.clock.ms();
        let held = match self.raise(epoch).await {
            Ok(epoch) => self.ledger.renew(epoch).await.map(|edits| (epoch, edits)),
            Err(error) => Err(error),
        };
        match held {
            Ok((epoch, edits)) => {
                let until_ms = self.until_ms(sent_ms);
                self.held = Some(Held { epoch, until_ms });
                self.warned_ms = None;
                self.owner.ask(move |core, _| core.renewed(until_ms)).await?;
                if let Err(error) = self.editor.reconcile(edits).await {
                    self.warn(&error);
                }
                Ok(RENEW_EVERY)
            }
            Err(error @ LedgerError::NotLeader) => {
                self.stand_by(None, &error).await?;
                Ok(Duration::ZERO)
            }
            Err(error) if until_ms.is_some_and(|until_ms| self.clock.ms() >= until_ms) => {
                self.stand_by(None, &error).await
            }
            Err(error) => {
                self.warn(&error);
                Ok(RENEW_AGAIN)
            }
        }
    }

    /// To what the state asks for, in the ledger first; gives the epoch that is in it.
    async fn raise(&mut self, epoch: u64) -> Result<u64, LedgerError> {
        let Some(to) = self.wanted_epoch.filter(|to| *to > epoch) else {
            return Ok(epoch);
        };
        self.editor.raise(epoch, to).await?;
        self.wanted_epoch = None;
        Ok(to)
    }
}
