//! What people change, each edit a transaction that only the leader can make; and everything read back.

use std::collections::BTreeMap;

use tidegate_flow::{codec::Plain as _, governor};
use tidegate_protocol::domain::{Policy, QueueName, Resource};

use super::{
    Ledger, LedgerError,
    db::{Tx, change, rows, within},
};

/// One row as it is to be from now on.
#[derive(Clone, Debug, PartialEq)]
pub enum Row {
    Policy {
        queue: QueueName,
        revision: u64,
        policy: Policy,
        removing: bool,
    },
    NoPolicy(QueueName),
    Resource {
        resource: Resource,
        revision: u64,
    },
    NoResource(String),
    /// An empty queue is every queue.
    Override {
        queue: String,
        held: Override,
    },
    StoreAccepted {
        incarnation: String,
        watermark_ms: u64,
    },
}

/// What an operator does by hand to one queue, or to all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Override {
    pub frozen: bool,
    /// Value, and until when by the wall clock.
    pub pin: Option<(u32, u64)>,
}

/// Kept with an edit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    pub who: String,
    pub why: String,
}

/// Everything that a leader starts from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stored {
    pub edits: u64,
    pub policies: BTreeMap<QueueName, StoredPolicy>,
    pub resources: BTreeMap<String, (Resource, u64)>,
    pub overrides: BTreeMap<String, Override>,
    pub governor: governor::State,
    /// The last time that the governor was told.
    pub governor_ms: u64,
    pub store: StoreMark,
}

#[derive(Clone, Debug, PartialEq)]
pub struct StoredPolicy {
    pub policy: Policy,
    pub revision: u64,
    pub removing: bool,
}

/// The job store as it was seen last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreMark {
    /// Empty: none was ever seen.
    pub incarnation: String,
    pub watermark_ms: u64,
    /// Why it is not trusted; empty: it is.
    pub refused: String,
}

fn json(value: &impl serde::Serialize) -> Result<String, LedgerError> {
    serde_json::to_string(value).map_err(|error| LedgerError::Corrupt(error.to_string()))
}

impl Row {
    pub fn kind(&self) -> &'static str {
        match self {
            Row::Policy { removing: false, .. } => "apply policy",
            Row::Policy { .. } | Row::NoPolicy(_) => "delete policy",
            Row::Resource { .. } => "apply resource",
            Row::NoResource(_) => "delete resource",
            Row::Override { .. } => "override",
            Row::StoreAccepted { .. } => "accept store",
        }
    }

    pub fn subject(&self) -> &str {
        match self {
            Row::Policy { queue, .. } | Row::NoPolicy(queue) => queue.as_str(),
            Row::Resource { resource, .. } => &resource.name,
            Row::NoResource(name) => name,
            Row::Override { queue, .. } => queue,
            Row::StoreAccepted { incarnation, .. } => incarnation,
        }
    }

    fn body(&self) -> Result<String, LedgerError> {
        match self {
            Row::Policy { policy, .. } => json(policy),
            Row::Resource { resource, .. } => json(resource),
            Row::Override { held, .. } => json(&(held.frozen, held.pin)),
            Row::StoreAccepted { watermark_ms, .. } => json(watermark_ms),
            Row::NoPolicy(_) | Row::NoResource(_) => Ok(String::new()),
        }
    }
}

impl Ledger {
    /// All rows or none; gives the number of edits.
    ///
    /// # Errors
    /// [`LedgerError::Unknown`]: it may have been written. Every other one: it was not.
    pub async fn edit(
        &self,
        epoch: u64,
        rows: &[Row],
        note: &Note,
        wall_ms: u64,
    ) -> Result<u64, LedgerError> {
        let mut tx = self.db.begin().await?;
        let mut edits = 0;
        for row in rows {
            edits = self.count_edit(&mut tx, epoch).await?;
            let (kind, subject, body) = (row.kind(), row.subject(), row.body()?);
            let insert = "INSERT INTO tidegate_edits (edit, at_ms, epoch, kind, subject, body, who, why) \
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
            within(async {
                change!(
                    &mut tx,
                    sqlx::query(insert)
                        .bind(edits)
                        .bind(wall_ms as i64)
                        .bind(epoch as i64)
                        .bind(kind)
                        .bind(subject)
                        .bind(&body)
                        .bind(&note.who)
                        .bind(&note.why)
                )
            })
            .await?;
            within(write(&mut tx, row, &body)).await?;
        }
        tx.commit().await?;
        Ok(u64::try_from(edits).unwrap_or(0))
    }

    /// Also says whether this controller leads: the row is its, under this epoch.
    async fn count_edit(&self, tx: &mut Tx, epoch: u64) -> Result<i64, LedgerError> {
        let count = "UPDATE tidegate_ledger SET edits = edits + 1 \
            WHERE id = 1 AND holder = $1 AND epoch = $2 RETURNING edits";
        let edits: Vec<i64> =
            within(async { rows!(tx, sqlx::query_scalar(count).bind(&self.me).bind(epoch as i64)) }).await?;
        edits.first().copied().ok_or(LedgerError::NotLeader)
    }

    /// Everything at one moment.
    pub async fn load(&self) -> Result<Stored, LedgerError> {
        let mut tx = self.db.begin_to_read().await?;
        let sql = "SELECT edits, store_incarnation, store_watermark_ms, store_refused FROM tidegate_ledger";
        let found: Vec<(i64, String, i64, String)> =
            within(async { rows!(&mut tx, sqlx::query_as(sql)) }).await?;
        let (edits, incarnation, watermark_ms, refused) = found.into_iter().next().unwrap_or_default();
        let (governor, governor_ms) = latest_state(&mut tx).await?;
        let stored = Stored {
            edits: u64::try_from(edits).unwrap_or(0),
            policies: policies(&mut tx).await?,
            resources: resources(&mut tx).await?,
            overrides: overrides(&mut tx).await?,
            governor,
            governor_ms,
            store: StoreMark {
                incarnation,
                watermark_ms: u64::try_from(watermark_ms).unwrap_or(0),
                refused,
            },
        };
        tx.commit().await?;
        Ok(stored)
    }
}

async fn write(tx: &mut Tx, row: &Row, body: &str) -> Result<u64, sqlx::Error> {
    match row {
        Row::Policy {
            queue,
            revision,
            removing,
            ..
        } => {
            let upsert = "INSERT INTO tidegate_policies (queue, revision, body, removing) VALUES ($1, $2, $3, $4) \
                ON CONFLICT (queue) DO UPDATE SET revision = $2, body = $3, removing = $4";
            change!(
                tx,
                sqlx::query(upsert)
                    .bind(queue.as_str())
                    .bind(*revision as i64)
                    .bind(body)
                    .bind(i64::from(*removing))
            )
        }
        Row::NoPolicy(queue) => {
            let delete = "DELETE FROM tidegate_policies WHERE queue = $1";
            change!(tx, sqlx::query(delete).bind(queue.as_str()))
        }
        Row::Resource { resource, revision } => {
            let upsert = "INSERT INTO tidegate_resources (name, revision, body) VALUES ($1, $2, $3) \
                ON CONFLICT (name) DO UPDATE SET revision = $2, body = $3";
            change!(
                tx,
                sqlx::query(upsert)
                    .bind(&resource.name)
                    .bind(*revision as i64)
                    .bind(body)
            )
        }
        Row::NoResource(name) => {
            let delete = "DELETE FROM tidegate_resources WHERE name = $1";
            change!(tx, sqlx::query(delete).bind(name))
        }
        Row::Override { queue, held } => {
            let upsert = "INSERT INTO tidegate_overrides (queue, frozen, pin, pin_until_ms) VALUES ($1, $2, $3, $4) \
                ON CONFLICT (queue) DO UPDATE SET frozen = $2, pin = $3, pin_until_ms = $4";
            change!(
                tx,
                sqlx::query(upsert)
                    .bind(queue)
                    .bind(i64::from(held.frozen))
                    .bind(held.pin.map(|(value, _)| i64::from(value)))
                    .bind(held.pin.map(|(_, until_ms)| until_ms as i64))
            )
        }
        Row::StoreAccepted {
            incarnation,
            watermark_ms,
        } => {
            let accept = "UPDATE tidegate_ledger SET store_incarnation = $1, store_watermark_ms = $2, \
                store_refused = '' WHERE id = 1";
            change!(
                tx,
                sqlx::query(accept).bind(incarnation).bind(*watermark_ms as i64)
            )
        }
    }
}

async fn policies(tx: &mut Tx) -> Result<BTreeMap<QueueName, StoredPolicy>, LedgerError> {
    let sql = "SELECT queue, revision, body, removing FROM tidegate_policies";
    let found: Vec<(String, i64, String, i64)> = within(async { rows!(tx, sqlx::query_as(sql)) }).await?;
    let mut policies = BTreeMap::new();
    for (queue, revision, body, removing) in found {
        let broken = |why: String| LedgerError::Corrupt(format!("the policy of {queue}: {why}"));
        let policy: Policy = serde_json::from_str(&body).map_err(|error| broken(error.to_string()))?;
        let name: QueueName = queue.parse().map_err(|error| broken(format!("{error}")))?;
        let stored = StoredPolicy {
            policy,
            revision: u64::try_from(revision).unwrap_or(0),
            removing: removing != 0,
        };
        policies.insert(name, stored);
    }
    Ok(policies)
}

async fn resources(tx: &mut Tx) -> Result<BTreeMap<String, (Resource, u64)>, LedgerError> {
    let sql = "SELECT name, revision, body FROM tidegate_resources";
    let found: Vec<(String, i64, String)> = within(async { rows!(tx, sqlx::query_as(sql)) }).await?;
    let mut resources = BTreeMap::new();
    for (name, revision, body) in found {
        let resource: Resource = serde_json::from_str(&body)
            .map_err(|error| LedgerError::Corrupt(format!("the resource {name}: {error}")))?;
        resources.insert(name, (resource, u64::try_from(revision).unwrap_or(0)));
    }
    Ok(resources)
}

async fn overrides(tx: &mut Tx) -> Result<BTreeMap<String, Override>, LedgerError> {
    let sql = "SELECT queue, frozen, pin, pin_until_ms FROM tidegate_overrides";
    let found: Vec<(String, i64, Option<i64>, Option<i64>)> =
        within(async { rows!(tx, sqlx::query_as(sql)) }).await?;
    let held = |frozen: i64, pin: Option<i64>, until_ms: Option<i64>| Override {
        frozen: frozen != 0,
        pin: pin.zip(until_ms).map(|(value, until_ms)| {
            let value = u32::try_from(value).unwrap_or(0);
            (value, u64::try_from(until_ms).unwrap_or(0))
        }),
    };
    let overrides = found
        .into_iter()
        .map(|(queue, frozen, pin, until_ms)| (queue, held(frozen, pin, until_ms)));
    Ok(overrides.collect())
}

/// Of another version, or damaged: relearned, because a number read into the wrong place is worse than none.
async fn latest_state(tx: &mut Tx) -> Result<(governor::State, u64), LedgerError> {
    let sql = "SELECT state, now_ms FROM tidegate_snapshots ORDER BY epoch DESC, tick DESC LIMIT 1";
    let found: Vec<(Vec<u8>, i64)> = within(async { rows!(tx, sqlx::query_as(sql)) }).await?;
    let Some((bytes, now_ms)) = found.into_iter().next() else {
        return Ok(Default::default());
    };
    let state = governor::State::from_bytes(&bytes).unwrap_or_else(|error| {
        tracing::warn!(%error, "the governor's last state cannot be read: it learns anew");
        governor::State::default()
    });
    Ok((state, u64::try_from(now_ms).unwrap_or(0)))
}
