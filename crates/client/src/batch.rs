//! Natural batching: while one SubmitJobs call is in flight, the next batch gathers.
//!
//! The per-call cost of HTTP/2 is what limits single submits (about 34,000 a second against 100,000 and more in batches
//! through the same router), and an application that submits from many tasks should not have to know. No timer: a batch
//! leaves the moment the previous answer is in, so an idle client adds no latency.
//!
//! One call at a time is enough: its time is one round trip and one store write, and 1,000 items fit.

use std::sync::{Arc, Mutex, PoisonError};

use prost::Message;
use tidegate_protocol::{
    domain::Submitted,
    limits::{BATCH_BYTES_MAX, BATCH_ITEMS_MAX},
    v1,
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    ClientError,
    call::{Caller, Plan},
    client::jobs,
    deadline::Deadline,
    view,
};

/// A job's own bytes plus its tag and length inside the batch.
pub(crate) const ITEM_OVERHEAD_BYTES: usize = 8;

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
    job: v1::NewJob,
    bytes: usize,
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
    pub(crate) async fn submit(&self, job: v1::NewJob, deadline: Deadline) -> Answer {
        let (answer, answered) = oneshot::channel();
        let bytes = job.encoded_len() + ITEM_OVERHEAD_BYTES;
        let item = Item {
            job,
            bytes,
            deadline,
            answer,
        };
        let gone = || Refusal::Call(ClientError::bad_answer("the batching task ended"));
        self.items().send(item).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    pub(crate) async fn close(&self) {
        let running = self.lock().take();
        if let Some(Running { items, task }) = running {
            drop(items);
            if let Err(error) = task.await {
                tracing::error!(%error, "the batching task panicked");
            }
        }
    }

    /// The way to the task; a new task if there is none, or if its runtime is gone (as between tests).
    fn items(&self) -> mpsc::Sender<Item> {
        let mut running = self.lock();
        if let Some(running) = running.as_ref().filter(|running| !running.items.is_closed()) {
            return running.items.clone();
        }
        // One batch may wait here while another is in flight; more submits wait at their callers.
        let (items, gathered) = mpsc::channel(BATCH_ITEMS_MAX);
        #[allow(
            clippy::disallowed_methods,
            reason = "applications link this crate without the chassis; the handle is kept, joined by close(), and a \
                      dead task is seen by the next submit"
        )]
        let task = tokio::spawn(run(Arc::clone(&self.caller), gathered));
        *running = Some(Running {
            items: items.clone(),
            task,
        });
        items
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends when every sender is gone and what was gathered is answered.
async fn run(caller: Arc<Caller>, mut gathered: mpsc::Receiver<Item>) {
    let mut next = None;
    loop {
        let first = match next.take() {
            Some(item) => item,
            None => match gathered.recv().await {
                Some(item) => item,
                None => return,
            },
        };
        let batch;
        (batch, next) = gather(first, &mut gathered);
        send(&caller, batch).await;
    }
}

/// What is there now, up to the bounds of a call; and the item that did not fit.
fn gather(first: Item, gathered: &mut mpsc::Receiver<Item>) -> (Vec<Item>, Option<Item>) {
    let mut bytes = first.bytes;
    let mut batch = vec![first];
    while batch.len() < BATCH_ITEMS_MAX {
        let Ok(item) = gathered.try_recv() else { break };
        // A caller that has given up does not care any more.
        if item.answer.is_closed() {
            continue;
        }
        bytes += item.bytes;
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
pub(crate) async fn submit_jobs(caller: &Caller, batch: Vec<v1::NewJob>, deadline: Deadline) -> Vec<Answer> {
    let count = batch.len();
    let request = v1::SubmitJobsRequest { jobs: batch };
    let send = |channel, request| async move { jobs(channel).submit_jobs(request).await };
    let failed = |error: ClientError| vec![Err(Refusal::Call(error)); count];
    match caller.call(Plan::repeatable(deadline), request, send).await {
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
