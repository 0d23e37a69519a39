//! Natural batching: while one SubmitJobs call is in flight, the next batch gathers.
//!
//! The per-call cost of HTTP/2 is what limits single submits (about 34,000 a second against 100,000 and more in batches
//! through the same router), and an application that submits from many tasks should not have to know. No timer: a batch
//! leaves the moment the previous answer is in, so an idle client adds no latency.
//!
//! Mostly one call at a time is enough: its time is one round trip and one store write, and 1,000 items fit. When a whole
//! batch has gathered meanwhile it need not wait: it leaves beside the others, up to [`CALLS_MAX`].

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tidegate_protocol::{
    domain::Submitted,
    limits::{BATCH_BYTES_MAX, BATCH_ITEMS_MAX},
    v1,
};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    ClientError,
    call::{Caller, Plan},
    deadline::Deadline,
    encoded::{self, EncodedJob, EncodedJobs},
    view,
};

/// Calls in flight: one travels, one is at the store, one is answered; more would only queue up at the router.
const CALLS_MAX: usize = 3;

/// The answer to one item of a batch.
#[derive(Debug, Clone)]
pub(crate) enum Refusal {
    /// The router refused this item; others of the call may have been taken.
    Item(ClientError),
    /// The call as a whole failed, retries included.
    Call(ClientError),
}

impl Refusal {
    pub(crate) fn into_error(self) -> ClientError {
        match self {
            Self::Item(error) | Self::Call(error) => error,
        }
    }
}

pub(crate) type Answer = Result<Submitted, Refusal>;

struct Item {
    job: EncodedJob,
    deadline: Deadline,
    answer: oneshot::Sender<Answer>,
}

/// Handle to the batching task, which is started by the first submit.
pub(crate) struct Batcher {
    caller: Arc<Caller>,
    running: Mutex<Option<Running>>,
}

struct Running {
    items: mpsc::Sender<Item>,
    /// Told when a whole batch has gathered.
    full: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Batcher {
    pub(crate) fn new(caller: Arc<Caller>) -> Self {
        Self {
            caller,
            running: Mutex::new(None),
        }
    }

    /// Sends one job with the next batch. Dropping the future leaves the outcome unknown, as a timeout does.
    pub(crate) async fn submit(&self, job: EncodedJob, deadline: Deadline) -> Answer {
        let (answer, answered) = oneshot::channel();
        let item = Item {
            job,
            deadline,
            answer,
        };
        let gone = || Refusal::Call(ClientError::bad_answer("the batching task ended"));
        let (items, full) = self.way_in();
        items.send(item).await.map_err(|_| gone())?;
        if items.capacity() == 0 {
            full.notify_one();
        }
        // Or the task would not end before the answer is in.
        drop(items);
        answered.await.map_err(|_| gone())?
    }

    pub(crate) async fn close(&self) {
        let running = self.lock().take();
        if let Some(Running { items, task, .. }) = running {
            drop(items);
            if let Err(error) = task.await {
                tracing::error!(%error, "the batching task panicked");
            }
        }
    }

    /// The way to the task; a new task if there is none, or if its runtime is gone (as between tests).
    fn way_in(&self) -> (mpsc::Sender<Item>, Arc<Notify>) {
        let mut running = self.lock();
        if let Some(running) = running.as_ref().filter(|running| !running.items.is_closed()) {
            return (running.items.clone(), running.full.clone());
        }
        // One batch may wait here while another is in flight; more submits wait at their callers.
        let (items, gathered) = mpsc::channel(BATCH_ITEMS_MAX);
        let full = Arc::new(Notify::new());
        #[allow(
            clippy::disallowed_methods,
            reason = "applications link this crate without the chassis; the handle is kept, joined by close(), and a \
                      dead task is seen by the next submit"
        )]
        let task = tokio::spawn(run(Arc::clone(&self.caller), full.clone(), gathered));
        *running = Some(Running {
            items: items.clone(),
            full: full.clone(),
            task,
        });
        (items, full)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends when every sender is gone and what was gathered is answered.
async fn run(caller: Arc<Caller>, full: Arc<Notify>, mut gathered: mpsc::Receiver<Item>) {
    let mut calls = FuturesUnordered::new();
    let mut next = None;
    loop {
        if calls.is_empty() {
            let first = match next.take() {
                Some(item) => item,
                None => match gathered.recv().await {
                    Some(item) => item,
                    None => return,
                },
            };
            let batch;
            (batch, next) = gather(first, &mut gathered);
            calls.push(send(&caller, batch));
            continue;
        }
        // What did not fit was more than one call takes.
        let is_full = next.is_some() || gathered.len() >= BATCH_ITEMS_MAX;
        if is_full && calls.len() < CALLS_MAX {
            if let Some(first) = next.take().or_else(|| gathered.try_recv().ok()) {
                let batch;
                (batch, next) = gather(first, &mut gathered);
                calls.push(send(&caller, batch));
            }
            continue;
        }
        tokio::select! {
            biased;
            Some(()) = calls.next() => {}
            () = full.notified(), if calls.len() < CALLS_MAX => {}
        }
    }
}

/// What is there now, up to the bounds of a call; and the item that did not fit.
fn gather(first: Item, gathered: &mut mpsc::Receiver<Item>) -> (Vec<Item>, Option<Item>) {
    let mut bytes = first.job.bytes();
    let mut batch = Vec::with_capacity(gathered.len() + 1);
    batch.push(first);
    while batch.len() < BATCH_ITEMS_MAX {
        let Ok(item) = gathered.try_recv() else { break };
        // A caller that has given up does not care any more.
        if item.answer.is_closed() {
            continue;
        }
        bytes += item.job.bytes();
        if bytes > BATCH_BYTES_MAX {
            return (batch, Some(item));
        }
        batch.push(item);
    }
    (batch, None)
}

async fn send(caller: &Caller, batch: Vec<Item>) {
    let mut jobs = Vec::with_capacity(batch.len());
    let mut answers = Vec::with_capacity(batch.len());
    let mut deadline = batch.first().map(|item| item.deadline);
    for item in batch {
        // The latest: callers with less time stop waiting by themselves.
        deadline = deadline.max(Some(item.deadline));
        jobs.push(item.job);
        answers.push(item.answer);
    }
    let Some(deadline) = deadline else { return };
    for (answer, result) in answers.into_iter().zip(submit_jobs(caller, jobs, deadline).await) {
        let _ = answer.send(result); // the caller may be gone
    }
}

/// One SubmitJobs call: an answer per job, in order.
pub(crate) async fn submit_jobs(caller: &Caller, batch: Vec<EncodedJob>, deadline: Deadline) -> Vec<Answer> {
    let count = batch.len();
    let request: EncodedJobs = batch.into_iter().collect();
    let failed = |error: ClientError| vec![Err(Refusal::Call(error)); count];
    let plan = Plan::repeatable("tidegate.v1.JobService/SubmitJobs", deadline);
    match caller.call(plan, request, encoded::submit_jobs).await {
        Ok(response) if response.items.len() == count => {
            response.items.into_iter().map(item_answer).collect()
        }
        Ok(response) => {
            let got = response.items.len();
            failed(ClientError::bad_answer(format!("{got} results for {count} jobs")))
        }
        Err(error) => failed(error),
    }
}

fn item_answer(item: v1::submit_jobs_response::Item) -> Answer {
    use v1::submit_jobs_response::item::Result as Wire;
    match item.result {
        Some(Wire::Job(job)) => view::submitted(job).map_err(Refusal::Item),
        Some(Wire::Error(error)) => Err(Refusal::Item(error.into())),
        None => Err(Refusal::Item(ClientError::bad_answer("an item without a result"))),
    }
}
