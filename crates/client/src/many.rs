//! Entering many jobs at once.

use std::time::Duration;

use tidegate_protocol::{
    domain::Submitted,
    limits::{BATCH_BYTES_MAX, BATCH_ITEMS_MAX},
};

use crate::{
    Client, ClientError, Submission,
    batch::{Answer, Refusal, submit_jobs},
    deadline::Deadline,
    encoded::EncodedJob,
    submit::wait_of,
};

impl Client {
    /// Enters many jobs, in as few calls as the bounds allow. One result per job, in order; a job that is refused does
    /// not hold up the others.
    pub async fn submit_many(
        &self,
        submissions: impl IntoIterator<Item = Submission>,
    ) -> Vec<Result<Submitted, ClientError>> {
        let deadline = self.deadline();
        let mut results = Vec::new();
        let mut waiting = Vec::new();
        for (index, submission) in submissions.into_iter().enumerate() {
            let checked = submission.checked();
            results.push(Err(checked.as_ref().err().cloned().unwrap_or_else(|| {
                ClientError::timeout("the deadline passed before it was sent")
            })));
            waiting.extend(checked.ok().map(|job| (index, EncodedJob::new(&job))));
        }
        let mut tries = 0;
        while !waiting.is_empty() && deadline.remaining().is_some() {
            tries += 1;
            let (again, wait) = self.send_round(waiting, deadline, tries, &mut results).await;
            waiting = again;
            if waiting.is_empty() || self.pay_for_round(deadline, wait).await.is_none() {
                break;
            }
        }
        results
    }

    /// Sends all once; gives back those that may be sent again, and how long to wait before.
    async fn send_round(
        &self,
        waiting: Vec<(usize, EncodedJob)>,
        deadline: Deadline,
        tries: u32,
        results: &mut [Result<Submitted, ClientError>],
    ) -> (Vec<(usize, EncodedJob)>, Duration) {
        let mut again = Vec::new();
        let mut wait = Duration::ZERO;
        for chunk in chunks(waiting) {
            let jobs = chunk.iter().map(|(_, job)| job.clone()).collect();
            let answers: Vec<Answer> = submit_jobs(&self.caller, jobs, deadline).await;
            for ((index, job), answer) in chunk.into_iter().zip(answers) {
                if let Some(needed) = answer.as_ref().err().and_then(|refusal| wait_of(refusal, tries)) {
                    wait = wait.max(needed);
                    again.push((index, job));
                }
                results[index] = answer.map_err(Refusal::into_error);
            }
        }
        (again, wait)
    }

    async fn pay_for_round(&self, deadline: Deadline, wait: Duration) -> Option<()> {
        let unused = ClientError::timeout("");
        self.caller.wait_for_retry(deadline, wait, unused).await.ok()
    }
}

/// Parts that fit one call.
fn chunks(jobs: Vec<(usize, EncodedJob)>) -> Vec<Vec<(usize, EncodedJob)>> {
    let mut chunks = Vec::new();
    let mut chunk = Vec::new();
    let mut bytes = 0;
    for (index, job) in jobs {
        let more = job.bytes();
        if !chunk.is_empty() && (chunk.len() == BATCH_ITEMS_MAX || bytes + more > BATCH_BYTES_MAX) {
            chunks.push(std::mem::take(&mut chunk));
            bytes = 0;
        }
        bytes += more;
        chunk.push((index, job));
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    chunks
}

#[cfg(test)]
mod tests {
    use tidegate_protocol::{limits::PAYLOAD_BYTES_MAX, v1};

    use super::*;

    #[test]
    fn chunks_keep_both_bounds() {
        let job = |bytes: usize| {
            EncodedJob::new(&v1::NewJob {
                payload: vec![0; bytes].into(),
                ..Default::default()
            })
        };
        let many = (0..2_500).map(|i| (i, job(10))).collect();
        assert_eq!(
            chunks(many).iter().map(Vec::len).collect::<Vec<_>>(),
            [1_000, 1_000, 500]
        );
        let large = (0..30).map(|i| (i, job(PAYLOAD_BYTES_MAX))).collect();
        assert_eq!(
            chunks(large).iter().map(Vec::len).collect::<Vec<_>>(),
            [11, 11, 8]
        );
        assert!(chunks(Vec::new()).is_empty());
    }
}
