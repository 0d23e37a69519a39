//! Jobs for which somebody waits are entered and handed out in one call: the way to the server and back is most of what
//! such a job waits for, and whoever waits need not be woken over pub/sub.

use futures_util::future::join_all;
use tidegate_protocol::domain::{NewJob, Submitted};

use super::{
    RedisStore,
    calls::{fits_a_piece, same},
    codec::{ARGUMENTS_PER_JOB, all_submitted, put_job},
    operations,
    reply::Reply,
};
use crate::{Grants, JobStore, LeaseRequest, StoreResult};

/// As many as one call enters: nothing else is there, or nobody would wait.
const GRANTS_MAX: usize = 256;

type Answers = (Vec<StoreResult<Submitted>>, StoreResult<Grants>);

impl RedisStore {
    pub(super) async fn hand_over(
        &self,
        jobs: Vec<NewJob>,
        requests: Vec<LeaseRequest>,
    ) -> (Vec<StoreResult<Submitted>>, Vec<StoreResult<Grants>>) {
        let mut rest: Vec<(usize, NewJob)> = jobs.into_iter().enumerate().collect();
        let count = rest.len();
        let shares = requests.into_iter().map(|request| {
            let (own, others) = std::mem::take(&mut rest)
                .into_iter()
                .partition(|(_, job)| *job.queue() == request.queue);
            rest = others;
            let (places, own): (Vec<usize>, Vec<NewJob>) = own.into_iter().unzip();
            (places, own, request)
        });
        let shares: Vec<_> = shares.collect();
        let (rest_places, rest): (Vec<usize>, Vec<NewJob>) = rest.into_iter().unzip();
        let served = join_all(shares.into_iter().map(|(places, own, request)| async move {
            let (submitted, granted) = self.enter_and_lease(own, request).await;
            (places, submitted, granted)
        }));
        let others = async {
            match rest.is_empty() {
                true => Vec::new(),
                false => self.submit(rest).await,
            }
        };
        let (served, others) = futures_util::future::join(served, others).await;
        let mut answers: Vec<(usize, StoreResult<Submitted>)> = Vec::with_capacity(count);
        answers.extend(rest_places.into_iter().zip(others));
        let mut grants = Vec::with_capacity(served.len());
        for (places, submitted, granted) in served {
            answers.extend(places.into_iter().zip(submitted));
            grants.push(granted);
        }
        answers.sort_unstable_by_key(|(place, _)| *place);
        (answers.into_iter().map(|(_, answer)| answer).collect(), grants)
    }

    /// Of one queue.
    async fn enter_and_lease(&self, jobs: Vec<NewJob>, request: LeaseRequest) -> Answers {
        // Grants that wait for replicas, or for a second call, would wait longer than alone.
        if !fits_a_piece(&jobs) || self.confirmed.is_some() {
            return self.one_after_the_other(jobs, request).await;
        }
        if let Err(error) = self.enter(std::iter::once(&request.queue)).await {
            return (jobs.iter().map(|_| Err(error.clone())).collect(), Err(error));
        }
        let all: Vec<&NewJob> = jobs.iter().collect();
        let mut call = self.call(operations::HANDOVER, &request.queue);
        call.text(ARGUMENTS_PER_JOB * all.len());
        all.iter().for_each(|job| put_job(&mut call, job));
        self.put_request(&mut call, &request, GRANTS_MAX);
        let reply = self.run(&self.submits, &call).await.and_then(Reply::fixed);
        let [submitted, granted] = match reply {
            Ok(both) => both,
            Err(error) => return (same(&all, error.clone()), Err(error)),
        };
        let submitted =
            all_submitted(&request.queue, &all, submitted).unwrap_or_else(|error| same(&all, error));
        let granted = match granted.is_nil() {
            // The way alone says why.
            true => self.lease_one(&request).await,
            false => self.granted(&request, granted).await,
        };
        (submitted, granted)
    }

    async fn one_after_the_other(&self, jobs: Vec<NewJob>, request: LeaseRequest) -> Answers {
        let submitted = self.submit(jobs).await;
        (submitted, self.lease_one(&request).await)
    }
}
