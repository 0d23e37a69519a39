//! Decisions, ticks and snapshots: written in the background, read page by page.

use sha2::{Digest as _, Sha256};

use super::{
    Ledger, LedgerError,
    db::{Tx, change, rows, within},
    scribe::Record,
};
use crate::core::model::Decision;

/// Where a decision or a tick stands: its leadership, and its number in that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub epoch: u64,
    pub number: u64,
}

/// A decision as it was kept.
#[derive(Clone, Debug, PartialEq)]
pub struct PastDecision {
    pub place: Place,
    pub at_ms: u64,
    pub generation: u64,
    pub queue: String,
    pub cap: u32,
    pub previous_cap: u32,
    pub wanted: u32,
    pub target: u32,
    pub reason: String,
    pub inputs: Vec<(String, f64)>,
    pub words: String,
}

/// Newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PastPage {
    pub decisions: Vec<PastDecision>,
    /// The next page starts below this place.
    pub before: Option<Place>,
}

/// What a tick was told and what it answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tick {
    pub place: Place,
    pub at_ms: u64,
    pub now_ms: u64,
    pub inputs: Vec<u8>,
    pub decisions: Vec<u8>,
}

/// The governor's state before a tick.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub place: Place,
    pub at_ms: u64,
    pub now_ms: u64,
    pub state: Vec<u8>,
}

fn digest(place: Place, now_ms: u64, parts: [&[u8]; 2]) -> Vec<u8> {
    let mut hash = Sha256::new();
    for number in [place.epoch, place.number, now_ms] {
        hash.update(number.to_le_bytes());
    }
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().to_vec()
}

impl Tick {
    fn digest(&self) -> Vec<u8> {
        digest(self.place, self.now_ms, [&self.inputs, &self.decisions])
    }
}

impl Snapshot {
    fn digest(&self) -> Vec<u8> {
        digest(self.place, self.now_ms, [&self.state, &[]])
    }
}

fn number(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn small(value: i64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// A decision's row: epoch, seq, at, generation, queue, the four numbers, reason, inputs, words.
type DecisionRow = (
    i64,
    i64,
    i64,
    i64,
    String,
    i64,
    i64,
    i64,
    i64,
    String,
    String,
    String,
);

fn decision(row: DecisionRow) -> PastDecision {
    let (epoch, seq, at_ms, generation, queue, cap, previous_cap, wanted, target, reason, inputs, words) =
        row;
    let inputs: Vec<(String, Option<f64>)> = serde_json::from_str(&inputs).unwrap_or_default();
    PastDecision {
        place: Place {
            epoch: number(epoch),
            number: number(seq),
        },
        at_ms: number(at_ms),
        generation: number(generation),
        queue,
        cap: small(cap),
        previous_cap: small(previous_cap),
        wanted: small(wanted),
        target: small(target),
        reason,
        // JSON knows no infinity.
        inputs: inputs
            .into_iter()
            .map(|(name, value)| (name, value.unwrap_or(f64::INFINITY)))
            .collect(),
        words,
    }
}

impl Ledger {
    /// All of them or none.
    pub(super) async fn write(&self, records: &[Record]) -> Result<(), LedgerError> {
        let mut tx = self.db.begin().await?;
        for record in records {
            within(insert(&mut tx, record, &self.me)).await?;
        }
        tx.commit().await
    }

    /// Past decisions, newest first.
    pub async fn page(
        &self,
        queue: Option<&str>,
        since_ms: u64,
        before: Option<Place>,
        size: usize,
    ) -> Result<PastPage, LedgerError> {
        let before = before.map_or((i64::MAX, 0), |place| (place.epoch as i64, place.number as i64));
        let sql = "SELECT epoch, seq, at_ms, generation, queue, cap, previous_cap, wanted, target, reason, inputs, words \
            FROM tidegate_decisions \
            WHERE (epoch < $1 OR (epoch = $1 AND seq < $2)) AND at_ms >= $3 AND ($4 = '' OR queue = $4) \
            ORDER BY epoch DESC, seq DESC LIMIT $5";
        let mut tx = self.db.begin_to_read().await?;
        let found: Vec<DecisionRow> = within(async {
            rows!(
                &mut tx,
                sqlx::query_as(sql)
                    .bind(before.0)
                    .bind(before.1)
                    .bind(since_ms as i64)
                    .bind(queue.unwrap_or(""))
                    .bind(size as i64 + 1)
            )
        })
        .await?;
        tx.commit().await?;
        let is_more = found.len() > size;
        let decisions: Vec<PastDecision> = found.into_iter().take(size).map(decision).collect();
        let before = decisions.last().filter(|_| is_more).map(|last| last.place);
        Ok(PastPage { decisions, before })
    }

    /// The next ticks from a place on, and whether each is as it was written.
    pub async fn ticks(&self, from: Place, size: usize) -> Result<Vec<(Tick, bool)>, LedgerError> {
        let sql = "SELECT epoch, tick, at_ms, now_ms, inputs, decisions, digest FROM tidegate_ticks \
            WHERE epoch > $1 OR (epoch = $1 AND tick >= $2) ORDER BY epoch, tick LIMIT $3";
        let mut tx = self.db.begin_to_read().await?;
        type TickRow = (i64, i64, i64, i64, Vec<u8>, Vec<u8>, Vec<u8>);
        let found: Vec<TickRow> = within(async {
            rows!(
                &mut tx,
                sqlx::query_as(sql)
                    .bind(from.epoch as i64)
                    .bind(from.number as i64)
                    .bind(size as i64)
            )
        })
        .await?;
        tx.commit().await?;
        let tick = |(epoch, tick, at_ms, now_ms, inputs, decisions, stored): TickRow| {
            let tick = Tick {
                place: Place {
                    epoch: number(epoch),
                    number: number(tick),
                },
                at_ms: number(at_ms),
                now_ms: number(now_ms),
                inputs,
                decisions,
            };
            let is_whole = tick.digest() == stored;
            (tick, is_whole)
        };
        Ok(found.into_iter().map(tick).collect())
    }

    /// The state before a tick, if it was kept, and whether it is as it was written.
    pub async fn snapshot(&self, at: Place) -> Result<Option<(Snapshot, bool)>, LedgerError> {
        let sql =
            "SELECT at_ms, now_ms, state, digest FROM tidegate_snapshots WHERE epoch = $1 AND tick = $2";
        let mut tx = self.db.begin_to_read().await?;
        let found: Vec<(i64, i64, Vec<u8>, Vec<u8>)> = within(async {
            rows!(
                &mut tx,
                sqlx::query_as(sql).bind(at.epoch as i64).bind(at.number as i64)
            )
        })
        .await?;
        tx.commit().await?;
        Ok(found.into_iter().next().map(|(at_ms, now_ms, state, stored)| {
            let snapshot = Snapshot {
                place: at,
                at_ms: number(at_ms),
                now_ms: number(now_ms),
                state,
            };
            let is_whole = snapshot.digest() == stored;
            (snapshot, is_whole)
        }))
    }
}

async fn insert(tx: &mut Tx, record: &Record, me: &str) -> Result<u64, sqlx::Error> {
    match record {
        Record::Decision(decision) => insert_decision(tx, decision).await,
        Record::Tick(tick) => {
            let sql = "INSERT INTO tidegate_ticks (epoch, tick, at_ms, now_ms, inputs, decisions, digest) \
                VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (epoch, tick) DO NOTHING";
            change!(
                tx,
                sqlx::query(sql)
                    .bind(tick.place.epoch as i64)
                    .bind(tick.place.number as i64)
                    .bind(tick.at_ms as i64)
                    .bind(tick.now_ms as i64)
                    .bind(&tick.inputs)
                    .bind(&tick.decisions)
                    .bind(tick.digest())
            )
        }
        Record::Snapshot(snapshot) => {
            let sql = "INSERT INTO tidegate_snapshots (epoch, tick, at_ms, now_ms, state, digest) \
                VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (epoch, tick) DO NOTHING";
            change!(
                tx,
                sqlx::query(sql)
                    .bind(snapshot.place.epoch as i64)
                    .bind(snapshot.place.number as i64)
                    .bind(snapshot.at_ms as i64)
                    .bind(snapshot.now_ms as i64)
                    .bind(&snapshot.state)
                    .bind(snapshot.digest())
            )
        }
        Record::Store { epoch, mark } => {
            // Only forwards, and only by who leads.
            let sql = "UPDATE tidegate_ledger SET store_incarnation = $1, store_watermark_ms = $2, store_refused = $3 \
                WHERE id = 1 AND epoch = $4 AND holder = $5";
            change!(
                tx,
                sqlx::query(sql)
                    .bind(&mark.incarnation)
                    .bind(mark.watermark_ms as i64)
                    .bind(&mark.refused)
                    .bind(*epoch as i64)
                    .bind(me)
            )
        }
    }
}

/// Written again after a commit without an answer: the same row.
async fn insert_decision(tx: &mut Tx, decision: &Decision) -> Result<u64, sqlx::Error> {
    let sql = "INSERT INTO tidegate_decisions \
        (epoch, seq, at_ms, generation, queue, cap, previous_cap, wanted, target, reason, inputs, words) \
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (epoch, seq) DO NOTHING";
    let inputs = serde_json::to_string(&decision.inputs).unwrap_or_default();
    change!(
        tx,
        sqlx::query(sql)
            .bind(decision.version.epoch as i64)
            .bind(decision.seq as i64)
            .bind(decision.at_ms as i64)
            .bind(decision.version.generation as i64)
            .bind(decision.queue.as_str())
            .bind(i64::from(decision.cap))
            .bind(i64::from(decision.previous_cap))
            .bind(i64::from(decision.wanted))
            .bind(i64::from(decision.target))
            .bind(decision.reason.as_str())
            .bind(inputs)
            .bind(&decision.text)
    )
}
