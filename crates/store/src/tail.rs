//! What stands behind the rest of a kept job: the result of a success, and of any other job who lost it and when. A job
//! never has both. `lua/life.lua` writes the same.

use bytes::{BufMut, Bytes};
use tidegate_protocol::domain::{Incarnation, Job, JobState, Loss};
use uuid::Uuid;

const LOSS_BYTES: usize = 8 + 16;

pub(crate) fn of(job: &Job) -> Bytes {
    if job.state == JobState::Succeeded || job.lost.is_empty() {
        return job.result.clone();
    }
    let mut out = Vec::with_capacity(job.lost.len() * LOSS_BYTES);
    for loss in &job.lost {
        out.put_u64(loss.at_ms);
        out.put_slice(loss.incarnation.0.as_bytes());
    }
    out.into()
}

/// (result, losses); `None`: it is neither.
pub(crate) fn read(state: JobState, tail: &[u8]) -> Option<(Bytes, Vec<Loss>)> {
    if state == JobState::Succeeded {
        return Some((Bytes::copy_from_slice(tail), Vec::new()));
    }
    let (losses, rest) = tail.as_chunks::<LOSS_BYTES>();
    let loss = |bytes: &[u8; LOSS_BYTES]| {
        let (at, process) = bytes.split_first_chunk()?;
        Some(Loss {
            at_ms: u64::from_be_bytes(*at),
            incarnation: Incarnation(Uuid::from_slice(process).ok()?),
        })
    };
    let lost = losses.iter().map(loss).collect::<Option<_>>()?;
    rest.is_empty().then_some((Bytes::new(), lost))
}
