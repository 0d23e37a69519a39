//! Who leads: one row with a lease by the database's clock, and an epoch that grows with each leadership.

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{
    Ledger, LedgerError,
    db::{change, rows, within},
};

/// A leader that is gone is replaced this much later.
pub const LEASE_MS: u64 = 10_000;

/// A controller as others are told of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leader {
    pub name: String,
    /// Where it can be reached.
    pub url: String,
}

/// How an attempt to lead ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    Won {
        ledger_id: String,
        epoch: u64,
        /// Nobody has ever led by this ledger.
        is_first: bool,
    },
    /// Somebody else leads, for as long as this at least.
    Lost { leader: Leader, left_ms: u64 },
}

/// The row: ledger, epoch, holder with its name and url, end of the lease, and the time of the database.
type Row = (String, i64, String, String, String, i64, i64);

impl Ledger {
    /// Takes the lease if nobody holds it. Each success is a new epoch.
    pub async fn claim(&self) -> Result<Claim, LedgerError> {
        self.prepare().await?;
        let mut tx = self.db.begin().await?;
        let fresh = Uuid::new_v4().to_string();
        let make = "INSERT INTO tidegate_ledger \
            (id, ledger_id, epoch, holder, holder_name, holder_url, lease_until_ms, edits, \
             store_incarnation, store_watermark_ms, store_refused) \
            VALUES (1, $1, 0, '', '', '', 0, 0, '', 0, '') ON CONFLICT (id) DO NOTHING";
        within(async { change!(&mut tx, sqlx::query(make).bind(&fresh)) }).await?;
        let lock = if self.db.is_exclusive() { "" } else { " FOR UPDATE" };
        let look = format!(
            "SELECT ledger_id, epoch, holder, holder_name, holder_url, lease_until_ms, {} \
             FROM tidegate_ledger WHERE id = 1{lock}",
            self.db.now()
        );
        let found: Vec<Row> =
            within(async { rows!(&mut tx, sqlx::query_as(AssertSqlSafe(look.as_str()))) }).await?;
        let Some((ledger_id, epoch, holder, name, url, until_ms, now_ms)) = found.into_iter().next() else {
            return Err(LedgerError::Corrupt("its one row is missing".to_owned()));
        };
        // Whoever has the file is alone with it: the holder was a process that is gone.
        let is_free = self.db.is_exclusive() || holder.is_empty() || holder == self.me || until_ms <= now_ms;
        if !is_free {
            let left_ms = u64::try_from(until_ms - now_ms).unwrap_or(0);
            let leader = Leader { name, url };
            return Ok(Claim::Lost { leader, left_ms });
        }
        let take = "UPDATE tidegate_ledger SET epoch = $1, holder = $2, holder_name = $3, holder_url = $4, \
            lease_until_ms = $5 WHERE id = 1";
        within(async {
            change!(
                &mut tx,
                sqlx::query(take)
                    .bind(epoch + 1)
                    .bind(&self.me)
                    .bind(&self.leader.name)
                    .bind(&self.leader.url)
                    .bind(now_ms + LEASE_MS as i64)
            )
        })
        .await?;
        tx.commit().await?;
        Ok(Claim::Won {
            ledger_id,
            epoch: u64::try_from(epoch + 1).unwrap_or(0),
            is_first: epoch == 0,
        })
    }

    /// Prolongs the lease; gives the number of edits, so that a leader sees one that it does not know of.
    pub async fn renew(&self, epoch: u64) -> Result<u64, LedgerError> {
        let mut tx = self.db.begin().await?;
        let renew = format!(
            "UPDATE tidegate_ledger SET lease_until_ms = {} + $1 \
             WHERE id = 1 AND holder = $2 AND epoch = $3 RETURNING edits",
            self.db.now()
        );
        let edits: Vec<i64> = within(async {
            rows!(
                &mut tx,
                sqlx::query_scalar(AssertSqlSafe(renew.as_str()))
                    .bind(LEASE_MS as i64)
                    .bind(&self.me)
                    .bind(epoch as i64)
            )
        })
        .await?;
        let edits = *edits.first().ok_or(LedgerError::NotLeader)?;
        tx.commit().await?;
        Ok(u64::try_from(edits).unwrap_or(0))
    }

    /// The same leadership under a higher epoch, because a node has heard of a high one.
    pub async fn raise_epoch(&self, epoch: u64, to: u64) -> Result<(), LedgerError> {
        let mut tx = self.db.begin().await?;
        let raise = "UPDATE tidegate_ledger SET epoch = $1 WHERE id = 1 AND holder = $2 AND epoch = $3";
        let changed = within(async {
            change!(
                &mut tx,
                sqlx::query(raise)
                    .bind(to as i64)
                    .bind(&self.me)
                    .bind(epoch as i64)
            )
        })
        .await?;
        if changed == 0 {
            return Err(LedgerError::NotLeader);
        }
        tx.commit().await
    }

    /// Lets the next one lead at once.
    pub async fn release(&self) -> Result<(), LedgerError> {
        let mut tx = self.db.begin().await?;
        let release =
            "UPDATE tidegate_ledger SET holder = '', lease_until_ms = 0 WHERE id = 1 AND holder = $1";
        within(async { change!(&mut tx, sqlx::query(release).bind(&self.me)) }).await?;
        tx.commit().await
    }
}
