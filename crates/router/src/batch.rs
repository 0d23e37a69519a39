//! Natural batching: one owner task gathers whatever is queued, makes one store call of it, and hands out the answers.
//! While as many calls are in flight as may be the next batch gathers. There is no timer: on an idle router a single item
//! waits for nothing, on a loaded one the batches grow by themselves until the bound.
//!
//! Everything is bounded. A full queue refuses at once, because the alternative is to hold requests that nobody waits for
//! any more by the time they are tried.

use std::{future::Future, sync::Arc};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tidegate_chassis::telemetry::trace::{Since, TraceContext};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::trace::{self, StoreCalls};

/// The budget is counted in this many bytes, so that it fits a semaphore's permits.
const BYTES_PER_PERMIT: usize = 1024;

/// Bounds of one batcher.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Items of one store call.
    pub items_max: usize,
    /// Bytes of one store call.
    pub bytes_max: usize,
    /// Store calls at a time.
    pub in_flight_max: usize,
    /// Groups that wait for their turn.
    pub queued_max: usize,
    /// Bytes that wait for their turn.
    pub queued_bytes_max: usize,
    /// Whether a group whose caller has gone away is dropped. Only right where the caller repeats what it got no answer
    /// to, and where doing it late is worse than not at all.
    pub skip_abandoned: bool,
}

/// Why a group was not tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTried {
    Full,
    /// The process is ending.
    Closed,
}

struct Group<T, R> {
    items: Vec<T>,
    /// The caller's span, where it is kept.
    span: Option<TraceContext>,
    bytes: usize,
    reply: oneshot::Sender<Vec<R>>,
    _room: OwnedSemaphorePermit,
}

/// A cheap handle: puts groups of items into the next batch.
pub struct Batcher<T, R> {
    queue: mpsc::Sender<Group<T, R>>,
    room: Arc<Semaphore>,
}

impl<T, R> Clone for Batcher<T, R> {
    fn clone(&self) -> Self {
        Self {
            queue: self.queue.clone(),
            room: self.room.clone(),
        }
    }
}

impl<T, R> Batcher<T, R> {
    /// One result per item, in order. `bytes` is what the items hold in memory, roughly.
    pub async fn call(&self, items: Vec<T>, bytes: usize) -> Result<Vec<R>, NotTried> {
        let permits = bytes.div_ceil(BYTES_PER_PERMIT).max(1) as u32;
        let room = self
            .room
            .clone()
            .try_acquire_many_owned(permits)
            .map_err(|_| NotTried::Full)?;
        let (reply, answer) = oneshot::channel();
        self.queue
            .try_send(Group {
                items,
                span: trace::current(),
                bytes,
                reply,
                _room: room,
            })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => NotTried::Full,
                mpsc::error::TrySendError::Closed(_) => NotTried::Closed,
            })?;
        answer.await.map_err(|_| NotTried::Closed)
    }
}

/// The handle, and the owner task's future. It ends when all handles are gone, or after `stop` with what is queued by
/// then worked off.
pub fn batcher<T, R, F, Fut>(
    bounds: Bounds,
    calls: StoreCalls,
    stop: CancellationToken,
    op: F,
) -> (Batcher<T, R>, impl Future<Output = ()> + Send + 'static)
where
    T: Send + 'static,
    R: Send + 'static,
    F: Fn(Vec<T>) -> Fut + Send + 'static,
    Fut: Future<Output = Vec<R>> + Send + 'static,
{
    let (queue, groups) = mpsc::channel(bounds.queued_max);
    let room = Arc::new(Semaphore::new(bounds.queued_bytes_max.div_ceil(BYTES_PER_PERMIT)));
    (Batcher { queue, room }, own(groups, bounds, calls, stop, op))
}

async fn own<T, R, F, Fut>(
    mut groups: mpsc::Receiver<Group<T, R>>,
    bounds: Bounds,
    calls: StoreCalls,
    stop: CancellationToken,
    op: F,
) where
    F: Fn(Vec<T>) -> Fut,
    Fut: Future<Output = Vec<R>>,
{
    let (mut left_over, mut flights) = (None, FuturesUnordered::new());
    loop {
        let may_fly = flights.len() < bounds.in_flight_max;
        let first = tokio::select! {
            biased;
            Some(()) = flights.next() => continue,
            group = next(&mut left_over, &mut groups), if may_fly => match group {
                Some(group) => group,
                None => break,
            },
            () = stop.cancelled(), if !groups.is_closed() => {
                groups.close();
                continue;
            }
        };
        // Whoever is about to put something in does so first: requests that came in one piece from the network leave in
        // one batch, not the first alone and the others behind it. On an idle router this is one look at the network.
        tokio::task::yield_now().await;
        let (items, callers) = gather(first, &mut groups, &mut left_over, bounds);
        if !items.is_empty() {
            flights.push(fly(items.len(), op(items), callers, calls));
        }
    }
    while flights.next().await.is_some() {}
}

async fn next<T, R>(
    left_over: &mut Option<Group<T, R>>,
    groups: &mut mpsc::Receiver<Group<T, R>>,
) -> Option<Group<T, R>> {
    match left_over.take() {
        Some(group) => Some(group),
        None => groups.recv().await,
    }
}

/// One store call, of so many items.
async fn fly<R>(size: usize, call: impl Future<Output = Vec<R>>, callers: Callers<R>, calls: StoreCalls) {
    let since = Since::now();
    let mut results = call.await.into_iter();
    callers
        .spans
        .iter()
        .for_each(|span| calls.done(span, size, since));
    for (reply, count) in callers.replies {
        // Nobody listening any more is fine: the caller was told (or will find out) that the outcome is unknown.
        let _ = reply.send(results.by_ref().take(count).collect());
    }
}

/// Whose items are in a call: how many of whom.
struct Callers<R> {
    replies: Vec<(oneshot::Sender<Vec<R>>, usize)>,
    spans: Vec<TraceContext>,
}

/// Takes groups while they fit. One that does not fit is the first of the next batch; a single group may be as large as
/// its caller made it.
fn gather<T, R>(
    first: Group<T, R>,
    groups: &mut mpsc::Receiver<Group<T, R>>,
    left_over: &mut Option<Group<T, R>>,
    bounds: Bounds,
) -> (Vec<T>, Callers<R>) {
    let mut items = Vec::new();
    let (mut replies, mut spans) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    let mut next = Some(first);
    while let Some(group) = next {
        let fits = items.is_empty()
            || (items.len() + group.items.len() <= bounds.items_max
                && bytes + group.bytes <= bounds.bytes_max);
        if !fits {
            *left_over = Some(group);
            break;
        }
        if !(bounds.skip_abandoned && group.reply.is_closed()) {
            bytes += group.bytes;
            replies.push((group.reply, group.items.len()));
            items.extend(group.items);
            spans.extend(group.span);
        }
        if items.len() >= bounds.items_max || bytes >= bounds.bytes_max {
            break;
        }
        next = groups.try_recv().ok();
    }
    (items, Callers { replies, spans })
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
