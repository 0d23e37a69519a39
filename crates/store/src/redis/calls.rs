//! From lists of items to calls and back: one call per queue and piece, queues side by side, pieces in order.

use std::{
    collections::{HashMap, HashSet},
    sync::Mutex,
};

use deadpool_redis::redis::{Cmd, cmd};
use futures_util::future::join_all;
use tidegate_protocol::domain::{JobId, LeaseRef, LocalId, NewJob, QueueName};
use uuid::Uuid;

use super::{
    RedisStore,
    blob::number,
    keys,
    link::Link,
    operations::{self, Operation},
    reply::Reply,
};
use crate::{StoreError, StoreResult};

/// About a millisecond or two of the server.
const ITEMS_PER_PIECE: usize = 256;
const BYTES_PER_PIECE: usize = 1 << 20;

/// A call of an operation: what every one begins with, then its arguments.
pub(super) struct Call(Cmd);

impl Call {
    /// `key`: what the operation is about.
    pub fn new(operation: Operation, key: &str) -> Self {
        let mut call = cmd("FCALL");
        call.arg(operation.function()).arg(1).arg(key);
        Self(call)
    }

    pub fn command(&self) -> &Cmd {
        &self.0
    }

    pub fn text(&mut self, value: impl ToString) -> &mut Self {
        self.bytes(value.to_string().as_bytes())
    }

    pub fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.0.arg(value);
        self
    }

    pub fn id(&mut self, id: &JobId) -> &mut Self {
        self.bytes(id.local.as_bytes())
    }

    pub fn ids(&mut self, session: Uuid, incarnation: Uuid) -> &mut Self {
        self.bytes(&[*session.as_bytes(), *incarnation.as_bytes()].concat())
    }

    /// As a member of a lease set.
    pub fn lease(&mut self, lease: &LeaseRef) -> &mut Self {
        self.bytes(&lease_member(lease))
    }
}

pub(super) fn lease_member(lease: &LeaseRef) -> [u8; 24] {
    let mut member = [0; 24];
    member[..16].copy_from_slice(lease.id.local.as_bytes());
    member[16..].copy_from_slice(&number(lease.fence).to_be_bytes());
    member
}

/// The id that an operation answers with.
pub(super) fn id(queue: &QueueName, local: LocalId) -> JobId {
    JobId {
        queue: queue.clone(),
        shard: keys::SHARD,
        local,
    }
}

/// Names of queues are in one sorted set, so that they can be listed; they are written before a queue is.
#[derive(Default)]
pub(super) struct KnownQueues(Mutex<Known>);

#[derive(Default)]
struct Known {
    names: HashSet<QueueName>,
    /// Of the store that knows them.
    incarnation: String,
}

impl KnownQueues {
    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.lock().expect("nothing panics under this lock")
    }

    pub async fn enter(&self, link: &Link, names: impl Iterator<Item = QueueName>) -> StoreResult<()> {
        let new: HashSet<_> = {
            let known = self.lock();
            names.filter(|name| !known.names.contains(name)).collect()
        };
        if new.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = new.iter().map(|name| name.as_str().as_bytes().to_vec()).collect();
        for piece in names.chunks(ITEMS_PER_PIECE) {
            let mut call = Call::new(operations::ENTER, keys::QUEUES);
            piece.iter().for_each(|name| {
                call.bytes(name);
            });
            link.run(&call).await?;
        }
        self.lock().names.extend(new);
        Ok(())
    }

    /// Another incarnation is another store: it knows nothing.
    pub fn belong_to(&self, incarnation: &str) {
        let mut known = self.lock();
        if known.incarnation != incarnation {
            *known = Known {
                names: HashSet::new(),
                incarnation: incarnation.to_owned(),
            };
        }
    }
}

/// One kind of call for many items of a queue.
pub(super) struct Batch<'a, P, S, D> {
    pub link: &'a Link,
    pub operation: Operation,
    /// Its answers are acknowledgements: replicas confirm it first, where that is asked for.
    pub is_acknowledged: bool,
    /// An argument before those of the items.
    pub first: Option<&'a str>,
    /// Arguments of one item.
    pub put: P,
    /// About how many bytes they are.
    pub size: S,
    /// The answers of one piece.
    pub read: D,
}

impl RedisStore {
    /// A call about what `key` begins.
    pub(super) fn call_on(&self, operation: Operation, key: &str) -> Call {
        let mut call = Call::new(operation, key);
        match &self.clock {
            Some(clock) => call.text(clock.now_ms()),
            None => call.bytes(b""),
        };
        call
    }

    /// A call about a queue.
    pub(super) fn call(&self, operation: Operation, queue: &QueueName) -> Call {
        self.call_on(operation, &keys::tag(queue))
    }

    pub(super) async fn run(&self, link: &Link, call: &Call) -> StoreResult<Reply> {
        self.check_open()?;
        link.run(call).await
    }

    pub(super) async fn run_confirmed(&self, link: &Link, call: &Call) -> StoreResult<Reply> {
        self.check_open()?;
        link.run_confirmed(call, self.min_replica_acks).await
    }

    fn check_open(&self) -> StoreResult<()> {
        match self.closed.load(std::sync::atomic::Ordering::Relaxed) {
            true => Err(StoreError::Unavailable("the store is closed".to_owned())),
            false => Ok(()),
        }
    }

    pub(super) async fn batch<T, R, P, S, D>(
        &self,
        items: &[T],
        queue_of: impl Fn(&T) -> &QueueName,
        batch: Batch<'_, P, S, D>,
    ) -> Vec<StoreResult<R>>
    where
        T: Sync,
        P: Fn(&mut Call, &T) + Sync,
        S: Fn(&T) -> usize,
        D: Fn(&QueueName, &[&T], Reply) -> StoreResult<Vec<StoreResult<R>>> + Sync,
    {
        let mut by_queue: HashMap<&QueueName, Vec<usize>> = HashMap::new();
        for (i, item) in items.iter().enumerate() {
            by_queue.entry(queue_of(item)).or_default().push(i);
        }
        let batch = &batch;
        let work = by_queue.into_iter().map(|(queue, indexes)| {
            let pieces = pieces(&indexes, |i| (batch.size)(&items[i]));
            async move {
                let mut answers = Vec::with_capacity(indexes.len());
                for piece in pieces {
                    let piece: Vec<&T> = piece.iter().map(|&i| &items[i]).collect();
                    // A server that does not answer, or replicas that do not confirm, are not waited for once a piece.
                    answers.extend(match is_silent(&answers) {
                        true => same(&piece, StoreError::Unavailable("not sent".to_owned())),
                        false => self.piece(queue, &piece, batch).await,
                    });
                }
                (indexes, answers)
            }
        });
        let mut all: Vec<Option<StoreResult<R>>> = items.iter().map(|_| None).collect();
        for (indexes, answers) in join_all(work).await {
            for (i, answer) in indexes.into_iter().zip(answers) {
                all[i] = Some(answer);
            }
        }
        let missing = || {
            Err(StoreError::Corrupt(
                "an operation answered too few items".to_owned(),
            ))
        };
        all.into_iter()
            .map(|answer| answer.unwrap_or_else(missing))
            .collect()
    }

    async fn piece<T, R, P, S, D>(
        &self,
        queue: &QueueName,
        piece: &[&T],
        batch: &Batch<'_, P, S, D>,
    ) -> Vec<StoreResult<R>>
    where
        T: Sync,
        P: Fn(&mut Call, &T),
        D: Fn(&QueueName, &[&T], Reply) -> StoreResult<Vec<StoreResult<R>>>,
    {
        let mut call = self.call(batch.operation, queue);
        if let Some(first) = batch.first {
            call.text(first);
        }
        piece.iter().for_each(|item| (batch.put)(&mut call, item));
        let answer = match batch.is_acknowledged {
            true => self.run_confirmed(batch.link, &call).await,
            false => self.run(batch.link, &call).await,
        };
        let answers = answer.and_then(|reply| (batch.read)(queue, piece, reply));
        match answers {
            Ok(answers) if answers.len() == piece.len() => answers,
            Ok(_) => same(
                piece,
                StoreError::Corrupt("an operation answered another number of items".to_owned()),
            ),
            Err(error) => same(piece, error),
        }
    }
}

fn is_silent<R>(answers: &[StoreResult<R>]) -> bool {
    matches!(
        answers.last(),
        Some(Err(StoreError::Unknown(_)
            | StoreError::Unavailable(_)
            | StoreError::Unconfirmed { .. }))
    )
}

pub(super) fn same<T, R>(piece: &[&T], error: StoreError) -> Vec<StoreResult<R>> {
    piece.iter().map(|_| Err(error.clone())).collect()
}

/// What a new job is in a call, roughly.
pub(super) fn submit_size(job: &NewJob) -> usize {
    job.payload.len() + 512
}

/// Whether one call takes them all.
pub(super) fn fits_a_piece(jobs: &[NewJob]) -> bool {
    jobs.len() <= ITEMS_PER_PIECE && jobs.iter().map(submit_size).sum::<usize>() <= BYTES_PER_PIECE
}

/// Cuts into runs of a bounded number of items and bytes; a single item may be larger.
fn pieces(indexes: &[usize], size: impl Fn(usize) -> usize) -> Vec<Vec<usize>> {
    let mut pieces: Vec<Vec<usize>> = Vec::new();
    let mut bytes = 0;
    for &i in indexes {
        let size = size(i);
        match pieces.last_mut() {
            Some(piece) if piece.len() < ITEMS_PER_PIECE && bytes + size <= BYTES_PER_PIECE => {
                piece.push(i);
                bytes += size;
            }
            _ => {
                pieces.push(vec![i]);
                bytes = size;
            }
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_bounded_in_items_and_bytes() {
        let lengths = |indexes: &[usize], size: usize| {
            pieces(indexes, |_| size).iter().map(Vec::len).collect::<Vec<_>>()
        };
        let many: Vec<_> = (0..600).collect();
        assert_eq!(lengths(&many, 10), [256, 256, 88]);
        assert_eq!(lengths(&many[..5], 500_000), [2, 2, 1]);
        assert_eq!(lengths(&many[..2], 5_000_000), [1, 1]);
        assert!(lengths(&[], 1).is_empty());
    }
}
